# SPDX-License-Identifier: Apache-2.0
"""Images beside a QEMU that writes them (qemu-io: QEMU's own block layer), and QEMU's image locks."""
import itertools
import os
import shutil
import subprocess
import sys
import threading
import unittest

from image_lab import Lab, MIB, Refused, Vhdx, run, sha256


class Qemu:
    """An interactive qemu-io. It takes one line at a time: each waits for the prompt."""

    PROMPT = "qemu-io> "

    def __init__(self, *words):
        self.process = subprocess.Popen(["qemu-io", *words], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        self.said = ""
        self.until(self.PROMPT)

    def until(self, text):
        """Everything said up to and with text."""
        while text not in self.said:
            more = os.read(self.process.stdout.fileno(), 65536).decode()
            if not more:
                raise AssertionError(f"qemu-io ended before it said {text!r}: {self.said}")
            self.said += more
        before, self.said = self.said.split(text, 1)
        return before + text

    def __call__(self, command):
        self.process.stdin.write((command + "\n").encode())
        return self.until(self.PROMPT)

    def write(self, byte, offset, length):
        said = self(f"write -P {byte} {offset} {length}")
        if f"wrote {length}/{length} bytes at offset {offset}" not in said:
            raise AssertionError(said)

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.write(b"quit\n")
            self.process.stdin.close()
            self.process.wait()
        self.process.stdout.close()


class InUse(Lab):
    def setUp(self):
        super().setUp()
        self.image = self.path("vm.vhdx")
        run("qemu-img", "create", "-f", "vhdx", "-o", "block_size=1M", self.image, "512M")
        self.qemus = []

    def tearDown(self):
        for qemu in self.qemus:
            qemu.end()
        super().tearDown()

    def qemu(self, *words):
        self.qemus.append(Qemu(*words))
        return self.qemus[-1]

    def follow(self):
        tool = self.tool()
        tool("open", self.image, "vhdx", "in-use")
        return tool

    def each_write(self, *qemu_options):
        qemu = self.qemu("-f", "vhdx", *qemu_options, self.image)
        qemu.write(1, 0, 65536)
        tool = self.follow()
        for i in range(2, 40):
            offset = i * 3 * MIB + 512 * i
            qemu.write(i, offset, 4096)
            if i % 2:
                # Negative control: the table as it was known does not have it.
                self.assertEqual(tool.read(offset, 512), bytes(512))
            tool("refresh")
            self.assertEqual(tool.read(offset, 4096), bytes([i]) * 4096)
            self.assertIn(f"{offset // MIB * MIB} {MIB}", tool("appeared"))
            self.assertEqual(tool("appeared"), [])
        self.assertEqual(tool.extents(step=65536), tool.extents())
        tool("unchanged")  # changes are no error here

    def test_vhdx_refresh_sees_each_completed_write(self):
        self.each_write()

    def test_vhdx_refresh_sees_each_completed_write_cache_none(self):
        self.each_write("-t", "none")


    def test_vhdx_write_into_a_block_being_allocated_appears_later(self):
        """The second of two writes into a new block completes before the file names the block."""
        qemu = self.qemu("--image-opts",
                         "driver=vhdx,file.driver=blkdebug,file.image.driver=file,"
                         f"file.image.filename={self.image}")
        qemu.write(1, 0, 4096)
        tool = self.follow()
        block = 7 * MIB
        qemu("break pwritev first")
        qemu(f"aio_write -P 8 {block} 4096")
        qemu("wait_break first")
        second = qemu(f"aio_write -P 9 {block + 65536} 4096")
        for _ in range(300):
            if "wrote" not in second:
                second += qemu("sleep 300")
        self.assertIn(f"wrote 4096/4096 bytes at offset {block + 65536}", second)
        # QEMU has completed it; its dirty bitmap would say so now, and never again.
        tool("refresh")
        self.assertEqual(tool.read(block + 65536, 4096), bytes(4096))
        self.assertEqual(tool("appeared"), [])
        first = qemu("resume first") + qemu("aio_flush")
        self.assertIn(f"wrote 4096/4096 bytes at offset {block}", first)
        tool("refresh")
        self.assertEqual(tool("appeared"), [f"{block} {MIB}"])
        self.assertEqual(tool.read(block + 65536, 4096), b"\x09" * 4096)
        self.assertEqual(tool.read(block, 4096), b"\x08" * 4096)

    def test_vhdx_refresh_while_blocks_are_allocated(self):
        qemu = self.qemu("-f", "vhdx", self.image)
        qemu.write(1, 0, 65536)
        tool = self.follow()
        self.assertEqual(len(tool.extents()) > 0, True)
        done, faults = threading.Event(), []
        rounds, appeared = 0, set()

        def write():
            try:
                for i in itertools.count(1):
                    if i >= 300 and rounds > 3:
                        break
                    qemu.write(i % 250 + 1, (i * 7 % 512) * MIB + 4096 * (i % 50), 8192)
            except Exception as fault:  # noqa: BLE001 (told below)
                faults.append(fault)
            finally:
                done.set()

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        while not done.is_set():
            tool("refresh")
            tool("extents")
            appeared.update(int(line.split()[0]) for line in tool("appeared"))
            rounds += 1
        thread.join()
        self.assertEqual(faults, [])
        tool("refresh")
        tool("dump", self.path("ours.raw"))
        qemu.end()
        run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", self.image, self.path("theirs.raw"))
        self.assertEqual(sha256(self.path("ours.raw")), sha256(self.path("theirs.raw")))

    def test_raw_in_use_sees_new_data_in_a_hole(self):
        raw = self.raw("vm.raw", 64 * MIB, [(0, 4096)])
        for options in ([], ["-t", "none"]):
            qemu = self.qemu("-f", "raw", *options, raw)
            tool = self.tool()
            tool("open", raw, "raw", "in-use")
            before = tool.extents()
            offset = (5 + 9 * len(options)) * MIB
            qemu.write(6, offset, 65536)
            self.assertIn((offset, 65536, "data"), tool.extents())
            self.assertNotIn((offset, 65536, "data"), before)
            self.assertEqual(tool.extents(step=65536), tool.extents())
            self.assertEqual(tool.read(offset, 65536), b"\6" * 65536)
            qemu.end()

    def test_raw_in_use_forgets_what_it_saw(self):
        """A run of data that is in part a hole by now: told as one until the next refresh."""
        raw = self.raw("vm.raw", 64 * MIB, [(0, 8 * MIB)])
        tool = self.tool()
        tool("open", raw, "raw", "in-use")
        self.assertEqual(tool.extents()[0], (0, 8 * MIB, "data"))
        run("fallocate", "--punch-hole", "--offset", str(2 * MIB), "--length", str(MIB), raw)
        self.assertEqual(tool.extents()[0], (0, 8 * MIB, "data"))
        tool("refresh")
        hole = [(0, 2 * MIB, "data"), (2 * MIB, MIB, "absent"), (3 * MIB, 5 * MIB, "data")]
        self.assertEqual(tool.extents(step=65536)[:3], hole)
        self.assertEqual(tool.extents()[:3], hole)

    def test_descriptors_wait(self):
        """io_uring answers EAGAIN on a regular file that is open O_NONBLOCK."""
        raw = self.raw("vm.raw", MIB, [(0, 4096)])
        for options in (["in-use"], [], ["direct"]):
            tool = self.tool()
            tool("open", raw, "raw", *options)
            folder = f"/proc/{tool.process.pid}"
            found = 0
            for fd in os.listdir(folder + "/fd"):
                if os.readlink(f"{folder}/fd/{fd}") == raw:
                    with open(f"{folder}/fdinfo/{fd}", encoding="ascii") as info:
                        flags = int(info.read().split("flags:")[1].split()[0], 8)
                    self.assertEqual(flags & os.O_NONBLOCK, 0)
                    found += 1
            self.assertGreaterEqual(found, 1)
            tool("close")

    def test_vhdx_in_use_rejects_log_that_nobody_works_on(self):
        vhdx = Vhdx(self.image)
        vhdx.header({48: b"log-guid-of-test"})
        self.refused(16, ["nobody is at work", "at rest"], "open", self.image, "vhdx", "in-use")

    def test_vhdx_in_use_waits_for_log_to_be_empty(self):
        vhdx = Vhdx(self.image)
        vhdx.header({48: b"log-guid-of-test"})
        timer = threading.Timer(0.3, lambda: vhdx.header({48: bytes(16)}))
        timer.start()
        tool = self.follow()
        timer.join()
        self.assertEqual(tool.info()["size"], 512 * MIB)

    def test_vhdx_in_use_rejects_entry_that_stays_wrong(self):
        tool = self.follow()
        vhdx = Vhdx(self.image)
        vhdx.set_entry(3, (1 << 50) | 6)
        with self.assertRaises(Refused) as caught:
            tool("refresh")
        self.assertEqual(caught.exception.code, 117)
        vhdx.set_entry(3, 0)
        tool("refresh")


class Locks(Lab):
    def setUp(self):
        super().setUp()
        self.image = self.path("vm.vhdx")
        self.raw_file = self.raw("vm.raw", 4 * MIB, [(0, 4096)])
        run("qemu-img", "create", "-f", "vhdx", self.image, "64M")
        self.qemus = []

    def tearDown(self):
        for qemu in self.qemus:
            qemu.end()
        super().tearDown()

    def writer(self, kind, path):
        qemu = Qemu("-f", kind, path)
        self.qemus.append(qemu)
        qemu.write(1, 0, 4096)
        return qemu

    def test_open_at_rest_is_refused_beside_a_writing_qemu(self):
        for kind, path in (("vhdx", self.image), ("raw", self.raw_file)):
            qemu = self.writer(kind, path)
            self.refused(16, ["godwit move", "writing"], "open", path, kind)
            tool = self.tool()
            tool("open", path, kind, "in-use")
            qemu.end()
            tool("open", path, kind)

    def test_open_at_rest_keeps_qemu_from_writing(self):
        for kind, path in (("vhdx", self.image), ("raw", self.raw_file)):
            tool = self.tool()
            tool("open", path, kind)
            done = run("qemu-io", "-f", kind, "-c", "write 0 4096", path, ok=False)
            self.assertIn("lock", done.stdout + done.stderr)
            run("qemu-img", "info", "-f", kind, path)  # readers are welcome
            tool("close")
            run("qemu-io", "-f", kind, "-c", "write 0 4096", path)

    def test_open_at_rest_beside_a_reading_qemu(self):
        qemu = Qemu("-r", "-f", "raw", self.raw_file)
        self.qemus.append(qemu)
        self.assertIn("read 4096/4096", qemu("read 0 4096"))
        self.tool()("open", self.raw_file, "raw")

    def test_two_readers_at_rest(self):
        self.tool()("open", self.image, "vhdx")
        self.tool()("open", self.image, "vhdx", "direct")

    def test_new_image_is_locked(self):
        path = self.path("new.raw")
        tool = self.tool()
        tool("create", path, "raw", f"size={4 * MIB}")
        done = run("qemu-img", "convert", "-f", "raw", "-O", "raw", path, path + ".2", ok=False)
        self.assertIn("lock", done.stdout + done.stderr)
        self.refused(16, ["another process"], "open", path, "raw")
        tool("finish")
        tool("close")
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", path, path + ".2")


class Devices(Lab):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("loop devices need root")
        backing = self.raw("backing.raw", 64 * MIB, [(0, 64 * MIB)])
        done = run("losetup", "-f", "--show", backing, ok=False)
        if done.returncode:
            self.skipTest("no loop device: " + done.stderr.strip())
        self.device = done.stdout.strip()

    def tearDown(self):
        if hasattr(self, "device"):
            run("losetup", "-d", self.device)
        super().tearDown()

    def test_raw_device_round_trip(self):
        raw = self.raw("in.raw", 64 * MIB, [(5 * MIB, 3 * MIB), (63 * MIB, MIB)])
        for options in ([], ["direct"]):
            tool = self.tool()
            tool("create", self.device, "raw", f"size={64 * MIB}", *options)
            self.assertEqual(tool.info()["device"], 1)
            tool("copy-from", raw, "raw")
            tool("finish")
            tool("close")
            self.assert_same(raw, self.device)
            tool("open", self.device, "raw", *options)
            self.assertEqual(tool.info()["size"], 64 * MIB)
            tool("dump", self.path("out.raw"))
            self.assertEqual(sha256(raw), sha256(self.path("out.raw")))
            tool("close")
            run("dd", "if=/dev/urandom", f"of={self.device}", "bs=1M", "count=64")

    def test_raw_device_zeroes_are_given_back(self):
        """The device held bytes everywhere; where it can discard, its storage becomes as thin as the disk."""
        run("dd", "if=/dev/urandom", f"of={self.device}", "bs=1M", "count=64", "oflag=direct")
        self.assertGreater(self.disk_blocks(self.path("backing.raw")), 63 * MIB)
        raw = self.raw("in.raw", 64 * MIB, [(5 * MIB, 3 * MIB)])
        tool = self.tool()
        tool("create", self.device, "raw", f"size={64 * MIB}", "direct")
        tool("copy-from", raw, "raw")
        tool("finish")
        tool("close")
        self.assert_same(raw, self.device)
        self.assertLess(self.disk_blocks(self.path("backing.raw")), 8 * MIB)

    def opened_past_the_cache(self, tool):
        """Does the kernel say that the tool has the device open with O_DIRECT?"""
        folder = f"/proc/{tool.process.pid}/fd"
        for name in os.listdir(folder):
            if os.readlink(os.path.join(folder, name)) == self.device:
                with open(f"/proc/{tool.process.pid}/fdinfo/{name}", encoding="ascii") as info:
                    flags = next(line for line in info if line.startswith("flags:"))
                if int(flags.split()[1], 8) & os.O_DIRECT:
                    return True
        return False

    def test_raw_device_is_read_and_written_past_the_cache(self):
        for how in (["create", self.device, "raw", f"size={64 * MIB}"], ["open", self.device, "raw"]):
            tool = self.tool()
            tool(*how)
            self.assertFalse(self.opened_past_the_cache(tool))
            tool("close")
            tool(*how, "direct")
            self.assertTrue(self.opened_past_the_cache(tool))
            tool("close")

    def test_raw_device_takes_pieces_smaller_than_its_sectors(self):
        done = run("losetup", "-f", "--show", "--sector-size", "4096", self.path("backing.raw"), ok=False)
        if done.returncode:
            self.skipTest("no loop device of 4096-byte sectors: " + done.stderr.strip())
        device = done.stdout.strip()
        try:
            tool = self.tool()
            tool("create", device, "raw", f"size={64 * MIB}", "direct")
            tool("fill", 0, 16384, 5)
            tool("fill", 8192 + 512, 1024, 6)
            tool("finish")
            tool("close")
            with open(device, "rb") as disk:
                self.assertEqual(disk.read(16384), b"\5" * 8704 + b"\6" * 1024 + b"\5" * 6656)
        finally:
            run("losetup", "-d", device)

    def test_raw_device_zero_of_part_of_a_sector(self):
        tool = self.tool()
        tool("create", self.device, "raw", f"size={64 * MIB}")
        tool("fill", 0, 8192, 5)
        tool("zero", 100, 5000)
        self.assertEqual(tool.read(0, 8192), b"\5" * 100 + bytes(5000) + b"\5" * 3092)

    def test_raw_device_too_small(self):
        self.refused(28, ["needs"], "create", self.device, "raw", f"size={65 * MIB}")

    def test_raw_device_in_use_is_refused(self):
        holder = os.open(self.device, os.O_RDWR | os.O_EXCL)
        try:
            self.refused(16, ["mounted or in use"], "open", self.device, "raw")
            self.refused(16, ["mounted or in use"], "create", self.device, "raw",
                         f"size={64 * MIB}")
            tool = self.tool()
            tool("open", self.device, "raw", "in-use")
        finally:
            os.close(holder)
        self.tool()("open", self.device, "raw")

    def test_vhdx_is_not_made_on_a_device(self):
        self.refused(17, ["exists"], "create", self.device, "vhdx", f"size={MIB}")


if __name__ == "__main__":
    if not shutil.which("qemu-io"):
        print("skipped: qemu-io is not installed")
        sys.exit(77)
    unittest.main()
