#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stops an agent exactly where it says where it is, without a hook in the product: the agent runs
under a seccomp filter that hands each write to its standard error, and each sync, to this process
before the kernel does it (seccomp(2), SECCOMP_RET_USER_NOTIF). A log line that is awaited holds its
thread until release(); a sync can be answered with an error, and all of them are listed; where it was asked for
before the agent began, so can a pwrite. At --verbose twice the agent logs each state of a handover before it does
anything in it. And where that was asked for, the agent can be killed at any of its effects: what it makes, renames and
removes, each sync, each process that it starts, and each command to QEMU.

As a program it is the launcher: hold.py FD WHAT COMMAND..., with FD a socket over which it
says what its process and the filter's descriptor are, and WHAT "writes", "effects" or "-".
"""
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import socket
import struct
import sys
import threading
import time

SYS_SECCOMP, SYS_PIDFD_GETFD = 317, 438
WRITE = 1
PWRITE = 18
SYNCS = {26: 'msync', 74: 'fsync', 75: 'fdatasync', 162: 'sync', 277: 'sync_file_range', 306: 'syncfs'}
RECEIVE, SEND = 0xc0502100, 0xc0182101
SENDMSG, OPENAT, CLONE, CLONE3 = 46, 257, 56, 435
EFFECTS = {SENDMSG: 'sendmsg', OPENAT: 'openat', CLONE: 'clone', CLONE3: 'clone3', 58: 'vfork', 76: 'truncate',
           77: 'ftruncate', 82: 'rename', 83: 'mkdir', 84: 'rmdir', 86: 'link', 87: 'unlink', 88: 'symlink',
           258: 'mkdirat', 263: 'unlinkat', 264: 'renameat', 265: 'linkat', 316: 'renameat2'}
PATH_ARGUMENT = {OPENAT: 1, 258: 1, 263: 1, 264: 1, 265: 1, 316: 1}  # else the first
CLONE_THREAD = 0x10000
CONTINUE = 1
AUDIT_ARCH_X86_64 = 0xc000003e
ALLOW, NOTIFY = 0x7fff0000, 0x7fc00000
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06


def make_filter(what):
    """write(2, ...), every kind of sync and perhaps pwrite or effects are handed over; everything else is as ever."""
    def one(code, value, yes=0, no=0):
        return struct.pack('HBBI', code, yes, no, value)
    numbers = list(SYNCS) + {'writes': [PWRITE], 'effects': list(EFFECTS)}.get(what, [])
    count = len(numbers)
    return b''.join(
        [one(LOAD, 4), one(JUMP_EQUAL, AUDIT_ARCH_X86_64, 0, count + 4), one(LOAD, 0)] +
        [one(JUMP_EQUAL, number, count + 3 - index, 0) for index, number in enumerate(numbers)] +
        [one(JUMP_EQUAL, WRITE, 0, 2), one(LOAD, 16), one(JUMP_EQUAL, 2, 1, 0),
         one(RETURN, ALLOW), one(RETURN, NOTIFY)])


def install(what):
    """The filter on this process and all it becomes; its descriptor."""
    class Program(ctypes.Structure):
        _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
    code = make_filter(what)
    buffer = ctypes.create_string_buffer(code)
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    listener = libc.syscall(SYS_SECCOMP, 1, 8, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), 'seccomp')
    return listener


def launch(fd, what, command):
    with socket.socket(fileno=fd) as connection:
        listener = install(what)
        # By a write: nobody would answer for a sendmsg yet.
        os.write(fd, struct.pack('II', os.getpid(), listener))
        connection.recv(1)
        os.close(listener)
    os.execvp(command[0], command)


def read_memory(pid, address, size):
    """As much of it as is there."""
    try:
        with open('/proc/%d/mem' % pid, 'rb', buffering=0) as memory:
            memory.seek(address)
            return memory.read(size)
    except (OSError, ValueError, OverflowError):
        return b''


def process_of(thread):
    try:
        with open('/proc/%d/status' % thread) as handle:
            return int(re.search(r'^Tgid:\s+(\d+)', handle.read(), re.M).group(1))
    except (OSError, AttributeError):
        return 0


def command_of(pid, header):
    """What a message to QEMU's monitor asks for."""
    header = read_memory(pid, header, 32)
    vector = read_memory(pid, struct.unpack_from('Q', header, 16)[0], 16) if len(header) == 32 else b''
    if len(vector) < 16:
        return ''
    text = read_memory(pid, struct.unpack_from('Q', vector)[0], min(struct.unpack_from('Q', vector, 8)[0], 4096))
    return ' '.join(re.findall(r'"execute": ?"([^"]+)"', text.decode(errors='replace')))


def effect(pid, name, arguments):
    """What this system call does, in words; nothing where it changes nothing that outlives the process."""
    if name in SYNCS:
        return SYNCS[name]
    if name not in EFFECTS or name == OPENAT and not arguments[2] & os.O_CREAT:
        return ''
    if name == SENDMSG:
        return command_of(pid, arguments[1])
    if name in (CLONE, CLONE3):
        flags = arguments[0] if name == CLONE else int.from_bytes(read_memory(pid, arguments[0], 8), 'little')
        return '' if flags & CLONE_THREAD else EFFECTS[name]
    if name in (58, 77):
        return EFFECTS[name]
    path = read_memory(pid, arguments[PATH_ARGUMENT.get(name, 0)], 256).split(b'\0')[0]
    return '%s %s' % (EFFECTS[name], path.decode(errors='replace'))


class Holder:
    """Watches one host's agents, one life after the other."""

    def __init__(self):
        self.lock = threading.Lock()
        self.pattern = None     # of the line that holds next
        self.held = None        # (listener, id) of the write that waits
        self.is_held = threading.Event()
        self.sync_pattern = None
        self.sync_passing = 0   # how many such syncs do not fail before that one
        self.held_sync = None   # (pattern of the path, how many pass first) of the sync that holds next
        self.with_writes = False    # before the agent starts: fail_writes is going to be used
        self.failing_writes = None  # (pattern of the path, errno)
        self.with_effects = False   # before the agent starts: strike is going to be used
        self.victim = None      # the process whose effects count
        self.effects = []       # what it did since strike()
        self.blow = None        # (number of the effect, whether the kernel does it before) at which the victim is killed
        self.has_struck = threading.Event()
        self.lines = []
        self.syncs = []         # (when by the wall clock, which system call, the file's path) of each

    def launcher(self):
        """(words before the command, the descriptor that it needs): for one start of an agent."""
        ours, theirs = socket.socketpair()
        threading.Thread(target=self.receive, args=(ours,), daemon=True).start()
        return [sys.executable, os.path.abspath(__file__), str(theirs.fileno()),
                'writes' if self.with_writes else 'effects' if self.with_effects else '-'], theirs

    def receive(self, connection):
        with connection:
            connection.settimeout(60)
            try:
                launcher, number = struct.unpack('II', connection.recv(8))
                process = os.pidfd_open(launcher)
                listener = ctypes.CDLL(None).syscall(SYS_PIDFD_GETFD, process, number, 0)
                connection.send(b'x')
            except (OSError, struct.error):
                return
        os.close(process)
        if listener >= 0:
            self.serve(listener)

    def serve(self, listener):
        """Until nobody is left under the filter."""
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        while True:
            [(_, events)] = poller.poll()
            if not events & select.POLLIN:
                break
            call = bytearray(80)
            try:
                fcntl.ioctl(listener, RECEIVE, call)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # who called was killed meanwhile
                break
            number, pid, _, name, _, _, *arguments = struct.unpack('QIIiIQ6Q', call)
            self.judge(listener, number, pid, name, arguments)
        os.close(listener)

    def judge(self, listener, number, pid, name, arguments):
        if self.victim and self.strikes(pid, name, arguments, lambda: self.answer(listener, number)):
            return
        if name in EFFECTS:
            self.answer(listener, number)
            return
        if name == PWRITE:
            self.answer(listener, number, self.write_error(pid, arguments[0]))
            return
        if name != WRITE and self.holds_sync(pid, arguments[0], listener, number):
            self.is_held.set()
            return
        if name != WRITE:
            self.answer(listener, number, errno.EIO if self.takes_sync(pid, SYNCS[name], arguments[0]) else 0)
            return
        text = read_memory(pid, arguments[1], min(arguments[2], 4096)).decode(errors='replace')
        with self.lock:
            self.lines.append(text)
            is_wanted = bool(self.pattern and re.search(self.pattern, text))
            if is_wanted:
                self.pattern = None
                self.held = (listener, number)
        if is_wanted:
            self.is_held.set()
        else:
            self.answer(listener, number)

    def strikes(self, pid, name, arguments, go_on):
        """Is this the effect at which the victim dies? It is dead then."""
        text = effect(pid, name, arguments)
        if not text or process_of(pid) != self.victim:
            return False
        with self.lock:
            self.effects.append(text)
            if not self.blow or len(self.effects) != self.blow[0]:
                return False
            is_done = self.blow[1]
        if is_done:
            go_on()
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.victim, 9)
        self.has_struck.set()
        return True

    def write_error(self, pid, fd):
        with self.lock:
            failing = self.failing_writes
        try:
            return failing[1] if failing and re.search(failing[0], os.readlink('/proc/%d/fd/%d' % (pid, fd))) else 0
        except OSError:
            return 0

    def takes_sync(self, pid, call, fd):
        """Is this the sync that is to fail? It fails once."""
        path = ''
        if call not in ('sync', 'msync'):
            try:
                path = os.readlink('/proc/%d/fd/%d' % (pid, fd))
            except OSError:
                pass
        with self.lock:
            self.syncs.append((time.time(), call, path))
            if not self.sync_pattern or not re.search(self.sync_pattern, path):
                return False
            if self.sync_passing:
                self.sync_passing -= 1
                return False
            self.sync_pattern = None
            return True

    def holds_sync(self, pid, fd, listener, number):
        """Is this the sync that is to wait?"""
        with self.lock:
            if not self.held_sync:
                return False
            pattern, passing = self.held_sync
            try:
                path = os.readlink('/proc/%d/fd/%d' % (pid, fd))
            except OSError:
                return False
            if not re.search(pattern, path):
                return False
            self.held_sync = (pattern, passing - 1) if passing else None
            if passing:
                return False
            self.held = (listener, number)
            return True

    def answer(self, listener, number, error=0):
        try:
            fcntl.ioctl(listener, SEND, bytearray(struct.pack('QqiI', number, 0, -error,
                                                              0 if error else CONTINUE)))
        except OSError:
            pass  # it was killed

    def hold(self, pattern):
        """The next line that fits waits."""
        with self.lock:
            self.pattern = pattern
        self.is_held.clear()

    def hold_sync(self, pattern, passing=0):
        """The next sync of a file whose path fits waits, before the kernel does it; passing: so many do not."""
        with self.lock:
            self.held_sync = (pattern, passing)
        self.is_held.clear()

    def fail_sync(self, pattern, passing=0):
        """The next sync of a file whose path fits answers EIO; passing: so many do not."""
        with self.lock:
            self.sync_pattern, self.sync_passing = pattern, passing

    def fail_writes(self, pattern, error=0):
        """From now on every pwrite to a file whose path fits answers this error, until pattern is None."""
        with self.lock:
            self.failing_writes = (pattern, error) if pattern else None

    def strike(self, victim, number=0, is_done=False):
        """This process dies at its effect of this number from now on (1: the next; 0: none, they are listed): right
        before the kernel does it, or right after."""
        with self.lock:
            self.effects, self.blow, self.victim = [], (number, is_done), victim
        self.has_struck.clear()

    def wait(self, timeout):
        return self.is_held.wait(timeout)

    def release(self, forget=True):
        """The line is written and its thread goes on; what is armed next stays armed without forget."""
        with self.lock:
            held, self.held = self.held, None
            if forget:
                self.pattern = None
        if held:
            self.answer(*held)


if __name__ == '__main__':
    launch(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
