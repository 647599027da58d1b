# SPDX-License-Identifier: Apache-2.0
"""Every command has a help text with an example, and a manual page that knows each of its options."""
import os
import re
import shutil
import subprocess
import unittest

GODWIT = os.environ['GODWIT']
MAN = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'docs', 'man')


def help_of(*words):
    result = subprocess.run([GODWIT, *words, '--help'], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return result.stdout


def commands():
    return re.findall(r'^  (\w+) +\S', help_of().split('commands:')[1].split('\n\n')[0], re.M)


def page(name):
    with open(os.path.join(MAN, name + '.1')) as file:
        return file.read().replace('\\-', '-')


class Manual(unittest.TestCase):
    def test_the_commands_are_those_that_were_designed(self):
        for name in ('agent', 'key', 'move', 'copy', 'status', 'cancel', 'resolve', 'history'):
            self.assertIn(name, commands())

    def test_hidden_commands_are_not_listed(self):
        self.assertNotIn('guard', commands())

    def test_every_command_has_json_and_an_example(self):
        for name in commands():
            text = help_of(name)
            self.assertIn('--json', text, name)
            self.assertRegex(text.split('example:\n')[1], r'^  godwit ' + name, name)

    def test_every_option_is_in_the_page(self):
        for name in commands():
            options = set(re.findall(r'^  (--[a-z-]+)', help_of(name), re.M))
            self.assertGreater(len(options), 1)
            known = set(re.findall(r'^\\fB(--[a-z-]+)', page('godwit-' + name), re.M))
            self.assertEqual(options, known, name)

    def test_every_page_has_an_example(self):
        for name in commands():
            self.assertRegex(page('godwit-' + name).split('.SH EXAMPLES')[1], r'godwit ' + name)

    def test_the_main_page_names_every_command(self):
        for name in commands():
            self.assertIn('.BR godwit-%s (1)' % name, page('godwit'))

    def test_no_page_without_a_command(self):
        pages = {name[len('godwit-'):-len('.1')] for name in os.listdir(MAN) if '-' in name}
        self.assertEqual(pages, set(commands()))

    def test_pages_are_sound(self):
        if not shutil.which('groff'):
            self.skipTest('groff is not installed')
        for name in os.listdir(MAN):
            result = subprocess.run(['groff', '-man', '-ww', '-z', '-T', 'utf8', os.path.join(MAN, name)],
                                    capture_output=True, text=True, timeout=30)
            self.assertEqual(result.stderr, '', name)


if __name__ == '__main__':
    unittest.main()
