#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The verifiable guest alone: it boots everywhere, and its verdict can be trusted both ways."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import guestctl
import guestimage

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = guestctl.MIB
BOOT = os.environ.get('GODWIT_GUEST_BOOT')
WORKLOAD = {'seed': 7, 'span_mib': 48, 'pages_per_tick': 200, 'writes_per_tick': 20,
            'reads_per_tick': 5, 'write_range_mib': 32}


class GuestTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='godwit-guest-')
        self.addCleanup(shutil.rmtree, self.folder)

    def guest(self, image_format='raw', two_disks=False, options=None, disk_options=None,
              **workload):
        """A started guest that is filled and ticking."""
        path = os.path.join(self.folder, 'disk')
        guestimage.make_image(path, 128 * MIB, image_format, boot=BOOT,
                              second_size=64 * MIB if two_disks else None,
                              **{**WORKLOAD, **workload})
        disks = [dict(path=path, format=image_format, **(disk_options or {}))]
        if two_disks:
            second = os.path.join(self.folder, 'second')
            guestimage.make_data_image(second, 64 * MIB, image_format)
            disks.append(dict(disks[0], path=second))
        guest = guestctl.Guest(os.path.join(self.folder, 'run'), disks=disks, memory_mib=128,
                               **(options or {}))
        guest.start()
        self.addCleanup(guest.stop)
        guest.wait_ready()
        return guest

    def check_good(self, guest):
        first = guest.serial.wait_tick()
        second = guest.serial.wait_tick()
        self.assertGreater(second['n'], first['n'])
        self.assertGreater(second['writes'], first['writes'])
        is_good, numbers, faults = guest.serial.verify()
        self.assertTrue(is_good, faults)
        self.assertEqual(numbers['pages'], WORKLOAD['span_mib'] * 256)
        self.assertGreater(numbers['blocks'], 100)
        self.assertEqual(guest.serial.boots(), 1)


class Boots(GuestTest):
    def test_boots_on_pc_with_raw(self):
        self.check_good(self.guest())

    def test_boots_on_q35_with_vhdx(self):
        guest = self.guest('vhdx', options={'machine': 'q35'})
        self.check_good(guest)

    def test_boots_with_iothread_and_direct_io(self):
        self.check_good(self.guest('vhdx', disk_options={'iothread': True, 'cache': 'none'}))

    def test_writes_two_disks(self):
        guest = self.guest(two_disks=True)
        self.check_good(guest)
        guest.serial.quiet()
        disks = {guest.serial.last_block()['disk']}
        guest.qmp('stop')
        with open(os.path.join(self.folder, 'second'), 'rb') as handle:
            data = handle.read()
        self.assertNotEqual(data.count(0), len(data), 'the second disk was never written')
        self.assertTrue(disks <= {0, 1})

    def test_spans_memory_above_4_gib(self):
        guest = self.guest(options={'machine': 'q35'}, span_mib=16)
        guest.stop()
        if shutil.disk_usage('/dev/shm').free < 3 << 30:
            self.skipTest('less than 3 GiB free in /dev/shm')
        os.unlink(os.path.join(self.folder, 'disk'))
        shutil.rmtree(os.path.join(self.folder, 'run'))
        guestimage.make_image(os.path.join(self.folder, 'disk'), 64 * MIB, boot=BOOT, span_mib=2200,
                              pages_per_tick=100)
        guest = guestctl.Guest(os.path.join(self.folder, 'run'), machine='q35', memory_mib=4096,
                               disks=[{'path': os.path.join(self.folder, 'disk')}])
        with guest:
            self.assertEqual(guest.wait_ready(240)['ranges'], 2)
            self.assertTrue(guest.serial.verify()[0])


class Answers(GuestTest):
    def test_quiet_stops_writes_but_not_ticks(self):
        guest = self.guest()
        guest.serial.wait_tick()
        quiet = guest.serial.quiet()
        later = guest.serial.wait_tick(least=quiet['n'] + 18)
        self.assertEqual(later['pages'], quiet['pages'])
        self.assertEqual(later['writes'], quiet['writes'])
        guest.serial.go()
        self.assertGreater(guest.serial.wait_tick(least=later['n'] + 18)['pages'], quiet['pages'])

    def test_goes_on_without_a_reader(self):
        guest = self.guest(writes_per_tick=2)
        filled = guest.serial.find(['FILLED'])[1]
        guest.serial.wait_tick()
        guest.serial.stop()

        def generations():
            """The sum of the generations that stand in the guest's pages."""
            with open(guest.ram_path, 'rb') as handle:
                handle.seek(filled['address'])
                return sum(memoryview(handle.read(filled['pages'] * 4096)).cast('Q')[1::512])

        before = generations()
        # Three lines' worth of ticks.
        guestctl.wait_for(lambda: generations() > before + 3 * 18 * WORKLOAD['pages_per_tick'], 90,
                          'work without a reader', 0.5)
        guest.serial.start()
        guest.serial.wait_tick()
        self.assertTrue(guest.serial.verify()[0])

    def test_finds_a_corrupt_page(self):
        guest = self.guest(pages_per_tick=0)
        filled = guest.serial.find(['FILLED'])[1]
        page = 1234
        guest.qmp('stop')
        with open(guest.ram_path, 'r+b') as handle:
            handle.seek(filled['address'] + page * 4096 + 2048)
            byte = handle.read(1)[0]
            handle.seek(-1, os.SEEK_CUR)
            handle.write(bytes([byte ^ 1]))
        guest.qmp('cont')
        is_good, numbers, faults = guest.serial.verify()
        self.assertFalse(is_good)
        self.assertEqual(numbers['bad'], 1)
        self.assertEqual((faults[0][0], faults[0][1]['page']), ('VERIFY BAD', page))

    def test_finds_an_old_page(self):
        guest = self.guest()
        filled = guest.serial.find(['FILLED'])[1]
        guest.qmp('stop')
        with open(guest.ram_path, 'rb') as handle:
            handle.seek(filled['address'])
            old = handle.read(1024 * 4096)
        guest.qmp('cont')
        guest.serial.wait_tick()
        guest.qmp('stop')
        with open(guest.ram_path, 'r+b') as handle:
            handle.seek(filled['address'])
            handle.write(old)
        guest.qmp('cont')
        self.assertFalse(guest.serial.verify()[0])

    def test_finds_a_corrupt_block(self):
        guest = self.guest()
        guest.serial.wait_tick()
        guest.serial.quiet()
        last = guest.serial.last_block()
        guest.qmp('stop')
        with open(os.path.join(self.folder, 'disk'), 'r+b') as handle:
            handle.seek(last['block'] * 4096 + 100)
            byte = handle.read(1)[0]
            handle.seek(-1, os.SEEK_CUR)
            handle.write(bytes([byte ^ 0x80]))
        guest.qmp('cont')
        is_good, numbers, faults = guest.serial.verify()
        self.assertFalse(is_good)
        self.assertEqual((faults[0][1]['block'], faults[0][1]['disk']), (last['block'], 0))

    def test_commands_start_ask_and_stop(self):
        def guest(*words):
            return subprocess.run([os.path.join(HERE, 'guestctl.py')] + list(words),
                                  capture_output=True, text=True, check=False, timeout=120)
        path = os.path.join(self.folder, 'disk')
        run = os.path.join(self.folder, 'run')
        guestimage.make_image(path, 128 * MIB, boot=BOOT, **WORKLOAD)
        self.addCleanup(lambda: os.path.exists(run) and guest('stop', run))
        started = guest('start', run, '--memory', '128', '--disk', path + ',cache=none', '--wait')
        self.assertEqual(started.returncode, 0, started.stderr)
        state = json.loads(started.stdout)
        self.assertIn('n=', guest('tick', run).stdout)
        verdict = guest('verify', run)
        self.assertEqual(verdict.returncode, 0, verdict.stderr)
        self.assertTrue(verdict.stdout.startswith('VERIFY OK '), verdict.stdout)
        guest('quiet', run)
        block = int(guest('last', run).stdout.rpartition('block=')[2])
        guestctl.qmp(state['qmp'], 'stop')
        with open(path, 'r+b') as handle:
            handle.seek(block * 4096)
            handle.write(bytes(4096))
        guestctl.qmp(state['qmp'], 'cont')
        self.assertEqual(guest('verify', run).returncode, 5)
        self.assertEqual(guest('stop', run, '--remove').returncode, 0)
        self.assertFalse(guestctl.is_alive(state['pid']))
        self.assertFalse(os.path.exists(run) or os.path.exists(state['ram']))


if __name__ == '__main__':
    if not shutil.which('qemu-system-x86_64') or not shutil.which('qemu-img'):
        print('skip: qemu-system-x86_64 or qemu-img is missing')
        sys.exit(77)
    unittest.main(verbosity=2)
