#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The transport's contract over verbs with its two ends on two hosts, and what an end says when the other one is
killed, when the wire dies in silence, and when the other host loses its power, each with writes under way. Hosts of
unequal MTU: refused where the side that asks would send too much, else the smaller one is taken.

One of those three losses, and the MTU of the side that asks, by GODWIT_SEED; all of them, and the contract over libfabric's provider verbs, with
GODWIT_CHECK_ALL=1.
"""
import os
import random
import re
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get('GODWIT_HOSTS', os.path.join(ROOT, 'build/tests/transport/transport-hosts'))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, 'scripts', 'lab.d'))
# pylint: disable=wrong-import-position
from godwit_lab import Lab  # noqa: E402
from lab_kernel import LabError, ready_kernel  # noqa: E402

NEAR, FAR, PORT = 0, 1, 4000
WAIT_S = 300
SKIP = 77
SILENT = r'dead: ETIMEDOUT: .*has not answered'
# Who is taken away, and what the near end says then. The last one, as its host is gone.
LOSSES = {'process': r'dead: E(CONNRESET|PIPE): ', 'wire': SILENT, 'power': SILENT}


def start(lab, end, *words, environment=''):
    near = '$LAB_ADDRESS $LAB_PEER:%d' % PORT if end == NEAR else '$LAB_ADDRESS:%d' % PORT
    return lab.start(end, 'echo $$ >/tmp/end.pid; GODWIT_TEST_VERBS=$LAB_ADDRESS GODWIT_MODULE_DIR=%s %s exec %s %s %s %s'
                     % (os.environ.get('GODWIT_MODULE_DIR', ''), environment, PROGRAM, 'near' if end == NEAR else 'far',
                        near, ' '.join(words)))


def fail(what, jobs):
    sys.exit('%s\n%s' % (what, '\n'.join('--- host %d: status %s\n%s%s' % (job.host.index, job.status, job.out, job.err)
                                         for job in jobs)))


def await_line(jobs, job, line):
    deadline = time.monotonic() + WAIT_S
    while not re.search('^' + line, job.out, re.M):
        if job.status is not None or time.monotonic() > deadline:
            fail('no "%s"' % line, jobs)
        time.sleep(0.2)


def start_both(lab, *words, environment=''):
    far = start(lab, FAR, *words, environment=environment)
    await_line([far], far, 'ready')
    return [start(lab, NEAR, *words, environment=environment), far]


def set_mtu(lab, host, mtu):
    lab.run(host, 'ip link set eth0 mtu %d' % mtu, is_checked=True)


def refuse_larger(lab):
    """The MTU of RoCE is that of the side that asks. A side that takes less says so at once, and what to do."""
    set_mtu(lab, FAR, 1500)
    jobs = near, far = start_both(lab)
    near.wait(WAIT_S)
    set_mtu(lab, FAR, 9000)
    lab.run(FAR, 'kill -KILL $(cat /tmp/end.pid)', is_checked=True)
    far.wait(WAIT_S)
    said = re.search(r'refused: rxe0/1 takes packets of 1024 bytes, not 4096: give both ends', near.out + near.err)
    if not said or near.status == 0:
        fail('larger packets than this side takes are not refused', jobs)
    print('PASS: unequal MTU: %s' % said.group(), flush=True)


def contract(lab, name, environment='', mtu=4096):
    began = time.monotonic()
    jobs = start_both(lab, environment=environment)
    if any(job.wait(WAIT_S) != 0 for job in jobs):
        fail('the contract over %s does not hold' % name, jobs)
    ran = [re.findall(r'^ok (\w+)', job.out, re.M) for job in jobs]
    if len(ran[0]) < 8 or ran[0] != ran[1]:
        fail('hardly anything ran', jobs)
    if name == 'verbs':
        check_gid(lab, jobs, mtu)
        check_counters(lab, jobs)
    print('PASS: %s, MTU %d: %s (%.0f s)' % (name, mtu, ', '.join(ran[0]), time.monotonic() - began), flush=True)


def check_gid(lab, jobs, wanted_mtu):
    """What a channel says of itself: the entry of the device's table that is RoCE v2 with the route's address."""
    for job in jobs:
        said = re.search(r'^channel: verbs (\w+)/(\d+) gid (\d+) ([\d.]+):\d+ > ([\d.]+):\d+, mtu (\d+)', job.out, re.M)
        if not said:
            fail('a channel does not say where it is', jobs)
        device, port, index, local, peer, mtu = said.groups()
        ports = '/sys/class/infiniband/%s/ports/%s/' % (device, port)
        look = lab.run(job.host.index, 'cat %sgids/%s %sgid_attrs/types/%s' % (ports, index, ports, index), is_checked=True)
        wanted = ':'.join(['0000'] * 5 + ['ffff'] + ['%02x%02x' % pair for pair in
                                                   zip(*[iter(map(int, local.split('.')))] * 2)])
        addresses = ['10.99.0.%d' % (job.host.index + 1), '10.99.0.%d' % (2 - job.host.index)]
        if look.out.split('\n')[:2] != [wanted, 'RoCE v2'] or [local, peer] != addresses or int(mtu) != wanted_mtu:
            fail('the channel is not where it says: %s, %r' % (said.group(), look.out), jobs)


def check_counters(lab, jobs):
    """No message ever met a queue without a receive, by the devices' own counts."""
    for job in jobs:
        counts = lab.run(job.host.index, 'cd /sys/class/infiniband/rxe0/ports/1/hw_counters && grep -H . *rnr* sent_pkts',
                         is_checked=True).out
        found = dict(line.split(':') for line in counts.split())
        if int(found.pop('sent_pkts')) < 1000 or len(found) < 2 or any(int(count) for count in found.values()):
            fail('not ready to receive: %s' % counts, jobs)


def lose(lab, what):
    jobs = near, far = start_both(lab, 'vanish')
    for job in jobs:
        await_line(jobs, job, 'under way')
    if what == 'process':
        lab.run(FAR, 'kill -KILL $(cat /tmp/end.pid)', is_checked=True)
    elif what == 'wire':
        lab.cut(is_silent=True)
    else:
        lab.kill(FAR)
    if near.wait(WAIT_S) != 0 or not re.search('^' + LOSSES[what], near.out, re.M):
        fail('%s: the near end does not notice it, or says something else' % what, jobs)
    # The other end of a silent wire is no worse off.
    if what == 'wire' and (far.wait(WAIT_S) != 0 or not re.search('^' + SILENT, far.out, re.M)):
        fail('%s: the far end does not notice it, or says something else' % what, jobs)
    if what == 'wire':
        lab.join()
    left = lab.run(NEAR, 'rdma resource show qp | grep -c transport-host', timeout=60)
    if left.out.strip() != '0':
        fail('%s: queue pairs are left: %s' % (what, left.out), jobs)
    print('PASS: lost %s: %s' % (what, re.search('^dead: .*', near.out, re.M).group()), flush=True)


def main():
    is_all = os.environ.get('GODWIT_CHECK_ALL')
    seed = os.environ.get('GODWIT_SEED', '1')
    losses = list(LOSSES) if is_all else [random.Random('contract ' + seed).choice(list(LOSSES))]
    is_small = random.Random('MTU ' + seed).random() < 0.5
    print('GODWIT_SEED=%s: %s' % (seed, ', '.join(losses)), flush=True)
    try:
        ready_kernel()
    except LabError as error:
        print('skipped: the lab cannot be built: %s' % error)
        return SKIP
    with Lab(hosts=2, memory=1024) as lab:
        refuse_larger(lab)
        # The side that asks may have the smaller MTU: that one is taken.
        if is_small:
            set_mtu(lab, NEAR, 1500)
        contract(lab, 'verbs', mtu=1024 if is_small else 4096)
        set_mtu(lab, NEAR, 9000)
        if is_all and os.environ.get('GODWIT_LAB_FABRIC'):
            contract(lab, 'fabric', 'GODWIT_TEST_FABRIC=verbs')
        for what in losses:
            lose(lab, what)
    return 0


if __name__ == '__main__':
    sys.exit(main())
