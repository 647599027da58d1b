#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An agent dies anywhere in a move: right before or right after any command to QEMU, any file that it makes, renames
or removes, any sync, any process that it starts (hold.py). kill_matrix.py asks the same at each state's beginning.
Whatever the place, the VM runs on one host, both journals say so, and nothing of the move is left.

A first move shows what there is to die at; of that a check takes a few by the seed, GODWIT_CHECK_ALL everything, and
GODWIT_STRIKE=17 or 17+ the seventeenth, before or after it."""
import os
import random
import sys
import time

import kill_matrix
import lib

ARENA = kill_matrix.Arena(with_effects=True)
STRIKES = 3


class Struck(kill_matrix.Case):
    def __init__(self, victim, is_cancelled):
        super().__init__(ARENA, victim, None)
        self.is_cancelled = is_cancelled
        self.victims_host = self.host('a' if victim == 'SA' else 'b')

    def go(self, number=0, is_done=False):
        """A move, or one that is cancelled in the memory phase, until the victim was struck or the move has ended."""
        holder, source = self.victims_host.holder, self.world.source
        if self.is_cancelled:
            source.hold('memory')
        holder.strike(self.victims_host.agent.pid, number, is_done)
        self.move = self.world.start_move()

        def is_over():
            return holder.has_struck.is_set() or self.move.process.poll() is not None
        if self.is_cancelled:
            lib.guestctl.wait_for(lambda: source.holder.is_held.is_set() or is_over(), lib.PATIENCE_S, 'the memory phase')
            if source.holder.is_held.is_set():
                self.cancel()
            source.release()
        lib.guestctl.wait_for(is_over, lib.PATIENCE_S, 'the blow, or the end of the move')
        if number:
            holder.has_struck.wait(2)  # behind the end of the command
        return holder.effects

    def cancel(self):
        """Nobody hears of it who is dead."""
        answer = self.world.source.command('status').result()
        jobs = [job for agent in (answer.events or [{'agents': []}])[-1]['agents'] for job in agent['jobs']]
        for job in jobs:
            if job['state'] == 'running':
                self.world.source.command('cancel', job['job']).result()

    def settle(self):
        for host in self.world.hosts.values():
            host.release()
        self.victims_host.stop_agent(kill=True)
        if self.victim == 'TA':
            time.sleep(0.2)
            self.victims_host.start_agent()
        result = self.move.result()
        if self.victim == 'SA':
            self.victims_host.start_agent()
        return result

    def judge(self, result):
        outcome = 'T' if self.is_taken() else 'S'
        self.check_journals(outcome)
        self.check_guest(outcome)
        result.expect('done|in doubt' if outcome == 'T' else 'failed|in doubt')
        self.check_shown(outcome)
        return outcome


def ready(victim, is_cancelled):
    ARENA.ready()
    return Struck(victim, is_cancelled)


def finish(case, result):
    outcome = case.judge(result)
    if outcome == 'T' or ARENA.world.guest.serial.boots() != 1:
        ARENA.drop()
    return outcome


def count(victim, is_cancelled):
    """What that agent does in such a move."""
    case = ready(victim, is_cancelled)
    effects = list(case.go())
    finish(case, case.move.result())
    lib.check(len(effects) > 10, 'no place to die at: %s', effects)
    return effects


def chosen(effects, axes):
    """(number, is_done) of the places."""
    places = [(number, is_done) for number in range(1, len(effects) + 1) for is_done in (False, True)]
    only = os.environ.get('GODWIT_STRIKE')
    if only:
        return [(int(only.rstrip('+')), only.endswith('+'))]
    if os.environ.get('GODWIT_CHECK_ALL'):
        return places
    generator = random.Random('anywhere %s %s' % (os.environ.get('GODWIT_SEED', '1'), axes))
    return generator.sample(places, STRIKES)


@lib.scenario(timeout=5400, sample=1, victim=['SA', 'TA'], ending=['moved', 'cancelled'])
def agent_dies_anywhere(victim, ending):
    is_cancelled = ending == 'cancelled'
    faults, struck = [], 0
    try:
        effects = count(victim, is_cancelled)
        for number, is_done in chosen(effects, (victim, ending)):
            case = ready(victim, is_cancelled)
            found = case.go(number, is_done)
            struck += case.victims_host.holder.has_struck.is_set()
            what = '%d%s of %d (%s)' % (number, '+' if is_done else '', len(effects), found[-1] if found else '')
            try:
                print('%s: %s' % (what, finish(case, case.settle())), flush=True)
            except (lib.Failure, lib.guestctl.GuestError) as error:
                faults.append('%s: %s' % (what, error))
                print('FAULT at ' + faults[-1], flush=True)
                ARENA.drop(*sys.exc_info())
    except BaseException:
        ARENA.drop(*sys.exc_info())
        raise
    lib.check(not faults, '%s', '; '.join(faults))
    lib.check(struck, 'nobody was struck')


if __name__ == '__main__':
    sys.exit(lib.run_main())
