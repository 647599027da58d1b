#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves and copies whose link is lost while they run: what comes back goes on, what does not leaves the
source running and the target clean, and no guest stands still for a peer that does not answer."""
import contextlib
import glob
import os
import signal
import sys
import time

import lib
from failures import KEEPS_NOTHING
from pause import Monitor

SIZE = {'memory_mib': 96, 'disk_mib': 64, 'fill_mib': 32, 'image_format': 'vhdx'}
CUT_S = 3


class Ready(contextlib.ExitStack):
    """A world with agents and a guest; owner: it has a second monitor, at the path owner."""

    def __init__(self, target=(), owner=False, **options):
        super().__init__()
        self.world = self.enter_context(lib.World(**dict(SIZE, held='a', **options)))
        self.world.start_agents(KEEPS_NOTHING, [*KEEPS_NOTHING, *target])
        if owner:
            self.owner = os.path.join(self.world.source.folder, 'owner')
            self.world.options['guest'] = {'extra': ['-qmp', 'unix:%s,server=on,wait=off' % self.owner]}
        self.world.start_guest()
        self.before = self.world.listing()

    def go_to(self, phase, *extra, **options):
        return self.world.go_to(phase, *extra, **options)

    def cut(self, is_told=True):
        """Both ways. is_told: this side's sockets are gone as well; the other side learns nothing."""
        self.world.source.set_link('down')
        if is_told:
            self.world.source.inside('ss', '-K', 'dport', '=', ':13560', check=False)

    def mend(self):
        self.world.source.set_link('up')


def wait_note(move, word, timeout=lib.PATIENCE_S):
    event = move.wait_event(
        lambda event: word in ((event.get('progress') or {}).get('note') or ''), timeout)
    if not event:
        raise lib.Failure('the move ended before its note said %r: %s' % (word, move.result().error))
    return event['progress']


@lib.scenario(sample=1, phase=['disks', 'memory'], secrecy=['clear', 'sealed'])
def a_link_comes_back(phase, secrecy):
    """The guest runs meanwhile; then the move goes on from where it was."""
    with Ready(trusted=secrecy == 'clear') as ready:
        world = ready.world
        move = ready.go_to(phase)
        ready.cut()
        progress = wait_note(move, 'the link is down')
        lib.check(progress['phase'] == phase, 'the phase is %s', progress['phase'])
        first = world.guest.serial.wait_tick()
        time.sleep(CUT_S)
        world.guest.serial.wait_tick(least=first['n'] + 5)
        ready.mend()
        wait_note(move, 'is up again')
        world.source.limit_rate(None)
        result = move.result().expect('done')
        world.assert_moved()
        lib.check('its source is back' in world.target.agent_log(), 'nobody was back: %s', result.detail)


@lib.scenario(sample=1, timeout=120, phase=['phase memory$', 'what is left fits the pause$'])
def one_of_two_wires_stays_away(phase):
    """The one that the session is on, for good: the session goes on over the other one."""
    with Ready(pairs=2, target=['--listen', '10.78.0.2']) as ready:
        world = ready.world
        world.source.holder.hold(phase)
        move = world.start_move('--progress')
        world.source.await_held(phase, move)
        ready.cut()
        world.source.release()
        move.result().expect('done')
        world.assert_moved()
        lib.check('another address is dialled' in world.source.agent_log(), 'it came another way')


@lib.scenario(timeout=120)
def a_wire_for_data_alone_goes_away():
    """Where nothing is under way on it any more, but more will be: it is noticed before the guest is stopped."""
    with Ready(pairs=2, target=['--listen', '10.78.0.2']) as ready:
        world = ready.world
        held = 'what is left fits the pause$'
        world.source.holder.hold(held)
        move = world.start_move('--progress')
        world.source.await_held(held, move)
        world.source.inside('ip', 'link', 'set', 'wire1', 'down')
        world.source.release()
        move.result().expect('done')
        world.assert_moved()
        [before, after] = world.source.agent_log().split('source is STOPPING')
        lib.check('is replaced' in before, 'the channels on it were not looked at')
        lib.check('is replaced' not in after, 'the guest stood still for a wire')


@lib.scenario()
def a_silent_link_is_found():
    """Nothing is reset, packets just vanish; the guest is slowed down at that time, and stands still for
    no dead link."""
    with Ready(workload={'pages_per_tick': 2000}) as ready:
        world = ready.world
        move = ready.go_to('memory')
        ready.cut(is_told=False)
        wait_note(move, 'the link is down')
        world.guest.serial.wait_tick()
        ready.mend()
        world.source.limit_rate(None)
        move.result().expect('done')
        world.assert_moved()


def stops(monitor, seconds):
    """How often the guest is stopped within this time, by QEMU's clock: what was before may be heard of late."""
    began = time.time()
    time.sleep(seconds)
    return len([at for at in monitor.stamps('STOP') if at >= began])


@lib.scenario(sample=1, end=['comes back', 'stays away'])
def a_slowed_guest_gets_its_speed_back(end):
    """The link is lost while the guest is being slowed, by being stopped many times a second: not once
    while nothing can be sent, nor after the move has failed, nor where it has arrived."""
    with Ready(owner=True, memory_mib=64, workload={'pages_per_tick': 4000}) as ready:
        world = ready.world
        monitor = Monitor(ready.owner)
        move = ready.go_to('memory', *(() if end == 'comes back' else ('--reconnect-timeout', '3')), mbit=100)
        lib.check(move.wait_event(lambda event: (event.get('progress') or {}).get('throttle_percent', 0) > 0),
                  'the move ended before the guest was slowed')
        lib.guestctl.wait_for(lambda: stops(monitor, 0.5) > 2, lib.PATIENCE_S, 'a guest that is slowed')
        ready.cut()
        wait_note(move, 'the link is down')
        lib.check(stops(monitor, 2) == 0, 'it is stopped for a link that is down')
        if end == 'stays away':
            world.assert_refused(move.result(), 'failed', 'did not come back within 3 s')
            lib.check(stops(monitor, 2) == 0, 'it is stopped after the move')
            monitor.close()
            world.assert_still_on_source()
            ready.mend()
            world.source.limit_rate(None)
            world.assert_listing(ready.before)
            return
        ready.mend()
        world.source.limit_rate(None)
        move.result().expect('done')
        [path] = glob.glob(os.path.join(world.target.state, 'vm', '*', 'qmp-user'))
        lib.check(stops(Monitor(path), 2) == 0, 'it is stopped at the target')
        world.assert_moved()


@lib.scenario()
def a_link_that_stays_away():
    with Ready() as ready:
        world = ready.world
        move = ready.go_to('disks', '--reconnect-timeout', '3')
        ready.cut()
        world.assert_refused(move.result(), 'failed', 'did not come back within 3 s')
        world.assert_source_clean(ready.before)
        world.assert_still_on_source()
        ready.mend()
        world.assert_listing(ready.before)


@lib.scenario(sample=1, phase=['disks', 'memory'])
def cancelled_while_the_link_is_down(phase):
    """A move that waits for its link, for an hour if need be, ends when it is told to: the guest runs on. Its target
    waits as well, until it is reached again."""
    with Ready() as ready:
        world = ready.world
        move = ready.go_to(phase, '--reconnect-timeout', '3600')
        ready.cut()
        wait_note(move, 'the link is down')
        world.cancel()
        world.assert_refused(move.result(lib.PATIENCE_S), 'failed', 'cancel')
        world.assert_source_clean(ready.before)
        world.assert_still_on_source(ticks=2)
        lib.check(world.target.qemus(), 'the target gave up by itself: it was not the cancel that tidied up')
        ready.mend()
        world.source.limit_rate(None)
        world.assert_listing(ready.before)


@lib.scenario()
def a_target_that_forgot():
    """Its agent was killed and is back: it has nothing to go on with and says so."""
    with Ready() as ready:
        world = ready.world
        move = ready.go_to('memory')
        world.target.stop_agent(kill=True)
        wait_note(move, 'the link is down')
        world.target.start_agent()
        world.assert_refused(move.result(), 'failed', 'not waited for here')
        world.source.limit_rate(None)
        world.assert_nothing_happened(ready.before)


def wait_bytes(command):
    """Until the first bytes of a copy have arrived; on a slow wire the others take long."""
    lib.check(command.wait_event(lambda event: (event.get('progress') or {}).get('bytes_done', 0) > 0),
              'it ended before its first bytes: %s', command.events[-1:])


@lib.scenario()
def a_copy_goes_on():
    with Ready() as ready:
        world = ready.world
        path = os.path.join(world.source.storage, 'plain.raw')
        with open(path, 'wb') as handle:
            handle.write(os.urandom(32 * lib.MIB))
        world.source.limit_rate(lib.SLOW_MBIT)
        copy = world.source.command('copy', '--progress', '--verify', '--psk', world.psk, path,
                                    world.target.address + ':')
        world.stack.callback(copy.end)
        wait_bytes(copy)
        ready.cut()
        wait_note(copy, 'the link is down')
        ready.mend()
        world.source.limit_rate(None)
        copy.result().expect('done')
        with open(path, 'rb') as one, open(os.path.join(world.target.storage, 'plain.raw'), 'rb') as two:
            lib.check(one.read() == two.read(), 'the copy differs')


def ticks_on(serial):
    try:
        serial.wait_tick(timeout=2)
        return True
    except lib.guestctl.GuestError:
        return False


@lib.scenario(sample=1, state=['STOPPED', 'SWAPPED'])
def the_pause_waits_for_no_dead_peer(state):
    """The link vanishes without a word exactly in the pause: the guest goes on at once, long before the
    transport knows."""
    with Ready() as ready:
        world = ready.world
        world.source.hold(state)
        move = world.start_move('--progress', '--max-pause', '300')
        world.source.await_held(state, move)
        ready.cut(is_told=False)
        lib.check(not ticks_on(world.guest.serial), 'there is no pause')
        world.source.release()
        world.source.wait_log('CONT: done')
        world.assert_refused(move.result(), 'failed', 'did not answer|takes nothing')
        world.assert_still_on_source(ticks=2)
        ready.mend()
        world.assert_listing(ready.before)


@lib.scenario()
def a_source_that_is_held_still():
    """Its agent does not answer for longer than a sign of life may be late, and then goes on."""
    with Ready() as ready:
        world = ready.world
        move = ready.go_to('memory')
        os.kill(world.source.agent.pid, signal.SIGSTOP)
        time.sleep(13)
        os.kill(world.source.agent.pid, signal.SIGCONT)
        world.source.limit_rate(None)
        move.result().expect('done')
        world.assert_moved()


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=4))
