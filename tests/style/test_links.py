#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every relative link of a page leads to a file of the tree, and every heading that a link names is there.
Files that a page names between backticks (`engine/worker/record.h`) are held to the same."""
import os
import re
import unittest

from test_style import ROOT, texts

LINK = re.compile(r'(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)')
# A path of the tree: it begins with one of its folders and has an ending, or ends with '/'.
PATH = re.compile(r'`((?:agent|cli|common|docs|engine|examples|include|scripts|tests|transport)/'
                  r'[\w./-]*(?:\.\w+|/))`')
FENCE = re.compile(r'^ *```.*?^ *```', re.M | re.S)


def anchor(heading):
    """As the usual viewers of Markdown name a heading."""
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


def anchors(text):
    return {anchor(match.group(1)) for match in re.finditer(r'^#+ (.*)$', FENCE.sub('', text), re.M)}


def faults_of(path, text, root):
    faults = []
    folder = os.path.dirname(os.path.join(root, path))
    prose = FENCE.sub('', text)
    for match in LINK.finditer(prose):
        target = match.group(1) or match.group(2)
        if re.match(r'[a-z][a-z0-9+.-]*:', target):
            continue
        name, _, heading = target.partition('#')
        place = os.path.normpath(os.path.join(folder, name)) if name else os.path.join(root, path)
        if not os.path.exists(place):
            faults.append('%s: the link %s leads nowhere' % (path, target))
        elif heading and place.endswith('.md'):
            with open(place, encoding='utf-8') as handle:
                if heading not in anchors(handle.read()):
                    faults.append('%s: the link %s names no heading' % (path, target))
    for match in PATH.finditer(prose):
        if not os.path.exists(os.path.join(root, match.group(1))):
            faults.append('%s: there is no %s' % (path, match.group(1)))
    return faults


class Links(unittest.TestCase):
    def test_links_lead_somewhere(self):
        pages = [(path, text) for path, text in texts() if path.endswith('.md')]
        self.assertTrue(pages)
        faults = [fault for path, text in pages for fault in faults_of(path, text, ROOT)]
        self.assertEqual(faults, [], '\n' + '\n'.join(faults))

    def test_dead_links_are_found(self):
        for sample in ('[a](docs/nowhere.md)', '![a](docs/nowhere.png)', '[b](LICENSE/x)',
                       '[b](README.md#no-such-heading)', '[c](#neither)', '`engine/none.c`',
                       '`docs/none/`'):
            self.assertEqual(len(faults_of('README.md', sample, ROOT)), 1, sample)

    def test_good_links_pass(self):
        good = '[a](README.md) [b](https://example.org/x) `engine/` `docs/architecture.md`\n```\n[x](no)\n```\n'
        self.assertEqual(faults_of('sample.md', good, ROOT), [])


if __name__ == '__main__':
    unittest.main()
