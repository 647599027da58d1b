# SPDX-License-Identifier: Apache-2.0
"""Writes the seed corpora of the fuzz targets, those of images from our own builders. usage: make_seeds.py FOLDER"""
import json
import os
import struct
import sys
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'engine'))
import image_build as build  # noqa: E402
from image_lab import crc32c  # noqa: E402

KIB = 1 << 10


def put(folder, target, name, data):
    os.makedirs(os.path.join(folder, target), exist_ok=True)
    with open(os.path.join(folder, target, name), 'wb') as file:
        file.write(data)


def vhd(folder):
    for name, parent, locators in (('dynamic', None, []), ('differencing', build.VhdBuild(64 * KIB), [
            (b'W2ru', '.\\b.vhd'.encode('utf-16-le')), (b'W2ku', 'C:\\b.vhd'.encode('utf-16-le'))])):
        image = build.VhdBuild(64 * KIB, block=4 * KIB, parent=parent, locators=locators, name='b.vhd')
        image.blocks = {0: bytes(4 * KIB), 3: build.sectors(1, 5)}
        path = image.write(os.path.join(folder, 'seed'))
        with open(path, 'rb') as file:
            put(folder, 'vhd', name, file.read())
        os.unlink(path)
    put(folder, 'vhd', 'fixed', bytes(4 * KIB) + build.vhd_footer(4 * KIB, build.VHD_FIXED, uuid.uuid4()))


def locators(folder):
    linkage = ('parent_linkage', '{%s}' % uuid.uuid4())
    for name, pairs in (('relative', [linkage, ('relative_path', '.\\a\\base.vhdx')]),
                        ('all', [linkage, ('parent_linkage2', linkage[1]), ('relative_path', '..\\base.vhdx'),
                                 ('volume_path', '\\\\?\\Volume{26A21BDA}\\b.vhdx'),
                                 ('absolute_win32_path', '\\\\?\\d:\\vm\\b.vhdx')]),
                        ('root', [linkage, ('relative_path', '/etc/passwd')])):
        put(folder, 'locator', name, build.locator(pairs))


def log_entry(sequence, tail, descriptors, data=b''):
    head_length = (64 + len(descriptors) + 4095) & ~4095
    head = struct.pack('<4sIIIQII16sQQ', b'loge', 0, head_length + len(data), tail, sequence,
                       len(descriptors) // 32, 0, b'log-guid-of-test', 0, 0)
    entry = bytearray((head + descriptors).ljust(head_length, b'\0') + data)
    entry[4:8] = struct.pack('<I', crc32c(entry))
    return bytes(entry)


def logs(folder):
    sector = b'data' + bytes(4) + b'x' * 4084 + struct.pack('<I', 1)
    change = b'desc' + bytes(4) + bytes(8) + struct.pack('<QQ', 3 << 20, 1)
    zero = b'zero\0\0\0\0' + struct.pack('<QQQ', 8192, 4 << 20, 2)
    one = log_entry(1, 0, change, sector)
    put(folder, 'log', 'data', one)
    put(folder, 'log', 'data-and-zero', one + log_entry(2, 0, zero))
    put(folder, 'log', 'newer-tail', one + log_entry(2, len(one), zero))


def vhdx(folder):
    # Records of sparse-vhdx.h: where, 16-bit offset, count, bytes.
    put(folder, 'vhdx', 'nothing', b'')
    put(folder, 'vhdx', 'entry', struct.pack('<BHB8s', 6, 8, 8, struct.pack('<Q', 5 << 20 | 6)))
    put(folder, 'vhdx', 'parent', struct.pack('<BHB8s', 5, 0, 8, struct.pack('<II', 1 << 20, 2)))
    put(folder, 'vhdx', 'log', struct.pack('<BHB16s', 0, 48, 16, b'log-guid-of-test'))


def checkpoints(folder):
    # The checksum is made right by the target.
    source = b'raw /srv/a.raw, 4096 bytes'
    payload = (struct.pack('<QQIII', 1 << 20, 1 << 30, 1 << 20, 512, 4096) + b'\0' + b'vhdx'.ljust(15, b'\0')
               + struct.pack('<I', len(source)) + source)
    slots = [(b'gwjourn1' + struct.pack('<IIQ', 1, len(payload), number) + bytes(16) + payload).ljust(8192, b'\0')
             for number in (1, 2)]
    put(folder, 'checkpoint', 'one', slots[0])
    put(folder, 'checkpoint', 'two', slots[0] + slots[1])


def unfinished(folder):
    mib = 1 << 20
    put(folder, 'unfinished', 'empty', bytes(64))
    put(folder, 'unfinished', 'blocks', struct.pack('<4Q', 4 * mib | 6, 0, 6 * mib | 6, 2))
    put(folder, 'unfinished', 'overlap', struct.pack('<2Q', 5 * mib | 6, 5 * mib | 6))


def chain(folder):
    """The files that fuzz-chain.c changes, and records for them: which file, then as above."""
    files = os.path.join(folder, 'chain-files')
    os.makedirs(files, exist_ok=True)
    base = build.VhdxBuild(8 << 20)
    base.blocks = {0: (build.PRESENT, b'b' * 4096), 1: (build.PRESENT, b'b' * 4096), 6: (build.ZERO, None)}
    child = build.VhdxBuild(8 << 20, parent=build.vhdx_locator(base, '.\\base.vhdx'))
    child.blocks = {0: (build.PARTLY, build.sectors(0, 1, 17)), 2: (build.PRESENT, b'c' * 4096),
                    3: (build.ZERO, None), 5: (build.PARTLY, build.sectors(2047))}
    base.write(os.path.join(files, 'base.vhdx'))
    child.write(os.path.join(files, 'child.vhdx'))
    put(folder, 'chain', 'nothing', b'')
    for which in range(2):
        put(folder, 'chain', 'entry-%d' % which, struct.pack('<BBHB8s', which, 6, 8, 8, struct.pack('<Q', 4 << 20 | 6)))
    put(folder, 'chain', 'bitmap', struct.pack('<BBHB8s', 0, 7, 0, 8, struct.pack('<Q', 4 << 20 | 6)))
    put(folder, 'chain', 'alone', struct.pack('<BBHB8s', 0, 5, 0, 8, struct.pack('<II', 1 << 20, 0)))


def dpdk_header(kind, fields=(0, 0, 0, 0), part=0, parts=1, number=0):
    # Version, names, length and tag are put in by the target, as are number and key where they are 0.
    return struct.pack('<BBBBIIIQQQQQQ', 1, kind, part, parts, 1, 2, 0, number, *fields, 0)


def dpdk(folder):
    # Records of fuzz-dpdk.c: length, flags (1 marked, 2 padded by 64, the rest milliseconds), datagram.
    def script(mode, *datagrams):
        return bytes([mode]) + b''.join(struct.pack('<HB', len(data), flags) + data for flags, data in datagrams)

    write, message, ack, probe, close = 4, 5, 6, 7, 8
    one = (0, dpdk_header(write, (0, 0, 8, 0)) + b'bytes of a write')
    told = (0, dpdk_header(message, (1, 0, 7 << 32, 0)) + b'message')
    parts = [(0, dpdk_header(write, (2, 0, 1000 * i, 0), i, 3) + bytes(1000)) for i in (2, 0, 1)]
    acked = (4, dpdk_header(ack, (1, 2, 140, 50000)) + b'\0' * 63 + b'\xc0')
    end = (0, dpdk_header(close))
    for mode in (1, 2):
        put(folder, 'dpdk', 'write-%d' % mode, script(mode, one, told, (1, dpdk_header(probe)), acked, end))
        put(folder, 'dpdk', 'parts-%d' % mode, script(mode, *parts, told, one, acked))
        put(folder, 'dpdk', 'late-%d' % mode, script(mode, told, (252, dpdk_header(probe)), one, acked, told))
    setup = struct.pack('<II16sHHI', 5, 6, b'nonce of a core!', 4791, 8972, 2)
    put(folder, 'dpdk', 'open', b'\0' + (struct.pack('<BBBBIIIQ', 1, 1, 0, 1, 0, 0, 1168, 0) + setup + bytes(8) +
                                         struct.pack('<I5s', 5, b'hello')).ljust(1232, b'\0'))


def inet_sum(data):
    words = struct.unpack('>%dH' % ((len(data) + 1) // 2), data + b'\0' * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def frames(folder):
    # Inputs of fuzz-frames.c: 1 the IPv4 checksum is looked at, 2 ICMPv6's is put right; then the frame.
    ends = bytes(range(12))
    udp = struct.pack('>HHHH', 50001, 13560, 28, 0) + b'bytes of a datagram.'
    ipv4 = struct.pack('>BBHHHBBH', 0x45, 2, 20 + len(udp), 0, 0x4000, 64, 17, 0) + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    ipv4 = ipv4[:10] + struct.pack('>H', inet_sum(ipv4)) + ipv4[12:]
    near, far = (bytes.fromhex('20010db8') + bytes(11) + bytes([last]) for last in (1, 2))
    ipv6 = struct.pack('>IHBB', 0x60200000, len(udp), 17, 64) + near + far
    put(folder, 'frames', 'ipv4', b'\1' + ends + b'\x08\x00' + ipv4 + udp)
    put(folder, 'frames', 'ipv6', b'\0' + ends + b'\x86\xdd' + ipv6 + udp)
    for operation in (1, 2):
        put(folder, 'frames', 'arp-%d' % operation,
            b'\0' + ends + b'\x08\x06' + struct.pack('>HHBBH', 1, 0x800, 6, 4, operation) + bytes(range(20)))
    for kind in (135, 136):
        body = struct.pack('>I', 0) + far + bytes([kind - 134, 1]) + bytes(6)
        pseudo = near + far + struct.pack('>II', 4 + len(body), 58)
        head = struct.pack('>BBH', kind, 0, inet_sum(pseudo + bytes([kind, 0, 0, 0]) + body))
        put(folder, 'frames', 'nd-%d' % kind, b'\2' + ends + b'\x86\xdd' + struct.pack(
            '>IHBB', 0x60000000, 4 + len(body), 58, 255) + near + far + head + body)


def rdma(folder):
    # fuzz-rdma.c: form (0 fabric, 1 verbs) and what (0 request, 2 answer, 4 messages), then the bytes.
    def messages(*sends):
        return b''.join(struct.pack('<H', 16 + len(body)) + struct.pack('<BBHIQ', kind, 0, credits, len(body), written) +
                        body for kind, credits, written, body in sends)

    talk = messages((1, 0, 100, b'a message'), (2, 0, 5000, b''), *[(1, 0, 9000, b'')] * 40)
    asks = messages((3, 0, 0, b'8 bytes.'), (4, 0, 0, bytes(24)))
    put(folder, 'rdma', 'name', b'\xffg\2' + struct.pack('<HI', 0, 2) + bytes(16))
    for form, magic in ((0, b'g'), (1, b'gw')):
        put(folder, 'rdma', 'request-%d' % form, bytes([form]) + magic + bytes([2, 5]) + b'hello')
        put(folder, 'rdma', 'answer-%d' % form, bytes([form | 2]) + magic + bytes([2, 1]) + b'a reason')
        put(folder, 'rdma', 'messages-%d' % form, bytes([form | 4]) + talk + asks)


def peers(folder):
    """What the other side of a channel or a session says; the first byte chooses the decoder."""
    digest = bytes(range(16))
    for name, data in (('ready', b'\1\1' + struct.pack('<QQ', 77, 8 << 20)), ('mark', b'\0\2' + struct.pack('<I', 1)),
                       ('marked', b'\1\3' + struct.pack('<IQI', 1, 5000, 42)),
                       ('check', b'\0\4' + struct.pack('<I', 1 << 20) + digest),
                       ('checked', b'\1\5' + struct.pack('<I', 1))):
        put(folder, 'bench', name, data)
    entry = struct.pack('<BBHIQQ', 1, 1, 0, 4096, 1 << 20, 65536) + digest
    zero = struct.pack('<BBHIQQ', 3, 0, 1, 0, 0, 1 << 30) + digest
    for name, kind, items in (('extents', 1, [entry, zero]), ('applied', 3, [struct.pack('<Q', 9)]),
                              ('regions', 2, [struct.pack('<HHQQ', 0xffff, 0, 5, 8 << 20)]),
                              ('windows', 4, [struct.pack('<IQ', 1, 5)]), ('closed', 5, [struct.pack('<I', 1)] * 3)):
        put(folder, 'record', name, struct.pack('<HH', kind, len(items)) + b''.join(items))
    put(folder, 'tcp', 'writes', b'\1' + struct.pack('<BBHIQQ', 1, 0, 3, 4096, 5, 8192))
    put(folder, 'tcp', 'message', b'\1' + struct.pack('<BBHIQQ', 2, 0, 0, 100, 0, 0))
    put(folder, 'tcp', 'descriptor', b'\0' + struct.pack('<BBHIQQ', 1, 0, 0, 4096, 5, 8192))


def sessions(folder):
    """Control messages, in JSON and in frames."""
    one = '00112233445566778899aabbccddeeff'
    disk = {'kind': 'disk', 'name': 'vda', 'file': 'a.vhdx', 'target': '', 'size': 1 << 30, 'data': 1 << 20,
            'format': 'vhdx', 'fixed': False, 'block_size': 1 << 20, 'logical_sector': 512, 'physical_sector': 4096,
            'disk_id': one, 'data_id': one, 'source': 'vhdx a'}
    for name, first, message in (
            ('ram', 0, dict(disk, kind='ram', name='ram0')), ('disk', 0, disk), ('foreign', 0, dict(disk, format='qcow2')),
            ('members', 1, {'type': 'x', 'a': 7, 'epoch': one, 'link': one, 'lanes': [{'channel': 1, 'applied': 5}]}),
            ('text', 1, {'type': 'error', 'a': one, 'code': 28, 'message': 'full'}), ('list', 1, {'a': [1, 2, 3]}),
            ('source', 2, {'a': ['c', 'READY', 'RUNNING', 'ABORTED', 'NEVER_RAN', 'UNKNOWN', 'LOST']}),
            ('target', 3, {'a': ['FINISH', 'GO', 'ABORT', 'GO']}),
            ('compared', 5, {'type': 'compared', 'end': 66 << 20, 'granules': [2, one, 3, one, 60, one]})):
        put(folder, 'session', name, bytes([first]) + json.dumps(message).encode())
    put(folder, 'session', 'path', b'\4folder/../disk.raw')
    text = json.dumps({'godwit': '0.1', 'protocol': 1, 'instance': one, 'name': 'hosta', 'ok': True}).encode()
    frames = struct.pack('<IB', len(text), 1) + text + struct.pack('<IB4s', 4, 3, bytes(4)) + struct.pack('<IB', 3, 2) + b'abc'
    put(folder, 'link', 'frames', b'\0' + frames)
    put(folder, 'link', 'hello', b'\1' + bytes(range(52)))
    put(folder, 'link', 'seal', b'\2' + bytes(64))
    # The start of a ClientHello.
    put(folder, 'link', 'tls', b'\3\x16\x03\x01\0\x30\1\0\0\x2c\3\3' + bytes(32) + b'\0\0\2\x13\2\1\0\0\0')


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for make in (vhd, locators, logs, vhdx, chain, dpdk, frames, rdma, checkpoints, unfinished, peers, sessions):
        make(folder)
    with open(os.path.join(folder, 'done'), 'w') as file:
        file.write('')


if __name__ == '__main__':
    main()
