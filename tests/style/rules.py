# SPDX-License-Identifier: Apache-2.0
"""The rules of the tree that a program can hold, each a function from (path, text) to faults.

Paths are relative to the root and use '/'. A fault is a line of text that names the place. What needs a
compiler, clang-format or the built libraries is in test_style.py.
"""
import re

LAYERS = ['common', 'transport', 'engine', 'agent', 'cli']
# Folders whose members never include one another.
FAMILIES = {
    'transport': ['loop', 'tcp', 'verbs', 'fabric', 'dpdk'],
    'engine/image': ['raw', 'vhdx', 'vhd'],
}
LINE_LIMITS = {'.c': 800, '.h': 300, '.py': 800, '': 800}
LINE_LIMIT_EXCEPTIONS = {'transport/transport.h': 320}
FUNCTION_LINE_LIMIT = 80   # the aim is 60
PARAMETER_LIMIT = 6        # the aim is 5
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)
# Paths of one person's machine, and marks of unfinished work.
FORBIDDEN = [
    (re.compile(r'(?<![\w.$}])/(?:root|work|home/(?!\w*\$)\w+)/'), 'a path of one machine'),
    (re.compile(r'\b(?:TO' r'DO|FIX' r'ME|X' r'XX|HA' r'CK)\b'), 'a mark of unfinished work'),
]
QUANTITIES = re.compile(r'\b(?:uint64_t|size_t|unsigned|uint32_t)\s+\w*'
                        r'(?:offset|length|size|timeout|rate)\w*\s*[,)]')


def extension(path):
    name = path.rpartition('/')[2]
    return '.' + name.rpartition('.')[2] if '.' in name else ''


def includes(text):
    """(line number, is it quoted, what) of each #include."""
    return [(text.count('\n', 0, match.start()) + 1, match.group(1) == '"', match.group(2))
            for match in INCLUDE.finditer(text)]


def layer_of(path):
    first = path.split('/')[0]
    return LAYERS.index(first) if first in LAYERS else None


def imports_run_downward(path, text):
    """A layer includes itself, what is below, and include/godwit; public headers only each other."""
    faults = []
    own = layer_of(path)
    is_public = path.startswith(('include/', 'examples/'))
    for line, is_quoted, what in includes(text):
        if is_public and not what.startswith('godwit/') and (is_quoted or layer_of(what) is not None):
            faults.append('%s:%d: %s is not public' % (path, line, what))
        if own is None or layer_of(what) is None:
            continue
        if layer_of(what) > own:
            faults.append('%s:%d: %s includes %s, from above' % (path, line, LAYERS[own], what))
    return faults


def includes_are_from_the_root(path, text):
    """Quoted includes name a path from the root, never a neighbour or a parent folder."""
    if layer_of(path) is None:
        return []
    return ['%s:%d: "%s" is not a path from the root' % (path, line, what)
            for line, is_quoted, what in includes(text)
            if is_quoted and (what.startswith('.') or
                              (layer_of(what) is None and not what.startswith('godwit/')))]


def member_of(path, folder):
    """The member of a family that path belongs to: transport/tcp/x.c and transport/tcp.h give tcp."""
    rest = path[len(folder) + 1:] if path.startswith(folder + '/') else ''
    return re.split(r'[/._]', rest)[0] if rest else None


def siblings_stay_apart(path, text):
    """A back end or a format includes no other of its kind, and no back end the link above it."""
    faults = []
    for folder, members in FAMILIES.items():
        own = member_of(path, folder)
        if own not in members:
            continue
        for line, _, what in includes(text):
            other = member_of(what, folder)
            if other != own and (other in members or other == 'link'):
                faults.append('%s:%d: %s includes %s' % (path, line, own, what))
    return faults


def begins_with_license(path, text):
    """The SPDX line first (second in scripts), then a paragraph that says what the file is."""
    lines = text.split('\n')
    if extension(path) in ('.c', '.h', '.S', '.ld'):
        if lines[0] != '/* SPDX-License-Identifier: Apache-2.0 */':
            return ['%s:1: the first line is not the SPDX line' % path]
        if len(lines) < 2 or not lines[1].startswith('/*'):
            return ['%s:2: no paragraph on what this file does' % path]
    elif extension(path) == '.py' or text.startswith('#!'):
        if '# SPDX-License-Identifier: Apache-2.0' not in lines[:2]:
            return ['%s:1: no SPDX line among the first two' % path]
    return []


def is_not_too_long(path, text):
    limit = LINE_LIMIT_EXCEPTIONS.get(path, LINE_LIMITS.get(extension(path)))
    count = text.count('\n')
    if limit is None or count <= limit:
        return []
    return ['%s: %d lines, the limit is %d' % (path, count, limit)]


def functions(text):
    """(line, name, parameters, line count) of each function: its '{' and '}' are in column one."""
    lines = text.split('\n')
    found = []
    for index, line in enumerate(lines):
        if line != '{':
            continue
        begin = index
        while begin > 0 and lines[begin - 1].strip() and not lines[begin - 1].startswith(('}', '#')):
            begin -= 1
        head = ' '.join(part.strip() for part in lines[begin:index])
        head = re.sub(r'/\*.*?\*/', '', head)
        match = re.search(r'(\w+)\(((?:[^()]|\([^()]*\))*)\)\s*$', head)
        if not match:
            continue
        end = index
        while end + 1 < len(lines) and lines[end] != '}':
            end += 1
        inner = re.sub(r'\([^()]*\)', '', match.group(2))
        count = 0 if inner.strip() in ('', 'void') else inner.count(',') + 1
        found.append((index + 1, match.group(1), count, end - index + 1))
    return found


def functions_are_small(path, text):
    if extension(path) != '.c':
        return []
    faults = []
    for line, name, parameters, count in functions(text):
        if count > FUNCTION_LINE_LIMIT:
            faults.append('%s:%d: %s has %d lines' % (path, line, name, count))
        if parameters > PARAMETER_LIMIT and not path.startswith('tests/'):
            faults.append('%s:%d: %s has %d parameters' % (path, line, name, parameters))
    return faults


def has_no_forbidden_words(path, text):
    faults = []
    for pattern, what in FORBIDDEN:
        for match in pattern.finditer(text):
            line = text.count('\n', 0, match.start()) + 1
            faults.append('%s:%d: %s: %s' % (path, line, what, match.group(0)))
    return faults


def without_comments(text):
    return re.sub(r'/\*.*?\*/', ' ', text, flags=re.S)


def prototypes(text):
    """The names of the functions that a header declares, inline ones and types left out."""
    code = re.sub(r'\\\n', ' ', without_comments(text))
    code = re.sub(r'^[ \t]*#.*$', '', code, flags=re.M)
    while re.search(r'\{[^{}]*\}', code):
        code = re.sub(r'\{[^{}]*\}', ';', code)
    return [match.group(0) for match in
            re.finditer(r'^(?!typedef|static)[A-Za-z_][\w \t*]*?\b(\w+)\([^;]*?\)[^;]*;', code, re.M)]


def headers_state_the_contract(path, text):
    """A header that declares functions that can fail says how they fail and whose thread they are on;
    its units too where it takes lengths or times. Headers inside a back end or a format, and those
    named private.h, follow the contract of the header that they serve."""
    if extension(path) != '.h' or layer_of(path) is None or path.endswith('/private.h'):
        return []
    if any(member_of(path, folder) in members for folder, members in FAMILIES.items()):
        return []
    declared = prototypes(text)
    if not any(re.match(r'(?:extern )?int gw_', one) for one in declared):
        return []
    top = text.split('#ifndef', 1)[0].split('#pragma once', 1)[0]
    wanted = ['Errors', 'Threads']
    if any(QUANTITIES.search(one) for one in declared):
        wanted.append('Units')
    return ['%s: the top of the header has no "%s:"' % (path, word) for word in wanted
            if word + ':' not in top]


def public_names_have_the_prefix(path, text):
    """Headers declare gw_ functions only; types follow the same rule by -Wmissing-prototypes' side."""
    if extension(path) != '.h' or layer_of(path) is None:
        return []
    faults = []
    for one in prototypes(text):
        name = re.search(r'(\w+)\s*\(', one).group(1)
        if name not in ('__attribute__', 'static_assert', '_Static_assert') and \
                not name.startswith('gw_'):
            faults.append('%s: %s has no gw_ prefix' % (path, name))
    return faults


ALL = [imports_run_downward, includes_are_from_the_root, siblings_stay_apart, begins_with_license,
       is_not_too_long, functions_are_small, has_no_forbidden_words, headers_state_the_contract,
       public_names_have_the_prefix]
