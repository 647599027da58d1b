# SPDX-License-Identifier: Apache-2.0
"""Writes a header with the number of the interface between the program and its modules: what module.h and all the
headers that both see say, comments and spacing left out. It changes with them, so nobody has to remember.
usage: module-interface.py OUTPUT HEADER..."""
import hashlib
import os
import re
import sys


def number(texts):
    """32 bits of what the headers declare."""
    words = []
    for text in texts:
        text = re.sub(r'/\*.*?\*/', ' ', text, flags=re.DOTALL)
        words += text.split() + ['\n']
    return int.from_bytes(hashlib.sha256(' '.join(words).encode()).digest()[:4], 'little')


def main():
    output, headers = sys.argv[1], sys.argv[2:]
    texts = []
    for path in sorted(headers, key=os.path.basename):
        with open(path, encoding='utf-8') as file:
            texts.append(file.read())
    with open(output, 'w', encoding='utf-8') as file:
        file.write('/* Made by transport/module-interface.py. */\n#define GW_MODULE_INTERFACE 0x%08xu\n' % number(texts))


if __name__ == '__main__':
    main()
