# SPDX-License-Identifier: Apache-2.0
"""The number of the interface between the program and its modules changes with what they share, and only with that."""
import glob
import importlib.util
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def load():
    path = os.path.join(ROOT, 'transport', 'module-interface.py')
    spec = importlib.util.spec_from_file_location('module_interface', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ModuleInterface(unittest.TestCase):
    def setUp(self):
        self.number = load().number
        with open(os.path.join(ROOT, 'transport', 'transport.h'), encoding='utf-8') as file:
            self.text = file.read()

    def changed(self, old, new):
        self.assertIn(old, self.text)
        return self.number([self.text.replace(old, new, 1)]) != self.number([self.text])

    def test_a_member_changes_it(self):
        self.assertTrue(self.changed('bool is_rdma;', 'int is_rdma;'))
        self.assertTrue(self.changed('    bool is_rdma;', '    bool is_new;\n    bool is_rdma;'))

    def test_a_constant_changes_it(self):
        self.assertTrue(self.changed('4096u', '8192u'))

    def test_comments_and_spacing_do_not(self):
        self.assertFalse(self.changed('Two primitives.', 'Two\n * things.'))
        self.assertFalse(self.changed('    bool is_rdma;', '\n  bool   is_rdma;'))

    def test_a_move_between_headers_changes_it(self):
        self.assertNotEqual(self.number(['int a;', 'int b;']), self.number(['int a; int b;', '']))

    def test_what_modules_include_is_part_of_it(self):
        counted = set()
        for path, name in (('transport/meson.build', r"input: files\((.*?)\)"),
                           ('common/meson.build', r"module_common_headers = files\((.*?)\)")):
            with open(os.path.join(ROOT, path), encoding='utf-8') as file:
                listed = re.search(name, file.read(), re.DOTALL).group(1)
            counted.update('%s/%s' % (os.path.dirname(path), header) for header in re.findall(r"'(.*?)'", listed))
        sources = [path for folder in ('dpdk', 'fabric', 'rdma', 'verbs')
                   for path in glob.glob(os.path.join(ROOT, 'transport', folder, '*.[ch]'))]
        self.assertGreater(len(sources), 40)
        for path in sources:
            with open(path, encoding='utf-8') as file:
                included = set(re.findall(r'#include "((?:common|transport)/[a-z-]+\.h)"', file.read()))
            self.assertEqual(included - counted - {'transport/module-interface.h'}, set(), path)


if __name__ == '__main__':
    unittest.main()
