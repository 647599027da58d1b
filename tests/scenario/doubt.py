#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves in doubt that a person settles: the other host is cut off for good right after COMMITTED, and
`godwit resolve` says who has the VM. What the other side learns when it comes back; what both sides
show when they were told the opposite."""
import os
import subprocess
import sys

import failures
import lib



def agent_of(host):
    """(exit status, what the one agent of this host says)."""
    result = host.command('status').result()
    return result.status, result.events[-1]['agents'][0]


def doubts(host):
    return [one for one in agent_of(host)[1]['in_doubt'] if one['is_in_doubt']]


class Doubt(failures.Ready):
    """A move that was cut off at the commit: the source is committed, the target has heard nothing."""

    def cut_at_commit(self):
        world = self.world
        self.hold_commit()
        move = world.start_move('--progress')
        self.await_commit()
        self.wait_doubt(world.target)
        world.source.set_link('down')
        world.source.release()
        result = move.result(timeout=120)
        world.assert_refused(result, 'in doubt')
        self.ticks_before = max(numbers['n'] for kind, numbers in world.guest.serial.lines()
                                if kind == 'TICK')
        return result

    def wait_doubt(self, host):
        lib.guestctl.wait_for(lambda: doubts(host), lib.PATIENCE_S, 'a move in doubt', 0.5)
        [one] = doubts(host)
        return one

    def resolve(self, host, keep, *extra):
        one = self.wait_doubt(host)
        command = 'godwit resolve %s --keep %s' % (one['epoch'][:12], keep)
        lib.check(command in one['commands'], 'status does not say %r: %s', command, one)
        return host.command('resolve', one['epoch'][:12], '--keep', keep, '--yes', *extra).result()

    def wait_settled(self, host, timeout=lib.PATIENCE_S):
        lib.guestctl.wait_for(lambda: not agent_of(host)[1]['in_doubt'], timeout,
                              'the end of the doubt on %s' % host.side, 1)


def goes_on(ready):
    """The guest on the source counts on from where it was paused."""
    tick = ready.world.guest.serial.wait_tick(least=ready.ticks_before + 1)
    lib.check(tick['n'] > ready.ticks_before, 'the guest does not go on')


def refusals(ready):
    """What resolve refuses, with nothing changed."""
    source = ready.world.source
    [one] = doubts(source)
    words = ['resolve', one['epoch'][:12], '--keep', 'source']
    answer = subprocess.run(source.enter() + [lib.godwit_binary()] + words, text=True,
                            env=source.environment(), stdin=subprocess.DEVNULL,
                            capture_output=True, check=False)
    lib.check(answer.returncode == lib.EXIT['usage'], 'without a terminal: %d', answer.returncode)
    lib.check('--yes' in answer.stderr and 'there are two' in answer.stderr and
              'is lost' in answer.stderr, 'the warnings are missing: %s', answer.stderr)
    unknown = source.command('resolve', 'ffffffffffff', '--keep', 'source', '--yes').result()
    lib.check(unknown.status == lib.EXIT['failed'], 'an unknown move: %d', unknown.status)
    status, _ = agent_of(source)
    lib.check(status == lib.EXIT['in doubt'], 'status ends with %d while in doubt', status)
    history = source.command('history').result()
    lib.check(history.status == lib.EXIT['in doubt'] and history.events[-1]['in_doubt'],
              'history does not show it: %s', history.events)
    lib.check(ready.world.guest.qmp('query-status')['status'] != 'running', 'the source runs')


@lib.scenario()
def source_is_kept_and_the_target_learns_it():
    """The target is cut off for good right after COMMITTED; the source is kept; the guest counts on.
    The target comes back later, learns it, and never runs."""
    with Doubt() as ready:
        world = ready.world
        ready.cut_at_commit()
        ready.wait_doubt(world.source)
        refusals(ready)
        result = ready.resolve(world.source, 'source')
        lib.check(result.status == 0, 'resolve ended with %d: %s', result.status, result.errors)
        goes_on(ready)
        world.assert_source_clean(ready.before)
        again = world.source.command('resolve', 'web1', '--keep', 'source', '--yes').result()
        lib.check(again.status == lib.EXIT['failed'] and 'not in doubt' in again.errors,
                  'a second word: %d %s', again.status, again.errors)
        one = ready.wait_doubt(world.target)
        lib.check(one['state'] == 'PREPARED', 'the target is %s', one['state'])
        world.source.set_link('up')
        world.assert_listing(ready.before)
        ready.wait_settled(world.source)
        ready.wait_settled(world.target)
        world.assert_still_on_source()


@lib.scenario()
def target_is_kept_and_the_source_learns_it():
    """The source host seems lost; the target is kept, and runs; the source, back again, gives up."""
    with Doubt() as ready:
        world = ready.world
        ready.cut_at_commit()
        result = ready.resolve(world.target, 'target')
        lib.check(result.status == 0, 'resolve ended with %d: %s', result.status, result.errors)
        world.moved_guest().wait_tick(least=ready.ticks_before + 1)
        lib.check(world.guest.qmp('query-status')['status'] != 'running', 'both run')
        world.source.set_link('up')
        world.assert_moved()
        ready.wait_settled(world.source)
        ready.wait_settled(world.target)


@lib.scenario()
def contradiction_is_shown_and_settled():
    """Both hosts were told to keep the VM, and nobody fenced anything: once they reach each other both
    show it, and a word on one of them ends it."""
    with Doubt() as ready:
        world = ready.world
        ready.cut_at_commit()
        lib.check(ready.resolve(world.source, 'source').status == 0, 'resolve on the source')
        lib.check(ready.resolve(world.target, 'target').status == 0, 'resolve on the target')
        world.source.set_link('up')
        for host in (world.source, world.target):
            lib.guestctl.wait_for(lambda h=host: [d for d in doubts(h) if d['contradicted']],
                                  lib.PATIENCE_S, 'a contradiction on ' + host.side, 1)
            status, _ = agent_of(host)
            lib.check(status == lib.EXIT['in doubt'], 'status ends with %d', status)
        result = ready.resolve(world.target, 'source')
        lib.check(result.status == 0, 'resolve ended with %d: %s', result.status, result.errors)
        lib.check(not world.target.qemus(), 'the target still runs it')
        ready.wait_settled(world.target)
        ready.wait_settled(world.source)
        goes_on(ready)
        names = world.target.storage_files()
        lib.check(names and all('.godwit-' in name for name in names),
                  'the images of a guest that ran are not set aside: %s', names)


@lib.scenario()
def resolved_without_an_agent():
    """The source's agent does not run: the word is given to its state folder."""
    with Doubt() as ready:
        world = ready.world
        ready.cut_at_commit()
        world.source.stop_agent(kill=True)
        result = world.source.command('resolve', 'web1', '--keep', 'source', '--yes', '--state',
                                      world.source.state).result()
        lib.check(result.status == 0, 'resolve ended with %d: %s', result.status, result.errors)
        goes_on(ready)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=3))
