#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole host loses its power before, at and after COMMITTED of a live move over verbs, and starts again
with what its disk had. Each case ends as the design says: who runs the VM, what both sides show, no debris,
the move's exit code, the guest's own check.

  power.py              in this machine: boots the lab once, for one case by GODWIT_SEED or for all of
                        them with GODWIT_CHECK_ALL
  power.py inside WHAT  in a host
"""
import json
import os
import random
import subprocess
import sys
import time

from labmoves import BINARY, BOOT, SKIP, check_lab, say

MEMORY_MIB = 48
SOCKET = '/run/godwit.sock'
STORAGE, STATE = '/disk/storage', '/disk/state'
GUEST = '/tmp/guest'
SOURCE, TARGET = 0, 1
WAIT_S = 240

# (who loses power, the source's state at that moment): what comes of it, exit codes of the move.
# S: the source runs it; T: the target does; N: nobody, it was lost with its host, whose images have their
# names; X: nobody, the target had it and was lost: its images are there.
CASES = {
    (TARGET, 'STOPPED'): ('S', {1}),
    (TARGET, 'COMMITTED'): ('S', {1, 4}),
    (TARGET, 'HANDED_OVER'): ('X', {0}),
    (SOURCE, 'STOPPED'): ('N', None),
    (SOURCE, 'COMMITTED'): ('T', None),
    (SOURCE, 'HANDED_OVER'): ('T', None),
}


def check(condition, text, *values):
    if not condition:
        raise AssertionError(text % values)


# ------------------------------------------------------------------------------- in a host of the lab

def inside_agent(number, state=''):
    """An agent that stops at that state of its handover until there is a file /run/lab/release."""
    import hold
    for path in (STORAGE, STATE):
        os.makedirs(path, exist_ok=True)
    ready, written = os.pipe()
    holder = hold.Holder()
    if state:
        holder.hold(r': source is %s$' % state)
    launcher, connection = holder.launcher()
    log = open('/run/lab/out/agent.log', 'ab')
    agent = subprocess.Popen(
        launcher + [BINARY, 'agent', '--verbose', '--verbose', '--listen', '10.99.0.%d' % (int(number) + 1),
                    '--transport', 'verbs', '--psk', '/run/lab/lab.psk', '--storage', STORAGE, '--state', STATE,
                    '--keep-partial', '0', '--socket', SOCKET, '--ready-fd', str(written)],
        stdout=log, stderr=log, pass_fds=[connection.fileno(), written])
    connection.close()
    os.close(written)
    if not os.read(ready, 1):
        sys.exit('the agent ended with %s' % agent.wait())
    say('ready')
    if state:
        if not holder.wait(WAIT_S):
            sys.exit('%s was not reached' % state)
        say('held')
        while not os.path.exists('/run/lab/release'):
            time.sleep(0.2)
        os.unlink('/run/lab/release')
        holder.release()
    sys.exit(agent.wait())


def inside_guest():
    """The guest, which fills its memory; it is left running."""
    import guestctl
    import guestimage
    for name in os.listdir(STORAGE):
        os.unlink(os.path.join(STORAGE, name))
    path = os.path.join(STORAGE, 'web1.raw')
    guestimage.make_image(path, 32 << 20, 'raw', False, BOOT, 2, None, seed=11, span_mib=MEMORY_MIB // 2,
                          pages_per_tick=10, writes_per_tick=2, reads_per_tick=1, write_range_mib=8)
    guest = guestctl.Guest(GUEST, name='web1', memory_mib=MEMORY_MIB, disks=[{'path': path, 'format': 'raw'}])
    guest.start()
    # One emulated processor for all: what moves the guest goes first, and its monitor must still answer.
    os.setpriority(os.PRIO_PROCESS, guest.pid, 5)
    guest.wait_ready(WAIT_S)
    guest.serial.wait_tick(WAIT_S)


def inside_verify(path=None):
    """The guest's own check: of the one that was started here, or on the serial line of one that came."""
    import guestctl
    serial = guestctl.Serial('/tmp', path, 'moved') if path else guestctl.attached(GUEST)[1]
    if path:
        serial.start()
    try:
        before = serial.wait_tick(WAIT_S)
        serial.wait_tick(WAIT_S, least=before['n'] + 1)
        is_good, numbers, faults = serial.verify(WAIT_S)
    finally:
        if path:
            serial.stop()
    check(is_good and not before['bad'], 'the guest found faults: %s %s', faults[:3], before)
    say(json.dumps(numbers))


def inside_look():
    """What this host has and shows."""
    answer = subprocess.run([BINARY, 'status', '--json'], capture_output=True, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if line.startswith('{')]
    agents = json.loads(lines[-1])['agents'] if lines else []
    vm = os.path.join(STATE, 'vm')
    say(json.dumps({
        'in_doubt': [one['state'] for agent in agents for one in agent['in_doubt']] if agents else ['no agent'],
        'storage': sorted(os.listdir(STORAGE)), 'vm': sorted(os.listdir(vm)) if os.path.isdir(vm) else [],
        'memory': sorted(os.listdir('/dev/shm')),
        'serial': next((word.partition('path=')[2].partition(',')[0] for word in qemu_words() if 'id=serial0' in word),
                       None),
        'qemu': bool(qemu_words())}))


def qemu_words():
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                with open('/proc/%s/cmdline' % name) as handle:
                    words = handle.read().split('\0')
            except OSError:
                continue
            if 'qemu-system' in words[0]:
                return words
    return []


def inside_end():
    """The guest has done its part."""
    subprocess.run(['pkill', '-KILL', 'qemu-system'], check=False)


# ------------------------------------------------------------------------------------- in this machine

class Machines:
    def __init__(self, lab):
        self.lab = lab
        self.agents = {}

    def command(self, *words):
        return 'GODWIT_SOCKET=%s GODWIT_GUEST_BOOT=%s GODWIT_BIN=%s python3 %s inside %s' % (
            SOCKET, BOOT, BINARY, os.path.abspath(__file__), ' '.join(map(str, words)))

    def inside(self, host, *words):
        done = self.lab.run(host, self.command(*words), timeout=WAIT_S)
        check(done.status == 0, '%s on host %d: status %s\n%s\n%s', words[0], host, done.status, done.out[-3000:],
              done.err[-3000:])
        lines = [line for line in done.out.splitlines() if line.startswith('{')]
        return json.loads(lines[-1]) if lines else {}

    def wait_word(self, job, word):
        deadline = time.monotonic() + WAIT_S
        while word not in job.out.split():
            check(job.status is None and time.monotonic() < deadline, 'an agent did not say %r: %s\n%s', word,
                  job.out, job.err[-2000:])
            time.sleep(0.1)

    def start_agent(self, host, state=''):
        """Over again with another state to stop at."""
        if host in self.agents and self.agents[host].status is None:
            self.lab.run(host, 'pkill -TERM -x godwit; while pgrep -x godwit; do sleep 0.2; done')
            self.agents[host].wait(WAIT_S)
        self.agents[host] = self.lab.start(host, 'ulimit -l unlimited; ' + self.command('agent', host, state))
        self.wait_word(self.agents[host], 'ready')

    def release(self):
        with open(os.path.join(self.lab.share(SOURCE), 'release'), 'w'):
            pass

    def wait_look(self, host, wanted):
        """Until the host looks as wanted(what it has) says; what it has."""
        deadline = time.monotonic() + WAIT_S
        while True:
            found = self.inside(host, 'look')
            if wanted(found):
                return found
            check(time.monotonic() < deadline, 'host %d has %s', host, found)
            time.sleep(1)

    def await_log(self, host, text):
        """Until that host's agent has said so. What it has journalled then is on its disk."""
        path = os.path.join(self.lab.share(host), 'out', 'agent.log')
        deadline = time.monotonic() + WAIT_S
        while True:
            with open(path, errors='replace') as handle:
                if text in handle.read():
                    return
            check(time.monotonic() < deadline, 'host %d did not say %r', host, text)
            time.sleep(0.2)

    def logs(self):
        for host in (SOURCE, TARGET):
            path = os.path.join(self.lab.share(host), 'out', 'agent.log')
            if os.path.exists(path):
                with open(path, errors='replace') as handle:
                    say('--- agent %d\n%s' % (host, handle.read()[-5000:]))


def is_clean(found):
    return not found['in_doubt'] and not found['storage'] and not found['vm'] and not found['qemu']


def settled(machines, outcome):
    """Waits for what the case must come to."""
    if outcome == 'S':
        machines.wait_look(SOURCE, lambda has: not has['in_doubt'] and has['storage'] == ['web1.raw'])
        machines.wait_look(TARGET, is_clean)
        machines.inside(SOURCE, 'verify')
    elif outcome == 'N':
        machines.wait_look(SOURCE, lambda has: not has['in_doubt'] and has['storage'] == ['web1.raw'] and
                           not has['qemu'] and not has['vm'])
        machines.wait_look(TARGET, is_clean)
    else:
        machines.wait_look(SOURCE, lambda has: not has['in_doubt'] and not has['qemu'] and
                           [name for name in has['storage'] if name.startswith('web1.raw.godwit-')] == has['storage'])
        there = machines.wait_look(TARGET, lambda has: not has['in_doubt'] and has['storage'] == ['web1.raw'] and
                                   has['qemu'] == (outcome == 'T'))
        if outcome == 'T':
            machines.inside(TARGET, 'verify', there['serial'])


def run_case(machines, victim, state, has_guest):
    outcome, codes = CASES[victim, state]
    began = time.monotonic()
    machines.start_agent(SOURCE, state)
    machines.start_agent(TARGET)
    if not has_guest:
        machines.inside(SOURCE, 'guest')
    move = machines.lab.start(SOURCE, 'GODWIT_SOCKET=%s %s move --json --psk /run/lab/lab.psk --qmp %s/qmp --to '
                              '10.99.0.2 --transport verbs --tracker softdirty --max-pause 20000 --no-throttle '
                              '--reconnect-timeout 5' % (SOCKET, BINARY, GUEST))
    machines.wait_word(machines.agents[SOURCE], 'held')
    if (victim, state) == (TARGET, 'HANDED_OVER'):
        # The source knows it before the target's record is made; in between it would be LOST, for a person to settle.
        machines.await_log(TARGET, 'JOURNAL_RUNNING: done')
    machines.lab.kill(victim)
    if victim == TARGET:
        machines.release()
        check(move.wait(WAIT_S) in codes, 'the move ended with %s: %s', move.status, move.out[-2000:])
    machines.lab.restart(victim)
    machines.start_agent(victim)
    settled(machines, outcome)
    say('%s lost at %s: %s, as it should (%.0f s)' % (
        'target' if victim == TARGET else 'source', state, outcome, time.monotonic() - began))
    if outcome in 'TX':
        machines.inside(TARGET, 'end')
        machines.lab.run(TARGET, 'rm -rf %s/* %s/vm' % (STORAGE, STATE))
    return outcome == 'S'


def choose():
    """All, or one by the seed."""
    cases = list(CASES)
    if os.environ.get('GODWIT_CHECK_ALL'):
        return cases
    seed = os.environ.get('GODWIT_SEED', '1')
    say('GODWIT_SEED=%s' % seed)
    return [random.Random('power %s' % seed).choice(cases)]


def main():
    from godwit_lab import Lab, LabError
    try:
        with Lab(hosts=2, memory=1200, disk=128) as lab:
            key = subprocess.run([BINARY, 'key', 'lab'], capture_output=True, check=True).stdout
            for host in (SOURCE, TARGET):
                path = os.path.join(lab.share(host), 'lab.psk')
                with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 'wb') as handle:
                    handle.write(key)
            machines = Machines(lab)
            has_guest = False
            try:
                for case in choose():
                    has_guest = run_case(machines, *case, has_guest)
            except BaseException:
                machines.logs()
                raise
    except LabError as error:
        say('skipped: %s' % error)
        return SKIP
    return 0


if __name__ == '__main__':
    if len(sys.argv) > 2 and sys.argv[1] == 'inside':
        check_lab()
        globals()['inside_' + sys.argv[2]](*sys.argv[3:])
        sys.exit(0)
    sys.exit(main())
