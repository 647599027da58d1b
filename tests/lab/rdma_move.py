#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A running VM moves between two hosts of the lab over verbs, and a VHDX is copied: clear in one
direction, sealed in the other. With GODWIT_LAB_TRANSPORT=fabric over libfabric's provider verbs.

The guest checks its memory and its disk by itself; images are compared by qemu-img. What godwit says of
the ways that bytes took is compared with what can be known of them otherwise: the RDMA device's own
counters, and the memory that the guest has written.

  rdma_move.py              in this machine: boots the lab
  rdma_move.py inside WHAT  in a host
"""
import hashlib
import json
import os
import random
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get('GODWIT_BIN', os.path.join(ROOT, 'build', 'cli', 'godwit'))
sys.dont_write_bytecode = True
for folder in ('scripts/lab.d', 'tests/guest'):
    sys.path.insert(0, os.path.join(ROOT, folder))

NETWORK = '10.99.0.0/16'
MEMORY_MIB = 96
PIN_LIMIT_MIB = 8  # for windows; two lanes' rings are 16 more
MTU = 4096
SKIP = 77
TRANSPORT = os.environ.get('GODWIT_LAB_TRANSPORT', 'verbs')


def say(text):
    print(text, flush=True)


# ------------------------------------------------------------------------------- in a host of the lab

def godwit(*words):
    answer = subprocess.run([BINARY, *words], capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit('godwit %s: status %d\n%s%s' % (words[0], answer.returncode, answer.stderr[-3000:],
                                                  answer.stdout[-3000:]))
    return [json.loads(line) for line in answer.stdout.splitlines() if line.startswith('{')][-1]


def port_counter(name):
    with open('/sys/class/infiniband/rxe0/ports/1/hw_counters/' + name) as handle:
        return int(handle.read())


def inside_guest():
    """Starts the guest, which fills its memory, and leaves it running."""
    import guestctl
    import guestimage
    os.makedirs('/tmp/vm/disks')
    path = '/tmp/vm/disks/web1.vhdx'
    guestimage.make_image(path, 32 << 20, 'vhdx', False, os.environ['GODWIT_GUEST_BOOT'], 2, None, seed=11,
                          span_mib=MEMORY_MIB // 2, pages_per_tick=10, writes_per_tick=2, reads_per_tick=1,
                          write_range_mib=8)
    guest = guestctl.Guest('/tmp/vm/guest', name='web1', memory_mib=MEMORY_MIB,
                           disks=[{'path': path, 'format': 'vhdx'}])
    guest.start()
    # One emulated processor for all: what moves the guest goes first.
    os.setpriority(os.PRIO_PROCESS, guest.pid, 15)
    guest.wait_ready(200)
    guest.serial.wait_tick(120)


def inside_verify(serial_path):
    """The guest's own check, where it is now."""
    import guestctl
    serial = guestctl.Serial('/tmp', serial_path, 'moved-%d' % os.getpid())
    serial.start()
    try:
        tick = serial.wait_tick(200)
        is_good, numbers, faults = serial.verify(200)
    finally:
        serial.stop()
    if not is_good or tick['bad'] or serial.boots():
        sys.exit('the guest found faults: %s %s' % (faults[:3], tick))
    print(json.dumps(numbers))


def inside_move(qmp, to, *more):
    before = port_counter('sent_pkts')
    ended = godwit('move', '--json', '--psk', '/run/lab/lab.psk', '--qmp', qmp, '--to', to, '--transport', TRANSPORT,
                   '--tracker', 'softdirty', '--max-pause', '4000', '--no-throttle', *more)
    ended['sent_pkts'] = port_counter('sent_pkts') - before
    print(json.dumps(ended))


def digest(path):
    """SHA-256 of what is in an image, by qemu-img."""
    raw = '/tmp/digest.raw'
    subprocess.run(['qemu-img', 'convert', '-O', 'raw', path, raw], check=True)
    with open(raw, 'rb') as handle:
        value = hashlib.file_digest(handle, 'sha256').hexdigest()
    os.unlink(raw)
    return value


def inside_image(path):
    """A VHDX with data and holes."""
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'raw', path + '.raw', '16M'], check=True)
    with open(path + '.raw', 'r+b') as handle:
        for at in (0, 5 << 20, 11 << 20):
            handle.seek(at)
            handle.write(os.urandom((1 << 20) + 4096))
    subprocess.run(['qemu-img', 'convert', '-O', 'vhdx', path + '.raw', path], check=True)
    print(json.dumps({'digest': digest(path)}))


def inside_digest(path):
    print(json.dumps({'digest': digest(path)}))


def inside_copy(*words):
    print(json.dumps(godwit('copy', '--json', '--psk', '/run/lab/lab.psk', '--transport', TRANSPORT, *words)))


def inside_received():
    """What this host's agent says of the newest move that it received."""
    [agent] = godwit('status', '--json')['agents']
    jobs = [job for job in agent['jobs'] if job['kind'] == 'serve']
    print(json.dumps(jobs[-1]['progress']))


def inside_left():
    """What the device still has: queue pairs and regions of agents that have nothing to do."""
    answer = subprocess.run(['rdma', '-j', 'resource', 'show'], capture_output=True, text=True, check=True)
    print(json.dumps({'left': json.loads(answer.stdout)[0]}))


# ------------------------------------------------------------------------------------- in this machine

class Machines:
    """Two hosts with an agent each."""

    def __init__(self, lab):
        self.lab = lab
        self.agents = []

    def start_agent(self, host, *more):
        words = [BINARY, 'agent', '--listen', '10.99.0.%d' % (host + 1), '--transport', TRANSPORT, '--psk',
                 '/run/lab/lab.psk', '--storage', '/tmp/storage', '--state', '/tmp/state', '--socket',
                 '/run/godwit.sock', '--allow-volatile-state', *more]
        if TRANSPORT == 'fabric':
            words += ['--provider', 'verbs']
        self.lab.run(host, BINARY + ' --version; ls ' + os.path.dirname(os.path.dirname(BINARY)) + '/*/*guard*')
        self.agents.append(self.lab.start(host, 'mkdir -p /tmp/storage /tmp/state; ulimit -l unlimited; ' + ' '.join(words)))

    def inside(self, host, *words, timeout=400):
        done = self.lab.run(host, 'GODWIT_SOCKET=/run/godwit.sock GODWIT_LAB_TRANSPORT=%s GODWIT_GUEST_BOOT=%s GODWIT_BIN=%s python3 %s inside %s' % (
            TRANSPORT, os.environ.get('GODWIT_GUEST_BOOT', os.path.join(ROOT, 'build/tests/guest/guest.bin')), BINARY,
            os.path.abspath(__file__), ' '.join(words)), timeout=timeout)
        if done.status:
            for agent in self.agents:
                say('--- agent\n' + agent.err[-3000:])
            sys.exit('%s on host %d: status %s\n%s\n%s' % (words[0], host, done.status, done.out[-4000:],
                                                          done.err[-4000:]))
        lines = [line for line in done.out.splitlines() if line.startswith('{')]
        return json.loads(lines[-1]) if lines else {}


def check(condition, text, *values):
    if not condition:
        sys.exit(text % values)


def paths(ended):
    return {one['name']: one for one in ended['progress']['paths']}


def check_clear(ended):
    """No byte of the guest's memory was copied but for what is named."""
    ram = paths(ended)['ram0']
    first = ended['detail']['first_ram_pass']['bytes']
    say('clear: %s; first pass %d, note %r' % (ram, first, ended['progress']['path_note']))
    check(ended['progress']['path'] == 'direct' and ram['path'] == 'direct', 'memory went by %s', ram['path'])
    check(ram['sealed_bytes'] == 0 and ram['copied_bytes'] == ram['slot_bytes'], 'counted: %s', ram)
    # Runs that are too short for a window, and what became data since. (tests/engine/path has exact figures.)
    check(ram['slot_bytes'] < first // 10, 'copied %d of %d bytes', ram['slot_bytes'], first)
    check(ended['sent_pkts'] * MTU >= ram['direct_bytes'], 'the device sent %d packets for %d bytes',
          ended['sent_pkts'], ram['direct_bytes'])


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


def main():
    from godwit_lab import Lab, LabError
    if TRANSPORT == 'fabric' and not os.environ.get('GODWIT_CHECK_ALL'):
        say('skipped: over fabric with GODWIT_CHECK_ALL only, to save time')
        return SKIP
    try:
        lab = Lab(hosts=2, memory=1400)
        with lab:
            run(lab)
    except LabError as error:
        say('skipped: %s' % error)
        return SKIP
    return 0


def run(lab):
    key = subprocess.run([BINARY, 'key', 'lab'], capture_output=True, check=True).stdout
    for host in range(2):
        path = os.path.join(lab.share(host), 'lab.psk')
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 'wb') as handle:
            handle.write(key)
    machines = Machines(lab)
    machines.start_agent(0)
    machines.start_agent(1, '--trusted-network', NETWORK)
    # What is read through 9p for the first time is slow; a move's own limits are not what is tested.
    warm = lab.start(1, 'echo quit | qemu-system-x86_64 -M pc -cpu max -S -nodefaults -display none -device '
                        'virtio-blk-pci,drive=n -blockdev null-co,node-name=n,size=1M -monitor stdio')
    machines.inside(0, 'guest')
    warm.wait(100)
    ended = machines.inside(0, 'move', '/tmp/vm/guest/qmp', '10.99.0.2', '--trusted-network', NETWORK)
    check_clear(ended)
    check_received(ended, machines.inside(1, 'received'))
    there = ended['detail']['target']
    machines.inside(1, 'verify', there['chardevs']['serial0'])
    parts = choose()
    say('parts: clear move, %s' % ', '.join(parts))
    if 'sealed move' in parts:
        # Back again, to an agent that trusts no network.
        ended = machines.inside(1, 'move', there['qmp'], '10.99.0.1', '--trusted-network', NETWORK)
        check_sealed(ended)
        back = ended['detail']['target']
        machines.inside(0, 'verify', back['chardevs']['serial0'])
    if 'small limit' in parts:
        ended = machines.inside(0, 'move', back['qmp'], '10.99.0.2', '--trusted-network', NETWORK,
                                '--pin-limit', '%dM' % (PIN_LIMIT_MIB + 16))
        check_rolled(ended)
        machines.inside(1, 'verify', ended['detail']['target']['chardevs']['serial0'])
    if 'copies' in parts:
        copy_image(machines)
    for host in range(2):
        left = machines.inside(host, 'left')['left']
        # The device's own queue pair is there without us.
        check(left['mr'] == 0 and left['qp'] <= 1, 'host %d: %s', host, left)


def choose():
    """What follows the clear move: all of it, or one part or none by the seed."""
    if os.environ.get('GODWIT_CHECK_ALL'):
        return ['sealed move', 'small limit', 'copies']
    seed = os.environ.get('GODWIT_SEED', '1')
    say('GODWIT_SEED=%s' % seed)
    return random.Random(seed).choice([[], ['sealed move'], ['copies']])


def copy_image(machines):
    digest = machines.inside(0, 'image', '/tmp/storage/one.vhdx')['digest']
    ended = machines.inside(0, 'copy', '--trusted-network', NETWORK, '/tmp/storage/one.vhdx', '10.99.0.2:two.vhdx')
    check(ended['progress']['path'] == 'slots', 'a clear copy went by %s', ended['progress']['path'])
    check(machines.inside(1, 'digest', '/tmp/storage/two.vhdx')['digest'] == digest, 'the clear copy differs')
    ended = machines.inside(1, 'copy', '--verify', '/tmp/storage/two.vhdx', '10.99.0.1:three.vhdx')
    check(ended['progress']['path'] == 'sealed', 'a sealed copy went by %s', ended['progress']['path'])
    check(machines.inside(0, 'digest', '/tmp/storage/three.vhdx')['digest'] == digest, 'the sealed copy differs')
    say('copies: clear and sealed, equal')


if __name__ == '__main__':
    if len(sys.argv) > 2 and sys.argv[1] == 'inside':
        globals()['inside_' + sys.argv[2]](*sys.argv[3:])
        sys.exit(0)
    sys.exit(main())
