#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""After the move: the network finds the guest at once, and hears nothing from the target before the guest runs
there; the guest's clock is right. Frames are captured by a packet socket on the target's bridge."""
import glob
import os
import socket
import subprocess
import sys
import threading
import time

import lib
from failures import Ready
from pause import Monitor

guestctl = lib.guestctl
SIZE = {'memory_mib': 160, 'disk_mib': 64, 'fill_mib': 8, 'image_format': 'raw', 'guest': {'tap': 'tap0'}}
RARP = 0x8035


def capture(interface):
    """Prints the time and the sender of each RARP frame; the guest sends nothing of its own."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    packets.bind((interface, 0))
    print('ready', flush=True)
    while True:
        frame = packets.recv(2048)
        if int.from_bytes(frame[12:14], 'big') == RARP:
            print('%.6f %s' % (time.time(), frame[6:12].hex(':')), flush=True)


def send(interface):
    """One frame as QEMU announces a guest with, until a bridge port forwards it."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    packets.bind((interface, 0))
    for _ in range(20):
        packets.send(b'\xff' * 6 + b'\x52\x54\0\x12\x34\x56' + RARP.to_bytes(2, 'big') + bytes(46))
        time.sleep(0.05)


class Networked(Ready):
    """A guest with a card on a bridge of each host, and an ear on the target's."""

    def __init__(self, **options):
        super().__init__(**dict(SIZE, **options))
        start_agents = self.world.start_agents

        def with_bridges(**more):
            if not os.path.exists('/dev/net/tun'):
                raise lib.Skip('there is no /dev/net/tun')
            for host in (self.world.source, self.world.target):
                host.inside('ip', 'link', 'add', 'br0', 'type', 'bridge')
                host.inside('ip', 'link', 'set', 'br0', 'up')
            self.world.source.inside('ip', 'tuntap', 'add', 'tap0', 'mode', 'tap')
            self.world.source.inside('ip', 'link', 'set', 'tap0', 'master', 'br0', 'up')
            self.listen()
            start_agents(**more)
        self.world.start_agents = with_bridges

    def listen(self):
        self.frames = []
        self.ear = subprocess.Popen(self.world.target.enter() + [sys.executable, os.path.abspath(__file__), 'capture',
                                                                 'br0'], stdout=subprocess.PIPE, text=True)
        self.world.stack.callback(guestctl.end_process, self.ear.pid, child=self.ear)
        lib.check(self.ear.stdout.readline().strip() == 'ready', 'no packet socket')

        def follow():
            for line in self.ear.stdout:
                self.frames.append((float(line.split()[0]), line.split()[1]))
        threading.Thread(target=follow, daemon=True).start()

    def target_monitor(self):
        """Follows the events at the target, on the owner's monitor there."""
        paths = guestctl.wait_for(lambda: glob.glob(os.path.join(self.world.target.state, 'vm', '*', 'qmp-user')), lib.PATIENCE_S,
                                  'the target\'s QEMU')
        self.monitor = Monitor(paths[0])

    def resumed_at(self):
        return guestctl.wait_for(lambda: self.monitor.stamps('RESUME'), lib.PATIENCE_S, 'RESUME')[0]


@lib.scenario()
def network_is_told_after_cont():
    with Networked() as ready:
        move = ready.go_to('memory')
        ready.target_monitor()
        ready.world.source.limit_rate(None)
        result = move.result().expect('done')
        at = ready.resumed_at()
        guestctl.wait_for(lambda: len(ready.frames) >= 3, lib.PATIENCE_S, 'three frames')
        first = ready.frames[0][0]
        lib.check(first >= at, 'a frame %.3f ms before the guest ran', (at - first) * 1e3)
        lib.check(first < at + 1, 'the first frame came %.1f s after RESUME', first - at)
        lib.check(result.detail['pause_ms'] > 0, 'no pause')
        ready.world.assert_moved()


@lib.scenario()
def aborted_target_is_silent():
    """The target has loaded the state and stands PREPARED; then the source takes the guest back. Not one frame
    comes from the target; one that comes from its bridge is heard (the control)."""
    with Networked() as ready:
        world = ready.world
        ready.hold_commit()
        move = world.start_move()
        ready.await_commit()
        time.sleep(1)
        world.source.stop_agent(kill=True)
        move.result()
        world.source.start_agent()
        world.assert_listing(ready.before)
        world.assert_still_on_source()
        lib.check(not ready.frames, '%d frames of a move that was given up', len(ready.frames))
        world.target.inside('ip', 'link', 'add', 'port0', 'type', 'veth', 'peer', 'name', 'port1')
        world.target.inside('ip', 'link', 'set', 'port1', 'master', 'br0', 'up')
        world.target.inside('ip', 'link', 'set', 'port0', 'up')
        world.target.inside(sys.executable, os.path.abspath(__file__), 'send', 'port0')
        guestctl.wait_for(lambda: ready.frames, lib.PATIENCE_S, 'the control\'s frame')


@lib.scenario()
def clock_is_right_after_a_long_pause():
    """The real-time clock goes on by the host's, however long the pause; the ticks that the guest counts stand still
    meanwhile, so that they show that there was a pause."""
    with Ready(held='ab', **{name: value for name, value in SIZE.items() if name != 'guest'}) as ready:
        world = ready.world
        began, (_, ticks) = time.time(), world.guest.serial.clock()
        world.target.hold('LOADING')
        move = world.start_move('--max-pause', '30000')
        world.target.await_held('LOADING', move)
        time.sleep(4)
        world.target.release()
        move.result().expect('done')
        serial = world.moved_guest()
        serial.wait_tick()
        asked = time.time()
        clock, later = serial.clock()
        now = time.time()
        lib.check(asked - 2.5 < clock < now + 2.5, 'the guest\'s clock is off by %.1f s', now - clock)
        counted = (later - ticks) / 18.2065
        lib.check(now - began - counted > 3, 'the guest counted %.1f s of %.1f: there was no pause', counted,
                  now - began)
        world.assert_moved()


if __name__ == '__main__':
    if sys.argv[1:2] == ['capture']:
        capture(sys.argv[2])
    if sys.argv[1:2] == ['send']:
        send(sys.argv[2])
        sys.exit(0)
    sys.exit(lib.run_main())
