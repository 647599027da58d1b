#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A running VM moves between two hosts of the lab over verbs, and a VHDX is copied: clear in one
direction, sealed in the other. With GODWIT_LAB_TRANSPORT=fabric over libfabric's provider verbs, which the first host
is told and the second one chooses.

The guest checks its memory and its disk by itself; images are compared by qemu-img. What godwit says of
the ways that bytes took is compared with what can be known of them otherwise: the RDMA device's own
counters, the processor's marks on the pages that an agent has touched (inside_touched), and TCP connections,
of which there are none.

  rdma_move.py              in this machine: boots the lab
  rdma_move.py inside WHAT  in a host
"""
import json
import os
import random
import re
import subprocess
import sys

from labmoves import BINARY, KEY, NETWORK, SKIP, Machines, check, digest, paths, run_main, say

PIN_LIMIT_MIB = 8  # for windows; two lanes' rings are 16 more
MTU = 4096
# What a lane goes around in of its ring where the way is short (engine/worker/landing.h).
SPAN = 2 << 20
# Of the source's channels' memory and rings 1.5 to 2.2 MB are touched while RAM goes directly, by messages and slots; by
# RAM that went through two rings, 16 MB.
ELSEWHERE = 4 << 20
FILL_MIB = 6
SPAN_MIB = 24  # of a small guest's memory are written
# Neighbours of a page that is read for the first time are mapped with it, and count as touched.
NEIGHBOURS = 1 << 20
LARGE = 10 ** 7
HOLES_LEAST = 32 << 20  # of the guest's memory are never touched by it
# Two rings of 8 MiB, each for the device and for io_uring, and channels.
PINNED_BESIDE = 36 << 20
CHANNELS = 2
WINDOW = r'window \d+: \d{8,} bytes of memory are registered on both sides$'
PARTS = ['sealed move', 'small limit', 'pages taken away', 'pages that change', 'pages that change late', 'copies']
TRANSPORT = os.environ.get('GODWIT_LAB_TRANSPORT', 'verbs')
PROVIDER = ['--provider', 'verbs'] if TRANSPORT == 'fabric' else []


# ------------------------------------------------------------------------------- in a host of the lab

def inside_image(path):
    """A VHDX with data and holes."""
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'raw', path + '.raw', '16M'], check=True)
    with open(path + '.raw', 'r+b') as handle:
        for at in (0, 5 << 20, 11 << 20):
            handle.seek(at)
            handle.write(os.urandom((1 << 20) + 4096))
    subprocess.run(['qemu-img', 'convert', '-O', 'vhdx', path + '.raw', path], check=True)
    print(json.dumps({'digest': digest(path)}))


def inside_other(path, to):
    """A copy without an agent, with another provider than the agents have."""
    with open(path, 'wb') as handle:
        handle.truncate(1 << 20)
    environment = {name: value for name, value in os.environ.items() if name != 'GODWIT_SOCKET'}
    answer = subprocess.run([BINARY, 'copy', '--psk', KEY, '--transport', 'fabric', '--provider', 'tcp;ofi_rxm', path,
                             to], capture_output=True, text=True, check=False, timeout=120, env=environment)
    check(answer.returncode == 1, 'it ended with %d', answer.returncode)
    print(json.dumps({'error': answer.stderr}))


def agent_process():
    with open('/run/agent.pid') as handle:
        return '/proc/' + handle.read().strip()


def inside_untouch():
    """The processor marks a page of a process when the process reads or writes it; from now on."""
    with open(agent_process() + '/clear_refs', 'w') as handle:
        handle.write('1')
    print('{}')


def inside_touched():
    """How many bytes of guests' memory this host's agent has mapped, how many of them it has touched, and how many of
    what lanes and channels put bytes in (proc(5), smaps; what a device reads or writes is not marked)."""
    seen = {'mapped': 0, 'touched': 0, 'rings': 0}
    with open(agent_process() + '/smaps') as handle:
        name = ''
        for line in handle:
            if re.match('[0-9a-f]+-[0-9a-f]+ ', line):
                name = line
            elif '/dev/shm/' in name and line.startswith('Rss:'):
                seen['mapped'] += int(line.split()[1]) << 10
            elif line.startswith('Referenced:') and ('/dev/shm/' in name or '/dev/zero' in name):
                seen['touched' if '/dev/shm/' in name else 'rings'] += int(line.split()[1]) << 10
    print(json.dumps(seen))


def inside_filled():
    """How many bytes guests' memory on this host has, how many of them are there (the others are holes), and how many
    bytes the agent has pinned, by the kernel's account."""
    files = [os.stat(os.path.join(at, name)) for at, _, names in os.walk('/dev/shm') for name in names]
    with open(agent_process() + '/status') as handle:
        pinned = int(re.search(r'^VmPin:\s+(\d+)', handle.read(), re.M).group(1)) << 10
    print(json.dumps({'size': sum(one.st_size for one in files), 'filled': sum(one.st_blocks for one in files) * 512,
                      'pinned': pinned}))


def inside_queue_pairs():
    """Connected queue pairs, all of which are the agent's, by the number of their protection domain."""
    answer = subprocess.run(['rdma', '-j', 'resource', 'show', 'qp'], capture_output=True, text=True, check=True)
    domains = {}
    for one in json.loads(answer.stdout):
        if one['type'] == 'RC':
            domains[one['pdn']] = domains.get(one['pdn'], 0) + 1
    print(json.dumps({'domains': domains}))


def inside_connections():
    """TCP connections between the hosts."""
    answer = subprocess.run(['ss', '-Htan', 'state', 'connected'], capture_output=True, text=True, check=True)
    print(json.dumps({'connections': [line for line in answer.stdout.splitlines() if '10.99.' in line]}))


# ------------------------------------------------------------------------------------- in this machine

def ram_of(machines):
    [one] = [one for one in machines.inside(0, 'progress', 'move')['paths'] if one['name'] == 'ram0']
    return one


def untouch(machines):
    """At a large window: both ends' marks, which registering made, are taken away. What RAM has done so far."""
    for host in (0, 1):
        seen = machines.inside(host, 'touched')
        check(seen['touched'] > seen['mapped'] // 2 > 0, 'host %d has not touched anything: %s', host, seen)
        machines.inside(host, 'untouch')
        seen = machines.inside(host, 'touched')
        check(seen['touched'] < seen['mapped'] // 16 and seen['rings'] < SPAN // 2,
              'host %d: the marks do not go: %s', host, seen)
    return ram_of(machines)


def look_at_touched(machines, before):
    """Since then neither end has had the bytes of RAM anywhere else. How many bytes of it the target has touched, but for
    windows that were registered since. (The source looks at the beginning of each page, for it may be all zeroes.)"""
    now = ram_of(machines)
    sizes = list(map(int, re.findall(r'window \d+: (\d+) bytes of memory are registered', machines.log(0))))
    since = sum(sizes[sizes.index(next(size for size in sizes if size >= LARGE)) + 1:])
    direct, slots = (now[name] - before[name] for name in ('direct_bytes', 'slot_bytes'))
    say('untouched: windows %s; %d bytes went directly since, %d through slots' % (sizes, direct, slots))
    check(direct > 32 << 20 > 8 * (slots + since), 'hardly anything is shown')
    for host in (0, 1):
        seen = machines.inside(host, 'touched')
        say('host %d: %s' % (host, seen))
        # What reaches the target's RAM from its ring, its processor writes there: that is seen in the RAM itself.
        check(host == 1 or seen['rings'] < ELSEWHERE, 'host %d had bytes elsewhere: %s', host, seen)
    return seen['touched'] - since


def look_at_domains(machines):
    """The session's queue pair and the channels' are there, and all of a link's channels are in one domain."""
    for host in (0, 1):
        found = machines.inside(host, 'queue_pairs')['domains']
        say('host %d: queue pairs by protection domain: %s' % (host, found))
        check(sorted(found.values()) == [1, CHANNELS], 'host %d: queue pairs %s', host, found)


def look_at_holes(machines, before):
    """Memory that the guest never touched is a hole before and after, and neither end pins it. (The target sets
    all of the guest's memory aside.)"""
    check(before['size'] - before['filled'] > HOLES_LEAST, 'hardly anything is a hole: %s', before)
    for host in (0, 1):
        seen = machines.inside(host, 'filled')
        say('host %d: memory %s, the source before %s' % (host, seen, before))
        check(host == 1 or seen['filled'] <= before['filled'] + NEIGHBOURS, 'memory was filled: %s, before %s', seen,
              before)
        check(LARGE < seen['pinned'] <= before['filled'] + PINNED_BESIDE, 'host %d: pinned %s, before %s', host, seen,
              before)


def await_held(machines, host, move):
    for _ in range(20):
        if machines.inside(host, 'holder', 'wait', '10')['answer']:
            return
        check(move.status is None, 'the move does not get there: %s', move.err)
    sys.exit('the move does not get there')


def sealed_move_and_look(machines, *words):
    """The negative control of look_at_touched: RAM that goes through the source's rings is seen there. Rings that were
    registered since would be marked by that, so it begins when those of this move have been used for its disk."""
    machines.inside(1, 'holder', 'hold', 'phase memory$')
    move = machines.start(1, 'move', *words)
    await_held(machines, 1, move)
    machines.inside(1, 'untouch')
    before = machines.inside(1, 'touched')['rings']
    machines.inside(1, 'holder', 'go-on', 'source is STOPPED$')
    await_held(machines, 1, move)
    after = machines.inside(1, 'touched')['rings']
    machines.inside(1, 'holder', 'release')
    say('sealed: %d bytes of rings are touched, then %d' % (before, after))
    check(before < SPAN // 2 and after >= 2 * ELSEWHERE, 'what goes through rings leaves no mark')
    return machines.end(move, 'move')


def move_and_look(machines, *words):
    """A move that is held when memory is registered, and at the beginning and at the end of the pause: what devices
    have registered at the end, they had at the beginning."""
    def regions():
        return [set(machines.inside(host, 'regions')['regions']) for host in (0, 1)]

    filled = machines.inside(0, 'filled')
    machines.inside(0, 'holder', 'hold', WINDOW)
    move = machines.start(0, 'move', *words)
    await_held(machines, 0, move)
    if TRANSPORT == 'verbs':  # libfabric has domains and buffers of its own
        look_at_domains(machines)
    check(not machines.inside(0, 'connections')['connections'], 'there are TCP connections')
    ram = untouch(machines)
    machines.inside(0, 'holder', 'go-on', 'source is STOPPED$')
    await_held(machines, 0, move)
    touched = look_at_touched(machines, ram)
    if TRANSPORT == 'verbs':
        look_at_holes(machines, filled)
    before = regions()
    machines.inside(0, 'holder', 'go-on', 'source is COMMITTED$')
    await_held(machines, 0, move)
    after = regions()
    machines.inside(0, 'holder', 'release')
    ended = machines.end(move, 'move')
    say('pause: regions %s, then %s' % (before, after))
    for had, has in zip(before, after):
        check(had and has <= had, 'registered in the pause: %s', has - had)
    slots = paths(ended)['ram0']['slot_bytes']
    check(touched <= slots + NEIGHBOURS, 'the target touched %d bytes; %d came through slots', touched, slots)
    return ended


def sent_packets(lab):
    """By the device's own count."""
    return int(lab.run(0, 'cat /sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts', is_checked=True).out)


def check_clear(ended, packets):
    """No byte of the guest's memory was copied but for what is named."""
    ram = paths(ended)['ram0']
    first = ended['detail']['first_ram_pass']['bytes']
    say('clear: %s; first pass %d, note %r' % (ram, first, ended['progress']['path_note']))
    check(ended['progress']['path'] == 'direct' and ram['path'] == 'direct', 'memory went by %s', ram['path'])
    check(ram['sealed_bytes'] == 0 and ram['copied_bytes'] == ram['slot_bytes'], 'counted: %s', ram)
    # Runs that are too short for a window, and what became data since. (tests/engine/path has exact figures.)
    check(ram['slot_bytes'] < first // 10, 'copied %d of %d bytes', ram['slot_bytes'], first)
    check(packets * MTU >= ram['direct_bytes'], 'the device sent %d packets for %d bytes', packets,
          ram['direct_bytes'])


def check_received(ended, progress):
    """The target: what came directly was not touched by its processor."""
    sent, got = paths(ended)['ram0'], paths({'progress': progress})['ram0']
    say('received: %s' % got)
    check(got['direct_bytes'] == sent['direct_bytes'] and got['slot_bytes'] == sent['slot_bytes'],
          'sent %s, received %s', sent, got)
    # Out of the ring into the worker's own memory, and from there into place.
    check(got['copied_bytes'] == 2 * got['slot_bytes'], 'received %s', got)


def check_sealed(ended):
    ram = paths(ended)['ram0']
    say('sealed: %s' % ram)
    check(ended['progress']['path'] == 'sealed' and ram['direct_bytes'] == 0 and ram['slot_bytes'] == 0,
          'not everything was sealed: %s', ram)
    check(ram['copied_bytes'] >= ram['sealed_bytes'] > 0, 'sealing is a copy: %s', ram)


def check_rolled(ended):
    """Less may be registered than the guest has: windows come and go, and it is not slots all the same."""
    ram = paths(ended)['ram0']
    say('rolled: %s, note %r' % (ram, ended['progress']['path_note']))
    check(ram['direct_bytes'] > 2 * (PIN_LIMIT_MIB << 20) > 0, 'windows did not roll: %s', ram)


def run(lab):
    machines = Machines(lab, __file__)
    for host, more in ((0, PROVIDER), (1, ('--trusted-network', NETWORK))):
        machines.start_agent(host, '--listen', '10.99.0.%d' % (host + 1), '--transport', TRANSPORT, *more)
    warm = machines.warm(1)
    guest = machines.inside(0, 'guest', json.dumps({'fill_mib': FILL_MIB}))
    warm.wait(100)
    move = ['--transport', TRANSPORT, '--trusted-network', NETWORK]
    before = sent_packets(lab)
    ended = move_and_look(machines, guest['qmp'], '10.99.0.2', *move)
    check_clear(ended, sent_packets(lab) - before)
    check_received(ended, machines.inside(1, 'progress', 'serve'))
    there = ended['detail']['target']
    machines.inside(1, 'verify', there['chardevs']['serial0'])
    parts = choose()
    say('parts: clear move, %s' % ', '.join(parts))
    back = None
    if 'sealed move' in parts:
        # Back again, to an agent that trusts no network.
        ended = sealed_move_and_look(machines, there['qmp'], '10.99.0.1', *move)
        check_sealed(ended)
        back = ended['detail']['target']
        machines.inside(0, 'verify', back['chardevs']['serial0'])
    if 'small limit' in parts:
        back = back or machines.inside(1, 'move', there['qmp'], '10.99.0.1', *move)['detail']['target']
        ended = machines.inside(0, 'move', back['qmp'], '10.99.0.2', *move,
                                '--pin-limit', '%dM' % (PIN_LIMIT_MIB + 16))
        check_rolled(ended)
        machines.inside(1, 'verify', ended['detail']['target']['chardevs']['serial0'])
    if 'pages taken away' in parts:
        check_punched(machines, move)
    if 'pages that change' in parts:
        check_resized(machines, move, 'web3', r'window \d+: \d+ bytes of memory are registered on both sides$')
    if 'pages that change late' in parts:
        check_resized(machines, move, 'web4', 'source is STOPPING$')
    if 'copies' in parts:
        copy_image(machines)
    if TRANSPORT == 'fabric':
        check_another_provider(machines)
    machines.check_nothing_left()


def choose():
    """What follows the clear move: all of it, or one part by the seed."""
    if os.environ.get('GODWIT_CHECK_ALL'):
        return PARTS
    seed = os.environ.get('GODWIT_SEED', '1')
    say('GODWIT_SEED=%s' % seed)
    return [random.Random(seed).choice(PARTS)]


def check_punched(machines, move):
    """A guest that gives pages back as it likes: a device would go on reading those that it had."""
    guest = machines.inside(0, 'guest', json.dumps({
        'memory_mib': 48, 'disk_mib': 16, 'span_mib': 8, 'name': 'web2',
        'extra': ['-device', 'virtio-balloon-pci,id=balloon0,free-page-reporting=on']}))
    ended = machines.inside(0, 'move', guest['qmp'], '10.99.0.2', *move)
    ram = paths(ended)['ram0']
    say('pages taken away: %s, note %r' % (ram, ended['progress']['path_note']))
    check(ended['progress']['path'] == 'slots' and ram['path'] == 'slots' and ram['direct_bytes'] == 0,
          'memory went by %s: %s', ram['path'], ram)
    check('goes through slots: the VM\'s balloon or virtio-mem takes pages out of it' in ended['progress']['path_note'],
          'the note is %r', ended['progress']['path_note'])
    machines.inside(1, 'verify', ended['detail']['target']['chardevs']['serial0'])


def check_resized(machines, move, name, line):
    """Pages that a device has registered are taken away in the middle of the move, and come back as others: what goes to
    the target from then on is not what the device has. Where the source says line: in the first round, or behind all rounds
    but the last, in which everything goes again then."""
    guest = machines.inside(0, 'guest', json.dumps({
        'memory_mib': 48, 'disk_mib': 16, 'span_mib': SPAN_MIB, 'name': name, 'qemu': {'balloon': True}}))
    machines.inside(0, 'holder', 'hold', line)
    job = machines.start(0, 'move', guest['qmp'], '10.99.0.2', *move)
    await_held(machines, 0, job)
    for memory in ('42', '48'):
        machines.inside(0, 'resize', guest['beside'], memory)
    machines.inside(0, 'holder', 'release')
    ended = machines.end(job, 'move')
    ways, note = paths(ended), ended['progress']['path_note']
    last = ended['detail']['last_round_bytes']
    say('resized: %s, note %r, %d bytes in the pause' % (ways, note, last))
    check(ways['ram0']['path'] == 'slots' and ways['ram0']['direct_bytes'] > 0 and
          ways['ram0']['slot_bytes'] >= SPAN_MIB << 20, 'memory went by %s', ways['ram0'])
    check((last >= SPAN_MIB << 20) == ('STOPPING' in line), '%d bytes were sent in the pause', last)
    check('goes through slots: the VM\'s balloon or virtio-mem takes pages out of it' in note, 'the note is %r', note)
    numbers = machines.inside(1, 'verify', ended['detail']['target']['chardevs']['serial0'])
    check(numbers['pages'] == SPAN_MIB * 256, 'the guest checked %d pages', numbers['pages'])


def check_another_provider(machines):
    """The other agent's provider leaves the port of TCP alone, so that it can say its name there."""
    error = machines.inside(0, 'other', '/tmp/storage/other.raw', '10.99.0.2:other.raw')['error']
    say('another provider: %s' % error)
    check("the provider of 10.99.0.2:13560 is verbs, this host's is tcp;ofi_rxm" in error, '%s', error)


def copy_image(machines):
    wanted = machines.inside(0, 'image', '/tmp/storage/one.vhdx')['digest']
    ended = machines.inside(0, 'copy', '--transport', TRANSPORT, '--trusted-network', NETWORK, '/tmp/storage/one.vhdx',
                            '10.99.0.2:two.vhdx')
    check(ended['progress']['path'] == 'slots', 'a clear copy went by %s', ended['progress']['path'])
    check(machines.inside(1, 'digest', '/tmp/storage/two.vhdx')['digest'] == wanted, 'the clear copy differs')
    ended = machines.inside(1, 'copy', '--transport', TRANSPORT, '--verify', '/tmp/storage/two.vhdx',
                            '10.99.0.1:three.vhdx')
    check(ended['progress']['path'] == 'sealed', 'a sealed copy went by %s', ended['progress']['path'])
    check(machines.inside(0, 'digest', '/tmp/storage/three.vhdx')['digest'] == wanted, 'the sealed copy differs')
    say('copies: clear and sealed, equal')


if __name__ == '__main__':
    if TRANSPORT == 'fabric' and not os.environ.get('GODWIT_CHECK_ALL') and len(sys.argv) < 2:
        say('skipped: over fabric with GODWIT_CHECK_ALL only, to save time')
        sys.exit(SKIP)
    sys.exit(run_main(globals(), run))
