# SPDX-License-Identifier: Apache-2.0
"""One host of the lab: its QEMU, the line on which the host and the lab speak, and its monitor.

The host runs scripts/lab.d/start, which reads requests from its second serial port and writes what happened
to it, one line each:
    to the host    run JOB | signal JOB SIGNAL
    from the host  ready | ended JOB STATUS | ask ID WORDS... (a lab-ctl that waits for answers/ID)
Commands, their output and all files travel in a folder that both see (share; /run/lab in the host). Nothing
here decides what a lab consists of: that is godwit_lab.py.
"""
import contextlib
import ctypes
import json
import mmap
import os
import shlex
import shutil
import socket
import subprocess
import threading
import time

from lab_kernel import HERE, LabError, tool

# Without no_timer_check a busy machine makes the kernel believe that its timer is dead.
APPEND = ('console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check nowatchdog lsm= '
          'cryptomgr.notests rcupdate.rcu_cpu_stall_suppress=1')
# rdtsc; shl rdx, 32; or rax, rdx; ret
READ_TSC = bytes.fromhex('0f31 48c1e220 4809d0 c3')
CONSOLE_TAIL = 1500
NODES = 2


class Monitor:
    """QEMU's monitor (QMP), for one command after the other."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.socket = connect(path)
        self.stream = self.socket.makefile('rw')
        self.stream.readline()
        self.command('qmp_capabilities')

    def command(self, name, /, **arguments):
        with self.lock:
            self.stream.write(json.dumps({'execute': name, 'arguments': arguments}) + '\n')
            self.stream.flush()
            for line in self.stream:
                answer = json.loads(line)
                if 'error' in answer:
                    raise LabError('%s: %s' % (name, answer['error']['desc']))
                if 'return' in answer:
                    return answer['return']
        raise LabError('%s: QEMU is gone' % name)

    def close(self):
        self.stream.close()
        self.socket.close()


def tsc_khz():
    """The frequency of this machine's time stamp counter, which is also an emulated processor's. A host that is
    started while the machine is busy measures it wrong, and its clock then runs at twice the speed, say."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(READ_TSC)
        first = ctypes.c_char.from_buffer(code)
        read_tsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(first))

        def both():
            # The pair between whose clock readings the least time passed.
            tries = []
            for _ in range(20):
                before, ticks = time.monotonic_ns(), read_tsc()
                tries.append((time.monotonic_ns() - before, before, ticks))
            return min(tries)[1:]
        start = both()
        time.sleep(0.1)
        end = both()
        del first, read_tsc
    return (end[1] - start[1]) * 1000000 // (end[0] - start[0])


def connect(path):
    """A socket that QEMU will soon have."""
    for _ in range(600):
        one = socket.socket(socket.AF_UNIX)
        try:
            one.connect(path)
            return one
        except (FileNotFoundError, ConnectionRefusedError):
            one.close()
            time.sleep(0.01)
    raise LabError('QEMU did not start')


def numa_arguments(options):
    """Two nodes that share processors and memory, and for each a PCIe bus of its own."""
    command = []
    for node in range(NODES):
        first = node * options.cpus // NODES
        last = (node + 1) * options.cpus // NODES - 1
        command += ['-object', 'memory-backend-ram,id=memory%d,size=%dM' % (node,
                                                                            options.memory // NODES),
                    '-numa', 'node,nodeid=%d,cpus=%d-%d,memdev=memory%d' % (node, first, last, node),
                    '-device', 'pxb-pcie,id=bus%d,bus_nr=%d,bus=pcie.0,numa_node=%d'
                               % (node, 64 * (node + 1), node)]
    command += ['-numa', 'dist,src=0,dst=1,val=20', '-numa', 'dist,src=1,dst=0,val=20']
    return command


class Host:
    """One virtual machine. The calls are for any thread; `heard(host, words)` is called on its own."""

    def __init__(self, index, options, kernel, scratch, wires, heard):
        self.index, self.options, self.kernel = index, options, kernel
        self.scratch, self.wires, self.heard = scratch, wires, heard
        self.share = os.path.join(scratch, 'share%d' % index)
        self.console = os.path.join(scratch, 'console%d' % index)
        self.disk = os.path.join(scratch, 'disk%d' % index)
        self.process = self.line = self.monitor = self.thread = None
        self.is_ready = False
        for name in ('out', 'jobs', 'answers', 'bin'):
            os.makedirs(os.path.join(self.share, name))
        shutil.copy(os.path.join(HERE, 'start'), self.share)
        shutil.copy(os.path.join(HERE, 'lab-ctl'), os.path.join(self.share, 'bin'))
        self.write_environment()
        if options.disk:
            with open(self.disk, 'wb') as handle:
                handle.truncate(options.disk << 20)
            subprocess.run([tool('mkfs.ext4'), '-q', '-F', self.disk], check=True)

    def write_environment(self):
        with open(os.path.join(self.kernel, 'version')) as handle:
            version = handle.read()
        variables = {'LAB_HOST': self.index, 'LAB_HOSTS': self.options.hosts,
                     'LAB_WIRES': len(self.wires), 'LAB_ADDRESS': '10.99.0.%d' % (self.index + 1),
                     'LAB_PEER': '10.99.0.%d' % (2 - self.index), 'LAB_DIRECTORY': os.getcwd(),
                     'LAB_OUT': '/run/lab/out', 'LAB_DISK': '/disk' if self.options.disk else '',
                     'LAB_MODULES': os.path.join(self.kernel, 'root/lib/modules', version)}
        with open(os.path.join(self.share, 'env'), 'w') as handle:
            for name, value in variables.items():
                handle.write('export %s=%s\n' % (name, shlex.quote(str(value))))

    def network_arguments(self):
        command = []
        for number, wire in enumerate(self.wires):
            bus = 'pcie.0'
            if self.options.numa:
                bus = 'port%d' % number
                command += ['-device', 'pcie-root-port,id=%s,bus=bus%d,chassis=%d'
                            % (bus, number % NODES, number + 1)]
            command += [
                '-netdev', 'dgram,id=wire%d,local.type=fd,local.str=%d' % (number, wire),
                '-device', 'virtio-net-pci,id=nic%d,netdev=wire%d,bus=%s,host_mtu=9000,romfile=,'
                           'mac=52:54:00:99:%02x:0%d' % (number, number, bus, number, self.index + 1),
                # Takes every frame off the wire while it is on (Lab.cut with is_silent).
                '-chardev', 'null,id=lost%d' % number,
                '-object', 'filter-redirector,id=cut%d,netdev=wire%d,queue=all,outdev=lost%d,status=off'
                           % (number, number, number)]
        return command

    def arguments(self):
        socket_of = 'socket,id=%s,path=%s,server=on,wait=off'
        command = [
            tool('qemu-system-x86_64'), '-machine', 'q35', '-accel', 'tcg', '-cpu', 'max', '-m',
            '%dM' % self.options.memory, '-smp', str(self.options.cpus), '-nodefaults', '-display',
            'none', '-no-reboot', '-kernel', os.path.join(self.kernel, 'kernel'),
            '-initrd', os.path.join(self.kernel, 'initrd'), '-append',
            APPEND + ' tsc_early_khz=%d' % tsc_khz() + (' lab.disk' if self.options.disk else ''),
            '-serial', 'file:' + self.console,
            '-chardev', socket_of % ('line', self.line_path()), '-serial', 'chardev:line',
            '-chardev', socket_of % ('monitor', self.monitor_path()), '-mon', 'monitor,mode=control',
            '-fsdev', 'local,id=root,path=/,security_model=none,readonly=on,multidevs=remap',
            '-device', 'virtio-9p-pci,fsdev=root,mount_tag=hostroot',
            '-fsdev', 'local,id=share,path=%s,security_model=none' % self.share,
            '-device', 'virtio-9p-pci,fsdev=share,mount_tag=labshare',
            '-object', 'rng-random,id=rng0,filename=/dev/urandom',
            '-device', 'virtio-rng-pci,rng=rng0']
        if self.options.is_interactive:
            command += ['-chardev', 'stdio,id=terminal,signal=off', '-serial', 'chardev:terminal']
        if self.options.numa:
            command += numa_arguments(self.options)
        if self.options.disk:
            command += ['-drive', 'if=virtio,format=raw,file=' + self.disk]
        return command + self.network_arguments() + self.options.qemu_arguments

    def line_path(self):
        return os.path.join(self.scratch, 'line%d' % self.index)

    def monitor_path(self):
        return os.path.join(self.scratch, 'monitor%d' % self.index)

    def start(self):
        """Starts QEMU; the host says that it is ready later."""
        for path in (self.line_path(), self.monitor_path()):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        stdin = None if self.options.is_interactive else subprocess.DEVNULL
        # QEMU does not outlive this process, however it ends.
        self.process = subprocess.Popen([tool('setpriv'), '--pdeathsig', 'KILL'] + self.arguments(),
                                        stdin=stdin, pass_fds=self.wires)
        self.line = connect(self.line_path())
        self.monitor = Monitor(self.monitor_path())
        self.thread = threading.Thread(target=self.listen, args=(self.line,), daemon=True)
        self.thread.start()

    def listen(self, line):
        with contextlib.suppress(OSError), line.makefile('r', errors='replace') as lines:
            for text in lines:
                words = text.split()
                if words:
                    self.heard(self, words)
        self.is_ready = False
        self.heard(self, ['gone'])

    def say(self, text):
        try:
            self.line.sendall((text + '\n').encode())
        except OSError:
            raise LabError('host %d is gone' % self.index)

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def console_tail(self):
        if not os.path.exists(self.console):
            return ''
        with open(self.console, errors='replace') as handle:
            return handle.read()[-CONSOLE_TAIL:]

    def end(self):
        """As if the power had failed."""
        if not self.process:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.is_ready = False
        if self.thread and self.thread is not threading.current_thread():
            self.thread.join(5)
        for one in (self.line, self.monitor):
            if one:
                one.close()
        self.line = self.monitor = None
