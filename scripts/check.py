#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds godwit three times and runs every suite; prints each part's result as it ends.

Test cases are counted where the test says how many there are (Criterion's synthesis, Python's
unittest, TAP, or lines "PASS: name", "FAIL: name", "SKIP: name: reason"); any other test counts as one.
State lies in build/check, one temporary folder and one folder in /dev/shm; what is left at the end
(processes, namespaces, files) is removed, and processes left behind by a test are a failure.
"""
import argparse
import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join(ROOT, 'build', 'check')
TIME_LIMIT_S = 40 * 60          # it takes less than 25 on two cores; a busy machine may take longer
BUILD_LIMIT_S = 900             # of each step of a build
# --all takes some three hours: an hour's soak in the lab, every scenario, every schedule of the handover.
ALL_TIME_LIMIT_S = 9 * 3600
PR_SET_CHILD_SUBREAPER = 36
SANITIZED = {'ASAN_OPTIONS': 'detect_leaks=1:abort_on_error=0:exitcode=99',
             'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1',
             'TSAN_OPTIONS': 'halt_on_error=0:exitcode=98:second_deadlock_stack=1'}
# What a sanitizer prints is a failure whatever the exit status: Criterion ends with 0 on leaks.
SANITIZER_WORDS = re.compile(r'LeakSanitizer: detected|ERROR: AddressSanitizer|runtime error: '
                             r'|WARNING: ThreadSanitizer')
# What need not be shown of a test that failed.
GOOD_LINE = re.compile(r'\[RUN \]|\[PASS\]|\[SKIP\]|ok \w|PASS: |.*\.\.\. ok$|\s*$')

# name, build, suites, processes, seconds at most (and with --all), in --quick. Most tests wait as much as they
# work: three at a time keep two cores busy.
PARTS = [
    ('style', 'release', ['style'], 2, (180, 180), True),
    ('unit', 'release', ['unit'], 3, (240, 3600), True),
    ('contract', 'release', ['contract'], 3, (600, 5400), True),
    ('qemu', 'release', ['qemu'], 3, (500, 1000), False),
    ('net', 'release', ['net'], 3, (400, 800), False),
    ('scenario', 'release', ['scenario'], 3, (1200, 7200), False),
    ('sanitized', 'sanitized', ['unit', 'contract'], 3, (800, 1600), False),
    ('tsan', 'threads', ['tsan'], 1, (300, 300), False),
    ('lab', 'release', ['lab'], 3, (900, 9000), False),
]
BUILDS = {
    'release': ['-Dbuildtype=release', '-Dwerror=true'],
    'sanitized': ['-Dbuildtype=debugoptimized', '-Dwerror=true', '-Db_lundef=false',
                  '-Db_sanitize=address,undefined'],
    'threads': ['-Dbuildtype=debugoptimized', '-Dwerror=true', '-Db_lundef=false',
                '-Db_sanitize=thread'],
}


class Count:
    def __init__(self, passed=0, failed=0, skipped=0):
        self.passed, self.failed, self.skipped = passed, failed, skipped

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        return '%d passed, %d failed, %d skipped' % (self.passed, self.failed, self.skipped)


def say(text):
    print(text, flush=True)


# -------------------------------------------------------------------------------------- counting

def count_criterion(text):
    """Criterion's synthesis lines, with [SKIP] lines (verbosity 1) counted besides."""
    found = re.findall(r'Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: (\d+)', text)
    if not found:
        return None
    # What a --filter leaves out is not skipped: another test runs it.
    reasons = re.findall(r'^\[SKIP\] (.*(?<!: Test is disabled))$', text, re.M)
    count = Count(skipped=len(reasons))
    for tested, passing, failing in found:
        count.passed += int(passing)
        count.failed += int(failing)
    if count.passed + count.failed + count.skipped == 0:
        return Count(failed=1), ['a Criterion program that ran no test']
    return count, reasons


def count_unittest(text):
    """Python's unittest: "Ran 10 tests", "OK (skipped=1)" or "FAILED (failures=1, errors=1)"."""
    ran = re.search(r'^Ran (\d+) tests? in', text, re.M)
    end = re.search(r'^(OK|FAILED)(?: \((.*)\))?$', text, re.M)
    if not ran or not end:
        return None
    numbers = dict(re.findall(r'(\w+)=(\d+)', end.group(2) or ''))
    failed = int(numbers.get('failures', 0)) + int(numbers.get('errors', 0))
    skipped = int(numbers.get('skipped', 0))
    reasons = re.findall(r'^(\S+ \(.*?\).*?\.\.\. skipped .*)$', text, re.M)
    return Count(max(int(ran.group(1)) - failed - skipped, 0), failed, skipped), reasons


def count_lines(text):
    """PASS: name / FAIL: name / SKIP: name: reason, and TAP's ok / not ok / # SKIP (numbers may lack)."""
    count, reasons = Count(), []
    for line in text.splitlines():
        tap = re.match(r'(ok|not ok) \w', line)
        if line.startswith('PASS: ') or (tap and tap.group(1) == 'ok' and '# SKIP' not in line):
            count.passed += 1
        elif line.startswith('FAIL: ') or (tap and tap.group(1) == 'not ok'):
            count.failed += 1
        elif line.startswith('SKIP: ') or (tap and '# SKIP' in line):
            count.skipped += 1
            reasons.append(line)
    return (count, reasons) if str(count) != str(Count()) else None


def count_result(result):
    """One entry of meson's testlog.json: (Count, reasons of skips, did it fail)."""
    text = result.get('stdout', '') + '\n' + result.get('stderr', '')
    counted = count_criterion(text) or count_unittest(text) or count_lines(text)
    is_bad = result['result'] not in ('OK', 'SKIP', 'EXPECTEDFAIL')
    if SANITIZER_WORDS.search(text):
        is_bad = True
    if counted:
        count, reasons = counted
    elif result['result'] == 'SKIP':
        lines = [line for line in text.splitlines() if line.strip()]
        count, reasons = Count(skipped=1), [lines[-1] if lines else 'no reason given']
    else:
        count, reasons = Count(passed=0 if is_bad else 1), []
    if is_bad and count.failed == 0:
        count.failed = 1
    return count, reasons, count.failed > 0


# ------------------------------------------------------------------------------------- processes

def descendants():
    """The ids of every process below this one (orphans too: this process is a subreaper)."""
    children = {}
    for name in os.listdir('/proc'):
        if not name.isdigit():
            continue
        try:
            with open('/proc/%s/stat' % name) as handle:
                fields = handle.read().rpartition(')')[2].split()
        except OSError:
            continue
        if fields[0] not in 'ZX':
            children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [os.getpid()]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def command_line(pid):
    """What pid runs. In the middle of an exec it has no arguments yet: its short name, when that lasts."""
    for _ in range(20):
        with open('/proc/%d/cmdline' % pid, 'rb') as handle:
            words = handle.read().replace(b'\0', b' ').decode(errors='replace').strip()
        if words:
            return words
        time.sleep(0.01)
    with open('/proc/%d/comm' % pid) as handle:
        return '[%s]' % handle.read().strip()


def end_descendants():
    """Ends what still runs below; the command lines of what there was."""
    names = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in descendants():
            try:
                if number == signal.SIGTERM:
                    names.append('%d %s' % (pid, command_line(pid)[:120]))
                os.kill(pid, number)
            except OSError:
                pass
        for _ in range(40):
            reap()
            if not descendants():
                return names
            time.sleep(0.05)
    return names


def run_logged(command, log_path, timeout, environment):
    """Runs command with its output in a log; its exit status, or None when it ran out of time."""
    with open(log_path, 'ab') as log:
        log.write(('$ %s\n' % ' '.join(command)).encode())
        log.flush()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, start_new_session=True)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def tail(path, lines=30):
    with open(path, errors='replace') as handle:
        return ''.join(handle.readlines()[-lines:])


# ----------------------------------------------------------------------------------------- parts

class Check:
    def __init__(self, options, scratch, shared):
        self.options = options
        self.total = Count()
        self.built = {}
        self.deadline = time.monotonic() + (ALL_TIME_LIMIT_S if options.all else TIME_LIMIT_S)
        self.environment = dict(
            os.environ, CRITERION_VERBOSITY_LEVEL='1', TMPDIR=scratch, GODWIT_RAM_DIR=shared,
            GODWIT_NETNS_PREFIX='gw%d' % os.getpid(), GODWIT_SEED=str(options.seed),
            GODWIT_CHECK_ALL='1' if options.all else '', PYTHONDONTWRITEBYTECODE='1', **SANITIZED)

    def left(self):
        return self.deadline - time.monotonic()

    def folder(self, build):
        return os.path.join(LOGS, build)

    def report(self, name, count, began, faults=()):
        self.total.add(count)
        say('%-5s %-12s %s (%.0f s)' % ('FAIL' if count.failed else 'ok', name, count,
                                        time.monotonic() - began))
        for fault in faults:
            say('      ' + fault)

    def targets(self, name):
        """What to compile of a build: everything of release, of the others what the tests of their parts need,
        and modules, which are found by their path."""
        if name == 'release':
            return []
        suites = {suite for part in PARTS if part[1] == name for suite in part[2]}
        tests, targets = (json.loads(subprocess.run(
            ['meson', 'introspect', what, self.folder(name)], capture_output=True, text=True, check=True,
            timeout=max(min(self.left(), BUILD_LIMIT_S), 1), env=self.environment).stdout)
            for what in ('--tests', '--targets'))
        needed = {target for test in tests for target in test['depends']
                  if {suite.rpartition(':')[2] for suite in test['suite']} & suites}
        return [os.path.relpath(path, self.folder(name)) for target in targets
                if target['id'] in needed or target['type'] == 'shared module' for path in target['filename']]

    def compile(self, name, setup, log):
        """Runs setup, then ninja; False when one of them fails, or has no time left."""
        def step(command):
            return run_logged(command, log, max(min(self.left(), BUILD_LIMIT_S), 1), self.environment) == 0

        if not step(setup):
            return False
        try:
            targets = self.targets(name)
        except (subprocess.SubprocessError, ValueError, LookupError) as error:
            with open(log, 'a') as handle:
                handle.write('%s\n%s\n' % (error, getattr(error, 'stderr', None) or ''))
            return False
        return step(['ninja', '-C', self.folder(name)] + targets)

    def build(self, name):
        """Configures and compiles one build, once; False when that fails (which counts as one)."""
        if name in self.built:
            return self.built[name]
        began = time.monotonic()
        folder, log = self.folder(name), os.path.join(LOGS, 'build-%s.log' % name)
        if os.path.exists(log):
            os.unlink(log)
        setup = ['meson', 'setup', folder, ROOT] + BUILDS[name]
        if os.path.exists(os.path.join(folder, 'build.ninja')):
            setup.insert(2, '--reconfigure')
        elif os.path.exists(folder):
            shutil.rmtree(folder)
        is_good = self.compile(name, setup, log)
        self.built[name] = is_good
        self.report('build ' + name, Count(passed=int(is_good), failed=int(not is_good)), began)
        if not is_good:
            say(tail(log))
        return is_good

    def part(self, name, build, suites, processes, seconds):
        if not self.build(build):
            self.report(name, Count(failed=1), time.monotonic(), ['not run: no build'])
            return
        began = time.monotonic()
        seconds = min(seconds[1 if self.options.all else 0], self.left())
        if seconds < 5:
            self.report(name, Count(failed=1), began, ['not run: the time of this check is up'])
            return
        # Meson adds the wrapper's name to that of the log.
        wrapped = '-setarch' if build == 'threads' else ''
        results = os.path.join(self.folder(build), 'meson-logs',
                               'testlog-%s%s.json' % (name, wrapped))
        log = os.path.join(LOGS, 'test-%s.log' % name)
        for path in (results, log):
            if os.path.exists(path):
                os.unlink(path)
        command = ['meson', 'test', '-C', self.folder(build), '--no-rebuild', '--logbase',
                   'testlog-' + name, '--num-processes', str(processes), '--print-errorlogs']
        if build != 'release' or self.options.all:
            command += ['--timeout-multiplier', '4']
        if build == 'threads':
            # gcc 12's ThreadSanitizer does not start under wide address randomisation.
            command += ['--wrapper', 'setarch -R']
        for suite in suites:
            command += ['--suite', suite]
        status = run_logged(command, log, seconds, self.environment)
        count, faults = self.count(results)
        if status is None:
            count.failed += 1
            faults.append('ran out of its %d s; see %s' % (seconds, os.path.relpath(log, ROOT)))
        elif status != 0 and count.failed == 0:
            count.failed += 1
            faults.append('meson test ended with %d; see %s' % (status, os.path.relpath(log, ROOT)))
        elif str(count) == str(Count()):
            count.skipped += 1
            faults.append('skipped: no test in suite %s' % ', '.join(suites))
        debris = end_descendants()
        if debris and status is not None:
            count.failed += 1
            faults += ['left behind: ' + line for line in debris]
        self.report(name, count, began, faults)

    def count(self, results):
        """The count of one part and what there is to say about it."""
        count, faults = Count(), []
        if not os.path.exists(results):
            return count, faults
        with open(results) as handle:
            entries = [json.loads(line) for line in handle if line.strip()]
        for entry in entries:
            one, reasons, is_bad = count_result(entry)
            count.add(one)
            faults += ['skipped: %s: %s' % (entry['name'].split(' / ')[-1], r) for r in reasons]
            if is_bad:
                faults.append('failed: %s (%s)' % (entry['name'], entry['result']))
                text = (entry.get('stdout', '') + entry.get('stderr', '')).splitlines()
                telling = [line for line in text if not GOOD_LINE.match(line)]
                faults += ['  | ' + line[:200] for line in telling[-30:]]
        return count, faults

    def remove_namespaces(self):
        prefix = self.environment['GODWIT_NETNS_PREFIX']
        folder = '/run/netns'
        names = os.listdir(folder) if os.path.isdir(folder) else []
        for name in names:
            if name.startswith(prefix):
                subprocess.run(['ip', 'netns', 'del', name], check=False)


def own_back(path):
    """Under sudo, gives the logs and builds back to the person who called."""
    if 'SUDO_UID' in os.environ:
        owner = '%s:%s' % (os.environ['SUDO_UID'], os.environ['SUDO_GID'])
        subprocess.run(['chown', '-R', owner, path], check=False)


def parse_arguments():
    parser = argparse.ArgumentParser(prog='check', description=__doc__.split('\n\n')[0])
    parser.add_argument('--quick', action='store_true', help='style, unit and contract tests only')
    parser.add_argument('--all', action='store_true', help='whole products instead of a sample')
    parser.add_argument('--part', action='append', choices=[part[0] for part in PARTS])
    parser.add_argument('--list', action='store_true', help='the parts')
    parser.add_argument('--seed', type=int, help='of the samples (printed; random if not given)')
    parser.add_argument('--no-deps', action='store_true', help='install nothing')
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 31)
    return options


def run_parts(check, options):
    for name, build, suites, processes, seconds, is_quick in PARTS:
        if options.part and name not in options.part:
            continue
        if options.quick and not is_quick:
            continue
        check.part(name, build, suites, processes, seconds)


def interrupted(number, frame):
    raise KeyboardInterrupt


def main():
    options = parse_arguments()
    if options.list:
        for name, build, suites, _, seconds, _ in PARTS:
            say('%-10s build %-10s suites %-16s at most %d s (--all: %d s)' % (name, build, ','.join(suites),
                                                                             *seconds))
        return 0
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    os.makedirs(LOGS, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix='godwit-check-')
    shared = tempfile.mkdtemp(prefix='godwit-check-', dir='/dev/shm')
    check = Check(options, scratch, shared)
    say('check: seed %d, logs in build/check' % options.seed)
    try:
        run_parts(check, options)
    except KeyboardInterrupt:
        say('check: interrupted')
        check.total.failed += 1
    finally:
        end_descendants()
        check.remove_namespaces()
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(shared, ignore_errors=True)
        own_back(os.path.join(ROOT, 'build'))
    say(str(check.total))
    return 1 if check.total.failed or not check.total.passed else 0


if __name__ == '__main__':
    sys.exit(main())
