#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves that are lost while their disks travel, and gone on with by godwit resume. The guest writes its
disk all the while, also while an agent is dead; in the end it checks every block itself. Copies: resume_copies.py."""
import os
import sys

import lib

SIZE = {'memory_mib': 64, 'disk_mib': 192, 'fill_mib': 96, 'image_format': 'raw', 'trusted': True,
        'workload': {'pages_per_tick': 20, 'writes_per_tick': 6, 'reads_per_tick': 1,
                     'write_range_mib': 64}, 'held': 'a'}
SLOW_MBIT = 60
WHO = ['source agent', 'target agent', 'link']


class Lost(lib.Prepared):
    """A move that was lost in the first pass over its disks, after some of it was durable."""

    def __init__(self, who, phase='disks', **options):
        self.world = lib.World(**dict(SIZE, **options))
        self.who, self.phase = who, phase

    def prepare(self):
        self.world.start_agents()
        self.world.start_guest()
        self.before = self.world.listing()
        self.lose()

    def kept(self, side):
        [agent] = self.world.hosts[side].command('status').result().events[-1]['agents']
        return [one for one in agent['partials'] if one['side'] == ('source' if side == 'a' else 'target')]

    def lose(self):
        world = self.world
        world.source.limit_rate(SLOW_MBIT)
        # Nor does it get past its disks where it is lost with them.
        world.source.hold('memory')
        move = world.start_move('--sync-every', '1', '--reconnect-timeout', '2')
        lib.guestctl.wait_for(lambda: self.kept('b') and self.kept('b')[0]['bytes'] > 30 << 20, lib.PATIENCE_S,
                              'durable bytes at the target', 0.2)
        if self.phase != 'disks':
            world.source.await_held(self.phase, move)
        if self.who == 'source agent':
            world.source.stop_agent(kill=True)
        elif self.who == 'target agent':
            world.target.stop_agent(kill=True)
        else:
            for host in world.hosts.values():
                host.set_link('down')
            for host in world.hosts.values():
                host.inside('ss', '-K', 'dport', '=', ':13560', check=False)
                host.inside('ss', '-K', 'sport', '=', ':13560', check=False)
        world.source.release()
        self.result = move.result()
        world.guest.serial.wait_tick()  # it writes on
        if self.who == 'source agent':
            world.source.start_agent()
        elif self.who == 'target agent':
            world.target.start_agent()
        else:
            for host in world.hosts.values():
                host.set_link('up')
        world.source.limit_rate(None)
        self.wait_settled()

    def wait_settled(self):
        """Both agents agree that the move is given up."""
        for host in self.world.hosts.values():
            lib.guestctl.wait_for(lambda: not host.command('status').result()
                                  .events[-1]['agents'][0]['in_doubt'], lib.PATIENCE_S, 'a settled move', 0.5)

    def resume(self, *words):
        command = self.world.source.command('resume', *words)
        self.world.stack.callback(command.end)
        return command.result()


@lib.scenario(sample=1, who=WHO, phase=['disks', 'memory'], image=['raw', 'vhdx'])
def lost_move_is_resumed(who, phase, image):
    with Lost(who, phase, image_format=image) as lost:
        world = lost.world
        if who != 'source agent':
            lib.check(lost.result.status == lib.EXIT['failed'], 'exit %d', lost.result.status)
            lib.check('godwit resume' in lost.result.error, 'it says %s', lost.result.error)
        [kept] = lost.kept('b')
        lib.check(lost.kept('a') and kept['bytes'] > 30 << 20, 'kept: %s', kept)
        world.guest.serial.wait_tick()
        result = lost.resume().expect('done')
        resumed = result.detail['resumed']
        lib.check(resumed['kept_bytes'] == kept['bytes'], 'resumed %s of %s', resumed, kept)
        world.assert_moved()
        lib.check(not lost.kept('a') and not lost.kept('b'), 'something is kept still')
        left = [name for name in world.target.storage_files() if '.godwit-' in name]
        lib.check(not left, 'the target\'s storage keeps %s', left)


@lib.scenario()
def attempt_that_another_is_about_to_take_up_is_not_cancelled():
    """Its files would go from under the one that the target is about to accept."""
    with Lost('target agent', held='ab') as lost:
        world = lost.world
        [kept] = lost.kept('a')
        world.target.hold('RECEIVING')
        resumed = world.source.command('resume')
        world.stack.callback(resumed.end)
        world.target.await_held('the first record', resumed)
        answer = world.source.command('cancel', kept['epoch'][:12]).result()
        lib.check(answer.status != 0 and 'under way' in answer.error, 'cancel: %d %s', answer.status, answer.error)
        world.target.release()
        result = resumed.result().expect('done')
        lib.check(result.detail['resumed']['kept_bytes'] == kept['bytes'], 'resumed %s', result.detail['resumed'])
        world.assert_moved()


def lose_resume(lost, window):
    """A resume whose agent dies at that place, on the way to being accepted by both sides."""
    host = lost.world.source if window == 'heard' else lost.world.target
    if window == 'journalled':
        host.hold('RECEIVING')
    else:
        # Of a note: of each side's first words; and with those of the target about its QEMU.
        host.holder.hold_sync(*{'replaced': (r'/partial$', 2), 'heard': (r'\.source\.new$', 1)}[window])
    resumed = lost.world.source.command('resume')
    lost.world.stack.callback(resumed.end)
    host.await_held(window, resumed)
    host.stop_agent(kill=True)
    host.release()
    resumed.result()
    host.start_agent()
    lost.wait_settled()


@lib.scenario(sample=1, window=['journalled', 'replaced', 'heard'])
def move_whose_resume_is_lost_while_it_is_accepted_is_resumed(window):
    with Lost('target agent', image_format='vhdx', held='ab') as lost:
        world = lost.world
        [before] = lost.kept('b')
        for _ in range(2):
            lose_resume(lost, window)
            lib.guestctl.wait_for(lambda: len(lost.kept('b')) == 1 and len(lost.kept('a')) == 1, lib.PATIENCE_S,
                                  'one attempt that is kept', 0.5)
            parts = [name for name in world.target.storage_files() if name.endswith('.part')]
            lib.check(len(parts) == 1, 'the parts are %s', parts)
        world.guest.serial.wait_tick()
        resumed = lost.resume().expect('done').detail['resumed']
        lib.check(resumed['kept_bytes'] == before['bytes'], 'resumed %s of %s', resumed, before)
        world.assert_moved()
        lib.check(not lost.kept('a') and not lost.kept('b'), 'something is kept still')
        left = [name for name in world.target.storage_files() if '.godwit-' in name]
        lib.check(not left, 'the target\'s storage keeps %s', left)


@lib.scenario(sample=1, image=['raw', 'vhdx'])
def damaged_part_is_mended(image):
    """What somebody wrote into the target's partial image is found and sent again: nothing of it is trusted before it
    was compared with the disk. Blocks that the guest checks are hit. A note that cannot be read gives nothing up."""
    with Lost('target agent', image_format=image) as lost:
        world = lost.world
        [part] = [name for name in world.target.storage_files() if name.endswith('.part')]
        [note] = [os.path.join(world.target.state, name) for name in world.target.state_files()
                  if name.endswith('.target')]
        os.rename(note, note + '.aside')
        with open(note, 'w', encoding='utf-8') as handle:
            handle.write('{')
        refused = lost.resume()
        lib.check(refused.status == lib.EXIT['blocked'] and 'godwit resume' in refused.error and lost.kept('a'),
                  'a note that cannot be read is taken for gone: %d: %s', refused.status, refused.error)
        os.replace(note + '.aside', note)
        with open(os.path.join(world.target.storage, part), 'r+b') as handle:
            handle.seek(12 * lib.MIB)
            handle.write(os.urandom(2 * lib.MIB))
        result = lost.resume().expect('done')
        lib.check(result.detail['resumed']['resent_bytes'] >= 2 * lib.MIB, 'sent again: %s', result.detail['resumed'])
        world.assert_moved()


@lib.scenario(sample=1, image=['raw', 'vhdx'])
def guest_that_was_started_again_is_resumed(image):
    """No state of QEMU's is needed: the VM was powered off and started again between the attempts."""
    with Lost('source agent', image_format=image) as lost:
        world = lost.world
        world.guest.stop()
        world.guest.start()
        world.guest.wait_ready()
        world.guest.serial.wait_tick()
        result = lost.resume().expect('done')
        lib.check(result.detail['resumed']['kept_bytes'] > 0, 'it did not go on: %s', result.detail)
        world.assert_moved()


def begin_and_hold(world, host, state):
    """A move that stands still in that state of that host's; (what there was before it, the move)."""
    world.start_agents()
    world.start_guest()
    before = world.listing()
    world.hosts[host].hold(state)
    move = world.start_move('--sync-every', '1')
    world.hosts[host].await_held(state, move)
    return before, move


@lib.scenario()
def nothing_is_kept_of_a_move_whose_target_was_complete():
    """The source's agent dies while the target puts its disks in, behind the point from which it could keep a part:
    once both have spoken neither has a note of it."""
    with lib.World(**dict(SIZE, held='ab')) as world:
        before, move = begin_and_hold(world, 'b', 'PLACING')
        notes = [name for name in world.source.state_files() if name.startswith('partial/')]
        lib.check(notes, 'the source has no note of the move')
        world.source.stop_agent(kill=True)
        world.target.release()
        move.result()
        world.source.start_agent()
        world.assert_listing(before)
        world.assert_still_on_source()


@lib.scenario()
def nothing_is_kept_of_a_part_that_is_gone():
    """The target's agent dies when it has discarded a cancelled move and has not forgotten its note yet."""
    with lib.World(**dict(SIZE, held='ab')) as world:
        before, move = begin_and_hold(world, 'a', 'STOPPED')
        world.cancel()
        world.target.hold('DISCARDED')
        world.source.release()
        world.target.await_held('DISCARDED', move)
        notes = [name for name in world.target.state_files() if name.startswith('partial/')]
        lib.check(notes, 'the target has no note of the move')
        world.target.stop_agent(kill=True)
        world.assert_refused(move.result(), 'failed', 'cancel')
        world.target.start_agent()
        world.assert_listing(before)
        world.assert_still_on_source()


@lib.scenario(sample=1, side=['a', 'b'])
def cancel_removes_what_is_kept(side):
    with Lost('target agent') as lost:
        world = lost.world
        [kept] = lost.kept(side)
        answer = world.hosts[side].command('cancel', '').result()
        lib.check(answer.status != 0 and lost.kept(side) == [kept], 'cancel of nothing ended with %d', answer.status)
        answer = world.hosts[side].command('cancel', kept['epoch'][:12]).result()
        lib.check(answer.status == 0, 'cancel ended with %d: %s', answer.status, answer.errors)
        if side == 'b':
            world.assert_refused(lost.resume(), 'blocked', 'start over')
        lib.check(not lost.kept('a') and not lost.kept('b'), 'something is kept')
        world.assert_listing(lost.before)
        world.assert_still_on_source()


@lib.scenario()
def resume_that_reaches_nobody_gives_nothing_up():
    with Lost('target agent') as lost:
        world = lost.world
        [kept] = lost.kept('a')
        world.target.stop_agent()
        refused = lost.resume()
        lib.check(refused.status == lib.EXIT['failed'] and
                  'godwit resume %s goes on' % kept['epoch'][:12] in refused.error, 'it says %d: %s', refused.status,
                  refused.error)
        lib.check([one['epoch'] for one in lost.kept('a')] == [kept['epoch']], 'kept: %s', lost.kept('a'))
        world.target.start_agent()
        result = lost.resume().expect('done')
        lib.check(result.detail['resumed']['kept_bytes'] > 0, 'resumed: %s', result.detail['resumed'])
        world.assert_moved()


@lib.scenario()
def new_move_takes_the_place_of_a_lost_one():
    with Lost('source agent') as lost:
        world = lost.world
        world.move().expect('done')
        world.assert_moved()
        lib.check(not lost.kept('a') and not lost.kept('b'), 'something is kept')
        left = [name for name in world.target.storage_files() if '.godwit-' in name]
        lib.check(not left, 'the target\'s storage keeps %s', left)


@lib.scenario()
def killed_copy_leaves_nothing():
    """The target's agent dies in the middle of a copy; the one that comes back removes the part."""
    with lib.World(**SIZE) as world:
        world.start_agents()
        path = os.path.join(world.source.storage, 'big.raw')
        with open(path, 'wb') as handle:
            handle.write(os.urandom(64 << 20))
        world.source.limit_rate(lib.SLOW_MBIT)
        copy = world.source.command('copy', '--psk', world.psk, '--reconnect-timeout', '3', path,
                                    world.target.address + ':')
        world.stack.callback(copy.end)
        lib.guestctl.wait_for(lambda: [name for name in world.target.storage_files() if name.endswith('.part')],
                              lib.PATIENCE_S, 'a part')
        world.target.stop_agent(kill=True)
        copy.result().expect('failed')
        lib.check(world.target.storage_files(), 'there was nothing to remove')
        world.target.start_agent()
        lib.guestctl.wait_for(lambda: not world.target.storage_files(), lib.PATIENCE_S, 'an empty target')


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=4))
