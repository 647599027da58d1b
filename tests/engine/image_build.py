# SPDX-License-Identifier: Apache-2.0
"""Writes VHDX images that no tool here makes: differencing ones, with sector bitmaps, in every block state.

Written from MS-VHDX, without the code under test: what godwit reads of them is compared with libvhdi, or with
the bytes that went in.
"""
import os
import struct
import uuid

from image_lab import MIB, crc32c

KIB = 1 << 10
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, PRESENT, PARTLY = 0, 1, 2, 3, 6, 7
REGION_BAT = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
REGION_METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")
ITEMS = {
    "parameters": uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B"),
    "size": uuid.UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8"),
    "id": uuid.UUID("BECA12AB-B2E6-4523-93EF-C309E000C746"),
    "logical": uuid.UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F"),
    "physical": uuid.UUID("CDA348C7-445D-4471-9CC9-E9885251C556"),
    "locator": uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"),
}
LOCATOR_TYPE = uuid.UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")


def locator(pairs, kind=LOCATOR_TYPE):
    """pairs: [(key, value)] of text, or of bytes that go in as they are."""
    texts = [[text if isinstance(text, bytes) else text.encode("utf-16-le") for text in pair] for pair in pairs]
    at = 20 + 12 * len(texts)
    head, body = kind.bytes_le + struct.pack("<HH", 0, len(texts)), b""
    for key, value in texts:
        head += struct.pack("<IIHH", at + len(body), at + len(body) + len(key), len(key), len(value))
        body += key + value
    return head + body


class VhdxBuild:
    """blocks: {index: (state, content)}; content of a PARTLY block is {sector: bytes of one sector}."""

    def __init__(self, size, block=MIB, sector=512, parent=None, **more):
        self.size, self.block, self.sector = size, block, sector
        self.blocks = {}
        self.data_id = more.get("data_id", uuid.uuid4())
        self.parent = parent      # the bytes of the locator item, or None
        self.items = more.get("items", [])   # [(guid, flags, bytes)]: more metadata
        self.regions = more.get("regions", [])  # [(guid, offset, length, required)]
        self.chunk_ratio = (1 << 23) * sector // block
        self.block_count = (size + block - 1) // block
        self.place_of = {}

    def bat_index(self, block):
        return block + block // self.chunk_ratio

    def bitmap_index(self, block):
        return (block // self.chunk_ratio + 1) * (self.chunk_ratio + 1) - 1

    def metadata(self):
        flags = 2 if self.parent else 0
        items = [
            (ITEMS["parameters"], 4, struct.pack("<II", self.block, flags)),
            (ITEMS["size"], 6, struct.pack("<Q", self.size)),
            (ITEMS["id"], 6, b"disk id of tests"),
            (ITEMS["logical"], 6, struct.pack("<I", self.sector)),
            (ITEMS["physical"], 6, struct.pack("<I", 4096)),
        ] + self.items
        if self.parent:
            items.append((ITEMS["locator"], 4, self.parent))
        table = b"metadata" + struct.pack("<HH", 0, len(items)) + bytes(20)
        body = b""
        for guid, item_flags, data in items:
            table += guid.bytes_le + struct.pack("<IIII", 64 * KIB + len(body), len(data), item_flags, 0)
            body += data + bytes(-len(data) % 8)
        return table.ljust(64 * KIB, b"\0") + body

    def header(self, sequence):
        head = bytearray(struct.pack("<4sIQ16s16s16sHHIQ", b"head", 0, sequence, b"file guid of one",
                                     self.data_id.bytes_le, bytes(16), 0, 1, MIB, MIB).ljust(4096, b"\0"))
        head[4:8] = struct.pack("<I", crc32c(head))
        return head

    def region_table(self, bat_length):
        regions = [(REGION_METADATA, 2 * MIB, MIB, 1), (REGION_BAT, 3 * MIB, bat_length, 1)] + self.regions
        table = struct.pack("<4sIII", b"regi", 0, len(regions), 0)
        for guid, offset, length, required in regions:
            table += guid.bytes_le + struct.pack("<QII", offset, length, required)
        table = bytearray(table.ljust(64 * KIB, b"\0"))
        table[4:8] = struct.pack("<I", crc32c(table))
        return table

    def bitmap_bits(self, chunk):
        """The sector bitmap of a chunk: 1 for what is here."""
        bits = bytearray(MIB)
        for index, (state, content) in self.blocks.items():
            if index // self.chunk_ratio != chunk or state != PARTLY:
                continue
            first = index % self.chunk_ratio * (self.block // self.sector)
            for sector in content:
                bits[(first + sector) // 8] |= 1 << (first + sector) % 8
        return bits

    def write(self, path):
        entries = self.bitmap_index(self.block_count - 1) + 1
        bat_length = (8 * entries + MIB - 1) // MIB * MIB
        place = 3 * MIB + bat_length
        with open(path, "wb") as file:
            def put(offset, data):
                file.seek(offset)
                file.write(data)

            put(0, b"vhdxfile" + "godwit tests".encode("utf-16-le"))
            put(64 * KIB, self.header(1))
            put(128 * KIB, self.header(2))
            put(192 * KIB, self.region_table(bat_length))
            put(256 * KIB, self.region_table(bat_length))
            put(2 * MIB, self.metadata())
            for index, (state, content) in sorted(self.blocks.items()):
                at = 3 * MIB + 8 * self.bat_index(index)
                if state not in (PRESENT, PARTLY):
                    put(at, struct.pack("<Q", state))
                    continue
                put(at, struct.pack("<Q", place | state))
                self.place_of[index] = place
                if state == PRESENT:
                    put(place, content)
                else:
                    for sector, data in content.items():
                        put(place + sector * self.sector, data)
                place += self.block
            for chunk in {index // self.chunk_ratio for index, entry in self.blocks.items() if entry[0] == PARTLY}:
                put(3 * MIB + 8 * self.bitmap_index(chunk * self.chunk_ratio), struct.pack("<Q", place | PRESENT))
                put(place, self.bitmap_bits(chunk))
                place += MIB
            file.truncate(place)
        return path


def vhdx_locator(parent, relative=None, **more):
    """What Hyper-V writes into a child of parent (a VhdxBuild)."""
    pairs = [("parent_linkage", "{%s}" % parent.data_id)]
    pairs += [("relative_path", relative)] if relative else []
    pairs += [(key, value) for key, value in more.items()]
    return locator(pairs)


def expected(build, below=None):
    """The bytes of a disk: below is the parent's, if it has one."""
    disk = bytearray(build.size)
    if below is not None:
        disk[:min(len(below), build.size)] = below[:build.size]
    for index, (state, content) in build.blocks.items():
        begin = index * build.block
        if state == PRESENT:
            disk[begin:begin + build.block] = content.ljust(build.block, b"\0")
        elif state == PARTLY:
            for sector, data in content.items():
                disk[begin + sector * build.sector:begin + (sector + 1) * build.sector] = data
        elif state != NOT_PRESENT or below is None:
            disk[begin:begin + build.block] = bytes(build.block)
    return bytes(disk[:build.size])


def sectors(*numbers, size=512):
    return {number: os.urandom(size) for number in numbers}


# ---- VHD, from "Virtual Hard Disk Image Format Specification" 1.0 ----

VHD_FIXED, VHD_DYNAMIC, VHD_DIFFERENCING = 2, 3, 4


def vhd_sealed(data, at):
    data = bytearray(data)
    data[at:at + 4] = bytes(4)
    data[at:at + 4] = struct.pack(">I", ~sum(data) & 0xFFFFFFFF)
    return bytes(data)


def vhd_footer(size, kind, disk_id, creator=b"win ", **more):
    offset = 512 if kind != VHD_FIXED else 0xFFFFFFFFFFFFFFFF
    footer = struct.pack(">8sIIQI4sI4sQQHBBII16sB", b"conectix", 2, 0x10000, offset, 1, creator, 0x60001, b"Wi2k",
                         size, more.get("current", size), *more.get("geometry", (65535, 16, 255)), kind, 0,
                         disk_id.bytes, more.get("saved", 0)).ljust(512, b"\0")
    return vhd_sealed(footer, 64)


class VhdBuild:
    """blocks: {index: {sector: 512 bytes}}, or {index: bytes of the whole block}.

    locators: [(code, bytes)]."""

    def __init__(self, size, block=2 * MIB, parent=None, locators=(), **more):
        self.size, self.block, self.parent, self.locators, self.more = size, block, parent, locators, more
        self.blocks = {}
        self.data_id = uuid.uuid4()
        self.place_of = {}
        self.table = 1536
        self.kind = VHD_DIFFERENCING if parent else VHD_DYNAMIC

    def header(self, place):
        entries = (self.size + self.block - 1) // self.block
        head = struct.pack(">8sQQIIIII", b"cxsparse", (1 << 64) - 1, self.table, 0x10000, entries, self.block, 0, 0)
        head = head[:40] + (self.parent.data_id.bytes if self.parent else bytes(16)) + bytes(8)
        head += self.more.get("name", "").encode("utf-16-be").ljust(512, b"\0")
        for code, data in self.locators:
            head += struct.pack(">4sIIIQ", code, 512, len(data), 0, place)
            place += 512
        return vhd_sealed(head.ljust(1024, b"\0"), 36)

    def write(self, path):
        entries = (self.size + self.block - 1) // self.block
        bat = [0xFFFFFFFF] * entries
        bitmap_size = (self.block // 512 // 8 + 511) // 512 * 512
        at = (self.table + 4 * entries + 511) // 512 * 512
        locators_at = at
        at += 512 * len(self.locators)
        footer = vhd_footer(self.size, self.kind, self.data_id, self.more.get("creator", b"win "),
                            geometry=self.more.get("geometry", (65535, 16, 255)))
        with open(path, "wb") as file:
            for index, content in sorted(self.blocks.items()):
                bat[index] = at // 512
                self.place_of[index] = at
                bits = bytearray(bitmap_size)
                if isinstance(content, bytes):
                    content = {i: content[512 * i:512 * i + 512] for i in range(self.block // 512)}
                for sector, data in content.items():
                    bits[sector // 8] |= 0x80 >> sector % 8
                    file.seek(at + bitmap_size + 512 * sector)
                    file.write(data)
                file.seek(at)
                file.write(bits)
                at += bitmap_size + self.block
            file.seek(0)
            file.write(footer + self.header(locators_at) + struct.pack(">%dI" % entries, *bat))
            for number, (_, data) in enumerate(self.locators):
                file.seek(locators_at + 512 * number)
                file.write(data)
            file.seek(at)
            file.write(footer)
        return path


def vhd_expected(build, below=None):
    disk = bytearray(build.size)
    if below is not None:
        disk[:min(len(below), build.size)] = below[:build.size]
    for index, content in build.blocks.items():
        begin = index * build.block
        if isinstance(content, bytes):
            disk[begin:begin + build.block] = content
        else:
            for sector, data in content.items():
                disk[begin + 512 * sector:begin + 512 * sector + 512] = data
    return bytes(disk[:build.size])
