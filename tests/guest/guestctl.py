#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Starts and questions the verifiable guest: QEMU, its QMP socket, its serial line.

A library for tests (class Guest, class Serial, qmp) and a command for shell scripts. The serial line is
read by a relay, a process of its own that appends to a log file and survives whoever started it; a
second relay on the target of a move shows whether the same guest goes on there.
"""
import argparse
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import guestimage

MIB = 1 << 20
LINE = re.compile(r'^([A-Z][A-Z ]*[A-Z])((?: \w+=\d+)+)\s*$')


class GuestError(Exception):
    """A guest, QEMU or verdict that is not as it should be."""


def wait_for(condition, timeout, what, step=0.05):
    """Calls condition until its answer is true, and returns that answer."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise GuestError('%s: not within %g s' % (what, timeout))
        time.sleep(step)


def is_alive(pid):
    """True for a process that exists and is not a zombie; one whose other threads still end has its files yet."""
    try:
        with open('/proc/%d/stat' % pid) as handle:
            return handle.read().rpartition(')')[2].split()[0] not in 'ZX' or len(os.listdir('/proc/%d/task' % pid)) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def end_process(pid, timeout=5, child=None):
    """Ends a process by its id: TERM, then KILL. child: its Popen object, if it is a child."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not is_alive(pid):
                if child is not None:
                    child.wait()
                return
            time.sleep(0.02)


def qmp(path, command, /, timeout=60, **arguments):
    """One QMP command on a connection of its own. Raises GuestError with QEMU's words."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
        lines = connection.makefile('rwb')

        def ask(message):
            lines.write(json.dumps(message).encode() + b'\n')
            lines.flush()
            for line in lines:
                answer = json.loads(line)
                if 'return' in answer:
                    return answer['return']
                if 'error' in answer:
                    raise GuestError('%s: %s' % (message['execute'], answer['error']['desc']))
            raise GuestError('%s: QEMU closed its monitor' % message['execute'])

        lines.readline()
        ask({'execute': 'qmp_capabilities'})
        message = {'execute': command}
        if arguments:
            message['arguments'] = {k.replace('_', '-'): v for k, v in arguments.items()}
        return ask(message)
    except OSError as error:
        raise GuestError('QMP socket %s: %s' % (path, error)) from error
    finally:
        connection.close()


# ---------------------------------------------------------------------------------------- serial

def run_relay(serial_path, log_path, input_path):
    """The relay's loop: serial socket → log, FIFO → serial socket; reconnects until it is ended."""
    pipe = os.open(input_path, os.O_RDWR | os.O_NONBLOCK)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(serial_path)
            while True:
                ready = select.select([connection, pipe], [], [])[0]
                if connection in ready:
                    data = connection.recv(65536)
                    if not data:
                        break
                    os.write(log, data)
                if pipe in ready:
                    connection.sendall(os.read(pipe, 4096))
        except OSError:
            pass
        connection.close()
        time.sleep(0.02)


class Serial:
    """A guest's serial line: a relay process, its log, and the questions one can ask."""

    def __init__(self, folder, serial_path, name='serial'):
        self.serial_path = serial_path
        self.log_path = os.path.join(folder, name + '.log')
        self.input_path = os.path.join(folder, name + '.in')
        self.relay = None
        self.pid = None

    def start(self):
        """Starts the relay. It may be started before the socket exists."""
        if not os.path.exists(self.input_path):
            os.mkfifo(self.input_path)
        relay = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), 'relay', self.serial_path, self.log_path,
             self.input_path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
        self.relay = relay
        self.pid = relay.pid
        wait_for(lambda: os.path.exists(self.log_path), 90, 'the serial relay')
        return self

    def stop(self):
        if self.pid:
            end_process(self.pid, child=self.relay)
        self.pid = self.relay = None

    def lines(self, after=0):
        """(kind, numbers) of each whole line of the log behind byte after: ('TICK', {'n': 18, ...})."""
        with open(self.log_path, 'rb') as handle:
            handle.seek(after)
            data = handle.read()
        found = []
        for line in data.decode(errors='replace').split('\n')[:-1]:
            match = LINE.match(line.rstrip('\r'))
            if match:
                words = [word.split('=') for word in match.group(2).split()]
                found.append((match.group(1), {name: int(value) for name, value in words}))
            elif line.strip():
                found.append(('TEXT', {'text': line.strip()}))
        return found

    def position(self):
        return os.path.getsize(self.log_path)

    def send(self, text):
        pipe = os.open(self.input_path, os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(pipe, text.encode())
        finally:
            os.close(pipe)

    def find(self, kinds, after=0):
        """The first line of one of these kinds, or None. A FATAL line raises."""
        for kind, numbers in self.lines(after):
            if kind in kinds:
                return kind, numbers
            if kind == 'TEXT' and numbers['text'].startswith('FATAL'):
                raise GuestError('the guest stopped: ' + numbers['text'])
        return None

    def wait(self, kinds, timeout, after=0):
        return wait_for(lambda: self.find(kinds, after), timeout, 'serial line ' + '/'.join(kinds))

    def wait_tick(self, timeout=90, least=None):
        """Waits for a TICK line that is new (or, with least, at least that far); its numbers."""
        after = self.position() if least is None else 0

        def newest():
            ticks = [numbers for kind, numbers in self.lines(after) if kind == 'TICK']
            return ticks[-1] if ticks and ticks[-1]['n'] >= (least or 0) else None

        return wait_for(newest, timeout, 'the guest\'s tick')

    def ask(self, letter, kinds, timeout=90):
        after = self.position()
        self.send(letter)
        return self.wait(kinds, timeout, after)

    def quiet(self):
        return self.ask('q', ['QUIET'])[1]

    def go(self):
        return self.ask('g', ['BUSY'])[1]

    def last_block(self):
        return self.ask('l', ['LAST'])[1]

    def clock(self):
        """(the guest's real-time clock, as time.time(), the ticks that it counted itself)"""
        numbers = self.ask('k', ['CLOCK'])[1]
        return numbers['s'] + 946684800, numbers['n']

    def verify(self, timeout=120):
        """The guest's own check of all it ever wrote: (is it good, the numbers, the lines that say
        what is wrong)."""
        after = self.position()
        self.send('v')
        kind, numbers = self.wait(['VERIFY OK', 'VERIFY FAILED'], timeout, after)
        faults = [line for line in self.lines(after) if line[0] in ('VERIFY BAD', 'BAD')]
        return kind == 'VERIFY OK', numbers, faults

    def boots(self):
        """How often a guest booted on this line: a moved guest never does."""
        return sum(1 for kind, _ in self.lines() if kind == 'BOOT')


# ------------------------------------------------------------------------------------------ QEMU

class Guest:
    """One QEMU with the guest's disks. All that it needs lies in folder; stop() ends and removes it.

    options: machine (pc, q35), memory_mib, smp, disks (list of dicts: path, format, cache, iothread,
    id), ram_dir (tmpfs), share_ram, cpu, accel, netns, tap, disk_style (blockdev, drive), machine_ram
    (False: plain RAM that cannot be moved), region_mib and plug_mib (a virtio-mem device of that size, "mem0",
    and what it requests of the guest), balloon (True: "balloon0"), extra (more arguments), incoming."""

    def __init__(self, folder, **options):
        self.folder = os.path.abspath(folder)
        self.options = {'machine': 'pc', 'memory_mib': 256, 'smp': 1, 'disks': [], 'cpu': 'max',
                        'ram_dir': os.environ.get('GODWIT_RAM_DIR', '/dev/shm'), 'share_ram': True, 'netns': None, 'tap': None,
                        'disk_style': 'blockdev', 'machine_ram': True, 'accel': 'tcg', 'extra': [],
                        'incoming': None, 'name': 'guest', 'region_mib': 0, 'plug_mib': 0,
                        'balloon': False}
        unknown = set(options) - set(self.options)
        if unknown:
            raise TypeError('unknown options: %s' % ', '.join(sorted(unknown)))
        self.options.update(options)
        self.qmp_path = os.path.join(self.folder, 'qmp')
        self.serial_path = os.path.join(self.folder, 'serial')
        tag = '%s-%d-%x' % (self.options['name'], os.getpid(), time.monotonic_ns() & 0xffffff)
        self.ram_path = os.path.join(self.options['ram_dir'], 'godwit-' + tag)
        self.region_path = self.ram_path + '-plug0'
        self.serial = Serial(self.folder, self.serial_path)
        self.process = None
        self.began = None  # when QEMU was started: time.monotonic()
        self.pid = None

    def disk_arguments(self, index, disk):
        disk_id = disk.get('id', 'vd' + 'ab'[index])
        image_format = disk.get('format', 'raw')
        cache = disk.get('cache', 'writeback')
        arguments = []
        device = 'virtio-blk-pci,id=%s,bootindex=%d' % (disk_id, index + 1)
        if disk.get('iothread'):
            arguments += ['-object', 'iothread,id=io-' + disk_id]
            device += ',iothread=io-' + disk_id
        if self.options['disk_style'] == 'drive':
            arguments += ['-drive', 'if=none,id=drive-%s,file=%s,format=%s,cache=%s'
                          % (disk_id, disk['path'], image_format, cache)]
            return arguments + ['-device', device + ',drive=drive-' + disk_id]
        direct = 'on' if cache in ('none', 'directsync') else 'off'
        protocol = 'host_device' if stat.S_ISBLK(os.stat(disk['path']).st_mode) else 'file'
        options = {'driver': image_format, 'node-name': 'node-' + disk_id,
                   'cache': {'direct': direct == 'on', 'no-flush': cache == 'unsafe'},
                   'file': {'driver': protocol, 'filename': disk['path'], 'node-name':
                            'file-' + disk_id, 'cache': {'direct': direct == 'on',
                                                         'no-flush': cache == 'unsafe'}}}
        arguments += ['-blockdev', json.dumps(options)]
        return arguments + ['-device', device + ',drive=node-' + disk_id]

    def elastic_arguments(self):
        """Memory that comes and goes."""
        o = self.options
        arguments = []
        if o['region_mib']:
            arguments += ['-object', 'memory-backend-file,id=plug0,mem-path=%s,size=%dM,share=on'
                          % (self.region_path, o['region_mib']), '-device',
                          'virtio-mem-pci,id=mem0,memdev=plug0,requested-size=%dM' % o['plug_mib']]
        if o['balloon']:
            arguments += ['-device', 'virtio-balloon-pci,id=balloon0']
        return arguments

    def arguments(self):
        """QEMU's command line."""
        o = self.options
        machine = o['machine'] + ',usb=off'
        command = ['qemu-system-x86_64', '-name', o['name'], '-accel', o['accel'], '-cpu', o['cpu'],
                   '-m', '%d%s' % (o['memory_mib'], ',maxmem=4G' if o['region_mib'] else ''), '-smp', str(o['smp']), '-nodefaults', '-no-user-config',
                   '-display', 'none']
        if o['machine_ram']:
            command += ['-object', 'memory-backend-file,id=ram0,mem-path=%s,size=%dM,share=%s'
                        % (self.ram_path, o['memory_mib'], 'on' if o['share_ram'] else 'off')]
            machine += ',memory-backend=ram0'
        command += ['-machine', machine,
                    '-chardev', 'socket,id=qmp0,path=%s,server=on,wait=off' % self.qmp_path,
                    '-mon', 'chardev=qmp0,mode=control',
                    # Nothing runs before the relay is there: what is said to nobody is lost.
                    '-chardev', 'socket,id=serial0,path=%s,server=on,wait=on' % self.serial_path,
                    '-serial', 'chardev:serial0']
        for index, disk in enumerate(o['disks']):
            command += self.disk_arguments(index, disk)
        if o['tap']:
            command += ['-netdev', 'tap,id=net0,ifname=%s,script=no,downscript=no' % o['tap'],
                        '-device', 'virtio-net-pci,id=nic0,netdev=net0,romfile=']
        if o['incoming']:
            command += ['-incoming', o['incoming']]
        return command + self.elastic_arguments() + o['extra']

    def start(self):
        command = self.arguments()
        if self.options['netns']:
            command = ['ip', 'netns', 'exec', self.options['netns']] + command
        os.makedirs(self.folder, exist_ok=True)
        self.serial.start()
        with open(os.path.join(self.folder, 'qemu.log'), 'ab') as log:
            self.began = time.monotonic()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True)
        self.process = process
        self.pid = process.pid
        try:
            wait_for(lambda: os.path.exists(self.qmp_path) or process.poll() is not None, 90,
                     'QEMU\'s monitor')
            if process.poll() is not None:
                raise GuestError('QEMU ended at once: ' + self.qemu_log())
        except BaseException:
            self.stop()
            raise
        with open(os.path.join(self.folder, 'guest.json'), 'w') as handle:
            json.dump({'pid': self.pid, 'relay': self.serial.pid, 'ram': self.ram_path,
                       'qmp': self.qmp_path, 'serial': self.serial_path}, handle)
        return self

    def qemu_log(self):
        with open(os.path.join(self.folder, 'qemu.log'), errors='replace') as handle:
            return handle.read()[-2000:]

    def qmp(self, command, /, **arguments):
        return qmp(self.qmp_path, command, **arguments)

    def wait_ready(self, timeout=90):
        """Waits until the guest has filled its memory; the numbers of its FILLED line."""
        return self.serial.wait(['FILLED'], timeout)[1]

    def is_running(self):
        return self.pid is not None and is_alive(self.pid)

    def stop(self):
        """Ends QEMU and the relay, and removes the RAM file and the sockets. The logs stay."""
        if self.pid:
            end_process(self.pid, child=self.process)
        self.pid = self.process = None
        self.serial.stop()
        for path in (self.ram_path, self.region_path, self.qmp_path, self.serial_path, self.serial.input_path):
            if os.path.exists(path):
                os.unlink(path)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


# --------------------------------------------------------------------------------------- command

def attached(folder):
    """The serial line of a guest that another process started in folder."""
    with open(os.path.join(folder, 'guest.json')) as handle:
        state = json.load(handle)
    serial = Serial(folder, state['serial'])
    serial.pid = state['relay']
    return state, serial


def parse_disk(text):
    """PATH[,format=vhdx][,iothread][,cache=none][,id=vda]"""
    words = text.split(',')
    disk = {'path': os.path.abspath(words[0])}
    for word in words[1:]:
        name, has_value, value = word.partition('=')
        disk[name] = value if has_value else True
    return disk


def command_start(args):
    guest = Guest(args.folder, machine=args.machine, memory_mib=args.memory, smp=args.smp,
                  disks=[parse_disk(text) for text in args.disk], netns=args.netns, tap=args.tap,
                  name=args.name)
    guest.start()
    if args.wait:
        try:
            guest.wait_ready()
        except GuestError:
            guest.stop()
            raise
    print(json.dumps({'pid': guest.pid, 'qmp': guest.qmp_path, 'serial': guest.serial_path,
                      'ram': guest.ram_path}))


def command_attach(args):
    serial = Serial(args.folder, args.serial)
    os.makedirs(args.folder, exist_ok=True)
    serial.start()
    with open(os.path.join(args.folder, 'guest.json'), 'w') as handle:
        json.dump({'pid': args.pid, 'relay': serial.pid, 'ram': None, 'qmp': args.qmp,
                   'serial': args.serial}, handle)


def command_verify(args):
    is_good, numbers, faults = attached(args.folder)[1].verify(args.timeout)
    for kind, fault in faults:
        print(kind, ' '.join('%s=%d' % item for item in fault.items()))
    print('VERIFY', 'OK' if is_good else 'FAILED',
          ' '.join('%s=%d' % item for item in numbers.items()))
    return 0 if is_good else 5


def command_ask(args):
    serial = attached(args.folder)[1]
    numbers = {'tick': serial.wait_tick, 'quiet': serial.quiet, 'go': serial.go,
               'last': serial.last_block}[args.command]()
    print(' '.join('%s=%d' % item for item in numbers.items()))


def command_stop(args):
    state, serial = attached(args.folder)
    if state['pid']:
        end_process(state['pid'])
    serial.stop()
    for path in (state['ram'], state['qmp'], state['serial'], serial.input_path):
        if path and os.path.exists(path):
            os.unlink(path)
    if args.remove:
        shutil.rmtree(args.folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    start = commands.add_parser('start', help='start QEMU with the guest; state lies in FOLDER')
    start.add_argument('folder')
    start.add_argument('--machine', default='pc')
    start.add_argument('--memory', type=int, default=256, help='MiB')
    start.add_argument('--smp', type=int, default=1)
    start.add_argument('--disk', action='append', default=[],
                       help='PATH[,format=vhdx][,iothread][,cache=none][,id=vda]')
    start.add_argument('--netns')
    start.add_argument('--tap')
    start.add_argument('--name', default='guest')
    start.add_argument('--wait', action='store_true', help='until the guest has filled its memory')
    start.set_defaults(run=command_start)
    attach = commands.add_parser('attach', help='read the serial line of a QEMU started elsewhere')
    attach.add_argument('folder')
    attach.add_argument('--serial', required=True)
    attach.add_argument('--qmp')
    attach.add_argument('--pid', type=int)
    attach.set_defaults(run=command_attach)
    verify = commands.add_parser('verify', help='the guest checks all it ever wrote; exit 5 if bad')
    verify.add_argument('folder')
    verify.add_argument('--timeout', type=float, default=60)
    verify.set_defaults(run=command_verify)
    for name in ('tick', 'quiet', 'go', 'last'):
        ask = commands.add_parser(name)
        ask.add_argument('folder')
        ask.set_defaults(run=command_ask)
    stop = commands.add_parser('stop', help='end QEMU and the relay')
    stop.add_argument('folder')
    stop.add_argument('--remove', action='store_true', help='the folder as well')
    stop.set_defaults(run=command_stop)
    relay = commands.add_parser('relay')
    relay.add_argument('paths', nargs=3)
    relay.set_defaults(run=lambda args: run_relay(*args.paths))
    args = parser.parse_args()
    try:
        return args.run(args) or 0
    except (GuestError, guestimage.subprocess.CalledProcessError) as error:
        print('guestctl: %s' % error, file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
