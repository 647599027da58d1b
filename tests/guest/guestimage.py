# SPDX-License-Identifier: Apache-2.0
"""Builds the verifiable guest's program and writes disk images that boot it.

It decides nothing about QEMU (guestctl.py does). Images are written as sparse raw files and converted
by qemu-img, so that nothing of godwit's own takes part in making what its tests compare with.
"""
import os
import random
import struct
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20
BLOCK = 4096
DISK_LIMIT = 2
COMPILE = ['-m64', '-O2', '-ffreestanding', '-fno-builtin', '-fno-tree-loop-distribute-patterns',
           '-mgeneral-regs-only', '-mno-red-zone', '-fno-stack-protector', '-fno-pic',
           '-fcf-protection=none', '-fno-asynchronous-unwind-tables', '-Wall', '-Wextra', '-Werror',
           '-static', '-nostdlib', '-no-pie', '-Wl,--build-id=none', '-Wl,--oformat=binary']


def build_boot(out, compiler=None):
    """Compiles the program's files into the flat file that lies at the start of the disk."""
    sources = [os.path.join(HERE, name) for name in ('boot.S', 'guest.c', 'virtio.c', 'elastic.c')]
    script = '-Wl,-T,' + os.path.join(HERE, 'guest.ld')
    subprocess.run([compiler or os.environ.get('CC', 'cc')] + COMPILE + [script] + sources
                   + ['-o', out], check=True)


def parse_size(text):
    """1G, 512M, 64K or bytes."""
    units = {'K': 1 << 10, 'M': MIB, 'G': 1 << 30, 'T': 1 << 40}
    text = text.strip().upper()
    if text and text[-1] in units:
        return int(float(text[:-1]) * units[text[-1]])
    return int(text)


def configuration(options):
    """The configuration's sector: struct configuration of guest.c."""
    ranges = []
    for size in options['disk_sizes'][:DISK_LIMIT]:
        first = options['write_start_mib'] * MIB // BLOCK
        count = min(options['write_range_mib'] * MIB, size - first * BLOCK) // BLOCK
        if count <= 0:
            raise ValueError('a disk of %d bytes has no room for the write range' % size)
        ranges.append((first, count))
    disk_count = len(ranges) if options['writes_per_tick'] else 0
    packed = struct.pack('<8sQ6I', b'GWGUEST1', options['seed'], options['span_mib'],
                         options['hot_mib'], options['pages_per_tick'],
                         options['writes_per_tick'], options['reads_per_tick'], disk_count)
    for first, count in ranges:
        packed += struct.pack('<2I', first, count)
    return packed.ljust(512, b'\0')


def fill_random(handle, start, length, seed):
    """Random data that is the same for the same seed."""
    source = random.Random(seed)
    handle.seek(start)
    while length > 0:
        piece = min(length, 4 * MIB)
        handle.write(source.randbytes(piece))
        length -= piece


def convert(raw, out, image_format, fixed):
    if image_format == 'raw':
        os.replace(raw, out)
        return
    command = ['qemu-img', 'convert', '-f', 'raw', '-O', image_format]
    if image_format == 'vhdx':
        command += ['-o', 'subformat=' + ('fixed' if fixed else 'dynamic')]
    subprocess.run(command + [raw, out], check=True)
    os.unlink(raw)


def make_image(out, size, image_format='raw', fixed=False, boot=None, fill_mib=0, second_size=None,
               **workload):
    """Writes one bootable image of size bytes. workload: seed, span_mib, hot_mib, pages_per_tick,
    writes_per_tick, reads_per_tick, write_start_mib, write_range_mib (see guest.c). second_size: the
    size of the second disk, which the guest then writes as well."""
    options = {'seed': 1, 'span_mib': 64, 'hot_mib': 0, 'pages_per_tick': 0, 'writes_per_tick': 0,
               'reads_per_tick': 0, 'write_start_mib': 16, 'write_range_mib': 256}
    unknown = set(workload) - set(options)
    if unknown:
        raise TypeError('unknown workload options: %s' % ', '.join(sorted(unknown)))
    options.update(workload)
    options['disk_sizes'] = [size] + ([second_size] if second_size else [])
    folder = os.path.dirname(os.path.abspath(out))
    with tempfile.TemporaryDirectory(dir=folder, prefix='.guest-') as scratch:
        program = boot
        if not program:
            program = os.path.join(scratch, 'boot.bin')
            build_boot(program)
        with open(program, 'rb') as handle:
            code = bytearray(handle.read())
        code[512:1024] = configuration(options)
        raw = os.path.join(scratch, 'raw')
        with open(raw, 'wb') as handle:
            handle.write(code)
            if fill_mib:
                start = (options['write_start_mib'] + options['write_range_mib']) * MIB
                if start + fill_mib * MIB > size:
                    raise ValueError('%d MiB of data do not fit behind the write range' % fill_mib)
                fill_random(handle, start, fill_mib * MIB, options['seed'])
            handle.truncate(size)
        convert(raw, out, image_format, fixed)


def make_data_image(out, size, image_format='raw', fixed=False, fill_mib=0, seed=1):
    """An image with no program: a second disk, or one for copies. The data begins at a quarter."""
    folder = os.path.dirname(os.path.abspath(out))
    with tempfile.TemporaryDirectory(dir=folder, prefix='.guest-') as scratch:
        raw = os.path.join(scratch, 'raw')
        with open(raw, 'wb') as handle:
            if fill_mib:
                start = size // 4 // MIB * MIB
                if start + fill_mib * MIB > size:
                    raise ValueError('%d MiB of data do not fit' % fill_mib)
                fill_random(handle, start, fill_mib * MIB, seed)
            handle.truncate(size)
        convert(raw, out, image_format, fixed)
