#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the tree to its rules (rules.py), and each rule to a bad sample that it must find."""
import os
import shutil
import subprocess
import sys
import unittest

import rules

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED_FOLDERS = ('build', '.git', '.cache', '__pycache__')
# File-scope variables that main-level code sets once before threads start.
# A signal's handler is the process's own, as the level of the log is.
MUTABLE_ALLOWED = {'log.c.o': {'limit'}, 'fault.c.o': {'previous', 'once'}}


def tracked_files():
    """The files of the tree: git's where there is git, else all but builds."""
    answer = subprocess.run(['git', '-C', ROOT, 'ls-files', '-co', '--exclude-standard', '-z'],
                            capture_output=True, check=False)
    if answer.returncode == 0 and answer.stdout:
        names = answer.stdout.decode().split('\0')
        return sorted(name for name in names if name and os.path.isfile(os.path.join(ROOT, name)))
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(SKIPPED_FOLDERS)]
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names]
    return sorted(found)


def texts():
    for path in tracked_files():
        try:
            with open(os.path.join(ROOT, path), encoding='utf-8') as handle:
                yield path, handle.read()
        except UnicodeDecodeError:
            continue


class Tree(unittest.TestCase):
    maxDiff = None

    def test_clang_format(self):
        tool = shutil.which('clang-format-14')
        if not tool:
            self.skipTest('clang-format-14 is missing')
        files = [p for p in tracked_files() if p.endswith(('.c', '.h'))]
        self.assertTrue(files)
        answer = subprocess.run([tool, '--dry-run', '-Werror'] + files, cwd=ROOT,
                                capture_output=True, check=False)
        self.assertEqual(answer.returncode, 0, answer.stderr.decode()[-4000:])

    def dpdk_flags(self):
        """What headers of DPDK are found with; None where they are not installed."""
        answer = subprocess.run(['pkg-config', '--cflags', 'libdpdk'], capture_output=True, text=True,
                                check=False)
        return None if answer.returncode else answer.stdout.replace('-I', '-isystem ').split()

    def check_alone(self, files, folders):
        compiler = os.environ.get('CC', 'cc')
        dpdk = self.dpdk_flags()
        for path in files:
            # port.h and dpdk.h; the protocol's headers need none of it.
            needs_dpdk = path in ('transport/dpdk/port.h', 'transport/dpdk/dpdk.h')
            if needs_dpdk and dpdk is None:
                continue
            command = [compiler, '-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror',
                       '-Wno-unused-parameter', '-fsyntax-only', '-x', 'c', '-include', path,
                       '/dev/null'] + ['-I' + folder for folder in folders]
            command += dpdk if needs_dpdk else []
            answer = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
            self.assertEqual(answer.returncode, 0, '%s does not compile alone:\n%s' %
                             (path, answer.stderr.decode()[-2000:]))

    def test_public_headers_compile_alone(self):
        files = [p for p in tracked_files() if p.startswith('include/') and p.endswith('.h')]
        if not files:
            self.skipTest('include/godwit has no header yet')
        self.check_alone(files, ['include'])

    def test_every_header_compiles_alone(self):
        files = [p for p in tracked_files() if p.endswith('.h') and rules.layer_of(p) is not None]
        self.check_alone(files, ['.', 'include'])

    def test_scripts_are_executable(self):
        for path, text in texts():
            if text.startswith('#!'):
                self.assertTrue(os.access(os.path.join(ROOT, path), os.X_OK), path)

    def test_public_symbols_have_the_prefix(self):
        for library in self.libraries():
            symbols = subprocess.run(['nm', '-g', '--defined-only', library], capture_output=True,
                                     check=True).stdout.decode()
            bad = [words[2] for words in map(str.split, symbols.splitlines())
                   if len(words) == 3 and not words[2].startswith(('gw_', '_', 'DW.ref'))]
            self.assertEqual(bad, [], library)

    def test_no_mutable_file_scope_state(self):
        for library in self.libraries():
            table = subprocess.run(['objdump', '-t', library], capture_output=True,
                                   check=True).stdout.decode()
            member, bad = '', []
            for line in table.splitlines():
                if ':     file format' in line:
                    member = line.split(':')[0].rpartition('/')[2]
                words = line.split()
                if len(words) >= 5 and ' O ' in line and self.is_mutable(words):
                    name = words[-1].split('.')[0]
                    if name not in MUTABLE_ALLOWED.get(member, set()):
                        bad.append('%s: %s' % (member, words[-1]))
            self.assertEqual(bad, [], library)

    @staticmethod
    def is_mutable(words):
        return any(word in ('.bss', '.data', '.data.local', '*COM*') or
                   word.startswith(('.bss.', '.data.local.')) for word in words)

    def libraries(self):
        """The layers' libraries, from meson; sanitized ones hold symbols that are not ours."""
        found = os.environ.get('GODWIT_LIBRARIES', '').split(':')
        found = [path for path in found if path and os.path.exists(path)]
        if not found:
            self.skipTest('no plain build of the libraries was given (GODWIT_LIBRARIES)')
        return found


def tree_test(rule):
    def run(self):
        faults = [fault for path, text in texts() for fault in rule(path, text)]
        self.assertEqual(faults, [], '\n' + '\n'.join(faults))
    return run


for one_rule in rules.ALL:
    setattr(Tree, 'test_' + one_rule.__name__, tree_test(one_rule))

SPDX = '/* SPDX-License-Identifier: Apache-2.0 */\n'
LONG_FUNCTION = 'static void f(void)\n{\n' + '    g();\n' * 100 + '}\n'
# Each rule with samples that it must refuse, and samples that it must not.
SAMPLES = {
    'imports_run_downward': (
        [('common/a.c', '#include "transport/transport.h"\n'),
         ('transport/tcp/a.c', '#include "engine/volume/volume.h"\n'),
         ('engine/a.c', '  #  include <cli/x.h>\n'),
         ('include/godwit/a.h', '#include "common/error.h"\n')],
        [('cli/a.c', '#include "common/error.h"\n'), ('engine/a.c', '#include "engine/b.h"\n'),
         ('tests/engine/a.c', '#include "agent/b.h"\n'),
         ('include/godwit/a.h', '#include <stdint.h>\n#include <godwit/b.h>\n')]),
    'includes_are_from_the_root': (
        [('common/a.c', '#include "error.h"\n'), ('engine/a/b.c', '#include "../c.h"\n')],
        [('common/a.c', '#include "common/error.h"\n#include <errno.h>\n')]),
    'siblings_stay_apart': (
        [('transport/tcp/a.c', '#include "transport/loop/loop.h"\n'),
         ('transport/tcp/a.c', '#include "transport/link/link.h"\n'),
         ('engine/image/vhdx/a.c', '#include "engine/image/raw/raw.h"\n')],
        [('transport/tcp/a.c', '#include "transport/transport.h"\n#include "transport/tcp/b.h"\n'),
         ('transport/link/a.c', '#include "transport/link/b.h"\n')]),
    'begins_with_license': (
        [('common/a.c', '\n' + SPDX), ('common/a.h', SPDX + '#include <errno.h>\n'),
         ('scripts/a', '#!/bin/bash\necho\n'), ('tests/a.py', 'import os\n')],
        [('common/a.c', SPDX + '/* Does it. */\n'),
         ('scripts/a', '#!/bin/bash\n# SPDX-License-Identifier: Apache-2.0\n')]),
    'is_not_too_long': (
        [('common/a.c', 'x\n' * 801), ('common/a.h', 'x\n' * 301)],
        [('common/a.c', 'x\n' * 800), ('transport/transport.h', 'x\n' * 320)]),
    'functions_are_small': (
        [('common/a.c', LONG_FUNCTION),
         ('common/a.c', 'int f(int a, int b, int c, int d, int e, int f,\n      int g)\n{\n}\n')],
        [('common/a.c', 'int f(int a, int (*b)(int, int, int), int c, int d, int e)\n{\n}\n')]),
    'has_no_forbidden_words': (
        [('a', '# FIX' + 'ME later\n'), ('a', 'cd /ro' + 'ot/x\n'), ('a', '"/home' + '/bob/x"\n')],
        [('a', 'cd /srv/vm; ls /tmp $HOME/x; cd chroot/x/\n')]),
    'headers_state_the_contract': (
        [('common/a.h', SPDX + '/* It. */\n#ifndef A\nint gw_a_do(int b);\n#endif\n'),
         ('common/a.h', SPDX + '/* Errors: none. */\n#ifndef A\nint gw_a_do(int b);\n#endif\n'),
         ('common/a.h', SPDX + '/* Errors: E. Threads: any. */\n#ifndef A\n'
                        'int gw_a_do(uint64_t offset);\n#endif\n')],
        [('common/a.h', SPDX + '/* Errors: -EINVAL. Threads: any. Units: bytes. */\n#ifndef A\n'
                        'int gw_a_do(uint64_t offset);\n#endif\n'),
         ('common/a.h', SPDX + '/* It. */\n#ifndef A\nstruct gw_a {\n    int (*do)(int);\n};\n'
                        'void gw_a_free(struct gw_a *a);\n#endif\n')]),
    'public_names_have_the_prefix': (
        [('common/a.h', 'void a_free(int x);\n')],
        [('common/a.h', 'void gw_a_free(int x);\nstatic inline int f(int a)\n{\n    return a;\n}\n'
                        'int gw_f(const char *f, ...) __attribute__((format(printf, 1, 2)));\n')]),
}


class Rules(unittest.TestCase):
    def test_each_rule_has_samples(self):
        self.assertEqual(sorted(SAMPLES), sorted(rule.__name__ for rule in rules.ALL))


def sample_test(rule):
    def run(self):
        bad, good = SAMPLES[rule.__name__]
        for path, text in bad:
            self.assertTrue(rule(path, text), 'not refused: %s: %s' % (path, text[:200]))
        for path, text in good:
            self.assertEqual(rule(path, text), [])
    return run


for one_rule in rules.ALL:
    setattr(Rules, 'test_bites_' + one_rule.__name__, sample_test(one_rule))

if __name__ == '__main__':
    sys.dont_write_bytecode = True
    unittest.main(verbosity=2)
