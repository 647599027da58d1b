# SPDX-License-Identifier: Apache-2.0
"""godwit copy with the real engine: the commands of the manual as they are written, between two network
namespaces, compared by qemu-img; and the embedding example."""
import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'agent'))
from lab import GODWIT, Lab  # noqa: E402

EXAMPLE = os.environ['COPY_IMAGE']


class Images(Lab):
    """Tests with an image that has something in it."""

    def setUp(self):
        super().setUp()
        for tool in ('qemu-img', 'qemu-io'):
            if not shutil.which(tool):
                self.skipTest(tool + ' is not installed')
        self.image = self.path('disk.vhdx')
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'vhdx', self.image, '64M'], check=True)
        subprocess.run(['qemu-io', '-c', 'write -P 7 3M 5M', '-c', 'write -P 9 40M 100k', self.image],
                       check=True, stdout=subprocess.DEVNULL)

    def assert_same(self, path):
        result = subprocess.run(['qemu-img', 'compare', self.image, path], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)


class Copy(Images):
    """On one host, with no agent."""

    def test_to_another_path_in_another_format(self):
        result = self.run_command('copy', '--format', 'raw', 'disk.vhdx', 'disk.raw')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_same(self.path('disk.raw'))

    def test_never_overwrites(self):
        shutil.copy(self.image, self.path('there.vhdx'))
        with open(self.path('there.vhdx'), 'rb') as file:
            before = file.read()
        result = self.run_command('copy', '--format', 'raw', 'disk.vhdx', 'there.vhdx')
        self.assertEqual(result.returncode, 1)
        self.assertIn('there.vhdx', result.stderr)
        with open(self.path('there.vhdx'), 'rb') as file:
            self.assertEqual(file.read(), before)

    def test_a_source_that_is_missing_is_named(self):
        result = self.run_command('copy', 'nothing.vhdx', 'there')
        self.assertEqual(result.returncode, 1)
        self.assertIn('nothing.vhdx', result.stderr)

    def test_the_example_program(self):
        result = subprocess.run([EXAMPLE, self.image, self.path('example.vhdx')], capture_output=True,
                                text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_same(self.path('example.vhdx'))

    def test_the_example_program_tells_what_failed(self):
        result = subprocess.run([EXAMPLE, self.path('nothing'), self.path('there')], capture_output=True,
                                text=True, timeout=60)
        self.assertEqual(result.returncode, 1)
        self.assertIn('copy-image: ', result.stderr)
        self.assertIn('nothing', result.stderr)


class Hosts(Images):
    """The example of the manual: hosts 10.77.0.1 and 10.77.0.2."""

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest('network namespaces need root')
        self.hosts = ['gwcli%d-%d' % (os.getpid(), number) for number in (1, 2)]
        for host in self.hosts:
            subprocess.run(['ip', 'netns', 'add', host], check=True)
            self.addCleanup(subprocess.run, ['ip', 'netns', 'del', host])
            subprocess.run(['ip', '-n', host, 'link', 'set', 'lo', 'up'], check=True)
        subprocess.run(['ip', '-n', self.hosts[0], 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name',
                        'eth0', 'netns', self.hosts[1]], check=True)
        for number, host in enumerate(self.hosts, 1):
            subprocess.run(['ip', '-n', host, 'addr', 'add', '10.77.0.%d/24' % number, 'dev', 'eth0'],
                           check=True)
            subprocess.run(['ip', '-n', host, 'link', 'set', 'eth0', 'up'], check=True)
        os.mkdir(self.path('vm'))

    def on(self, number, *words):
        return subprocess.run(['ip', 'netns', 'exec', self.hosts[number - 1], GODWIT, *words],
                              env=self.environment, cwd=self.folder, capture_output=True, text=True,
                              timeout=60)

    def start_target(self, *options):
        read_end, write_end = os.pipe()
        agent = subprocess.Popen(['ip', 'netns', 'exec', self.hosts[1], GODWIT, 'agent', '--listen',
                                  '10.77.0.2', '--psk', 'lab.psk', '--storage', 'vm', '--state', 'state',
                                  '--socket', self.path('b.sock'), '--ready-fd', str(write_end),
                                  *options], env=self.environment, cwd=self.folder,
                                 pass_fds=[write_end], stderr=subprocess.PIPE)
        os.close(write_end)
        self.agents.append(agent)
        with os.fdopen(read_end) as file:
            self.assertTrue(file.readline().startswith('ready '))

    def test_the_example_of_the_manual(self):
        self.start_target()
        result = self.on(1, 'copy', '--psk', 'lab.psk', 'disk.vhdx', '10.77.0.2:disk.vhdx')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn('sealed', result.stdout)
        self.assert_same(self.path('vm', 'disk.vhdx'))

    def test_clear_where_both_trust_the_network(self):
        self.start_target('--trusted-network', '10.77.0.0/24')
        result = self.on(1, 'copy', '--psk', 'lab.psk', '--trusted-network', '10.77.0.0/24', 'disk.vhdx',
                         '10.77.0.2:')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotIn('sealed', result.stdout)
        self.assert_same(self.path('vm', 'disk.vhdx'))

    def test_sealed_where_only_one_does(self):
        self.start_target('--trusted-network', '10.77.0.0/24')
        result = self.on(1, 'copy', '--psk', 'lab.psk', 'disk.vhdx', '10.77.0.2:')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn('sealed', result.stdout)

    def test_a_path_outside_the_storage_is_refused(self):
        self.start_target()
        result = self.on(1, 'copy', '--psk', 'lab.psk', 'disk.vhdx', '10.77.0.2:../outside.vhdx')
        self.assertIn(result.returncode, (1, 3))
        self.assertFalse(os.path.exists(self.path('outside.vhdx')))

    def test_a_host_without_an_agent_is_named(self):
        result = self.on(1, 'copy', '--psk', 'lab.psk', 'disk.vhdx', '10.77.0.2:disk.vhdx')
        self.assertEqual(result.returncode, 1)
        self.assertIn('10.77.0.2:13560', result.stderr)


if __name__ == '__main__':
    unittest.main()
