# SPDX-License-Identifier: Apache-2.0
"""Two hosts made of network namespaces on one file system: nobody talks to the other host's agent. Runs in
a mount namespace with a /run of its own, so that this machine's agents are not in the way."""
import json
import os
import subprocess
import sys
import unittest

from lab import GODWIT, Lab

INSIDE = 'GODWIT_TEST_INSIDE'


class Namespaces(Lab):
    def setUp(self):
        super().setUp()
        self.environment.pop('GODWIT_SOCKET')
        self.hosts = []
        for _ in range(3):
            # "up" is printed once the namespace is there.
            host = subprocess.Popen(['unshare', '--net', 'sh', '-c', 'ip link set lo up; echo up; cat'],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            host.stdout.readline()
            self.hosts.append(host)

    def tearDown(self):
        super().tearDown()
        for host in self.hosts:
            host.stdin.close()
            host.wait(timeout=30)
            host.stdout.close()

    def on(self, number):
        return ['nsenter', '--net=/proc/%d/ns/net' % self.hosts[number].pid]

    def agent_on(self, number):
        read_end, write_end = os.pipe()
        agent = subprocess.Popen([*self.on(number), GODWIT, 'agent', '--psk', self.psk, '--listen',
                                  '127.0.0.1', '--state', self.path('host%d' % number), '--ready-fd',
                                  str(write_end)], env=self.environment, pass_fds=[write_end],
                                 stderr=subprocess.PIPE)
        os.close(write_end)
        with os.fdopen(read_end) as file:
            agent.first_line = file.readline().strip()
        self.agents.append(agent)
        return agent

    def command_on(self, number, *words):
        return subprocess.run([*self.on(number), GODWIT, *words], env=self.environment,
                              cwd=self.folder, capture_output=True, text=True, timeout=60)

    def agents_seen_on(self, number):
        answers = json.loads(self.command_on(number, 'status', '--json').stdout)['agents']
        return [answer['agent']['pid'] for answer in answers]

    def test_each_host_sees_its_own_agent(self):
        first, second = self.agent_on(0), self.agent_on(1)
        self.assertEqual(first.first_line, 'ready /run/godwit/agent.sock')
        self.assertRegex(second.first_line, r'^ready /run/godwit/agent-\d+\.sock$')
        self.assertEqual(self.agents_seen_on(0), [first.pid])
        self.assertEqual(self.agents_seen_on(1), [second.pid])
        self.assertEqual(self.agents_seen_on(2), [])

    def test_second_agent_of_one_host_is_refused(self):
        self.agent_on(0)
        self.assertIn('failed ', self.agent_on(0).first_line)

    def test_a_copy_never_runs_in_the_other_hosts_agent(self):
        self.agent_on(0)
        there = json.loads(self.command_on(0, 'copy', '--json', 'fine', 'there').stdout)
        here = json.loads(self.command_on(2, 'copy', '--json', 'fine', 'there').stdout)
        self.assertIsNotNone(there['job'])
        self.assertIsNone(here['job'])

    def test_a_socket_named_of_another_host_is_refused_for_a_move(self):
        self.agent_on(0)
        result = self.command_on(2, 'move', '--socket', '/run/godwit/agent.sock', '--qmp', 'fine', '--to',
                                 '127.0.0.1')
        self.assertEqual(result.returncode, 1)
        self.assertIn('another network namespace', result.stderr)


def main():
    if os.environ.get(INSIDE):
        unittest.main()
    means = subprocess.run(['unshare', '--mount', '--net', 'mount', '-t', 'tmpfs', 'none', '/run'],
                           capture_output=True, text=True)
    if os.geteuid() != 0 or means.returncode != 0:
        print('SKIP: namespaces: needs root and mount namespaces %s' % means.stderr.strip())
        sys.exit(77)
    program = 'mount -t tmpfs none /run && exec "$@"'
    os.environ[INSIDE] = '1'
    os.execvp('unshare', ['unshare', '--mount', 'sh', '-c', program, 'sh', sys.executable, *sys.argv])


if __name__ == '__main__':
    main()
