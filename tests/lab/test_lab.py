#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The lab does what it says: a status comes back, output and files too, a hung or dead host is told
from a good one, and two hosts talk RDMA over the wire between them."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAB = os.path.join(ROOT, 'scripts', 'lab')
BANDWIDTH = '''
if [ $LAB_HOST = 0 ]; then exec ib_write_bw -d rxe0 -n 200 -s 65536; fi
for i in $(seq 20); do sleep 1; ib_write_bw -d rxe0 -n 200 -s 65536 $LAB_PEER && exit 0; done; exit 1
'''
# Prints pagemap's bit 55 of a page after the bits were cleared, and after the next write.
SOFT_DIRTY = '''
import ctypes, mmap
page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))

def bit():
    with open('/proc/self/pagemap', 'rb') as handle:
        handle.seek(address // 4096 * 8)
        return int.from_bytes(handle.read(8), 'little') >> 55 & 1

page[0] = 1
open('/proc/self/clear_refs', 'w').write('4')
before = bit()
page[0] = 2
print(before, bit())
'''


def lab(*words, timeout=90):
    return subprocess.run([LAB, 'run', '--timeout', str(timeout)] + list(words), cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=timeout + 30)


class Lab(unittest.TestCase):
    def test_status_output_and_files_come_back(self):
        with tempfile.TemporaryDirectory() as folder:
            answer = lab('--out', folder, 'pwd; uname -r; printf kept > $LAB_OUT/file; exit 7')
            self.assertEqual(answer.returncode, 7, answer.stderr)
            lines = answer.stdout.split('\n')
            self.assertEqual(lines[0], ROOT)
            self.assertNotEqual(lines[1], os.uname().release)
            with open(os.path.join(folder, 'file')) as handle:
                self.assertEqual(handle.read(), 'kept')

    def test_host_file_system_stays_as_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            answer = lab('touch %s/made && ls %s' % (folder, folder))
            self.assertEqual((answer.returncode, answer.stdout), (0, 'made\n'), answer.stderr)
            self.assertEqual(os.listdir(folder), [])

    def test_kernel_has_soft_dirty(self):
        with tempfile.TemporaryDirectory() as folder:
            script = os.path.join(folder, 'soft.py')
            with open(script, 'w') as handle:
                handle.write(SOFT_DIRTY)
            answer = lab('python3 ' + script)
        self.assertEqual((answer.returncode, answer.stdout), (0, '0 1\n'), answer.stderr)

    def test_hung_host_times_out(self):
        answer = lab('sleep 1000', timeout=15)
        self.assertEqual(answer.returncode, 124, answer.stderr)

    def test_dead_host_is_not_a_success(self):
        answer = lab('echo c > /proc/sysrq-trigger; sleep 60', timeout=60)
        self.assertEqual(answer.returncode, 125, answer.stderr)
        self.assertIn('without a status', answer.stderr)

    def test_two_hosts_write_by_rdma(self):
        if not shutil.which('ib_write_bw'):
            self.skipTest('ib_write_bw (perftest) is missing')
        answer = lab('--hosts', '2', BANDWIDTH, timeout=120)
        self.assertEqual(answer.returncode, 0, answer.stdout[-2000:] + answer.stderr)
        self.assertIn('RDMA_Write BW Test', answer.stdout)


if __name__ == '__main__':
    made = subprocess.run([LAB, 'build'], capture_output=True, text=True, check=False)
    if made.returncode:
        print('skip: the lab cannot be built: ' + made.stderr.strip())
        sys.exit(77)
    unittest.main(verbosity=2)
