#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What needs one host of the lab and little more, in one boot: the soft-dirty tracker, as the lab's kernel has
MEM_SOFT_DIRTY (with a process that writes, and with QEMU), and scripts/softroce (inside_softroce.py), which comes
last: it takes the network card down. Each test has its line, as if it had been run alone.

Environment: TRACKER_PROCESS, TRACKER_QEMU and TRACKER_GUEST; a test whose program was not built is not there.
"""
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, 'scripts', 'lab.d'))
# pylint: disable=wrong-import-position
from godwit_lab import Lab  # noqa: E402
from lab_kernel import LabError, ready_kernel  # noqa: E402

SKIP = 77
WAIT_S = 240
VERDICTS = {'ok': 'PASS', 'FAIL': 'FAIL', 'ERROR': 'FAIL', 'skipped': 'SKIP'}


def from_lines(job):
    """(verdict, name) of each line "ok NAME", "not ok NAME" or, of a whole program, "KIND: ok"."""
    return [('PASS' if good == 'ok' else 'FAIL', name)
            for good, name in re.findall(r'^(ok|not ok) (\S+)$', job.out, re.M)]


def from_whole(job):
    return [('PASS' if good == 'ok' else 'FAIL', 'all') for good in re.findall(r'^\w+: (ok|not ok)$', job.out, re.M)]


def from_unittest(job):
    """All that were run, or nothing: a verdict that is missing is a failure too."""
    ran = re.search(r'^Ran (\d+) tests? in', job.err, re.M)
    found = [(VERDICTS[word], name) for name, word in
             re.findall(r'^test_(\w+) .*\.\.\. (ok|FAIL|ERROR|skipped)', job.err, re.M)]
    return found if ran and len(found) == int(ran.group(1)) else []


def programs():
    """(name, command, least number of tests, how its output is read)"""
    process, qemu = os.environ.get('TRACKER_PROCESS'), os.environ.get('TRACKER_QEMU')
    if process:
        for backing in ('memfd', 'tmpfs'):
            yield 'softdirty-' + backing, '%s --kind softdirty --backing %s' % (process, backing), 15, from_lines
    if qemu:
        yield 'softdirty-qemu', '%s --kind softdirty --guest %s' % (qemu, os.environ['TRACKER_GUEST']), 1, from_whole
    yield 'softroce', 'python3 ' + os.path.join(HERE, 'inside_softroce.py'), 7, from_unittest


def run(lab, name, command, least, read):
    """Prints a line for each of the program's tests; whether all is well."""
    job = lab.run(0, command, timeout=WAIT_S)
    found = read(job)
    for verdict, test in found:
        print('%s: %s: %s' % (verdict, name, test), flush=True)
    is_good = job.status == 0 and len(found) >= least and all(verdict == 'PASS' for verdict, _ in found)
    if not is_good:
        print('FAIL: %s: status %s, %d tests' % (name, job.status, len(found)))
        print(''.join('  %s\n' % line for line in (job.out + job.err).splitlines()), flush=True)
    return is_good


def main():
    try:
        ready_kernel()
    except LabError as error:
        print('skipped: the lab cannot be built: %s' % error)
        return SKIP
    with Lab() as lab:
        return 0 if all([run(lab, *one) for one in programs()]) else 1


if __name__ == '__main__':
    sys.exit(main())
