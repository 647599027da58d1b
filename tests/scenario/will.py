#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The guest's own will, and its owner's, during a move: what goes on, what ends the move with the source as
the guest left it, and what is done to a guest that stands still for the handover. The guest does it itself,
told by a byte on its serial line; its owner has a monitor of his own."""
import os
import subprocess
import sys
import time

import lib
from failures import Ready

guestctl = lib.guestctl
MEMORY = {'memory_mib': 160, 'disk_mib': 64, 'fill_mib': 8, 'image_format': 'raw'}


class Watched(Ready):
    """A world whose guest has a second monitor, for its owner."""

    def __init__(self, extra=(), **options):
        super().__init__(**dict(MEMORY, **options))
        self.extra = list(extra)

    def __enter__(self):
        start = self.world.start_guest

        def start_guest():
            self.path = os.path.join(self.world.source.folder, 'owner')
            self.world.options['guest'] = {
                'extra': ['-qmp', 'unix:%s,server=on,wait=off' % self.path] + self.extra}
            start()
        self.world.start_guest = start_guest
        return super().__enter__()

    def owner(self, command, **arguments):
        return guestctl.qmp(self.path, command, **arguments)

    def status(self):
        return self.owner('query-status')['status']

    def let_go(self):
        self.world.source.limit_rate(None)

    def target_owner(self, command, **arguments):
        """On the monitor that godwit leaves to the owner at the target."""
        [(_, words)] = self.world.target.qemus()
        path = next(word for word in words if 'qmp-user' in word)
        path = path.partition('path=')[2].partition(',')[0]
        return guestctl.qmp(path, command, **arguments)

    def arrives_paused(self):
        lib.check(self.target_owner('query-status')['status'] == 'paused', 'it does not arrive paused')
        self.target_owner('cont')
        self.world.assert_moved()


def wait_boot(serial, count, timeout=lib.PATIENCE_S):
    guestctl.wait_for(lambda: serial.boots() >= count, timeout, 'boot %d' % count)


# -------------------------------------------------------------------------------------- what goes on

@lib.scenario(sample=1, what=['reboot', 'triple fault', 'system_reset'])
def reset_goes_on(what):
    """RAM becomes dirty, no more: the guest that boots again is the one that arrives."""
    with Watched() as ready:
        world = ready.world
        move = ready.go_to('memory')
        if what == 'system_reset':
            ready.owner('system_reset')
        else:
            world.guest.serial.send('r' if what == 'reboot' else 't')
        wait_boot(world.guest.serial, 2)
        ready.let_go()
        result = move.result().expect('done')
        serial = world.moved_guest()
        serial.wait_tick()
        is_good, _, faults = serial.verify(120)
        lib.check(is_good, 'the guest\'s own check failed: %s', faults[:3])
        lib.check(world.guest.serial.boots() + serial.boots() == 2, 'it was booted once more')
        lib.check(result.detail['resets'] > 0, 'the move does not know of the reset')


@lib.scenario(sample=1, what=['stop', 'stop and cont', 'cont'])
def owner_is_obeyed(what):
    """The VM arrives as its owner had it last."""
    with Watched() as ready:
        if what == 'cont':
            ready.owner('stop')
        move = ready.go_to('memory')
        if what != 'cont':
            ready.owner('stop')
        if what != 'stop':
            ready.owner('cont')
        ready.let_go()
        move.result().expect('done')
        if what == 'stop':
            ready.arrives_paused()
        else:
            ready.world.assert_moved()


@lib.scenario()
def paused_at_the_last_moment():
    """Between the last barrier and the handover's own stop: the VM is not continued at the target."""
    with Watched() as ready:
        world = ready.world
        world.source.hold('STOPPING')
        move = world.start_move()
        world.source.await_held('STOPPING', move)
        lib.check(ready.status() == 'running', 'the guest is stopped already')
        ready.owner('stop')
        world.source.release()
        move.result().expect('done')
        ready.arrives_paused()


# ------------------------------------------------------------------------------- what ends the move

def plug(ready):
    ready.owner('device_add', driver='virtio-rng-pci', id='late')


def plug_disk(ready):
    ready.owner('device_add', driver='virtio-blk-pci', id='late', drive='late-node')


def unplug(ready):
    """The boot sector answers no eject request; a reset carries it out."""
    ready.owner('device_del', id='rng0')
    ready.owner('system_reset')


def resize(ready):
    ready.owner('block_resize', node_name='node-vda', size=MEMORY['disk_mib'] * 2 * lib.MIB)


def fill_storage(ready):
    """The guest's image cannot grow any more: QEMU stops the guest."""
    with open(os.path.join(ready.world.source.storage, 'filler'), 'wb', buffering=0) as handle:
        try:
            while True:
                handle.write(bytes(65536))
        except OSError:
            pass


def say(letter):
    return lambda ready: ready.world.guest.serial.send(letter)


# what: (how, words of the error, state afterwards; None: QEMU has ended, running: whole and clean)
ENDS = {
    'power off': (say('p'), 'powered itself off', None),
    'power off, -no-shutdown': (say('p'), 'powered itself off', 'shutdown'),
    'panic': (say('c'), 'panicked', None),
    'panic, kept': (say('c'), 'panicked', 'guest-panicked'),
    'suspend': (say('s'), 'suspended', 'suspended'),
    'quit': (lambda ready: ready.owner('quit'), 'was ended.*quit|closed the connection', None),
    'storage full': (fill_storage, 'I/O error', 'io-error'),
    'plug': (plug, 'late was plugged in', 'running'),
    'plug a disk': (plug_disk, 'late.*was plugged in', 'running'),
    'unplug': (unplug, 'rng0 was unplugged', 'rebooted'),
    'resize': (resize, 'disk.*changed', 'running'),
}
STATUSES = [state for _, _, state in ENDS.values() if state not in (None, 'running', 'rebooted')]
# What is not as before because of what was done.
CHANGED = {'storage full': lambda before: {'a storage': ['filler', 'web1-0.raw']},
           'plug a disk': lambda before: {'qemu drives': sorted(
               before['qemu drives'] + [('/machine/peripheral/late/virtio-backend', 'late-node')])}}
EXTRA = {'power off, -no-shutdown': ['-no-shutdown'], 'panic': ['-device', 'pvpanic'],
         'panic, kept': ['-device', 'pvpanic', '-action', 'panic=pause'],
         'plug a disk': ['-blockdev', 'driver=null-co,node-name=late-node,size=1048576,read-zeroes=on'],
         'unplug': ['-device', 'virtio-rng-pci,id=rng0']}


@lib.scenario(sample=1, phase=['disks', 'memory'], what=sorted(ENDS))
def ends_the_move(phase, what):
    how, words, state = ENDS[what]
    ready = Watched(extra=EXTRA.get(what, ()))
    if what == 'storage full':
        mount_small_storage(ready)
    with ready:
        world = ready.world
        move = ready.go_to(phase)
        how(ready)
        world.assert_refused(move.result(), 'failed', words)
        if state is None:
            guestctl.wait_for(lambda: not world.guest.is_running(), lib.PATIENCE_S, 'the end of QEMU')
        world.assert_listing(ready.before, changed=dict(
            CHANGED.get(what, lambda before: {})(ready.before), **({'qemu status': state} if state in STATUSES else {})))
        if state is None:
            return
        if state == 'running':
            world.assert_still_on_source()
        elif state == 'rebooted':
            wait_boot(world.guest.serial, 2)
            world.guest.serial.wait_tick()
        else:
            lib.check(ready.status() == state, 'the guest is %s', ready.status())


def mount_small_storage(ready):
    """The source's storage is a small tmpfs."""
    start_agents = ready.world.start_agents

    def mounted(**options):
        folder = ready.world.source.storage
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', folder], check=True)
        ready.world.stack.callback(subprocess.run, ['umount', '-l', folder], check=False)
        start_agents(**options)
    ready.world.start_agents = mounted


WHILE_NOBODY_LOOKS = {'stop': 'paused', 'power off, -no-shutdown': 'shutdown', 'suspend': 'suspended'}


@lib.scenario(sample=1, phase=['disks', 'memory'], what=['stop first', *sorted(WHILE_NOBODY_LOOKS)])
def source_agent_dies_beside(phase, what):
    """Who is there again continues no guest that the move never stopped."""
    name = what.partition(' first')[0]
    with Watched(extra=EXTRA.get(name, ())) as ready:
        world = ready.world
        move = ready.go_to(phase)
        if what == 'stop first':
            ready.owner('stop')
        world.source.stop_agent(kill=True)
        lib.check(move.result().status != lib.EXIT['done'], 'the command says done')
        if what == 'stop':
            ready.owner('stop')
        elif name != 'stop':
            ENDS[what][0](ready)
        state = WHILE_NOBODY_LOOKS[name]
        guestctl.wait_for(lambda: ready.status() == state, lib.PATIENCE_S, state)
        ready.let_go()
        world.source.start_agent()
        world.assert_listing(ready.before, changed={'qemu status': state})
        lib.check(ready.status() == state, 'the guest is %s', ready.status())
        if name == 'stop':
            ready.owner('cont')
            world.assert_still_on_source()


def pause_for_good(ready):
    """Between two stops of the throttle: one that comes while godwit has the guest stopped nobody sees."""
    def stays_paused():
        ready.owner('stop')
        return all(ready.status() == 'paused' for _ in range(30) if not time.sleep(0.05))
    guestctl.wait_for(stays_paused, lib.PATIENCE_S, 'a guest that its owner has paused')


@lib.scenario()
def source_agent_dies_beside_a_paused_guest_that_was_slowed():
    with Watched(memory_mib=64, workload={'pages_per_tick': 4000}) as ready:
        world = ready.world
        move = world.go_to('memory', mbit=100)
        lib.check(move.wait_event(lambda event: (event.get('progress') or {}).get('throttle_percent', 0) > 0),
                  'the move ended before the guest was slowed')
        pause_for_good(ready)
        world.source.stop_agent(kill=True)
        lib.check(move.result().status != lib.EXIT['done'], 'the command says done')
        ready.let_go()
        world.source.start_agent()
        world.assert_listing(ready.before, changed={'qemu status': 'paused'})
        lib.check(ready.status() == 'paused', 'the guest is %s', ready.status())


# ------------------------------------------------------------------------- in the middle of the pause

@lib.scenario(sample=1, what=['cont', 'cont and stop', 'system_reset', 'quit'])
def meddled_with_in_the_pause(what):
    """The guest stands still without its disks; whatever is done to it gives the move up."""
    with Watched() as ready:
        world = ready.world
        move = ready.go_to('handover')
        guestctl.wait_for(lambda: ready.status() != 'running', lib.PATIENCE_S, 'the pause')
        # The state is saved once the disks are away.
        guestctl.wait_for(lambda: ready.status() == 'postmigrate', lib.PATIENCE_S, 'the saved state')
        for command in what.split(' and '):
            ready.owner(command)
        result = move.result()
        ready.release()
        world.assert_refused(result, 'failed', {'cont': 'continued', 'cont and stop': 'continued',
                                                'system_reset': 'reset', 'quit': 'was ended'}[what])
        if what == 'quit':
            guestctl.wait_for(lambda: not world.guest.is_running(), lib.PATIENCE_S, 'the end of QEMU')
        world.assert_listing(ready.before, changed={} if what == 'system_reset' else {'qemu status': 'paused'})
        if what == 'quit':
            return
        if what == 'system_reset':
            wait_boot(world.guest.serial, 2)
            world.guest.serial.wait_tick()
            return
        # It ran on nothing for a moment: it waits for its owner, who boots it again.
        lib.check('without its disks' in result.error or what != 'cont', 'told is %s', result.error)
        lib.check(ready.status() == 'paused', 'the guest is %s', ready.status())
        ready.owner('system_reset')
        ready.owner('cont')
        wait_boot(world.guest.serial, 2)
        world.guest.serial.wait_tick()


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=4))
