#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies of images that nobody uses: on one host and to another, raw and VHDX. Compared by qemu-img and
sha256sum; what was thin stays thin, as du says."""
import os
import signal
import subprocess
import sys

import lib

SIZE_MIB = 256
FILL_MIB = 24
FORMATS = {'raw': ('raw', False), 'dynamic': ('vhdx', False), 'fixed': ('vhdx', True)}


def ending(kind):
    return FORMATS[kind][0]


def make_source(world, kind):
    path = os.path.join(world.source.storage, 'disk.' + ending(kind))
    image_format, is_fixed = FORMATS[kind]
    lib.guestimage.make_data_image(path, SIZE_MIB * lib.MIB, image_format, is_fixed, FILL_MIB, seed=7)
    return path


def digest(path):
    return subprocess.run(['sha256sum', path], capture_output=True, text=True,
                          check=True).stdout.split()[0]


def allocated_mib(path):
    return int(subprocess.run(['du', '-k', path], capture_output=True, text=True,
                              check=True).stdout.split()[0]) / 1024


def compare(source, source_format, target, target_format):
    answer = subprocess.run(['qemu-img', 'compare', '-f', source_format, '-F', target_format, source,
                             target], capture_output=True, text=True, check=False)
    lib.check(answer.returncode == 0, 'qemu-img compare: %s', answer.stdout + answer.stderr)
    if target_format == 'vhdx':
        answer = subprocess.run(['qemu-img', 'check', '-f', 'vhdx', target], capture_output=True,
                                text=True, check=False)
        lib.check(answer.returncode == 0, 'qemu-img check: %s', answer.stdout + answer.stderr)


def run_copy(world, source, target, *words):
    """godwit copy from the source host, in its agent if there is one."""
    more = ['--psk', world.psk] if ':' in target else []
    if world.is_trusted:
        more += ['--trusted-network', lib.NETWORK]
    command = world.source.command('copy', source, target, *more, *words)
    world.stack.callback(command.end)
    return command.result()


def has_the_same_bytes(source, target, before):
    lib.check(digest(source) == before, 'the source was changed by a copy')
    folder, name = os.path.split(target)
    rest = [one for one in os.listdir(folder) if one.startswith(name) and one != name]
    lib.check(not rest, 'beside the copy lies %s', rest)


@lib.scenario(sample=4, source=sorted(FORMATS), target=['raw', 'vhdx'],
              way=['local', 'clear', 'sealed'])
def copy(source, target, way):
    with lib.World(trusted=way == 'clear') as world:
        path = make_source(world, source)
        before = digest(path)
        if way == 'local':
            written = os.path.join(world.source.folder, 'copy.' + target)
            result = run_without_agent(world, path, written, '--format', target)
        else:
            world.start_agents()
            written = os.path.join(world.target.storage, 'copy.' + target)
            result = run_copy(world, path, world.target.address + ':copy.' + target, '--format',
                              target)
        result.expect('done')
        compare(path, ending(source), written, target)
        has_the_same_bytes(path, written, before)
        if source != 'fixed':
            lib.check(allocated_mib(written) < FILL_MIB + 24, 'the copy is not thin: %.0f MiB',
                      allocated_mib(written))
        if source == 'raw' and target == 'raw':
            lib.check(digest(written) == before, 'the digests differ')
        if way != 'local':
            lib.check((result.detail['path'] == 'sealed') == (way == 'sealed'), 'the path was %s',
                      result.detail['path'])


def run_without_agent(world, *words):
    """On one host, with no agent at all."""
    environment = dict(os.environ, GODWIT_STATE_HOME=world.source.state)
    environment.pop('GODWIT_SOCKET', None)
    command = lib.Command(world.source.enter() + [lib.godwit_binary(), 'copy', '--json'] + list(words),
                          environment)
    world.stack.callback(command.end)
    return command.result()


@lib.scenario()
def copies_as_the_manual_says():
    """The example of the README, word by word (the addresses are this world's, the folders are bind
    mounts of its own)."""
    with lib.World() as world:
        os.rmdir(world.target.state)
        script = '''set -e
mkdir -p "$W/srv/vm" "$W/var/lib/godwit" "$W/run" /srv /var/lib
mount -t tmpfs none /srv && mkdir -p /srv/vm && mount --bind "$W/srv/vm" /srv/vm
mkdir -p /var/lib/godwit && mount --bind "$W/var/lib/godwit" /var/lib/godwit
cd "$W"
exec "$G" agent --listen 10.77.0.2 --psk lab.psk --storage /srv/vm --state /var/lib/godwit \\
    --socket "$W/agent.sock" --ready-fd 3 3>&1
'''
        folder = world.folder
        binary = lib.godwit_binary()
        subprocess.run('"%s" key lab > lab.psk' % binary, shell=True, cwd=folder, check=True)
        lib.guestimage.make_data_image(os.path.join(folder, 'disk.vhdx'), SIZE_MIB * lib.MIB, 'vhdx',
                                       False, FILL_MIB)
        with open(os.path.join(folder, 'agent.log'), 'wb') as log:
            agent = subprocess.Popen(world.target.enter() + ['unshare', '-m', 'sh', '-c', script],
                                     env=dict(os.environ, W=folder, G=binary), stdout=subprocess.PIPE,
                                     stdin=subprocess.DEVNULL, stderr=log)
        world.stack.callback(lib.guestctl.end_process, agent.pid, child=agent)
        line = agent.stdout.readline()
        with open(os.path.join(folder, 'agent.log')) as log:
            lib.check(line, 'the agent did not start: %s', log.read())
        environment = dict(os.environ, GODWIT_STATE_HOME=world.source.state)
        environment.pop('GODWIT_SOCKET', None)
        answer = subprocess.run(
            world.source.enter() + [binary] + 'copy --psk lab.psk disk.vhdx '
            '10.77.0.2:disk.vhdx'.split(), cwd=folder, env=environment, capture_output=True,
            text=True, check=False)
        lib.check(answer.returncode == 0, 'copy ended with %d: %s', answer.returncode,
                  answer.stdout + answer.stderr)
        lib.check('sealed' in answer.stdout, 'it is not said to be sealed: %s', answer.stdout)
        compare(os.path.join(folder, 'disk.vhdx'), 'vhdx',
                os.path.join(folder, 'srv', 'vm', 'disk.vhdx'), 'vhdx')


@lib.scenario()
def fixed_copy_is_allocated():
    with lib.World() as world:
        path = make_source(world, 'dynamic')
        written = os.path.join(world.source.folder, 'copy.vhdx')
        run_without_agent(world, path, written, '--preallocate').expect('done')
        compare(path, 'vhdx', written, 'vhdx')
        lib.check(allocated_mib(written) >= SIZE_MIB, 'a fixed copy takes %.0f MiB only',
                  allocated_mib(written))


@lib.scenario()
def altered_copy_is_noticed():
    """The negative control: one byte of the copy changed, and the comparison says so."""
    with lib.World() as world:
        path = make_source(world, 'raw')
        written = os.path.join(world.source.folder, 'copy.raw')
        run_without_agent(world, path, written).expect('done')
        with open(written, 'r+b') as handle:
            handle.seek(SIZE_MIB * lib.MIB // 4 + 12345)
            byte = handle.read(1)
            handle.seek(-1, 1)
            handle.write(bytes([byte[0] ^ 1]))
        try:
            compare(path, 'raw', written, 'raw')
        except lib.Failure:
            lib.check(digest(written) != digest(path), 'the digest did not notice')
            return
        raise lib.Failure('the comparison did not notice')


@lib.scenario(sample=2, way=['clear', 'sealed'], image_format=['raw', 'qcow2'])
def image_that_changes_during_a_copy_is_an_error(way, image_format):
    """Somebody writes to it when the source has looked at it and the target has not heard of it yet."""
    with lib.World(trusted=way == 'clear', held='b') as world:
        path = make_source(world, 'raw')
        if image_format == 'qcow2':
            raw, path = path, path[:-len('raw')] + 'qcow2'
            subprocess.run(['qemu-img', 'convert', '-O', 'qcow2', raw, path], check=True)
        world.start_agents()
        world.target.holder.hold('session of .*: migration')
        more = ['--trusted-network', lib.NETWORK] if way == 'clear' else []
        command = world.source.command('copy', path, world.target.address + ':', '--psk', world.psk, *more)
        world.stack.callback(command.end)
        world.target.await_held('the session', command)
        with open(path, 'r+b') as handle:
            handle.seek(os.path.getsize(path) // 2)
            handle.write(b'changed')
        world.target.release()
        result = command.result()
        lib.check(result.status == lib.EXIT['verify'] and 'was written to during the copy' in result.error,
                  'it ended with %d: %s', result.status, result.error)
        lib.guestctl.wait_for(lambda: not world.target.storage_files(), lib.PATIENCE_S, 'a target that has nothing', 0.2)


@lib.scenario()
def copied_guest_boots():
    """A copy of a guest's VHDX as a raw file on the other host boots and checks itself."""
    with lib.World(image_format='vhdx') as world:
        world.start_agents()
        [disk] = world.make_disks()
        run_copy(world, disk['path'], world.target.address + ':web1.raw', '--format',
                 'raw').expect('done')
        path = os.path.join(world.target.storage, 'web1.raw')
        guest = lib.guestctl.Guest(os.path.join(world.target.folder, 'guest'), name='web1',
                                   memory_mib=256, disks=[{'path': path, 'format': 'raw'}],
                                   netns=world.target.namespace)
        world.stack.callback(guest.stop)
        guest.start()
        guest.wait_ready()
        guest.serial.wait_tick()
        lib.check(guest.serial.verify()[0], 'the guest\'s own check failed')


@lib.scenario(sample=2, way=['local', 'sealed'])
def cancelled_copy_leaves_nothing(way):
    with lib.World() as world:
        path = os.path.join(world.source.storage, 'disk.raw')
        lib.guestimage.make_data_image(path, SIZE_MIB * lib.MIB, 'raw', False, 96)
        before = digest(path)
        if way == 'local':
            written = os.path.join(world.source.folder, 'out', 'copy.raw')
            os.mkdir(os.path.dirname(written))
            command = lib.Command([lib.godwit_binary(), 'copy', '--json', '--progress', path, written],
                                  dict(os.environ, GODWIT_STATE_HOME=world.source.state))
            command.wait_event(lambda event: True)
            os.kill(command.process.pid, signal.SIGINT)
            result = command.result()
            lib.check(result.status != 0 or digest(written) == before, 'neither ended nor whole')
            left = os.listdir(os.path.dirname(written))
            lib.check(result.status == 0 or not left, 'it leaves %s', left)
            return
        world.start_agents()
        before = world.listing()
        world.source.limit_rate(lib.SLOW_MBIT)
        command = world.source.command('copy', '--progress', path,
                                       world.target.address + ':copy.raw')
        world.stack.callback(command.end)
        command.wait_event(lambda event: (event.get('progress') or {}).get('bytes_done', 0) > 0)
        world.source.command('cancel', world.source.running_job()).result()
        world.assert_refused(command.result(), 'failed', 'cancel')
        world.assert_listing(before)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=8))
