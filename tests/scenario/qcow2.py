#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves of guests whose disks are qcow2, VDI or VMDK images: read through QEMU's NBD server, written through a
qemu-nbd. Besides the guest's own check, the images are checked and compared by qemu-img."""
import json
import os
import signal
import subprocess
import sys

import endpoints
import failures
import lib

SIZE = {'memory_mib': 160, 'disk_mib': 192, 'fill_mib': 24, 'image_format': 'qcow2'}


def tool(*words):
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    lib.check(answer.returncode == 0, '%s: %s', ' '.join(words), answer.stdout + answer.stderr)
    return answer.stdout


def information(path):
    return json.loads(tool('qemu-img', 'info', '-U', '--output=json', path))


def finished_image(world, name):
    """The path of the target's image, with its QEMU ended."""
    for pid, _ in world.target.qemus():
        lib.guestctl.end_process(pid)
    return os.path.join(world.target.storage, name)


def assert_sound(world, name='web1-0.qcow2'):
    """The target's image, with its QEMU ended: no fault, no leak; and as thin as the source's."""
    path = finished_image(world, name)
    tool('qemu-img', 'check', '-f', 'qcow2', path)
    aside = [one for one in os.listdir(world.source.storage) if one.startswith(name + '.godwit-')]
    lib.check(len(aside) == 1, '%s was renamed to %s', name, aside)
    before = information(os.path.join(world.source.storage, aside[0]))
    after = information(path)
    lib.check(after['format'] == 'qcow2', 'the target has a %s image', after['format'])
    lib.check(after['virtual-size'] == before['virtual-size'], 'size %d', after['virtual-size'])
    lib.check(after['cluster-size'] == before['cluster-size'], 'cluster %d', after['cluster-size'])
    lib.check(after['actual-size'] < before['actual-size'] + (96 << 20),
              'thin no more: %d bytes, before %d', after['actual-size'], before['actual-size'])


def nbd_servers(world):
    """Every qemu-nbd and qemu-img of this world."""
    return [' '.join(words) for host in world.hosts.values() for _, words in host.processes()
            if words and os.path.basename(words[0]) in ('qemu-nbd', 'qemu-img')]


def assert_no_servers(world):
    try:
        lib.guestctl.wait_for(lambda: not nbd_servers(world), lib.PATIENCE_S, 'the end of qemu-nbd', 0.2)
    except lib.guestctl.GuestError:
        raise lib.Failure('left running: %s' % nbd_servers(world)) from None


def move_busy_guest(world):
    world.start_agents()
    world.start_guest()
    world.guest.serial.wait_tick(least=18)
    world.move('--verify').expect('done')
    numbers = world.assert_moved()
    lib.check(numbers['blocks'] > 0, 'the guest checked no block')
    assert_no_servers(world)


@lib.scenario(sample=1, secrecy=['clear', 'sealed'], cache=['writeback', 'none'],
              machine=['pc', 'q35'], iothread=[False, True])
def busy_guest_with_qcow2(secrecy, cache, machine, iothread):
    with lib.World(trusted=secrecy == 'clear', machine=machine,
                   disk={'cache': cache, 'iothread': iothread}, **SIZE) as world:
        move_busy_guest(world)
        assert_sound(world)


@lib.scenario(sample=1, image_format=['vdi', 'vmdk'], iothread=[False, True])
def busy_guest_with_another_format(image_format, iothread):
    with lib.World(disk={'iothread': iothread}, **dict(SIZE, image_format=image_format)) as world:
        move_busy_guest(world)
        path = finished_image(world, 'web1-0.' + image_format)
        tool('qemu-img', 'check', '-f', image_format, path)
        lib.check(information(path)['format'] == image_format, 'the target has another format')


@lib.scenario()
def quieted_guest_leaves_equal_qcow2():
    """Every byte of both images is equal; and a byte that differs is noticed by the same comparison."""
    with lib.World(**SIZE) as world:
        world.start_agents()
        world.start_guest()
        world.guest.serial.wait_tick(least=36)
        world.guest.serial.quiet()
        world.move().expect('done')
        numbers = world.assert_moved()
        lib.check(numbers['blocks'] > 0, 'the guest wrote nothing before the move')
        world.assert_same_disks()
        assert_sound(world)
        tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 171 100M 512',
             os.path.join(world.target.storage, 'web1-0.qcow2'))
        try:
            world.assert_same_disks()
        except lib.Failure:
            return
        raise lib.Failure('images that differ compare as equal')


@lib.scenario()
def image_is_not_checked_while_the_guest_stands_still():
    """qemu-img check reads all of its tables, which takes minutes of a large one. It is for copies."""
    with lib.World(**SIZE) as world:
        flag = os.path.join(world.folder, 'checked')
        path = endpoints.put_before(world, 'qemu-img', '[ "$1" = check ] && echo "$@" >> ' + flag, 'exec REAL "$@"')
        world.stack.callback(os.environ.update, PATH=os.environ['PATH'])
        os.environ['PATH'] = path
        world.start_agents()
        world.start_guest()
        world.move().expect('done')
        world.assert_moved()
        lib.check(not os.path.exists(flag), 'it was checked')


@lib.scenario()
def qcow2_and_raw_move_together():
    """Two disks of two formats; the second image has small clusters, which arrive as they are."""
    with lib.World(**dict(SIZE, disk_count=2)) as world:
        world.start_agents()
        make_disks = world.make_disks

        def mixed():
            disks = make_disks()
            raw = disks[1]['path'][:-len('qcow2')] + 'raw'
            tool('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', disks[1]['path'], raw)
            os.unlink(disks[1]['path'])
            small = disks[0]['path'] + '.small'
            tool('qemu-img', 'convert', '-O', 'qcow2', '-o', 'cluster_size=4k', disks[0]['path'],
                 small)
            os.rename(small, disks[0]['path'])
            disks[1].update(path=raw, format='raw')
            return disks
        world.make_disks = mixed
        world.start_guest()
        world.guest.serial.wait_tick(least=18)
        world.move('--verify').expect('done')
        world.assert_moved()
        lib.check(world.target.storage_files() == ['web1-0.qcow2', 'web1-1.raw'],
                  'the target has %s', world.target.storage_files())
        assert_sound(world)


@lib.scenario(sample=1, what=['snapshot', 'bitmap', 'data file', 'qed'])
def what_would_be_lost_is_refused(what):
    words = {'snapshot': ['vda', 'snapshot', 'keep-me', 'qemu-img snapshot -d'],
             'bitmap': ['vda', '1 persistent bitmap', 'block-dirty-bitmap-remove'],
             'data file': ['vda', 'in a file beside the image'],
             'qed': ['vda is a qed image', 'raw, VHDX, qcow2, VDI or VMDK']}[what]
    with lib.World(**dict(SIZE, image_format='qed' if what == 'qed' else 'qcow2')) as world:
        world.start_agents()
        make_disks = world.make_disks

        def marked():
            disks = make_disks()
            path = disks[0]['path']
            if what == 'snapshot':
                tool('qemu-img', 'snapshot', '-c', 'keep-me', path)
            elif what == 'bitmap':
                tool('qemu-img', 'bitmap', '--add', path, 'backup')
            elif what == 'data file':
                tool('qemu-img', 'convert', '-O', 'qcow2', '-o',
                     'data_file=%s.data' % path, path, path + '.new')
                os.rename(path + '.new', path)
            return disks
        world.make_disks = marked
        world.start_guest()
        before = world.listing()
        world.assert_refused(world.move(), 'blocked', *words)
        world.assert_nothing_happened(before)


@lib.scenario(sample=1, phase=failures.PHASES,
              what=['cancel', 'source agent dies', 'target agent dies', 'qemu-nbd dies'])
def failure_leaves_nothing(phase, what):
    """No export, bitmap or node in the source's QEMU, no qemu-nbd, no part of an image."""
    with failures.Ready(image_format='qcow2') as ready:
        world = ready.world
        move = ready.go_to(phase, '--reconnect-timeout', '2')
        if what == 'cancel':
            world.cancel()
        elif what == 'source agent dies':
            world.source.stop_agent(kill=True)
        elif what == 'target agent dies':
            world.target.stop_agent(kill=True)
        else:
            servers = [pid for pid, words in world.target.processes()
                       if words and os.path.basename(words[0]) == 'qemu-nbd']
            lib.check(servers or phase == 'handover', 'no qemu-nbd runs')
            for pid in servers or [ready.target_vmm()]:
                os.kill(pid, signal.SIGKILL)
        world.source.limit_rate(None)
        ready.after_failure(move)
        world.assert_listing(ready.before)
        assert_no_servers(world)
        world.assert_still_on_source()


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=4))
