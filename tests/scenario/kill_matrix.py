#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9, or a cut, at every state of a live move (kill_table.py says what must come of it). The
move is stopped exactly at the state by holding the log line that says it (hold.py)."""
import atexit
import contextlib
import os
import re
import signal
import sqlite3
import sys
import time

import kill_table
import lib
from failures import KEEPS_NOTHING

SIZE = {'memory_mib': 64, 'disk_mib': 32, 'fill_mib': 4, 'trusted': True, 'image_format': 'vhdx', 'held': 'ab',
        'workload': {'pages_per_tick': 50, 'writes_per_tick': 8, 'reads_per_tick': 2}}
# What both journals say in the end (None: nothing of that move).
FINAL = {'S': ({'CLOSED', None}, {'DISCARDED', None}),
         'N': ({'CLOSED', None}, {'DISCARDED', None}),
         'T': ({'DONE'}, {'RUNNING'}),
         'X': ({'DONE'}, {'RUNNING'}),
         'D': ({'COMMITTED'}, {'LOST'})}


class Arena:
    """A world whose agents can be held. It serves one case after the other as long as the guest runs
    on the source and everything is as it was. with_effects: they can be killed at any of their effects."""

    def __init__(self, with_effects=False):
        self.with_effects = with_effects
        self.world = None
        self.stack = None
        atexit.register(self.drop)

    def ready(self):
        if self.world:
            return
        self.stack = contextlib.ExitStack()
        self.world = self.stack.enter_context(lib.World(**SIZE))
        for host in self.world.hosts.values():
            host.holder.with_effects = self.with_effects
        self.world.start_agents(KEEPS_NOTHING, KEEPS_NOTHING)
        self.world.start_guest()
        self.listing = self.world.listing()

    def drop(self, *error):
        if self.stack:
            self.stack.__exit__(*(error or (None, None, None)))
        self.world = self.stack = None


ARENA = Arena()


def final_state(host, epoch, side):
    """The newest state in that host's journal, read without godwit."""
    path = os.path.join(host.state, 'journal.db')
    with contextlib.closing(sqlite3.connect('file:%s?mode=ro' % path, uri=True)) as database:
        found = database.execute('SELECT state FROM migration WHERE epoch = ? AND side = ?',
                                 (epoch, side)).fetchone()
    return found[0] if found else None


def epochs(world):
    found = set()
    for host in world.hosts.values():
        path = os.path.join(host.state, 'journal.db')
        with contextlib.closing(sqlite3.connect('file:%s?mode=ro' % path, uri=True)) as database:
            found |= {row[0] for row in database.execute('SELECT epoch FROM migration')}
    return found


class Case:
    def __init__(self, arena, victim, state):
        self.arena, self.world, self.victim, self.state = arena, arena.world, victim, state
        self.move = None
        self.is_cut = False
        self.word = None  # of a person: godwit resolve
        self.dead = set()
        self.known = epochs(self.world)

    # --------------------------------------------------------------------------- getting there

    def host(self, side):
        return self.world.hosts[side]

    def host_of(self, state):
        return self.host(kill_table.TABLE[state][0])

    def stop_at(self, state):
        self.host_of(state).hold(state)
        self.move = self.world.start_move()
        self.host_of(state).await_held(state, self.move)

    def go_on_to(self, state, from_state):
        """From one held state to the next one."""
        self.host_of(state).hold(state)
        self.host_of(from_state).holder.release(forget=False)
        self.host_of(state).await_held(state, self.move)

    def plain(self):
        self.stop_at(self.state)

    def cancelled(self):
        self.stop_at('memory')
        job = self.world.source.running_job()
        lib.check(self.world.source.command('cancel', job).result().status == 0, 'cancel failed')
        self.go_on_to(self.state, 'memory')

    def source_without_qemu(self):
        self.stop_at('memory')
        self.kill_qemu('SQ')
        self.go_on_to(self.state, 'memory')

    def cut_at_the_commit(self):
        self.stop_at('COMMITTED')
        self.cut()
        self.go_on_to(self.state, 'COMMITTED')

    def failing_journal(self):
        self.stop_at('COMMITTING')
        self.world.source.holder.fail_sync(r'/journal\.db')
        self.go_on_to(self.state, 'COMMITTING')

    def owner_without_qemu(self):
        self.stop_at('OWNING')
        self.kill_qemu('TQ')
        self.go_on_to(self.state, 'OWNING')

    def lost_owner(self, state=None):
        """A second life of the target's agent that finds its QEMU gone, which the first may have
        continued."""
        state = state or self.state
        target = self.world.target
        self.stop_at('OWNER')
        target.agent.kill()
        self.kill_qemu('TQ')
        target.stop_agent()
        target.holder.release()
        self.host_of(state).hold(state)
        target.start_agent()
        self.host_of(state).await_held(state, self.move)

    def kept_at_the_source(self):
        """A person tells the target, whose owner is lost, that the source keeps the VM."""
        target = self.world.target
        self.lost_owner('LOST')
        target.release()
        [epoch] = epochs(self.world) - self.known
        lib.guestctl.wait_for(lambda: final_state(target, epoch, 1) == 'LOST', lib.PATIENCE_S, 'LOST')
        target.hold(self.state)
        # An agent that has the move in hand at that moment wants to be told again.
        deadline = time.monotonic() + lib.PATIENCE_S
        while not target.holder.wait(1):
            lib.check(time.monotonic() < deadline, 'the word was not taken: %s', target.agent_log()[-1000:])
            if not self.word or self.word.process.poll() is not None:
                self.word = target.command('resolve', epoch, '--keep', 'source', '--yes')
                self.world.stack.callback(self.word.end)

    # ---------------------------------------------------------------------------- what happens

    def kill_qemu(self, victim):
        if victim == 'SQ':
            pids = [self.world.guest.pid]
        else:
            pids = [pid for pid, _ in self.world.target.qemus()]
        lib.check(len(pids) == 1, 'there are %d QEMUs to kill', len(pids))
        os.kill(pids[0], signal.SIGKILL)
        self.dead.add(victim)

    def cut(self):
        for host in self.world.hosts.values():
            host.set_link('down')
        for host in self.world.hosts.values():
            host.inside('ss', '-K', 'sport', '=', ':13560', check=False)
            host.inside('ss', '-K', 'dport', '=', ':13560', check=False)
        self.is_cut = True

    def mend(self):
        for host in self.world.hosts.values():
            host.set_link('up')

    def strike(self):
        if self.victim in ('SQ', 'TQ'):
            if self.victim == 'SQ' or self.world.target.qemus():
                self.kill_qemu(self.victim)
        elif self.victim == 'L':
            self.cut()
        else:
            host = self.host('a' if self.victim == 'SA' else 'b')
            host.stop_agent(kill=True)
            self.dead.add(self.victim)

    # ------------------------------------------------------------------------------- verdicts

    def settle(self):
        """Everything goes on; what died starts again; the command's result."""
        for host in self.world.hosts.values():
            host.holder.release()
        if self.is_cut:
            deadline = time.monotonic() + 2
            while self.move.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            self.mend()
        if self.victim == 'TA':
            time.sleep(0.2)
            self.world.target.start_agent()
        result = self.move.result()
        if self.victim == 'SA':
            self.check_guard()
            self.world.source.start_agent()
        return result

    def check_guard(self):
        """Without its agent the guest goes on by itself when the guard had not been told otherwise."""
        is_early = self.state in ('plan', 'disks', 'memory', 'COPYING', 'STOPPING', 'STOPPED',
                                  'SWAPPING', 'SWAPPED', 'WAITING', 'CHECKING',
                                  'RECEIVING', 'LOADING', 'PLACING', 'PREPARING', 'PREPARED')
        if is_early:
            self.world.guest.serial.wait_tick(timeout=lib.PATIENCE_S)

    def outcome(self, result):
        wanted = kill_table.expected(self.victim, self.state)
        if wanted == 'W':
            return 'S' if self.word.process.wait(lib.PATIENCE_S) == 0 else 'D'
        if wanted != 'E':
            return wanted
        return 'T' if self.final()[0] == 'DONE' or result.status in (0, 4) and self.is_taken() else 'S'

    def is_taken(self):
        """The target has it, or will: for a row that leaves it open."""
        lib.guestctl.wait_for(lambda: self.final()[0] in ('DONE', 'CLOSED', None), lib.PATIENCE_S,
                              'a settled source')
        return self.final()[0] == 'DONE'

    def final(self):
        new = epochs(self.world) - self.known
        lib.check(len(new) <= 1, 'more than one move: %s', new)
        if not new:
            return (None, None)
        [epoch] = new
        return (final_state(self.world.source, epoch, 0), final_state(self.world.target, epoch, 1))

    def check_exit(self, outcome, result):
        if self.victim == 'SA':
            allowed = {'done', 'in doubt'} if self.state in ('DONE', 'CLOSED') else {'in doubt'}
            allowed |= {'failed'} if outcome in 'SN' else set()
        elif outcome == 'T':
            allowed = {'done', 'in doubt'} if self.victim in ('TA', 'L') else {'done'}
            if self.state == 'IN_DOUBT':
                allowed.add('in doubt')
        else:
            allowed = {'S': {'failed'}, 'N': {'failed'}, 'X': {'done'}, 'D': {'in doubt'}}[outcome]
            if outcome in 'SN' and kill_table.TABLE[self.state][1] in (
                    'cut at the commit', 'owner without QEMU', 'kept at the source'):
                allowed.add('in doubt')
        result.expect('|'.join(sorted(allowed)))
        if 'done' not in allowed:
            lib.check(result.error, 'the command says nothing of why')

    def check_journals(self, outcome):
        allowed = FINAL[outcome]

        def settled():
            states = self.final()
            return states[0] in allowed[0] and states[1] in allowed[1]
        try:
            lib.guestctl.wait_for(settled, lib.PATIENCE_S, 'settled journals', 0.2)
        except lib.guestctl.GuestError:
            raise lib.Failure('the journals hold %s, expected %s' % (self.final(), allowed)) from None

    def check_shown(self, outcome):
        """A doubt is shown by status on both sides; no doubt by neither."""
        for host in self.world.hosts.values():
            def is_right():
                [agent] = host.command('status').result().events[-1]['agents']
                return bool(agent['in_doubt']) == (outcome == 'D')
            lib.guestctl.wait_for(is_right, lib.PATIENCE_S, 'what status of %s shows' % host.side, 0.5)

    def check_one_runner(self):
        """The guest's own count never went on at both: what the target printed began behind what
        the source had printed."""
        def ticks(serial):
            return [numbers['n'] for kind, numbers in serial.lines() if kind == 'TICK']
        source, target = ticks(self.world.guest.serial), ticks(self.world.moved_serial)
        lib.check(min(target) >= max(source), 'the guest ran on both: %d on the source, %d on the '
                  'target', max(source), min(target))

    def check_guest(self, outcome):
        world = self.world
        if self.word and outcome != 'D':
            self.remove_what_is_aside()
        if outcome == 'S':
            world.assert_still_on_source(ticks=2)
            world.assert_listing(self.arena.listing)
        elif outcome == 'T':
            world.assert_moved()
            self.check_one_runner()
            self.check_left()
        elif outcome == 'N':
            lib.guestctl.wait_for(lambda: not world.guest.is_running(), lib.PATIENCE_S, 'a killed QEMU\'s end')
            world.assert_no_debris()
            names = world.source.storage_files()
            lib.check(names == ['web1-0.vhdx'], 'the source\'s images are %s', names)
        elif outcome == 'X':
            lib.guestctl.wait_for(lambda: not world.guest.is_running(), lib.PATIENCE_S, 'the source\'s end')
            lib.check(world.target.storage_files() == ['web1-0.vhdx'], 'the target has %s',
                      world.target.storage_files())
        else:
            lib.check(not world.target.qemus(), 'the target\'s QEMU runs')
            lib.check('SQ' in self.dead or
                      world.guest.qmp('query-status')['status'] != 'running', 'the source runs')

    def check_left(self):
        """A move that has arrived needs no notes, logs of guards and sockets any more."""
        def left():
            return [path for host in self.world.hosts.values() for path in host.socket_folders() + [
                name for name in host.state_files() if name.startswith(('partial/', 'guard-'))]]
        try:
            lib.guestctl.wait_for(lambda: not left(), lib.PATIENCE_S, 'hosts with nothing left', 0.2)
        except lib.guestctl.GuestError:
            raise lib.Failure('the move left %s' % left()) from None

    def remove_what_is_aside(self):
        """The guest may have written to the images at the target: they stay, under other names."""
        storage = self.world.target.storage
        lib.guestctl.wait_for(lambda: os.listdir(storage) and all(
            re.fullmatch(r'web1-0\.vhdx\.godwit-[0-9a-f]{32}', name) for name in os.listdir(storage)),
                              lib.PATIENCE_S, 'images that are set aside')
        for name in os.listdir(storage):
            os.unlink(os.path.join(storage, name))

    def run(self):
        ways = {'plain': self.plain, 'cancelled': self.cancelled,
                'source without QEMU': self.source_without_qemu,
                'cut at the commit': self.cut_at_the_commit,
                'failing journal': self.failing_journal,
                'owner without QEMU': self.owner_without_qemu, 'lost owner': self.lost_owner,
                'kept at the source': self.kept_at_the_source}
        ways[kill_table.TABLE[self.state][1]]()
        self.strike()
        result = self.settle()
        outcome = self.outcome(result)
        self.check_journals(outcome)
        self.check_guest(outcome)
        self.check_exit(outcome, result)
        self.check_shown(outcome)
        return outcome


def kill(victim, state):
    for fault in kill_table.faults():
        raise lib.Failure(fault)
    ARENA.ready()
    try:
        outcome = Case(ARENA, victim, state).run()
    except BaseException:
        ARENA.drop(*sys.exc_info())
        raise
    if outcome != 'S' or ARENA.world.guest.serial.boots() != 1:
        ARENA.drop()


if __name__ == '__main__':
    lib.SAMPLES['kill'] = 10
    for one in kill_table.cases():
        lib.SCENARIOS['kill[%s,%s]' % one] = (kill, {'victim': one[0], 'state': one[1]}, 400, 'kill')
    sys.exit(lib.run_main())
