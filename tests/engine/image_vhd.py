# SPDX-License-Identifier: Apache-2.0
"""VHD images, read: what QEMU wrote, what libvhdi reads, and images of our own that nothing here writes."""
import os
import struct
import unittest

from image_build import VHD_DYNAMIC, VHD_FIXED, VhdBuild, sectors, vhd_expected, vhd_footer, vhd_sealed
from image_lab import MIB, ReadLab, Refused, run, sha256

DAMAGED, UNSUPPORTED, MISSING = 117, 95, 2
SIZE = 11 * MIB + 1536
PIECES = [(0, 4096), (5 * MIB + 512, 70000), (8 * MIB - 1024, 2048), (11 * MIB, 1536)]


class VhdLab(ReadLab):
    form = "vhd"

    def check(self, disk, tool, *names):
        self.same(self.dumped(tool), disk)
        self.check_extents(tool, disk)
        if names:
            self.same(self.by_libvhdi(*names), disk)

    def pair(self, locators=((b"W2ru", ".\\base.vhd".encode("utf-16-le")),), **more):
        base = VhdBuild(SIZE)
        base.blocks = {0: os.urandom(2 * MIB), 2: sectors(0, 5, 4095), 5: os.urandom(2 * MIB)}
        child = VhdBuild(SIZE, parent=base, locators=locators, **more)
        child.blocks = {0: sectors(0, 1, 9, 4095), 1: sectors(7), 5: sectors(*range(0, 2000, 3))}
        base.write(self.path("base.vhd"))
        child.write(self.path("child.vhd"))
        return base, child


class Reads(VhdLab):
    def from_qemu(self, *options):
        raw = self.raw("in.raw", SIZE, PIECES)
        image = self.path("in.vhd")
        run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", ",".join(("force_size=on",) + options), raw, image)
        tool = self.opened("in.vhd", form="probe")
        self.assertEqual((tool.info()["format"], tool.info()["size"]), ("vhd", SIZE))
        tool("dump", self.path("out.raw"))
        self.assertEqual(sha256(raw), sha256(self.path("out.raw")))
        with open(raw, "rb") as file:
            self.check(file.read(), tool, "in.vhd")
        tool("unchanged")
        return tool

    def test_vhd_reads_qemu_dynamic(self):
        data = sum(row[1] for row in self.from_qemu("subformat=dynamic").extents() if row[2] == "data")
        self.assertLess(data, 11 * MIB)

    def test_vhd_reads_qemu_fixed(self):
        self.assertEqual(self.from_qemu("subformat=fixed").info()["fixed"], 1)

    def test_vhd_of_qemu_with_geometry_has_the_size_that_qemu_says(self):
        run("qemu-img", "create", "-q", "-f", "vpc", self.path("a.vhd"), "100M")
        said = run("qemu-img", "info", "-f", "vpc", "--output=json", self.path("a.vhd")).stdout
        self.assertIn('"virtual-size": %d' % self.opened("a.vhd").info()["size"], said)

    def test_vhd_of_virtual_pc_has_its_current_size(self):
        # The geometry says less: 100 cylinders of 16 heads and 17 sectors.
        build = VhdBuild(SIZE * 4, creator=b"vpc ", geometry=(100, 16, 17))
        build.write(self.path("a.vhd"))
        self.assertEqual(self.opened("a.vhd").info()["size"], SIZE * 4)
        self.assertEqual(len(self.by_libvhdi("a.vhd")), SIZE * 4)

    def test_vhd_dynamic_of_our_own(self):
        for block in (512 << 10, 2 * MIB, 4 * MIB):
            build = VhdBuild(SIZE, block=block)
            build.blocks = {0: sectors(0, 1, 1000), 1: os.urandom(block)}
            image = build.write(self.path("%d.vhd" % block))
            self.check(vhd_expected(build), self.opened("%d.vhd" % block))
            run("qemu-img", "convert", "-f", "vpc", "-O", "raw", image, self.path("qemu.raw"))
            self.assertEqual(sha256(self.path("qemu.raw")), sha256(self.path("dump")))

    def test_vhd_differencing_of_whole_blocks_reads_as_libvhdi_does(self):
        base, child = self.pair()
        child.blocks = {0: os.urandom(2 * MIB), 3: os.urandom(2 * MIB)}
        child.write(self.path("child.vhd"))
        self.check(vhd_expected(child, vhd_expected(base)), self.opened("child.vhd"), "child.vhd", "base.vhd")

    def test_vhd_differencing_of_single_sectors(self):
        # libvhdi 20210425 reads the other sectors of such a block as zeroes; the specification ("Read
        # Operation for a Differencing Hard Disk") says that they are the parent's.
        base, child = self.pair()
        self.check(vhd_expected(child, vhd_expected(base)), self.opened("child.vhd"))

    def test_vhd_differencing_of_three(self):
        base, child = self.pair()
        top = VhdBuild(SIZE, parent=child, locators=[(b"W2ru", "child.vhd".encode("utf-16-le"))])
        top.blocks = {0: sectors(1, 3), 4: sectors(0)}
        top.write(self.path("top.vhd"))
        self.check(vhd_expected(top, vhd_expected(child, vhd_expected(base))), self.opened("top.vhd"))

    def test_vhd_differencing_on_a_fixed_one(self):
        base, child = self.pair()
        disk = os.urandom(SIZE)
        with open(self.path("base.vhd"), "wb") as file:
            file.write(disk + vhd_footer(SIZE, VHD_FIXED, base.data_id))
        self.check(vhd_expected(child, disk), self.opened("child.vhd"))

    def test_vhd_fixed_with_a_footer_of_511_bytes(self):
        with open(self.path("a.vhd"), "wb") as file:
            file.write(b"\1" * SIZE + vhd_footer(SIZE, VHD_FIXED, VhdBuild(SIZE).data_id)[:511])
        self.assertEqual(self.opened("a.vhd").read(SIZE - 512, 512), b"\1" * 512)

    def test_vhd_without_its_last_footer_is_read_by_the_copy(self):
        base, _ = self.pair()
        os.truncate(self.path("base.vhd"), os.path.getsize(self.path("base.vhd")) - 512)
        self.same(self.dumped(self.opened("base.vhd")), vhd_expected(base))

    def test_vhd_is_never_written(self):
        self.refused(UNSUPPORTED, ["vhdx or raw"], "create", self.path("new.vhd"), "vhd", "size=1048576")
        self.assertFalse(os.path.exists(self.path("new.vhd")))


class Parents(VhdLab):
    def finds(self, *words):
        tool = self.opened("child.vhd", *words)
        self.assertEqual(tool.read(1024 * 1024, 512), vhd_expected(self.base)[1024 * 1024:1024 * 1024 + 512])

    def test_vhd_parent_by_absolute_path(self):
        self.base, _ = self.pair(locators=[(b"W2ku", "C:\\VM\\base.vhd".encode("utf-16-le"))])
        self.finds()

    def test_vhd_parent_by_name(self):
        self.base, _ = self.pair(locators=[], name="base.vhd")
        self.finds()

    def test_vhd_parent_mapped(self):
        self.base, _ = self.pair(locators=[(b"W2ku", "C:\\VM\\base.vhd".encode("utf-16-le"))])
        os.rename(self.path("base.vhd"), self.path("moved"))
        self.finds("parent=c:/vm/base.vhd=" + self.path("moved"))

    def test_vhd_parent_of_another_identity_is_refused(self):
        self.pair()
        VhdBuild(SIZE).write(self.path("base.vhd"))
        self.refused(DAMAGED, ["is not the parent"], "open", self.path("child.vhd"), "vhd")

    def test_vhd_parent_missing(self):
        self.pair()
        os.unlink(self.path("base.vhd"))
        self.refused(MISSING, ["--parent"], "open", self.path("child.vhd"), "vhd")

    def test_vhd_without_any_name_of_its_parent(self):
        self.pair(locators=[])
        self.refused(DAMAGED, ["names no parent"], "open", self.path("child.vhd"), "vhd", "alone")

    def test_differencing_by_content_alone_is_not_believed(self):
        self.pair()
        os.rename(self.path("child.vhd"), self.path("disk.raw"))
        self.refused(13, ["by its content"], "open", self.path("disk.raw"), "probe")


class Malformed(VhdLab):
    def setUp(self):
        super().setUp()
        self.build = VhdBuild(SIZE)
        self.build.blocks = {0: os.urandom(2 * MIB), 3: sectors(1)}
        self.image = self.build.write(self.path("bad.vhd"))

    def put(self, offset, data):
        with open(self.image, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def footer(self, at, data):
        """Both footers, sealed again."""
        footer = bytearray(vhd_footer(SIZE, VHD_DYNAMIC, self.build.data_id))
        footer[at:at + len(data)] = data
        footer = vhd_sealed(footer, 64)
        self.put(0, footer)
        self.put(os.path.getsize(self.image) - 512, footer)

    def header(self, at, data):
        header = bytearray(self.build.header(0))
        header[at:at + len(data)] = data
        self.put(512, vhd_sealed(header, 36))

    def rejects(self, code, *words):
        self.refused(code, list(words) + [self.image], "open", self.image, "vhd")

    def rejects_reading(self, *words):
        tool = self.opened("bad.vhd")
        with self.assertRaises(Refused) as caught:
            tool.read(0, 512)
        self.assertEqual(caught.exception.code, DAMAGED)
        for word in words:
            self.assertIn(word, caught.exception.message)

    def test_vhd_accepts_the_template(self):
        self.same(self.dumped(self.opened("bad.vhd")), vhd_expected(self.build))

    def test_vhd_rejects_two_damaged_footers(self):
        self.put(100, b"x")
        self.put(os.path.getsize(self.image) - 100, b"x")
        self.rejects(DAMAGED, "no sound footer")

    def test_vhd_rejects_raw_file(self):
        self.image = self.raw("a.raw", MIB, [(0, MIB)])
        self.rejects(DAMAGED, "no VHD")

    def test_vhd_rejects_tiny_file(self):
        os.truncate(self.image, 100)
        self.rejects(DAMAGED, "too few")

    def test_probe_rejects_a_vhd_name_without_footer(self):
        self.image = self.raw("a.vhd", MIB, [(0, MIB)])
        self.refused(DAMAGED, ["named .vhd", "format raw"], "open", self.image, "probe")

    def test_vhd_rejects_type(self):
        self.footer(60, struct.pack(">I", 7))
        self.rejects(UNSUPPORTED, "VHD type 7")

    def test_vhd_rejects_size_of_0(self):
        self.footer(48, bytes(8))
        self.rejects(DAMAGED, "0 bytes")

    def test_vhd_rejects_size_of_all_ones(self):
        self.footer(48, b"\xff" * 8)
        self.rejects(DAMAGED, "2 TiB")

    def test_vhd_rejects_header_past_end(self):
        self.footer(16, struct.pack(">Q", 1 << 62))
        self.rejects(DAMAGED, "header cannot lie")

    def test_vhd_rejects_damaged_header(self):
        self.put(512 + 100, b"x")
        self.rejects(DAMAGED, "header at byte 512 is damaged")

    def test_vhd_rejects_block_size_of_0(self):
        self.header(32, bytes(4))
        self.rejects(DAMAGED, "blocks of 0")

    def test_vhd_rejects_block_size_not_a_power_of_two(self):
        self.header(32, struct.pack(">I", 3 * MIB))
        self.rejects(DAMAGED, "blocks of")

    def test_vhd_rejects_huge_blocks(self):
        self.header(32, struct.pack(">I", 1 << 31))
        self.rejects(DAMAGED, "blocks of")

    def test_vhd_rejects_table_too_small(self):
        self.header(28, struct.pack(">I", 2))
        self.rejects(DAMAGED, "has 2 entries")

    def test_vhd_rejects_table_past_end(self):
        self.header(16, struct.pack(">Q", 1 << 62))
        self.rejects(DAMAGED, "cannot lie")

    def test_vhd_rejects_table_at_the_end_of_the_number_range(self):
        self.header(16, struct.pack(">Q", (1 << 64) - 512))
        self.rejects(DAMAGED, "cannot lie")

    def test_vhd_rejects_truncated_fixed(self):
        with open(self.image, "wb") as file:
            file.write(bytes(MIB) + vhd_footer(SIZE, VHD_FIXED, self.build.data_id))
        self.rejects(DAMAGED, "truncated")

    def test_vhd_rejects_block_past_end(self):
        self.put(1536, struct.pack(">I", 0xFFFFFFFE))
        self.rejects_reading("truncated", "block 0")

    def test_vhd_rejects_block_over_footer(self):
        self.put(1536, bytes(4))
        self.rejects_reading("tables")

    def test_vhd_rejects_block_over_table(self):
        self.put(1536, struct.pack(">I", 3))
        self.rejects_reading("tables")

    def test_vhd_rejects_block_over_header(self):
        self.put(1536, struct.pack(">I", 1))
        self.rejects_reading("tables")


if __name__ == "__main__":
    unittest.main()
