#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What people get wrong: each is answered by one clear line that names the cause, and the exit code of
its kind; nothing is changed anywhere."""
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading

import lib

SIZE = {'memory_mib': 64, 'disk_mib': 96, 'fill_mib': 4, 'image_format': 'vhdx',
        'workload': {'span_mib': 16, 'write_range_mib': 16}}


def copy(world, *words):
    command = world.source.command('copy', '--psk', world.psk, *words)
    world.stack.callback(command.end)
    return command.result()


def make_image(world, name, image_format='raw', **more):
    path = os.path.join(world.source.folder, name)
    lib.guestimage.make_data_image(path, 64 * lib.MIB, image_format, False, 8, **more)
    return path


# ------------------------------------------------------------------------------------------- images

@lib.scenario()
def bad_images_are_not_copied():
    with lib.World() as world:
        world.start_agents()
        to = world.target.address + ':copy.vhdx'
        vhdx = make_image(world, 'good.vhdx', 'vhdx')
        with open(vhdx, 'rb') as handle:
            data = handle.read()
        text = os.path.join(world.source.folder, 'text.vhdx')
        with open(text, 'w') as handle:
            handle.write('no disk\n' * 100000)
        world.assert_refused(copy(world, text, to, '--source-format', 'vhdx'), 'failed', 'VHDX|vhdx')
        short = os.path.join(world.source.folder, 'short.vhdx')
        for length in (300 << 10, 2 << 20, len(data) - (4 << 20)):
            with open(short, 'wb') as handle:
                handle.write(data[:length])
            world.assert_refused(copy(world, short, to), 'failed', 'vhdx|VHDX|trunc|end|short')
        spoiled = bytearray(data)
        for offset in (192 << 10, 256 << 10):
            spoiled[offset:offset + 4096] = bytes(4096)
        with open(short, 'wb') as handle:
            handle.write(spoiled)
        world.assert_refused(copy(world, short, to), 'failed', 'region')
        world.assert_refused(copy(world, os.path.join(world.folder, 'none.raw'), to), 'failed',
                             'none.raw.*(No such|not)')
        world.assert_refused(copy(world, world.folder, to), 'failed|usage', world.folder)
        world.assert_no_debris()


@lib.scenario()
def bad_targets_are_refused():
    with lib.World() as world:
        world.start_agents()
        path = make_image(world, 'disk.raw')
        to = world.target.address
        taken = os.path.join(world.target.storage, 'taken.raw')
        with open(taken, 'w') as handle:
            handle.write('somebody\'s')
        os.symlink('/etc', os.path.join(world.target.storage, 'link'))
        world.assert_refused(copy(world, path, to + ':taken.raw'), 'blocked', 'taken.raw.*exists')
        with open(taken) as handle:
            lib.check(handle.read() == 'somebody\'s', 'the file that was there is changed')
        for name in ('/etc/disk.raw', '../disk.raw', 'link/disk.raw'):
            world.assert_refused(copy(world, path, to + ':' + name), 'blocked', 'outside the storage',
                                 '--storage')
        local = os.path.join(world.source.folder, 'here.raw')
        with open(local, 'w') as handle:
            handle.write('somebody\'s')
        world.assert_refused(copy(world, path, local), 'failed', 'here.raw.*exists')
        with open(local) as handle:
            lib.check(handle.read() == 'somebody\'s', 'the file that was there is changed')
        world.assert_no_debris(files=['taken.raw', 'link'])


@lib.scenario()
def image_in_use_is_not_copied():
    with lib.World(**SIZE) as world:
        world.start_agents()
        world.start_guest()
        [disk] = world.guest.options['disks']
        world.assert_refused(copy(world, disk['path'], world.target.address + ':copy.vhdx'), 'failed',
                             'use|lock')
        world.assert_no_debris()
        world.assert_still_on_source()


# --------------------------------------------------------------------------------------- the machine

@lib.scenario(how=['private', 'none'])
def vm_without_shared_ram_is_refused(how):
    guest = {'share_ram': False} if how == 'private' else {'machine_ram': False}
    with lib.World(guest=guest, **SIZE) as world:
        world.start_agents()
        world.start_guest()
        before = world.listing()
        world.assert_refused(world.move(), 'blocked', 'shared?', 'memory-backend-file')
        world.assert_nothing_happened(before)


@lib.scenario()
def vm_with_a_vfio_device_is_refused():
    raise lib.Skip('no device can be given to a guest here: /dev/vfio is %s'
                   % ('empty' if os.path.isdir('/dev/vfio') else 'absent'))


@lib.scenario()
def migration_blocker_is_named():
    """A device that QEMU itself cannot migrate blocks the plan with QEMU's own reason."""
    with lib.World(**dict(SIZE, guest={'extra': ['-device', 'ivshmem-plain,memdev=shm', '-object',
                                                 'memory-backend-ram,id=shm,size=1M']})) as world:
        world.start_agents()
        world.start_guest()
        before = world.listing()
        world.assert_refused(world.move(), 'blocked', 'ivshmem')
        world.assert_nothing_happened(before)


@lib.scenario()
def wrong_monitor_is_refused():
    with lib.World(**SIZE) as world, contextlib.ExitStack() as stack:
        world.start_agents()
        world.start_guest()
        good = world.guest.qmp_path
        plain = os.path.join(world.folder, 'plain')
        with open(plain, 'w') as handle:
            handle.write('no socket\n')
        move = lambda path: world.move('--qmp', path)  # noqa: E731
        world.assert_refused(move(plain), 'blocked', 'plain.*not a.*socket')
        world.assert_refused(move(os.path.join(world.folder, 'none')), 'blocked', 'none.*No such')
        world.assert_refused(move(chatter(stack, world, b'220 mail ready\r\n')), 'blocked',
                             'does not speak QMP')
        world.assert_refused(move(chatter(stack, world, b'{"hello": 1}\r\n')), 'blocked', 'not QMP')
        silent = chatter(stack, world, b'')
        world.assert_refused(move(silent), 'blocked', 'silent|another|answer|busy')
        before = world.listing()
        busy = socket.socket(socket.AF_UNIX)
        stack.callback(busy.close)
        busy.connect(good)
        busy.recv(4096)
        world.assert_refused(world.move(), 'blocked', 'another|busy|use')
        busy.close()
        world.assert_nothing_happened(before)


def chatter(stack, world, greeting):
    """A UNIX socket that says this to whoever connects."""
    path = os.path.join(world.folder, 'chat-%d' % len(greeting))
    server = socket.socket(socket.AF_UNIX)
    stack.callback(server.close)
    server.bind(path)
    server.listen(4)
    kept = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                kept.append(server.accept()[0])
                kept[-1].sendall(greeting)
    threading.Thread(target=serve, daemon=True).start()
    return path


# ------------------------------------------------------------------------------------------ the peer

@lib.scenario()
def no_agent_at_the_target():
    with lib.World(**SIZE) as world:
        world.make_key()
        world.stack.callback(world.source.stop_agent)
        world.source.start_agent()
        world.start_guest()
        before = world.listing()
        world.assert_refused(world.move(), 'failed', '10.77.0.2', 'agent|refused')
        world.assert_refused(world.move('--to', '10.77.0.9'), 'failed', '10.77.0.9')
        world.assert_refused(world.move('--to', 'no-such-host.invalid'), 'failed',
                             'no-such-host')
        world.assert_nothing_happened(before)


@lib.scenario()
def own_address_is_refused():
    with lib.World(**SIZE) as world:
        world.start_agents()
        world.start_guest()
        before = world.listing()
        world.assert_refused(world.move('--to', world.source.address), 'failed', 'same agent|itself')
        path = make_image(world, 'disk.raw')
        world.assert_refused(copy(world, path, world.source.address + ':copy.raw'), 'failed',
                             'same agent|itself')
        world.assert_nothing_happened(before)


OTHER_VERSION_PEER = '''
import socket, struct
server = socket.create_server(("10.77.0.2", 13560))
print("up", flush=True)
while True:
    connection, _ = server.accept()
    preamble = connection.recv(16)
    magic = preamble[:8]
    text = b"another wire version"
    connection.sendall(magic + struct.pack("<II", 99, 2) + text.ljust(200, bytes(1)))
    connection.close()
'''


def start_other_version(world):
    server = subprocess.Popen(world.target.enter() + ['python3', '-c', OTHER_VERSION_PEER],
                              stdout=subprocess.PIPE)
    world.stack.callback(lib.guestctl.end_process, server.pid, child=server)
    server.stdout.readline()


@lib.scenario()
def other_wire_version_is_refused():
    """Both ways: a peer that answers with another version, and one that asks with another."""
    with lib.World(**SIZE) as world:
        world.make_key()
        world.stack.callback(world.source.stop_agent)
        world.source.start_agent()
        world.start_guest()
        before = world.listing()
        start_other_version(world)
        world.assert_refused(world.move(), 'failed', 'wire version 99, this side', 'same godwit')
        world.assert_nothing_happened(before)
        ask = ('import socket, struct; s = socket.create_connection(("10.77.0.1", 13560)); '
               's.sendall(b"godwit\\r\\n" + struct.pack("<II", 99, 0) + bytes(56)); '
               'import sys; s.settimeout(60); sys.stdout.buffer.write(s.recv(4096))')
        answer = subprocess.run(world.target.enter() + ['python3', '-c', ask], capture_output=True,
                                check=True).stdout
        lib.check(len(answer) >= 16, 'no answer: %r', answer)
        version, verdict = struct.unpack_from('<II', answer, 8)
        lib.check(version != 99 and verdict == 2, 'it answered version %d, verdict %d', version, verdict)
        lib.guestctl.wait_for(lambda: 'wire version 99' in world.source.agent_log(), lib.PATIENCE_S,
                              'the agent\'s line about the version')


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=6))
