# SPDX-License-Identifier: Apache-2.0
"""The part of tests/bench/verbs between two emulated hosts of the lab: godwit bench, whose bytes go from one agent to
the other, beside ib_write_bw with as many queue pairs and ib_send_lat, and beside godwit's own TCP; a guest's RAM moved
by godwit beside ib_write_bw and QEMU's own migration by RDMA; RAM of which one page in eight has to be sent beside
ib_write_bw of such pages. GODWIT_BIN and GODWIT_GUEST_BOOT name the build (tests/lab/labmoves.py).

CPU is that of both hosts whole, since soft-RoCE works in the kernel, in whosever time. What a run costs that moves next
to nothing (starting, connecting, asking for the figures) is measured for each program by itself and taken off.

  verbshosts.py inside WHAT WORDS   in a host
"""
import json
import os
import random
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

PARTS = ('bench', 'ram', 'scattered')
MIB, PAGE = 1 << 20, 4096
CHANNELS, BENCH_MS, WIRE_TRIES = 2, 3000, 4
LEAST_MS, LEAST_WRITES = 10, 5          # a run that moves next to nothing
MEMORY_MIB, FILL_MIB = 96, 64
SCATTERED_MIB, ONE_IN = 256, 8
SIZES = {'64 KiB': 65536, '1 MiB': MIB}
WIRE_MIB = {'64 KiB': 96, '1 MiB': 96, '4 KiB': 24}
PEER, QEMU_PORT = '10.99.0.2', 4444
TICK = os.sysconf('SC_CLK_TCK')


# ------------------------------------------------------------------------------- in a host of the lab

def inside_bench(transport, peer, size, milliseconds):
    print(json.dumps(labmoves.godwit('bench', '--json', '--ms', milliseconds, '--channels', str(CHANNELS), '--size',
                                     size, '--transport', transport, peer)))


def inside_cpu():
    """Seconds that this host was not idle."""
    with open('/proc/stat') as handle:
        fields = [int(word) for word in handle.readline().split()[1:9]]
    print(json.dumps({'cpu': (sum(fields) - fields[3] - fields[4]) / TICK}))


def fill(out):
    for _ in range(FILL_MIB):
        out.write(os.urandom(MIB))
    out.truncate(MEMORY_MIB * MIB)


def scatter(out):
    """One page in eight, by chance, has random bytes; the others are holes, which nobody sends."""
    pages = SCATTERED_MIB * MIB // PAGE
    for page in random.sample(range(pages), pages // ONE_IN):
        out.seek(page * PAGE)
        out.write(os.urandom(PAGE))
    out.truncate(SCATTERED_MIB * MIB)


def paused_guest(name, write_memory=None, memory_mib=MEMORY_MIB, **options):
    """QEMU that has not begun to run."""
    import guestctl
    guest = guestctl.Guest('/tmp/ram/' + name, name=name, memory_mib=memory_mib, extra=['-S'], **options)
    if write_memory:
        with open(guest.ram_path, 'wb') as out:
            write_memory(out)
    return guest.start()


def inside_move(name, peer, is_scattered=''):
    """By godwit; the first pass over the RAM."""
    guest = paused_guest(name, scatter, SCATTERED_MIB) if is_scattered else paused_guest(name, fill)
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
    guest = paused_guest(name, fill)
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
        self.idle = {}
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

    def perftest(self, words, key):
        """The columns of the line that begins with key. On a busy machine soft-RoCE fails it at times; then it is run
        again. (columns, CPU seconds of both hosts)"""
        for _ in range(WIRE_TRIES):
            server = self.lab.start(1, words)
            self.lab.run(1, 'until ss -Hltn "sport = :18515" | grep -q .; do sleep 0.2; done', is_checked=True)
            before = self.cpu()
            client = self.lab.run(0, words + ' $LAB_PEER', timeout=300)
            if server.wait(60) == 0 and client.status == 0:
                break
            server.signal('KILL')
            server.wait(10)
            print('%s failed: %s' % (words, client.out.splitlines()[-4:]), file=sys.stderr, flush=True)
        else:
            sys.exit('%s does not work: %s%s' % (words, client.out, client.err))
        used = self.cpu() - before
        return next(line for line in client.out.splitlines() if re.match(key, line)).split(), used

    def write_bw(self, size, writes):
        """ib_write_bw: (MB/s, GB, CPU seconds of both hosts)"""
        words = 'ib_write_bw -d rxe0 -s %d -q %d -n %d -F -t 128 -N' % (size, CHANNELS, writes)
        columns, used = self.perftest(words, r'\s*%d\s+\d+' % size)
        return float(columns[3]) * MIB / 1e6, size * writes * CHANNELS / 1e9, used

    def send_latency(self):
        """Both ends poll all the time; or they sleep until an event, as an agent does that waits this long."""
        for name, option in (('ib_send_lat', ''), ('ib_send_lat -e', ' -e')):
            columns, _ = self.perftest('ib_send_lat -d rxe0 -s 16 -n 1000 -F' + option, r'\s*16\s+1000')
            self.add(name + ', us', float(columns[4]))

    def bench(self, transport, size, milliseconds):
        """godwit bench: (what it says of the writes, round trip in us, CPU seconds of both hosts)"""
        before = self.cpu()
        found = self.machines.inside(0, 'bench', transport, PEER, str(size), str(milliseconds))
        used = self.cpu() - before
        [one] = found['transports']
        [write] = one['writes']
        if not write['verified']:
            sys.exit('not what was sent: %s' % write)
        return write, one['round_trip_us']['median'], used

    def least(self, what, run):
        """(GB, CPU seconds) of a run that moves next to nothing, measured once: the cheapest of two."""
        if what not in self.idle:
            self.idle[what] = min((run() for _ in range(2)), key=lambda pair: pair[1])
        return self.idle[what]

    def wire(self, name, size):
        def least():
            return self.write_bw(size, LEAST_WRITES)[1:]
        idle_gigabytes, idle = self.least('wire ' + name, least)
        rate, gigabytes, used = self.write_bw(size, WIRE_MIB[name] * MIB // size // CHANNELS)
        self.add('ib_write_bw ' + name, rate)
        self.add('ib_write_bw, CPU s/GB ' + name, (used - idle) / (gigabytes - idle_gigabytes))

    def agents(self, transport, name, size):
        def least():
            write, _, used = self.bench(transport, size, LEAST_MS)
            return write['bytes'] / 1e9, used
        idle_gigabytes, idle = self.least(transport + name, least)
        write, trip, used = self.bench(transport, size, BENCH_MS)
        gigabytes = write['bytes'] / 1e9
        self.add('bench %s %s' % (transport, name), write['bytes_per_second'] / 1e6)
        self.add('workers, CPU s/GB %s %s' % (transport, name),
                 write['source_cpu_seconds_per_gb'] + write['target_cpu_seconds_per_gb'])
        self.add('both hosts, CPU s/GB %s %s' % (transport, name), (used - idle) / (gigabytes - idle_gigabytes))
        self.add('round trip, us ' + transport, trip)

    def move(self, what, index, path, least_bytes, *more):
        moved = self.machines.inside(0, 'move', 'moved%d' % index, PEER, *more)
        if moved['path'] != path or moved['bytes'] < least_bytes:
            sys.exit('not what was to be measured: %s' % moved)
        self.add(what, moved['rate'])
        self.machines.inside(1, 'end', str(moved['pid']))

    def ram(self, index):
        self.move('RAM by godwit', index, 'direct', FILL_MIB * MIB)
        there = self.machines.inside(1, 'incoming', 'own%d' % index)
        own = self.machines.inside(0, 'migrate', 'own%d' % index, PEER)
        if own['bytes'] < FILL_MIB * MIB:
            sys.exit('not what was to be measured: %s' % own)
        self.add('RAM by QEMU', own['rate'])
        self.machines.inside(1, 'end', str(there['pid']))

    def round(self, index, parts):
        for name, size in SIZES.items():
            if 'bench' in parts or 'ram' in parts:
                self.wire(name, size)
            if 'bench' in parts:
                self.agents('verbs', name, size)
        if 'bench' in parts:
            self.agents('tcp', *list(SIZES.items())[-1])
            self.send_latency()
        if 'ram' in parts:
            self.ram(index)
        if 'scattered' in parts:
            self.wire('4 KiB', PAGE)
            self.move('scattered RAM by godwit', index, 'slots', SCATTERED_MIB * MIB // ONE_IN, 'scattered')


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
    """(what, ours, the other, the goal for the ratio or None, is it the most)"""
    middle = {name: statistics.median(values) for name, values in runs.items()}
    found = []
    if 'bench' in parts:
        for name in SIZES:
            found.append(('bench / ib_write_bw, %s, MB/s' % name, middle['bench verbs ' + name],
                          middle['ib_write_bw ' + name], 0.95, False))
            found.append(('the same, CPU s/GB of both hosts', middle['both hosts, CPU s/GB verbs ' + name],
                          middle['ib_write_bw, CPU s/GB ' + name], 1.15, True))
        for name in ('ib_send_lat', 'ib_send_lat -e'):
            found.append(('message, one way / %s, us' % name, middle['round trip, us verbs'] / 2,
                          middle[name + ', us'], 1.3, True))
        for what in ('bench', 'workers, CPU s/GB', 'both hosts, CPU s/GB'):
            found.append(('verbs / own TCP, %s, %s' % (name, what.replace('bench', 'MB/s')),
                          middle['%s verbs %s' % (what, name)], middle['%s tcp %s' % (what, name)], None, False))
        found.append(('verbs / own TCP, round trip, us', middle['round trip, us verbs'], middle['round trip, us tcp'],
                      None, False))
    if 'ram' in parts:
        best = max(middle['ib_write_bw ' + name] for name in SIZES)
        found.append(('guest RAM / ib_write_bw, MB/s', middle['RAM by godwit'], best, 0.9, False))
        found.append(('the same by QEMU (rdma:)', middle['RAM by QEMU'], best, None, False))
    if 'scattered' in parts:
        found.append(('one page in eight of RAM / ib_write_bw, 4 KiB', middle['scattered RAM by godwit'],
                      middle['ib_write_bw 4 KiB'], 0.7, False))
    return found


if __name__ == '__main__':
    sys.exit(labmoves.run_main(globals(), None))
