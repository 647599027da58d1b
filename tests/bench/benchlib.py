# SPDX-License-Identifier: Apache-2.0
"""What every benchmark here shares: two namespaces joined by veth (scripts/netns: MTU 9000, reno), one core
a side, interleaved rounds, medians, a table of ratios, and CPU seconds per GB by stage.

The source's side is the namespace a on CPU 0, the target's side is b on CPU 1. Everything a benchmark makes
lies in one folder on tmpfs, which is removed with the namespaces.
"""
import argparse
import atexit
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'guest'))
import guestctl  # noqa: E402 (its folder is known only now)
SOURCE, TARGET = '10.77.0.1', '10.77.0.2'
NETWORK = '10.77.0.0/16'
CPU = {'a': '0', 'b': '1'}
MIB, GIB = 1 << 20, 1 << 30


def skip(reason):
    print('skipped: ' + reason)
    sys.exit(77)


def arguments(description, rounds=5, more=()):
    """The options that every benchmark takes; more: (name, {add_argument options}) pairs."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', default=os.environ.get('GODWIT_BUILD'), metavar='DIR',
                        help='a release build (default: build/bench, made when it is missing)')
    parser.add_argument('--rounds', type=int, default=rounds, help='runs of each contender (%(default)s)')
    parser.add_argument('--json', action='store_true', help='one JSON object in place of the table')
    for name, options in more:
        parser.add_argument(name, **options)
    options = parser.parse_args()
    if os.geteuid() != 0:
        skip('network namespaces need root')
    if len(os.sched_getaffinity(0)) < 2:
        skip('two CPUs are needed, one for each side')
    options.build = os.path.abspath(options.build) if options.build else release_build()
    # What else the machine does is to disturb neither contender.
    with contextlib.suppress(PermissionError):
        os.nice(-20)
    return options


def go_before_other_sessions():
    """Where the kernel groups tasks by session, a nice value counts within its session alone. For benchmarks whose
    processes are all of this one: a guest has its own."""
    with contextlib.suppress(OSError), open('/proc/self/autogroup', 'r+') as group:
        before = group.read().split()[-1]
        group.write('-20')
        atexit.register(leave_in_group, before)


def leave_in_group(nice):
    with contextlib.suppress(OSError), open('/proc/self/autogroup', 'w') as group:
        group.write(nice)


def release_build():
    """Builds the tree optimised: a sanitised or debug build measures the sanitiser."""
    build = os.path.join(ROOT, 'build', 'bench')
    with contextlib.redirect_stdout(sys.stderr):
        if not os.path.exists(os.path.join(build, 'build.ninja')):
            subprocess.run(['meson', 'setup', build, ROOT, '-Dbuildtype=release'], check=True,
                           stdout=sys.stderr)
        subprocess.run(['ninja', '-C', build, 'cli/godwit', 'tests/bench/bench-path',
                        'tests/bench/transport-blast', 'tests/bench/seal-floor'], check=True, stdout=subprocess.DEVNULL)
    return build


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            skip('%s is not installed (scripts/deps test)' % tool)


class Lab:
    """The two namespaces, the folder, and what runs in them."""

    def __init__(self, build):
        self.build = build
        self.name = 'gwbench%d' % os.getpid()
        self.folder = '/dev/shm/godwit-bench-%d' % os.getpid()
        self.children = []

    def __enter__(self):
        os.makedirs(self.folder)
        try:
            subprocess.run([os.path.join(ROOT, 'scripts', 'netns'), 'up', self.name], check=True)
        except subprocess.CalledProcessError:
            self.close()
            skip('network namespaces cannot be made here')
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for child in self.children:
            stop(child)
        subprocess.run([os.path.join(ROOT, 'scripts', 'netns'), 'down', self.name], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, *names):
        path = os.path.join(self.folder, *names)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def tool(self, *names):
        return os.path.join(self.build, *names)

    def on(self, side, *command):
        """The command line that runs command on one side."""
        return ['ip', 'netns', 'exec', '%s-%s' % (self.name, side), 'taskset', '-c', CPU[side],
                *[str(word) for word in command]]

    def run(self, side, *command, env=None):
        """Runs a command to its end; its standard output. Fails with its words."""
        result = subprocess.run(self.on(side, *command), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                stdin=subprocess.DEVNULL, text=True, check=False,
                                env={**os.environ, **(env or {})})
        if result.returncode:
            raise RuntimeError('%s: status %d: %s' % (' '.join(map(str, command)), result.returncode,
                                                      (result.stderr or result.stdout)[-1000:]))
        return result.stdout

    def timed(self, side, *command, env=None):
        """As run; (standard output, CPU seconds that the command took)."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = self.run(side, *command, env=env)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return text, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def start(self, side, *command, env=None, out=None):
        """Starts a server on one side. out: a file for its standard output."""
        child = subprocess.Popen(self.on(side, *command), stdin=subprocess.DEVNULL,
                                 stdout=out or subprocess.DEVNULL, stderr=out or subprocess.DEVNULL,
                                 env={**os.environ, **(env or {})})
        self.children.append(child)
        return child

    def wait_port(self, side, port):
        deadline = time.monotonic() + 10
        space = '%s-%s' % (self.name, side)
        while not subprocess.run(['ip', 'netns', 'exec', space, 'ss', '-Hltn', 'sport = :%d' % port],
                                 stdout=subprocess.PIPE, check=True).stdout:
            if time.monotonic() > deadline:
                raise RuntimeError('nothing listens on port %d' % port)
            time.sleep(0.01)

    def key(self):
        """A pre-shared key, the same for both sides."""
        path = self.path('bench.psk')
        if not os.path.exists(path):
            with open(path, 'w', opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
                subprocess.run([self.tool('cli', 'godwit'), 'key', 'bench'], check=True, stdout=out)
        return path


class Agent:
    """godwit's agent on one side."""

    def __init__(self, lab, side, trusted=True, ram_dir=None, env=None, storage=None):
        self.lab, self.side = lab, side
        self.last_job = None
        self.folder = lab.path('agent-' + side, 'x')[:-2]
        self.storage = storage or os.path.join(self.folder, 'storage')
        self.socket = os.path.join(self.folder, 'admin')
        # The journal must not lie on tmpfs.
        self.state = '/var/tmp/godwit-bench-%d-%s' % (os.getpid(), side)
        for folder in (self.storage, self.state):
            os.makedirs(folder, exist_ok=True)
        address = SOURCE if side == 'a' else TARGET
        command = [lab.tool('cli', 'godwit'), 'agent', '--listen', address, '--psk', lab.key(),
                   '--storage', self.storage, '--state', self.state, '--socket', self.socket]
        if trusted:
            command += ['--trusted-network', NETWORK]
        if ram_dir:
            command += ['--ram-dir', ram_dir]
        self.log = os.path.join(self.folder, 'log')
        with open(self.log, 'w') as out:
            self.child = lab.start(side, *command, env=env, out=out)
        lab.wait_port(side, 13560)

    def pid(self):
        """ip netns exec and taskset become the agent itself."""
        return self.child.pid

    def last_stats(self):
        """"stats" of the newest session that this agent served."""
        for _ in range(200):
            text = subprocess.run([self.lab.tool('cli', 'godwit'), 'history', '--json', '--limit', '1',
                                   '--socket', self.socket], stdout=subprocess.PIPE, text=True,
                                  check=True).stdout
            jobs = json.loads(text)['history']
            if jobs and jobs[0].get('job') != self.last_job and (jobs[0].get('detail') or {}).get('stats'):
                self.last_job = jobs[0]['job']
                return {**jobs[0]['detail']['stats'], 'allocate_s': jobs[0]['detail'].get('allocate_s', 0.0)}
            time.sleep(0.02)
        raise RuntimeError('the agent on %s told no figures: %s' % (self.side, text[-500:]))

    def stop(self):
        stop(self.child)
        shutil.rmtree(self.state, ignore_errors=True)


def pin(guest, side):
    """All threads of a guest's QEMU on its side's CPU."""
    subprocess.run(['taskset', '-a', '-p', '-c', CPU[side], str(guest.pid)], check=True,
                   stdout=subprocess.DEVNULL)


def move(lab, guest, agents, *more):
    """godwit move from a to b; (seconds, the detail of its result). The target's QEMU is ended."""
    environment = {'GODWIT_SOCKET': agents['a'].socket}
    started = time.monotonic()
    text = lab.run('a', lab.tool('cli', 'godwit'), 'move', '--json', '--psk', lab.key(), '--qmp',
                   guest.qmp_path, '--to', TARGET, '--trusted-network', NETWORK, *more, env=environment)
    seconds = time.monotonic() - started
    ended = json.loads(text.splitlines()[-1])
    return seconds, ended['detail']


def end_target(detail, agents):
    """Ends the QEMU that a move left on the target and removes what it had."""
    guestctl.end_process(detail['target']['pid'])
    for name in os.listdir(agents['b'].storage):
        os.unlink(os.path.join(agents['b'].storage, name))
    for name in os.listdir('/dev/shm'):
        if name.startswith('godwit-') and name[7:19] == os.path.basename(detail['target']['run_dir']):
            shutil.rmtree(os.path.join('/dev/shm', name), ignore_errors=True)


def cpu_of(pid):
    """CPU seconds of a process so far."""
    with open('/proc/%d/stat' % pid) as handle:
        words = handle.read().rpartition(')')[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf('SC_CLK_TCK')


def stop(child):
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# ------------------------------------------------------------------------------------- the wire

def wire_iperf3(lab, seconds):
    """Gbit/s of iperf3 over two streams."""
    port = random.randrange(31000, 39000)
    server = lab.start('b', 'iperf3', '-s', '-1', '-p', port)
    lab.wait_port('b', port)
    report = json.loads(lab.run('a', 'iperf3', '-c', TARGET, '-p', port, '-P', 2, '-t', seconds, '-l',
                                '256K', '-J'))
    server.wait(10)
    return report['end']['sum_received']['bits_per_second'] / 1e9


def wire_blast(lab, seconds, *more):
    """(Gbit/s, CPU seconds per GB of the source's side, and of the target's) of two channels of plain send
    and recv."""
    port = random.randrange(21000, 29000)
    blast = lab.tool('tests', 'bench', 'transport-blast')
    more = more or ('--plain', '--size', '262144')
    log = lab.path('blast.log')
    with open(log, 'w') as out:
        server = lab.start('b', blast, 'listen', '%s:%d' % (TARGET, port), *more, out=out)
    lab.wait_port('b', port)
    near = lab.run('a', blast, 'send', '%s:%d' % (TARGET, port), '--seconds', seconds, *more)
    server.wait(10)
    with open(log) as handle:
        lines = [line.split() for line in (near + handle.read()).splitlines()]
    rate = next(float(words[1]) for words in lines if words and words[0] == 'receive:')
    return rate, *[float(words[3]) for words in lines if len(words) > 3][:2]


class Wire:
    """The wire's limit: the better median of iperf3 and the plain blaster. One sample() a round."""

    def __init__(self, lab, seconds=1):
        need('iperf3')
        self.lab, self.seconds = lab, seconds
        self.iperf3, self.blast, self.cpu = [], [], []

    def sample(self):
        self.iperf3.append(wire_iperf3(self.lab, self.seconds))
        rate, *cpu = wire_blast(self.lab, self.seconds)
        self.blast.append(rate)
        self.cpu.append(cpu)

    def limit(self):
        """Gbit/s."""
        return max(statistics.median(self.iperf3), statistics.median(self.blast))

    def busier(self):
        """CPU seconds per GB of the blaster's busier side."""
        return statistics.median(max(sample) for sample in self.cpu)


# ------------------------------------------------------------------------------ godwit's own figures

def stages(source, target):
    """CPU seconds per GB of each side by stage, from the two "stats" objects. What a worker spends on
    neither reading, digesting nor writing is the transport and the loop: send on one side, receive on the
    other."""
    def split(stats, names, rest):
        gigabytes = max(stats.get('wire_bytes') or stats.get('data_bytes') or 0, 1) / 1e9
        parts = {name: stats.get(name + '_s', 0.0) / gigabytes for name in names}
        parts[rest] = max(stats.get('worker_cpu_s', 0.0) / gigabytes - sum(parts.values()), 0.0)
        parts['total'] = stats.get('worker_cpu_s', 0.0) / gigabytes
        return parts

    return {'source': split(source or {}, ('read', 'digest'), 'send'),
            'target': split(target or {}, ('digest', 'write'), 'receive')}


def median_stages(samples):
    """The median of each figure over several stages()."""
    return {side: {name: statistics.median(sample[side][name] for sample in samples)
                   for name in samples[0][side]} for side in samples[0]}


def busier(found):
    """CPU seconds per GB of the busier side: with one core a side, its inverse bounds the rate, and unlike
    the rate it says nothing of who else uses the machine."""
    return max(found[side]['total'] for side in found)


def stage_line(found):
    return '; '.join('%s %s' % (side, ' '.join('%s %.3f' % item for item in parts.items()))
                     for side, parts in found.items())


# ---------------------------------------------------------------------------------------- reports

class Report:
    """A table of medians and of ratios with their goals."""

    def __init__(self, title, options):
        self.title, self.options = title, options
        self.rows, self.ratios, self.notes = [], [], []
        self.cpu = {}

    def row(self, name, values, unit):
        """One contender: the median of its runs, and their spread."""
        values = list(values)
        self.rows.append({'name': name, 'median': statistics.median(values), 'min': min(values),
                          'max': max(values), 'runs': len(values), 'unit': unit})
        return self.rows[-1]['median']

    def ratio(self, name, value, goal, at_least=True):
        """at_least: the goal is a floor; else a ceiling. None: no goal, only a figure."""
        met = goal is None or (value >= goal if at_least else value <= goal)
        self.ratios.append({'name': name, 'value': value, 'goal': goal, 'at_least': at_least, 'met': met})

    def stages(self, name, found):
        self.cpu[name] = found

    def note(self, text):
        self.notes.append(text)

    def print(self):
        load = os.getloadavg()[0]
        if self.options.json:
            print(json.dumps({'title': self.title, 'rows': self.rows, 'ratios': self.ratios,
                              'cpu_s_per_gb': self.cpu, 'notes': self.notes, 'load': load}))
            return
        print('%s (%d rounds, load %.1f)' % (self.title, self.options.rounds, load))
        for row in self.rows:
            print('  %-34s %9.3f %-8s (%.3f .. %.3f)' % (row['name'], row['median'], row['unit'],
                                                         row['min'], row['max']))
        for ratio in self.ratios:
            goal = '' if ratio['goal'] is None else '%s %.2f %s' % (
                '>=' if ratio['at_least'] else '<=', ratio['goal'], 'met' if ratio['met'] else 'MISSED')
            print('  %-34s %9.2f %s' % (ratio['name'], ratio['value'], goal))
        for name, found in self.cpu.items():
            print('  CPU s/GB, %s: %s' % (name, stage_line(found)))
        for note in self.notes:
            print('  ' + note)


def interleave(rounds, contenders):
    """Runs each contender once a round; {name: [what it returned, ...]}. Every round begins with another one:
    whoever runs after one that freed much memory gets pages that a virtual machine's host need not give first."""
    found = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(contenders[name]())
    return found


def random_file(path, size_bytes, data_bytes):
    """A file of size_bytes whose first data_bytes are random; the rest is a hole."""
    with open(path, 'wb') as out, open('/dev/urandom', 'rb') as noise:
        block = noise.read(16 * MIB)
        stamp = 0
        while stamp * len(block) < data_bytes:
            # The same noise with another head in each page would be seen as equal by nothing here;
            # a rotation keeps every page different and costs no second.
            turn = (stamp * 4099) % len(block)
            piece = block[turn:] + block[:turn]
            out.write(piece[:min(len(piece), data_bytes - stamp * len(block))])
            stamp += 1
        out.truncate(size_bytes)
