# SPDX-License-Identifier: Apache-2.0
"""The part of tests/bench/verbs between two emulated hosts of the lab: godwit bench beside ib_write_bw with as many
queue pairs, and beside godwit's own TCP; a guest's RAM moved by godwit beside ib_write_bw and QEMU's own migration
by RDMA. GODWIT_BIN and GODWIT_GUEST_BOOT name the build (tests/lab/labmoves.py).

  verbshosts.py inside WHAT WORDS   in a host
"""
import json
import os
import re
import shutil
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, 'tests', 'lab'))
# pylint: disable=wrong-import-position
import labmoves  # noqa: E402

PARTS = ('bench', 'ram')
MIB = 1 << 20
CHANNELS, BENCH_MS, WIRE_MIB, WIRE_TRIES = 2, 3000, 48, 4
MEMORY_MIB, FILL_MIB = 96, 64
SIZES = {'64 KiB': 65536, '1 MiB': MIB}
PEER, QEMU_PORT = '10.99.0.2', 4444
TICK = os.sysconf('SC_CLK_TCK')


# ------------------------------------------------------------------------------- in a host of the lab

def inside_bench(transport, peer):
    print(json.dumps(labmoves.godwit('bench', '--json', '--ms', str(BENCH_MS), '--channels', str(CHANNELS),
                                     '--transport', transport, peer)))


def inside_cpu():
    """Seconds that this host was not idle."""
    with open('/proc/stat') as handle:
        fields = [int(word) for word in handle.readline().split()[1:9]]
    print(json.dumps({'cpu': (sum(fields) - fields[3] - fields[4]) / TICK}))


def paused_guest(name, **options):
    """QEMU that has not begun to run, with random bytes in its RAM if it is to be moved from here."""
    import guestctl
    guest = guestctl.Guest('/tmp/ram/' + name, name=name, memory_mib=MEMORY_MIB, extra=['-S'], **options)
    if not options:
        with open(guest.ram_path, 'wb') as out:
            for _ in range(FILL_MIB):
                out.write(os.urandom(MIB))
            out.truncate(MEMORY_MIB * MIB)
    return guest.start()


def inside_move(name, peer):
    """By godwit; the first pass over the RAM."""
    guest = paused_guest(name)
    ended = labmoves.godwit(*labmoves.move_line(guest.qmp_path, peer, '--transport', 'verbs', '--channels',
                                                str(CHANNELS), '--trusted-network', labmoves.NETWORK))
    guest.stop()
    first = ended['detail']['first_ram_pass']
    print(json.dumps({'rate': first['bytes'] / first['seconds'] / 1e6, 'path': labmoves.paths(ended)['ram0']['path'],
                      'pid': ended['detail']['target']['pid'], 'bytes': first['bytes']}))


def inside_incoming(name):
    guest = paused_guest(name, incoming='rdma:%s:%d' % (PEER, QEMU_PORT))
    print(json.dumps({'pid': guest.pid}))


def inside_migrate(name, peer):
    """By QEMU's own RDMA, without the time that it takes to connect and register."""
    guest = paused_guest(name)
    guest.qmp('migrate-set-parameters', **{'max-bandwidth': 10 << 30})
    guest.qmp('migrate', uri='rdma:%s:%d' % (peer, QEMU_PORT))
    deadline = time.monotonic() + 300
    state = {}
    while time.monotonic() < deadline and state.get('status') not in ('completed', 'failed'):
        time.sleep(0.2)
        state = guest.qmp('query-migrate')
    log = guest.qemu_log()
    guest.stop()
    if state.get('status') != 'completed':
        sys.exit('%s\n%s' % (state, log))
    seconds = (state['total-time'] - state['setup-time']) / 1e3
    print(json.dumps({'rate': FILL_MIB * MIB / seconds / 1e6, 'bytes': state['ram']['transferred']}))


def inside_end(pid):
    """A QEMU on the target, and what memory it had."""
    import guestctl
    guestctl.end_process(int(pid))
    for name in os.listdir('/dev/shm'):
        path = os.path.join('/dev/shm', name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    print('{}')


# ------------------------------------------------------------------------------------- in this machine

class Hosts:
    """Both hosts with an agent; runs: what was measured, by name."""

    def __init__(self, lab, runs):
        self.lab, self.machines, self.runs = lab, labmoves.Machines(lab, __file__), runs
        for host in (0, 1):
            self.machines.start_agent(host, '--listen', '0.0.0.0', '--trusted-network', labmoves.NETWORK,
                                      '--allow-bench')
        for host in (0, 1):
            self.machines.wait_agent(host)
            self.machines.warm(host).wait(200)

    def add(self, name, value):
        self.runs.setdefault(name, []).append(value)

    def cpu(self):
        return sum(self.machines.inside(host, 'cpu')['cpu'] for host in (0, 1))

    def wire(self, name):
        """ib_write_bw, MB/s. On a busy machine soft-RoCE fails it at times; then it is run again."""
        size = SIZES[name]
        words = 'ib_write_bw -d rxe0 -s %d -q %d -n %d -F -t 128 -N' % (size, CHANNELS,
                                                                    WIRE_MIB * MIB // size // CHANNELS)
        for _ in range(WIRE_TRIES):
            server = self.lab.start(1, words)
            self.lab.run(1, 'until ss -Hltn "sport = :18515" | grep -q .; do sleep 0.2; done', is_checked=True)
            client = self.lab.run(0, words + ' $LAB_PEER', timeout=300)
            if server.wait(60) == 0 and client.status == 0:
                break
            server.signal('KILL')
            server.wait(10)
            print('ib_write_bw failed: %s' % client.out.splitlines()[-4:], file=sys.stderr, flush=True)
        else:
            sys.exit('ib_write_bw does not work: %s%s' % (client.out, client.err))
        line = next(line for line in client.out.splitlines() if re.match(r'\s*%d\s+\d+' % size, line))
        self.add('ib_write_bw ' + name, float(line.split()[3]) * MIB / 1e6)

    def bench(self, transport):
        """godwit bench: rates, CPU of its workers, CPU of both hosts (which have nothing else to do), round trip."""
        before = self.cpu()
        found = self.machines.inside(0, 'bench', transport, PEER)
        used = self.cpu() - before
        [one] = found['transports']
        names = {size: name for name, size in SIZES.items()}
        for write in one['writes']:
            if not write['verified']:
                sys.exit('not what was sent: %s' % write)
            if write['size'] in names:
                self.add('bench %s %s' % (transport, names[write['size']]), write['bytes_per_second'] / 1e6)
        gigabytes = sum(write['bytes'] for write in one['writes']) / 1e9
        workers = sum((write['source_cpu_seconds_per_gb'] + write['target_cpu_seconds_per_gb']) * write['bytes']
                      for write in one['writes']) / 1e9
        self.add('workers, CPU s/GB ' + transport, workers / gigabytes)
        self.add('both hosts, CPU s/GB ' + transport, used / gigabytes)
        self.add('round trip, us ' + transport, one['round_trip_us']['median'])

    def ram(self, index):
        moved = self.machines.inside(0, 'move', 'moved%d' % index, PEER)
        if moved['path'] != 'direct' or moved['bytes'] < FILL_MIB * MIB:
            sys.exit('not what was to be measured: %s' % moved)
        self.add('RAM by godwit', moved['rate'])
        self.machines.inside(1, 'end', str(moved['pid']))
        there = self.machines.inside(1, 'incoming', 'own%d' % index)
        own = self.machines.inside(0, 'migrate', 'own%d' % index, PEER)
        if own['bytes'] < FILL_MIB * MIB:
            sys.exit('not what was to be measured: %s' % own)
        self.add('RAM by QEMU', own['rate'])
        self.machines.inside(1, 'end', str(there['pid']))

    def round(self, index, parts):
        for name in SIZES:
            self.wire(name)
        if 'bench' in parts:
            self.bench('verbs')
            self.bench('tcp')
        if 'ram' in parts:
            self.ram(index)


def measure(parts, rounds):
    """What was measured, by name: a list of one for each round."""
    runs = {}

    def run(lab):
        hosts = Hosts(lab, runs)
        for index in range(rounds):
            hosts.round(index, parts)
            print('round %d: %s' % (index + 1, {name: round(values[-1], 2) for name, values in runs.items()}),
                  file=sys.stderr, flush=True)

    status = labmoves.run_main({}, run, memory=1400)
    if status:
        sys.exit(status)
    return runs


def rows(runs, parts):
    """(what, ours, the other, the least ratio or None)"""
    middle = {name: statistics.median(values) for name, values in runs.items()}
    found = []
    if 'bench' in parts:
        for name in SIZES:
            found.append(('bench / ib_write_bw, %s, MB/s' % name, middle['bench verbs ' + name],
                          middle['ib_write_bw ' + name], 0.95))
        for name in SIZES:
            found.append(('bench, verbs / own TCP, %s, MB/s' % name, middle['bench verbs ' + name],
                          middle['bench tcp ' + name], None))
        for what in ('workers, CPU s/GB', 'both hosts, CPU s/GB', 'round trip, us'):
            found.append(('bench, verbs / own TCP, ' + what, middle[what + ' verbs'], middle[what + ' tcp'], None))
    if 'ram' in parts:
        best = max(middle['ib_write_bw ' + name] for name in SIZES)
        found.append(('guest RAM / ib_write_bw, MB/s', middle['RAM by godwit'], best, 0.9))
        found.append(('the same by QEMU (rdma:)', middle['RAM by QEMU'], best, None))
    return found


if __name__ == '__main__':
    sys.exit(labmoves.run_main(globals(), None))
