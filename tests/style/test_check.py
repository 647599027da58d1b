#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scripts/check counts right and cannot be green by mistake."""
import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
specification = importlib.util.spec_from_file_location(
    'godwit_check', os.path.join(ROOT, 'scripts', 'check.py'))
check = importlib.util.module_from_spec(specification)
specification.loader.exec_module(check)


def result(text, verdict='OK'):
    return {'name': 'x', 'result': verdict, 'stdout': text, 'stderr': ''}


def counted(text, verdict='OK'):
    count, _, is_bad = check.count_result(result(text, verdict))
    return (count.passed, count.failed, count.skipped), is_bad


class Counting(unittest.TestCase):
    def test_criterion(self):
        text = '[====] Synthesis: Tested: 5 | Passing: 5 | Failing: 0 | Crashing: 0 \n'
        self.assertEqual(counted(text), ((5, 0, 0), False))
        text = text.replace('Passing: 5 | Failing: 0 | Crashing: 0',
                            'Passing: 3 | Failing: 2 | Crashing: 1')
        self.assertEqual(counted(text, 'FAIL'), ((3, 2, 0), True))
        self.assertEqual(counted(text, 'OK'), ((3, 2, 0), True))

    def test_criterion_skips_are_counted(self):
        text = '[SKIP] a::b: no device\n[====] Synthesis: Tested: 1 | Passing: 1 | Failing: 0 |\n'
        count, reasons, _ = check.count_result(result(text))
        self.assertEqual((count.passed, count.skipped, reasons), (1, 1, ['a::b: no device']))

    def test_criterion_that_ran_nothing_fails(self):
        text = '[====] Synthesis: Tested: 0 | Passing: 0 | Failing: 0 | Crashing: 0 \n'
        self.assertEqual(counted(text), ((0, 1, 0), True))

    def test_leak_fails_a_green_test(self):
        text = ('==1==ERROR: LeakSanitizer: detected memory leaks\n'
                '[====] Synthesis: Tested: 5 | Passing: 5 | Failing: 0 | Crashing: 0 \n')
        self.assertEqual(counted(text), ((5, 1, 0), True))

    def test_race_and_undefined_behaviour_fail_a_green_test(self):
        self.assertTrue(counted('WARNING: ThreadSanitizer: data race (pid=1)\n')[1])
        self.assertTrue(counted('a.c:1:2: runtime error: signed integer overflow\n')[1])
        self.assertFalse(counted('all well\n')[1])

    def test_unittest(self):
        self.assertEqual(counted('Ran 4 tests in 1.0s\n\nOK (skipped=1)\n'), ((3, 0, 1), False))
        self.assertEqual(counted('Ran 4 tests in 1.0s\n\nFAILED (failures=1, errors=1)\n', 'FAIL'),
                         ((2, 2, 0), True))

    def test_lines_and_tap(self):
        text = 'PASS: a\nFAIL: b: why\nSKIP: c: no root\n'
        self.assertEqual(counted(text, 'FAIL'), ((1, 1, 1), True))
        self.assertEqual(counted('ok 1 - a\nnot ok 2 - b\nok 3 # SKIP c\n', 'FAIL'),
                         ((1, 1, 1), True))

    def test_tap_without_numbers(self):
        self.assertEqual(counted('ok one_thing\nnot ok other (3 ms)\n', 'FAIL'), ((1, 1, 0), True))

    def test_plain_programs_count_as_one(self):
        self.assertEqual(counted('hello\n'), ((1, 0, 0), False))
        self.assertEqual(counted('hello\n', 'FAIL'), ((0, 1, 0), True))
        self.assertEqual(counted('', 'TIMEOUT'), ((0, 1, 0), True))
        self.assertEqual(counted('skip: no root\n', 'SKIP'), ((0, 0, 1), False))

    def test_crash_after_good_cases_fails(self):
        self.assertEqual(counted('PASS: a\nPASS: b\n', 'FAIL'), ((2, 1, 0), True))


class Leftovers(unittest.TestCase):
    def test_a_process_that_stays_is_found_and_ended(self):
        code = ('import sys; sys.dont_write_bytecode = True; sys.path.insert(0, %r); import check, '
                'ctypes, subprocess; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); '
                'subprocess.run(["setsid", "-f", "sleep", "100"]); '
                'print(check.end_descendants()); print(check.descendants())'
                % os.path.join(ROOT, 'scripts'))
        answer = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                                check=True, timeout=60)
        first, second = answer.stdout.splitlines()
        self.assertIn('sleep 100', first)
        self.assertEqual(second, '[]')

    def test_a_process_without_a_command_line_has_its_short_name(self):
        process = subprocess.Popen([''], executable='/bin/cat', stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL)
        try:
            while not os.readlink('/proc/%d/exe' % process.pid).endswith('/cat'):
                time.sleep(0.01)
            self.assertEqual(check.command_line(process.pid), '[cat]')
        finally:
            process.communicate()


class Building(unittest.TestCase):
    def test_a_build_that_meson_cannot_read_is_one_that_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            log = os.path.join(folder, 'log')
            logs, check.LOGS = check.LOGS, folder
            try:
                one = check.Check(argparse.Namespace(all=False, seed=1), folder, folder)
                self.assertFalse(one.compile('threads', ['true'], log))
            finally:
                check.LOGS = logs
            with open(log) as handle:
                self.assertRegex(handle.read(), 'introspect')


class Surface(unittest.TestCase):
    def test_every_suite_of_the_tree_is_in_a_part(self):
        known = {suite for part in check.PARTS for suite in part[2]}
        for folder, _, names in os.walk(os.path.join(ROOT, 'tests')):
            if 'meson.build' not in names:
                continue
            path = os.path.join(folder, 'meson.build')
            with open(path) as handle:
                text = handle.read()
            for value in re.findall(r'suite\s*:\s*(\[[^\]]*\]|\'[^\']*\')', text):
                for suite in re.findall(r"'([^']+)'", value):
                    self.assertIn(suite, known, path)

    def test_every_test_has_a_suite(self):
        build = os.environ.get('GODWIT_BUILD')
        if not build:
            self.skipTest('no build was given (GODWIT_BUILD)')
        answer = subprocess.run(['meson', 'introspect', '--tests', build], capture_output=True,
                                text=True, check=True)
        known = {suite for part in check.PARTS for suite in part[2]}
        for test in json.loads(answer.stdout):
            suites = {suite.rpartition(':')[2] for suite in test['suite']}
            self.assertTrue(suites & known, '%s is in no part of scripts/check' % test['name'])

    def test_limits_leave_time_for_each_part(self):
        """With --all no part is left out because the time is up."""
        limits = [part[4] for part in check.PARTS]
        self.assertLessEqual(sum(whole for _, whole in limits), check.ALL_TIME_LIMIT_S)
        for sample, whole in limits:
            self.assertLess(sample, check.TIME_LIMIT_S)
            self.assertLessEqual(sample, whole)

    def test_deps_lists_packages(self):
        answer = subprocess.run([os.path.join(ROOT, 'scripts', 'deps'), '--list', 'build'],
                                capture_output=True, text=True, check=True)
        self.assertIn('ninja-build', answer.stdout.split())
        wrong = subprocess.run([os.path.join(ROOT, 'scripts', 'deps'), 'nonsense'],
                               capture_output=True, check=False)
        self.assertEqual(wrong.returncode, 2)


if __name__ == '__main__':
    unittest.main(verbosity=2)
