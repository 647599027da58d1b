#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A file system that fails on command: files of one folder, passed through, over the kernel's FUSE protocol
(fuse(4), linux/fuse.h) with no library. Each request is answered by one system call on the file behind it.

A fault is a line in the control file: OPERATION ERRNO [NAME] [from=BYTES]. The operation is read, write, sync,
space (write and allocate), flags (a rename with any, as RENAME_NOREPLACE; many file systems answer EINVAL) or link; NAME is a part of the file's name; from= lets that many bytes of the operation
pass first. Requests of QEMU are never failed: the guest's own I/O is not what is tested. An empty control file is
a file system in order. Two more lines: slow MILLISECONDS [NAME] makes each write take so long; lie NAME makes a
sync say that it is done, and do nothing.

With a fourth argument, a folder, it also knows what a loss of power leaves. There is, for each file that was ever
synced, its content as of its last sync; and the names are those of the last sync of the folder. SIGUSR1 is the
power going: the folder is filled with that, and the process ends. (Harder than a disk: nothing that was not
synced survives.)"""
import ctypes
import errno
import os
import signal
import stat
import struct
import sys
import time

ROOT_ID = 1
HEADER = struct.Struct('<IIQQIIII')
ATTR = struct.Struct('<QQQQQQIIIIIIIIII')
KEPT_S = 0  # attributes and names are asked for each time
(LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR,
 RELEASEDIR, FSYNCDIR, CREATE, UNLINK, RENAME2, FALLOCATE, LSEEK, BATCH_FORGET, GETXATTR, LISTXATTR, ACCESS, IOCTL,
 RENAME, DESTROY, INTERRUPT, STATX, MKDIR, RMDIR, LINK) = (1, 2, 3, 4, 14, 15, 16, 17, 18, 20, 25, 26, 27, 28, 29, 30, 35, 10, 45, 43, 46,
                                       42, 22, 23, 34, 39, 12, 38, 36, 52,
                                              9, 11, 13)
SILENT = (FORGET, BATCH_FORGET, INTERRUPT)
DIRECT_IO = 1
MAX_WRITE = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
LIBC.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'libc')
    return result


class Faults:
    """What the control file asks for."""

    def __init__(self, path):
        self.path = path
        self.passed = {}

    def lines(self):
        with open(self.path) as handle:
            return [line.split() for line in handle.read().splitlines() if line]

    def pause(self, name):
        """As long as a write is to take."""
        for words in self.lines():
            if words[0] == 'slow' and (len(words) < 3 or words[2] in name):
                time.sleep(int(words[1]) / 1000)

    def lies(self, name):
        return any(words[0] == 'lie' and words[1] in name for words in self.lines())

    def strike(self, operation, name, pid, length=0):
        """Raises what the control file says for this operation on this file."""
        with open(self.path) as handle:
            lines = handle.read().splitlines()
        for line in lines:
            words = line.split()
            if not words or words[0] != operation or is_qemu(pid):
                continue
            limits = [int(word[5:]) for word in words if word.startswith('from=')]
            names = [word for word in words[2:] if not word.startswith('from=')]
            if names and names[0] not in name:
                continue
            self.passed[line] = self.passed.get(line, 0) + length
            if not limits or self.passed[line] > limits[0]:
                raise OSError(getattr(errno, words[1]), 'a fault that was asked for')


def is_qemu(pid):
    """The process of a thread; io_uring's own threads belong to theirs."""
    try:
        with open('/proc/%d/status' % pid) as handle:
            group = next(line.split()[1] for line in handle if line.startswith('Tgid:'))
        with open('/proc/%s/comm' % group) as handle:
            return handle.read().startswith('qemu')
    except (OSError, StopIteration):
        return False


class Durable:
    """What would be there after a loss of power, of a folder without folders."""

    def __init__(self, folder, kept):
        self.folder, self.kept = folder, kept
        self.files = {}   # inode: (descriptor of the copy, ranges written since the last sync)
        self.names = {}
        self.sync_names()
        signal.signal(signal.SIGUSR1, self.lose_power)

    def entry(self, fd):
        inode = os.fstat(fd).st_ino
        if inode not in self.files:
            self.files[inode] = (None, [])
        return inode

    def written(self, fd, offset, length):
        self.files[self.entry(fd)][1].append((offset, length))

    def sync(self, fd):
        inode = self.entry(fd)
        copy, ranges = self.files[inode]
        if copy is None:
            copy = os.open(os.path.join(self.kept, '.%d' % inode), os.O_RDWR | os.O_CREAT)
        size = os.fstat(fd).st_size
        for offset, length in ranges:
            if offset < size:
                self.copy_range(fd, copy, offset, min(length, size - offset))
        os.ftruncate(copy, size)
        self.files[inode] = (copy, [])

    @staticmethod
    def copy_range(fd, copy, offset, length):
        while length > 0:
            piece = os.pread(fd, min(length, 1 << 20), offset)
            if any(piece):
                os.pwrite(copy, piece, offset)
            else:
                checked(LIBC.fallocate(copy, 3, offset, len(piece)))  # a hole
            offset += len(piece)
            length -= len(piece)

    def sync_names(self):
        self.names = {name: os.lstat(os.path.join(self.folder, name)).st_ino for name in os.listdir(self.folder)}

    def lose_power(self, number, frame):
        for name, inode in self.names.items():
            path = os.path.join(self.kept, name)
            if inode in self.files and self.files[inode][0] is not None:
                os.link(os.path.join(self.kept, '.%d' % inode), path)
            else:
                open(path, 'w').close()  # its name alone was synced
        for inode, (copy, _) in self.files.items():
            if copy is not None:
                os.unlink(os.path.join(self.kept, '.%d' % inode))
        os._exit(0)


class FaultFolder:
    def __init__(self, device, folder, faults, durable=None):
        self.durable = durable
        self.device, self.folder, self.faults = device, folder, faults
        self.paths = {ROOT_ID: ''}
        self.ids = {'': ROOT_ID}
        self.handles = {}

    # ------------------------------------------------------------------------------ names and numbers

    def real(self, path):
        return os.path.join(self.folder, path)

    def identify(self, path):
        if path not in self.ids:
            self.ids[path] = max(self.paths) + 1
            self.paths[self.ids[path]] = path
        return self.ids[path]

    def child(self, parent, name):
        return os.path.join(self.paths[parent], name.rstrip(b'\0').decode())

    def attributes(self, path, fd=None):
        s = os.fstat(fd) if fd is not None else os.lstat(self.real(path))
        times = [s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns]
        return ATTR.pack(s.st_ino, s.st_size, s.st_blocks,
                         *[t // 10**9 for t in times], *[t % 10**9 for t in times],
                         s.st_mode, s.st_nlink, s.st_uid, s.st_gid, 0, 4096, 0)

    def entry(self, path):
        attributes = self.attributes(path)
        return struct.pack('<QQQQII', self.identify(path), 0, KEPT_S, KEPT_S, 0, 0) + attributes

    def keep(self, path, fd):
        self.handles[fd] = path
        return struct.pack('<QII', fd, DIRECT_IO, 0)

    # ------------------------------------------------------------------------------------- operations

    def on_init(self, node, body, pid):
        major, minor, readahead, flags = struct.unpack_from('<IIII', body)
        kept = flags & (1 << 5 | 1 << 3)  # big writes; O_TRUNC in open
        return struct.pack('<IIIIHHIIHHI', 7, min(minor, 31), readahead, kept, 16, 12, MAX_WRITE, 1, 0, 0,
                           0) + bytes(28)

    def on_lookup(self, node, body, pid):
        return self.entry(self.child(node, body))

    def on_getattr(self, node, body, pid):
        flags, _, handle = struct.unpack_from('<IIQ', body)
        return struct.pack('<QII', KEPT_S, 0, 0) + self.attributes(self.paths[node],
                                                                   handle if flags & 1 else None)

    def on_setattr(self, node, body, pid):
        valid, _, handle, size = struct.unpack_from('<IIQQ', body)
        path = self.real(self.paths[node])
        if valid & 8:
            os.truncate(path, size)
        if valid & 1:
            os.chmod(path, stat.S_IMODE(struct.unpack_from('<I', body, 68)[0]))
        return struct.pack('<QII', KEPT_S, 0, 0) + self.attributes(self.paths[node])

    def on_open(self, node, body, pid):
        flags = struct.unpack_from('<I', body)[0] & ~(os.O_DIRECT | os.O_CREAT | os.O_EXCL)
        path = self.paths[node]
        return self.keep(path, os.open(self.real(path), flags | os.O_CLOEXEC))

    on_opendir = on_open

    def on_create(self, node, body, pid):
        flags, mode = struct.unpack_from('<II', body)
        path = self.child(node, body[16:])
        fd = os.open(self.real(path), flags & ~os.O_DIRECT | os.O_CREAT | os.O_CLOEXEC, mode & 0o7777)
        return self.entry(path) + self.keep(path, fd)

    def on_read(self, node, body, pid):
        handle, offset, size = struct.unpack_from('<QQI', body)
        self.faults.strike('read', self.handles[handle], pid, size)
        return os.pread(handle, size, offset)

    def on_write(self, node, body, pid):
        handle, offset, size = struct.unpack_from('<QQI', body)
        for operation in ('write', 'space'):
            self.faults.strike(operation, self.handles[handle], pid, size)
        self.faults.pause(self.handles[handle])
        self.note(handle, offset, size)
        return struct.pack('<II', os.pwrite(handle, body[40:40 + size], offset), 0)

    def on_fallocate(self, node, body, pid):
        handle, offset, length, mode = struct.unpack_from('<QQQI', body)
        self.faults.strike('space', self.handles[handle], pid, length)
        checked(LIBC.fallocate(handle, mode, offset, length))
        self.note(handle, offset, length)
        return b''

    def note(self, handle, offset, length):
        if self.durable:
            self.durable.written(handle, offset, length)

    def on_lseek(self, node, body, pid):
        handle, offset, whence = struct.unpack_from('<QQI', body)
        return struct.pack('<Q', os.lseek(handle, offset, whence))

    def on_fsync(self, node, body, pid):
        handle = struct.unpack_from('<Q', body)[0]
        name = self.handles[handle]
        self.faults.strike('sync', name, pid)
        if self.faults.lies(name):
            return b''
        if not self.durable:
            os.fsync(handle)
        elif name:
            self.durable.sync(handle)
        else:
            self.durable.sync_names()
        return b''

    on_fsyncdir = on_fsync

    def on_flush(self, node, body, pid):
        return b''

    on_access = on_flush

    def on_release(self, node, body, pid):
        handle = struct.unpack_from('<Q', body)[0]
        del self.handles[handle]
        os.close(handle)
        return b''

    on_releasedir = on_release

    def on_unlink(self, node, body, pid):
        path = self.child(node, body)
        os.unlink(self.real(path))
        self.paths.pop(self.ids.pop(path, None), None)
        return b''

    def on_mkdir(self, node, body, pid):
        path = self.child(node, body[8:])
        os.mkdir(self.real(path), struct.unpack_from('<I', body)[0])
        return self.entry(path)

    def on_rmdir(self, node, body, pid):
        path = self.child(node, body)
        os.rmdir(self.real(path))
        self.paths.pop(self.ids.pop(path, None), None)
        return b''

    def on_rename2(self, node, body, pid):
        new_node, flags = struct.unpack_from('<QI', body)
        old, new = [self.child(at, name) for at, name in
                    zip((node, new_node), body[16:].split(b'\0'))]
        if flags:
            self.faults.strike('flags', old, pid)
        checked(LIBC.renameat2(-100, self.real(old).encode(), -100, self.real(new).encode(), flags))
        number = self.ids.pop(old, None)
        self.paths.pop(self.ids.pop(new, None), None)
        if number is not None:
            self.ids[new], self.paths[number] = number, new
        self.handles = {fd: new if path == old else path for fd, path in self.handles.items()}
        return b''

    def on_rename(self, node, body, pid):
        return self.on_rename2(node, body[:8] + bytes(8) + body[8:], pid)

    def on_link(self, node, body, pid):
        old = self.paths[struct.unpack_from('<Q', body)[0]]
        self.faults.strike('link', old, pid)
        path = self.child(node, body[8:])
        os.link(self.real(old), self.real(path))
        return self.entry(path)

    def on_statfs(self, node, body, pid):
        s = os.statvfs(self.folder)
        return struct.pack('<QQQQQIIII', s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize,
                           255, s.f_frsize, 0) + bytes(24)

    def on_readdir(self, node, body, pid):
        _, offset, size = struct.unpack_from('<QQI', body)
        found = b''
        names = ['.', '..'] + sorted(os.listdir(self.real(self.paths[node])))
        for number, name in list(enumerate(names))[offset:]:
            item = struct.pack('<QQII', number + 1, number + 1, len(name.encode()), 0) + name.encode()
            item += bytes(-len(item) % 8)
            if len(found) + len(item) > size:
                break
            found += item
        return found

    # ------------------------------------------------------------------------------------------- loop

    def answer(self, unique, error, data=b''):
        os.write(self.device, struct.pack('<IiQ', 16 + len(data), -error, unique) + data)

    def serve(self):
        names = {value: 'on_' + name.lower() for name, value in globals().items()
                 if name.isupper() and isinstance(value, int) and hasattr(self, 'on_' + name.lower())}
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + 65536)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # unmounted
            _, code, unique, node, _, _, pid, _ = HEADER.unpack_from(request)
            if code in SILENT:
                continue
            try:
                if code not in names:
                    raise OSError(errno.ENOSYS, 'not supported')
                self.answer(unique, 0, getattr(self, names[code])(node, request[HEADER.size:], pid))
            except (OSError, KeyError) as error:
                self.answer(unique, getattr(error, 'errno', None) or errno.ENOENT)
            if code == DESTROY:
                return


def main():
    """faultfs.py FOLDER MOUNTPOINT CONTROL [KEPT]: mounts, says so with a line, and serves until unmounted."""
    folder, mountpoint, control = sys.argv[1:4]
    durable = Durable(folder, sys.argv[4]) if sys.argv[4:] else None
    device = os.open('/dev/fuse', os.O_RDWR | os.O_CLOEXEC)
    options = 'fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=%d' % (device, MAX_WRITE)
    checked(LIBC.mount(b'faultfs', mountpoint.encode(), b'fuse.faultfs', ctypes.c_ulong(6), options.encode()))
    print('mounted', flush=True)
    FaultFolder(device, folder, Faults(control), durable).serve()


if __name__ == '__main__':
    main()
