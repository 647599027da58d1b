#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves of guests whose disk is a block device: onto a file or a device of the target. It has no name that could
be taken away at the handover, so the agent keeps QEMU off it instead."""
import os
import signal
import subprocess
import sys

import endpoints
import failures
import lib

SIZE = {'memory_mib': 160, 'disk_mib': 96, 'fill_mib': 24, 'image_format': 'raw', 'disk_count': 2}
# The device's name is the kernel's: peers may write to any.
STORAGE = ['--storage', '/dev']


def put_on_device(world, link=None):
    """The guest's first disk is a device from now on, its second a file. link: by such a name, as LVM's are."""
    make_disks = world.make_disks

    def on_device():
        disks = make_disks()
        backing = os.path.join(world.folder, 'backing')
        os.rename(disks[0]['path'], backing)
        disks[0]['path'] = world.loop_device(backing)
        if link:
            os.symlink(disks[0]['path'], os.path.join(world.folder, link))
            disks[0]['path'] = os.path.join(world.folder, link)
        return disks
    world.make_disks = on_device


class OnDevice(failures.Ready):
    def prepare(self):
        put_on_device(self.world)
        super().prepare()


def qemu_writes(device):
    """Would a QEMU start on it? Its last sector, which the guest does not use, with what it has."""
    answer = subprocess.run(['qemu-io', '-f', 'raw', '-c', 'write -P 0 %dM 512' % (SIZE['disk_mib'] - 1), device],
                            capture_output=True, text=True, check=False)
    words = answer.stdout + answer.stderr
    lib.check(answer.returncode == 0 or 'lock' in words, '%s: %s', device, words)
    return answer.returncode == 0


@lib.scenario(sample=1, cache=['writeback', 'none'], to=['file', 'device'])
def disk_on_a_device_moves(cache, to):
    with lib.World(disk={'cache': cache}, **SIZE) as world:
        put_on_device(world, link='web1' if cache == 'none' else None)
        world.start_agents(source=STORAGE, target=STORAGE)
        world.start_guest()
        world.guest.serial.wait_tick(least=18)
        device = world.guest.options['disks'][0]['path']
        options = ['--disk', 'vda=' + endpoints.make_device(world, SIZE['disk_mib'], 512)] if to == 'device' else []
        result = world.move('--verify', *options)
        result.expect('done')
        told = ' '.join(volume.get('warning', '') for volume in result.detail['volumes'])
        lib.check('%s is a device and keeps its name' % device in told, 'it is not told: %s', told)
        world.assert_moved()
        name = os.path.basename(device)
        lib.check((name in world.target.storage_files()) == (to == 'file'), 'the target has %s',
                  world.target.storage_files())
        lib.check(not qemu_writes(device), 'QEMU may start on %s again', device)
        # Who is let in may use the device for another disk.
        other = os.path.join(world.target.storage, 'other')
        with open(other, 'wb') as handle:
            handle.write(os.urandom(1 << 20))
        copy = world.target.command('copy', '--psk', world.psk, other,
                                    '%s:%s' % (world.source.address, os.path.realpath(device)))
        copy.result().expect('done')
        lib.check(qemu_writes(device), 'the device belongs to nobody, and cannot be used')


@lib.scenario()
def device_is_free_when_the_agent_ends():
    with lib.World(**SIZE) as world:
        put_on_device(world)
        world.start_agents()
        world.start_guest()
        device = world.guest.options['disks'][0]['path']
        world.move().expect('done')
        world.assert_moved()
        lib.check(not qemu_writes(device), 'QEMU may start on %s again', device)
        world.source.stop_agent()
        lib.check(qemu_writes(device), '%s is kept by nobody, and cannot be used', device)


@lib.scenario(sample=1, what=['cancel', 'source agent dies', 'target agent dies'])
def failed_move_leaves_the_device(what):
    """The guest goes on, on its device, and so it would after an end and a start."""
    with OnDevice(**SIZE) as ready:
        world = ready.world
        move = ready.go_to('handover', '--reconnect-timeout', '2')
        device = world.guest.options['disks'][0]['path']
        if what == 'cancel':
            world.cancel()
        else:
            (world.source if what.startswith('source') else world.target).stop_agent(kill=True)
        ready.after_failure(move)
        ready.nothing_happened()
        world.guest.stop()
        lib.check(qemu_writes(device), '%s is kept from its owner', device)


@lib.scenario()
def agent_that_comes_back_keeps_the_device():
    """It died behind COMMITTED: where the VM runs is not known before the link is back, and QEMU is kept off."""
    with lib.World(held='a', **SIZE) as world:
        put_on_device(world)
        world.start_agents()
        world.start_guest()
        device = world.guest.options['disks'][0]['path']
        world.source.hold('COMMITTED')
        move = world.start_move()
        world.source.await_held('COMMITTED', move)
        world.source.agent.kill()
        world.source.stop_agent()
        world.source.release()
        move.result()
        lib.check(qemu_writes(device), 'nobody keeps %s: nothing is tested by it', device)
        for host in world.hosts.values():
            host.set_link('down')
        world.source.start_agent()
        try:
            lib.guestctl.wait_for(lambda: not qemu_writes(device), lib.PATIENCE_S, 'the device kept', 0.2)
        except lib.guestctl.GuestError:
            raise lib.Failure('QEMU may start on %s, and the VM may run on the target' % device) from None
        for host in world.hosts.values():
            host.set_link('up')
        world.assert_moved()
        lib.check(not qemu_writes(device), 'QEMU may start on %s again', device)


class OntoDevice(failures.Ready):
    """The guest's first disk is to become a device, and the target can be held, too."""

    def __init__(self, **options):
        super().__init__(target=STORAGE, held='ab', **dict(SIZE, **options))

    def prepare(self):
        super().prepare()
        self.device = endpoints.make_device(self.world, SIZE['disk_mib'], 512)

    def stop_at(self, state):
        target = self.world.target
        target.hold(state)
        move = self.world.start_move('--disk', 'vda=' + self.device)
        target.await_held(state, move)
        lib.check(self.is_disk(), '%s is not finished: nothing is tested by it', self.device)
        return move

    def is_disk(self):
        with open(self.device, 'rb') as handle:
            return handle.read(lib.MIB) != bytes(lib.MIB)


@lib.scenario(sample=1, what=['cancel', 'source agent dies', 'target agent dies', 'QEMU dies', 'owner dies'])
def device_that_is_finished_is_never_touched_again(what):
    """All of it was there, and QEMU had it: from then on nobody can tell whose it is. The VM runs on at the source, or goes on
    at the owner."""
    with OntoDevice() as ready:
        world, target = ready.world, ready.world.target
        move = ready.stop_at({'QEMU dies': 'OWNING', 'owner dies': 'OWNER'}.get(what, 'PREPARED'))
        if what == 'cancel':
            world.cancel()
        elif what == 'QEMU dies':
            os.kill(ready.target_vmm(), signal.SIGKILL)
        else:
            (world.source if what.startswith('source') else target).stop_agent(kill=True)
        target.release()
        if what == 'owner dies':
            target.start_agent()
            move.result()
            world.assert_moved()
        else:
            ready.after_failure(move)
            ready.nothing_happened()
        lib.check(ready.is_disk(), '%s is zeroed', ready.device)
        if what != 'owner dies':
            failures.can_still_move(ready)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=3))
