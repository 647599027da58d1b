#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves on a host where no agent runs: the command starts a private one. What it leaves when it is killed is shown,
and the next move takes it up."""
import os
import signal
import sys

import lib

SIZE = {'memory_mib': 96, 'disk_mib': 64, 'fill_mib': 16}


class Alone(lib.Prepared):
    """A source without an agent, and a target that has one."""

    def __init__(self, **options):
        self.world = lib.World(**dict(SIZE, **options))

    def prepare(self):
        world = self.world
        world.make_key()
        world.stack.callback(world.target.stop_agent)
        world.stack.callback(self.kill)
        world.target.start_agent()
        world.start_guest()

    def start(self, name, *words):
        world = self.world
        environment = {name: value for name, value in world.source.environment().items() if name != 'GODWIT_SOCKET'}
        environment['XDG_RUNTIME_DIR'] = world.source.folder
        command = lib.Command(world.source.enter() + [lib.godwit_binary(), name, '--json', *words], environment)
        world.stack.callback(command.end)
        return command

    def start_move(self, *extra):
        world = self.world
        return self.start('move', '--psk', world.psk, '--qmp', world.guest.qmp_path, '--to', world.target.address,
                          *extra)

    def agents(self):
        return [pid for pid, words in self.world.source.processes() if '--private' in words]

    def kill(self):
        for pid in self.agents():
            os.kill(pid, signal.SIGKILL)
        lib.guestctl.wait_for(lambda: not self.agents(), lib.PATIENCE_S, 'the end of the private agent', 0.1)

    def folders(self):
        return [name for name in os.listdir(self.world.source.state) if name.startswith('private-')]

    def wait_gone(self):
        def found():
            return [(at, names) for folder in self.folders()
                    for at, _, names in os.walk(os.path.join(self.world.source.state, folder))]
        try:
            lib.guestctl.wait_for(lambda: not self.folders(), 30, 'the end of the folder', 0.5)
        except lib.guestctl.GuestError:
            raise lib.Failure('it stays: %s' % found()) from None

    def left(self, exit_code):
        """The one move that the killed agent left, as status shows it."""
        status = self.start('status').result()
        status.expect(exit_code)
        [agent] = status.events[-1]['agents']
        lib.check(agent['agent'].get('left'), 'status shows %s', agent)
        [move] = agent['in_doubt']
        return move


@lib.scenario()
def move_without_an_agent_starts_a_private_one():
    with Alone() as alone:
        alone.start_move().result().expect('done')
        alone.world.assert_moved()
        alone.wait_gone()


@lib.scenario()
def private_agent_killed_while_it_copies():
    """The guest goes on, and moves with the next command."""
    with Alone() as alone:
        world = alone.world
        before = world.source_state()
        world.source.limit_rate(lib.SLOW_MBIT)
        move = alone.start_move('--progress')
        lib.check(move.wait_event(lambda event: (event.get('progress') or {}).get('bytes_sent', 0) > 0),
                  'it ended: %s', move.events[-1:])
        alone.kill()
        lib.check(move.result().status != 0, 'the move says done')
        lib.check(world.source_state() != before, 'the killed agent left nothing in QEMU: nothing is tested')
        world.source.limit_rate(None)
        lib.check(alone.left('done')['state'] == 'COPYING', 'it is %s', alone.left('done'))
        world.assert_still_on_source()
        alone.start_move().result().expect('done')
        world.assert_moved()
        alone.wait_gone()


@lib.scenario()
def private_agent_killed_at_the_commit():
    """The move is in doubt, which status and history say; the next agent asks the target, which has the VM."""
    with Alone(held='b') as alone:
        world = alone.world
        world.target.hold('OWNING')
        move = alone.start_move()
        world.target.await_held('OWNING', move)
        alone.kill()
        lib.check(move.result().status != 0, 'the move says done')
        state = alone.left('in doubt')['state']
        lib.check(state in ('COMMITTED', 'IN_DOUBT'), 'it is %s', state)
        history = alone.start('history').result()
        lib.check(history.expect('in doubt').events[-1]['in_doubt'], 'history shows none: %s', history.events)
        world.target.release()
        again = alone.start_move().result()
        lib.check(again.status != 0, 'the VM moved twice')
        lib.guestctl.wait_for(lambda: alone.start('status').result().status == 0, lib.PATIENCE_S,
                              'the end of the doubt', 0.5)
        world.moved_guest().wait_tick(least=1)
        lib.check(not world.guest.is_running() or world.guest.qmp('query-status')['status'] != 'running', 'both run')


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=2))
