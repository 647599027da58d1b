#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Connects, copies, moves and aborts over RDMA between two hosts, again and again: afterwards neither agent has a
queue pair, a region, a descriptor, a thread, pinned memory or a file in memory more than before, and hardly a
byte. Beside copies that succeed there are those that are cancelled and those whose key is wrong, and
measurements, whose channels come and go. A running guest moves there and back, and attempts to move it are
cancelled in each phase; it checks itself in the end. A check does a few copies or moves, by GODWIT_SEED; with
GODWIT_CHECK_ALL=1 both are done, as many as an hour may bring: a move or an attempt each minute, and a copy, a
measurement or a stranger four times a minute.

  rdma_soak.py [copies|moves]...   in this machine: boots the lab
  rdma_soak.py inside ...          in a host
"""
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter

from labmoves import BINARY, KEY, NETWORK, Machines, ask_holder, check, godwit, move_line, run_main, say

# Before the account is taken both hosts have done everything once.
WARM_ROUNDS = {'copies': 2, 'moves': 1}
ROUNDS = {'copies': 3, 'moves': 1}
ALL_ROUNDS = {'copies': 60, 'moves': 15}
SAY_EVERY = 5
# Resident memory may grow by so much: the allocator keeps what threads had, each in its own arena, the history grows.
# One lane's memory (2 MiB of each ring at least) that is not given back in each round is more in the long run, that of
# each copy's lanes in the short one, too.
RSS_KIB, RSS_KIB_PER_ROUND = 8192, 64
CONNECTED = '/sys/class/infiniband/rxe0/ports/1/cm_tx_msgs/'


def inside_image():
    os.makedirs('/tmp/storage', exist_ok=True)
    with open('/tmp/storage/one.raw', 'wb') as handle:
        handle.write(os.urandom(2 << 20))


def inside_round(peer):
    """One of each, from this host."""
    path = '/tmp/storage/one.raw'
    to = '%s:%s-%d-' % (peer, os.environ['LAB_HOST'], os.getpid())
    godwit('bench', '--json', '--ms', '50', '--transport', 'verbs', peer)
    godwit('copy', '--json', '--psk', KEY, '--transport', 'verbs', path, to + 'done.raw')
    is_cancelled = cancel(path, to + 'cancelled.raw')
    refuse(path, to + 'refused.raw')
    print(json.dumps({'measurements': 1, 'copies': 1, 'refused copies': 1, 'cancelled copies': int(is_cancelled)}))


def cancel(path, to):
    """How far the copy gets is not what is tested. False: it was over before."""
    job = subprocess.Popen([BINARY, 'copy', '--json', '--psk', KEY, '--transport', 'verbs', path, to],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(100):
            [agent] = godwit('status', '--json')['agents']
            running = [one['job'] for one in agent['jobs'] if one['state'] == 'running']
            if running:
                subprocess.run([BINARY, 'cancel', running[0]], capture_output=True, check=False)
                break
            if job.poll() is not None:
                break
    finally:
        said = job.communicate()[0]
    if job.returncode not in (0, 1) or (job.returncode == 1 and 'cancelled' not in said):
        sys.exit('a copy that was to be cancelled ended with %s: %s' % (job.returncode, said[-500:]))
    return job.returncode == 1


def refuse(path, to):
    """The peer does not believe this key."""
    with open(os.open('/tmp/wrong.psk', os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), 'w') as handle:
        subprocess.run([BINARY, 'key', 'lab'], stdout=handle, check=True)
    godwit('copy', '--json', '--psk', '/tmp/wrong.psk', '--transport', 'verbs', path, to, expected=1)


# Where an attempt to move is cancelled: lines of the source's log. That with windows open comes after the warm-up.
PHASES = ('phase disks$', 'what is left fits the pause$', r'window \d+: .* registered on both sides$')
MOVE = ['--transport', 'verbs', '--trusted-network', NETWORK]
GUEST = '{"memory_mib": 48, "disk_mib": 16, "fill_mib": 4, "span_mib": 16}'


def inside_abort(qmp, to, pattern):
    """A move that is cancelled at a line of its log."""
    ask_holder('hold', pattern)
    job = subprocess.Popen([BINARY, *move_line(qmp, to, *MOVE)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
    while not ask_holder('wait', '10'):
        if job.poll() is not None:
            sys.exit('the move ended before it was cancelled: %s' % (job.communicate(),))
    [agent] = godwit('status', '--json')['agents']
    [running] = [one['job'] for one in agent['jobs'] if one['state'] == 'running']
    subprocess.run([BINARY, 'cancel', running], capture_output=True, check=True)
    ask_holder('release')
    out, err = job.communicate()
    check(job.returncode == 1, 'cancelled, the move ended with %d: %s%s', job.returncode, out, err)
    print('{}')


def inside_account():
    """What the agent and the device have, and who else there is."""
    with open('/run/agent.pid') as handle:
        pid = int(handle.read())
    with open('/proc/%d/status' % pid) as handle:
        status = dict(re.findall(r'^(VmPin|VmLck|VmRSS|Threads):\s+(\d+)', handle.read(), re.M))
    kinds = {}
    for name in os.listdir('/proc/%d/fd' % pid):
        kind = re.sub(r':\[\d+\]', '', os.readlink('/proc/%d/fd/%s' % (pid, name)))
        kinds[kind] = kinds.get(kind, 0) + 1
    memory = sorted(size for size in map(size_of, os.listdir('/dev/shm')) if size is not None)
    [agent] = godwit('status', '--json')['agents']
    guests = subprocess.run(['pgrep', '-c', 'qemu-system'], capture_output=True, text=True, check=False).stdout
    shown = json.loads(subprocess.run(['rdma', '-j', 'resource', 'show'], capture_output=True, check=True).stdout)
    # One event for each job that status still shows.
    kinds['anon_inode:[eventfd]'] = kinds.get('anon_inode:[eventfd]', 0) - len(agent['jobs'])
    print(json.dumps({'status': {name: int(value) for name, value in status.items()}, 'files': kinds,
                      'device': shown, 'memory': memory, 'guests': int(guests), 'connects': connects()}))


def size_of(name):
    """None: the agent has just removed it."""
    try:
        return os.stat('/dev/shm/' + name).st_size
    except FileNotFoundError:
        return None


def connects():
    """How many connections this host has asked for, by the kernel's count of such messages."""
    with open(CONNECTED + 'req') as handle:
        return int(handle.read())


def account(machines, host):
    """Once the newest session has ended: two looks that agree."""
    before = None
    for _ in range(30):
        time.sleep(2)
        now = machines.inside(host, 'account')
        if before and all(now[part] == before[part] for part in ('files', 'device', 'memory', 'guests')):
            return now
        before = now
    sys.exit('host %d does not come to rest: %s' % (host, before))


def compare(host, before, after, rounds):
    say('host %d: %s' % (host, after))
    for name in ('files', 'device', 'memory', 'guests'):
        check(before[name] == after[name], 'host %d: %s: %s, before %s', host, name, after[name], before[name])
    for name in ('VmPin', 'VmLck', 'Threads'):
        check(before['status'][name] == after['status'][name], 'host %d: %s is %d, before %d', host, name,
              after['status'][name], before['status'][name])
    grown = after['status']['VmRSS'] - before['status']['VmRSS']
    check(grown <= RSS_KIB + RSS_KIB_PER_ROUND * rounds, 'host %d has grown by %d KiB in %d rounds', host, grown, rounds)


class Copies:
    """One of each kind from each host in turn."""

    def __init__(self, machines):
        self.machines, self.count, self.done = machines, 0, Counter()
        for host in (0, 1):
            machines.inside(host, 'image')

    def round(self):
        host = self.count % 2
        self.done.update(self.machines.inside(host, 'round', '10.99.0.%d' % (2 - host)))
        self.count += 1

    def end(self):
        """Nothing is left to look at."""


class Moves:
    """The guest there and back; before each, one attempt that is cancelled."""

    def __init__(self, machines):
        self.machines, self.count, self.done = machines, 0, Counter()
        warm = machines.warm(1)
        self.qmp = machines.inside(0, 'guest', GUEST)['qmp']
        self.serial = None
        warm.wait(100)
        machines.warm(0).wait(100)

    def round(self):
        for host in (0, 1):
            to = '10.99.0.%d' % (2 - host)
            self.machines.inside(host, 'abort', self.qmp, to, PHASES[self.count % len(PHASES)])
            self.count += 1
            there = self.machines.inside(host, 'move', self.qmp, to, *MOVE, '--delete-source')['detail']['target']
            self.qmp, self.serial = there['qmp'], there['chardevs']['serial0']
            self.done.update({'moves': 1, 'cancelled moves': 1})

    def end(self):
        self.machines.inside(0, 'verify', self.serial)


KINDS = {'copies': Copies, 'moves': Moves}


def choose():
    """What is done, and how often."""
    seed, is_all = os.environ.get('GODWIT_SEED', '1'), bool(os.environ.get('GODWIT_CHECK_ALL'))
    kinds = sys.argv[1:] or (list(KINDS) if is_all else [random.Random('soak ' + seed).choice(list(KINDS))])
    say('GODWIT_SEED=%s: %s' % (seed, ', '.join(kinds)))
    return {kind: (ALL_ROUNDS if is_all else ROUNDS)[kind] for kind in kinds}


def soak(machines, kind, rounds):
    work = KINDS[kind](machines)
    for _ in range(WARM_ROUNDS[kind]):
        work.round()
    before = [account(machines, host) for host in (0, 1)]
    work.done.clear()
    began = time.monotonic()
    for index in range(rounds):
        work.round()
        if index % SAY_EVERY == SAY_EVERY - 1:
            say('%s: %d rounds in %.0f s' % (kind, index + 1, time.monotonic() - began))
    seconds = time.monotonic() - began
    after = [account(machines, host) for host in (0, 1)]
    for host in (0, 1):
        compare(host, before[host], after[host], rounds)
    work.end()
    work.done['connects'] = sum(after[host]['connects'] - before[host]['connects'] for host in (0, 1))
    say('%s: %d rounds in %.0f s: %s' % (kind, rounds, seconds, dict(work.done)))


def run(lab):
    kinds = choose()
    machines = Machines(lab, __file__)
    for host in (0, 1):
        machines.start_agent(host, '--listen', '0.0.0.0', '--trusted-network', NETWORK, '--allow-bench')
    for host in (0, 1):
        machines.wait_agent(host)
    for kind, rounds in kinds.items():
        soak(machines, kind, rounds)


if __name__ == '__main__':
    sys.exit(run_main(globals(), run, memory=1200))
