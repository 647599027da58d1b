# SPDX-License-Identifier: Apache-2.0
"""VHDX and raw images against qemu-img and libvhdi: what one writes, the other reads."""
import os
import shutil
import struct
import sys
import unittest

try:
    import pyvhdi
except ImportError:
    pyvhdi = None

from image_lab import Lab, MIB, ReadLab, Refused, Vhdx, run, sha256

SIZE = 100 * MIB + 512 * 3
PIECES = [(0, 4096), (5 * MIB + 512, 70000), (64 * MIB - 1024, 2048), (80 * MIB, 3 * MIB),
          (100 * MIB, 512 * 3)]


class ReadsQemu(Lab):
    def read_back(self, *options):
        raw = self.raw("in.raw", SIZE, PIECES)
        image = self.path("in.vhdx")
        run("qemu-img", "convert", "-f", "raw", "-O", "vhdx", *options, raw, image)
        tool = self.tool()
        tool("open", image, "probe")
        self.assertEqual(tool.info()["format"], "vhdx")
        self.assertEqual(tool.info()["size"], SIZE)
        tool("dump", self.path("out.raw"))
        self.assertEqual(sha256(raw), sha256(self.path("out.raw")))
        self.check_extents(tool, raw)
        tool("unchanged")
        return tool

    def check_extents(self, tool, raw):
        """Every byte outside of data extents is zero, and data extents are thin; whatever is asked at once."""
        self.assertEqual(tool.extents(step=65536), tool.extents())
        with open(raw, "rb") as file:
            content = file.read()
        data = 0
        for offset, length, kind in tool.extents():
            if kind == "data":
                data += length
            else:
                self.assertEqual(content[offset:offset + length].count(0), length)
        self.assertLess(data, 12 * MIB)

    def test_vhdx_reads_qemu_dynamic(self):
        tool = self.read_back()
        self.assertEqual(tool.info()["fixed"], 0)

    def test_vhdx_reads_qemu_fixed(self):
        tool = self.read_back("-o", "subformat=fixed")
        self.assertEqual(tool.info()["fixed"], 1)

    def test_vhdx_reads_qemu_blocks_of_1_mib(self):
        self.assertEqual(self.read_back("-o", "block_size=1M").info()["block"], MIB)

    def test_vhdx_reads_qemu_blocks_of_256_mib(self):
        self.assertEqual(self.read_back("-o", "block_size=256M").info()["block"], 256 * MIB)

    def test_vhdx_reads_qemu_blocks_not_present(self):
        self.read_back("-o", "block_state_zero=off")

    def test_vhdx_reads_past_sector_bitmap_entries(self):
        # 1 MiB blocks: an entry for a sector bitmap after every 4096 blocks.
        image = self.path("in.vhdx")
        run("qemu-img", "create", "-f", "vhdx", "-o", "block_size=1M", image, "20G")
        for mib in (0, 4095, 4096, 4097, 8191, 8192, 20479):
            run("qemu-io", "-f", "vhdx", "-c", f"write -P {mib % 251 + 1} {mib}M 64k", image)
        tool = self.tool()
        tool("open", image, "vhdx")
        for mib in (0, 4095, 4096, 4097, 8191, 8192, 20479):
            self.assertEqual(tool.read(mib * MIB, 65536), bytes([mib % 251 + 1]) * 65536)
        self.assertEqual(sum(length for _, length, kind in tool.extents() if kind == "data"),
                         7 * 65536)


class WritesVhdx(ReadLab):
    def write(self, *options, size=SIZE, pieces=PIECES):
        raw = self.raw("in.raw", size, pieces)
        image = self.path("out.vhdx")
        tool = self.tool()
        tool("create", image, "vhdx", f"size={size}", *options)
        tool("copy-from", raw, "raw")
        tool("finish")
        tool("close")
        return raw, image

    def check(self, raw, image):
        run("qemu-img", "check", "-f", "vhdx", image)
        self.assert_same(raw, image, "raw", "vhdx")
        self.assertIn("Virtual Hard Disk", run("vhdiinfo", image).stdout)
        tool = self.tool()
        tool("open", image, "probe")
        tool("dump", self.path("again.raw"))
        self.assertEqual(sha256(raw), sha256(self.path("again.raw")))
        with open(raw, "rb") as file:
            self.same(self.by_libvhdi(os.path.basename(image)), file.read())

    def test_vhdx_written_dynamic_reads_in_qemu(self):
        self.check(*self.write())

    def test_vhdx_written_fixed_reads_in_qemu(self):
        raw, image = self.write("fixed")
        self.check(raw, image)
        self.assertIn("fixed", run("vhdiinfo", image).stdout.lower())
        self.assertGreaterEqual(self.disk_blocks(image), SIZE)

    def test_vhdx_written_blocks_of_1_mib(self):
        self.check(*self.write(f"block={MIB}"))

    def test_vhdx_written_blocks_of_256_mib(self):
        self.check(*self.write(f"block={256 * MIB}"))

    def test_vhdx_written_direct(self):
        self.check(*self.write("direct"))

    def test_vhdx_written_past_sector_bitmap_entries(self):
        # Not with qemu-img compare, which reads every zero of a VHDX.
        image = self.path("out.vhdx")
        places = (0, 4095, 4096, 4097, 8191, 8192, 8999)
        tool = self.tool()
        tool("create", image, "vhdx", f"size={9000 * MIB}", f"block={MIB}")
        for mib in places:
            tool("fill", mib * MIB, 65536, mib % 251 + 1)
        tool("finish")
        tool("close")
        run("qemu-img", "check", "-f", "vhdx", image)
        for mib in places:
            for command in (f"read -P {mib % 251 + 1} {mib}M 64k", f"read -P 0 {mib * 1024 + 64}k 64k"):
                done = run("qemu-io", "-r", "-f", "vhdx", "-c", command, image)
                self.assertIn("read 65536/65536", done.stdout)
                self.assertNotIn("failed", done.stdout)

    def test_vhdx_written_is_writable_in_qemu(self):
        raw, image = self.write()
        for file, kind in ((raw, "raw"), (image, "vhdx")):
            run("qemu-io", "-f", kind, "-c", "write -P 7 43M 1M", "-c", "write -P 8 0 64k", file)
        self.check(raw, image)

    def test_vhdx_keeps_disk_id_and_sectors(self):
        image = self.path("out.vhdx")
        tool = self.tool()
        tool("create", image, "vhdx", "size=1073741824", "id=0123456789abcdef", "physical=512")
        tool("finish")
        tool("open", image, "vhdx")
        info = tool.info()
        self.assertEqual(bytes.fromhex(info["id"]), b"0123456789abcdef")
        self.assertEqual((info["logical"], info["physical"]), (512, 512))
        vhdx = Vhdx(image)
        self.assertEqual(vhdx.get(vhdx.item(0xAB)[1], 16), b"0123456789abcdef")

    def test_vhdx_thin_stays_thin(self):
        raw, image = self.write(f"block={32 * MIB}")
        self.check(raw, image)
        self.assertLess(self.disk_blocks(image), self.disk_blocks(raw) + 2 * MIB)

    def test_vhdx_empty_disk(self):
        raw, image = self.write(size=10 * MIB, pieces=[])
        self.check(raw, image)
        self.assertLess(self.disk_blocks(image), MIB)

    def test_vhdx_4096_byte_sectors_read_by_libvhdi(self):
        """QEMU reads none."""
        size = 100 * MIB
        raw, image = self.write("logical=4096", f"block={2 * MIB}", size=size,
                                pieces=[(0, 4096), (77 * MIB, 3 * MIB), (size - 4096, 4096)])
        tool = self.opened("out.vhdx")
        self.assertEqual(tool.info()["logical"], 4096)
        tool("dump", self.path("again.raw"))
        self.assertEqual(sha256(raw), sha256(self.path("again.raw")))
        with open(raw, "rb") as file:
            self.same(self.by_libvhdi("out.vhdx"), file.read())
        theirs = pyvhdi.file()
        theirs.open(image)
        self.assertEqual(theirs.get_bytes_per_sector(), 4096)
        theirs.close()


class Zeroes(Lab):
    def test_vhdx_zero_of_part_of_a_block(self):
        self.zero([(MIB + 512, 100000)])

    def test_vhdx_zero_of_whole_blocks_gives_them_back(self):
        image = self.zero([(0, 8 * MIB)], block=2 * MIB)
        self.assertLess(self.disk_blocks(image), 3 * MIB)
        self.assertLess(self.disk_blocks(self.path("z.raw")), 3 * MIB)

    def test_vhdx_zeroed_block_is_used_again(self):
        image, raw = self.path("z.vhdx"), self.path("z.raw")
        for path, kind in ((image, "vhdx"), (raw, "raw")):
            tool = self.tool()
            tool("create", path, kind, f"size={64 * MIB}", f"block={2 * MIB}")
            for turn in range(20):
                tool("fill", 0, 8 * MIB, turn + 1)
                tool("zero", 0, 8 * MIB)
            tool("fill", 20 * MIB + 4096, 8192, 77)
            tool("finish")
            tool("close")
        self.assert_same(raw, image, "raw", "vhdx")
        self.assertLess(os.path.getsize(image), 16 * MIB)

    def test_vhdx_block_used_again_has_nothing_of_behind_the_end(self):
        """A rounded up write leaves bytes behind the end of the disk, in the last block's place."""
        image, end = self.path("z.vhdx"), 4 * MIB + 512
        tool = self.tool()
        tool("create", image, "vhdx", f"size={end}", f"block={2 * MIB}")
        tool("fill", 4 * MIB, 512, 0xAB)
        with open(image, "r+b") as file:
            place = file.read().index(b"\xab" * 512)
            file.seek(place + 512)
            file.write(b"\xcd" * 3584)
        tool("zero", 4 * MIB, 512)
        tool("fill", 0, 512, 1)
        tool("finish")
        self.assertEqual(tool.read(0, 8192), b"\1" * 512 + bytes(7680))

    def test_vhdx_zero_on_fixed(self):
        image = self.zero([(0, 8 * MIB), (9 * MIB + 1024, 2048)], "fixed", block=2 * MIB)
        self.assertGreaterEqual(self.disk_blocks(image), 64 * MIB)
        self.assertGreaterEqual(self.disk_blocks(self.path("z.raw")), 64 * MIB)

    def test_vhdx_zero_of_64_tib_is_quick(self):
        tool = self.tool()
        tool("create", self.path("big.vhdx"), "vhdx", f"size={64 << 40}", f"block={MIB}")
        tool("fill", 7 << 40, 4096, 9)
        tool("zero", 0, 64 << 40)
        tool("finish")
        tool("close")
        self.assertLess(self.disk_blocks(self.path("big.vhdx")), 2 * MIB)

    def zero(self, ranges, *options, block=32 * MIB):
        image, raw = self.path("z.vhdx"), self.path("z.raw")
        for path, kind in ((image, "vhdx"), (raw, "raw")):
            tool = self.tool()
            tool("create", path, kind, f"size={64 * MIB}", f"block={block}", *options)
            tool("fill", 0, 10 * MIB, 5)
            for offset, length in ranges:
                tool("zero", offset, length)
            tool("finish")
            tool("close")
        self.assert_same(raw, image, "raw", "vhdx")
        return image


class Unfinished(Lab):
    def setUp(self):
        super().setUp()
        self.image = self.path("new.vhdx")
        tool = self.tool()
        tool("create", self.image, "vhdx", f"size={64 * MIB}")
        tool("fill", 0, 4096, 1)
        tool("sync")
        tool.kill()

    def test_vhdx_unfinished_does_not_open_in_qemu(self):
        self.assertNotEqual(run("qemu-img", "info", "-f", "vhdx", self.image, ok=False).returncode, 0)

    def test_vhdx_unfinished_does_not_open_in_libvhdi(self):
        done = run("vhdiinfo", self.image, ok=False)
        self.assertNotEqual(done.returncode, 0)

    def test_vhdx_unfinished_does_not_open_here(self):
        self.refused(117, ["did not finish", "delete"], "open", self.image, "vhdx")

    def test_vhdx_unfinished_is_not_taken_for_raw(self):
        self.refused(117, ["did not finish", "delete"], "open", self.image, "probe")


class BigImages(Lab):
    def need_plain_memory(self):
        if "thread" in os.environ.get("IMAGE_SANITIZE", ""):
            self.skipTest("memory and time cannot be measured under ThreadSanitizer")

    def test_vhdx_64_tib_opens_quickly_and_small(self):
        self.need_plain_memory()
        image = self.path("big.vhdx")
        run("qemu-img", "create", "-f", "vhdx", "-o", "block_size=64M", image, "64T")
        run("qemu-io", "-f", "vhdx", "-c", "write -P 3 63T 64k", image)
        tool = self.tool()
        before = int(tool("memory")[0])
        start = tool.cpu_seconds()
        tool("open", image, "vhdx")
        self.assertLess(tool.cpu_seconds() - start, 0.5)
        self.assertEqual(tool.read(63 << 40, 4096), b"\3" * 4096)
        data = [row for row in tool.extents() if row[2] == "data"]
        self.assertEqual(data, [(63 << 40, 65536, "data")])
        self.assertLess(int(tool("memory")[0]) - before, 64 << 10)

    def test_vhdx_64_tib_of_1_mib_blocks_stays_within_memory(self):
        self.need_plain_memory()
        image = self.path("big.vhdx")
        tool = self.tool()
        before = int(tool("memory")[0])
        tool("create", image, "vhdx", f"size={64 << 40}", f"block={MIB}")
        # More BAT pages than the cache has: 8192 blocks a page.
        for page in range(600):
            tool("fill", page * 8192 * MIB, 4096, page % 251 + 1)
        tool("finish")
        tool("open", image, "vhdx")
        for page in (0, 1, 383, 384, 599):
            self.assertEqual(tool.read(page * 8192 * MIB, 4096), bytes([page % 251 + 1]) * 4096)
        self.assertLess(int(tool("memory")[0]) - before, 80 << 10)  # the sanitizer's share included
        done = run("qemu-io", "-r", "-f", "vhdx", "-c",
                   f"read -P {599 % 251 + 1} {599 * 8192}M 4096", image)
        self.assertNotIn("failed", done.stdout)


class Raw(Lab):
    def test_raw_copy_keeps_holes(self):
        raw = self.raw("in.raw", SIZE, PIECES)
        out = self.path("out.raw")
        tool = self.tool()
        tool("create", out, "raw", f"size={SIZE}")
        tool("copy-from", raw, "raw")
        tool("finish")
        self.assertEqual(sha256(raw), sha256(out))
        self.assertLess(self.disk_blocks(out), self.disk_blocks(raw) + MIB)

    def test_raw_direct_of_odd_size(self):
        raw = self.raw("in.raw", 3 * MIB + 777, [(0, 3 * MIB + 777)])
        out = self.path("out.raw")
        tool = self.tool()
        tool("create", out, "raw", f"size={3 * MIB + 777}", "direct")
        tool("copy-from", raw, "raw", "direct")
        tool("finish")
        self.assertEqual(sha256(raw), sha256(out))

    def test_raw_fixed_is_reserved(self):
        out = self.path("out.raw")
        tool = self.tool()
        tool("create", out, "raw", f"size={8 * MIB}", "fixed")
        tool("zero", 0, 8 * MIB)
        tool("finish")
        self.assertGreaterEqual(self.disk_blocks(out), 8 * MIB)

    def test_raw_on_tmpfs_falls_back_from_direct(self):
        out = f"/dev/shm/godwit-image-{os.getpid()}.raw"
        if not os.path.isdir("/dev/shm"):
            self.skipTest("no /dev/shm")
        try:
            tool = self.tool()
            tool("create", out, "raw", f"size={MIB}", "direct")
            self.assertEqual(tool.info()["file_alignment"], 512)
            tool("fill", 0, 1000, 5)
            tool("finish")
            self.assertEqual(tool.read(990, 20), b"\5" * 10 + b"\0" * 10)
        finally:
            os.unlink(out)

    def test_raw_direct_alignment_is_known(self):
        raw = self.raw("in.raw", MIB, [(0, MIB)])
        tool = self.tool()
        tool("open", raw, "raw", "direct")
        info = tool.info()
        self.assertIn(info["file_alignment"], (512, 4096))
        self.assertIn(info["memory_alignment"], (512, 4096))

    def test_create_does_not_overwrite(self):
        raw = self.raw("in.raw", MIB, [(0, MIB)])
        for kind in ("raw", "vhdx"):
            self.refused(17, ["exists"], "create", raw, kind, f"size={MIB}")
        self.assertEqual(os.path.getsize(raw), MIB)

    def test_failed_create_leaves_nothing(self):
        self.refused(22, ["blocks"], "create", self.path("x.vhdx"), "vhdx", f"size={MIB}",
                     "block=12345")
        self.assertFalse(os.path.exists(self.path("x.vhdx")))

    def test_create_refuses_part_of_a_sector(self):
        self.refused(22, ["sectors", "raw"], "create", self.path("x.vhdx"), "vhdx", "size=1000")

    def test_create_refuses_more_than_64_tib(self):
        self.refused(27, ["64 TiB"], "create", self.path("x.vhdx"), "vhdx",
                     f"size={(64 << 40) + 512}")


class Changes(Lab):
    def setUp(self):
        super().setUp()
        self.file = self.raw("in.raw", 4 * MIB, [(0, MIB)])
        self.vhdx = self.path("in.vhdx")
        run("qemu-img", "convert", "-f", "raw", "-O", "vhdx", self.file, self.vhdx)

    def stale(self, path, kind, change):
        tool = self.tool()
        tool("open", path, kind)
        tool("unchanged")
        change()
        with self.assertRaises(Refused) as caught:
            tool("unchanged")
        self.assertEqual(caught.exception.code, 116)
        return caught.exception.message

    def test_unchanged_sees_a_write(self):
        def change():
            with open(self.file, "r+b") as file:
                file.write(b"x")
        self.assertIn("written", self.stale(self.file, "raw", change))

    def test_unchanged_sees_growth(self):
        self.assertIn("size", self.stale(self.file, "raw", lambda: os.truncate(self.file, 5 * MIB)))

    def test_unchanged_sees_another_file(self):
        def change():
            shutil.copy(self.file, self.file + ".new")
            os.rename(self.file + ".new", self.file)
        self.assertIn("replaced", self.stale(self.file, "raw", change))

    def test_unchanged_sees_new_vhdx_header_behind_an_old_time(self):
        def change():
            status = os.stat(self.vhdx)
            vhdx = Vhdx(self.vhdx)
            vhdx.put((128 << 10) + 8, struct.pack("<Q", 1 << 60))
            vhdx.seal(128 << 10, 4096)
            os.utime(self.vhdx, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.assertIn("opened for writing", self.stale(self.vhdx, "vhdx", change))


if __name__ == "__main__":
    if not shutil.which("qemu-img"):
        print("skipped: qemu-img is not installed")
        sys.exit(77)
    unittest.main()
