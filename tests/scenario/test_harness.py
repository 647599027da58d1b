#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The harness without godwit: its worlds come and go without a trace, and it notices what it must."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import lib

SMALL = {'memory_mib': 64, 'disk_mib': 64, 'fill_mib': 4, 'image_format': 'vhdx',
         'workload': {'span_mib': 16}}


# Stands in for the command line alone: a key, an agent that says ready or ends, a move that ends.
FAKE = '''#!/bin/bash
case $1 in
key) echo "lab:00" ;;
agent)
    [[ " $* " = *" --listen 10.77.0.2 "* ]] && touch /dev/shm/agent-was-here
    while [ $# -gt 0 ]; do
        [ "$1" = --ready-fd ] && fd=$2
        [ "$1" = --broken ] && { echo "no such folder" >&2; exit 1; }
        shift
    done
    echo ready >&$fd
    exec sleep 1000
    ;;
move)
    echo '{"event": "progress", "progress": {"phase": "disks"}}'
    sleep 0.5
    echo '{"event": "ended", "exit_code": 3, "error": "no storage", "detail": {"blocked": ["x"]}}'
    exit 3
    ;;
esac
'''


class Harness(unittest.TestCase):
    def fake_godwit(self):
        handle, path = tempfile.mkstemp(prefix='godwit-fake-')
        self.addCleanup(os.unlink, path)
        os.write(handle, FAKE.encode())
        os.close(handle)
        os.chmod(path, 0o755)
        before = os.environ.get('GODWIT_BIN')
        os.environ['GODWIT_BIN'] = path
        self.addCleanup(lambda: os.environ.pop('GODWIT_BIN') if before is None else
                        os.environ.update(GODWIT_BIN=before))

    def test_agents_have_hosts_of_their_own(self):
        self.fake_godwit()
        with lib.World(**SMALL) as world:
            world.start_agents()
            agents = [host.agent.pid for host in world.hosts.values()]
            self.assertEqual([pid for pid, _ in world.target.processes()], agents[1:])
            self.assertEqual(world.target.shared_memory_files(), ['agent-was-here'])
            self.assertFalse(os.path.exists('/dev/shm/agent-was-here'))
            with self.assertRaisesRegex(lib.Failure, 'agent-was-here'):
                world.assert_no_debris(timeout=0.5)
        for pid in agents:
            self.assertFalse(lib.guestctl.is_alive(pid))

    def test_agent_that_does_not_start_is_told(self):
        self.fake_godwit()
        with self.assertRaisesRegex(lib.Failure, 'no such folder'), lib.World(**SMALL) as world:
            world.start_agents(target=['--broken'])

    def test_move_is_followed_and_judged(self):
        self.fake_godwit()
        with lib.World(**SMALL) as world:
            world.start_agents()
            world.start_guest()
            move = world.start_move()
            result = move.result(lib.PATIENCE_S).expect('blocked')
            self.assertIn('disks', [(event.get('progress') or {}).get('phase') for event in result.events])
            self.assertEqual((result.error, result.detail), ('no storage', {'blocked': ['x']}))
            with self.assertRaisesRegex(lib.Failure, 'exit status 3, expected done'):
                result.expect('done')
            world.assert_still_on_source()

    def namespaces(self):
        return [name for name in os.listdir('/run/netns')] if os.path.isdir('/run/netns') else []

    def test_world_leaves_nothing_behind(self):
        with lib.World(**SMALL) as world:
            guest = world.start_guest()
            self.assertIn(world.name + '-a', self.namespaces())
            self.assertEqual([pid for pid, _ in world.source.qemus()], [guest.pid])
            world.assert_still_on_source()
            pid, ram, folder, name = guest.pid, guest.ram_path, world.folder, world.name
        self.assertFalse(lib.guestctl.is_alive(pid))
        self.assertFalse(os.path.exists(ram))
        self.assertFalse(os.path.exists(folder))
        self.assertEqual([one for one in self.namespaces() if one.startswith(name)], [])

    def test_hosts_reach_each_other_and_use_reno(self):
        with lib.World(pairs=2) as world:
            for host in world.hosts.values():
                answer = subprocess.run(host.enter() + ['cat', '/proc/sys/net/ipv4/'
                                                        'tcp_congestion_control'],
                                        capture_output=True, text=True, check=True)
                self.assertEqual(answer.stdout.strip(), 'reno')
                link = subprocess.run(host.enter() + ['ip', '-o', 'link'], capture_output=True,
                                      text=True, check=True).stdout
                self.assertEqual(link.count('mtu 9000'), 2, link)
            sender = 'import socket; socket.create_connection(("10.78.0.2", 9), 60)'
            receiver = ('import socket; s = socket.create_server(("10.78.0.2", 9)); '
                        'print("up", flush=True); s.accept()')
            with subprocess.Popen(world.target.enter() + ['python3', '-c', receiver],
                                  stdout=subprocess.PIPE) as server:
                server.stdout.readline()
                answer = subprocess.run(world.source.enter() + ['python3', '-c', sender],
                                        capture_output=True, check=False)
                self.assertEqual(answer.returncode, 0, answer.stderr)
                self.assertEqual(server.wait(lib.PATIENCE_S), 0)

    def test_debris_is_noticed(self):
        with lib.World(**SMALL) as world:
            world.assert_no_debris(timeout=1)
            left = os.path.join(world.target.storage, 'left')
            open(left, 'w').close()
            with self.assertRaisesRegex(lib.Failure, 'left'):
                world.assert_no_debris(timeout=0.5)
            world.assert_no_debris(timeout=0.5, files=['left'])
            os.unlink(left)
            qemu = subprocess.Popen(world.target.enter() + ['qemu-system-x86_64', '-S', '-display',
                                                            'none', '-nodefaults'])
            try:
                lib.guestctl.wait_for(world.target.qemus, lib.PATIENCE_S, 'a QEMU')
                with self.assertRaisesRegex(lib.Failure, 'qemu-system'):
                    world.assert_no_debris(timeout=0.5)
            finally:
                qemu.kill()
                qemu.wait()

    def test_lost_guest_is_noticed(self):
        with lib.World(**SMALL) as world:
            world.start_guest()
            world.guest.qmp('stop')
            with self.assertRaises(lib.guestctl.GuestError):
                world.guest.serial.wait_tick(timeout=2)
            lib.guestctl.end_process(world.guest.pid, child=world.guest.process)
            with self.assertRaisesRegex(lib.Failure, 'gone'):
                world.assert_still_on_source()
            with self.assertRaisesRegex(lib.Failure, '0 QEMUs'):
                world.assert_moved()

    def test_guest_moved_by_qemu_itself_is_verified(self):
        """QEMU's own migration with a copied disk stands in for godwit."""
        with lib.World(**dict(SMALL, image_format='raw')) as world:
            world.start_guest()
            self.move_by_qemu(world)
            numbers = world.assert_moved()
            self.assertEqual(numbers['pages'], 16 * 256)
            self.assertGreater(numbers['blocks'], 0)

    def test_old_page_is_noticed_after_a_move(self):
        def spoil(waiting, copy):
            with open(waiting.ram_path, 'r+b') as handle:
                handle.seek(8 << 20)
                handle.write(bytes(4096))

        with lib.World(**dict(SMALL, image_format='raw')) as world:
            world.start_guest()
            self.move_by_qemu(world, spoil)
            with self.assertRaisesRegex(lib.Failure, 'own check failed'):
                world.assert_moved()

    def test_lost_write_is_noticed_after_a_move(self):
        def spoil(waiting, copy):
            with open(copy, 'r+b') as handle:
                handle.seek(16 << 20)
                handle.write(bytes(16 << 20))

        with lib.World(**dict(SMALL, image_format='raw')) as world:
            world.start_guest()
            self.move_by_qemu(world, spoil)
            with self.assertRaisesRegex(lib.Failure, 'own check failed|faults by itself'):
                world.assert_moved()

    def move_by_qemu(self, world, spoil=None):
        """The image is copied while the guest is stopped; QEMU sends the memory. spoil changes what
        has arrived before the guest goes on."""
        guest = world.guest
        disk = dict(guest.options['disks'][0])
        guest.qmp('stop')
        copy = os.path.join(world.target.storage, os.path.basename(disk['path']))
        shutil.copyfile(disk['path'], copy)
        waiting = lib.guestctl.Guest(
            os.path.join(world.target.folder, 'guest'), name='web1', memory_mib=64,
            disks=[dict(disk, path=copy)], netns=world.target.namespace,
            incoming='unix:' + os.path.join(world.folder, 'stream'))
        world.stack.callback(waiting.stop)
        waiting.start()
        waiting.serial.stop()
        lib.guestctl.wait_for(lambda: os.path.exists(os.path.join(world.folder, 'stream')), lib.PATIENCE_S,
                              'the waiting QEMU')
        guest.qmp('migrate', uri='unix:' + os.path.join(world.folder, 'stream'))
        lib.guestctl.wait_for(lambda: guest.qmp('query-migrate')['status'] in ('completed', 'failed'),
                              30, 'QEMU\'s migration')
        self.assertEqual(guest.qmp('query-migrate')['status'], 'completed', waiting.qemu_log())
        lib.guestctl.wait_for(lambda: waiting.qmp('query-status')['status'] != 'inmigrate', lib.PATIENCE_S,
                              'the state on the target')
        if spoil:
            spoil(waiting, copy)
        waiting.qmp('cont')
        lib.guestctl.end_process(guest.pid, child=guest.process)


class Scenarios(unittest.TestCase):
    def setUp(self):
        self.before = dict(lib.SCENARIOS)
        lib.SCENARIOS.clear()
        self.addCleanup(lib.SCENARIOS.update, self.before)
        self.addCleanup(lib.SCENARIOS.clear)

    def test_sample_is_seeded_and_bounded(self):
        lib.scenario(a=range(10), b='xy')(lambda a, b: None)
        self.assertEqual(len(lib.choose(0, '1')), 20)
        self.assertEqual(len(lib.choose(4, '1')), 4)
        self.assertEqual(lib.choose(4, '1'), lib.choose(4, '1'))
        self.assertNotEqual(lib.choose(4, '1'), lib.choose(4, '2'))

    def test_sample_holds_every_value_of_every_axis(self):
        axes = {'a': 'xyz', 'b': (True, False), 'c': range(4), 'd': 'pq'}
        lib.scenario(sample=6, **axes)(lambda a, b, c, d: None)
        for seed in range(50):
            chosen = lib.choose(4, str(seed))
            self.assertEqual(len(set(chosen)), 6)
            for name, values in axes.items():
                drawn = {lib.SCENARIOS[one][1][name] for one in chosen}
                self.assertEqual(drawn, set(values), 'seed %d' % seed)

    def test_verdicts(self):
        def fails():
            lib.check(False, 'no %s', 'good')

        def skips():
            raise lib.Skip('no means')

        def hangs():
            lib.time.sleep(30)

        def passes():
            pass

        for function in (fails, skips, passes):
            lib.scenario()(function)
        lib.scenario(timeout=1)(hangs)
        verdicts = [lib.run_one(name) for name in ('fails', 'skips', 'passes', 'hangs')]
        self.assertEqual(verdicts, ['FAIL', 'SKIP', 'PASS', 'FAIL'])
        self.assertEqual(lib.run_main(['fails']), 1)
        self.assertEqual(lib.run_main(['passes', 'skips']), 0)
        self.assertEqual(lib.run_main(['skips']), 77)
        self.assertEqual(lib.run_main(['nothing']), 1)


if __name__ == '__main__':
    try:
        lib.need_means()
    except lib.Skip as reason:
        print('skip: %s' % reason)
        sys.exit(77)
    unittest.main(verbosity=2, buffer=True)
