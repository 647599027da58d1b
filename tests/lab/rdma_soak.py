#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Connects, copies and aborts over RDMA between two hosts, again and again: afterwards neither agent has a
queue pair, a region, a descriptor, a thread or pinned memory more than before, and hardly a byte. Beside
copies that succeed there are those that are cancelled and those whose key is wrong, and measurements, whose
channels come and go. With GODWIT_CHECK_ALL=1 it goes on for an hour. (That moves leave nothing is seen in
rdma_move.py and rdma_faults.py.)

  rdma_soak.py              in this machine: boots the lab
  rdma_soak.py inside ...   in a host
"""
import json
import os
import re
import subprocess
import sys
import time

from labmoves import BINARY, KEY, NETWORK, Machines, check, godwit, run_main, say

ROUNDS = 3
ALL_S = 3600
# Resident memory may grow by so much: the allocator keeps what threads had, the history grows. One lane's memory that
# is not given back in each round is more.
RSS_KIB, RSS_KIB_PER_ROUND = 4096, 64


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
    cancel(path, to + 'cancelled.raw')
    refuse(path, to + 'refused.raw')
    print('{}')


def cancel(path, to):
    """How far the copy gets is not what is tested."""
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
        job.communicate()


def refuse(path, to):
    """The peer does not believe this key."""
    with open(os.open('/tmp/wrong.psk', os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), 'w') as handle:
        subprocess.run([BINARY, 'key', 'lab'], stdout=handle, check=True)
    godwit('copy', '--json', '--psk', '/tmp/wrong.psk', '--transport', 'verbs', path, to, expected=1)


def inside_account():
    """What the agent and the device have."""
    with open('/run/agent.pid') as handle:
        pid = int(handle.read())
    with open('/proc/%d/status' % pid) as handle:
        status = dict(re.findall(r'^(VmPin|VmLck|VmRSS|Threads):\s+(\d+)', handle.read(), re.M))
    kinds = {}
    for name in os.listdir('/proc/%d/fd' % pid):
        kind = re.sub(r':\[\d+\]', '', os.readlink('/proc/%d/fd/%s' % (pid, name)))
        kinds[kind] = kinds.get(kind, 0) + 1
    shown = json.loads(subprocess.run(['rdma', '-j', 'resource', 'show'], capture_output=True, check=True).stdout)
    print(json.dumps({'status': {name: int(value) for name, value in status.items()}, 'files': kinds,
                      'device': shown}))


def account(machines, host):
    """Once the newest session has ended: two looks that agree."""
    before = None
    for _ in range(30):
        now = machines.inside(host, 'account')
        if before and all(now[part] == before[part] for part in ('files', 'device')):
            return now
        before = now
    sys.exit('host %d does not come to rest: %s' % (host, before))


def leave_out(files):
    """One event for each job that status still shows."""
    return {kind: count for kind, count in files.items() if 'eventfd' not in kind}


def compare(host, before, after, rounds):
    say('host %d: %s' % (host, after))
    check(leave_out(before['files']) == leave_out(after['files']), 'host %d has other files: %s, before %s', host,
          after['files'], before['files'])
    check(before['device'] == after['device'], 'host %d: the device has %s, before %s', host, after['device'],
          before['device'])
    for name in ('VmPin', 'VmLck', 'Threads'):
        check(before['status'][name] == after['status'][name], 'host %d: %s is %d, before %d', host, name,
              after['status'][name], before['status'][name])
    grown = after['status']['VmRSS'] - before['status']['VmRSS']
    check(grown <= RSS_KIB + RSS_KIB_PER_ROUND * rounds, 'host %d has grown by %d KiB in %d rounds', host, grown, rounds)


def run(lab):
    machines = Machines(lab, __file__)
    for host in (0, 1):
        machines.start_agent(host, '--listen', '0.0.0.0', '--trusted-network', NETWORK, '--allow-bench')
    for host in (0, 1):
        machines.wait_agent(host)
        machines.inside(host, 'image')
    for host in (0, 1):
        machines.inside(host, 'round', '10.99.0.%d' % (2 - host))
    before = [account(machines, host) for host in (0, 1)]
    began, rounds = time.monotonic(), 0
    while rounds < ROUNDS or (os.environ.get('GODWIT_CHECK_ALL') and time.monotonic() - began < ALL_S):
        machines.inside(rounds % 2, 'round', '10.99.0.%d' % (2 - rounds % 2))
        rounds += 1
    for host in (0, 1):
        compare(host, before[host], account(machines, host), rounds)
    say('soak: %d rounds in %.0f s' % (rounds, time.monotonic() - began))


if __name__ == '__main__':
    sys.exit(run_main(globals(), run, memory=1024))
