#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Workers and their memory on machines with two NUMA nodes, as the kernel sees them: two hosts of the lab,
each with a network card on either node, and a copy between them that uses both."""
import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GODWIT = os.environ.get('GODWIT', os.path.join(ROOT, 'build', 'cli', 'godwit'))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, 'scripts', 'lab.d'))
# pylint: disable=wrong-import-position
from godwit_lab import Lab, LabError  # noqa: E402
from lab_kernel import ready_kernel  # noqa: E402

AGENT = '''mkdir -p /srv/vm /var/lib/gw && echo $$ > /tmp/agent.pid && exec %s agent --psk /tmp/lab.psk --state /var/lib/gw --storage /srv/vm \
--listen 0.0.0.0 --socket /tmp/agent.sock --allow-volatile-state --transport tcp''' % GODWIT
# Worker threads with the CPUs that they may use and the CPU that they are on, and the memory policies
# of the agent's mappings, a few times while bytes move.
LOOK = '''
pid=$(cat /tmp/agent.pid)
for i in $(seq 600); do
    grep -q -s gw-worker /proc/$pid/task/*/comm && break
    sleep 0.1
done
sleep 1
for task in /proc/$pid/task/*; do
    name=$(cat $task/comm)
    case $name in
    gw-worker*) echo thread $name $(grep Cpus_allowed_list $task/status | cut -f 2) \
                     $(cut -d ' ' -f 39 $task/stat) ;;
    esac
done
grep -E 'dev/zero|anon_inode:.io_uring' /proc/$pid/numa_maps
'''
RING_PAGES = 2048  # 8 MiB


class Numa(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(hosts=2, numa=True, wires=2, cpus=2, memory=1024)
        cls.lab.__enter__()
        cls.addClassCleanup(cls.lab.__exit__)

    def check_threads(self, text, side):
        """Each worker stays on its node (node n has CPU n), and each node that has a card has one."""
        found = re.findall(r'^thread gw-worker/(\d) (\S+) (\d+)$', text, re.M)
        self.assertEqual({node for node, _, _ in found}, {'0', '1'}, side + text)
        self.assertNotIn('gw-worker ', text)
        for node, allowed, on in found:
            self.assertEqual((allowed, on), (node, node), side + text)

    def check_memory(self, text, side):
        """Every ring of a lane wants its node, and has its pages there; both nodes have some."""
        pages = {0: 0, 1: 0}
        for line in text.splitlines():
            policy = re.search(r'prefer(?: \(many\))?:(\d) file=/dev/zero', line)
            if not policy:
                self.assertNotIn('/dev/zero', line, side + text)
                continue
            node, other = int(policy.group(1)), 1 - int(policy.group(1))
            self.assertNotRegex(line, r' N%d=' % other, side + text)
            count = re.search(r' N%d=(\d+)' % node, line)
            pages[node] += int(count.group(1)) if count else 0
        self.assertGreater(min(pages.values()), 64, side + text)

    def test_workers_and_rings_are_next_to_their_cards(self):
        lab = self.lab
        lab.run(0, '%s key lab > $LAB_OUT/psk && head -c 24M /dev/urandom > /tmp/disk.raw' % GODWIT,
                is_checked=True)
        with open(os.path.join(lab.share(0), 'out/psk')) as handle:
            key = handle.read()
        agents = []
        for index in (0, 1):
            lab.run(index, 'umask 077; cat > /tmp/lab.psk <<"END"\n%sEND' % key, is_checked=True)
            agents.append(lab.start(index, AGENT))
        for index in (0, 1):
            ready = lab.run(index, 'while [ ! -S /tmp/agent.sock ]; do kill -0 $(cat /tmp/agent.pid) || '
                                   'exit; sleep 0.1; done')
            self.assertEqual(ready.status, 0, agents[index].err)
        looks = [lab.start(index, LOOK) for index in (0, 1)]
        copy = lab.start(0, '%s copy --socket /tmp/agent.sock --channels 2 /tmp/disk.raw 10.99.0.2:/srv/vm/'
                            % GODWIT)
        for side, look in zip(('source\n', 'target\n'), looks):
            self.assertEqual(look.wait(120), 0, look.out + look.err + copy.out + copy.err)
        self.assertEqual(copy.wait(120), 0, copy.out + copy.err + agents[0].err + agents[1].err)
        sums = [lab.run(index, 'sha256sum < %s/disk.raw' % folder).out
                for index, folder in ((0, '/tmp'), (1, '/srv/vm'))]
        self.assertEqual(sums[0], sums[1])
        for side, look in zip(('source\n', 'target\n'), looks):
            self.check_threads(look.out, side)
            self.check_memory(look.out, side)


if __name__ == '__main__':
    try:
        ready_kernel()
    except LabError as error:
        print('skip: the lab cannot be built: %s' % error)
        sys.exit(77)
    unittest.main(verbosity=2)
