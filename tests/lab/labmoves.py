# SPDX-License-Identifier: Apache-2.0
"""Two hosts of the lab with an agent each and a guest that checks itself: what tests of moves over RDMA
share. A test is one file that runs on both sides: in this machine it boots the lab and asks, in a host it
is started as "FILE inside WHAT WORDS" (run_main): each function inside_WHAT, here or in the test, does one
thing and prints one JSON object. As a host takes seconds to start Python, one process there waits for what
is asked, and does each thing in a copy of itself (serve).
"""
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get('GODWIT_BIN', os.path.join(ROOT, 'build', 'cli', 'godwit'))
BOOT = os.environ.get('GODWIT_GUEST_BOOT', os.path.join(ROOT, 'build/tests/guest/guest.bin'))
sys.dont_write_bytecode = True
for folder in ('scripts/lab.d', 'tests/guest', 'tests/scenario'):
    sys.path.insert(0, os.path.join(ROOT, folder))

NETWORK = '10.99.0.0/16'
KEY = '/run/lab/lab.psk'
HOLD_SOCKET = '/run/hold.sock'
ASKS = '/run/asks'
SKIP = 77
LEFT_WAIT_S = 90  # until what is over is tidied up


def say(text):
    print(text, flush=True)


def check(condition, text, *values):
    if not condition:
        sys.exit(text % values)


# ------------------------------------------------------------------------------- in a host of the lab

def check_lab():
    """What a test does in a host it must not do elsewhere: it ends every QEMU, say, and empties /dev/shm."""
    with open('/proc/mounts') as handle:
        kinds = {line.split()[1]: line.split()[2] for line in handle}
    if kinds.get('/run/lab') != '9p' or 'LAB_HOST' not in os.environ:
        sys.exit('only for a host of the lab (scripts/lab): it would do harm to any other machine')


def godwit(*words, expected=0):
    """Runs a command to its end; its last JSON object."""
    answer = subprocess.run([BINARY, *words], capture_output=True, text=True, check=False)
    if answer.returncode != expected:
        sys.exit('godwit %s: status %d\n%s%s' % (words[0], answer.returncode, answer.stderr[-3000:],
                                                  answer.stdout[-3000:]))
    return [json.loads(line) for line in answer.stdout.splitlines() if line.startswith('{')][-1]


def inside_agent(*words):
    """This host's agent, until it ends. Its log can be held (tests/scenario/hold.py): the functions
    beneath ask this process to."""
    import hold
    holder = hold.Holder()
    launcher, connection = holder.launcher()
    os.makedirs('/tmp/storage', exist_ok=True)
    agent = subprocess.Popen(
        launcher + [BINARY, 'agent', '--psk', KEY, '--storage', '/tmp/storage', '--state', '/tmp/state',
                    '--socket', '/run/godwit.sock', '--allow-volatile-state', '--verbose', '--verbose', *words],
        pass_fds=[connection.fileno()])
    connection.close()
    with open('/run/agent.pid', 'w') as handle:
        handle.write(str(agent.pid))
    server = socket.socket(socket.AF_UNIX)
    server.bind(HOLD_SOCKET)
    server.listen()
    threading.Thread(target=obey, args=(server, holder), daemon=True).start()
    status = agent.wait()
    os.unlink(HOLD_SOCKET)
    sys.exit(status)


def obey(server, holder):
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile('rw') as lines:
            words = json.loads(lines.readline())
            answer = True
            if words[0] == 'hold':
                holder.hold(words[1])
            elif words[0] == 'wait':
                answer = holder.wait(float(words[1]))
            else:
                holder.release(forget=words[0] == 'release')
            lines.write(json.dumps({'answer': answer}) + '\n')


def ask_holder(*words):
    """hold PATTERN, wait SECONDS, release, or go-on PATTERN: releases and holds the next such line."""
    if words[0] == 'go-on':
        ask_holder('hold', words[1])
        words = ['go']
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(HOLD_SOCKET)
        with connection.makefile('rw') as lines:
            lines.write(json.dumps(words) + '\n')
            lines.flush()
            return json.loads(lines.readline())['answer']


def inside_holder(*words):
    print(json.dumps({'answer': ask_holder(*words)}))


def inside_guest(options='{}'):
    """Starts the guest, which fills its memory, and leaves it running. options: memory_mib, disk_mib,
    fill_mib (data on the disk), span_mib (of memory that is written), name, qemu (more for guestctl.Guest), extra (for
    QEMU's command line). Its monitor that godwit does not use is "beside"."""
    import guestctl
    import guestimage
    wanted = dict({'memory_mib': 96, 'disk_mib': 32, 'fill_mib': 2, 'name': 'web1', 'extra': [], 'qemu': {}},
                  **json.loads(options))
    os.makedirs('/tmp/vm/disks', exist_ok=True)
    path = '/tmp/vm/disks/%s.vhdx' % wanted['name']
    guestimage.make_image(path, wanted['disk_mib'] << 20, 'vhdx', False, BOOT, wanted['fill_mib'], None, seed=11,
                          span_mib=wanted.get('span_mib', wanted['memory_mib'] // 2), pages_per_tick=10,
                          writes_per_tick=2, reads_per_tick=1, write_start_mib=2,
                          write_range_mib=min(8, wanted['disk_mib'] // 4))
    guest = guestctl.Guest('/tmp/vm/' + wanted['name'], name=wanted['name'], memory_mib=wanted['memory_mib'],
                           disks=[{'path': path, 'format': 'vhdx'}], **wanted['qemu'])
    beside = os.path.join(guest.folder, 'beside')
    guest.options['extra'] = wanted['extra'] + ['-chardev', 'socket,id=beside,server=on,wait=off,path=' + beside,
                                                '-mon', 'chardev=beside,mode=control']
    guest.start()
    # One emulated processor for all: what moves the guest goes first.
    os.setpriority(os.PRIO_PROCESS, guest.pid, 15)
    guest.wait_ready(200)
    guest.serial.wait_tick(120)
    print(json.dumps({'qmp': guest.qmp_path, 'serial': guest.serial_path, 'beside': beside}))


def inside_resize(path, mib):
    """Has the guest of this monitor's QEMU give pages to its balloon, or take them back, until it has so much."""
    import guestctl
    wanted = int(mib) << 20
    guestctl.qmp(path, 'balloon', value=wanted)
    guestctl.wait_for(lambda: guestctl.qmp(path, 'query-balloon')['actual'] == wanted, 200, 'the balloon')
    print('{}')


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


def move_line(qmp, to, *more):
    return ['move', '--json', '--psk', KEY, '--qmp', qmp, '--to', to, '--tracker', 'softdirty', '--max-pause', '4000',
            '--no-throttle', *more]


def inside_move(qmp, to, *more):
    """A move, which must succeed; what the command printed last."""
    print(json.dumps(godwit(*move_line(qmp, to, *more))))


def digest(path):
    """SHA-256 of what is in an image, by qemu-img."""
    raw = '/tmp/digest.raw'
    subprocess.run(['qemu-img', 'convert', '-O', 'raw', path, raw], check=True)
    with open(raw, 'rb') as handle:
        value = hashlib.file_digest(handle, 'sha256').hexdigest()
    os.unlink(raw)
    return value


def inside_digest(path):
    print(json.dumps({'digest': digest(path)}))


def inside_copy(*words):
    print(json.dumps(godwit('copy', '--json', '--psk', KEY, *words)))


def inside_progress(kind):
    """What this host's agent says of its newest job of that kind (move, serve)."""
    [agent] = godwit('status', '--json')['agents']
    jobs = [job for job in agent['jobs'] if job['kind'] == kind]
    print(json.dumps(max(jobs, key=lambda job: job['submitted_ms'])['progress']))


def inside_regions():
    """The numbers of the memory regions that are registered; no two have the same one after the other."""
    answer = subprocess.run(['rdma', '-j', 'resource', 'show', 'mr'], capture_output=True, text=True, check=True)
    print(json.dumps({'regions': [one['mrn'] for one in json.loads(answer.stdout or '[]') if 'mrn' in one]}))


def inside_left():
    """What the devices still have: queue pairs and regions of agents that have nothing to do."""
    answer = subprocess.run(['rdma', '-j', 'resource', 'show'], capture_output=True, text=True, check=True)
    print(json.dumps({'left': json.loads(answer.stdout)}))


def serve(find):
    """Lines of ASKS, [who asks, WHAT, WORDS...]: what is asked has the standard output and error of who asks,
    which learns the exit status from a pipe of its own."""
    import guestctl  # noqa: F401 (so that no copy has to load it)
    import guestimage  # noqa: F401
    os.mkfifo(ASKS)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a copy
    with os.fdopen(os.open(ASKS, os.O_RDWR), 'r', buffering=1) as asks:
        for line in asks:
            client, what, *words = json.loads(line)
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                obey_one(client, find(what), words)


def obey_one(client, function, words):
    status = 1
    for fd in (1, 2):
        os.dup2(os.open('/proc/%d/fd/%d' % (client, fd), os.O_WRONLY | os.O_APPEND), fd)
    try:
        function(*words)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        if status and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException:  # whatever it is, who asks is told
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    with open('%s.%d' % (ASKS, client), 'w') as answer:
        answer.write('%d\n' % status)
    os._exit(status)


# ------------------------------------------------------------------------------------- in this machine

class Machines:
    """Two hosts; script is the test's own file."""

    def __init__(self, lab, script):
        self.lab, self.script = lab, os.path.abspath(script)
        self.agents, self.servers = {}, {}
        key = subprocess.run([BINARY, 'key', 'lab'], capture_output=True, check=True).stdout
        for host in range(2):
            path = os.path.join(lab.share(host), 'lab.psk')
            with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 'wb') as handle:
                handle.write(key)

    def start_agent(self, host, *words):
        self.agents[host] = self.lab.start(host, self.command('agent', *words))

    def wait_agent(self, host):
        ready = 'while [ ! -S /run/godwit.sock ]; do sleep 0.2; done'
        check(self.lab.run(host, ready, timeout=100).status == 0, 'agent %d does not start: %s', host,
              self.log(host))

    def log(self, host):
        return self.agents[host].err if host in self.agents else ''

    def say_logs(self):
        for host in self.agents:
            say('--- agent %d\n%s' % (host, self.log(host)[-6000:]))

    def command(self, *words):
        quoted = ' '.join(map(shlex.quote, words))
        return ('GODWIT_SOCKET=/run/godwit.sock GODWIT_GUEST_BOOT=%s GODWIT_BIN=%s GODWIT_MODULE_DIR=%s exec '
                'python3 %s inside %s' % (BOOT, BINARY, os.environ.get('GODWIT_MODULE_DIR', ''), self.script, quoted))

    def start(self, host, *words):
        """Asks this host's server, which is started first."""
        if host not in self.servers:
            self.servers[host] = self.lab.start(host, self.command('server'))
        check(self.servers[host].status is None, 'host %d has no server any more: %s', host, self.servers[host].err)
        ask = json.dumps(words)[1:]
        # In a shell of its own: what it does with its standard output, the server would take for this shell's.
        return self.lab.start(host, 'until [ -p %s ]; do sleep 0.1; done; mkfifo %s.$$ && (echo "[$$, "%s >%s) && '
                                    'read -r status <%s.$$; rm %s.$$; exit $status'
                              % (ASKS, ASKS, shlex.quote(ask), ASKS, ASKS, ASKS))

    def end(self, job, what, timeout=400):
        """What a job printed, which must have ended well."""
        status = job.wait(timeout)
        if status != 0:
            self.say_logs()
            sys.exit('%s on host %d: status %s\n%s\n%s' % (what, job.host.index, status, job.out[-4000:],
                                                          job.err[-4000:]))
        lines = [line for line in job.out.splitlines() if line.startswith('{')]
        return json.loads(lines[-1]) if lines else {}

    def inside(self, host, *words, timeout=400):
        return self.end(self.start(host, *words), words[0], timeout)

    def warm(self, host):
        """What is read through 9p for the first time is slow; a move's own limits are not what is
        tested. Returns a job."""
        ask = ''.join('{"execute":"%s"}' % name for name in ('qmp_capabilities', 'qom-list-types', 'quit'))
        return self.lab.start(host, "echo '%s' | qemu-system-x86_64 -M pc -cpu max -S -nodefaults -display none "
                                    '-device virtio-blk-pci,drive=n -blockdev null-co,node-name=n,size=1M '
                                    '-qmp stdio' % ask)

    def check_nothing_left(self):
        """Each device has its own queue pair (for connection management) and no more."""
        for host in range(2):
            deadline = time.monotonic() + LEFT_WAIT_S
            while True:
                left = self.inside(host, 'left')['left']
                if not [one for one in left if one['mr'] or one['qp'] > 1]:
                    break
                check(time.monotonic() < deadline, 'host %d: %s', host, left)
                time.sleep(0.5)


def paths(ended):
    return {one['name']: one for one in ended['progress']['paths']}


def run_main(functions, run, **options):
    """main() of a test: functions is its globals(), with what it can do in a host besides what is here;
    run(lab) is called with the lab of these options."""
    if len(sys.argv) > 2 and sys.argv[1] == 'inside':
        check_lab()
        def find(what):
            return functions.get('inside_' + what, globals().get('inside_' + what))
        if sys.argv[2] == 'server':
            serve(find)
        find(sys.argv[2])(*sys.argv[3:])
        return 0
    from godwit_lab import Lab
    from lab_kernel import LabError, ready_kernel
    try:
        ready_kernel()
    except LabError as error:
        say('skipped: the lab cannot be built: %s' % error)
        return SKIP
    with Lab(**dict({'hosts': 2, 'memory': 1400}, **options)) as lab:
        run(lab)
    return 0
