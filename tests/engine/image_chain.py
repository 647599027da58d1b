# SPDX-License-Identifier: Apache-2.0
"""Differencing VHDX images and their parents, against libvhdi (QEMU reads none) and the bytes that went in."""
import hashlib
import os
import unittest
import uuid

import image_build as build
from image_build import (NOT_PRESENT, PARTLY, PRESENT, UNDEFINED, UNMAPPED, ZERO, VhdxBuild, expected, sectors,
                         vhdx_locator)
from image_lab import MIB, ReadLab, Refused, Vhdx

DAMAGED, UNSUPPORTED, MISSING, LOOP, FORBIDDEN = 117, 95, 2, 40, 13
SIZE = 12 * MIB


def pattern(length, seed):
    return hashlib.shake_128(b"%d" % seed).digest(length)


class ChainLab(ReadLab):
    def base(self, **more):
        base = VhdxBuild(SIZE, **more)
        for block in (0, 1, 2, 3, 5, 9, SIZE // base.block - 1):
            base.blocks[block] = (PRESENT, pattern(base.block, block))
        return base

    def child(self, parent, name="base.vhdx", size=SIZE, **more):
        more.setdefault("block", parent.block)
        return VhdxBuild(size, parent=vhdx_locator(parent, ".\\" + name), sector=parent.sector, **more)

    def pair(self):
        """base.vhdx and child.vhdx, with data in each, in both and in none."""
        base = self.base()
        child = self.child(base)
        last = SIZE // MIB - 1
        child.blocks = {0: (PARTLY, sectors(0, 1, 2, 17, 2047)), 1: (PRESENT, os.urandom(MIB)),
                        4: (PARTLY, sectors(100, 101)), 5: (NOT_PRESENT, None),
                        last: (PARTLY, sectors(*range(0, 2048, 2)))}
        base.write(self.path("base.vhdx"))
        child.write(self.path("child.vhdx"))
        return base, child


class Reads(ChainLab):
    def check(self, disk, tool, *names):
        self.same(self.dumped(tool), disk)
        self.check_extents(tool, disk)
        if names:
            self.same(self.by_libvhdi(*names), disk)

    def test_differencing_reads_as_libvhdi_does(self):
        base, child = self.pair()
        self.check(expected(child, expected(base)), self.opened("child.vhdx"), "child.vhdx", "base.vhdx")

    def test_differencing_of_three(self):
        base, child = self.pair()
        grandchild = self.child(child, "child.vhdx")
        grandchild.blocks = {0: (PARTLY, sectors(1, 3)), 7: (PARTLY, sectors(9)), 2: (PARTLY, sectors(0))}
        grandchild.write(self.path("grandchild.vhdx"))
        disk = expected(grandchild, expected(child, expected(base)))
        self.check(disk, self.opened("grandchild.vhdx"), "grandchild.vhdx", "child.vhdx", "base.vhdx")

    def test_differencing_blocks_that_hide_the_parents(self):
        # MS-VHDX 2.5.1.1; libvhdi 20210425 reads them from the parent.
        base = self.base()
        child = self.child(base)
        child.blocks = {0: (UNDEFINED, None), 1: (ZERO, None), 2: (UNMAPPED, None)}
        base.write(self.path("base.vhdx"))
        child.write(self.path("child.vhdx"))
        self.check(expected(child, expected(base)), self.opened("child.vhdx"))

    def test_differencing_with_4096_byte_sectors(self):
        base = self.base(sector=4096)
        child = self.child(base)
        child.blocks = {0: (PARTLY, sectors(0, 5, 255, size=4096))}
        base.write(self.path("base.vhdx"))
        child.write(self.path("child.vhdx"))
        self.check(expected(child, expected(base)), self.opened("child.vhdx"), "child.vhdx", "base.vhdx")

    def test_differencing_with_other_blocks_than_the_parent(self):
        base = self.base()
        child = self.child(base, block=4 * MIB)
        child.blocks = {0: (PARTLY, sectors(0, 4000, 8191)), 2: (PRESENT, os.urandom(4 * MIB))}
        base.write(self.path("base.vhdx"))
        child.write(self.path("child.vhdx"))
        self.check(expected(child, expected(base)), self.opened("child.vhdx"), "child.vhdx", "base.vhdx")

    def test_differencing_larger_than_the_parent(self):
        base = self.base()
        child = self.child(base, size=SIZE + 5 * MIB)
        child.blocks = {SIZE // MIB + 1: (PARTLY, sectors(3))}
        base.write(self.path("base.vhdx"))
        child.write(self.path("child.vhdx"))
        self.check(expected(child, expected(base)), self.opened("child.vhdx"))

    def test_differencing_past_the_first_sector_bitmap(self):
        base = VhdxBuild(5 << 30)
        child = VhdxBuild(5 << 30, parent=vhdx_locator(base, "base.vhdx"))
        base.blocks = {4095: (PRESENT, pattern(MIB, 1)), 4096: (PRESENT, pattern(MIB, 2))}
        child.blocks = {4095: (PARTLY, sectors(2047)), 4096: (PARTLY, sectors(0, 7))}
        base.write(self.path("base.vhdx"))
        child.write(self.path("child.vhdx"))
        tool = self.opened("child.vhdx")
        for block, sector in ((4095, 2047), (4096, 0), (4096, 7)):
            self.assertEqual(tool.read(block * MIB + sector * 512, 512), child.blocks[block][1][sector])
        self.assertEqual(tool.read(4096 * MIB + 512, 512), pattern(MIB, 2)[512:1024])

    def test_differencing_alone_has_no_parent(self):
        self.pair()
        os.unlink(self.path("base.vhdx"))
        tool = self.opened("child.vhdx", "alone")
        self.assertEqual(tool.read(5 * MIB, 512), bytes(512))

    def test_differencing_unchanged_sees_the_parent(self):
        self.pair()
        tool = self.opened("child.vhdx")
        tool("unchanged")
        Vhdx(self.path("base.vhdx")).put(12 * MIB, b"x")
        with self.assertRaises(Refused):
            tool("unchanged")

    def test_differencing_log_of_a_sector_bitmap_is_replayed(self):
        from image_malformed import Log
        base, child = self.pair()
        # The bit of a sector that is here lies in the log only.
        image = Vhdx(self.path("child.vhdx"))
        at = image.entry(child.bitmap_index(0)) & ~0xFFFFF
        whole = image.get(at, 4096)
        image.put(at, bytes(4096))
        log = Log("run")
        log.image, log.vhdx = self.path("child.vhdx"), image
        log.put_log(log.entry_bytes(9, [(at, whole)]))
        before = os.stat(log.image).st_mtime_ns
        self.check(expected(child, expected(base)), self.opened("child.vhdx"))
        self.assertEqual(os.stat(log.image).st_mtime_ns, before)

    def test_log_that_makes_the_file_longer_is_replayed(self):
        from image_malformed import Log
        base = self.base()
        base.write(self.path("base.vhdx"))
        image = Vhdx(self.path("base.vhdx"))
        place = os.path.getsize(image.path)
        at = image.bat()[1]
        sector = bytearray(image.get(at, 4096))
        sector[8 * 7:8 * 8] = (place | PRESENT).to_bytes(8, "little")
        log = Log("run")
        log.image, log.vhdx = image.path, image
        entry = bytearray(log.entry_bytes(9, [(at, bytes(sector))]))
        entry[56:64] = (place + MIB).to_bytes(8, "little")
        entry[4:8] = bytes(4)
        entry[4:8] = build.crc32c(entry).to_bytes(4, "little")
        log.put_log(bytes(entry))
        tool = self.opened("base.vhdx")
        self.assertEqual(tool.read(7 * MIB, 4096), bytes(4096))
        self.assertEqual(tool.read(9 * MIB, 512), pattern(MIB, 9)[:512])
        self.same(self.dumped(tool), expected(base))


class Parents(ChainLab):
    """Where a parent is looked for, and where it is not."""

    def child_of(self, base, name="child.vhdx", **paths):
        child = VhdxBuild(SIZE, parent=vhdx_locator(base, paths.pop("relative_path", None), **paths))
        child.blocks = {0: (PARTLY, sectors(1))}
        return child.write(self.path(name))

    def finds(self, *words):
        self.assertEqual(self.opened("child.vhdx", *words).read(5 * MIB, 512), pattern(MIB, 5)[:512])

    def chain_refused(self, code, texts, *words, name="child.vhdx"):
        return self.refused(code, texts, "open", self.path(name), "vhdx", *words)

    def base_at(self, name):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        base = self.base()
        base.write(self.path(name))
        return base

    def test_parent_by_relative_path(self):
        self.child_of(self.base_at("disks/old/base.vhdx"), relative_path=".\\disks\\old\\base.vhdx")
        self.finds()

    def test_parent_by_name_of_volume_path(self):
        self.child_of(self.base_at("base.vhdx"),
                      volume_path="\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\a\\base.vhdx")
        self.finds()

    def test_parent_by_name_of_absolute_path(self):
        self.child_of(self.base_at("base.vhdx"), absolute_win32_path="\\\\?\\d:\\vm\\base.vhdx")
        self.finds()

    def test_parent_of_a_name_in_cyrillic_and_emoji(self):
        self.child_of(self.base_at("диск \U0001f4be.vhdx"), relative_path=".\\диск \U0001f4be.vhdx")
        self.finds()

    def test_parent_is_not_found_above_the_folder(self):
        self.child_of(self.base_at("base.vhdx"), relative_path="..\\base.vhdx", name="sub.vhdx")
        os.mkdir(self.path("sub"))
        os.rename(self.path("sub.vhdx"), self.path("sub/child.vhdx"))
        self.chain_refused(MISSING, ["own folder", "--parent 'base.vhdx=PATH'"], name="sub/child.vhdx")

    def test_parent_is_not_found_at_an_absolute_path_of_this_host(self):
        os.mkdir(self.path("sub"))
        self.child_of(self.base_at("base.vhdx"), relative_path=self.path("base.vhdx"), name="sub/child.vhdx")
        self.chain_refused(MISSING, ["own folder"], name="sub/child.vhdx")

    def test_parent_is_not_found_through_a_link_out_of_the_folder(self):
        os.mkdir(self.path("sub"))
        self.child_of(self.base_at("base.vhdx"), relative_path="base.vhdx", name="sub/child.vhdx")
        os.symlink("../base.vhdx", self.path("sub/base.vhdx"))
        self.chain_refused(MISSING, ["own folder"], name="sub/child.vhdx")

    def test_parent_that_is_a_fifo_is_not_opened(self):
        self.child_of(self.base_at("other.vhdx"), relative_path="base.vhdx")
        os.mkfifo(self.path("base.vhdx"))
        self.chain_refused(MISSING, ["own folder"])

    def test_parent_mapped_by_whole_path(self):
        base = self.base_at("sub/other.vhdx")
        self.child_of(base, absolute_win32_path="\\\\?\\d:\\vm\\base.vhdx")
        self.finds("parent=\\\\?\\D:\\VM\\base.vhdx=" + self.path("sub/other.vhdx"))

    def test_parent_mapped_by_volume(self):
        volume = "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}"
        self.child_of(self.base_at("sub/vm/base.vhdx"), volume_path=volume + "\\vm\\base.vhdx")
        self.finds("parent=" + volume.lower() + "=" + self.path("sub"))

    def test_parent_that_all_paths_name_is_the_relative_one(self):
        """MS-VHDX 2.6.2.6: that one first, then the volume's, then the absolute one."""
        base = self.base_at("near/base.vhdx")
        VhdxBuild(SIZE).write(self.path("base.vhdx"))
        self.child_of(base, relative_path=".\\near\\base.vhdx", absolute_win32_path="\\\\?\\d:\\vm\\base.vhdx",
                      volume_path="\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\vm\\base.vhdx")
        self.finds()

    def test_parent_mapped_by_name(self):
        self.child_of(self.base_at("sub/other.vhdx"), relative_path="..\\base.vhdx")
        self.finds("parent=base.vhdx=" + self.path("sub/other.vhdx"))

    def test_parent_mapped_by_folder(self):
        self.child_of(self.base_at("sub/x/base.vhdx"), absolute_win32_path="\\\\?\\d:\\vm\\x\\base.vhdx")
        self.finds("parent=\\\\?\\d:\\vm=" + self.path("sub"))

    def test_parent_mapped_folder_is_not_left(self):
        self.child_of(self.base_at("base.vhdx"), absolute_win32_path="\\\\?\\d:\\vm\\..\\base.vhdx")
        os.mkdir(self.path("sub"))
        self.chain_refused(FORBIDDEN, ["leads out"], "parent=\\\\?\\d:\\vm=" + self.path("sub"))

    def test_parent_mapped_to_nothing_is_named(self):
        self.child_of(self.base_at("base.vhdx"), relative_path="base.vhdx")
        self.chain_refused(MISSING, ["none.vhdx"], "parent=base.vhdx=" + self.path("none.vhdx"))

    def test_parent_of_another_identity_is_refused(self):
        self.child_of(self.base(), relative_path="base.vhdx")
        self.base_at("base.vhdx")
        self.chain_refused(DAMAGED, ["is not the parent", "--parent"])

    def test_parent_of_another_identity_is_passed_over_for_the_right_one(self):
        base = self.base_at("base.vhdx")
        self.base_at("sub/base.vhdx")
        self.child_of(base, relative_path="sub\\base.vhdx")
        self.finds()

    def test_parent_by_its_second_identity(self):
        base = self.base_at("base.vhdx")
        locator = build.locator([("parent_linkage", "{%s}" % uuid.uuid4()), ("relative_path", "base.vhdx"),
                                 ("parent_linkage2", "{%s}" % str(base.data_id).upper())])
        VhdxBuild(SIZE, parent=locator).write(self.path("child.vhdx"))
        self.finds()

    def test_parent_of_other_sectors_is_refused(self):
        base = self.base(sector=4096)
        base.write(self.path("base.vhdx"))
        self.child_of(base, relative_path="base.vhdx")
        self.chain_refused(DAMAGED, ["sectors of 4096"])

    def test_parent_that_is_raw_is_refused(self):
        self.child_of(self.base(), relative_path="base.vhdx")
        self.raw("base.vhdx", SIZE, [(0, MIB)])
        self.chain_refused(DAMAGED, ["not a VHDX"])

    def test_chain_that_comes_back_is_refused(self):
        one, two = VhdxBuild(SIZE), VhdxBuild(SIZE)
        one.parent = vhdx_locator(two, "two.vhdx")
        two.parent = vhdx_locator(one, "child.vhdx")
        one.write(self.path("child.vhdx"))
        two.write(self.path("two.vhdx"))
        self.chain_refused(LOOP, ["comes back"])

    def test_image_that_is_its_own_parent_is_refused(self):
        one = VhdxBuild(SIZE)
        one.parent = vhdx_locator(one, "child.vhdx")
        one.write(self.path("child.vhdx"))
        self.chain_refused(LOOP, ["comes back"])

    def test_chain_without_end_is_refused(self):
        builds = [VhdxBuild(SIZE) for _ in range(70)]
        for number, one in enumerate(builds):
            one.parent = vhdx_locator(builds[(number + 1) % 70], "%d.vhdx" % (number + 1))
            one.write(self.path("%d.vhdx" % number))
        self.chain_refused(LOOP, ["more than 64 files"], name="0.vhdx")


class Locators(ChainLab):
    """Parent locators that are not what they say."""

    def rejects(self, item, code, *texts):
        VhdxBuild(SIZE, parent=item).write(self.path("child.vhdx"))
        self.refused(code, texts, "open", self.path("child.vhdx"), "vhdx", "alone")

    def good(self, *more):
        return [("parent_linkage", "{%s}" % uuid.uuid4()), ("relative_path", "base.vhdx"), *more]

    def test_locator_of_another_type_is_named(self):
        kind = uuid.UUID("deadbeef-0000-1111-2222-334455667788")
        self.rejects(build.locator(self.good(), kind), UNSUPPORTED, str(kind))

    def test_locator_without_identity(self):
        self.rejects(build.locator(self.good()[1:]), DAMAGED, "which parent")

    def test_locator_with_identity_that_is_no_guid(self):
        self.rejects(build.locator([("parent_linkage", "{1}"), self.good()[1]]), DAMAGED, "is no GUID")

    def test_locator_without_path(self):
        self.rejects(build.locator(self.good()[:1]), DAMAGED, "names no path")

    def test_locator_with_a_key_twice(self):
        self.rejects(build.locator(self.good(self.good()[1])), DAMAGED, "relative_path twice")

    def test_locator_with_unknown_keys_is_read(self):
        VhdxBuild(SIZE, parent=build.locator(self.good(("color", "green")))).write(self.path("child.vhdx"))
        self.opened("child.vhdx", "alone")

    def test_locator_with_too_many_entries(self):
        self.rejects(build.locator(self.good(*[("k%d" % i, "v") for i in range(63)])), DAMAGED, "more than 64")

    def test_locator_entries_past_its_end(self):
        item = bytearray(build.locator(self.good()))
        item[18:20] = (40).to_bytes(2, "little")
        self.rejects(bytes(item), DAMAGED, "no room for 40")

    def test_locator_text_past_its_end(self):
        item = bytearray(build.locator(self.good()))
        item[20:24] = (0xFFFFFFF0).to_bytes(4, "little")
        self.rejects(bytes(item), DAMAGED, "cannot have")

    def test_locator_text_of_no_bytes(self):
        self.rejects(build.locator([("", "x")]), DAMAGED, "cannot have 0 bytes")

    def test_locator_text_with_half_a_pair(self):
        self.rejects(build.locator([self.good()[0], ("relative_path", b"\x00\xd8x\x00")]), DAMAGED, "no UTF-16")

    def test_locator_text_with_a_zero_within(self):
        self.rejects(build.locator([self.good()[0], ("relative_path", "a\0b")]), DAMAGED, "no UTF-16")

    def test_locator_missing(self):
        one = VhdxBuild(SIZE, parent=b"x" * 20)
        one.write(self.path("child.vhdx"))
        image = Vhdx(self.path("child.vhdx"))
        image.put(image.item(0x2D)[0], b"u" * 16)
        image.put(image.metadata()[1] + 32 + 5 * 32 + 24, bytes(4))
        self.refused(DAMAGED, ["no parent locator"], "open", image.path, "vhdx", "alone")

    def test_partly_present_block_without_bitmap(self):
        base, child = self.pair()
        Vhdx(self.path("child.vhdx")).set_entry(child.bitmap_index(0), 0)
        tool = self.opened("child.vhdx")
        with self.assertRaises(Refused) as caught:
            tool.read(0, 512)
        self.assertIn("no sector bitmap", caught.exception.message)

    def test_bitmap_over_a_block(self):
        base, child = self.pair()
        Vhdx(self.path("child.vhdx")).set_entry(child.bitmap_index(0), child.place_of[0] | PRESENT)
        self.refused(DAMAGED, ["overlaps"], "open", self.path("child.vhdx"), "vhdx")

    def test_block_behind_the_end_of_the_disk_is_no_block(self):
        base, child = self.pair()
        Vhdx(self.path("child.vhdx")).set_entry(child.block_count + 5, 1 << 40 | PRESENT)
        self.same(self.dumped(self.opened("child.vhdx")), expected(child, expected(base)))

    def test_bitmap_past_the_end(self):
        base, child = self.pair()
        Vhdx(self.path("child.vhdx")).set_entry(child.bitmap_index(0), 1 << 40 | PRESENT)
        self.refused(DAMAGED, ["truncated"], "open", self.path("child.vhdx"), "vhdx")


if __name__ == "__main__":
    unittest.main()
