#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An agent's state folder takes no more: its file system is full, or has become read-only. At its start, during the
copy, and at each record of the handover. The VM runs on at most one host, each agent says in one line what is wrong
and what to do about it, and once it is mended the move ends by itself. Full is a small tmpfs with nothing left;
read-only is the kernel's answer to each write to the journal (hold.py): what is open can be remounted by no one."""
import contextlib
import errno
import os
import re
import subprocess
import sys
import time

import lib
from failures import KEEPS_NOTHING, Ready

guestctl = lib.guestctl
SIZE = {'memory_mib': 64, 'disk_mib': 64, 'fill_mib': 24, 'trusted': True, 'image_format': 'raw', 'held': 'ab',
        'workload': {'pages_per_tick': 50, 'writes_per_tick': 8, 'reads_per_tick': 2}}
STATE_MIB = 4
RECOVER_EVERY_S = 3  # GW_RECOVER_EVERY_MS
AGAIN = ': takes records again'
WORDS = {'full': '(is full|No space left on device); make room on its file system',
         'read-only': 'Read-only file system; mount its file system read-write'}
# (state that is about to be recorded, whose state folder takes nothing): what comes of it at once, and in the end.
# S: the source runs the VM, T: the target does, D: nobody, which both show.
PLACES = {
    ('STOPPING', 'a'): 'SS',
    ('PREPARING', 'b'): 'SS',
    ('COMMITTING', 'a'): 'SS',
    ('COMMITTING', 'ab'): 'DS',
    ('OWNING', 'b'): 'DS',
    ('HANDED_OVER', 'a'): 'TT',
    ('RUNNING', 'b'): 'TT',
}
HELD_AT = {'STOPPING': 'a', 'PREPARING': 'b', 'COMMITTING': 'a', 'OWNING': 'b', 'HANDED_OVER': 'a', 'RUNNING': 'b'}


def mount_state(world, host):
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=%dm' % STATE_MIB, 'tmpfs', host.state], check=True)
    world.stack.callback(subprocess.run, ['umount', '-l', host.state], check=False)


def fill(host):
    with open(os.path.join(host.state, 'filler'), 'ab', buffering=0) as handle:
        with contextlib.suppress(OSError):
            while True:
                handle.write(bytes(4096))


def make_room(host):
    os.unlink(os.path.join(host.state, 'filler'))


class Unwritable(Ready):
    """A world in which the state folders of these sides can be made to take nothing."""

    def __init__(self, sides, keeps=False):
        super().__init__(**SIZE)
        self.sides = sides
        self.options = ['--allow-volatile-state', *(() if keeps else KEEPS_NOTHING)]

    def prepare(self):
        world = self.world
        for side in self.sides:
            mount_state(world, world.hosts[side])
            world.hosts[side].holder.with_writes = True
        world.start_agents(self.options, self.options)
        world.start_guest()
        self.before = world.listing()

    def break_it(self, what):
        for side in self.sides:
            if what == 'full':
                fill(self.world.hosts[side])
            else:
                self.world.hosts[side].holder.fail_writes(r'/journal\.db', errno.EROFS)

    def mend(self, what):
        for side in self.sides:
            if what == 'full':
                make_room(self.world.hosts[side])
            else:
                self.world.hosts[side].holder.fail_writes(None)

    def said(self, what):
        """By each of these agents: one line, once until it takes records again (a file that goes makes room)."""
        for side in self.sides:
            host = self.world.hosts[side]

            def lines():
                return [line for line in host.agent_log().splitlines()
                        if re.search(r'^godwit: error: journal .*' + WORDS[what], line) or AGAIN in line]
            guestctl.wait_for(lines, lib.PATIENCE_S, 'a line about the journal on host ' + side, 0.2)
            found = [AGAIN in line for line in lines()]
            lib.check(found == [index % 2 == 1 for index in range(len(found))], 'not said once: %s', lines())

    def runs_on_the_source(self):
        try:
            return self.world.guest.qmp('query-status')['status'] == 'running'
        except (OSError, guestctl.GuestError):
            return False

    def runs_on_the_target(self):
        """By its owner's monitor: is there a QEMU whose guest runs?"""
        for _, words in self.world.target.qemus():
            path = next(word for word in words if 'qmp-user' in word).partition('path=')[2].partition(',')[0]
            with contextlib.suppress(OSError, guestctl.GuestError):
                return guestctl.qmp(path, 'query-status')['status'] == 'running'
        return False

    def in_doubt(self, side):
        [agent] = self.world.hosts[side].command('status').result().events[-1]['agents']
        return [one for one in agent['in_doubt'] if one['is_in_doubt']]


# ------------------------------------------------------------------------------------------ at the start

def start(world, host):
    """How an agent ends that cannot begin, and what it says."""
    words = host.enter() + [lib.godwit_binary(), 'agent', '--listen', host.address, '--psk', world.psk, '--storage',
                            host.storage, '--state', host.state, '--socket', host.socket, '--allow-volatile-state']
    answer = subprocess.run(words, env=host.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            timeout=lib.PATIENCE_S, check=False)
    return answer.returncode, answer.stderr


@lib.scenario(what=sorted(WORDS), folder=['new', 'used'])
def agent_says_why_it_does_not_start(what, folder):
    with lib.World(held='') as world:
        host = world.source
        world.make_key()
        mount_state(world, host)
        if folder == 'used':
            host.start_agent('--allow-volatile-state')
            host.stop_agent()
        if what == 'full':
            fill(host)
        else:
            subprocess.run(['mount', '-o', 'remount,ro', host.state], check=True)
        status, said = start(world, host)
        lib.check(status == lib.EXIT['failed'], 'it ended with %d: %s', status, said)
        lines = [line for line in said.splitlines() if line]
        lib.check(len(lines) == 1 and re.search(WORDS[what], lines[0]) and host.state in lines[0],
                  'it says %s', said)
        if what == 'full':
            make_room(host)
        else:
            subprocess.run(['mount', '-o', 'remount,rw', host.state], check=True)
        host.start_agent('--allow-volatile-state')
        host.stop_agent()


# ------------------------------------------------------------------------------------------ in the copy

@lib.scenario(sample=1, side=['a', 'b'], when=['before', 'disks'])
def state_folder_is_full_in_the_copy(side, when):
    """Of a host that keeps a note of how far the move came. The move ends, with the reason; then it moves."""
    with Unwritable(side, keeps=True) as ready:
        world = ready.world
        if when == 'before':
            ready.break_it('full')
            move = world.start_move()
        else:
            move = world.go_to('disks', '--sync-every', '1')
            ready.break_it('full')
        result = move.result()
        lib.check(result.status in (lib.EXIT['failed'], lib.EXIT['blocked']), 'exit %d', result.status)
        world.assert_refused(result, 'failed|blocked', WORDS['full'], world.hosts[side].state)
        world.guest.serial.wait_tick()
        ready.mend('full')
        world.source.limit_rate(None)
        world.assert_listing(ready.before)
        world.move().expect('done')
        world.assert_moved()


# ---------------------------------------------------------------------------------------- in the handover

def check_outcome(ready, outcome, what, result):
    world = ready.world
    if outcome == 'S':
        world.assert_refused(result, 'failed')
        world.guest.serial.wait_tick()
        lib.guestctl.wait_for(lambda: not world.target.qemus(), lib.PATIENCE_S, 'no QEMU at the target')
    elif outcome == 'T':
        result.expect('done|in doubt')
        world.moved_guest().wait_tick()
        lib.check(not ready.runs_on_the_source(), 'the source runs as well')
    else:
        world.assert_refused(result, 'in doubt')
        lib.check(not ready.runs_on_the_source() and not ready.runs_on_the_target(), 'somebody runs it')
        [one] = ready.in_doubt('a')
        lib.check('a' not in ready.sides or re.search(WORDS[what], one['meaning']), 'the status says %s', one)


def stays_as_its_owner_wants(world):
    """While nothing can be recorded, nobody makes a guest run again that its owner has paused."""
    world.guest.qmp('stop')
    time.sleep(2.5 * RECOVER_EVERY_S)
    lib.check(world.guest.qmp('query-status')['status'] == 'paused', 'the guest was made to run again')
    world.guest.qmp('cont')


@lib.scenario(sample=3, place=['%s %s' % place for place in PLACES], what=sorted(WORDS))
def record_cannot_be_made(place, what):
    state, sides = place.split()
    with Unwritable(sides) as ready:
        world = ready.world
        holder = world.hosts[HELD_AT[state]]
        holder.hold(state)
        move = world.start_move('--progress')
        holder.await_held(state, move)
        ready.break_it(what)
        holder.release()
        result = move.result()
        at_once, in_the_end = PLACES[state, sides]
        ready.said(what)
        check_outcome(ready, at_once, what, result)
        if at_once == 'S':
            lib.check(re.search(WORDS[what], result.error), 'the move ends with: %s', result.error)
        if at_once == 'S' and 'a' in sides:
            stays_as_its_owner_wants(world)
        ready.mend(what)
        if in_the_end == 'S':
            world.assert_still_on_source(ticks=2)
            world.assert_listing(ready.before)
        else:
            world.assert_moved()
        for side in 'ab':
            guestctl.wait_for(lambda s=side: not ready.in_doubt(s), lib.PATIENCE_S, 'the end of the doubt', 0.5)
        ready.said(what)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=4))
