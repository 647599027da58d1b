# SPDX-License-Identifier: Apache-2.0
"""Images that are not what they say. Each test breaks one thing in a VHDX that QEMU made."""
import os
import shutil
import struct
import sys
import tempfile
import unittest

from image_lab import Lab, MIB, Refused, Vhdx, crc32c, run, sha256

DAMAGED, UNSUPPORTED = 117, 95  # EUCLEAN, ENOTSUP


class MalformedBase(Lab):
    template = None

    @classmethod
    def setUpClass(cls):
        cls.folder_of_template = tempfile.mkdtemp(prefix="godwit-image-")
        cls.template = os.path.join(cls.folder_of_template, "good.vhdx")
        run("qemu-img", "create", "-f", "vhdx", "-o", "block_size=2M", cls.template, "100M")
        run("qemu-io", "-f", "vhdx", "-c", "write -P 1 0 4M", "-c", "write -P 2 90M 1M",
            cls.template)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder_of_template)

    def setUp(self):
        super().setUp()
        self.image = self.path("bad.vhdx")
        shutil.copy(self.template, self.image)
        self.vhdx = Vhdx(self.image)

    def rejects(self, code, *words):
        message = self.refused(code, list(words) + [self.image], "open", self.image, "vhdx")
        self.assertNotIn("\n", message)
        return message

    def opens(self):
        tool = self.tool()
        tool("open", self.image, "vhdx")
        self.assertEqual(tool.read(0, 512), b"\1" * 512)
        self.assertEqual(tool.read(90 * MIB, 512), b"\2" * 512)
        return tool


class Malformed(MalformedBase):
    def test_vhdx_accepts_the_template(self):
        self.opens()

    # What kind of file it is.

    def test_vhdx_rejects_missing_signature(self):
        self.vhdx.put(0, b"vhdxfilf")
        self.rejects(DAMAGED, "signature is missing", "format raw")

    def test_probe_rejects_missing_signature_of_vhdx_name(self):
        self.vhdx.put(0, b"vhdxfilf")
        self.refused(DAMAGED, ["named .vhdx", "format raw"], "open", self.image, "probe")

    def test_vhdx_rejects_raw_file(self):
        raw = self.raw("a.raw", 4 * MIB, [(0, MIB)])
        self.refused(DAMAGED, ["is not a VHDX"], "open", raw, "vhdx")

    def test_vhdx_rejects_empty_file(self):
        os.truncate(self.image, 0)
        self.rejects(DAMAGED, "too few for a VHDX")

    def test_raw_rejects_empty_file(self):
        os.truncate(self.image, 0)
        self.refused(DAMAGED, ["empty"], "open", self.image, "raw")

    def test_probe_rejects_qcow2(self):
        path = self.path("a.img")
        run("qemu-img", "create", "-f", "qcow2", path, "1M")
        self.refused(UNSUPPORTED, ["qcow2", "godwit copy"], "open", path, "probe")

    def test_open_rejects_folder(self):
        self.refused(21, ["folder"], "open", self.folder, "probe")

    def test_open_rejects_missing_file(self):
        self.refused(2, ["does not exist"], "open", self.path("none"), "probe")

    def test_open_rejects_fifo(self):
        os.mkfifo(self.path("fifo"))
        self.refused(22, ["neither"], "open", self.path("fifo"), "probe")

    # Truncated.

    def test_vhdx_rejects_truncated_header(self):
        os.truncate(self.image, 100 << 10)
        self.rejects(DAMAGED, "truncated")

    def test_vhdx_rejects_truncated_tables(self):
        os.truncate(self.image, self.vhdx.bat()[1] + 100)
        self.rejects(DAMAGED, "truncated", "copy it anew")

    def test_vhdx_rejects_truncated_blocks(self):
        os.truncate(self.image, os.path.getsize(self.image) - MIB)
        self.rejects(DAMAGED, "truncated", "copy it anew")

    # Headers.

    def test_vhdx_accepts_one_damaged_header(self):
        self.vhdx.put((128 << 10) + 100, b"x")
        self.opens()

    def test_vhdx_rejects_two_damaged_headers(self):
        self.vhdx.put((64 << 10) + 100, b"x")
        self.vhdx.put((128 << 10) + 100, b"x")
        self.rejects(DAMAGED, "both headers")

    def test_vhdx_accepts_identical_headers(self):
        self.vhdx.put(128 << 10, self.vhdx.get(64 << 10, 4096))
        self.opens()

    def test_vhdx_rejects_different_headers_of_one_sequence(self):
        self.vhdx.put(128 << 10, self.vhdx.get(64 << 10, 4096))
        self.vhdx.put((128 << 10) + 16, b"another file guid")
        self.vhdx.seal(128 << 10, 4096)
        self.rejects(DAMAGED, "same sequence number")

    def test_vhdx_reads_the_newer_header(self):
        # The older one is of a version that is refused, the newer one is not, and the reverse.
        for version, sequence in ((2, 1), (1, 1 << 50)):
            at = 64 << 10 if version == 2 else 128 << 10
            self.vhdx.put(at + 8, struct.pack("<Q", sequence))
            self.vhdx.put(at + 66, struct.pack("<H", version))
            self.vhdx.seal(at, 4096)
        self.opens()
        self.vhdx.put((64 << 10) + 8, struct.pack("<Q", 1 << 51))
        self.vhdx.seal(64 << 10, 4096)
        self.rejects(UNSUPPORTED, "version 2")

    def test_vhdx_rejects_log_length_not_of_mib(self):
        self.vhdx.header({68: struct.pack("<I", MIB + 4096)})
        self.rejects(DAMAGED, "log length")

    def test_vhdx_rejects_log_in_header_section(self):
        self.vhdx.header({72: struct.pack("<Q", 0)})
        self.rejects(DAMAGED, "the log cannot lie")

    def test_vhdx_rejects_log_offset_that_overflows(self):
        self.vhdx.header({72: struct.pack("<Q", (1 << 64) - MIB)})
        self.rejects(DAMAGED, "the log cannot lie")

    def test_vhdx_rejects_log_past_end(self):
        self.vhdx.header({72: struct.pack("<Q", 1 << 40), 48: b"g" * 16})
        self.rejects(DAMAGED, "truncated", "log")

    def test_vhdx_rejects_log_version(self):
        self.vhdx.header({64: struct.pack("<H", 1), 48: b"g" * 16})
        self.rejects(UNSUPPORTED, "log version 1", "qemu-img check")

    def test_vhdx_rejects_huge_log(self):
        os.truncate(self.image, 200 * MIB)
        self.vhdx.header({68: struct.pack("<I", 32 * MIB), 72: struct.pack("<Q", 150 * MIB),
                          48: b"g" * 16})
        self.rejects(UNSUPPORTED, "too large to replay")

    # Region tables.

    def test_vhdx_accepts_one_damaged_region_table(self):
        self.vhdx.put(192 << 10, b"nope")
        self.opens()

    def test_vhdx_rejects_two_damaged_region_tables(self):
        self.vhdx.put((192 << 10) + 100, b"x")
        self.vhdx.put((256 << 10) + 100, b"x")
        self.rejects(DAMAGED, "both region tables")

    def test_vhdx_rejects_too_many_regions(self):
        self.vhdx.regions({8: struct.pack("<I", 2048)})
        self.rejects(DAMAGED, "more than 2047")

    def test_vhdx_rejects_unknown_required_region(self):
        self.vhdx.regions({8: struct.pack("<I", 3),
                           16 + 64: b"u" * 16 + struct.pack("<QII", 1 << 40, MIB, 1)})
        self.rejects(UNSUPPORTED, "not known", "newer software")

    def test_vhdx_accepts_unknown_optional_region(self):
        self.vhdx.regions({8: struct.pack("<I", 3),
                           16 + 64: b"u" * 16 + struct.pack("<QII", 1 << 40, MIB, 0)})
        self.opens()

    def test_vhdx_rejects_region_listed_twice(self):
        entry = self.vhdx.bat()[0]
        guid = self.vhdx.get((192 << 10) + entry, 16)
        self.vhdx.regions({8: struct.pack("<I", 3),
                           16 + 64: guid + struct.pack("<QII", 1 << 40, MIB, 1)})
        self.rejects(DAMAGED, "listed twice")

    def test_vhdx_rejects_overlapping_regions(self):
        entry = self.vhdx.bat()[0]
        self.vhdx.regions({entry + 16: struct.pack("<Q", self.vhdx.metadata()[1])})
        self.rejects(DAMAGED, "overlaps")

    def test_vhdx_rejects_region_over_log(self):
        entry = self.vhdx.bat()[0]
        self.vhdx.regions({entry + 16: struct.pack("<Q", MIB)})
        self.rejects(DAMAGED, "overlaps")

    def test_vhdx_rejects_region_in_header_section(self):
        entry = self.vhdx.bat()[0]
        self.vhdx.regions({entry + 16: struct.pack("<Q", 0)})
        self.rejects(DAMAGED, "a region cannot")

    def test_vhdx_rejects_unaligned_region(self):
        entry = self.vhdx.bat()[0]
        self.vhdx.regions({entry + 16: struct.pack("<Q", 50 * MIB + 4096)})
        self.rejects(DAMAGED, "a region cannot")

    def test_vhdx_rejects_region_that_overflows(self):
        entry = self.vhdx.bat()[0]
        self.vhdx.regions({entry + 16: struct.pack("<Q", (1 << 64) - MIB)})
        self.rejects(DAMAGED, "a region cannot")

    def test_vhdx_rejects_region_past_end(self):
        entry = self.vhdx.bat()[0]
        self.vhdx.regions({entry + 16: struct.pack("<Q", 1 << 40)})
        self.rejects(DAMAGED, "truncated")

    def test_vhdx_rejects_missing_bat(self):
        self.vhdx.regions({self.vhdx.bat()[0]: b"u" * 16,
                           self.vhdx.bat()[0] + 28: struct.pack("<I", 0)})
        self.rejects(DAMAGED, "no block allocation table")

    def test_vhdx_rejects_missing_metadata(self):
        entry = self.vhdx.metadata()[0]
        self.vhdx.regions({entry: b"u" * 16, entry + 28: struct.pack("<I", 0)})
        self.rejects(DAMAGED, "no metadata")

    # Metadata.

    def item_rejects(self, guid, data, code, *words):
        self.vhdx.put(self.vhdx.item(guid)[1], data)
        self.rejects(code, *words)

    def test_vhdx_rejects_metadata_signature(self):
        self.vhdx.put(self.vhdx.metadata()[1], b"metadatx")
        self.rejects(DAMAGED, "metadata table")

    def test_vhdx_rejects_too_many_metadata_items(self):
        self.vhdx.put(self.vhdx.metadata()[1] + 10, struct.pack("<H", 2048))
        self.rejects(DAMAGED, "more than 2047")

    def test_vhdx_rejects_unknown_required_item(self):
        base = self.vhdx.metadata()[1]
        self.vhdx.put(base + 10, struct.pack("<H", 6))
        self.vhdx.put(base + 32 + 5 * 32, b"u" * 16 + struct.pack("<IIII", 65536, 8, 4, 0))
        self.rejects(UNSUPPORTED, "not known", "newer software")

    def test_vhdx_accepts_unknown_optional_item(self):
        base = self.vhdx.metadata()[1]
        self.vhdx.put(base + 10, struct.pack("<H", 6))
        self.vhdx.put(base + 32 + 5 * 32, b"u" * 16 + struct.pack("<IIII", 65536, 8, 0, 0))
        self.opens()

    def test_vhdx_rejects_missing_item(self):
        self.vhdx.put(self.vhdx.metadata()[1] + 10, struct.pack("<H", 4))
        self.rejects(DAMAGED, "missing from the metadata")

    def test_vhdx_rejects_item_listed_twice(self):
        entry = self.vhdx.item(0x37)[0]
        base = self.vhdx.metadata()[1]
        self.vhdx.put(base + 10, struct.pack("<H", 6))
        self.vhdx.put(base + 32 + 5 * 32, self.vhdx.get(entry, 32))
        self.rejects(DAMAGED, "listed twice")

    def test_vhdx_rejects_item_in_table(self):
        self.vhdx.put(self.vhdx.item(0x24)[0] + 16, struct.pack("<I", 100))
        self.rejects(DAMAGED, "virtual disk size cannot")

    def test_vhdx_rejects_item_past_region(self):
        self.vhdx.put(self.vhdx.item(0x24)[0] + 16, struct.pack("<I", 0xFFFFFFFC))
        self.rejects(DAMAGED, "virtual disk size cannot")

    def test_vhdx_rejects_item_too_short(self):
        self.vhdx.put(self.vhdx.item(0x24)[0] + 20, struct.pack("<I", 4))
        self.rejects(DAMAGED, "virtual disk size cannot")

    def test_vhdx_rejects_parent_without_locator(self):
        self.item_rejects(0x37, struct.pack("<II", 2 * MIB, 2), DAMAGED, "no parent locator")

    def test_vhdx_rejects_block_size_of_0(self):
        self.item_rejects(0x37, struct.pack("<II", 0, 0), DAMAGED, "blocks of 0 bytes")

    def test_vhdx_rejects_block_size_not_a_power_of_two(self):
        self.item_rejects(0x37, struct.pack("<II", 3 * MIB, 0), DAMAGED, "blocks of")

    def test_vhdx_rejects_block_size_too_large(self):
        self.item_rejects(0x37, struct.pack("<II", 512 * MIB, 0), DAMAGED, "blocks of")

    def test_vhdx_rejects_logical_sector_size(self):
        self.item_rejects(0x1D, struct.pack("<I", 1024), DAMAGED, "sectors of 1024")

    def test_vhdx_rejects_sector_size_of_0(self):
        self.item_rejects(0x1D, struct.pack("<I", 0), DAMAGED, "sectors of 0")

    def test_vhdx_rejects_physical_sector_size(self):
        self.item_rejects(0xC7, struct.pack("<I", 520), DAMAGED, "sectors of")

    def test_vhdx_rejects_virtual_size_of_0(self):
        self.item_rejects(0x24, struct.pack("<Q", 0), DAMAGED, "a disk of 0 bytes")

    def test_vhdx_rejects_virtual_size_beyond_64_tib(self):
        self.item_rejects(0x24, struct.pack("<Q", (64 << 40) + 512), DAMAGED, "64 TiB")

    def test_vhdx_rejects_virtual_size_of_all_ones(self):
        self.item_rejects(0x24, b"\xff" * 8, DAMAGED, "64 TiB")

    def test_vhdx_rejects_virtual_size_in_part_of_a_sector(self):
        self.item_rejects(0x24, struct.pack("<Q", 100 * MIB + 100), DAMAGED, "whole sectors")

    def test_vhdx_rejects_bat_too_small_for_disk(self):
        self.item_rejects(0x24, struct.pack("<Q", 4 << 40), DAMAGED, "has room for")

    # The block allocation table. Entry 0 is a present block.

    def entry_rejects(self, index, value, code, *words):
        self.vhdx.set_entry(index, value)
        self.rejects(code, *words)

    def test_vhdx_rejects_block_in_header(self):
        self.entry_rejects(0, 6, DAMAGED, "lies in the file's header")

    def test_vhdx_rejects_block_past_end(self):
        self.entry_rejects(0, (1 << 40) | 6, DAMAGED, "truncated")

    def test_vhdx_rejects_block_at_the_end_of_the_number_range(self):
        self.entry_rejects(0, 0xFFFFFFFFFFF00006, DAMAGED, "truncated")

    def test_vhdx_rejects_block_over_log(self):
        self.entry_rejects(0, MIB | 6, DAMAGED, "tables")

    def test_vhdx_rejects_block_over_bat(self):
        self.entry_rejects(0, self.vhdx.bat()[1] | 6, DAMAGED, "tables")

    def test_vhdx_rejects_block_over_metadata(self):
        self.entry_rejects(0, self.vhdx.metadata()[1] | 6, DAMAGED, "tables")

    def test_vhdx_rejects_two_blocks_at_one_place(self):
        self.entry_rejects(7, self.vhdx.entry(0), DAMAGED, "overlaps another block")

    def test_vhdx_rejects_blocks_that_overlap_by_half(self):
        self.entry_rejects(7, self.vhdx.entry(0) + MIB, DAMAGED, "overlaps another block")

    def test_vhdx_rejects_reserved_bits_in_entry(self):
        self.entry_rejects(0, self.vhdx.entry(0) | 0x1000, DAMAGED, "reserved bits")

    def test_vhdx_rejects_block_state_4(self):
        self.entry_rejects(0, 4, DAMAGED, "state")

    def test_vhdx_rejects_block_partly_present(self):
        self.entry_rejects(0, self.vhdx.entry(0) | 7, DAMAGED, "parent")

    def test_vhdx_block_states_without_data_read_as_zero(self):
        for state in (0, 1, 2, 3, 5):
            self.vhdx.set_entry(0, (self.vhdx.entry(0) & ~0xFFFFF) | state)
            tool = self.tool()
            tool("open", self.image, "vhdx")
            self.assertEqual(tool.read(0, 512), bytes(512))
            self.assertEqual(tool.read(2 * MIB, 512), b"\1" * 512)
            self.assertEqual(tool.extents()[0][2], "zero" if state == 2 else "absent")

    def test_vhdx_checks_large_tables_when_they_are_read(self):
        image = self.path("large.vhdx")
        run("qemu-img", "create", "-f", "vhdx", "-o", "block_size=1M", image, "1T")
        run("qemu-io", "-f", "vhdx", "-c", "write -P 2 0 64k", image)
        vhdx = Vhdx(image)
        index = 900 * 1024 * 4097 // 4096
        vhdx.set_entry(index, vhdx.entry(0))
        tool = self.tool()
        tool("open", image, "vhdx")
        self.assertEqual(tool.read(0, 512), b"\2" * 512)
        with self.assertRaises(Refused) as caught:
            tool("extents")
        self.assertEqual(caught.exception.code, DAMAGED)
        self.assertIn("overlaps another block", caught.exception.message)


class Log(MalformedBase):
    """A log as a crash leaves it: made here, byte by byte, and judged by QEMU's own replay."""

    GUID = b"log-guid-of-test"

    def sector_of(self, offset):
        return bytearray(self.vhdx.get(offset & ~4095, 4096))

    def entry_bytes(self, sequence, updates, tail=0, flushed=None, guid=GUID, zeroes=()):
        """updates: [(file offset, 4096 bytes)], zeroes: [(offset, length)]"""
        size = os.path.getsize(self.image) if flushed is None else flushed
        descriptors, data = b"", b""
        for offset, sector in updates:
            descriptors += b"desc" + sector[4092:] + sector[:8] + struct.pack(
                "<QQ", offset, sequence)
            data += b"data" + struct.pack("<I", sequence >> 32) + sector[8:4092] + struct.pack(
                "<I", sequence & 0xFFFFFFFF)
        for offset, length in zeroes:
            descriptors += b"zero\0\0\0\0" + struct.pack("<QQQ", length, offset, sequence)
        head_length = (64 + len(descriptors) + 4095) & ~4095
        length = head_length + len(data)
        head = struct.pack("<4sIIIQII16sQQ", b"loge", 0, length, tail, sequence,
                           len(descriptors) // 32, 0, guid, size, size)
        entry = bytearray((head + descriptors).ljust(head_length, b"\0") + data)
        entry[4:8] = struct.pack("<I", crc32c(entry))
        return bytes(entry)

    def put_log(self, data, at=0):
        first = data[:MIB - at]
        self.vhdx.put(MIB + at, first)
        self.vhdx.put(MIB, data[len(first):])
        self.vhdx.header({48: self.GUID})

    def make_pending(self):
        """The entry of the block at 90 MiB taken out of the BAT, its sector as it was."""
        at = self.vhdx.bat()[1] + 8 * 45
        sector = bytes(self.sector_of(at))
        self.vhdx.set_entry(45, 0)
        return at & ~4095, sector

    def replays(self):
        self.assertEqual(self.qemu_reads(), b"\2")
        before = sha256(self.image)
        self.opens()
        self.assertEqual(sha256(self.image), before, "the file was written")

    def qemu_reads(self):
        """What QEMU's own replay, on a copy, gives at 90 MiB."""
        copy = self.path("copy.vhdx")
        shutil.copy(self.image, copy)
        run("qemu-img", "check", "-r", "all", "-f", "vhdx", copy)
        run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", copy, self.path("copy.raw"))
        with open(self.path("copy.raw"), "rb") as file:
            file.seek(90 * MIB)
            return file.read(1)

    def test_vhdx_replays_log(self):
        self.put_log(self.entry_bytes(9, [self.make_pending()]))
        self.replays()

    def test_vhdx_replays_the_last_entry_of_a_sector(self):
        # Its upper half, which a log keeps apart as TrailingBytes, is 0 for places below 4 GiB.
        image, place = self.path("last.vhdx"), 5 << 30
        run("qemu-img", "create", "-f", "vhdx", "-o", "block_size=1M", image, "600M")
        os.truncate(image, place + MIB)
        self.image, self.vhdx = image, Vhdx(image)
        self.vhdx.put(place, b"\3" * 65536)
        sector = self.vhdx.get(self.vhdx.bat()[1], 4088) + struct.pack("<Q", place | 6)
        self.put_log(self.entry_bytes(9, [(self.vhdx.bat()[1], sector)]))
        tool = self.tool()
        tool("open", image, "vhdx")
        self.assertEqual(tool.read(511 * MIB, 512), b"\3" * 512)
        copy = self.path("copy.vhdx")
        run("cp", "--sparse=always", image, copy)
        run("qemu-img", "check", "-r", "all", "-f", "vhdx", copy)
        done = run("qemu-io", "-r", "-f", "vhdx", "-c", "read -P 3 511M 64k", copy)
        self.assertNotIn("verification failed", done.stdout)

    def test_vhdx_without_replay_would_lose_data(self):
        self.make_pending()
        tool = self.tool()
        tool("open", self.image, "vhdx")
        self.assertEqual(tool.read(90 * MIB, 512), bytes(512))

    def test_vhdx_replays_log_that_wraps(self):
        at, sector = self.make_pending()
        self.put_log(self.entry_bytes(9, [(at, sector)], tail=MIB - 4096), at=MIB - 4096)
        self.opens()

    def test_vhdx_replays_entries_in_order(self):
        at, sector = self.make_pending()
        first = self.entry_bytes(9, [(at, b"\0" * 4096)])
        self.put_log(first + self.entry_bytes(10, [(at, sector)], tail=0))
        self.opens()

    def test_vhdx_replays_newest_sequence_only(self):
        at, sector = self.make_pending()
        old = self.entry_bytes(3, [(at, b"\0" * 4096)], tail=0)
        new = self.entry_bytes(9, [(at, sector)], tail=len(old))
        self.put_log(old + new)
        self.opens()

    def test_vhdx_replays_zero_descriptors(self):
        at = self.vhdx.bat()[1]
        self.put_log(self.entry_bytes(9, [], zeroes=[(at, 4096)]))
        tool = self.tool()
        tool("open", self.image, "vhdx")
        self.assertEqual(tool.read(0, 512), bytes(512))

    def test_vhdx_ignores_entries_of_another_log(self):
        at = self.vhdx.bat()[1]
        self.put_log(self.entry_bytes(9, [(at, b"\0" * 4096)], guid=b"some other guid!"))
        self.opens()

    def test_vhdx_accepts_named_log_without_entries(self):
        self.vhdx.header({48: self.GUID})
        self.opens()

    def test_vhdx_rejects_damaged_log(self):
        entry = bytearray(self.entry_bytes(9, [self.make_pending()]))
        entry[5000] ^= 1
        self.put_log(bytes(entry))
        self.rejects(DAMAGED, "log is damaged", "qemu-img check")

    def test_vhdx_rejects_log_of_longer_file(self):
        self.put_log(self.entry_bytes(9, [self.make_pending()],
                                      flushed=os.path.getsize(self.image) + MIB))
        self.rejects(DAMAGED, "truncated")

    def test_vhdx_rejects_log_of_payload(self):
        self.put_log(self.entry_bytes(9, [(self.vhdx.entry(0) & ~0xFFFFF, b"x" * 4096)]))
        self.rejects(UNSUPPORTED, "outside of the tables", "qemu-img check")

    def test_vhdx_rejects_log_of_header(self):
        self.put_log(self.entry_bytes(9, [(64 << 10, b"x" * 4096)]))
        self.rejects(UNSUPPORTED, "outside of the tables")

    def test_vhdx_rejects_log_that_zeroes_without_end(self):
        self.put_log(self.entry_bytes(9, [], zeroes=[(self.vhdx.bat()[1], 1 << 62)]))
        self.rejects(UNSUPPORTED, "too many changes")

    def test_vhdx_rejects_log_zero_range_that_overflows(self):
        self.put_log(self.entry_bytes(9, [], zeroes=[((1 << 64) - 4096, 8192)]))
        self.rejects(DAMAGED, "does not exist")

    def test_vhdx_rejects_descriptor_count_that_overflows(self):
        entry = bytearray(self.entry_bytes(9, [self.make_pending()]))
        entry[24:28] = struct.pack("<I", 0x08000000)
        entry[4:8] = bytes(4)
        entry[4:8] = struct.pack("<I", crc32c(entry))
        self.put_log(bytes(entry))
        self.rejects(DAMAGED, "log is damaged")

    def test_vhdx_rejects_log_tail_past_end(self):
        self.put_log(self.entry_bytes(9, [self.make_pending()], tail=MIB))
        self.rejects(DAMAGED, "log is damaged")

    def test_vhdx_rejects_log_made_to_be_slow(self):
        # Each sector an entry in sequence, and none of them with its tail within: without a limit
        # every one is read once for each one before it.
        data = b"".join(self.entry_bytes(i + 1, [], tail=0) for i in range(250))
        self.put_log(data, at=4096 * 2)
        self.rejects(DAMAGED, "no end to its entries")

    def test_vhdx_rejects_log_that_zeroes_again_and_again(self):
        zeroes = [(self.vhdx.bat()[1], MIB)] * 30000
        self.put_log(self.entry_bytes(9, [], zeroes=zeroes))
        self.rejects(UNSUPPORTED, "too many changes")
        self.assertLess(self.tools[-1].cpu_seconds(), 5)


if __name__ == "__main__":
    if not shutil.which("qemu-img"):
        print("skipped: qemu-img is not installed")
        sys.exit(77)
    unittest.main()
