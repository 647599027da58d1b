#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves that succeed: the product of what a VM may look like. Each is proven by the guest itself; where
the guest was quiet, both sides' disks are compared as well."""
import os
import shutil
import subprocess
import sys

import lib

IMAGES = {'raw': ('raw', False), 'dynamic': ('vhdx', False), 'fixed': ('vhdx', True)}
IDLE = {'pages_per_tick': 0, 'writes_per_tick': 0, 'reads_per_tick': 0}
SIZE = {'memory_mib': 192, 'disk_mib': 192, 'fill_mib': 24}


def kept_aside(world):
    """The source's images under the names that no supervisor starts."""
    names = os.listdir(world.source.storage)
    for disk in world.guest.options['disks']:
        name = os.path.basename(disk['path'])
        lib.check(name not in names, '%s keeps its name on the source', name)
        aside = [one for one in names if one.startswith(name + '.godwit-')]
        lib.check(len(aside) == 1, '%s: renamed to %s', name, aside)


@lib.scenario(timeout=180, sample=4, secrecy=['clear', 'sealed'], machine=['pc', 'q35'],
              image=sorted(IMAGES), iothread=['plain', 'iothread'], cache=['writeback', 'none'],
              disks=[1, 2], guest=['idle', 'busy'])
def move(secrecy, machine, image, iothread, cache, disks, guest):
    image_format, is_fixed = IMAGES[image]
    options = dict(SIZE, trusted=secrecy == 'clear', machine=machine, image_format=image_format,
                   fixed=is_fixed, disk_count=disks,
                   disk={'cache': cache, 'iothread': iothread == 'iothread'},
                   workload=IDLE if guest == 'idle' else {})
    with lib.World(**options) as world:
        world.start_agents()
        world.start_guest()
        if guest == 'busy':
            world.guest.serial.wait_tick(least=18)
        result = world.move().expect('done')
        numbers = world.assert_moved()
        lib.check(numbers['pages'] > 0, 'the guest checked no page')
        if guest == 'busy':
            lib.check(numbers['blocks'] > 0, 'the guest checked no block')
        kept_aside(world)
        transport = result.detail['stats']['transport']
        lib.check(('sealed' in transport or result.detail['path'] == 'sealed')
                  == (secrecy == 'sealed'), 'the path was %s, %s', transport, result.detail['path'])
        lib.check(len(result.detail['volumes']) == disks, 'volumes: %s', result.detail['volumes'])
        if guest == 'idle':
            world.assert_same_disks()


@lib.scenario(sample=1, image=['raw', 'dynamic'])
def quieted_guest_leaves_equal_disks(image):
    """A guest that wrote its disk up to the move and is quiet during it: every byte of both images is
    equal, which the guest's own check (of the blocks it wrote) cannot say of the rest."""
    with lib.World(image_format=IMAGES[image][0], **SIZE) as world:
        world.start_agents()
        world.start_guest()
        world.guest.serial.wait_tick(least=36)
        world.guest.serial.quiet()
        world.move().expect('done')
        numbers = world.assert_moved()
        lib.check(numbers['blocks'] > 0, 'the guest wrote nothing before the move')
        world.assert_same_disks()


def run(*words):
    answer = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    lib.check(answer.returncode == 0, '%s: %s', ' '.join(words), answer.stdout + answer.stderr)


def make_file_system(folder, path, image_format):
    """An image with ext4 on it, and one file in that; where the same file is beside it."""
    for tool in ('mkfs.ext4', 'fsck.ext4', 'debugfs'):
        if not shutil.which(tool):
            raise lib.Skip(tool + ' is not installed')
    files, raw = os.path.join(folder, 'files'), os.path.join(folder, 'fs.raw')
    os.mkdir(files)
    with open(os.path.join(files, 'inside'), 'wb') as handle:
        handle.write(os.urandom(9 * lib.MIB + 123))
    run('mkfs.ext4', '-q', '-d', files, raw, '64M')
    run('qemu-img', 'convert', '-f', 'raw', '-O', image_format, raw, path)
    os.unlink(raw)
    return os.path.join(files, 'inside')


@lib.scenario(sample=1, image=['raw', 'vhdx'])
def file_system_on_a_disk_arrives_whole(image):
    """fsck finds nothing, and the file in it is the same: judged by ext4's own programs."""
    with lib.World(image_format=image, **SIZE) as world:
        world.start_agents()
        path = os.path.join(world.source.storage, 'data.' + image)
        inside = make_file_system(world.folder, path, image)
        make_disks = world.make_disks
        world.make_disks = lambda: make_disks() + [{'path': path, 'format': image}]
        world.start_guest()
        world.move().expect('done')
        world.assert_moved()
        for pid, _ in world.target.qemus():
            lib.guestctl.end_process(pid)
        raw, again = os.path.join(world.folder, 'again.raw'), os.path.join(world.folder, 'again')
        run('qemu-img', 'convert', '-f', image, '-O', 'raw', os.path.join(world.target.storage, 'data.' + image),
            raw)
        run('fsck.ext4', '-f', '-n', raw)
        run('debugfs', '-R', 'dump inside ' + again, raw)
        run('cmp', inside, again)


@lib.scenario()
def paused_guest_arrives_paused():
    with lib.World(**SIZE) as world:
        world.start_agents()
        world.start_guest()
        world.guest.qmp('stop')
        result = world.move().expect('done')
        path = result.detail['target']['qmp']
        status = lib.guestctl.qmp(path, 'query-status')
        lib.check(not status['running'], 'the guest runs: %s', status)
        serial = world.moved_guest()
        lib.guestctl.qmp(path, 'cont')
        lib.check(serial.wait_tick()['bad'] == 0, 'the guest found faults')
        lib.check(serial.verify()[0], 'the guest\'s own check failed')


@lib.scenario()
def source_is_deleted_when_asked():
    with lib.World(**SIZE) as world:
        world.start_agents()
        world.start_guest()
        world.move('--delete-source').expect('done')
        world.assert_moved()
        lib.check(not world.source.storage_files(), 'the source keeps %s',
                  world.source.storage_files())


@lib.scenario()
def memory_goes_when_its_guest_has_gone_on():
    """What a move made for a guest, not what others did."""
    with lib.World(**SIZE) as world:
        world.start_agents()
        world.start_guest()
        there = world.move('--delete-source').expect('done').detail['target']
        lib.check(os.path.exists(world.guest.ram_path), 'a file that no move made is gone')
        lib.check(len(world.target.shared_memory_files()) == 1, 'the target has %s',
                  world.target.shared_memory_files())
        before = world.target.storage_files()
        back = world.target.command('move', '--psk', world.psk, '--qmp', there['qmp'], '--to',
                                    world.source.address).result().expect('done').detail['target']
        path = lib.guestctl.qmp(back['qmp'], 'qom-get', path='/objects/ram0', property='mem-path')
        try:
            lib.check(not world.target.shared_memory_files(), 'the target keeps %s',
                      world.target.shared_memory_files())
            # Its images stay there, renamed.
            world.assert_no_debris(files=[one for one in world.target.storage_files() if one in before or
                                          one.partition('.godwit-')[0] in before], keeps_logs=True)
        finally:
            lib.guestctl.qmp(back['qmp'], 'quit')
            # Whose VM is gone removes it as well, perhaps at the same time.
            shutil.rmtree(os.path.dirname(path), ignore_errors=True)


@lib.scenario()
def memory_goes_when_its_guest_has_shut_down():
    """Its disks are its owner's."""
    with lib.World(**SIZE) as world:
        world.start_agents()
        world.start_guest()
        there = world.move('--delete-source').expect('done').detail['target']
        world.assert_moved()
        lib.check(len(world.target.shared_memory_files()) == 1, 'the target has %s',
                  world.target.shared_memory_files())
        disks = world.target.storage_files()
        lib.guestctl.qmp(there['qmp'], 'quit')
        world.assert_no_debris(files=disks, keeps_logs=True)
        lib.check(world.target.storage_files() == disks, 'the target has %s',
                  world.target.storage_files())


@lib.scenario()
def two_rails_carry_a_move():
    with lib.World(pairs=2, **SIZE) as world:
        world.start_agents(source=['--listen', '10.78.0.1'], target=['--listen', '10.78.0.2'])
        world.start_guest()
        result = world.move().expect('done')
        world.assert_moved()
        lib.check(result.progress['channels'] == 4, '%d channels', result.progress['channels'])


@lib.scenario()
def disks_go_where_they_are_told():
    with lib.World(disk_count=2, image_format='vhdx', **SIZE) as world:
        world.start_agents()
        os.makedirs(os.path.join(world.target.storage, 'fast'))
        world.start_guest()
        world.move('--storage', os.path.join(world.target.storage, 'fast'), '--disk',
                   'vdb=' + os.path.join(world.target.storage, 'other.vhdx')).expect('done')
        world.assert_moved()
        lib.check(world.target.storage_files() == ['fast/web1-0.vhdx', 'other.vhdx'],
                  'the target has %s', world.target.storage_files())


def request_plugged(path, mib):
    """Has the guest of this QEMU plug, or unplug, until it has that much of its virtio-mem device."""
    qmp = lib.guestctl.qmp
    qmp(path, 'qom-set', path='/machine/peripheral/mem0', property='requested-size', value=mib * lib.MIB)
    lib.guestctl.wait_for(lambda: plugged(path) == mib, lib.PATIENCE_S, 'the guest\'s plugging of %d MiB' % mib)


def plugged(path):
    [device] = lib.guestctl.qmp(path, 'query-memory-devices')
    return device['data']['size'] // lib.MIB


@lib.scenario(timeout=180, sample=1, secrecy=['clear', 'sealed'], machine=['pc', 'q35'], how=['plain', 'verified'])
def memory_that_is_plugged_and_unplugged_arrives(secrecy, machine, how):
    """A virtio-mem device. QEMU discards all of its memory on the target when it makes the device, and what is not
    plugged when it loads the device's state: what the guest has plugged, before the move and in the middle of it,
    comes in between. The guest checks each page of it."""
    with lib.World(trusted=secrecy == 'clear', machine=machine, held='a', memory_mib=96, disk_mib=64, fill_mib=4,
                   workload={'span_mib': 48}, guest={'region_mib': 96, 'plug_mib': 24}) as world:
        world.start_agents()
        beside = os.path.join(world.source.folder, 'beside')
        world.options['guest']['extra'] = ['-chardev', 'socket,id=beside,server=on,wait=off,path=' + beside,
                                           '-mon', 'chardev=beside,mode=control']
        world.start_guest()
        request_plugged(beside, 24)
        world.source.hold('memory')
        move = world.start_move(*['--verify'] if how == 'verified' else [])
        world.source.await_held('memory', move)
        request_plugged(beside, 40)
        world.source.holder.hold('what is left fits the pause$')
        world.source.holder.release(forget=False)
        world.source.await_held('the end of the rounds', move)
        request_plugged(beside, 16)
        request_plugged(beside, 32)
        world.source.release()
        target = move.result(120).expect('done').detail['target']
        numbers = world.assert_moved()
        lib.check(plugged(target['qmp']) == 32, '%d MiB are plugged', plugged(target['qmp']))
        lib.check(numbers['pages'] == (48 + 32) * 256, 'the guest checked %d pages', numbers['pages'])
        shared = '/proc/%d/root/dev/shm' % world.target.agent.pid
        [ram] = [at for at, _, names in os.walk(shared) if 'plug0' in names]
        has = os.stat(os.path.join(ram, 'plug0')).st_blocks * 512 // lib.MIB
        lib.check(has == 32, 'on the target %d MiB of it are set aside', has)
        request_plugged(target['qmp'], 8)
        request_plugged(target['qmp'], 48)
        is_good, numbers, faults = world.moved_guest().verify(120)
        lib.check(is_good and numbers['pages'] == (48 + 48) * 256, 'later: %s, %s', numbers, faults)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=6))
