# SPDX-License-Identifier: Apache-2.0
"""A lab for tests and scripts: hosts with a stock kernel and soft-RoCE, wires between them, power.

    with Lab(hosts=2) as lab:
        server = lab.start(0, 'ib_write_bw -d rxe0')
        lab.run(1, 'ib_write_bw -d rxe0 $LAB_PEER', is_checked=True)
        lab.cut()            # the cable is out; lab.join() puts it in again
        lab.kill(1)          # a power loss; lab.restart(1) boots it again

Every call may come from any thread. A host sees this host's root file system copy-on-write (in memory, lost
with the power) and, with disk=MIB, a disk of its own at /disk that keeps what was written to it. LabError
is raised when the lab itself cannot do it, never for a command that fails.
"""
import concurrent.futures
import dataclasses
import os
import shutil
import socket
import tempfile
import threading
import time

from lab_host import Host
from lab_kernel import LabError, ready_kernel

TIMED_OUT, LAB_FAILED = 124, 125
BOOT_S = 120
WIRES_MOST = 4


@dataclasses.dataclass
class Options:
    """What the hosts are made of; memory and disk are in MiB."""
    hosts: int = 1
    wires: int = 1
    memory: int = 2048
    cpus: int = 1
    numa: bool = False
    disk: int = 0
    is_interactive: bool = False
    qemu_arguments: list = dataclasses.field(default_factory=list)


class Job:
    """A command on a host. status is None while it runs, 125 when its host was lost."""

    def __init__(self, lab, host, number):
        self.lab, self.host, self.number = lab, host, number
        self.folder = os.path.join(host.share, 'jobs', str(number))
        self.status = None
        self.is_lost = False

    def wait(self, timeout=120):
        """The exit status, or None when there is none within timeout seconds."""
        deadline = time.monotonic() + timeout
        with self.lab.changed:
            while self.status is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self.lab.changed.wait(left)
            return self.status

    def signal(self, name='TERM'):
        """To every process of the command that did not leave its session."""
        self.host.say('signal %d %s' % (self.number, name))

    def read(self, name):
        with open(os.path.join(self.folder, name), 'rb') as handle:
            return handle.read().decode(errors='replace')

    @property
    def out(self):
        return self.read('stdout')

    @property
    def err(self):
        return self.read('stderr')


class Lab:
    """See above. Leaving the with block ends everything, whatever still runs in it."""

    def __init__(self, **options):
        self.options = Options(**options)
        self.check_options()
        self.changed = threading.Condition()
        self.hosts, self.jobs, self.ends = [], {}, []
        self.dead = set()
        self.killed = set()
        self.scratch = None
        # Starts every QEMU: one ends with the thread that started it (prctl(2), PR_SET_PDEATHSIG).
        self.starter = concurrent.futures.ThreadPoolExecutor(1)

    def check_options(self):
        options = self.options
        if options.hosts not in (1, 2):
            raise LabError('one or two hosts')
        if not 1 <= options.wires <= WIRES_MOST:
            raise LabError('1 to %d wires' % WIRES_MOST)
        if options.numa and (options.cpus < 2 or options.memory < 1024):
            raise LabError('two NUMA nodes need 2 processors and 1024 MiB')

    # -------------------------------------------------------------------------- start and end

    def __enter__(self):
        kernel = ready_kernel()
        self.scratch = tempfile.mkdtemp(prefix='godwit-lab-')
        try:
            for _ in range(self.options.wires if self.options.hosts == 2 else 0):
                self.ends.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
            for index in range(self.options.hosts):
                wires = [pair[index].fileno() for pair in self.ends]
                self.hosts.append(Host(index, self.options, kernel, self.scratch, wires, self.heard))
            for host in self.hosts:
                self.starter.submit(host.start).result()
            threading.Thread(target=self.drain, daemon=True).start()
            for host in self.hosts:
                self.wait_ready(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for host in self.hosts:
            host.end()
        self.starter.shutdown()
        with self.changed:
            ends, self.ends = self.ends, []
        for pair in ends:
            for end in pair:
                end.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def wait_ready(self, host):
        deadline = time.monotonic() + BOOT_S
        with self.changed:
            while not host.is_ready and host.is_alive() and time.monotonic() < deadline:
                self.changed.wait(0.2)
            if host.is_ready:
                return
        raise LabError('host %d did not start; its console:\n%s' % (host.index, host.console_tail()))

    def drain(self):
        """A host without power takes its frames off the wire all the same, as a switch would."""
        while self.ends:
            with self.changed:
                for pair in self.ends:
                    for index in self.dead:
                        try:
                            while pair[index].recv(65536, socket.MSG_DONTWAIT):
                                pass
                        except BlockingIOError:
                            pass
            time.sleep(0.02)

    # ------------------------------------------------------------------------------- hearing

    def heard(self, host, words):
        """A line from a host; on the thread of that host."""
        if words[0] == 'ask':
            threading.Thread(target=self.answer, args=(host, words[1], words[2:]),
                             daemon=True).start()
            return
        with self.changed:
            if words[0] == 'ready':
                host.is_ready = True
            elif words[0] == 'ended' and int(words[1]) in self.jobs:
                self.jobs[int(words[1])].status = int(words[2])
            elif words[0] == 'gone':
                for job in self.jobs.values():
                    if job.host is host and job.status is None:
                        job.is_lost, job.status = True, LAB_FAILED
            self.changed.notify_all()

    def answer(self, host, number, words):
        """What lab-ctl asks from inside a host: its answer is a file, its first line the status."""
        folder = os.path.join(host.share, 'answers')
        try:
            with open(os.path.join(folder, number + '.command')) as handle:
                status, text = self.obey(words, handle.read())
        except (LabError, OSError, ValueError, IndexError) as error:
            status, text = LAB_FAILED, 'lab: %s\n' % error
        with open(os.path.join(folder, number + '.new'), 'w') as handle:
            handle.write('%d\n%s' % (status, text))
        os.rename(os.path.join(folder, number + '.new'), os.path.join(folder, number))

    def obey(self, words, command):
        what, number = words[0], int(words[1]) if len(words) > 1 else None
        if what in ('cut', 'silence'):
            self.cut(number, is_silent=what == 'silence')
        elif what == 'join':
            self.join(number)
        elif what == 'kill':
            self.kill(number)
        elif what == 'restart':
            self.restart(number)
        elif what == 'run':
            job = self.start(number, command)
            return job.wait(86400), job.out + job.err
        else:
            raise LabError('%s: not known' % what)
        return 0, ''

    # ------------------------------------------------------------------------------ commands

    def host(self, index):
        if not isinstance(index, int) or not 0 <= index < len(self.hosts):
            raise LabError('there is no host %s' % index)
        return self.hosts[index]

    def start(self, index, command, has_terminal=False):
        """Starts a command (for bash, in this process's working directory); its Job."""
        host = self.host(index)
        with self.changed:
            if not host.is_ready:
                raise LabError('host %d has no power' % index)
            job = Job(self, host, len(self.jobs) + 1)
            self.jobs[job.number] = job
        os.makedirs(job.folder)
        files = {'command': command + '\n', 'stdout': '', 'stderr': ''}
        if has_terminal:
            files['terminal'] = 'rows %d cols %d\n' % shutil.get_terminal_size()[::-1]
        for name, text in files.items():
            with open(os.path.join(job.folder, name), 'w') as handle:
                handle.write(text)
        host.say('run %d' % job.number)
        return job

    def run(self, index, command, timeout=120, is_checked=False):
        """Runs a command to its end; its Job. status is 124 when time is up: the command is ended."""
        job = self.start(index, command)
        if job.wait(timeout) is None:
            job.signal('KILL')
            job.wait(5)
            job.status = TIMED_OUT
        if is_checked and job.status != 0:
            raise LabError('host %d: %s: status %d\n%s%s%s' % (
                index, command, job.status, job.out[-2000:], job.err[-2000:],
                self.hosts[index].console_tail() if job.is_lost else ''))
        return job

    def share(self, index):
        """This side's name of the folder that the host sees as /run/lab."""
        return self.host(index).share

    # ----------------------------------------------------------------------- wires and power

    def each_end(self, wire):
        if self.options.hosts != 2:
            raise LabError('one host has no wire')
        if wire is not None and not 0 <= wire < self.options.wires:
            raise LabError('there is no wire %d' % wire)
        for host in self.hosts:
            for number in range(self.options.wires) if wire is None else [wire]:
                if host.is_alive():
                    yield host, number

    def cut(self, wire=None, is_silent=False):
        """Takes the cable out (both ends see no carrier), of all wires or of one. Silent: the carrier
        stays, and every frame is lost, as behind a switch that died."""
        for host, number in self.each_end(wire):
            if is_silent:
                host.monitor.command('qom-set', path='/objects/cut%d' % number, property='status',
                                     value='on')
            else:
                host.monitor.command('set_link', name='nic%d' % number, up=False)

    def join(self, wire=None):
        """Undoes both kinds of cut."""
        for host, number in self.each_end(wire):
            host.monitor.command('qom-set', path='/objects/cut%d' % number, property='status',
                                 value='off')
            host.monitor.command('set_link', name='nic%d' % number, up=True)

    def kill(self, index):
        """A power loss: the host is gone at once, its disk has what was written to it."""
        host = self.host(index)
        self.killed.add(index)
        host.end()
        with self.changed:
            self.dead.add(index)

    def restart(self, index):
        """Boots a host that was killed (or ended); its wires are joined."""
        host = self.host(index)
        if host.is_alive():
            raise LabError('host %d runs' % index)
        host.end()
        with self.changed:
            self.dead.discard(index)
        self.starter.submit(host.start).result()
        self.wait_ready(host)
