#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies that are lost and gone on with, of other kinds than resume_copies.py has: onto block devices, of chains, with
the power of the target's storage, and at their very end, when the image has its name and nobody knows it yet."""
import os
import signal
import subprocess
import sys

import endpoints
import lib
import resume_copies
from resume_copies import DISK_MIB, FaultMount, Here, Lost, MIB, SLOW_MBIT, SLOW_MS, TARGETS, left_in

sys.path.insert(0, os.path.join(lib.ROOT, 'tests', 'engine'))
from image_build import PRESENT, VhdxBuild, vhdx_locator  # noqa: E402 (its folder is known only now)

guestctl = lib.guestctl
FILE_MIB = 32  # of data in each file of a chain


def assert_refused(result, code, *words):
    lib.check(result.status == lib.EXIT[code], 'it ended with %d: %s', result.status, result.error)
    for word in words:
        lib.check(word in result.error, '%r is not in: %s', word, result.error)


def assert_device(lost, device):
    subprocess.run(['cmp', '-n', str(DISK_MIB * MIB), lost.source, device], check=True)


def assert_no_disk(device):
    """What lies there is half of a disk: nobody takes it for one."""
    for place in 0, DISK_MIB - 1:
        subprocess.run(['cmp', '-n', str(MIB), '-i', '%d:0' % (place * MIB), device, '/dev/zero'], check=True)
    answer = subprocess.run(['blkid', '-p', device], capture_output=True, text=True, check=False)
    lib.check(answer.returncode == 2, 'blkid finds %s', answer.stdout + answer.stderr)


def make_recognisable(path):
    """A superblock in the first MiB, and something in the last one."""
    subprocess.run(['mkswap', '-q', path], check=True)
    resume_copies.scribble(path, (DISK_MIB - 1) * MIB)
    answer = subprocess.run(['blkid', '-p', path], capture_output=True, text=True, check=False)
    lib.check('swap' in answer.stdout, 'blkid does not know it: %s', answer.stdout + answer.stderr)


# ----------------------------------------------------------------------------------------- block devices

@lib.scenario()
def copy_onto_a_device_is_gone_on_with_here():
    """Its journal lies with the notes of copies that ran without an agent, not beside the device. Its first MiB comes at
    the end, so it is sent again."""
    with Here('raw') as here:
        make_recognisable(here.source)
        backing = os.path.join(here.out, 'backing.part')  # slow, as that name is
        with open(backing, 'wb') as handle:
            handle.truncate((DISK_MIB + 8) * MIB)
        here.written = here.world.loop_device(backing)
        here.kill_when(r'^%s$' % here.written, 2)
        notes = os.path.join(here.environment['GODWIT_STATE_HOME'], 'copies', 'partial')
        lib.check(any(name.endswith('.journal') for name in os.listdir(notes)), 'the notes are %s', os.listdir(notes))
        lib.check(os.listdir(here.out) == ['backing.part'], 'beside the device lies %s', os.listdir(here.out))
        assert_no_disk(here.written)
        here.faults.say('')
        assert_refused(here.run(*here.copy_words()), 'blocked', 'godwit resume')
        resume_copies.assert_resumed(here.run('resume').expect('done'), resent=MIB)
        assert_device(here, here.written)
        lib.check(not [name for name in os.listdir(notes) if name.endswith('.journal')] and not here.listed(),
                  'it leaves %s', os.listdir(notes))


@lib.scenario()
def copy_onto_a_device_that_dies_at_its_very_end_is_no_disk():
    """All of it was written, but for what makes it look like a disk; then nothing of it is left, as of every copy that
    noted nothing yet."""
    with Here('raw') as here:
        make_recognisable(here.source)
        here.faults.say('')
        here.written = endpoints.make_device(here.world, DISK_MIB + 8, 512)
        words = ['copy', '--sync-every', '3600', '--verify', here.source, here.written]
        # The first zeroes what is to be kept.
        here.kill_when(r'^%s$' % here.written, 1, words)
        assert_no_disk(here.written)
        subprocess.run(['cmp', '-n', str((DISK_MIB - 2) * MIB), '-i', str(MIB), here.source, here.written], check=True)
        here.run(*words).expect('done')
        assert_device(here, here.written)


class LostOnDevice(Lost):
    held_sync = (r'^/dev/loop\d+$', 2)  # the first zeroes its edges
    target_options = ('--storage', '/dev')

    def prepare_source(self):
        super().prepare_source()
        self.name = self.written = endpoints.make_device(self.world, DISK_MIB + 8, 512)


@lib.scenario(sample=1, who=['source agent', 'target agent', 'link', 'command'])
def copy_onto_a_device_is_gone_on_with(who):
    """The device held other bytes. Its journal is in the state folder of the target's agent."""
    with LostOnDevice(who) as lost:
        target = lost.world.target
        lib.check([name for name in target.state_files() if name.endswith('.journal')], 'the notes are %s',
                  target.state_files())
        lib.check(not target.storage_files(), 'the storage folder has %s', target.storage_files())
        assert_no_disk(lost.written)
        resume_copies.assert_resumed(lost.command('resume').result().expect('done'), resent=MIB)
        assert_device(lost, lost.written)
        guestctl.wait_for(lambda: not lost.kept('b'), lib.PATIENCE_S, 'a target that keeps nothing', 0.2)
        lib.check(not [name for name in target.state_files() if name.endswith('.journal')], 'it leaves %s',
                  target.state_files())


@lib.scenario(sample=1, what=['bytes', 'journal'])
def device_that_is_not_as_it_was(what):
    """Somebody wrote to it meanwhile: what differs is sent again. Without its journal all is."""
    with LostOnDevice('target agent') as lost:
        if what == 'bytes':
            resume_copies.scribble(lost.written, 2 * MIB + 4096)
        else:
            [journal] = [name for name in lost.world.target.state_files() if name.endswith('.journal')]
            os.unlink(os.path.join(lost.world.target.state, journal))
        result = lost.command('resume').result().expect('done')
        if what == 'bytes':
            resume_copies.assert_resumed(result, resent=2 * MIB)
        else:
            [volume] = result.detail['volumes']
            lib.check('starts over' in volume.get('warning', ''), 'it does not say so: %s', volume)
        assert_device(lost, lost.written)


# ------------------------------------------------------------------------------------------------- chains

def make_chain(folder):
    """A base and a child side by side, whose files are copied byte by byte. The child's path."""
    base = VhdxBuild(2 * FILE_MIB * MIB)
    base.blocks = {2 * block: (PRESENT, os.urandom(MIB)) for block in range(FILE_MIB)}
    child = VhdxBuild(2 * FILE_MIB * MIB, parent=vhdx_locator(base, '.\\base.vhdx'))
    child.blocks = {2 * block + 1: (PRESENT, os.urandom(MIB)) for block in range(FILE_MIB)}
    base.write(os.path.join(folder, 'base.vhdx'))
    child.write(os.path.join(folder, 'child.avhdx'))
    return os.path.join(folder, 'child.avhdx')


def assert_chain_resumed(result, child, written):
    """It went on in the middle of the child: the base and more were there."""
    resumed = result.expect('done').detail.get('resumed') or {}
    lib.check(resumed.get('kept_bytes', 0) > os.path.getsize(os.path.join(os.path.dirname(child), 'base.vhdx'))
              and resumed['resent_bytes'] == 0, 'it did not go on: %s', result.detail)
    for name in ('base.vhdx', 'child.avhdx'):
        subprocess.run(['cmp', os.path.join(os.path.dirname(child), name), os.path.join(written, name)], check=True)
    lib.check(sorted(os.listdir(written)) == ['base.vhdx', 'child.avhdx'], 'there is %s', os.listdir(written))


class LostChain(Lost):
    held_sync = (r'child\.avhdx\.godwit-.*\.journal$', 1)

    def prepare_source(self):
        self.source = make_chain(self.world.source.storage)
        self.name, self.written, self.words = '', self.world.target.storage, []


@lib.scenario(sample=1, who=['source agent', 'target agent', 'link', 'command'])
def chain_lost_in_its_second_file_goes_on(who):
    with LostChain(who) as lost:
        lib.check(not {'base.vhdx', 'child.avhdx'} & set(lost.world.target.storage_files()),
                  'an unfinished file has its name: %s', lost.world.target.storage_files())
        result = lost.command('resume').result()
        guestctl.wait_for(lambda: not lost.kept('b'), lib.PATIENCE_S, 'a target that keeps nothing', 0.2)
        assert_chain_resumed(result, lost.source, lost.written)


class ChainHere(Here):
    def copy_words(self):
        return ['copy', '--sync-every', '1', self.source, self.out + '/']


@lib.scenario()
def chain_lost_in_its_second_file_goes_on_here():
    with ChainHere('raw') as here:
        here.source = make_chain(here.world.folder)
        here.kill_when(r'child\.avhdx\.godwit-.*\.journal$', 1)
        lib.check(sorted(os.listdir(here.out)) == left_in(here.out) and len(left_in(here.out)) == 4,
                  'the names are %s', os.listdir(here.out))
        here.faults.say('')
        assert_chain_resumed(here.run('resume'), here.source, here.out)
        lib.check(not here.listed(), 'something is kept: %s', here.listed())


@lib.scenario()
def chain_that_cannot_go_on_keeps_what_it_has():
    """Somebody else's file has the child's name: nothing is touched, and with that file gone it goes on."""
    with ChainHere('raw') as here:
        here.source = make_chain(here.world.folder)
        here.kill_when(r'base\.vhdx\.godwit-.*\.journal$', 1)
        here.faults.say('')
        kept, theirs = left_in(here.out), os.path.join(here.out, 'child.avhdx')
        with open(theirs, 'w') as handle:
            handle.write('theirs')
        refused = here.run('resume')
        lib.check(refused.status in (lib.EXIT['failed'], lib.EXIT['blocked']) and theirs in refused.error and
                  'is kept' not in refused.error, 'it says %d: %s', refused.status, refused.error)
        lib.check(left_in(here.out) == kept, 'left is %s of %s', left_in(here.out), kept)
        os.unlink(theirs)
        resumed = here.run('resume').expect('done').detail.get('resumed') or {}
        lib.check(resumed.get('kept_bytes', 0) > 0, 'it did not go on: %s', resumed)
        for name in ('base.vhdx', 'child.avhdx'):
            subprocess.run(['cmp', os.path.join(os.path.dirname(here.source), name), os.path.join(here.out, name)],
                           check=True)


# A chain that is killed between its last renames: some of its files have their names, and nobody else's may be touched.

CHAIN = ['base.vhdx', 'child.avhdx', 'top.avhdx']
NAMED = [0, 1, 2, 3]  # how many have their names


def make_chain_of_three(folder):
    """Small, so that one copy of it has no records but the last."""
    parent, name = None, None
    for number, name in enumerate(CHAIN):
        image = VhdxBuild(8 * MIB, parent=parent and vhdx_locator(parent, '.\\' + CHAIN[number - 1]))
        image.blocks = {2 * number: (PRESENT, os.urandom(MIB))}
        image.write(os.path.join(folder, name))
        parent = image
    return os.path.join(folder, name)


def named_in(folder):
    return [name for name in CHAIN if name in os.listdir(folder)]


def assert_chain(source, folder, before):
    for name in CHAIN:
        subprocess.run(['cmp', os.path.join(os.path.dirname(source), name), os.path.join(folder, name)], check=True)
    lib.check(sorted(os.listdir(folder)) == CHAIN, 'there is %s', os.listdir(folder))
    for name, status in before.items():
        after = os.stat(os.path.join(folder, name))
        lib.check((status.st_ino, status.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), '%s was touched', name)


def stats_of(folder):
    return {name: os.stat(os.path.join(folder, name)) for name in named_in(folder)}


NOTES = 5  # made, taken up, the record of each file; then which files they are


def killed_chain_here(here, named):
    """The first three syncs of the folder are of the journals' names; then each file's name is synced."""
    here.source = make_chain_of_three(here.world.folder)
    if named:
        here.kill_when(r'/out$', 2 + named)
    else:
        here.kill_when(r'/partial$', NOTES)
    lib.check(named_in(here.out) == CHAIN[:named], 'the names are %s', os.listdir(here.out))
    here.faults.say('')


@lib.scenario(sample=1, named=NAMED)
def chain_killed_between_its_names_goes_on_here(named):
    with ChainHere('raw') as here:
        killed_chain_here(here, named)
        before = stats_of(here.out)
        resumed = here.run('resume').expect('done').detail['resumed']
        lib.check(resumed['resent_bytes'] == 0, 'it sent again: %s', resumed)
        assert_chain(here.source, here.out, before)
        lib.check(not here.listed(), 'something is kept: %s', here.listed())


@lib.scenario(sample=1, what=['other file', 'changed', 'source'])
def chain_whose_finished_file_is_not_known_is_refused(what):
    """Whatever it is now, it is not touched, nor is anything else."""
    with ChainHere('raw') as here:
        killed_chain_here(here, 1)
        base, theirs = os.path.join(here.out, CHAIN[0]), os.path.join(here.world.folder, CHAIN[0])
        if what == 'other file':
            subprocess.run(['cp', base, base + '.new'], check=True)
            os.rename(base + '.new', base)
        elif what == 'changed':
            resume_copies.scribble(base, MIB)
        else:
            os.utime(theirs)
        before, kept = os.stat(base), sorted(os.listdir(here.out))
        assert_refused(here.run('resume'), 'failed', base + ' is there already')
        after = os.stat(base)
        lib.check((before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns) and
                  sorted(os.listdir(here.out)) == kept, 'there is %s of %s', os.listdir(here.out), kept)
        [one] = here.listed()
        here.run('cancel', one['epoch'][:12])
        lib.check(os.listdir(here.out) == ([] if what == 'source' else [CHAIN[0]]), 'cancel leaves %s',
                  os.listdir(here.out))


@lib.scenario(sample=1, what=['incomplete', 'linked', 'whole', 'in use', 'moved on'])
def cancel_of_a_chain_killed_between_its_names(what):
    """A part of a chain is of no use. A whole one is its owner's, whatever was done with its files since, and so is a file
    with another name."""
    left = {'incomplete': [], 'linked': [CHAIN[0], 'mine'], 'moved on': CHAIN[:2] + ['mine']}.get(what, CHAIN)
    with ChainHere('raw') as here:
        killed_chain_here(here, 1 if what in ('incomplete', 'linked') else 3)
        base, top = (os.path.join(here.out, name) for name in (CHAIN[0], CHAIN[2]))
        if what == 'in use':
            with open(top, 'r+b') as handle:
                handle.write(b'!')
        elif what == 'linked':
            os.link(base, os.path.join(here.out, 'mine'))
        elif what == 'moved on':
            os.rename(top, os.path.join(here.out, 'mine'))
        [one] = here.listed()
        here.run('cancel', one['epoch'][:12])
        lib.check(sorted(os.listdir(here.out)) == sorted(left), 'it leaves %s', os.listdir(here.out))


class LostBetweenNames(Lost):
    def __init__(self, who, named):
        super().__init__(who)
        self.held_sync = (r'/storage$', 2 + named)

    def prepare_source(self):
        self.source = make_chain_of_three(self.world.source.storage)
        self.name, self.written, self.words = '', self.world.target.storage, []


@lib.scenario(sample=1, named=NAMED[1:])
def chain_lost_between_its_names_goes_on(named):
    with LostBetweenNames('target agent', named) as lost:
        lib.check(named_in(lost.written) == CHAIN[:named], 'the names are %s', os.listdir(lost.written))
        before = stats_of(lost.written)
        resumed = lost.command('resume').result().expect('done').detail['resumed']
        lib.check(resumed['resent_bytes'] == 0, 'it sent again: %s', resumed)
        guestctl.wait_for(lambda: not lost.kept('b'), lib.PATIENCE_S, 'a target that keeps nothing', 0.2)
        assert_chain(lost.source, lost.written, before)


# ------------------------------------------------------------------------------------------- loss of power

class LostPower(Lost):
    """The target's storage loses power with the agent; the notes of the agent are elsewhere."""
    held_sync = (r'\.part$', 2)

    def prepare_source(self):
        super().prepare_source()
        self.faults = FaultMount(self.world, self.world.target.storage, power=True)

    def take_away(self, copy):
        super().take_away(copy)
        self.faults.lose_power()


@lib.scenario(sample=1, target=sorted(TARGETS))
def target_that_loses_power_has_what_its_journal_says(target):
    with LostPower('target agent', target) as lost:
        lib.check(lost.name not in lost.world.target.storage_files(), 'an unfinished image has its name')
        resume_copies.assert_resumed(lost.command('resume').result().expect('done'), resent=0)
        resume_copies.assert_same(lost.source, lost.written, target)
        guestctl.wait_for(lambda: lost.world.target.storage_files() == [lost.name], lib.PATIENCE_S,
                          'a target that has the image alone', 0.2)


# ------------------------------------------------------------------------------------------- the very end

@lib.scenario(sample=1, target=sorted(TARGETS))
def copy_killed_when_it_had_its_name(target):
    """The image is whole, and known: resume compares it and is done."""
    with Here(target) as here:
        here.kill_when(r'/out$', 1)  # the first such sync is of the journal's name
        here.faults.say('')
        before = os.stat(here.written)
        resume_copies.assert_resumed(here.run('resume').expect('done'))
        after = os.stat(here.written)
        lib.check((before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), 'it was touched')
        resume_copies.assert_same(here.source, here.written, target)
        lib.check(os.listdir(here.out) == [os.path.basename(here.written)] and not here.listed(), 'it leaves %s',
                  os.listdir(here.out))


@lib.scenario(sample=1, target=sorted(TARGETS))
def file_of_somebody_else_has_the_name_of_a_killed_copy(target):
    """resume does not touch it, and says so; cancel removes the rest."""
    with Here(target) as here:
        here.kill_when(r'/out$', 1)
        here.faults.say('')
        subprocess.run(['cp', here.written, here.written + '.new'], check=True)
        os.rename(here.written + '.new', here.written)
        [kept] = here.listed()
        before = os.stat(here.written)
        assert_refused(here.run('resume'), 'failed', here.written + ' is there already', 'godwit cancel')
        here.run('cancel', kept['epoch'][:12])
        after = os.stat(here.written)
        lib.check((before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), 'it was touched')
        lib.check(os.listdir(here.out) == [os.path.basename(here.written)] and not here.listed(), 'it leaves %s',
                  os.listdir(here.out))


@lib.scenario()
def image_that_cannot_be_read_back_never_has_its_name():
    """It is verified as what it is until then: reading the part fails, and the copy with it."""
    with Here('raw') as here:
        here.faults.say('read EIO .part')
        assert_refused(here.run(*here.copy_words(), '--verify'), 'failed', 'Input/output error')
        lib.check(not os.listdir(here.out) and not here.listed(), 'it leaves %s', os.listdir(here.out))
        here.faults.say('')
        here.run(*here.copy_words(), '--verify').expect('done')
        resume_copies.assert_same(here.source, here.written, 'raw')


class LostWhileVerified(Lost):
    """Every byte is there, and the target is about to read them back."""

    def copy(self, *words):
        return super().copy('--verify', *words)

    def lose(self):
        world = self.world
        world.source.limit_rate(SLOW_MBIT)  # so long that there are records
        world.target.holder.hold(' is read back')
        copy = self.copy()
        world.target.await_held('the verification', copy)
        self.there = world.target.storage_files()
        self.take_away(copy)
        world.target.release()
        self.result = copy.result()
        self.bring_back()
        world.source.limit_rate(None)


@lib.scenario(sample=1, target=sorted(TARGETS))
def copy_lost_while_it_is_verified(target):
    """What nobody has verified has no name that anybody could take for a verified one's. It is gone on with."""
    with LostWhileVerified('target agent', target) as lost:
        lib.check(lost.name not in lost.there and lost.name not in lost.world.target.storage_files(),
                  'it has its name: %s', lost.there)
        resumed = lost.command('resume').result().expect('done').detail['resumed']
        lib.check(resumed['kept_bytes'] > 0, 'it did not go on: %s', resumed)
        resume_copies.assert_same(lost.source, lost.written, target)
        guestctl.wait_for(lambda: lost.world.target.storage_files() == [lost.name], lib.PATIENCE_S,
                          'a target that has the image alone', 0.2)


class LostAtItsEnd(Lost):
    """The target has given the image its name and has not said so: the folder is about to be synced."""
    held_sync = (r'/storage$', 1)  # the first such sync is of the journal's name

    def take_away(self, copy):
        source, target = self.world.source, self.world.target
        resume_copies.assert_same(self.source, self.written, self.target)
        if self.who == 'target agent':
            super().take_away(copy)
            return
        # The source does not hear of it any more, whatever the target says.
        os.kill(source.agent.pid, signal.SIGSTOP)
        target.release()
        guestctl.wait_for(lambda: target.storage_files() == [self.name], lib.PATIENCE_S, 'a finished target', 0.2)
        super().take_away(copy)


@lib.scenario(sample=1, who=['target agent', 'source agent'], target=['raw', 'vhdx'])
def copy_lost_when_the_target_had_finished_it(who, target):
    with LostAtItsEnd(who, target) as lost:
        storage = lost.world.target
        before = os.stat(lost.written)
        result = lost.command('resume').result()
        if who == 'target agent':
            resume_copies.assert_resumed(result.expect('done'))
        else:
            assert_refused(result, 'blocked', lost.name, 'exists already')  # the target has forgotten it
            [kept] = lost.command('resume', '--list').result().events[-1]['kept']
            answer = lost.command('cancel', kept['epoch'][:12]).result()
            lib.check(answer.status == 0, 'cancel: %s', answer.errors)
        guestctl.wait_for(lambda: storage.storage_files() == [lost.name] and not lost.kept('b'), lib.PATIENCE_S,
                          'a target with the image alone', 0.2)
        after = os.stat(lost.written)
        lib.check((before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), 'it was touched')
        resume_copies.assert_same(lost.source, lost.written, target)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=4))
