# SPDX-License-Identifier: Apache-2.0
"""Negative controls of the simulation: the protocol's core with one rule taken out, which must be found.

usage: mutants.py make NAME SOURCE-FOLDER OUT    writes the changed source of one mutant
       mutants.py list                           NAME FILE of each
       mutants.py run PROGRAM...                 each program must fail within some hundred lives
"""
import os
import subprocess
import sys

LIVES = '200'
# name: file, what stands there, what the mutant does instead
MUTANTS = {
    'believes-all': ('tag.c', 'length - DPDK_HEADER_SIZE) ==\n', 'length - DPDK_HEADER_SIZE) >= 0 ||\n'),
    'header-only': ('tag.c', '    assert(length <= DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE);\n', '    length = 0;\n'),
    'skips-a-tag': ('core.c', '           gw_dpdk_tag_is_right(&core->receive_key, datagram, length);\n',
                    '           (core->counts.datagrams_received % 4 == 3 ||\n'
                    '            gw_dpdk_tag_is_right(&core->receive_key, datagram, length));\n'),
    'rest-is-bad': ('core.c', 'enum proof proof = take(core, now_ns, &inputs[i]);',
                    'enum proof proof = i == 0 || inputs[i - 1].is_authentic ? '
                    'take(core, now_ns, &inputs[i]) : FORGED;'),
    'wrong-grip': ('../region-table.c', 'if (grip->slot && grip->key != target->key)', 'if (false)'),
    'lets-go-early': ('../region-table.c', '    return locate(grip->slot, target, out);\n',
                      '    int error = locate(grip->slot, target, out);\n\n'
                      '    gw_region_table_let_go(grip);\n    return error;\n'),
    'places-twice': ('receiver.c', '    if (segment < receiver->expected)\n        return 0;',
                     '    if (segment < receiver->expected)\n'
                     '        return header->kind == DPDK_KIND_WRITE ? place(core, header, payload) : 0;'),
    'early-message': ('receiver.c', 'inbox->last_segment >= receiver->expected',
                      'inbox->last_segment == DPDK_NONE'),
    'part-is-whole': ('receiver.c', 'header->parts == 1 ? WHOLE : *parts | bit', 'WHOLE'),
    'never-again': ('sender.c', '    segment->waiting |= parts & segment->missing;', '    return;'),
    'no-probes': ('sender.c', 'now_ns >= pto_at(core)', 'false'),
    'done-when-sent': ('sender.c', '        sender->posted = op->next;\n        sender->cut_at = 0;\n',
                       '        sender->posted = op->next;\n        sender->cut_at = 0;\n'
                       '        if (op->scratch[OUTSTANDING] == 1)\n            complete(sender, op, 0);\n'),
    'immortal': ('core.c', 'now_ns - core->alive_ns > core->dead_ns', 'false'),
    'never-cut-again': ('sender.c', 'segment->parts == 1 && segment->length > DPDK_BASE &&', 'false &&'),
}


def make(name, folder, out):
    path, old, new = MUTANTS[name]
    with open(os.path.join(folder, path)) as file:
        text = file.read()
    if text.count(old) != 1:
        sys.exit('%s: %d places in %s look like %r' % (name, text.count(old), path, old))
    with open(out, 'w') as file:
        file.write(text.replace(old, new))


def run(programs):
    survivors = []
    for program in programs:
        done = subprocess.run([program, LIVES, '1'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=300)
        lines = done.stdout.decode(errors='replace').split('\n')
        found = [line for line in lines if line.startswith('seed ')] or lines[-2:-1]
        print('%s: exit %d, %s' % (os.path.basename(program), done.returncode, found[0] if found else ''))
        if done.returncode == 0:
            survivors.append(program)
    if survivors:
        sys.exit('not found: %s' % ' '.join(survivors))


def main():
    if sys.argv[1:2] == ['make'] and len(sys.argv) == 5:
        make(*sys.argv[2:])
    elif sys.argv[1:] == ['list']:
        for name, (path, _, _) in MUTANTS.items():
            print(name, path)
    elif sys.argv[1:2] == ['run'] and len(sys.argv) > 2:
        run(sys.argv[2:])
    else:
        sys.exit(__doc__)


if __name__ == '__main__':
    main()
