# SPDX-License-Identifier: Apache-2.0
"""The harness of the scenarios: two hosts (network namespaces), an agent on each, a guest on the source,
moves, and what must hold afterwards. The scenarios themselves are elsewhere (scenario functions with
@scenario; run_main runs them by name).

Hosts are "a" (the source) and "b" (the target). They share this machine's file system but not their
folders; the target also has a /dev/shm of its own, so that what a failed move leaves there is seen.
Nothing of the verdict is godwit's: it is the guest's own check over its serial line.
"""
import contextlib
import itertools
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'guest'))
import guestctl  # noqa: E402 (its folder is known only now)
import guestimage  # noqa: E402
import hold  # noqa: E402
from processes import chardev_path, file_locks, open_files  # noqa: E402

ADDRESSES = {'a': '10.77.0.1', 'b': '10.77.0.2'}
NETWORK = '10.77.0.0/16'
MIB = guestctl.MIB
PATIENCE_S = 90  # for what must come true: this machine may have much else to do
SLOW_MBIT = 40   # a phase lasts for long on such a wire
EXIT = {'done': 0, 'failed': 1, 'usage': 2, 'blocked': 3, 'in doubt': 4, 'verify': 5}


class Failure(AssertionError):
    """What a scenario found wrong."""


class Skip(Exception):
    """A scenario that this machine has not the means for."""


def check(condition, message, *values):
    if not condition:
        raise Failure(message % values if values else message)


def godwit_binary():
    found = [os.environ.get('GODWIT_BIN')] if os.environ.get('GODWIT_BIN') else [
        os.path.join(ROOT, 'build', folder, 'cli', 'godwit') for folder in ('', 'check/release')]
    for path in found:
        if os.path.exists(path):
            return path
    raise Skip('godwit is not built: set GODWIT_BIN')


def need_means():
    """Raises Skip where the machine cannot run scenarios at all."""
    if os.geteuid() != 0:
        raise Skip('network namespaces need root')
    for tool in ('ip', 'qemu-system-x86_64', 'qemu-img', 'sysctl'):
        if not shutil.which(tool):
            raise Skip('%s is missing: scripts/deps test' % tool)


class Result:
    """How a command ended: its exit status, its JSON lines, what it said on stderr."""

    def __init__(self, command, status, events, errors):
        self.command, self.status, self.events, self.errors = command, status, events, errors
        ended = [event for event in events if event.get('event') == 'ended']
        self.ended = ended[-1] if ended else {}
        self.detail = self.ended.get('detail') or {}
        self.progress = self.ended.get('progress') or {}
        self.error = self.ended.get('error') or errors.strip()

    def expect(self, name):
        check(self.status in [EXIT[one] for one in name.split('|')], '%s: exit status %d, expected %s: %s',
              os.path.basename(self.command[0]), self.status, name, self.error)
        return self


class Command:
    """A running godwit command with --json; its events can be waited for."""

    def __init__(self, command, environment):
        self.command = command
        self.events = []
        self.new_events = queue.Queue()
        self.error_file = tempfile.TemporaryFile(mode='w+')
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.error_file, text=True,
                                        start_new_session=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {'event': 'text', 'text': line.strip()}
            self.events.append(event)
            self.new_events.put(event)
        self.new_events.put(None)

    def wait_event(self, wanted, timeout=PATIENCE_S):
        """The first event for which wanted(event) is true; None when the command ended before."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                event = self.new_events.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                raise Failure('%s: no such event within %g s' % (self.command[1], timeout)) from None
            if event is None or wanted(event):
                return event

    def result(self, timeout=240):
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            raise Failure('%s did not end within %g s' % (' '.join(self.command[1:3]), timeout)) \
                from None
        self.reader.join(PATIENCE_S)
        self.error_file.seek(0)
        return Result(self.command, status, self.events, self.error_file.read())

    def end(self):
        guestctl.end_process(self.process.pid, child=self.process)


class Host:
    """One side: its folders, its network namespace, its agent."""

    def __init__(self, world, side):
        self.world, self.side = world, side
        self.address = ADDRESSES[side]
        self.namespace = '%s-%s' % (world.name, side)
        self.folder = os.path.join(world.folder, side)
        self.storage = os.path.join(self.folder, 'storage')
        self.state = os.path.join(self.folder, 'state')
        self.socket = os.path.join(self.folder, 'agent.sock')
        self.log = os.path.join(self.folder, 'agent.log')
        self.agent = None
        self.extra = ()
        self.holder = hold.Holder() if side in world.options['held'] else None
        for folder in (self.storage, self.state):
            os.makedirs(folder)

    def environment(self):
        return dict(os.environ, GODWIT_SOCKET=self.socket, GODWIT_STATE_HOME=self.state)

    def enter(self):
        return ['ip', 'netns', 'exec', self.namespace]

    def start_agent(self, *extra, timeout=PATIENCE_S):
        """godwit agent, until it says that it is ready; started again, with the same options."""
        self.extra = extra = extra or self.extra
        ready, written = os.pipe()
        words = self.enter()
        if self.side == 'b':
            words += ['sh', '-c', 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', 'sh']
        handed = [written]
        if self.holder:
            launcher, connection = self.holder.launcher()
            words += launcher
            handed.append(connection.fileno())
        words += [godwit_binary(), 'agent', '--listen', self.address, '--psk', self.world.psk,
                  '--storage', self.storage, '--state', self.state, '--socket', self.socket,
                  '--ready-fd', str(written)]
        if self.world.is_trusted:
            words += ['--trusted-network', NETWORK]
        if self.holder:
            words += ['--verbose', '--verbose']
        with open(self.log, 'ab') as log:
            self.agent = subprocess.Popen(words + list(extra), env=self.environment(), stdout=log,
                                          stdin=subprocess.DEVNULL, stderr=log, pass_fds=handed,
                                          start_new_session=True)
        if self.holder:
            connection.close()
        os.close(written)
        with os.fdopen(ready, 'rb') as pipe:
            answered = []
            reader = threading.Thread(target=lambda: answered.append(pipe.readline()), daemon=True)
            reader.start()
            reader.join(timeout)
            is_ready = bool(answered and answered[0])
            if not is_ready:
                guestctl.end_process(self.agent.pid, child=self.agent)
        check(is_ready and self.agent.poll() is None, 'agent %s did not start:\n%s', self.side,
              self.agent_log()[-4000:])
        return self

    def hold(self, place):
        """The move that comes to this place next stops there: a phase ('memory') of the source, or a
        state ('STOPPED') of this host's side, before anything is done in it. Needs 'held'."""
        self.holder.hold(r': phase %s$' % place if place.islower() else
                         r': (source|target) is %s$' % place)

    def await_held(self, place, move=None, timeout=PATIENCE_S):
        check(self.holder.wait(timeout), '%s was not reached on host %s; the move: %s', place, self.side,
              move and move.events[-1:])

    def release(self):
        self.holder.release()

    def go_on_to(self, place, move=None):
        """From where it is held to the next place on this host."""
        self.hold(place)
        self.holder.release(forget=False)
        self.await_held(place, move)

    def stop_agent(self, kill=False):
        if not self.agent:
            return
        if kill:
            self.agent.kill()
        guestctl.end_process(self.agent.pid, child=self.agent)
        self.agent = None

    def agent_log(self):
        if not os.path.exists(self.log):
            return ''
        with open(self.log, errors='replace') as handle:
            return handle.read()

    def wait_log(self, words, timeout=PATIENCE_S):
        guestctl.wait_for(lambda: words in self.agent_log(), timeout,
                          '%r in the log of agent %s' % (words, self.side), 0.1)

    def command(self, name, *words):
        """Starts a godwit command with --json on this host."""
        return Command(self.enter() + [godwit_binary(), name, '--json'] + list(words),
                       self.environment())

    def running_job(self):
        """The number of the one job that runs in this host's agent."""
        answer = self.command('status').result()
        [agent] = answer.events[-1]['agents']
        jobs = [job['job'] for job in agent['jobs'] if job['state'] == 'running']
        check(len(jobs) == 1, '%d jobs run: %s', len(jobs), agent['jobs'])
        return jobs[0]

    def wait_history(self, exit_code=None, timeout=PATIENCE_S):
        """This host's one entry of history, once it has ended (with this code): a target may still be
        tidying up when the source's command is done."""
        def entries():
            return self.command('history').result().events[-1]['history']
        guestctl.wait_for(lambda: all(one['state'] == 'ended' and exit_code in (None, one['exit_code'])
                                      for one in entries()), timeout,
                          'the end of what runs on host %s' % self.side, 0.3)
        found = entries()
        check(len(found) == 1, 'not one entry in the history of host %s: %s', self.side, found)
        return found[0]

    def processes(self):
        """(pid, words) of everything that runs in this host's namespace."""
        answer = subprocess.run(['ip', 'netns', 'pids', self.namespace], capture_output=True,
                                text=True, check=False)
        found = []
        for pid in map(int, answer.stdout.split()):
            try:
                with open('/proc/%d/cmdline' % pid, 'rb') as handle:
                    found.append((pid, handle.read().decode(errors='replace').split('\0')[:-1]))
            except OSError:
                continue
        return found

    def qemus(self):
        return [(pid, words) for pid, words in self.processes()
                if words and 'qemu-system' in os.path.basename(words[0])]

    def shared_memory_files(self):
        """What lies in the /dev/shm that this host's agent sees."""
        if not self.agent or self.side == 'a':
            return []
        return sorted(os.listdir('/proc/%d/root/dev/shm' % self.agent.pid))

    def inside(self, *command, check=True):
        """Runs a command in this host's namespace; what it printed."""
        return subprocess.run(self.enter() + list(command), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, check=check).stdout

    def limit_rate(self, mbit=None):
        """This host's wire carries no more than this; None lifts the limit."""
        if mbit is None:
            self.inside('tc', 'qdisc', 'del', 'dev', 'wire0', 'root', check=False)
        else:
            self.inside('tc', 'qdisc', 'replace', 'dev', 'wire0', 'root', 'tbf', 'rate',
                        '%dmbit' % mbit, 'burst', '256kb', 'latency', '50ms')

    def set_link(self, state):
        self.inside('ip', 'link', 'set', 'wire0', state)

    def connections(self):
        """The local ports of this host's established connections to the other's agent."""
        text = self.inside('ss', '-Htn', 'state', 'established', 'dport', '=', ':13560')
        return [int(line.split()[2].rpartition(':')[2]) for line in text.splitlines()]

    def cut_connection(self, port):
        self.inside('ss', '-K', 'sport', '=', ':%d' % port)

    def state_files(self):
        """What lies in the state folder, without the databases' own companions."""
        return sorted(os.path.relpath(os.path.join(at, name), self.state)
                      for at, _, names in os.walk(self.state) for name in names
                      if not name.endswith(('-wal', '-shm', '-journal')))

    def socket_folders(self):
        """Those of the moves that this host's log names."""
        found = {'/tmp/godwit-' + epoch for epoch in
                 re.findall(r'\b([0-9a-f]{12})(?:[0-9a-f]{20})?\b', self.agent_log())}
        return sorted(filter(os.path.exists, found))

    def storage_files(self):
        return sorted(os.path.relpath(os.path.join(at, name), self.storage)
                      for at, _, names in os.walk(self.storage) for name in names)


class World:
    """Both hosts and the guest; a context manager that leaves nothing behind.

    options: trusted (clear data where both sides trust the network), pairs (wires), machine,
    memory_mib, image_format, fixed, disk_count, disk_mib, fill_mib, disk (dict for guestctl: cache,
    iothread), guest (dict for guestctl.Guest), workload (dict for guestimage.make_image), held (sides
    whose agents can be stopped at a place: Host.hold)."""

    def __init__(self, **options):
        self.options = {'trusted': False, 'pairs': 1, 'machine': 'pc', 'memory_mib': 256,
                        'image_format': 'raw', 'fixed': False, 'disk_count': 1, 'disk_mib': 256,
                        'fill_mib': 32, 'disk': {}, 'guest': {}, 'workload': {}, 'held': ''}
        unknown = set(options) - set(self.options)
        if unknown:
            raise TypeError('unknown options: %s' % ', '.join(sorted(unknown)))
        self.options.update(options)
        self.is_trusted = self.options['trusted']
        prefix = os.environ.get('GODWIT_NETNS_PREFIX', 'gw%d' % os.getpid())
        self.name = '%s-%x' % (prefix, time.monotonic_ns() & 0xffffff)
        self.folder = None
        self.guest = None
        self.moved_serial = None
        self.fewest_sockets = {}  # of a QEMU, by its process
        self.moved_pid = None
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        need_means()
        try:
            self.folder = tempfile.mkdtemp(prefix='godwit-scenario-')
            self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.stack.callback(self.run_netns, 'down')
            self.run_netns('up', '--pairs', str(self.options['pairs']))
            self.hosts = {side: Host(self, side) for side in 'ab'}
            self.source, self.target = self.hosts['a'], self.hosts['b']
            self.psk = os.path.join(self.folder, 'lab.psk')
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and not isinstance(error, Skip):
            self.print_logs()
        self.stack.close()

    def run_netns(self, what, *more):
        subprocess.run([os.path.join(ROOT, 'scripts', 'netns'), what, self.name] + list(more),
                       check=what == 'up')

    def print_logs(self):
        for host in self.hosts.values():
            if host.agent_log():
                print('--- agent %s\n%s' % (host.side, host.agent_log()[-6000:]))
        if self.guest and os.path.exists(self.guest.serial.log_path):
            print('--- guest\n%s' % '\n'.join(map(str, self.guest.serial.lines()[-8:])))

    # -------------------------------------------------------------------------------- setting up

    def make_key(self):
        with open(self.psk, 'w') as handle:
            subprocess.run([godwit_binary(), 'key', 'lab'], stdout=handle, check=True)
        os.chmod(self.psk, 0o600)

    def start_agents(self, source=(), target=()):
        self.make_key()
        for host, extra in ((self.source, source), (self.target, target)):
            self.stack.callback(host.stop_agent)
            host.start_agent(*extra)

    def make_disks(self):
        """The guest's images in the source's storage folder; what guestctl wants to know of them."""
        o = self.options
        size = o['disk_mib'] * MIB
        workload = {'seed': 11, 'span_mib': o['memory_mib'] * 3 // 4, 'pages_per_tick': 200,
                    'writes_per_tick': 20, 'reads_per_tick': 4,
                    'write_range_mib': min(64, o['disk_mib'] // 4)}
        workload.update(o['workload'])
        disks = []
        for index in range(o['disk_count']):
            path = os.path.join(self.source.storage, 'web1-%d.%s' % (index, o['image_format']))
            if index == 0:
                guestimage.make_image(path, size, o['image_format'], o['fixed'],
                                      os.environ.get('GODWIT_GUEST_BOOT'), o['fill_mib'],
                                      size if o['disk_count'] > 1 else None, **workload)
            else:
                guestimage.make_data_image(path, size, o['image_format'], o['fixed'], o['fill_mib'])
            disks.append(dict(o['disk'], path=path, format=o['image_format']))
        return disks

    def loop_device(self, backing, sector=512):
        """A loop device of that file, for as long as the world is there; or a skip."""
        answer = subprocess.run(['losetup', '--find', '--show', '--sector-size', str(sector), backing],
                                capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise Skip('no loop device here: %s' % answer.stderr.strip())
        device = answer.stdout.strip()
        self.stack.callback(subprocess.run, ['losetup', '-d', device], check=False)
        return device

    def start_guest(self):
        """The guest on the source, filled and ticking."""
        self.guest = guestctl.Guest(os.path.join(self.source.folder, 'guest'), name='web1',
                                    machine=self.options['machine'], disks=self.make_disks(),
                                    memory_mib=self.options['memory_mib'],
                                    netns=self.source.namespace, **self.options['guest'])
        self.stack.callback(self.guest.stop)
        self.guest.start()
        self.guest.wait_ready()
        self.guest.serial.wait_tick()
        return self.guest

    # ------------------------------------------------------------------------------------ moving

    def start_move(self, *extra):
        words = ['--psk', self.psk, '--qmp', self.guest.qmp_path, '--to', self.target.address]
        if self.is_trusted:
            words += ['--trusted-network', NETWORK]
        move = self.source.command('move', *words, *extra)
        self.stack.callback(move.end)
        return move

    def move(self, *extra, timeout=240):
        return self.start_move(*extra).result(timeout)

    def go_to(self, phase, *extra, mbit=SLOW_MBIT):
        """A move that has come to this phase and stays in it for long, on a slow wire; who lifts the
        limit lets it go on. It was held there, so that the phase is not missed. Needs 'held': 'a'."""
        self.source.hold(phase)
        move = self.start_move('--progress', *extra)
        self.source.await_held(phase, move)
        self.source.limit_rate(mbit)
        self.source.release()
        return move

    def cancel(self):
        """The source's running job."""
        answer = self.source.command('cancel', self.source.running_job()).result()
        check(answer.status == 0, 'cancel ended with %d: %s', answer.status, answer.errors)

    def moved_guest(self):
        """The serial line of the guest where it is now: the socket that the result names, or the one
        on the command line of the QEMU in the target's namespace."""
        if self.moved_serial:
            return self.moved_serial
        qemus = self.target.qemus()
        check(len(qemus) == 1, 'the target runs %d QEMUs, expected one', len(qemus))
        self.moved_pid, words = qemus[0]
        path = chardev_path(words, 'serial0')
        check(path, 'the moved QEMU has no serial socket: %s', ' '.join(words))
        self.moved_serial = guestctl.Serial(self.target.folder, path, 'moved')
        self.stack.callback(self.moved_serial.stop)
        self.moved_serial.start()
        return self.moved_serial

    # ---------------------------------------------------------------------------------- verdicts

    def assert_moved(self, wait=2):
        """The same guest goes on at the target, nothing is lost, and the source's QEMU is gone."""
        before = max((numbers['n'] for kind, numbers in self.guest.serial.lines() if kind == 'TICK'),
                     default=0)
        serial = self.moved_guest()
        tick = serial.wait_tick(least=before + wait)
        check(tick['bad'] == 0, 'the guest found %d faults by itself', tick['bad'])
        is_good, numbers, faults = serial.verify(120)
        check(is_good, 'the guest\'s own check failed: %s', faults[:3])
        check(serial.boots() == 0, 'the guest was booted again on the target')
        guestctl.wait_for(lambda: not self.guest.is_running(), PATIENCE_S, 'the end of the source\'s QEMU')
        check(self.target.storage_files(), 'the target\'s storage is empty')
        return numbers

    def assert_refused(self, result, name, *words):
        """The command ended with the exit code of this name, and with one line of error that holds
        all these words (each a regular expression)."""
        result.expect(name)
        check(result.error, 'no error was told')
        check('\n' not in result.error.strip(), 'not one line: %r', result.error)
        for word in words:
            check(re.search(word, result.error), 'the error does not say %r: %s', word, result.error)

    def source_state(self):
        """All of the source's QEMU that godwit touches during a move."""
        guest = self.guest
        nodes = guest.qmp('query-named-block-nodes', flat=True)
        return {
            'qemu nodes': sorted((node['node-name'], node['drv'], node['file'],
                             tuple(bitmap.get('name') for bitmap in node.get('dirty-bitmaps', [])))
                            for node in nodes),
            'qemu exports': guest.qmp('query-block-exports'),
            'qemu drives': sorted((block.get('qdev', ''), block.get('inserted', {}).get('node-name', ''))
                             for block in guest.qmp('query-block')),
            'qemu jobs': guest.qmp('query-jobs'),
            'qemu capabilities': sorted(one['capability'] for one
                                   in guest.qmp('query-migrate-capabilities') if one['state']),
            'qemu bandwidth': guest.qmp('query-migrate-parameters')['max-bandwidth'],
            'qemu announce': guest.qmp('query-migrate-parameters')['announce-rounds'],
            'qemu objects': sorted(one['name'] for one in guest.qmp('qom-list', path='/objects')),
            # What QEMU calls a paused guest once its state has been saved, until it goes on.
            'qemu status': guest.qmp('query-status')['status'].replace('postmigrate', 'paused'),
        }

    def listing(self):
        """Everything on both hosts that a move makes or changes, seen from outside: QEMU's block nodes,
        bitmaps, exports, jobs, capabilities and parameters; descriptors and locks of QEMU and of the
        agents; processes; files below storage, state and RAM folders. Seen twice the same: a monitor
        that was just left, say, is gone a little later."""
        deadline = time.monotonic() + PATIENCE_S
        found, before = self.look(), None
        while found != before and time.monotonic() < deadline:
            time.sleep(0.1)
            found, before = self.look(), found
        return found

    def look(self):
        found = {}
        if self.guest and self.guest.is_running():
            found = self.source_state()
            found['qemu parameters'] = self.guest.qmp('query-migrate-parameters')
            found['qemu files'] = self.vmm_files()
            found['qemu locks'] = file_locks(self.guest.pid)
            # Devices of a guest that stands still have given theirs up.
            if found['qemu status'] != 'running':
                found['qemu files'].pop('anon_inode:[eventfd]', None)
        found['a sockets'] = self.source.socket_folders()
        for host in self.hosts.values():
            words = [[os.path.basename(one[0])] + one[1:2] for _, one in host.processes()
                     if one and host.agent and 'ip' != os.path.basename(one[0])]
            found[host.side + ' processes'] = sorted(map(' '.join, words))
            found[host.side + ' storage'] = host.storage_files()
            found[host.side + ' state'] = host.state_files()
            found[host.side + ' memory'] = host.shared_memory_files()
            if host.agent:
                found[host.side + ' agent files'] = open_files(host.agent.pid)
                # One for each job that status still shows.
                found[host.side + ' agent files'].pop('anon_inode:[eventfd]', None)
                found[host.side + ' agent locks'] = file_locks(host.agent.pid)
        return found

    def vmm_files(self):
        """Of the source's QEMU. The monitor that a question was just asked on is closed by QEMU when it
        gets round to it, which takes seconds on a machine that is busy enough: the least of several looks counts,
        of more of them where there were fewer sockets before."""
        looks, pid = [], self.guest.pid
        while len(looks) < 5 or (len(looks) < 50 and looks[-1].get('socket', 0) > self.fewest_sockets.get(pid, 99)):
            looks.append(open_files(pid))
            time.sleep(0.1)
        least = min(look.get('socket', 0) for look in looks)
        self.fewest_sockets[pid] = min(least, self.fewest_sockets.get(pid, least))
        return dict(looks[-1], socket=least)

    def assert_listing(self, before, timeout=PATIENCE_S, files=(), changed=None):
        """listing() is as before, but for these files in the target's storage, which others put
        there, and what else was changed on purpose: a failed move left nothing. Of a QEMU that has ended
        since nothing is expected."""
        wanted = dict(before, **(changed or {}))
        wanted['b storage'] = sorted(wanted['b storage'] + list(files))

        def changes():
            after = self.look()
            if wanted.get('qemu status') != 'running' and 'qemu files' in wanted:
                wanted['qemu files'] = {name: count for name, count in wanted['qemu files'].items()
                                        if name != 'anon_inode:[eventfd]'}
            if 'qemu files' in wanted and 'qemu files' not in after:
                for name in [name for name in wanted if name.startswith('qemu')]:
                    del wanted[name]
                wanted['a processes'] = [one for one in wanted['a processes'] if not one.startswith('qemu-system')]
            # Such a monitor may have been open before, on a machine that is busy enough.
            elif 'qemu files' in wanted and after['qemu files']['socket'] < wanted['qemu files']['socket']:
                after['qemu files']['socket'] = wanted['qemu files']['socket']
            return {name: ('before', wanted.get(name), 'after', after.get(name))
                    for name in set(wanted) | set(after) if wanted.get(name) != after.get(name)}
        deadline = time.monotonic() + timeout
        while found := changes():
            check(time.monotonic() < deadline, 'the failed move left something: %s', found)
            time.sleep(0.3)

    def assert_source_clean(self, before, timeout=PATIENCE_S):
        """The source's QEMU is as it was before the move (a listing, or a source_state), and so is its
        storage: for a moment at which the target cannot be clean yet."""
        def changes():
            after = self.source_state()
            return {name: ('before', before[name], 'after', value) for name, value in after.items()
                    if before[name] != value}
        try:
            guestctl.wait_for(lambda: not changes(), timeout, 'a clean source', 0.2)
        except guestctl.GuestError:
            raise Failure('the source\'s QEMU is not as before: %s' % changes()) from None
        names = [name for name in self.source.storage_files() if '.godwit-' in name]
        check(not names, 'the source\'s storage keeps %s', names)

    def assert_still_on_source(self, ticks=18):
        """The guest runs on the source, writes its disk, and has lost nothing."""
        check(self.guest.is_running(), 'the source\'s QEMU is gone')
        first = self.guest.serial.wait_tick()
        later = self.guest.serial.wait_tick(least=first['n'] + ticks)
        check(later['bad'] == 0, 'the guest found %d faults by itself', later['bad'])
        is_good, _, faults = self.guest.serial.verify(120)
        check(is_good, 'the guest\'s own check failed: %s', faults[:3])
        check(self.guest.serial.boots() == 1, 'the guest was booted again')

    def assert_nothing_happened(self, before, files=()):
        """What a failed move leaves: the guest on the source, whole, and everything else as before (a
        listing), but for these files that others put into the target's storage."""
        self.assert_still_on_source()
        self.assert_listing(before, files=files)

    def assert_no_debris(self, timeout=PATIENCE_S, files=(), keeps_logs=False):
        """The target has no QEMU, no files but these, and no RAM left after a failure. keeps_logs: after a VM that
        ran there, whose console's log is its owner's."""
        def sockets():
            for folder, _, names in os.walk(os.path.join(self.target.state, 'vm')):
                if folder != os.path.join(self.target.state, 'vm'):
                    logs = [one for one in names if one.endswith('.log')] if keeps_logs else []
                    yield from sorted(set(names) - set(logs)) if logs else [folder]

        def left():
            return {'processes': [' '.join(words)[:80] for _, words in self.target.qemus()],
                    'storage': [f for f in self.target.storage_files() if f not in files],
                    'sockets': list(sockets()),
                    'shared memory': self.target.shared_memory_files()}
        try:
            guestctl.wait_for(lambda: not any(left().values()), timeout, 'a clean target', 0.2)
        except guestctl.GuestError:
            raise Failure('debris on the target: %s' % left()) from None

    def assert_same_disks(self):
        """The source's renamed images equal the target's: for a guest that was quiet while it moved.
        Compared by qemu-img with the target's QEMU stopped."""
        for pid, _ in self.target.qemus():
            guestctl.end_process(pid)
        image_format = self.options['image_format']
        for disk in self.guest.options['disks']:
            folder, name = os.path.split(disk['path'])
            renamed = [one for one in os.listdir(folder) if one.startswith(name + '.godwit-')]
            check(len(renamed) == 1, '%s: %d renamed images', name, len(renamed))
            answer = subprocess.run(
                ['qemu-img', 'compare', '-f', image_format, '-F', image_format,
                 os.path.join(folder, renamed[0]), os.path.join(self.target.storage, name)],
                capture_output=True, text=True, check=False)
            check(answer.returncode == 0, '%s: %s', name, answer.stdout + answer.stderr)


class Prepared:
    """Something with a world that prepare() fills: what fails there ends the world."""

    def __enter__(self):
        self.world.__enter__()
        try:
            self.prepare()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error):
        return self.world.__exit__(*error)


# --------------------------------------------------------------------------------------- running

SCENARIOS = {}
SAMPLES = {}


def scenario(timeout=400, sample=None, **axes):
    """Registers a function as a scenario. With axes, one scenario for each element of their product:
    @scenario(machine=['pc', 'q35'], image=['raw', 'vhdx']) gives name[pc,raw] and so on. sample: how
    many of them a run that is no whole run takes."""
    def register(function):
        SAMPLES[function.__name__] = sample
        names = sorted(axes)
        # One that another module lends its helpers to is not run twice.
        if function.__module__ != '__main__':
            return function
        for values in itertools.product(*(axes[name] for name in names)):
            label = '[%s]' % ','.join(str(value) for value in values) if axes else ''
            SCENARIOS[function.__name__ + label] = (function, dict(zip(names, values)), timeout,
                                                    function.__name__)
        return function
    return register


def draw(names, size, generator):
    """size of these scenarios: as few as it takes until every value of every axis is in, which come
    first; then any."""
    order = generator.sample(names, len(names))
    chosen, seen = [], set()

    def values(name):
        return set(SCENARIOS[name][1].items())

    while order and len(chosen) < size:
        best = max(order, key=lambda name: len(values(name) - seen))
        order.remove(best)
        chosen.append(best)
        seen |= values(best)
        if not any(values(name) - seen for name in order):
            break
    return sorted(chosen + order[:size - len(chosen)])


def choose(sample_size, seed):
    """Every scenario, but of each product at most sample_size (or its own sample), drawn by seed (0:
    all). Each value of each axis is among them where the size allows it."""
    groups = {}
    for name, entry in SCENARIOS.items():
        if entry[0].__module__ == '__main__':  # and not of a file that lends its helpers
            groups.setdefault(entry[3], []).append(name)
    chosen = []
    for group, names in groups.items():
        size = sample_size and (SAMPLES.get(group) or sample_size)
        if size and len(names) > size:
            names = draw(names, size, random.Random('%s %s' % (seed, group)))
        chosen += names
    return chosen


def run_one(name):
    """Runs one scenario under its time limit and prints its line; 'PASS', 'FAIL' or 'SKIP'."""
    function, values, timeout, _ = SCENARIOS[name]

    def too_late(number, frame):
        raise Failure('ran out of its %d s' % timeout)

    began = time.monotonic()
    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(timeout)
    try:
        function(**values)
        verdict, text = 'PASS', ''
    except Skip as skip:
        verdict, text = 'SKIP', ': ' + str(skip)
    except Exception as error:  # whatever a scenario stumbles over is its failure
        verdict, text = 'FAIL', ': ' + str(error)
        traceback.print_exc(file=sys.stdout)
    finally:
        signal.alarm(0)
    print('%s: %s%s (%.1f s)' % (verdict, name, text, time.monotonic() - began), flush=True)
    return verdict


def run_main(arguments=None, at_most=None):
    """--list, names of scenarios (or of their functions), or all of them: of each product a sample of
    4 drawn by GODWIT_SEED, and of the file so many at most; the whole with GODWIT_CHECK_ALL=1 or --all."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if '--list' in arguments:
        print('\n'.join(SCENARIOS))
        return 0
    is_whole = '--all' in arguments or bool(os.environ.get('GODWIT_CHECK_ALL'))
    seed = os.environ.get('GODWIT_SEED', '1')
    wanted = [word for word in arguments if not word.startswith('--')]
    if wanted:
        names = [name for name, entry in SCENARIOS.items() if name in wanted or entry[3] in wanted]
    else:
        names = choose(0 if is_whole else 4, seed)
        if at_most and not is_whole and len(names) > at_most:
            drawn = set(random.Random('%s of %d' % (seed, at_most)).sample(names, at_most))
            names = [name for name in names if name in drawn]
        print('scenarios: %d of %d, seed %s' % (len(names), len(SCENARIOS), seed), flush=True)
    if not names:
        print('FAIL: no scenario of that name')
        return 1
    # Ended from outside, a world still clears up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    verdicts = [run_one(name) for name in names]
    if 'FAIL' in verdicts:
        return 1
    return 0 if 'PASS' in verdicts else 77
