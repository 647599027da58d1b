#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""RDMA is taken away in the middle of a move: the link regrows on what is left, what was under way is sent
again, the move completes, and it is said which transport carries it and why another does not.

Two hosts, two wires with an RDMA device on each, and one guest that moves to and fro; its own check says
whether anything was lost. No fault waits for luck: the source's agent is held at the line that begins a
phase, the wire is silenced there, and the fault strikes when bytes are known to be under way (in the last
phase, when none are).

  rdma_faults.py [CASE...]  in this machine: boots the lab; CASE is FAULT[PHASE,SECRECY], --list lists them
  rdma_faults.py inside ... in a host
"""
import itertools
import os
import random
import re
import sys
import time

from labmoves import NETWORK, Machines, check, run_main, say
from lab_kernel import LabError

SIZES = '{"memory_mib": 48, "disk_mib": 24, "fill_mib": 8, "span_mib": 16}'
# Where the source stands when the wire goes silent. Clear memory is held back until a window is registered.
PHASES = {'disks': {'clear': 'phase disks$', 'sealed': 'phase disks$'},
          'memory': {'clear': r'window 1: .* registered on both sides$', 'sealed': 'phase memory$'},
          'handover': {'clear': 'what is left fits the pause$', 'sealed': 'what is left fits the pause$'}}
# Only the agent of host 1 trusts the network: what moves to host 0 is sealed.
SECRECY = {'clear': 0, 'sealed': 1}  # the source
SEED = os.environ.get('GODWIT_SEED', '1')
LATE = 'what is left fits the pause$'
MISSED_MOST = 3
# Of which a check draws one by its seed; each takes a minute or two.
SAMPLE = ['device[disks,clear]', 'device[memory,clear]', 'device[handover,sealed]', 'wire[disks,sealed]']
SAMPLE_SIZE = 1


class Fault:
    """How RDMA is lost, and what is left. Silent wires lose frames and keep their carrier."""
    wires = None            # that go silent; all of them
    carrier = False         # before the handover the cable is pulled, which is seen at once
    transport = 'tcp'       # that carries the move in the end
    reason = ''             # why verbs is passed over, a regular expression; empty: it is not
    is_link_lost = True     # the control session too, not data channels only
    is_rail_left = False    # what is under way on another rail gets there, and is not sent again

    def prepare(self, case):
        """Before the move."""

    def strike(self, case):
        """With bytes under way on silent wires."""

    def heal(self, case):
        """Once the loss was noticed."""

    def check(self, case):
        """When the move is done."""


class RailMissing(Exception):
    """A busy machine's rail did not answer when the move began: there is nothing to lose. How the move ended."""


class Device(Fault):
    """The RDMA devices of one side are deleted; the wires are there."""
    # Where it was deleted it is gone, or going; from the other side requests are refused, or not answered.
    reason = ('no RDMA device|was removed|the device changed|events of a connection cannot be had|'
              'nothing listens there for RDMA|refused without a reason|does not answer|did not answer|has not answered|went down')

    def strike(self, case):
        """The kernel waits until nobody has it open, which is so once the link has another way."""
        self.deletions = [case.lab.start(case.side, 'rdma link delete ' + device) for device in ('rxe0', 'rxe1')]

    def heal(self, case):
        case.lab.join()

    def check(self, case):
        for job in self.deletions:
            if job.wait(60) != 0:
                case.machines.say_logs()
                say(case.lab.run(case.side, 'rdma resource show; rdma resource show qp; ls -l /proc/[0-9]*/fd 2>&1 | grep -E "^/proc|infini"').out)
            check(job.status == 0, '%s: the device is still held: %s', case.name, job.err)


class Cut(Fault):
    """All wires are dead for a while."""
    carrier = True
    transport = '(verbs rxe[01]|tcp)'

    def heal(self, case):
        case.lab.join()


class Wire(Fault):
    """The only wire with RDMA on it is dead for good."""
    wires = [0]
    carrier = True
    reason = 'no RDMA device'

    def prepare(self, case):
        for host in (0, 1):
            case.lab.run(host, 'rdma link delete rxe1', is_checked=True)


class FirstRail(Fault):
    """Of two wires with RDMA, the one that the control session is on."""
    wires = [0]
    transport = 'verbs rxe1'
    is_rail_left = True


class SecondRail(Fault):
    """The other one: its channels are replaced, and the session goes on. (By TCP, if the other rail should
    not answer in time.)"""
    wires = [1]
    transport = '(verbs rxe0|tcp)'
    is_link_lost = False
    is_rail_left = True


FAULTS = {'device': Device, 'cut': Cut, 'wire': Wire, 'first-rail': FirstRail, 'second-rail': SecondRail}


class Case:
    def __init__(self, machines, name, generator):
        fault, self.phase, self.secrecy = re.fullmatch(r'([\w-]+)\[(\w+),(\w+)\]', name).groups()
        self.fault = FAULTS[fault]()
        self.machines, self.lab, self.name = machines, machines.lab, name
        self.source = SECRECY[self.secrecy]
        self.target = 1 - self.source
        self.side = generator.choice((0, 1))  # whose devices go
        self.is_early = self.phase != 'handover'
        # Channels that never hear of a window have no clear memory under way.
        self.is_under_way = self.is_early and (self.fault.is_link_lost or (self.phase, self.secrecy) != ('memory', 'clear'))
        self.log_before = len(machines.log(self.source))

    def log(self):
        return self.machines.log(self.source)[self.log_before:]

    def hold(self, *words, timeout=200):
        return self.machines.inside(self.source, 'holder', *words, timeout=timeout)['answer']

    def cut(self, is_silent):
        for wire in [None] if self.fault.wires is None else self.fault.wires:
            self.lab.cut(wire, is_silent=is_silent)

    def wait_log(self, pattern, timeout=90):
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.log()):
            check(time.monotonic() < deadline, '%s: the log never says %r:\n%s', self.name, pattern,
                  self.log()[-4000:])
            time.sleep(0.2)

    def await_held(self, move, timeout=150):
        deadline = time.monotonic() + timeout
        while not self.hold('wait', '10'):
            check(move.status is None and time.monotonic() < deadline, '%s: the move does not get there: %s\n%s',
                  self.name, move.err, self.log()[-4000:])

    def await_bytes(self):
        """Until something is under way; how many bytes."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            progress = self.machines.inside(self.source, 'progress', 'move')
            if progress['bytes_sent'] > progress['bytes_done']:
                return progress['bytes_sent'] - progress['bytes_done']
        sys.exit('%s: nothing gets under way: %s' % (self.name, progress))

    def run(self, qmp):
        """The move; how it ended."""
        self.fault.prepare(self)
        self.hold('hold', PHASES[self.phase][self.secrecy])
        move = self.machines.start(self.source, *move_words(qmp, self.target), '--reconnect-timeout', '120')
        self.await_held(move)
        if self.fault.is_rail_left and 'is passed over' in self.log():
            self.hold('release')
            raise RailMissing(self.machines.end(move, 'move'))
        self.cut(is_silent=self.is_early or not self.fault.carrier)
        self.hold('go-on', LATE)
        under_way = self.await_bytes() if self.is_under_way else 0
        self.fault.strike(self)
        self.wait_log('the link is lost' if self.fault.is_link_lost else 'data channel .* is replaced')
        self.fault.heal(self)
        self.await_held(move)
        progress = self.machines.inside(self.source, 'progress', 'move')
        self.hold('release')
        ended = self.machines.end(move, 'move')
        self.check(progress, ended, under_way)
        return ended

    def check(self, progress, ended, under_way):
        stats, fault, log = ended['detail']['stats'], self.fault, self.log()
        fault.check(self)
        again = stats['wire_bytes'] - stats['data_bytes']
        say('%s: %s; %r; %d KiB under way, %d KiB sent again' % (
            self.name, progress['transport'], progress['note'], under_way >> 10, again >> 10))
        for transport in (progress['transport'], stats['transport']):
            check(re.match(fault.transport, transport), '%s: carried by %s', self.name, transport)
        least = min(under_way, 1) if fault.is_rail_left else under_way
        check(again >= least, '%s: %d bytes were under way, and %d were sent again', self.name, under_way, again)
        if not fault.is_link_lost:
            check('the link is lost' not in log, '%s: the whole link was lost', self.name)
            return
        name = progress['transport'].split()[0]
        check('is up again over ' + name in progress['note'], '%s: the note is %r', self.name, progress['note'])
        check('is up again over ' + name in log, '%s: not in the log', self.name)
        if fault.reason:
            check(re.search('verbs is passed over: .*(%s)' % fault.reason, progress['note']),
                  '%s: the note is %r', self.name, progress['note'])
            check(re.search('verbs is passed over: .*(%s)' % fault.reason, log), '%s: not in the log', self.name)

    def mend(self):
        """Everything as it was."""
        self.lab.join()
        for host in (0, 1):
            # A soft-RoCE device that lost its port may make no more connections (docs/rdma.md).
            self.lab.run(host, 'for n in 0 1; do rdma link delete rxe$n; '
                               'rdma link add rxe$n type rxe netdev eth$n || exit; done', is_checked=True)


def open_machines(lab):
    """Both agents and the guest, which is on host 0: the monitor's path."""
    machines = Machines(lab, __file__)
    for host in (0, 1):
        machines.start_agent(host, '--listen', '0.0.0.0', *(['--trusted-network', NETWORK] if host else []))
    warm = machines.warm(1)
    guest = machines.inside(0, 'guest', SIZES)
    warm.wait(100)
    machines.warm(0).wait(100)
    for host in (0, 1):
        machines.wait_agent(host)
    return machines, guest['qmp']


def run(lab, names, failed):
    """Takes away the names of those that were run; returns early when one failed, as nobody knows what it left."""
    machines, qmp = open_machines(lab)
    at, missed = 0, {}
    while names:
        began, name = time.monotonic(), names.pop(0)
        case = Case(machines, name, random.Random(name + SEED))
        try:
            if at != case.source:
                qmp = machines.inside(at, *move_words(qmp, case.source))['detail']['target']['qmp']
            try:
                there, is_again = case.run(qmp)['detail']['target'], False
            except RailMissing as ended:
                there, is_again = ended.args[0]['detail']['target'], True
                missed[name] = missed.get(name, 0) + 1
                check(missed[name] <= MISSED_MOST, 'a rail is passed over again and again')
            machines.inside(case.target, 'verify', there['chardevs']['serial0'])
            case.mend()
        except (SystemExit, LabError) as failure:
            machines.say_logs()
            say('FAIL: %s (%.0f s): %s' % (name, time.monotonic() - began, failure))
            failed.append(name)
            return
        qmp, at = there['qmp'], case.target
        if is_again:
            say('again: %s: a rail is missing' % name)
            names.insert(0, name)
            continue
        say('PASS: %s (%.0f s)' % (name, time.monotonic() - began))
    machines.check_nothing_left()


def move_words(qmp, target):
    return ['move', qmp, '10.99.0.%d' % (target + 1), '--trusted-network', NETWORK]


def cases():
    return ['%s[%s,%s]' % parts for parts in itertools.product(FAULTS, PHASES, SECRECY)]


def choose():
    """The cases of the command line; all; or some by the seed."""
    if len(sys.argv) > 1:
        return sys.argv[1:]
    if os.environ.get('GODWIT_CHECK_ALL'):
        return cases()
    return random.Random('faults ' + SEED).sample(SAMPLE, SAMPLE_SIZE)


def main():
    names, failed, status = choose(), [], 0
    say('GODWIT_SEED=%s: %s' % (SEED, ', '.join(names)))
    while names and not status:
        status = run_main(globals(), lambda lab: run(lab, names, failed), wires=2, memory=1200)
    if failed:
        sys.exit('failed: ' + ', '.join(failed))
    return status


if __name__ == '__main__':
    if '--list' in sys.argv:
        print('\n'.join(cases()))
        sys.exit(0)
    sys.exit(run_main(globals(), None) if 'inside' in sys.argv[1:2] else main())
