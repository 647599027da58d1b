#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies from and to what is no image of godwit's own: NBD exports, qcow2 images, block devices. What
arrived is read by nbdcopy, qemu-img and cmp."""
import os
import shutil
import signal
import subprocess
import sys
import time

import copies
import lib
import resume_copies

SIZE_MIB = 64


def tool(*words):
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    lib.check(answer.returncode == 0, '%s: %s', ' '.join(words), answer.stdout + answer.stderr)
    return answer.stdout


def make_raw(world, name='disk.raw', size_mib=SIZE_MIB):
    path = os.path.join(world.source.storage, name)
    lib.guestimage.make_data_image(path, size_mib * lib.MIB, 'raw', False, 12, seed=5)
    return path


class Server:
    """An NBD server on a UNIX socket, or on the usual port of a host: nbdkit with a plugin of its own."""

    def __init__(self, world, name, *words, host=None):
        self.socket = os.path.join(world.folder, name + '.nbd')
        self.uri = 'nbd://' + host.address if host else 'nbd+unix:///?socket=' + self.socket
        self.enter = host.enter() if host else []
        ready = os.path.join(world.folder, name + '.pid')  # written when it listens
        where = ['-i', host.address] if host else ['-U', self.socket]
        log = os.path.join(world.folder, name + '.log')
        with open(log, 'wb') as output:
            self.process = subprocess.Popen([*self.enter, 'nbdkit', '-f', '-v', '-P', ready, *where, *words],
                                            stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        world.stack.callback(lib.guestctl.end_process, self.process.pid, child=self.process)
        lib.guestctl.wait_for(lambda: os.path.exists(ready), lib.PATIENCE_S, 'nbdkit')
        self.log = log

    def connections(self):
        """How many clients came, by nbdkit's own account (--verbose)."""
        with open(self.log, errors='replace') as handle:
            return handle.read().count('accepted connection')

    def is_same(self, path, size=SIZE_MIB * lib.MIB):
        copy = self.socket + '.copy'
        tool(*self.enter, 'nbdcopy', self.uri, copy)
        same = subprocess.run(['cmp', '-n', str(size), copy, path], check=False).returncode == 0
        os.unlink(copy)
        return same


@lib.scenario(sample=3, kind=['plain', 'over TCP', 'without extents', 'one client at a time', 'without zero'],
              way=['local', 'sealed'])
def nbd_export_is_read_and_written(kind, way):
    """There and back again: a raw file into an export that held something else, and out of it into a
    VHDX."""
    more = {'plain': [], 'over TCP': [], 'without extents': ['--filter=noextents'],
            'one client at a time': ['--filter=limit', '--filter=multi-conn'],
            'without zero': ['--filter=nozero']}[kind]
    last = ['limit=1', 'multi-conn-mode=disable'] if kind == 'one client at a time' else []
    with lib.World() as world:
        path = make_raw(world)
        old = os.path.join(world.folder, 'old')
        with open(old, 'wb') as handle:
            handle.write(os.urandom(SIZE_MIB * lib.MIB))
        host = world.source if kind == 'over TCP' else None
        server = Server(world, 'export', *more, 'file', old, *last, host=host)
        if way == 'local':
            back = os.path.join(world.source.folder, 'back.vhdx')
            copies.run_without_agent(world, path, server.uri, '--verify').expect('done')
        else:
            world.start_agents(target=['--storage', server.uri])
            back = os.path.join(world.target.storage, 'back.vhdx')
            copies.run_copy(world, path, world.target.address + ':' + server.uri,
                            '--verify').expect('done')
        # One that takes a client at a time has refused the others by itself.
        lib.check(kind == 'one client at a time' or server.connections() >= 4, 'the server had %d clients',
                  server.connections())
        lib.check(server.is_same(path), 'the export differs from what was copied into it')
        if way == 'local':
            copies.run_without_agent(world, server.uri, back, '--format', 'vhdx',
                                     '--verify').expect('done')
        else:
            copies.run_copy(world, server.uri, world.target.address + ':back.vhdx', '--format', 'vhdx',
                            '--verify').expect('done')
        copies.compare(path, 'raw', back, 'vhdx')


@lib.scenario()
def export_that_does_not_suit_is_refused():
    with lib.World() as world:
        path = make_raw(world)
        world.start_agents()
        small = Server(world, 'small', 'memory', '%dM' % (SIZE_MIB - 1))
        fixed = Server(world, 'fixed', '-r', 'memory', '%dM' % SIZE_MIB)
        cases = [(small.uri, ['small', 'needs %d' % (SIZE_MIB * lib.MIB)]),
                 (fixed.uri, ['lets nobody write']),
                 ('nbd+unix:///?socket=%s/none' % world.folder, ['No such file']),
                 (world.target.address + ':' + small.uri, ['--storage', 'this URI'])]
        for target, words in cases:
            result = (copies.run_copy if target[0].isdigit() else copies.run_without_agent)(
                world, path, target)
            lib.check(result.status in (1, 3), '%s: ended with %d', target, result.status)
            for word in words:
                lib.check(word in result.error, '%s: %s is not in %s', target, word, result.error)
        lib.check(small.is_same('/dev/zero', (SIZE_MIB - 1) * lib.MIB), 'a refused copy wrote')


@lib.scenario(sample=1, way=['local', 'sealed'])
def qcow2_at_rest_is_copied(way):
    with lib.World() as world:
        raw = make_raw(world)
        path = raw[:-3] + 'qcow2'
        tool('qemu-img', 'convert', '-O', 'qcow2', '-o', 'cluster_size=128k', raw, path)
        if way == 'local':
            folder = os.path.join(world.source.folder, 'out')
            os.mkdir(folder)
            copies.run_without_agent(world, path, folder + '/', '--verify').expect('done')
            copies.run_without_agent(world, path, folder + '/', '--format', 'vhdx').expect('done')
        else:
            world.start_agents()
            folder = world.target.storage
            copies.run_copy(world, path, world.target.address + ':', '--verify').expect('done')
            copies.run_copy(world, path, world.target.address + ':', '--format',
                            'vhdx').expect('done')
        copies.compare(raw, 'raw', os.path.join(folder, 'disk.qcow2'), 'qcow2')
        copies.compare(raw, 'raw', os.path.join(folder, 'disk.vhdx'), 'vhdx')
        told = tool('qemu-img', 'info', os.path.join(folder, 'disk.qcow2'))
        lib.check('cluster_size: 131072' in told, 'the clusters are others: %s', told)


@lib.scenario(sample=1, image_format=['vdi', 'vmdk'])
def other_format_at_rest_is_copied(image_format):
    with lib.World() as world:
        raw = make_raw(world)
        path = raw[:-3] + image_format
        tool('qemu-img', 'convert', '-O', image_format, raw, path)
        world.start_agents()
        folder = world.target.storage
        for more in [], ['--format', 'vhdx'], ['--format', 'qcow2']:
            copies.run_copy(world, path, world.target.address + ':', '--verify', *more).expect('done')
        for found in image_format, 'vhdx', 'qcow2':
            copies.compare(raw, 'raw', os.path.join(folder, 'disk.' + found), found)


@lib.scenario(sample=1, what=['layer', 'snapshot', 'data file', 'encrypted', 'garbage'])
def qcow2_that_would_lose_something_is_refused(what):
    """A layer and a data file besides: what they name is not ours to read."""
    with lib.World() as world:
        path = os.path.join(world.source.storage, 'disk.qcow2')
        create = ['qemu-img', 'create', '-q', '-f', 'qcow2']
        if what == 'layer':
            tool(*create, '-b', '/etc/hostname', '-F', 'raw', '-u', path, '8M')
        elif what == 'data file':
            tool(*create, '-o', 'data_file=%s/data' % world.source.storage, path, '8M')
        else:
            tool(*create, path, '8M')
        if what == 'snapshot':
            tool('qemu-img', 'snapshot', '-c', 'keep-me', path)
        # The members of the header: crypt_method, cluster_bits.
        patch = {'encrypted': (32, b'\0\0\0\2'), 'garbage': (20, b'\xff' * 4)}.get(what)
        if patch:
            with open(path, 'r+b') as handle:
                handle.seek(patch[0])
                handle.write(patch[1])
        words = {'layer': 'layer above', 'snapshot': '1 snapshots', 'data file': 'another file',
                 'encrypted': 'encrypted', 'garbage': 'no qcow2'}[what]
        result = copies.run_without_agent(world, path, os.path.join(world.folder, 'out.raw'), '--format',
                                          'raw')
        lib.check(result.status == 1 and words in result.error, '%s: %s', what, result.error)
        lib.check(not os.path.exists(os.path.join(world.folder, 'out.raw')), 'it made something')


def make_device(world, size_mib, sector):
    """A loop device with random bytes on it, or a skip."""
    backing = os.path.join(world.folder, 'loop-%d' % sector)
    with open(backing, 'wb') as handle:
        handle.write(os.urandom(size_mib * lib.MIB))
    return world.loop_device(backing, sector)


@lib.scenario(sector=[512, 4096])
def block_device_is_written_and_read(sector):
    """The device held other bytes, and is larger than the disk; what the disk does not have is left as it
    was."""
    with lib.World() as world:
        path = make_raw(world)
        device = make_device(world, SIZE_MIB + 8, sector)
        tail = subprocess.run(['tail', '-c', str(8 * lib.MIB), device], capture_output=True,
                              check=True).stdout
        copies.run_without_agent(world, path, device, '--verify').expect('done')
        tool('cmp', '-n', str(SIZE_MIB * lib.MIB), path, device)
        lib.check(subprocess.run(['tail', '-c', str(8 * lib.MIB), device], capture_output=True,
                                 check=True).stdout == tail, 'it wrote beyond the disk')
        back = os.path.join(world.folder, 'back.raw')
        copies.run_without_agent(world, device, back).expect('done')
        tool('cmp', back, device)


@lib.scenario()
def block_device_in_use_or_too_small_is_refused():
    with lib.World() as world:
        path = make_raw(world)
        small = make_device(world, SIZE_MIB - 1, 512)
        before = copies.digest(small)
        result = copies.run_without_agent(world, path, small)
        lib.check(result.status == 1 and 'needs %d' % (SIZE_MIB * lib.MIB) in result.error,
                  'too small: %s', result.error)
        lib.check(copies.digest(small) == before, 'a refused copy wrote')
        mounted = make_device(world, SIZE_MIB, 512)
        where = os.path.join(world.folder, 'mnt')
        os.mkdir(where)
        tool('mkfs.ext4', '-q', '-F', mounted)
        tool('mount', mounted, where)
        world.stack.callback(subprocess.run, ['umount', '-q', where], check=False)
        result = copies.run_without_agent(world, path, mounted)
        lib.check(result.status == 1 and 'in use' in result.error, 'mounted: %s', result.error)
        tool('umount', where)
        tool('fsck.ext4', '-f', '-n', mounted)


@lib.scenario()
def space_is_taken_beforehand_or_refused():
    """And so with new identifiers: nothing that is asked for is left out in silence."""
    with lib.World() as world:
        path = make_raw(world)
        out = os.path.join(world.folder, 'out')
        os.mkdir(out)
        server = Server(world, 'export', 'memory', '%dM' % SIZE_MIB)
        for target, words, name in [('disk.vdi', ['--preallocate', '--format', 'vdi'], 'vdi'),
                                    ('disk.vmdk', ['--preallocate', '--format', 'vmdk'], 'vmdk'),
                                    (server.uri, ['--preallocate'], 'NBD server'),
                                    ('disk.qcow2', ['--new-id', '--format', 'qcow2'], 'identifiers'),
                                    ('disk.raw', ['--new-id'], 'identifiers')]:
            target = target if '://' in target else os.path.join(out, target)
            result = copies.run_without_agent(world, path, target, *words)
            lib.check(result.status == lib.EXIT['usage'] and name in result.error, '%s: ended with %d: %s', target,
                      result.status, result.error)
        lib.check(os.listdir(out) == [] and server.is_same('/dev/zero'), 'a refused copy wrote')
        written = os.path.join(out, 'disk.qcow2')
        copies.run_without_agent(world, path, written, '--preallocate', '--format', 'qcow2').expect('done')
        lib.check(copies.allocated_mib(written) >= SIZE_MIB, 'it takes %d MiB', copies.allocated_mib(written))
        copies.compare(path, 'raw', written, 'qcow2')


def serve_by_hand(world, *more):
    """An image of a server that can do no more than is said."""
    image = os.path.join(world.folder, 'image')
    with open(image, 'wb') as handle:
        handle.truncate(16 * lib.MIB)
    return image, Server(world, 'by-hand', 'eval', 'get_size=stat -c %%s %s' % image,
                         'pread=dd if=%s skip=$4 count=$3 iflag=count_bytes,skip_bytes' % image,
                         'pwrite=dd of=%s seek=$4 conv=notrunc oflag=seek_bytes' % image, 'can_write=exit 0', *more)


@lib.scenario(way=['local', 'sealed'], can_flush=[True, False])
def server_that_cannot_flush_is_warned_of(way, can_flush):
    with lib.World() as world:
        path = make_raw(world, size_mib=16)
        image, server = serve_by_hand(world, *(['can_flush=exit 0', 'flush=exit 0'] if can_flush else []))
        if way == 'local':
            result = copies.run_without_agent(world, path, server.uri)
        else:
            world.start_agents(target=['--storage', server.uri])
            result = copies.run_copy(world, path, world.target.address + ':' + server.uri)
        result.expect('done')
        [volume] = result.detail['volumes']
        lib.check(('knows no flush' in volume.get('warning', '')) != can_flush, 'it warns: %s', volume)
        tool('cmp', path, image)


# An answer to every other request is due within a minute.
LONG_S = 65


def begin_copy(world, *words, **more):
    """A copy on one host, of which one waits, and which a person may interrupt."""
    command = lib.Command([lib.godwit_binary(), 'copy', '--json', *words],
                          dict(os.environ, GODWIT_STATE_HOME=world.source.state, **more))
    world.stack.callback(command.end)
    return command


def assert_interrupted(command, flag):
    lib.guestctl.wait_for(lambda: os.path.exists(flag), lib.PATIENCE_S, 'the end of the copy', 0.1)
    began = time.monotonic()
    os.kill(command.process.pid, signal.SIGINT)
    result = command.result()
    lib.check(result.status == 1 and 'cancelled' in result.error, 'it ended with %d: %s', result.status, result.error)
    lib.check(time.monotonic() - began < 50, 'it took %.0f s', time.monotonic() - began)


@lib.scenario()
def server_may_take_long_to_flush_in_the_middle():
    """Of a copy between hosts, of which a part is made durable every few seconds."""
    with lib.World() as world:
        path = resume_copies.make_source(os.path.join(world.source.storage, 'disk.raw'))
        flag = os.path.join(world.folder, 'flag')
        image, server = serve_by_hand(world, 'can_flush=exit 0',
                                      'flush=[ -e %s ] || { touch %s; sleep %d; }' % (flag, flag, LONG_S))
        os.truncate(image, os.path.getsize(path))
        world.start_agents(target=['--storage', server.uri])
        world.source.limit_rate(resume_copies.SLOW_MBIT)
        copies.run_copy(world, path, world.target.address + ':' + server.uri, '--sync-every', '2').expect('done')
        tool('cmp', path, image)


@lib.scenario(sample=1, ends=['done', 'cancelled'])
def server_may_take_long_to_flush(ends):
    """What it holds has to be written, and that takes as long as it takes."""
    with lib.World() as world:
        path = make_raw(world, size_mib=16)
        flag = os.path.join(world.folder, 'flag')
        image, server = serve_by_hand(world, 'can_flush=exit 0', 'flush=[ -e %s ] || { touch %s; sleep %d; }' % (flag, flag, LONG_S))
        command = begin_copy(world, path, server.uri)
        if ends == 'cancelled':
            assert_interrupted(command, flag)
            return
        command.result().expect('done')
        tool('cmp', path, image)


def put_before(world, name, *lines):
    """Something of ours is found before the tool of that name; returns a PATH."""
    folder = os.path.join(world.folder, 'tools')
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    with open(path, 'w') as handle:
        handle.write('\n'.join(['#!/bin/bash', *[line.replace('REAL', shutil.which(name)) for line in lines], '']))
    os.chmod(path, 0o755)
    return folder + ':' + os.environ['PATH']


@lib.scenario(name=['qemu-nbd', 'qemu-img'])
def tools_may_take_long_and_be_interrupted(name):
    """qemu-nbd that closes a large image, and qemu-img that checks it."""
    with lib.World() as world:
        path = make_raw(world)
        flag, out = os.path.join(world.folder, 'flag'), os.path.join(world.folder, 'out')
        os.mkdir(out)
        stay = 'touch %s; exec sleep 600' % flag
        lines = {'qemu-nbd': ['REAL "$@"', stay], 'qemu-img': ['[ "$1" != check ] && exec REAL "$@"', stay]}[name]
        command = begin_copy(world, '--format', 'qcow2', path, os.path.join(out, 'disk.qcow2'),
                             PATH=put_before(world, name, *lines))
        assert_interrupted(command, flag)
        lib.check(os.listdir(out) == [], 'it leaves %s', os.listdir(out))


@lib.scenario(sample=2, what=['make', 'close', 'check'], ends=['cancelled', 'source lost', 'target cancels'])
def wait_of_a_target_ends_with_its_session(what, ends):
    """Nobody waits at the target for a tool that makes, closes or checks an image which its source does not want any
    more."""
    with lib.World() as world:
        path = make_raw(world)
        flag = os.path.join(world.folder, 'flag')
        stay = 'touch %s; exec sleep 600' % flag
        name, lines = {'make': ('qemu-img', ['[ "$1" != create ] && exec REAL "$@"', stay]),
                       'close': ('qemu-nbd', ['REAL "$@"', stay]),
                       'check': ('qemu-img', ['[ "$1" != check ] && exec REAL "$@"', stay])}[what]
        world.stack.callback(os.environ.update, PATH=os.environ['PATH'])
        os.environ['PATH'] = put_before(world, name, *lines)
        world.start_agents()
        command = world.source.command('copy', path, world.target.address + ':', '--psk', world.psk, '--format', 'qcow2',
                                       '--reconnect-timeout', '0')
        world.stack.callback(command.end)
        lib.guestctl.wait_for(lambda: os.path.exists(flag), lib.PATIENCE_S, 'the tool')
        if ends == 'source lost':
            world.source.stop_agent(kill=True)
        else:
            host = world.source if ends == 'cancelled' else world.target
            host.command('cancel', host.running_job()).result().expect('done')

        def left():
            return [words for _, words in world.target.processes() if words and words[0] in ('sleep', 'qemu-nbd')]
        # The tool would stay for longer than that.
        lib.guestctl.wait_for(lambda: not left() and not os.listdir(world.target.storage), lib.PATIENCE_S,
                              'a target without a wait', 0.1)
        if ends != 'source lost':
            command.result().expect('failed|blocked')


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=7))
