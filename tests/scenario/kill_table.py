#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What must come of it when something dies at a state of a move: the design's rules as a table. Run
as a program it checks that every state that the code has (engine/handover/handover.h) and every
phase before them has its row; a new state without one fails the build.

Who dies: SA source agent, TA target agent, SQ source QEMU, TQ target QEMU, L the link (cut on both
sides, back a little later). A killed agent is started again once its move's command has ended.

What comes of it:
  S  the source runs the guest; nothing of the move is left anywhere
  T  the target runs it; the source's QEMU has ended and its images are aside
  E  either of these, which depends on what was on the wire; never both, never none
  N  nobody runs: the source's own QEMU was killed; its images have their names, the target nothing
  X  nobody runs: the VM had run at the target and its QEMU was killed there; the move is done
  D  nobody runs and both sides show it: the target may have run it and lost its QEMU
  W  S or D: whether the command itself, whose agent had died, gave a person's word to its state folder in time
  -  there is nothing to kill

The rules behind the rows:
 1 Before COMMITTING every trouble leads to a source that runs (S), or, without its QEMU, to N.
 2 A link that is back in time while the volumes are copied goes on with the move (T).
 3 From CHECKING on the source listens to nobody until COMMITTED is recorded: a link or a target
   agent that dies there no longer stops it, and the target, prepared, ends the doubt by running (T).
 4 At COMMITTING the last look at the source's QEMU is behind it: its death changes nothing any more.
 5 A person's word that was not recorded was not said, and both sides still show it; but the command that was told it
   says it once more, to what the agent left, unless the agent is back before (TA at YIELDING).
 6 Behind COMMITTED a target whose QEMU died before `cont` says NEVER_RAN, and the source takes it
   back (S); one that may have continued it says LOST (D): so does an agent that finds OWNER in its
   journal and no QEMU (TA at GIVING_UP).
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VICTIMS = ('SA', 'TA', 'SQ', 'TQ', 'L')

# state: (where it is seen, the way there, what comes of SA TA SQ TQ L). A way that is not 'plain'
# is a function of kill_matrix.py, which brings about what leads to that state.
TABLE = {
    'plan':          ('a', 'plain', 'S S N - S'),
    'disks':         ('a', 'plain', 'S S N S T'),
    'memory':        ('a', 'plain', 'S S N S T'),
    'COPYING':       ('a', 'plain', 'S S N S T'),
    'STOPPING':      ('a', 'plain', 'S S N S S'),
    'STOPPED':       ('a', 'plain', 'S S N S S'),
    'SWAPPING':      ('a', 'plain', 'S S N S S'),
    'SWAPPED':       ('a', 'plain', 'S S N S S'),
    'WAITING':       ('a', 'plain', 'S E N S E'),
    'CHECKING':      ('a', 'plain', 'S T N S T'),
    'COMMITTING':    ('a', 'plain', 'S T T S T'),
    'COMMITTED':     ('a', 'plain', 'T T T S T'),
    'COMMIT_UNSURE': ('a', 'failing journal', 'E S N S S'),
    'IN_DOUBT':      ('a', 'cut at the commit', 'T T T S T'),
    'TARGET_LOST':   ('a', 'lost owner', 'D D D - D'),
    'RECLAIMING':    ('a', 'owner without QEMU', 'S S N - S'),
    'HANDED_OVER':   ('a', 'plain', 'T T T X T'),
    'DONE':          ('a', 'plain', 'T T - X T'),
    'UNDOING':       ('a', 'cancelled', 'S S N S S'),
    'RESUMED':       ('a', 'cancelled', 'S S N - S'),
    'GONE':          ('a', 'source without QEMU', 'N N - - N'),
    'CLOSED':        ('a', 'cancelled', 'S S N - S'),
    'RECEIVING':     ('b', 'plain', 'S S N S S'),
    'LOADING':       ('b', 'plain', 'S S N S S'),
    'PLACING':       ('b', 'plain', 'S S N S S'),
    'PREPARING':     ('b', 'plain', 'S S N S S'),
    'PREPARED':      ('b', 'plain', 'S S N S S'),
    'OWNING':        ('b', 'plain', 'T T T S T'),
    'OWNER':         ('b', 'plain', 'T T T S T'),
    'RUNNING':       ('b', 'plain', 'T T T X T'),
    'ABORTING':      ('b', 'cancelled', 'S S N S S'),
    'ABORTED':       ('b', 'cancelled', 'S S N S S'),
    'GIVING_UP':     ('b', 'owner without QEMU', 'S D N - S'),
    'NEVER_RAN':     ('b', 'owner without QEMU', 'S S N - S'),
    'LOST':          ('b', 'lost owner', 'D D D - D'),
    'YIELDING':      ('b', 'kept at the source', 'S W N - S'),
    'YIELDED':       ('b', 'kept at the source', 'S S N - S'),
    'DISCARDED':     ('b', 'cancelled', 'S S N - S'),
}
PHASES = ('plan', 'disks', 'memory')


def code_states():
    """The handover's states, as the code lists them."""
    with open(os.path.join(ROOT, 'engine', 'handover', 'handover.h')) as handle:
        body = re.search(r'enum gw_handover_state \{(.*?)\};', handle.read(), re.S).group(1)
    names = re.findall(r'^\s*GW_HANDOVER_([A-Z_]+),', body, re.M)
    return [name for name in names if name not in ('NONE', 'STATE_COUNT')]


def expected(victim, state):
    return TABLE[state][2].split()[VICTIMS.index(victim)]


def cases():
    return [(victim, state) for state in TABLE for victim in VICTIMS
            if expected(victim, state) != '-']


def faults():
    wanted = set(code_states()) | set(PHASES)
    found = ['state %s has no row: say what comes of it when something dies there' % name
             for name in sorted(wanted - set(TABLE))]
    found += ['row %s: there is no such state' % name for name in sorted(set(TABLE) - wanted)]
    for name, (side, _, results) in TABLE.items():
        words = results.split()
        if side not in 'ab' or len(words) != len(VICTIMS) or set(words) - set('STENXDW-'):
            found.append('row %s is not understood' % name)
    return found


if __name__ == '__main__':
    for fault in faults():
        print('FAIL: ' + fault)
    if not code_states():
        print('FAIL: no states found in the code')
    print('%d states and phases, %d cases' % (len(TABLE), len(cases())))
    sys.exit(1 if faults() or not code_states() else 0)
