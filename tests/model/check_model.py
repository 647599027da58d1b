#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the model of the handover (handover.pml) with spin: its names are the code's; exhaustively, no
assertion breaks; with weak fairness, both LTL properties hold; and each model that is wrong on purpose
is found out. Bounded by the number of misfortunes, by memory and by time; what was not searched whole is
a failure. With GODWIT_CHECK_ALL more misfortunes."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, 'handover.pml')
IS_WHOLE = bool(os.environ.get('GODWIT_CHECK_ALL'))
LIMIT_S = 600 if IS_WHOLE else 240  # of a step, which takes a few seconds
MEMORY_MIB = 4096 if IS_WHOLE else 1024

# What is wrong, and the property that must find it.
WRONG = {
    'GO_BEFORE_COMMITTED': 'safety',
    'CONT_BEFORE_OWNER': 'safety',
    'DOUBT_RESUMES': 'safety',
    'STRANGER_BELIEVED': 'safety',
    'ABORTED_BEFORE_DURABLE': 'safety',
    'NO_LAST_LOOK': 'safety',
    'GUARD_NOT_TOLD': 'safety',
    'FAILED_COMMIT_TRUSTED': 'safety',
    'NO_RENAME': 'safety',
    'RESTART_FORGETS': 'safety',
    'OWNER_NOT_SYNCED': 'safety',
    'RUNNING_BEFORE_NAMES': 'safety',
    'NEVER_ASKS': 'decided',
    'UNDO_FORGETS_CONT': 'resumes',
}


class Failure(Exception):
    pass


def run(command, folder, limit=LIMIT_S):
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit,
                                check=False)
    except subprocess.TimeoutExpired:
        raise Failure('%s took more than %d s' % (command[0], limit)) from None
    return answer.returncode, answer.stdout + answer.stderr


def build(folder, defines, is_safety):
    status, text = run(['spin', '-a'] + ['-D' + one for one in defines] + [MODEL], folder)
    if not os.path.exists(os.path.join(folder, 'pan.c')):
        raise Failure('spin refuses the model: %s' % text)
    flags = ['-DSAFETY', '-DNOCLAIM'] if is_safety else ['-DNFAIR=3']
    # Little optimisation: compiling costs more than the search.
    status, text = run(['gcc', '-O0' if not IS_WHOLE else '-O2', '-w', '-DCOLLAPSE',
                        '-DMEMLIM=%d' % MEMORY_MIB] + flags + ['-o', 'pan', 'pan.c'], folder)
    if status != 0:
        raise Failure('pan.c does not compile: %s' % text[-400:])


def search(folder, what, is_fair=True):
    """(number of errors, states, was it whole)"""
    command = ['./pan', '-m%d' % (20000000 if IS_WHOLE else 2000000), '-w20']
    command += ['-E'] if what == 'safety' else ['-a'] + ['-f'] * is_fair + ['-N', what]
    _, text = run(command, folder)
    errors = re.search(r'errors: (\d+)', text)
    states = re.search(r'(\d+(?:\.\d+e\+\d+)?) states, stored', text)
    if not errors or not states:
        raise Failure('%s: no verdict: %s' % (what, text[-400:]))
    is_whole = 'Search not completed' not in text and 'max search depth too small' not in text
    return int(errors.group(1)), float(states.group(1)), is_whole


def check_names(names_tool):
    _, text = run([names_tool], HERE)
    code = {kind: set(re.findall(r'^%s (\S+)$' % kind, text, re.M)) for kind in ('state', 'message')}
    with open(MODEL) as handle:
        model = re.sub(r'/\*.*?\*/', '', handle.read(), flags=re.S)
    listed = {'state': set(re.findall(r'\bS_(\w+)', model)),
              'message': set(re.findall(r'\bM_(\w+)', model))}
    for kind in code:
        if len(code[kind]) < 9 or code[kind] != listed[kind]:
            raise Failure('%ss differ: only in the code %s, only in the model %s' % (
                kind, sorted(code[kind] - listed[kind]), sorted(listed[kind] - code[kind])))
    return '%d states, %d messages' % (len(code['state']), len(code['message']))


def check_right(folder, what, faults):
    build(folder, ['FAULTS=%d' % faults, 'OPERATOR'], what == 'safety')
    errors, states, is_whole = search(folder, what)
    if errors:
        raise Failure('%s breaks with %d misfortunes; see: spin -a -DFAULTS=%d -DOPERATOR %s' % (
            what, faults, faults, MODEL))
    if not is_whole:
        raise Failure('%s was not searched whole' % what)
    return '%d misfortunes, %d states' % (faults, states)


def check_wrong(folder, name, what):
    """A wrong model whose fault is that nothing happens any more has no fair run to be found by: liveness
    is judged without fairness here, with one misfortune, where the right model needs none."""
    is_safety = what == 'safety'
    faults = 3 if is_safety else 1
    if not is_safety:
        build(folder, ['FAULTS=1'], False)
        if search(folder, what, is_fair=False)[0]:
            raise Failure('the right model fails without fairness: this shows nothing')
    build(folder, ['FAULTS=%d' % faults, 'WRONG_' + name], is_safety)
    errors, states, _ = search(folder, what, is_fair=False)
    if errors == 0:
        raise Failure('not found out with %d misfortunes' % faults)
    return 'found out with %d misfortunes, %d states' % (faults, states)


def main():
    if not shutil.which('spin') or not shutil.which('gcc'):
        print('SKIP: model: spin or gcc is missing: scripts/deps test')
        return 77
    cases = [('names', lambda folder: check_names(os.path.abspath(sys.argv[1])))]
    for what, faults in (('safety', 6 if IS_WHOLE else 4), ('decided', 3 if IS_WHOLE else 2),
                         ('resumes', 4 if IS_WHOLE else 3)):
        cases.append((what, lambda folder, w=what, f=faults: check_right(folder, w, f)))
    for name, what in WRONG.items():
        cases.append(('wrong ' + name, lambda folder, n=name, w=what: check_wrong(folder, n, w)))
    is_bad = False
    for name, case in cases:
        with tempfile.TemporaryDirectory(prefix='godwit-model-') as folder:
            try:
                print('PASS: model %s: %s' % (name, case(folder)), flush=True)
            except Failure as failure:
                is_bad = True
                print('FAIL: model %s: %s' % (name, failure), flush=True)
    return 1 if is_bad else 0


if __name__ == '__main__':
    sys.exit(main())
