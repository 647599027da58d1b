#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unfinished images whose file system is not mounted when an agent, or a command, looks for them: an empty folder in
their place is no proof that they are gone. They are kept, nothing is written in their place, and with the mount they
are gone on with, or removed."""
import os
import subprocess
import sys

import lib
import resume
import resume_copies
from resume_copies import Here, Lost, left_in

guestctl = lib.guestctl
WORDS = 'mount its file system'


class Mount:
    """A folder of a host's that is a mount; its files are elsewhere."""

    def __init__(self, world, folder):
        self.world, self.folder, self.behind = world, folder, folder + '-behind'
        os.mkdir(self.behind)
        world.stack.callback(subprocess.run, ['umount', '-l', folder], check=False, stderr=subprocess.DEVNULL)
        self.mount()

    def mount(self):
        subprocess.run(['mount', '--bind', self.behind, self.folder], check=True)

    def unmount(self):
        """Nobody has a file open in it any more."""
        subprocess.run(['umount', self.folder], check=True)
        lib.check(os.listdir(self.folder) == [], 'there is something beneath the mount')

    def assert_untouched(self, before):
        lib.check(os.listdir(self.folder) == [], 'in place of the mount there is %s', os.listdir(self.folder))
        lib.check(sorted(os.listdir(self.behind)) == before, 'there is %s of %s', os.listdir(self.behind), before)


def notes_of(host):
    return [name for name in host.state_files() if name.startswith('partial/')]


class LostWithoutMount(Lost):
    """The target's agent has died, and is there again before its storage is."""

    def prepare_source(self):
        super().prepare_source()
        self.storage = Mount(self.world, self.world.target.storage)

    def bring_back(self):
        self.storage.unmount()
        super().bring_back()
        self.before = sorted(os.listdir(self.storage.behind))

    def mount_again(self):
        self.world.target.stop_agent()
        self.storage.mount()
        self.world.target.start_agent()


@lib.scenario()
def copy_goes_on_when_its_storage_is_there_again():
    with LostWithoutMount('target agent') as lost:
        [kept] = lost.kept('b')
        lib.check(kept['kept'] and WORDS in kept['away'] and lost.world.target.storage in kept['away'], 'it is %s', kept)
        refused = lost.command('resume').result()
        lib.check(refused.status == lib.EXIT['blocked'] and WORDS in refused.error and
                  'godwit resume %s goes on' % lost.kept('a')[0]['epoch'][:12] in refused.error, 'it says %d: %s',
                  refused.status, refused.error)
        lost.storage.assert_untouched(lost.before)
        lost.mount_again()
        [kept] = lost.kept('b')
        lib.check('away' not in kept, 'it is %s', kept)
        resume_copies.assert_resumed(lost.command('resume').result().expect('done'))
        resume_copies.assert_same(lost.source, lost.written, 'raw')
        guestctl.wait_for(lambda: lost.world.target.storage_files() == [lost.name], lib.PATIENCE_S,
                          'a target that has the image alone', 0.2)


@lib.scenario(sample=1, twice=[False, True])
def cancelled_copy_is_removed_when_its_storage_is_there_again(twice):
    """Or, where the target's owner says so twice, it stays where it is, and nobody waits for it."""
    with LostWithoutMount('target agent') as lost:
        target = lost.world.target
        [kept] = lost.kept('a')
        answer = lost.command('cancel', kept['epoch'][:12]).result()
        lib.check(answer.status == 0, 'cancel: %s', answer.errors)
        [left] = lost.kept('b')
        lib.check(left['given_up'] and not left['kept'] and WORDS in left['away'], 'it is %s', left)
        lost.storage.assert_untouched(lost.before)
        if twice:
            answer = target.command('cancel', kept['epoch'][:12]).result()
            lib.check(answer.status == 0 and not lost.kept('b') and not notes_of(target), 'cancel: %s', answer.errors)
        lost.mount_again()
        guestctl.wait_for(lambda: not lost.kept('b'), lib.PATIENCE_S, 'a target that keeps nothing', 0.2)
        lib.check(target.storage_files() == (lost.before if twice else []), 'left: %s', target.storage_files())


class LostMove(resume.Lost):
    """As LostWithoutMount, of a move."""

    def prepare(self):
        self.storage = Mount(self.world, self.world.target.storage)
        stop = self.world.target.stop_agent

        def stopped(kill=False):
            stop(kill)
            self.storage.unmount()
            self.world.target.stop_agent = stop
        self.world.target.stop_agent = stopped
        super().prepare()

    def wait_settled(self):
        """The target cannot settle it without its storage."""


@lib.scenario(sample=1, ends=['resumed', 'cancelled'])
def move_waits_for_its_storage(ends):
    with LostMove('target agent') as lost:
        world, target = lost.world, lost.world.target
        before = sorted(os.listdir(lost.storage.behind))
        [kept] = lost.kept('b')
        lib.check(kept['kept'] and WORDS in kept['away'], 'it is %s', kept)
        refused = lost.resume()
        lib.check(refused.status == lib.EXIT['blocked'] and WORDS in refused.error and
                  'godwit resume %s goes on' % lost.kept('a')[0]['epoch'][:12] in refused.error, 'it says %d: %s',
                  refused.status, refused.error)
        lost.storage.assert_untouched(before)
        lib.check(lost.kept('a'), 'the source has given it up')
        world.guest.serial.wait_tick()
        target.stop_agent()
        lost.storage.mount()
        target.start_agent()
        resume.Lost.wait_settled(lost)
        if ends == 'resumed':
            result = lost.resume().expect('done')
            lib.check(result.detail['resumed']['kept_bytes'] > 0, 'resumed: %s', result.detail['resumed'])
            world.assert_moved()
        else:
            answer = world.source.command('cancel', lost.kept('a')[0]['epoch'][:12]).result()
            lib.check(answer.status == 0, 'cancel: %s', answer.errors)
            guestctl.wait_for(lambda: not target.storage_files(), lib.PATIENCE_S, 'an empty target', 0.2)
            world.assert_still_on_source()
        lib.check(not lost.kept('a') and not lost.kept('b'), 'something is kept still')


@lib.scenario()
def part_that_nobody_goes_on_with_is_removed_with_the_mount():
    """The target's agent dies before there is anything to go on with: of that, too, nothing is forgotten."""
    with lib.World(trusted=True, held='b') as world:
        target = world.target
        storage = Mount(world, target.storage)
        world.start_agents()
        source = resume_copies.make_source(os.path.join(world.source.storage, 'source.raw'))
        target.holder.hold_sync(r'\.part$')
        copy = world.source.command('copy', '--psk', world.psk, '--trusted-network', lib.NETWORK, '--sync-every', '1',
                                    '--reconnect-timeout', '2', source, target.address + ':disk.raw')
        world.stack.callback(copy.end)
        target.await_held('the first sync', copy)
        target.stop_agent(kill=True)
        target.release()
        copy.result().expect('failed')
        lib.check(left_in(storage.folder), 'there is no part')
        storage.unmount()
        target.start_agent()
        lib.check(notes_of(target), 'it is forgotten')
        storage.mount()
        # The agent that runs sees the mount only where its host gives it on: a new one does for certain.
        target.stop_agent()
        target.start_agent()
        guestctl.wait_for(lambda: not target.storage_files() and not notes_of(target), lib.PATIENCE_S,
                          'a target that keeps nothing', 0.2)


@lib.scenario()
def copy_on_one_host_waits_for_its_folder():
    with Here('raw') as here:
        here.kill_when(r'\.part$', 2)
        subprocess.run(['umount', '-l', here.out], check=True)
        lib.check(os.listdir(here.out) == [], 'there is something beneath the mount')
        [kept] = here.listed()
        refused = here.run('resume')
        lib.check(refused.status == lib.EXIT['blocked'] and WORDS in refused.error and
                  'godwit resume %s goes on' % kept['epoch'][:12] in refused.error, 'it says %d: %s', refused.status,
                  refused.error)
        lib.check(os.listdir(here.out) == [], 'in place of the mount there is %s', os.listdir(here.out))
        here.faults.say('')
        here.faults.mount()
        resume_copies.assert_resumed(here.run('resume').expect('done'))
        resume_copies.assert_same(here.source, here.written, 'raw')
        lib.check(not left_in(here.out) and not here.listed(), 'it leaves %s', left_in(here.out))


class Moved:
    """Another folder lies where the storage was, as if it were not mounted; an agent that runs sees that, too."""

    def __init__(self, folder):
        self.folder, self.behind = folder, folder + '-behind'

    def unmount(self):
        os.rename(self.folder, self.behind)
        os.mkdir(self.folder)

    def mount(self):
        os.rmdir(self.folder)
        os.rename(self.behind, self.folder)


def agent_of(host):
    [agent] = host.command('status').result().events[-1]['agents']
    return agent


def doubts_of(host):
    return agent_of(host)['in_doubt']


@lib.scenario(sample=1, ends=['there again', 'cancelled', 'cancelled without a note'])
def prepared_move_waits_for_its_storage(ends):
    """Its images have their final names: what gives them up must find them again, and a person may say that
    nobody waits for them."""
    with lib.World(**dict(resume.SIZE, held='b')) as world:
        target = world.target
        before, move = resume.begin_and_hold(world, 'b', 'PREPARED')
        storage = Moved(target.storage)
        images = target.storage_files()
        target.stop_agent(kill=True)
        target.release()
        storage.unmount()
        move.result()
        if ends == 'cancelled without a note':
            for name in notes_of(target):
                os.unlink(os.path.join(target.state, name))
        target.start_agent()

        def waits():
            return [one for one in doubts_of(target) if one['state'] == 'ABORTED' and WORDS in one.get('away', '')]
        guestctl.wait_for(waits, lib.PATIENCE_S, 'an aborted move that waits', 0.5)
        world.assert_still_on_source()
        if ends == 'there again':
            storage.mount()
        else:
            # Its source has given it up already. An agent that looks at it this very moment has it in hand.
            epoch = waits()[0]['epoch'][:12]
            guestctl.wait_for(lambda: target.command('cancel', epoch).result().status == 0, lib.PATIENCE_S, 'a cancel', 1)
        guestctl.wait_for(lambda: not doubts_of(target) and not notes_of(target), lib.PATIENCE_S, 'a settled move', 0.5)
        if ends == 'there again':
            world.assert_listing(before)
        else:
            storage.mount()
            lib.check(target.storage_files() == images, 'there is %s of %s', target.storage_files(), images)


@lib.scenario()
def copy_that_is_cancelled_without_its_storage_is_not_forgotten():
    """Agents that run throughout; the storage goes away under the open image."""
    with lib.World(trusted=True) as world:
        target = world.target
        world.start_agents()
        source = resume_copies.make_source(os.path.join(world.source.storage, 'source.raw'))
        world.source.limit_rate(resume.SLOW_MBIT)
        copy = world.source.command('copy', '--psk', world.psk, '--trusted-network', lib.NETWORK, source,
                                    target.address + ':disk.raw')
        world.stack.callback(copy.end)
        guestctl.wait_for(lambda: left_in(target.storage), lib.PATIENCE_S, 'a part')
        storage = Moved(target.storage)
        storage.unmount()
        lib.check(world.source.command('cancel', world.source.running_job()).result().status == 0, 'no cancel')
        copy.result()
        guestctl.wait_for(lambda: [one for one in agent_of(target)['partials'] if one['given_up']], lib.PATIENCE_S,
                          'a copy that is given up', 0.2)
        storage.mount()
        guestctl.wait_for(lambda: not target.storage_files() and not notes_of(target), lib.PATIENCE_S,
                          'a target that keeps nothing', 0.2)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=3))
