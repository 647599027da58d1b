#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Workers and their memory on machines with two NUMA nodes, as the kernel sees them: two hosts of the lab,
each with a network card on either node, and copies between them that use both, by TCP and by verbs."""
import json
import os
import re
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

AGENT = '''mkdir -p /srv/vm /var/lib/gw && echo $$ > /tmp/agent.pid && export GODWIT_MODULE_DIR=%s && exec %s agent \
--psk /tmp/lab.psk --state /var/lib/gw --storage /srv/vm --listen 0.0.0.0 --socket /tmp/agent.sock \
--allow-volatile-state\
''' % (os.environ.get('GODWIT_MODULE_DIR', ''), GODWIT)
SENT = 'cat /sys/class/infiniband/rxe%d/ports/1/hw_counters/sent_pkts'
OVER = '/tmp/copy-is-over'
# The lanes share a copy as their speeds are, and looks are some time apart: a copy at which not both nodes were
# seen at work is made again.
COPIES_MOST = 4
# Of RDMA, that a card has sent once it carries data: 400 KiB.
CARD_PACKETS = 100

# Of a lane's ring, 8 MiB, so many pages are touched once it is at work.
AT_WORK_PAGES = 64
# Without a node: the channel of a session, which the control thread has, not a worker. 280 KiB.
CONTROL_PAGES = 80
# What of a channel over verbs the kernel makes and the agent maps: completion queue, send queue, receive queue.
QUEUES = 3


def look(transport):
    """In a host: worker threads with the CPUs that they may use and the CPU that they are on, and the memory
    policies and nodes of the agent's mappings, again and again until the copy is over; the first look that saw
    workers of both nodes at work, or else the newest of all."""
    with open('/tmp/agent.pid') as handle:
        process = '/proc/' + handle.read().strip()
    print('looking', flush=True)
    deadline, newest = time.monotonic() + 100, ''
    while time.monotonic() < deadline:
        is_over = os.path.exists(OVER)
        threads = read_threads(process)
        with open(process + '/numa_maps') as handle:
            maps = [line for line in handle if re.search('/dev/zero|io_uring|uverbs', line)]
        seen = ''.join(threads + maps)
        if threads:
            newest = seen
        if is_over or saw_both_at_work(seen, transport):
            break
        time.sleep(0.1)
    print(newest)


def read_threads(process):
    found = []
    for task in os.listdir(process + '/task'):
        try:
            with open('%s/task/%s/comm' % (process, task)) as handle:
                name = handle.read().strip()
            with open('%s/task/%s/status' % (process, task)) as handle:
                allowed = re.search(r'^Cpus_allowed_list:\s*(\S+)', handle.read(), re.M).group(1)
            with open('%s/task/%s/stat' % (process, task)) as handle:
                on = handle.read().rpartition(')')[2].split()[36]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if name.startswith('gw-worker'):
            found.append('thread %s %s %s\n' % (name, allowed, on))
    return found


def ring_pages(text):
    """Pages on each node that want to be there."""
    pages = {0: 0, 1: 0}
    for node, line in re.findall(r'^\S+ prefer(?: \(many\))?:(\d) (file=/dev/zero.*)', text, re.M):
        count = re.search(r' N%s=(\d+)' % node, line)
        pages[int(node)] += int(count.group(1)) if count else 0
    return pages


def queue_nodes(text, kind):
    """Of each mapping of that kind that has pages, the nodes that they are on."""
    found = re.findall(r'^\S+ default file=\S*%s\b(.* N\d=.*)' % kind, text, re.M)
    return sorted(re.findall(r' N(\d)=', counts) for counts in found)


def saw_both_at_work(text, transport):
    return (set(re.findall(r'^thread gw-worker/(\d) ', text, re.M)) == {'0', '1'} and
            min(ring_pages(text).values()) > AT_WORK_PAGES and
            (transport == 'tcp' or (len(queue_nodes(text, 'uverbs0')) == 2 * QUEUES and
                                    len(queue_nodes(text, 'uverbs1')) == QUEUES)))


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

    def check_memory(self, text, side, transport):
        """Every ring of a lane, and over verbs what a channel sends from and receives into, wants its node, and
        has its pages there; both nodes have some."""
        without = 0
        for line in text.splitlines():
            policy = re.search(r'prefer(?: \(many\))?:(\d) file=/dev/zero', line)
            if policy:
                self.assertNotRegex(line, r' N%d=' % (1 - int(policy.group(1))), side + text)
            elif '/dev/zero' in line and ' N' in line:
                # (Without pages it is a ring that is being made.)
                without += 1
                self.assertLess(sum(map(int, re.findall(r' N\d=(\d+)', line))), CONTROL_PAGES, side + text)
        self.assertLessEqual(without, 1 if transport == 'verbs' else 0, side + text)
        self.assertGreater(min(ring_pages(text).values()), AT_WORK_PAGES, side + text)

    def check_queues(self, text, side, transport):
        """Each node has as many io_urings as the other, and of a card's queues those of its worker are on its node:
        all but those of the session, which the control thread has, on the first card."""
        io_urings = queue_nodes(text, 'io_uring')
        half = len(io_urings) // 2
        self.assertGreater(half, 0, side + text)
        self.assertEqual(io_urings, [['0']] * half + [['1']] * half, side + text)
        if transport == 'verbs':
            self.assertEqual(len(queue_nodes(text, 'uverbs0')), 2 * QUEUES, side + text)
            self.assertGreaterEqual(queue_nodes(text, 'uverbs0').count(['0']), QUEUES, side + text)
            self.assertEqual(queue_nodes(text, 'uverbs1'), [['1']] * QUEUES, side + text)

    def start_agents(self):
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
            ready = lab.run(index, 'until [ -s /tmp/agent.pid ]; do sleep 0.1; done; while [ ! -S /tmp/agent.sock ]; '
                                   'do kill -0 $(cat /tmp/agent.pid) || exit; sleep 0.1; done')
            self.assertEqual(ready.status, 0, agents[index].err)
        return agents

    def copy(self, transport, name, agents):
        """A copy by that transport; what both hosts looked like meanwhile."""
        lab = self.lab
        for index in (0, 1):
            lab.run(index, 'rm -f ' + OVER, is_checked=True)
        looks = [lab.start(index, 'python3 %s look %s' % (os.path.abspath(__file__), transport)) for index in (0, 1)]
        for job in looks:
            deadline = time.monotonic() + 100
            while 'looking' not in job.out:
                self.assertLess(time.monotonic(), deadline, job.err)
                time.sleep(0.2)
        copy = lab.start(0, '%s copy --json --socket /tmp/agent.sock --transport %s --channels 2 /tmp/disk.raw '
                            '10.99.0.2:/srv/vm/%s' % (GODWIT, transport, name))
        self.assertEqual(copy.wait(150), 0, copy.out + copy.err + agents[0].err + agents[1].err)
        for index, job in enumerate(looks):
            lab.run(index, 'touch ' + OVER, is_checked=True)
            self.assertEqual(job.wait(150), 0, job.out + job.err + copy.out + copy.err)
        ended = [json.loads(line) for line in copy.out.splitlines() if line.startswith('{')][-1]
        self.assertRegex(ended['progress']['transport'], '^' + transport)
        sums = [lab.run(index, 'sha256sum < ' + path).out
                for index, path in ((0, '/tmp/disk.raw'), (1, '/srv/vm/' + name))]
        self.assertEqual(sums[0], sums[1])
        return [job.out for job in looks]

    def sent(self):
        """Packets of each RDMA device of the source, by its own count."""
        return [int(self.lab.run(0, SENT % number, is_checked=True).out) for number in (0, 1)]

    def test_workers_and_rings_are_next_to_their_cards(self):
        agents = self.start_agents()
        for transport in ('tcp', 'verbs'):
            with self.subTest(transport):
                for number in range(COPIES_MOST):
                    before = self.sent()
                    looks = self.copy(transport, '%s-%d.raw' % (transport, number), agents)
                    each = [after - was for was, after in zip(before, self.sent())]
                    if all(saw_both_at_work(seen, transport) for seen in looks) and \
                            (transport == 'tcp' or min(each) > CARD_PACKETS):
                        break
                for side, seen in zip(('source\n', 'target\n'), looks):
                    self.check_threads(seen, side)
                    self.check_memory(seen, side, transport)
                    self.check_queues(seen, side, transport)
                if transport == 'verbs':
                    self.assertGreater(min(each), CARD_PACKETS, each)
                else:
                    self.assertLess(max(each), CARD_PACKETS, each)


if __name__ == '__main__':
    if sys.argv[1:2] == ['look']:
        look(sys.argv[2])
        sys.exit(0)
    try:
        ready_kernel()
    except LabError as error:
        print('skip: the lab cannot be built: %s' % error)
        sys.exit(77)
    unittest.main(verbosity=2)
