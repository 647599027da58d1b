#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Agents that were told no address and no transport, on two hosts of the lab whose RDMA devices come when the agents
run already; godwit bench between them: verbs and tcp beside each other, and the bytes that verbs reports against the
counter of the RDMA device. Then a copy by IPv6, as all addresses are those of both families."""
import json
import os
import sys
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GODWIT = os.environ.get('GODWIT', os.path.join(ROOT, 'build', 'cli', 'godwit'))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, 'scripts', 'lab.d'))
# pylint: disable=wrong-import-position
from godwit_lab import Lab, LabError  # noqa: E402
from lab_kernel import ready_kernel  # noqa: E402

AGENT = '''mkdir -p /srv/vm /var/lib/gw && exec %s agent --psk /tmp/lab.psk --state /var/lib/gw --storage /srv/vm \
--socket /tmp/agent.sock --allow-volatile-state --allow-bench''' % GODWIT
MANAGER = '/dev/infiniband/rdma_cm'
COUNT = 'cat /sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts'
# By the agent, which has the socket.
COPY = 'head -c 3000000 /dev/urandom >/srv/vm/one.raw && GODWIT_SOCKET=/tmp/agent.sock %s copy --json ' \
       '/srv/vm/one.raw [fd99::2]:two.raw && sha256sum </srv/vm/one.raw' % GODWIT
WAIT_S = 60
# What fits into one packet of the lab's wires.
PATH_MTU = 4096


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(hosts=2, memory=1024)
        cls.lab.__enter__()
        cls.addClassCleanup(cls.lab.__exit__)

    def test_verbs_and_tcp_are_measured(self):
        lab = self.lab
        for index in (0, 1):
            lab.run(index, 'rdma link delete rxe0 && ip address add fd99::%d/64 dev eth0 nodad' % (index + 1),
                    is_checked=True)
        lab.run(0, '%s key lab > $LAB_OUT/psk' % GODWIT, is_checked=True)
        with open(os.path.join(lab.share(0), 'out/psk')) as handle:
            key = handle.read()
        agents = []
        for index in (0, 1):
            lab.run(index, 'umask 077; cat > /tmp/lab.psk <<"END"\n%sEND' % key, is_checked=True)
            agents.append(lab.start(index, AGENT))
        for index in (0, 1):
            lab.run(index, 'while [ ! -S /tmp/agent.sock ]; do sleep 0.1; done', is_checked=True)
        self.bring_devices()
        self.refuse_and_change_device()
        before = int(lab.run(0, COUNT, is_checked=True).out)
        job = lab.run(0, '%s bench --json --ms 1000 --socket /tmp/agent.sock 10.99.0.2' % GODWIT)
        packets = int(lab.run(0, COUNT, is_checked=True).out) - before
        self.assertEqual(job.status, 0, job.out + job.err + agents[0].err + agents[1].err)
        found = {one['transport']: one for one in json.loads(job.out)['transports']}
        self.assertEqual(set(found), {'verbs', 'tcp'}, job.out)
        for one in found.values():
            self.assertTrue(all(write['verified'] for write in one['writes']), job.out)
            self.assertEqual(len(one['writes']), 3)
        told = sum(write['bytes'] for write in found['verbs']['writes'])
        self.assertGreaterEqual(packets, told // PATH_MTU, job.out)
        table = lab.run(0, '%s bench --ms 200 --transport verbs --socket /tmp/agent.sock 10.99.0.2' % GODWIT)
        self.assertEqual(table.status, 0, table.err)
        self.assertIn('verbs, 1 channel', table.out)
        self.copy_by_ipv6()

    def verbs_of(self, index):
        """What the host's agent says of it."""
        answer = self.lab.run(index, '%s status --json --socket /tmp/agent.sock' % GODWIT, is_checked=True)
        [agent] = json.loads(answer.out)['agents']
        return next(one for one in agent['agent']['transports'] if one['name'] == 'verbs')

    def bring_devices(self):
        for index in (0, 1):
            self.assertRegex(self.verbs_of(index)['reason'], 'no RDMA device')
        self.lab.run(1, 'mv %s %s.away' % (MANAGER, MANAGER), is_checked=True)
        self.lab.run(1, 'rdma link add rxe0 type rxe netdev eth0', is_checked=True)
        found = self.verbs_of(1)
        self.assertFalse(found['listens'])
        self.assertRegex(found['reason'], 'connections cannot be managed .*rdma_ucm')
        self.lab.run(1, 'mv %s.away %s' % (MANAGER, MANAGER), is_checked=True)
        self.add_devices(0)
        self.await_listening(1)

    def add_devices(self, *hosts):
        for index in hosts:
            self.lab.run(index, 'rdma link add rxe0 type rxe netdev eth0', is_checked=True)
        self.await_listening(*hosts)

    def await_listening(self, *hosts):
        """Waits until the agents there listen with their devices."""
        for index in hosts:
            deadline = time.monotonic() + WAIT_S
            while not self.verbs_of(index).get('listens'):
                self.assertLess(time.monotonic(), deadline, self.verbs_of(index))

    def refuse_and_change_device(self):
        """An agent that refused a stranger holds no device for it: soft-RoCE's could not be removed."""
        stranger = self.lab.run(0, 'rping -c -C 1 -a 10.99.0.2 -p 13560', timeout=30)
        self.assertNotIn(stranger.status, (0, 124), stranger.out + stranger.err)
        self.lab.run(1, 'rdma link delete rxe0', timeout=30, is_checked=True)
        self.add_devices(1)

    def copy_by_ipv6(self):
        before = int(self.lab.run(0, COUNT, is_checked=True).out)
        job = self.lab.run(0, COPY)
        packets = int(self.lab.run(0, COUNT, is_checked=True).out) - before
        self.assertEqual(job.status, 0, job.out + job.err)
        *_, ended, wanted = job.out.splitlines()
        self.assertIsNotNone(json.loads(ended)['job'], ended)
        self.assertRegex(json.loads(ended)['detail']['stats']['transport'], r'^verbs rxe0/1 gid \d+ \[fd99::1\]')
        self.assertGreaterEqual(packets, 3000000 // PATH_MTU)
        self.assertEqual(self.lab.run(1, 'sha256sum </srv/vm/two.raw', is_checked=True).out.strip(), wanted)


if __name__ == '__main__':
    try:
        ready_kernel()
    except LabError as error:
        print('skip: the lab cannot be built: %s' % error)
        sys.exit(77)
    unittest.main(verbosity=2)
