#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The lab does what it says: status, output and files come back, a hung or dead host is told from a good
one, two hosts talk RDMA over the wire between them, a cut wire and a lost power are what they are."""
import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAB = os.path.join(ROOT, 'scripts', 'lab')
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, 'scripts', 'lab.d'))
# pylint: disable=wrong-import-position
from godwit_lab import Lab, LabError  # noqa: E402
from lab_kernel import ready_kernel  # noqa: E402

CONNECT = 'for i in 1 2 3 4 5 6 7 8 9; do ib_write_bw -d rxe0 -n 200 -s 65536 $LAB_PEER && exit; sleep 1; done'
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
PING = 'ping -q -c 1 -W 1 $LAB_PEER'
# Once a second until there is an answer: where there is one for certain. (-w ends with the first error of the network.)
PING_ON = 'for i in $(seq 60); do %s > /dev/null && break; sleep 1; done; %s' % (PING, PING)
CLOCK_ERROR = 0.02  # of a host's clock that is right, and of what is known of the time it has to show
PATIENCE_S = 90


def lab_run(*words, timeout=90):
    return subprocess.run([LAB, 'run', '--timeout', str(timeout)] + list(words), cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=timeout + 30)


class CommandLine(unittest.TestCase):
    def test_status_output_and_files_come_back(self):
        with tempfile.TemporaryDirectory() as folder:
            answer = lab_run('--out', folder, 'pwd; uname -r; echo wrong >&2; printf end; '
                                              'printf kept > $LAB_OUT/file; exit 7')
            self.assertEqual(answer.returncode, 7, answer.stderr)
            lines = answer.stdout.split('\n')
            self.assertEqual((lines[0], lines[2], answer.stderr), (ROOT, 'end', 'wrong\n'))
            self.assertNotEqual(lines[1], os.uname().release)
            with open(os.path.join(folder, 'file')) as handle:
                self.assertEqual(handle.read(), 'kept')

    def test_hung_host_times_out(self):
        answer = lab_run('sleep 1000', timeout=2)
        self.assertEqual(answer.returncode, 124, answer.stderr)

    def test_dead_host_is_not_a_success(self):
        answer = lab_run('echo c > /proc/sysrq-trigger; sleep 60', timeout=60)
        self.assertEqual(answer.returncode, 125, answer.stderr)
        self.assertIn('without a status', answer.stderr)

    def test_what_tests_do_in_a_host_they_do_nowhere_else(self):
        for script, harmless in (('tests/bench/verbshosts.py', 'cpu'), ('tests/lab/rdma_move.py', 'left'),
                                 ('tests/lab/power.py', 'look')):
            answer = subprocess.run([sys.executable, os.path.join(ROOT, script), 'inside', harmless],
                                    capture_output=True, text=True, check=False, env=dict(os.environ, LAB_HOST='0'))
            self.assertEqual((answer.returncode, answer.stdout), (1, ''), script)
            self.assertIn('only for a host of the lab', answer.stderr)

    def test_shell_is_on_a_terminal(self):
        """Of this terminal's size; Ctrl-C ends a command, exit the shell with its status."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update(LINES='31', COLUMNS='101')
            os.execv(LAB, [LAB, 'shell', '--memory', '512'])
        said = b''
        # In the echo of what is typed the words are not yet what they are awaited as. What Ctrl-C is to end
        # says itself that it is there.
        waits = b"sh -c 'trap \"echo ca\\ught; exit\" INT; echo is=$((40+2)); while :; do sleep 1; done'"
        for typed, awaited in ((b'', b'# '), (b'stty size; ' + waits + b'\n', b'is=42'),
                               (b'\x03', b'caught'), (b'echo after=$((40+3))\n', b'after=43')):
            os.write(terminal, typed)
            while awaited not in said:
                self.assertTrue(select.select([terminal], [], [], 90)[0], said)
                said += os.read(terminal, 4096)
        self.assertIn(b'31 101', said)
        os.write(terminal, b'exit 7\n')
        with contextlib.suppress(OSError):  # the terminal's end
            while os.read(terminal, 4096):
                pass
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 7, said)

    def test_wrong_arguments_are_refused(self):
        for words in (['true', 'true'], ['--on', '1', 'true'], ['--wires', '9', 'true']):
            self.assertIn(lab_run(*words).returncode, (2, 125))


class OneHost(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(memory=1024)
        cls.lab.__enter__()
        cls.addClassCleanup(cls.lab.__exit__)
        cls.first = cls.read_clock()

    @classmethod
    def read_clock(cls):
        """What the host's clock shows, and between which times here that was; of three tries the one that took least."""
        tries = []
        for _ in range(3):
            before = time.monotonic()
            shown = float(cls.lab.run(0, 'date +%s.%N', is_checked=True).out)
            tries.append((time.monotonic() - before, before, time.monotonic(), shown))
        return min(tries)[1:]

    def test_clock_runs_as_fast_as_time(self):
        """As this machine's clock shows it. Where it is busy it takes longer until enough is known, or less is."""
        deadline = time.monotonic() + PATIENCE_S
        first, least, most, passed = self.first, 0, 1, 0
        while most - least > CLOCK_ERROR * least and (passed == 0 or time.monotonic() < deadline):
            time.sleep(1)
            before, after, shown = self.read_clock()
            # The first look came when the host had just begun: a quicker one is a better start.
            if after - before < (first[1] - first[0]) / 2:
                first = before, after, shown
                continue
            least, most = before - first[1], after - first[0]
            passed = shown - first[2]
        self.assertGreater(passed, least * (1 - CLOCK_ERROR))
        self.assertLess(passed, most * (1 + CLOCK_ERROR))

    def test_host_file_system_stays_as_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            job = self.lab.run(0, 'touch %s/made && ls %s' % (folder, folder))
            self.assertEqual((job.status, job.out), (0, 'made\n'), job.err)
            self.assertEqual(os.listdir(folder), [])

    def test_kernel_has_soft_dirty(self):
        with tempfile.TemporaryDirectory() as folder:
            script = os.path.join(folder, 'soft.py')
            with open(script, 'w') as handle:
                handle.write(SOFT_DIRTY)
            job = self.lab.run(0, 'python3 ' + script)
        self.assertEqual((job.status, job.out), (0, '0 1\n'), job.err)

    def test_command_that_hangs_is_ended_alone(self):
        other = self.lab.start(0, 'sleep 300')
        self.assertEqual(self.lab.run(0, 'echo before; sleep 1000', timeout=1).status, 124)
        deadline = time.monotonic() + PATIENCE_S
        while self.lab.run(0, 'pgrep -c -x sleep').out != '1\n':
            self.assertLess(time.monotonic(), deadline, 'not one of two sleeps is left')
        other.signal()
        self.assertEqual(other.wait(PATIENCE_S), 128 + 15)

    def test_one_host_has_rdma_too(self):
        self.assertIn('state ACTIVE', self.lab.run(0, 'rdma link').out)

    def test_nothing_but_the_wires_leads_anywhere(self):
        job = self.lab.run(0, 'ls /sys/class/net; ip route; ip -6 route show default', is_checked=True)
        self.assertRegex(job.out, r'^eth0\nlo\nwire0\n10\.99\.0\.0/24 dev eth0 [^\n]*\n$')

    def test_what_cannot_be_is_refused(self):
        for wrong in (lambda: self.lab.run(1, 'true'), self.lab.cut, lambda: self.lab.restart(0),
                      lambda: Lab(hosts=3), lambda: Lab(numa=True)):
            self.assertRaises(LabError, wrong)
        self.assertRaisesRegex(LabError, 'status 5\nword', self.lab.run, 0, 'echo word; exit 5',
                               is_checked=True)


class TwoHosts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(hosts=2, memory=1024, disk=64)
        cls.lab.__enter__()
        cls.addClassCleanup(cls.lab.__exit__)

    def carriers(self):
        return [self.lab.run(index, 'cat /sys/class/net/eth0/carrier; rdma link').out.split()[:5:4]
                for index in (0, 1)]

    def test_a_hosts_write_by_rdma(self):
        if not shutil.which('ib_write_bw'):
            self.skipTest('ib_write_bw (perftest) is missing')
        server = self.lab.start(0, 'exec ib_write_bw -d rxe0 -n 200 -s 65536')
        client = self.lab.run(1, CONNECT, is_checked=True)
        self.assertEqual(server.wait(PATIENCE_S), 0, server.err)
        self.assertIn('RDMA_Write BW Test', client.out)

    def test_b_a_cut_wire_is_dead_until_it_is_joined(self):
        self.lab.run(0, PING_ON, is_checked=True)
        self.lab.cut()
        self.assertEqual(self.carriers(), [['0', 'DOWN'], ['0', 'DOWN']])
        self.assertNotEqual(self.lab.run(0, PING).status, 0)
        self.lab.join()
        self.assertEqual(self.carriers(), [['1', 'ACTIVE'], ['1', 'ACTIVE']])
        self.lab.run(0, PING_ON, is_checked=True)

    def test_c_a_silent_wire_keeps_its_carrier(self):
        self.lab.cut(is_silent=True)
        self.assertEqual(self.carriers(), [['1', 'ACTIVE'], ['1', 'ACTIVE']])
        self.assertNotEqual(self.lab.run(1, PING).status, 0)
        self.lab.join(0)
        self.lab.run(1, PING_ON, is_checked=True)

    def test_d_a_power_loss_keeps_what_was_written(self):
        self.lab.run(1, 'echo kept > $LAB_DISK/kept; sync $LAB_DISK/kept; echo lost > $LAB_DISK/lost; '
                        'echo lost > /var/lost', is_checked=True)
        job = self.lab.start(1, 'sleep 300')
        self.lab.kill(1)
        self.assertEqual((job.wait(PATIENCE_S), job.is_lost), (125, True))
        self.assertRaises(LabError, self.lab.run, 1, 'true')
        self.assertNotEqual(self.lab.run(0, PING).status, 0)
        self.lab.restart(1)
        self.assertEqual(self.lab.run(1, 'cat $LAB_DISK/kept $LAB_DISK/lost /var/lost').out, 'kept\n')
        self.lab.run(0, PING_ON, is_checked=True)

    def test_e_the_same_from_inside(self):
        job = self.lab.run(0, '''
            lab-ctl run 1 'hostname; exit 3'; echo $?
            lab-ctl cut; cat /sys/class/net/eth0/carrier; lab-ctl join; cat /sys/class/net/eth0/carrier
            lab-ctl kill 1; lab-ctl run 1 true; echo $?
            lab-ctl restart 1; lab-ctl run 1 hostname
            lab-ctl cut 9; lab-ctl nonsense; echo $?''')
        self.assertEqual(job.out, 'lab1\n3\n0\n1\nlab: host 1 has no power\n125\nlab1\n'
                                  'lab: there is no wire 9\n2\n')


if __name__ == '__main__':
    try:
        ready_kernel()
    except LabError as error:
        print('skip: the lab cannot be built: %s' % error)
        sys.exit(77)
    unittest.main(verbosity=2)
