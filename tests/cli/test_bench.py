#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""godwit bench between two agents in a network of their own: what it says of bytes is compared with the
kernel's counter of the wire."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

GODWIT = os.environ['GODWIT']
SIZES = [4096, 65536, 1 << 20]


def received():
    """Bytes that the loopback interface has received."""
    with open('/proc/net/dev') as handle:
        line = next(line for line in handle if line.strip().startswith('lo:'))
    return int(line.split(':')[1].split()[0])


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = holder.name
        key = os.path.join(cls.folder, 'psk')
        with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), 'wb') as handle:
            subprocess.run([GODWIT, 'key', 'lab'], stdout=handle, check=True)
        cls.start('source', key, '127.0.0.1:1701')
        cls.start('target', key, '127.0.0.1:1702', '--allow-bench')
        cls.start('shy', key, '127.0.0.1:1703')

    @classmethod
    def start(cls, name, key, listen, *more):
        read_end, write_end = os.pipe()
        os.mkdir(os.path.join(cls.folder, name))
        agent = subprocess.Popen(
            [GODWIT, 'agent', '--psk', key, '--state', os.path.join(cls.folder, name), '--storage',
             cls.folder, '--listen', listen, '--socket', os.path.join(cls.folder, name + '.sock'),
             '--allow-volatile-state', '--transport', 'tcp', '--ready-fd', str(write_end)] + list(more),
            pass_fds=[write_end])
        cls.addClassCleanup(agent.wait)
        cls.addClassCleanup(agent.terminate)
        os.close(write_end)
        with os.fdopen(read_end) as handle:
            handle.readline()

    def bench(self, *words, wanted=0):
        answer = subprocess.run([GODWIT, 'bench', '--socket', os.path.join(self.folder, 'source.sock')] +
                                list(words), capture_output=True, text=True, check=False, timeout=120)
        self.assertEqual(answer.returncode, wanted, answer.stdout + answer.stderr)
        return answer

    def test_bytes_travelled_and_arrived(self):
        before = received()
        answer = json.loads(self.bench('--json', '--ms', '200', '127.0.0.1:1702').stdout)
        seen = received() - before
        tcp, = answer['transports']
        self.assertEqual((tcp['transport'], tcp['channels']), ('tcp', 1))
        self.assertEqual([one['size'] for one in tcp['writes']], SIZES)
        for one in tcp['writes']:
            self.assertIs(one['verified'], True)
            self.assertGreaterEqual(one['seconds'], 0.2)
            self.assertAlmostEqual(one['bytes'] / one['seconds'], one['bytes_per_second'],
                                   delta=one['bytes_per_second'] / 1000)
            for side in ('source', 'target'):
                cpu = one[side + '_cpu_seconds_per_gb'] * one['bytes'] / 1e9
                self.assertGreater(cpu, 0)
                self.assertLess(cpu, one['seconds'] * 1.05)
        told = sum(one['bytes'] for one in tcp['writes'])
        # Headers, the samples and the handshake come on top.
        self.assertGreater(seen, told)
        self.assertLess(seen, told * 1.1 + (8 << 20))
        times = tcp['round_trip_us']
        self.assertLessEqual(times['minimum'], times['median'])
        self.assertLessEqual(times['median'], times['p99'])

    def test_several_channels_share_the_work(self):
        answer = json.loads(self.bench('--json', '--ms', '50', '--channels', '3', '127.0.0.1:1702').stdout)
        tcp, = answer['transports']
        self.assertEqual(tcp['channels'], 3)
        workers = max(os.cpu_count() // 2, 1)
        for one in tcp['writes']:
            self.assertIs(one['verified'], True)
            cpu = one['source_cpu_seconds_per_gb'] * one['bytes'] / 1e9
            self.assertLess(cpu, one['seconds'] * 1.1 * workers)

    def test_one_size_is_measured_alone(self):
        for word, size, shown in (('512', 512, ' 512 '), ('12K', 12288, ' 12K '), ('1M', 1 << 20, ' 1M ')):
            answer = json.loads(self.bench('--json', '--ms', '10', '--size', word, '127.0.0.1:1702').stdout)
            [write] = answer['transports'][0]['writes']
            self.assertEqual((write['size'], write['verified']), (size, True))
            self.assertIn(shown, self.bench('--ms', '10', '--size', word, '127.0.0.1:1702').stdout)

    def test_table_names_every_size(self):
        text = self.bench('--ms', '10', '127.0.0.1:1702').stdout
        for words in ('tcp, 1 channel', 'round trip', ' 4K ', ' 64K ', ' 1M ', 'verified'):
            self.assertIn(words, text)
        self.assertNotIn('WRONG', text)

    def test_agent_that_does_not_allow_it_refuses(self):
        answer = self.bench('127.0.0.1:1703', wanted=1)
        self.assertIn('--allow-bench', answer.stderr)

    def test_host_that_is_not_there_is_named(self):
        self.assertIn('127.0.0.1:1', self.bench('127.0.0.1:1', wanted=1).stderr)

    def test_wrong_words_are_refused(self):
        for words in ([], ['a', 'b'], ['--channels', '9', 'a'], ['--ms', '5', 'a'], ['--ms', 'x', 'a'],
                      ['--size', '511', 'a'], ['--size', '2M', 'a'], ['--size', '4Q', 'a']):
            self.bench(*words, wanted=2)
        self.assertIn('nonsense', self.bench('--transport', 'nonsense', '127.0.0.1:1702', wanted=2).stderr)


if __name__ == '__main__':
    if os.geteuid() != 0:
        print('skip: a network namespace needs root')
        sys.exit(77)
    if 'BENCH_INSIDE' not in os.environ:
        os.execvpe('unshare', ['unshare', '-n', sys.executable, __file__], dict(os.environ, BENCH_INSIDE='1'))
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
    unittest.main(verbosity=2)
