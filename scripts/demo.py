#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demonstration behind scripts/demo: two hosts, a guest that keeps writing, one move, and the verdict
of the guest's own check. It builds nothing; whatever it started is gone when it ends, however it ends.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'scenario'))
import lib  # noqa: E402 (its folder is known only now)

MEMORY_MIB = 512
DISK_MIB = 1024
FILL_MIB = 256
DIRTY_MIB_PER_S = 14
PAGES_PER_TICK = DIRTY_MIB_PER_S * 256 // 18


def say(text=''):
    print(text, flush=True)


def interrupted(number, frame):
    raise KeyboardInterrupt


def run_move(world, is_clear):
    """The command as a person types it; its progress bar shows where this output is a terminal."""
    words = ['move', '--psk', world.psk, '--qmp', world.guest.qmp_path, '--to', world.target.address]
    if is_clear:
        words += ['--trusted-network', lib.NETWORK]
    say('$ godwit ' + ' '.join(words))
    ended = subprocess.run(world.source.enter() + [lib.godwit_binary()] + words,
                           env=world.source.environment(), stdin=subprocess.DEVNULL, check=False)
    return ended.returncode


def account(world):
    """What the source's agent says of the move that ended."""
    answer = subprocess.run(world.source.enter() + [lib.godwit_binary(), 'status', '--all', '--json'],
                            env=world.source.environment(), stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)['agents'][0]['jobs'][-1]


def report(job):
    detail, seconds = job['detail'], job['progress']['elapsed_ms'] / 1000
    stats = detail['stats']
    sent, zero = stats['wire_bytes'] / lib.MIB, stats['zero_bytes'] / lib.MIB
    say()
    say('moved     %s: memory %d MiB, VHDX disk %d MiB' % (detail['vm'], MEMORY_MIB, DISK_MIB))
    say('sent      %.0f MiB in %.1f s (%.0f MiB/s); %.0f MiB were zero and cost nothing'
        % (sent, seconds, sent / seconds, zero))
    say('path      %s, %s' % (stats['transport'], detail['path']))
    say('rounds    %d, the last one %.1f MiB' % (detail['rounds'],
                                                 detail['last_round_bytes'] / lib.MIB))
    say('pause     %.0f ms' % detail['pause_ms'])


def prove(world):
    numbers = world.assert_moved()
    lib.check(numbers['pages'] > 0 and numbers['blocks'] > 0, 'the guest checked nothing')
    tick = world.moved_serial.wait_tick()
    lib.check(tick['bad'] == 0, 'the guest found %d faults by itself', tick['bad'])
    say('guest     VERIFY OK %s' % ' '.join('%s=%d' % item for item in numbers.items()))
    say('          (its own check of every page and block that it ever wrote, before and since)')


def demonstrate(options):
    ticks = {} if not options.idle else {'pages_per_tick': 0, 'writes_per_tick': 0}
    workload = dict({'span_mib': MEMORY_MIB // 2, 'pages_per_tick': PAGES_PER_TICK,
                     'writes_per_tick': 20, 'write_range_mib': 128}, **ticks)
    with lib.World(trusted=options.clear, memory_mib=MEMORY_MIB, disk_mib=DISK_MIB,
                   fill_mib=FILL_MIB, image_format='vhdx', workload=workload) as world:
        say('demo: two hosts, 10.77.0.1 and 10.77.0.2, an agent on each')
        world.start_agents()
        say('demo: a guest boots on the first one, fills its memory and keeps writing')
        world.start_guest()
        began = time.monotonic()
        status = run_move(world, options.clear)
        say('demo: godwit move ended with %d after %.1f s' % (status, time.monotonic() - began))
        if status != lib.EXIT['done']:
            raise lib.Failure('the move failed')
        report(account(world))
        prove(world)
        if options.keep_log:
            say(world.source.agent_log() + world.target.agent_log())


def main():
    parser = argparse.ArgumentParser(prog='demo', description=__doc__.split('\n\n')[0])
    parser.add_argument('--clear', action='store_true',
                        help='both hosts trust the network: the bytes travel in the clear')
    parser.add_argument('--idle', action='store_true', help='a guest that writes nothing')
    parser.add_argument('--keep-log', action='store_true', help='print the agents\' logs at the end')
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    # The agents' journals must not lie on tmpfs, as /tmp may.
    tempfile.tempdir = '/var/tmp'
    try:
        demonstrate(options)
    except KeyboardInterrupt:
        say('demo: interrupted')
        return 130
    except lib.Skip as reason:
        say('demo: ' + str(reason))
        return 1
    except (lib.Failure, lib.guestctl.GuestError, subprocess.SubprocessError, OSError,
            KeyError) as error:
        say('demo: NOT PROVEN: %s' % error)
        return 1
    say()
    say('demo: the guest runs on the second host, and nothing was lost')
    return 0


if __name__ == '__main__':
    sys.exit(main())
