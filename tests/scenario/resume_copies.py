#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies that are lost and gone on with by godwit resume: between two hosts and on one, killed where their journals
are written, cut off, and after a loss of power on a file system that keeps nothing but what was synced (faultfs.py).
What arrives is compared by qemu-img."""
import contextlib
import os
import random
import re
import signal
import subprocess
import sys

import hold
import lib

guestctl = lib.guestctl
HERE = os.path.dirname(os.path.abspath(__file__))
MIB = lib.MIB
DISK_MIB = 128
DATA_MIB = 64
SLOW_MS = 25    # per write on one host, of at most 256 KiB: six seconds in all
SLOW_MBIT = 60  # between two: nine seconds
TARGETS = {'raw': ['--format', 'raw'], 'vhdx': ['--format', 'vhdx'],
           'fixed': ['--format', 'vhdx', '--preallocate']}


def make_source(path, seed=5):
    """Data in pieces all over the disk, so that there is something behind every place where it may be lost."""
    generator = random.Random(seed)
    with open(path, 'wb') as handle:
        handle.truncate(DISK_MIB * MIB)
        for place in range(DATA_MIB):
            handle.seek(place * (DISK_MIB // DATA_MIB) * MIB)
            handle.write(generator.randbytes(MIB))
    return path


def image_format(target):
    return 'raw' if target == 'raw' else 'vhdx'


def assert_same(source, written, target):
    answer = subprocess.run(['qemu-img', 'compare', '-f', 'raw', '-F', image_format(target), source, written],
                            capture_output=True, text=True, check=False)
    lib.check(answer.returncode == 0, 'qemu-img compare: %s', answer.stdout + answer.stderr)
    if target != 'raw':
        answer = subprocess.run(['qemu-img', 'check', '-f', 'vhdx', written], capture_output=True, text=True,
                                check=False)
        lib.check(answer.returncode == 0, 'qemu-img check: %s', answer.stdout + answer.stderr)


def assert_resumed(result, resent=0):
    """It went on, sent less than all, and sent again no more than is said."""
    resumed = result.detail.get('resumed')
    lib.check(resumed and resumed['kept_bytes'] > 0, 'it did not go on: %s', result.detail)
    lib.check(result.progress['bytes_sent'] < DATA_MIB * MIB, 'it sent all of it again: %s', result.progress)
    lib.check(resumed['resent_bytes'] == resent if resent is not None else resumed['resent_bytes'] > 0,
              'sent again: %s', resumed)


def left_in(folder):
    return sorted(name for name in os.listdir(folder) if '.godwit-' in name)


# ------------------------------------------------------------------------------------------ on one host

class FaultMount:
    """A folder on faultfs, which keeps nothing but what was synced when power is to be lost (power)."""

    def __init__(self, world, folder, power=False):
        self.world, self.folder = world, folder
        self.behind = folder + '-behind'
        self.kept = folder + '-kept' if power else None
        self.control = folder + '-faults'
        for name in [folder, self.behind] + ([self.kept] if power else []):
            os.makedirs(name, exist_ok=True)
        self.say('')
        self.mount()

    def say(self, *lines):
        with open(self.control + '.new', 'w') as handle:
            handle.write('\n'.join(lines))
        os.rename(self.control + '.new', self.control)

    def mount(self):
        self.server = subprocess.Popen([os.path.join(HERE, 'faultfs.py'), self.behind, self.folder, self.control]
                                       + ([self.kept] if self.kept else []),
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.world.stack.callback(guestctl.end_process, self.server.pid, child=self.server)
        self.world.stack.callback(subprocess.run, ['umount', '-l', self.folder], check=False,
                                  stderr=subprocess.DEVNULL)
        if self.server.stdout.readline().strip() != 'mounted':
            raise lib.Skip('no file system of our own can be mounted here (FUSE): %s'
                           % self.server.stderr.read().strip()[-200:])

    def lose_power(self):
        """What was not synced is gone, and the folder is a plain one."""
        self.server.send_signal(signal.SIGUSR1)
        # One that was just about to wait for a request sees the signal with the next one.
        with contextlib.suppress(OSError):
            os.stat(os.path.join(self.folder, 'nothing'))
        self.server.wait(lib.PATIENCE_S)
        subprocess.run(['umount', '-l', self.folder], check=True)
        os.rmdir(self.folder)
        os.rename(self.kept, self.folder)


class Here(lib.Prepared):
    """A copy on one host without an agent, to a folder on faultfs."""

    def __init__(self, target, power=False):
        self.target = target
        self.world = lib.World()
        self.power = power

    def prepare(self):
        folder = self.world.folder
        self.source = make_source(os.path.join(folder, 'source.raw'))
        self.out = os.path.join(folder, 'out')
        self.written = os.path.join(self.out, 'disk.' + image_format(self.target))
        self.environment = dict(os.environ, GODWIT_STATE_HOME=os.path.join(folder, 'home'))
        self.environment.pop('GODWIT_SOCKET', None)
        self.faults = FaultMount(self.world, self.out, self.power)
        self.faults.say('slow %d .part' % SLOW_MS)

    def copy_words(self):
        return ['copy', '--sync-every', '1', *TARGETS[self.target], self.source, self.written]

    def command(self, *words):
        command = lib.Command([lib.godwit_binary(), words[0], '--json', *words[1:]], self.environment)
        self.world.stack.callback(command.end)
        return command

    def run(self, *words):
        return self.command(*words).result()

    def listed(self):
        return self.run('resume', '--list').events[-1]['kept']

    def kill_when(self, pattern, passing=0, words=()):
        """The copy, or what these words ask for, dies just before it syncs such a file, after so many such syncs that
        were done."""
        holder = hold.Holder()
        holder.hold_sync(pattern, passing)
        launcher, connection = holder.launcher()
        process = subprocess.Popen(launcher + [lib.godwit_binary()] + (list(words) or self.copy_words()),
                                   env=self.environment, pass_fds=[connection.fileno()],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, start_new_session=True)
        connection.close()
        self.world.stack.callback(guestctl.end_process, process.pid, child=process)
        lib.check(holder.wait(lib.PATIENCE_S), 'no sync of %s: %s', pattern, process.poll())
        process.kill()
        process.wait(lib.PATIENCE_S)
        holder.release()


# place: (the file that is about to be synced, how many such syncs were done, is there anything to go on with?)
PLACES = {'before the first record': (r'\.part$', 0, False), 'at the first record': (r'\.journal$', 0, False),
          'before the third record': (r'\.part$', 2, True), 'at the third record': (r'\.journal$', 2, True)}


@lib.scenario(sample=1, place=sorted(PLACES), target=sorted(TARGETS))
def killed_copy_goes_on(place, target):
    pattern, passing, is_kept = PLACES[place]
    with Here(target) as here:
        here.kill_when(pattern, passing)
        lib.check(left_in(here.out), 'there is no part')
        kept = here.listed()
        lib.check(bool(kept) == is_kept, 'kept: %s', kept)
        here.faults.say('')
        if is_kept:
            again = here.run(*here.copy_words())
            lib.check(again.status == lib.EXIT['blocked'] and 'godwit resume ' + kept[0]['epoch'][:12] in again.error,
                      'the same copy typed again: %s', again.error)
            assert_resumed(here.run('resume').expect('done'))
        else:
            here.run(*here.copy_words()).expect('done')
        assert_same(here.source, here.written, target)
        lib.check(not left_in(here.out) and not here.listed(), 'it leaves %s', left_in(here.out))


def losing_power(target, *faults):
    here = Here(target, power=True)
    here.__enter__()
    try:
        here.faults.say('slow %d .part' % SLOW_MS, *faults)
        here.kill_when(r'\.part$', 3)
        here.faults.lose_power()
    except BaseException:
        here.__exit__(*sys.exc_info())
        raise
    return here


@lib.scenario(sample=1, target=sorted(TARGETS))
def power_loss_costs_no_more_than_was_not_synced(target):
    """All that the journal says is there, although everything that was not synced is not."""
    here = losing_power(target)
    with Entered(here):
        assert_resumed(here.run('resume').expect('done'), resent=0)
        assert_same(here.source, here.written, target)
        lib.check(not left_in(here.out), 'it leaves %s', left_in(here.out))


@lib.scenario(sample=1, target=['raw', 'fixed'])
def record_before_its_data_is_found_out(target):
    """The negative control: syncs of the image do nothing, so that the journal is ahead of its data, as if it had been
    written first. The count that the scenario above wants to be zero is not, and the copy is right all the same."""
    here = losing_power(target, 'lie .part')
    with Entered(here):
        detail = here.run('resume').expect('done').detail
        lib.check(detail['resumed']['resent_bytes'] > 0 or 'restarted' in detail, 'nothing was missed: %s', detail)
        assert_same(here.source, here.written, target)


@lib.scenario()
def what_was_cancelled_stays_gone_without_power():
    """No note names it any more: nobody would remove what comes back."""
    with Here('raw', power=True) as here:
        here.kill_when(r'\.part$', 2)
        [kept] = here.listed()
        here.run('cancel', kept['epoch'][:12])
        here.faults.lose_power()
        lib.check(not left_in(here.out), 'it is back: %s', left_in(here.out))


class Entered:
    """with for what was entered already."""

    def __init__(self, thing):
        self.thing = thing

    def __enter__(self):
        return self.thing

    def __exit__(self, *error):
        return self.thing.__exit__(*error)


def scribble(path, offset, count=4096):
    with open(path, 'r+b') as handle:
        handle.seek(offset)
        handle.write(os.urandom(count))


@lib.scenario(sample=1, what=['journal', 'image', 'source', 'part gone'])
def what_is_not_as_it_was(what):
    """Damage is found. Of the image it costs what is damaged; otherwise the copy starts over, and says why."""
    with Here('raw') as here:
        here.kill_when(r'\.part$', 2)
        here.faults.say('')
        [journal] = [os.path.join(here.out, name) for name in left_in(here.out) if name.endswith('.journal')]
        [part] = [os.path.join(here.out, name) for name in left_in(here.out) if name.endswith('.part')]
        if what == 'journal':
            scribble(journal, 0, os.path.getsize(journal))
        elif what == 'image':
            scribble(part, 4 * MIB + 4096)
        elif what == 'source':
            scribble(here.source, 2 * MIB)
        else:
            os.unlink(part)
        result = here.run('resume').expect('done')
        if what == 'image':
            assert_resumed(result, resent=MIB)
        else:
            lib.check('starts over' in result.detail.get('restarted', ''), 'it does not say so: %s', result.detail)
        assert_same(here.source, here.written, 'raw')
        lib.check(not left_in(here.out), 'it leaves %s', left_in(here.out))


@lib.scenario()
def cancel_removes_what_a_killed_copy_left():
    with Here('vhdx') as here:
        here.kill_when(r'\.part$', 1)
        [kept] = here.listed()
        here.run('cancel', kept['epoch'][:12])
        lib.check(not here.listed() and not os.listdir(here.out), 'it leaves %s', os.listdir(here.out))
        answer = here.run('resume', kept['epoch'][:12])
        lib.check(answer.status != 0, 'it was resumed')


# --------------------------------------------------------------------------------------- between two hosts

class Lost(lib.Prepared):
    """A copy to another host that was lost after some of it was durable there."""
    held_sync = (r'\.part$', 1)  # where the target stops: the first record is written
    target_options = ()
    held = 'b'

    def __init__(self, who, target='raw'):
        self.who, self.target = who, target
        self.world = lib.World(trusted=True, held=self.held)

    def prepare(self):
        self.prepare_source()
        self.world.start_agents(target=self.target_options)
        if self.who == 'command':
            self.world.source.stop_agent()
        self.lose()

    def prepare_source(self):
        self.source = make_source(os.path.join(self.world.source.storage, 'source.raw'))
        self.name = 'disk.' + image_format(self.target)
        self.written = os.path.join(self.world.target.storage, self.name)
        self.words = TARGETS[self.target]

    def command(self, name, *words):
        host = self.world.source
        environment = dict(host.environment())
        if self.who == 'command':
            environment.pop('GODWIT_SOCKET', None)
            environment['GODWIT_STATE_HOME'] = os.path.join(self.world.folder, 'home')
        command = lib.Command(host.enter() + [lib.godwit_binary(), name, '--json', *words], environment)
        self.world.stack.callback(command.end)
        return command

    def copy(self, *words):
        return self.command('copy', '--psk', self.world.psk, '--trusted-network', lib.NETWORK, '--sync-every', '1',
                            '--reconnect-timeout', '2', *self.words, *words, self.source,
                            '%s:%s' % (self.world.target.address, self.name))

    def kept(self, side):
        [agent] = self.world.hosts[side].command('status').result().events[-1]['agents']
        return [one for one in agent['partials'] if one['side'] == ('source' if side == 'a' else 'target')]

    def lose(self):
        world = self.world
        world.source.limit_rate(SLOW_MBIT)
        world.target.holder.hold_sync(*self.held_sync)
        copy = self.copy()
        world.target.await_held('the sync', copy)
        guestctl.wait_for(lambda: self.kept('b') and self.kept('b')[0]['bytes'] > 0, lib.PATIENCE_S,
                          'durable bytes at the target', 0.2)
        self.take_away(copy)
        world.target.release()
        self.result = copy.result()
        self.bring_back()
        world.source.limit_rate(None)

    def take_away(self, copy):
        world = self.world
        if self.who == 'source agent':
            world.source.stop_agent(kill=True)
        elif self.who == 'target agent':
            world.target.stop_agent(kill=True)
        elif self.who == 'command':
            copy.process.kill()
        else:
            for host in world.hosts.values():
                host.set_link('down')
            for host in world.hosts.values():
                host.inside('ss', '-K', 'dport', '=', ':13560', check=False)
                host.inside('ss', '-K', 'sport', '=', ':13560', check=False)

    def bring_back(self):
        if self.who == 'source agent':
            self.world.source.start_agent()
        elif self.who == 'target agent':
            self.world.target.start_agent(*self.target_options)
        elif self.who == 'link':
            for host in self.world.hosts.values():
                host.set_link('up')


@lib.scenario(sample=1, who=['source agent', 'target agent', 'link', 'command'], target=sorted(TARGETS))
def lost_copy_goes_on(who, target):
    with Lost(who, target) as lost:
        if who in ('target agent', 'link'):
            lib.check(lost.result.status == lib.EXIT['failed'] and 'godwit resume' in lost.result.error,
                      'it says %s', lost.result.error)
        again = lost.copy().result()
        lib.check(again.status == lib.EXIT['blocked'] and re.search('godwit resume [0-9a-f]{12}', again.error),
                  'the same copy typed again: %s', again.error)
        result = lost.command('resume').result().expect('done')
        assert_resumed(result)
        assert_same(lost.source, lost.written, target)
        guestctl.wait_for(lambda: not lost.kept('b'), lib.PATIENCE_S, 'a target that keeps nothing', 0.2)
        lib.check(lost.world.target.storage_files() == [lost.name], 'the target has %s',
                  lost.world.target.storage_files())


@lib.scenario(sample=1, who=['target agent', 'command'])
def cancel_of_a_lost_copy_removes_it_on_both_hosts(who):
    with Lost(who) as lost:
        [kept] = lost.command('resume', '--list').result().events[-1]['kept']
        lib.check(lost.world.target.storage_files(), 'there was nothing to remove')
        answer = lost.command('cancel', kept['epoch'][:12]).result()
        lib.check(answer.status == 0, 'cancel: %s', answer.errors)
        guestctl.wait_for(lambda: not lost.world.target.storage_files(), lib.PATIENCE_S, 'an empty target', 0.2)
        lib.check(not lost.command('resume', '--list').result().events[-1]['kept'], 'something is kept')


@lib.scenario()
def target_that_was_cleared_is_copied_to_anew():
    """The target's owner cancelled it: the resumed copy says so and starts over."""
    with Lost('target agent', 'vhdx') as lost:
        [kept] = lost.kept('b')
        answer = lost.world.target.command('cancel', kept['epoch'][:12]).result()
        lib.check(answer.status == 0 and not lost.world.target.storage_files(), 'cancel: %s', answer.errors)
        result = lost.command('resume').result().expect('done')
        [volume] = result.detail['volumes']
        lib.check('starts over' in volume.get('warning', ''), 'it does not say so: %s', volume)
        assert_same(lost.source, lost.written, 'vhdx')


# ------------------------------------------------------- a resume that is lost before it was accepted on both sides

def partial_notes(host):
    return [name for name in host.state_files() if name.startswith('partial/')]


class LostTwice(Lost):
    held = 'ab'

    def resume_and_kill(self, side, pattern, passing):
        """That side's agent dies just before such a sync of the resume's; then it is there again."""
        host = self.world.hosts[side]
        host.holder.hold_sync(pattern, passing)
        resumed = self.command('resume')
        host.await_held('the sync', resumed)
        host.stop_agent(kill=True)
        host.release()
        lib.check(resumed.result().status != 0, 'it was not lost')
        if side == 'a':
            host.start_agent()
        else:
            self.bring_back()


# (whose agent, the sync that it dies before, how many such syncs were done)
WINDOWS = {'target noted': ('b', r'/partial$', 0), 'target replaced': ('b', r'/partial$', 1),
           'source heard': ('a', r'\.source\.new$', 0), 'source noted': ('a', r'/partial$', 0)}


@lib.scenario(sample=1, window=sorted(WINDOWS), target=['raw', 'fixed'])
def resume_that_is_lost_while_it_is_accepted_loses_nothing(window, target):
    """Twice at the same place, too: the source knows no attempt but the first, or the second already."""
    with LostTwice('target agent', target) as lost:
        world = lost.world
        for _ in range(2):
            lost.resume_and_kill(*WINDOWS[window])
            [kept] = lost.kept('a')
            lib.check(len(lost.kept('b')) == 1, 'the target keeps %s', lost.kept('b'))
            parts = [name for name in world.target.storage_files() if name.endswith('.part')]
            lib.check(len(parts) == 1, 'the parts are %s', parts)
        assert_resumed(lost.command('resume', kept['epoch'][:12]).result().expect('done'))
        assert_same(lost.source, lost.written, target)
        guestctl.wait_for(lambda: not partial_notes(world.target) and not partial_notes(world.source), lib.PATIENCE_S,
                          'hosts that keep nothing', 0.2)
        lib.check(world.target.storage_files() == [lost.name], 'the target has %s', world.target.storage_files())


@lib.scenario(sample=1, passing=[1, 2, 3], ends=['resumed', 'cancelled'])
def resume_here_that_is_killed_while_it_begins_loses_nothing(passing, ends):
    with Here('vhdx') as here:
        here.kill_when(r'\.part$', 2)
        for _ in range(2):
            here.kill_when(r'/partial$', passing, ['resume'])
            [kept] = here.listed()
            lib.check(len(left_in(here.out)) == 2, 'there is %s', left_in(here.out))
        here.faults.say('')
        if ends == 'resumed':
            assert_resumed(here.run('resume').expect('done'))
            assert_same(here.source, here.written, 'vhdx')
        else:
            here.run('cancel', kept['epoch'][:12])
            lib.check(not os.listdir(here.out), 'it leaves %s', os.listdir(here.out))
        folder = os.path.join(here.environment['GODWIT_STATE_HOME'], 'copies', 'partial')
        notes = [name for name in os.listdir(folder) if not name.endswith('.lock')]
        lib.check(not left_in(here.out) and not notes, 'it leaves %s, %s', left_in(here.out), notes)


# ------------------------------------------------------------- a state folder whose syncs fail for a moment

@lib.scenario(sample=1, passing=[0, 1])
def resume_that_the_target_cannot_note_loses_nothing(passing):
    """Neither when its note cannot be written, nor when the earlier one's removal cannot be made durable."""
    with LostTwice('target agent') as lost:
        target = lost.world.target
        target.holder.fail_sync(r'/partial$', passing)
        failed = lost.command('resume').result()
        lib.check(failed.status != 0 and 'Input/output error' in failed.error, 'it says %s', failed.error)
        [kept] = guestctl.wait_for(lambda: lost.kept('a'), lib.PATIENCE_S, 'the source keeps its note', 0.2)
        lib.check(len([name for name in target.storage_files() if name.endswith('.part')]) == 1, 'the target has %s',
                  target.storage_files())
        assert_resumed(lost.command('resume', kept['epoch'][:12]).result().expect('done'))
        assert_same(lost.source, lost.written, 'raw')


@lib.scenario(sample=1, passing=[0, 1, 2, 3])
def resume_here_that_cannot_be_noted_loses_nothing(passing):
    with Here('raw') as here:
        here.kill_when(r'\.part$', 2)
        here.faults.say('')
        holder = hold.Holder()
        holder.fail_sync(r'/partial$', passing)
        launcher, connection = holder.launcher()
        answer = subprocess.run(launcher + [lib.godwit_binary(), 'resume'], env=here.environment, check=False,
                                pass_fds=[connection.fileno()], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        connection.close()
        if answer.returncode != 0:
            lib.check('Input/output error' in answer.stderr, 'it says %s', answer.stderr)
            assert_resumed(here.run('resume').expect('done'))
        lib.check(passing == 3 or answer.returncode, 'nothing failed: %s', answer.stdout)
        assert_same(here.source, here.written, 'raw')
        lib.check(not left_in(here.out) and not here.listed(), 'it leaves %s', left_in(here.out))


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=5))
