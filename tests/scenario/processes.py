# SPDX-License-Identifier: Apache-2.0
"""What a process has, seen from outside: its files, its locks, the sockets on its command line."""
import os
import re
import stat


def open_files(pid):
    """What a process has open: how many of each kind. Numbers of sockets and pipes tell nothing."""
    counts = {}
    folder = '/proc/%d/fd' % pid
    for name in os.listdir(folder):
        try:
            kind = re.sub(r':\[\d+\]', '', os.readlink(os.path.join(folder, name)))
        except OSError:
            continue
        kind = re.sub(r'/\d+/', '/N/', kind)
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def file_locks(pid):
    """The locks that a process holds on files: (kind, mode, path, range). Locks of open
    file descriptions have no owner, so they are found by the regular files that the process has open: an
    inode's number alone is somebody else's on another file system, and SQLite makes some files anew."""
    paths = {}
    folder = '/proc/%d/fd' % pid
    for name in os.listdir(folder):
        try:
            status = os.stat(os.path.join(folder, name))
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            inode = '%02x:%02x:%d' % (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
            paths[inode] = os.readlink(os.path.join(folder, name))
    found = []
    with open('/proc/locks') as handle:
        for line in handle:
            words = line.split()
            if words[1] != '->' and words[5] in paths:
                found.append((words[1], words[3], paths[words[5]], words[6], words[7]))
    return sorted(found)


def chardev_path(words, wanted):
    """The path of a socket chardev on a QEMU command line."""
    for option, value in zip(words, words[1:]):
        if option == '-chardev' and re.search(r'(^|,)id=%s(,|$)' % re.escape(wanted), value):
            path = re.search(r'(?:^|,)path=([^,]+)', value)
            return path.group(1) if path else None
    return None
