# SPDX-License-Identifier: Apache-2.0
"""godwit inspect: beside what qemu-img says, and on images that are damaged in one place."""
import json
import os
import signal
import struct
import subprocess
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', 'agent'), os.path.join(HERE, '..', 'engine')]
from image_build import MIB, PARTLY, PRESENT, ZERO, VhdBuild, VhdxBuild, sectors, vhdx_locator  # noqa: E402
from image_lab import Vhdx, run, sha256  # noqa: E402
from lab import GODWIT, Lab  # noqa: E402

SIZE = 8 * MIB
TABLE = 3 * MIB  # of what VhdxBuild makes
LOCATOR = 2 * MIB + 65536 + 48  # its parent locator, behind the other five items of metadata


class Writer:
    """QEMU's own block layer, which has the image open for writing, and has written to it."""

    def __init__(self, form, image, first='write -P 1'):
        self.first = first
        self.process = subprocess.Popen(['qemu-io', '-f', form, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        bufsize=0)

    def __enter__(self):
        said = b''
        self.process.stdin.write(f'{self.first} 0 2M\nflush\nsleep 1\n'.encode())
        while b' 2097152/2097152' not in said:
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                raise AssertionError(said)
            said += more
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Inspect(Lab):
    def inspect(self, *words, code=0):
        result = self.run_command('inspect', '--json', *words)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return json.loads(result.stdout)

    def faults(self, name, *places):
        report = self.inspect(name, code=5)
        self.assertFalse(report['sound'])
        self.assertEqual([fault['offset'] for fault in report['faults']], list(places), report['faults'])
        return report

    def base(self):
        base = VhdxBuild(SIZE)
        base.blocks = {0: (PRESENT, os.urandom(MIB)), 2: (ZERO, None), 5: (PRESENT, os.urandom(MIB))}
        base.write(self.path('base.vhdx'))
        return base

    def child(self, base):
        child = VhdxBuild(SIZE, parent=vhdx_locator(base, '.\\base.vhdx'))
        child.blocks = {1: (PARTLY, sectors(8, 9, 10, 11, 12, 13, 14, 15))}
        child.write(self.path('child.vhdx'))
        return child

    def test_it_says_what_qemu_says(self):
        for form, options in (('vhdx', 'block_size=2M'), ('vpc', 'force_size=on'), ('raw', 'preallocation=off')):
            image = self.path('a.' + {'vpc': 'vhd'}.get(form, form))
            run('qemu-img', 'create', '-q', '-f', form, '-o', options, image, '40M')
            run('qemu-io', '-f', form, '-c', 'write -P 1 3M 1M', image)
            theirs = json.loads(run('qemu-img', 'info', '-f', form, '--output=json', image).stdout)
            ours = self.inspect(image)
            self.assertEqual(ours['virtual_size'], theirs['virtual-size'])
            self.assertEqual(ours['file_allocated'], theirs['actual-size'])
            self.assertEqual(ours.get('block_size'), theirs.get('cluster-size'))
            self.assertTrue(ours['sound'])

    def test_the_map_is_qemus(self):
        image = self.path('a.raw')
        run('qemu-img', 'create', '-q', '-f', 'raw', image, '40M')
        run('qemu-io', '-f', 'raw', '-c', 'write -P 1 3M 1M', '-c', 'write -P 1 20M 64k', image)
        theirs = json.loads(run('qemu-img', 'map', '-f', 'raw', '--output=json', image).stdout)
        ours = self.inspect('--map', image)['map']
        self.assertEqual([(run['offset'], run['length'], run['kind'] == 'data') for run in ours],
                         [(run['start'], run['length'], run['data']) for run in theirs])

    def test_states_of_blocks_are_counted(self):
        self.base()
        self.assertEqual(self.inspect('base.vhdx')['vhdx']['blocks'],
                         {'not_present': 5, 'zero': 1, 'fully_present': 2})

    def test_a_chain(self):
        base = self.base()
        self.child(base)
        report = self.inspect('--map', 'child.vhdx')
        self.assertEqual(report['chain'], ['child.vhdx', './base.vhdx'])
        self.assertEqual(report['parent']['ids'], [str(base.data_id)])
        self.assertEqual(report['parent']['paths'], [{'kind': 'relative_path', 'path': '.\\base.vhdx'}])
        data = [(run['offset'], run['length']) for run in report['map'] if run['kind'] == 'data']
        self.assertEqual(data, [(0, MIB), (MIB + 4096, 4096), (5 * MIB, MIB)])

    def test_a_parent_that_is_missing_is_a_fault(self):
        self.child(self.base())
        os.unlink(self.path('base.vhdx'))
        report = self.faults('child.vhdx', LOCATOR)
        self.assertIn('base.vhdx', report['faults'][0]['text'])
        self.assertEqual(report['type'], 'differencing')

    def test_a_vhd(self):
        build = VhdBuild(SIZE, creator=b'vpc ', geometry=(100, 16, 17))
        build.blocks = {0: sectors(1), 3: sectors(2)}
        build.write(self.path('a.vhd'))
        report = self.inspect('a.vhd')
        self.assertEqual(report['vhd']['blocks'], {'present': 2, 'not_present': 2})
        self.assertEqual((report['vhd']['creator'], report['vhd']['geometry_size']), ('vpc ', 100 * 16 * 17 * 512))
        self.assertEqual(report['data_id'], str(build.data_id))

    def test_blocks_of_a_vhd_that_overlap(self):
        build = VhdBuild(SIZE)
        build.blocks = {0: sectors(1), 1: sectors(2)}
        build.write(self.path('a.vhd'))
        with open(self.path('a.vhd'), 'r+b') as file:
            file.seek(1536)
            file.write(struct.pack('>I', build.place_of[1] // 512))
        self.faults('a.vhd', build.place_of[1])

    def test_a_damaged_spare_header_is_a_warning(self):
        self.base()
        Vhdx(self.path('base.vhdx')).put((64 << 10) + 100, b'x')
        report = self.inspect('base.vhdx')
        self.assertEqual([warning['offset'] for warning in report['warnings']], [64 << 10])

    def test_every_damaged_entry_has_its_place(self):
        base = self.base()
        image = Vhdx(self.path('base.vhdx'))
        image.set_entry(1, 4)
        image.set_entry(3, base.place_of[5] | 6)
        image.set_entry(4, 1 << 40 | 6)
        report = self.faults('base.vhdx', *[3 * MIB + 8 * entry for entry in (1, 4, 5)])
        self.assertEqual(report['virtual_size'], SIZE)

    def test_the_walk_goes_on_behind_a_bad_block(self):
        self.base()
        Vhdx(self.path('base.vhdx')).set_entry(0, 1 << 40 | 6)
        report = self.inspect('--map', 'base.vhdx', code=5)
        self.assertEqual([fault['offset'] for fault in report['faults']], [TABLE])
        self.assertEqual(report['vhdx']['blocks'], {'damaged': 1, 'not_present': 5, 'zero': 1, 'fully_present': 1})
        self.assertEqual(report['data_bytes'], MIB)
        self.assertEqual([(run['offset'], run['kind']) for run in report['map']],
                         [(MIB, 'absent'), (2 * MIB, 'zero'), (3 * MIB, 'absent'), (5 * MIB, 'data'), (6 * MIB, 'absent')])
        self.assertEqual((report['map_is_cut'], report['map_left_out']), (True, 0))

    def test_the_walk_goes_on_behind_a_bad_block_of_a_vhd(self):
        build = VhdBuild(SIZE)
        build.blocks = {0: sectors(1), 1: sectors(2)}
        build.write(self.path('a.vhd'))
        with open(self.path('a.vhd'), 'r+b') as file:
            file.seek(1536)
            file.write(struct.pack('>I', 1 << 30))
        report = self.faults('a.vhd', 1536)
        self.assertEqual(report['vhd']['blocks'], {'damaged': 1, 'present': 1, 'not_present': 2})
        self.assertEqual(report['data_bytes'] > 0, True)

    def test_a_block_without_its_bitmap(self):
        base = self.base()
        child = self.child(base)
        Vhdx(self.path('child.vhdx')).set_entry(child.bitmap_index(1), 0)
        report = self.inspect('--map', 'child.vhdx', code=5)
        self.assertEqual([fault['offset'] for fault in report['faults']], [TABLE + 8 * child.bat_index(1)])
        self.assertEqual([run['offset'] for run in report['map'] if run['kind'] == 'data'], [0, 5 * MIB])

    def test_a_bad_block_of_a_parent(self):
        base = VhdBuild(SIZE)
        base.blocks = {0: sectors(1), 2: bytes([7]) * base.block}
        base.write(self.path('base.vhd'))
        child = VhdBuild(SIZE, parent=base, locators=[(b'W2ru', '.\\base.vhd'.encode('utf-16-le'))])
        child.blocks = {1: sectors(1)}
        child.write(self.path('child.vhd'))
        with open(self.path('base.vhd'), 'r+b') as file:
            file.seek(1536)
            file.write(struct.pack('>I', 1 << 30))
        report = self.inspect('--map', 'child.vhd', code=5)
        self.assertEqual([fault['offset'] for fault in report['faults']], [1536])
        self.assertIn('base.vhd', report['faults'][0]['text'])
        self.assertEqual([(run['offset'], run['length']) for run in report['map'] if run['kind'] == 'data'][-1],
                         (2 * base.block, base.block))

    def long(self):
        """1.1 million blocks, every other one of zeroes."""
        blocks = 1100000
        base = VhdxBuild(blocks * MIB)
        base.write(self.path('base.vhdx'))
        with open(self.path('base.vhdx'), 'r+b') as file:
            file.seek(TABLE)
            entries = bytearray(8 * base.bat_index(blocks))
            for block in range(0, blocks, 2):
                entries[8 * base.bat_index(block)] = ZERO
            file.write(entries)

    def test_a_long_map_is_cut_and_small(self):
        self.long()
        with open(self.path('out'), 'w') as out:
            process = subprocess.Popen([GODWIT, 'inspect', '--json', '--map', self.path('base.vhdx')], stdout=out)
            _, process.returncode, usage = os.wait4(process.pid, 0)
        self.assertEqual(process.returncode, 0)
        with open(self.path('out')) as out:
            report = json.load(out)
        self.assertEqual((len(report['map']), report['map_left_out'], report['map_is_cut']), (1000000, 100000, True))
        self.assertEqual(report['map'][-1], {'offset': 999999 * MIB, 'length': MIB, 'kind': 'absent'})
        # Tables and map; 600 MiB when each extent was an object of a document.
        self.assertLess(usage.ru_maxrss, 128 << 10)

    def test_without_metadata_the_rest_is_told(self):
        self.base()
        Vhdx(self.path('base.vhdx')).put(2 * MIB, b'nothing!')
        report = self.faults('base.vhdx', 2 * MIB)
        self.assertEqual(len(report['vhdx']['regions']), 2)

    def test_it_changes_nothing(self):
        self.base()
        Vhdx(self.path('base.vhdx')).header({48: b'log guid of test'})
        before = sha256(self.path('base.vhdx'))
        self.assertEqual(self.inspect('base.vhdx')['vhdx']['log']['state'], 'to be replayed')
        self.assertEqual(sha256(self.path('base.vhdx')), before)

    def test_another_format_is_named(self):
        run('qemu-img', 'create', '-q', '-f', 'qcow2', self.path('a.qcow2'), '1M')
        result = self.run_command('inspect', 'a.qcow2')
        self.assertEqual(result.returncode, 1)
        for text in ('qcow2', 'raw, VHDX and VHD', 'qemu-img info', 'godwit copy'):
            self.assertIn(text, result.stderr)
        self.assertNotIn('not supported', result.stderr)

    def test_an_image_in_use(self):
        """No lock stands in the way, of it or of others; a parent in use is read, too."""
        self.child(self.base())
        for form, options in (('vhdx', 'block_size=2M'), ('vpc', 'subformat=dynamic'), ('raw', 'preallocation=off')):
            image = self.path('b.' + {'vpc': 'vhd'}.get(form, form))
            run('qemu-img', 'create', '-q', '-f', form, '-o', options, image, '40M')
            self.assertFalse(self.inspect(image)['in_use'])
            with Writer(form, image):
                report = self.inspect('--map', image)
                text = self.run_command('inspect', image).stdout
            self.assertTrue(report['in_use'])
            self.assertIn('may be changing', text)
            self.assertEqual([run['offset'] for run in report['map'] if run['kind'] == 'data'], [0])
        self.assertFalse(self.inspect('child.vhdx')['in_use'])
        with Writer('raw', self.path('base.vhdx'), 'read'):
            report = self.inspect('child.vhdx')
            self.assertEqual(report['chain'], ['child.vhdx', './base.vhdx'])
            self.assertTrue(report['in_use'])

    def test_a_vm_starts_while_it_is_looked_at(self):
        self.long()
        with open(self.path('out'), 'w') as out:
            process = subprocess.Popen([GODWIT, 'inspect', self.path('base.vhdx')], stdout=out)

        def has_it():
            folder = f'/proc/{process.pid}/fd'
            return self.path('base.vhdx') in [os.path.realpath(f'{folder}/{fd}') for fd in os.listdir(folder)]
        while process.poll() is None and not has_it():
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        try:
            if process.poll() is not None or not has_it():
                self.skipTest('inspect was faster than who looked at it')
            with Writer('vhdx', self.path('base.vhdx')):
                pass
        finally:
            process.send_signal(signal.SIGCONT)
            process.wait()

    def test_a_file_that_is_missing(self):
        result = self.run_command('inspect', 'none')
        self.assertEqual((result.returncode, result.stdout), (1, ''))
        self.assertIn('none', result.stderr)

    def test_the_text_has_the_same(self):
        self.child(self.base())
        result = self.run_command('inspect', 'child.vhdx')
        self.assertEqual(result.returncode, 0, result.stderr)
        for text in ('differencing', '.\\base.vhdx (relative_path)', 'partially_present: 1', 'no fault'):
            self.assertIn(text, result.stdout)


if __name__ == '__main__':
    unittest.main()
