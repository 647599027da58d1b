#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Faults of storage during a move, on a file system that fails on command (faultfs.py), and bytes that change
under way (--verify). Each ends with the guest running on the source, whole, the reason on both sides, and a clean
target."""
import os
import subprocess
import sys
import time

import lib
import resume_copies
from failures import Ready
from qcow2 import tool

guestctl = lib.guestctl
SIZE = {'memory_mib': 160, 'disk_mib': 64, 'fill_mib': 16, 'image_format': 'raw'}
HERE = os.path.dirname(os.path.abspath(__file__))
# operation: (side, errno, what is said)
FAULTS = {'read': ('a', 'EIO', 'Input/output error'), 'write': ('b', 'EIO', 'Input/output error'),
          'space': ('b', 'ENOSPC', 'No space left'), 'sync': ('b', 'EIO', 'Input/output error')}


class Faulty(Ready):
    """A world in which one side's storage can be made to fail."""

    def __init__(self, side, **options):
        super().__init__(**dict(SIZE, **options))
        self.side = side
        start_agents = self.world.start_agents

        def mounted(**more):
            self.mount(self.world.hosts[side])
            start_agents(**more)
        self.world.start_agents = mounted

    def mount(self, host):
        self.control = os.path.join(host.folder, 'faults')
        behind = os.path.join(host.folder, 'behind')
        os.mkdir(behind)
        self.fail('')
        server = subprocess.Popen([os.path.join(HERE, 'faultfs.py'), behind, host.storage, self.control],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.world.stack.callback(guestctl.end_process, server.pid, child=server)
        self.world.stack.callback(subprocess.run, ['umount', '-l', host.storage], check=False)
        if server.stdout.readline().strip() != 'mounted':
            raise lib.Skip('no file system of our own can be mounted here (FUSE): %s'
                           % server.stderr.read().strip()[-200:])

    def fail(self, line):
        """A whole line or none: it is read at each request."""
        with open(self.control + '.new', 'w') as handle:
            handle.write(line)
        os.rename(self.control + '.new', self.control)

    def strike(self, line, when):
        """A move whose storage fails from there on: before its first byte, in the rounds or in the
        last copy, both with something left to copy on the disk for certain."""
        world = self.world
        if when == 'first pass':
            self.fail(line + ('' if line.startswith('sync') else ' from=4194304'))
            return world.start_move()
        world.source.hold('memory' if when == 'round' else 'STOPPING')
        move = world.start_move()
        world.source.await_held('the rounds' if when == 'round' else 'the pause', move)
        # The guest still runs; each of its ticks writes to the disk.
        world.guest.serial.wait_tick(least=world.guest.serial.wait_tick()['n'] + 2)
        if when == 'pause':
            world.source.go_on_to('STOPPED', move)
        self.fail(line)
        world.source.holder.release()
        return move


@lib.scenario(sample=1, operation=sorted(FAULTS), when=['first pass', 'round', 'pause'])
def storage_fails(operation, when):
    side, number, words = FAULTS[operation]
    with Faulty(side, held='a') as ready:
        world = ready.world
        result = ready.strike('%s %s web1' % (operation, number), when).result()
        world.assert_refused(result, 'failed', words)
        ready.fail('')
        for host in (world.source, world.target):
            entry = host.wait_history()
            lib.check(words in entry['message'], 'host %s does not remember why: %s', host.side, entry)
        ready.nothing_happened()
        world.move().expect('done')
        world.assert_moved()


# What many file systems lack: renames that refuse a name that is taken (NFS, CephFS, 9p), and links, too (some of FUSE).
LACKS = {'flags': ['flags EINVAL'], 'flags and links': ['flags EINVAL', 'link EPERM']}


@lib.scenario(sample=1, lacks=sorted(LACKS), image_format=['raw', 'qcow2'])
def move_to_storage_with_plain_renames_only(lacks, image_format):
    with Faulty('b', image_format=image_format) as ready:
        world = ready.world
        ready.fail('\n'.join(LACKS[lacks]))
        world.move().expect('done')
        world.assert_moved()
        name = 'web1-0.' + image_format
        lib.check(world.target.storage_files() == [name], 'the target has %s', world.target.storage_files())


@lib.scenario(sample=2, lacks=sorted(LACKS), image_format=['raw', 'vhdx', 'qcow2'], taken=[False, True])
def copy_to_storage_with_plain_renames_only(lacks, image_format, taken):
    """The name may be taken by somebody while the copy runs, and that file stays as it is."""
    with lib.World() as world:
        source = resume_copies.make_source(os.path.join(world.folder, 'source.raw'))
        mount = resume_copies.FaultMount(world, os.path.join(world.folder, 'out'))
        mount.say(*LACKS[lacks], *(['slow 20 .part'] if taken else []))
        written = os.path.join(mount.folder, 'disk.' + image_format)
        command = lib.Command([lib.godwit_binary(), 'copy', '--json', '--format', image_format, source, written],
                              dict(os.environ, GODWIT_STATE_HOME=os.path.join(world.folder, 'home')))
        world.stack.callback(command.end)
        if taken:
            guestctl.wait_for(lambda: resume_copies.left_in(mount.folder), lib.PATIENCE_S, 'a part', 0.02)
            with open(written, 'w') as handle:
                handle.write('somebody\'s own')
            world.assert_refused(command.result(), 'failed', 'cannot give the finished image this name', 'File exists')
            with open(written) as handle:
                lib.check(handle.read() == 'somebody\'s own', 'it was overwritten')
        else:
            command.result().expect('done')
            tool('qemu-img', 'compare', '-f', 'raw', '-F', image_format, source, written)
        lib.check(os.listdir(mount.folder) == [os.path.basename(written)], 'there is %s', os.listdir(mount.folder))


# ------------------------------------------------------------------------------------------- --verify

def flip(path, offset):
    with open(path, 'r+b', buffering=0) as handle:
        handle.seek(offset)
        byte = handle.read(1)
        handle.seek(offset)
        handle.write(bytes([byte[0] ^ 1]))


def block_of(path, offset):
    try:
        with open(path, 'rb') as handle:
            handle.seek(offset)
            return handle.read(4096)
    except OSError:
        return b''


def data_block(path, first):
    """The first block from there on that is not zeroes."""
    with open(path, 'rb') as handle:
        handle.seek(first)
        for offset in range(first, os.path.getsize(path), 4096):
            if any(handle.read(4096)):
                return offset
    raise lib.Failure('%s is empty' % path)


@lib.scenario(what=['memory', 'disk'])
def changed_byte_is_found(what):
    """One byte of the target changes once it has arrived; nothing sends it again. --verify finds it while
    both QEMUs stand still, before anything is committed."""
    with Ready(**SIZE) as ready:
        world = ready.world
        world.guest.serial.quiet()
        if what == 'memory':
            source = world.guest.ram_path
            offset = data_block(source, 48 * lib.MIB)
        else:
            source = world.guest.options['disks'][0]['path']
            offset = data_block(source, 2 * lib.MIB)
        wanted = block_of(source, offset)
        move = ready.go_to('memory' if what == 'memory' else 'disks', '--verify')

        def target():
            if what == 'disk':
                return os.path.join(world.target.storage, next(
                    (name for name in world.target.storage_files() if name.endswith('.part')), 'none'))
            folder = '/proc/%d/root/dev/shm' % world.target.agent.pid
            return os.path.join(folder, world.target.shared_memory_files()[0], 'ram0')
        guestctl.wait_for(lambda: block_of(target(), offset) == wanted, lib.PATIENCE_S, 'the block at the target', 0.02)
        time.sleep(0.2)
        flip(target(), offset)
        world.source.limit_rate(None)
        world.assert_refused(move.result(), 'verify', 'differs', 'ram0' if what == 'memory' else 'vda')
        world.guest.serial.go()
        ready.nothing_happened()


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=5))
