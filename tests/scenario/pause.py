#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a move does in its pause, between the source's STOP and the target's RESUME by QEMU's own clock: the durable
syncs of both agents and all that they started, every one of them seen by a seccomp filter."""
import glob
import json
import os
import re
import socket
import sys
import threading

import lib

SIZE = {'memory_mib': 96, 'disk_mib': 96, 'fill_mib': 32}
SYNCS_MAX = 4


class Monitor:
    """The events on a monitor that godwit does not use."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.lines = self.socket.makefile('rwb')
        self.lines.readline()
        self.lines.write(b'{"execute": "qmp_capabilities"}\n')
        self.lines.flush()
        self.lines.readline()
        self.socket.settimeout(None)
        self.events = []
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        try:
            for line in self.lines:
                self.events.append(json.loads(line))
        except (OSError, ValueError):
            return  # QEMU has ended

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def stamps(self, name):
        return [event['timestamp']['seconds'] + event['timestamp']['microseconds'] / 1e6
                for event in self.events if event.get('event') == name]


def where(path):
    """What a synced file is: the journal, an image, the folder of one."""
    if '/journal.db' in path:
        return 'journal'
    if re.search(r'\.(raw|vhdx)(\.godwit-|$)', path):
        return 'image'
    return 'folder' if path.endswith('/storage') else path


@lib.scenario(image_format=['raw', 'vhdx'])
def syncs_of_the_pause(image_format):
    """At most four, and none of those that the promises rest on is missing."""
    with lib.World(image_format=image_format, held='ab', **SIZE) as world:
        world.options['guest'] = {'extra': ['-qmp', 'unix:%s/own,server=on,wait=off' % world.source.folder]}
        world.start_agents()
        world.start_guest()
        near = Monitor(os.path.join(world.source.folder, 'own'))
        world.source.hold('STOPPING')
        move = world.start_move()
        world.source.await_held('STOPPING', move)
        [path] = glob.glob(os.path.join(world.target.state, 'vm', '*', 'qmp-user'))
        far = Monitor(path)
        world.source.release()
        move.result().expect('done')
        world.assert_moved()
        world.target.wait_history(0)  # RUNNING is recorded
        begin, end = near.stamps('STOP')[-1], far.stamps('RESUME')[0]
        seen = {side: [(call, where(path)) for at, call, path in host.holder.syncs if begin <= at <= end]
                for side, host in world.hosts.items()}
        count = sum(map(len, seen.values()))
        print('%s: %d durable syncs in a pause of %.0f ms: %s' % (image_format, count, (end - begin) * 1e3, seen))
        lib.check(count <= SYNCS_MAX, '%d durable syncs in the pause: %s', count, seen)
        lib.check([at for _, at in seen['a']] == ['journal'], 'COMMITTED is not durable: %s', seen)
        lib.check([at for _, at in seen['b']][-1] == 'journal', 'OWNER is not durable: %s', seen)
        lib.check('image' in [at for _, at in seen['b']], 'the image is not durable: %s', seen)
        before = [where(path) for at, _, path in world.source.holder.syncs if at < begin]
        lib.check('folder' in before, 'the names at the source are not durable: %s', before)
        after = [where(path) for at, _, path in world.target.holder.syncs if at > end]
        lib.check('folder' in after and after.index('folder') < after.index('journal'),
                  'RUNNING is recorded before the names at the target are durable: %s', after)


@lib.scenario(where=['COMMITTING at a', 'OWNING at b'])
def record_that_cannot_be_made_durable(where):
    """EIO at the journal's own sync, for real, on the source and on the target: nobody runs twice, the source goes
    on, and says whose journal it was."""
    state, side = where.split(' at ')
    with lib.World(image_format='raw', held='ab', **SIZE) as world:
        host = world.hosts[side]
        world.start_agents()
        world.start_guest()
        before = world.listing()
        host.hold(state)
        move = world.start_move()
        host.await_held(state, move)
        host.holder.fail_sync(r'/journal\.db')
        host.release()
        world.assert_refused(move.result(), 'failed', r'journal .*/%s/state/.*durable' % side)
        world.assert_nothing_happened(before)


if __name__ == '__main__':
    sys.exit(lib.run_main())
