# SPDX-License-Identifier: Apache-2.0
"""A new VHDX whose maker is killed at each of its writes and flushes in turn (by strace): it opens
nowhere, or it is whole. And the order of flushes, which a kill cannot show, from the trace."""
import os
import re
import shutil
import subprocess
import sys
import unittest

from image_lab import MIB, TOOL, Lab, Refused, run, sha256

SIZE = 20 * MIB


class Crash(Lab):
    def setUp(self):
        super().setUp()
        self.raw_file = self.raw("in.raw", SIZE, [(0, 4096), (9 * MIB, 2 * MIB), (SIZE - 512, 512)])
        self.image = self.path("new.vhdx")

    def make(self, *strace):
        """One run of the tool under strace: create, copy, finish. True when finish said ok."""
        commands = (f"create {self.image} vhdx size={SIZE} block={MIB}\n"
                    f"copy-from {self.raw_file} raw\nsync\nfinish\n")
        done = subprocess.run(["strace", *strace, TOOL], input=commands, capture_output=True,
                              text=True, check=False,
                              env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))
        return done.stdout.split() == ["ok"] * 4

    def check(self, said_ok):
        """Whole, or refused by everybody. Returns whether it opens."""
        theirs = run("qemu-img", "info", "-f", "vhdx", self.image, ok=False).returncode == 0
        try:
            self.tool()("open", self.image, "vhdx")
            ours = True
        except Refused:
            ours = False
        self.assertEqual(ours, theirs)
        if ours:
            self.assert_same(self.raw_file, self.image, "raw", "vhdx")
        else:
            self.assertFalse(said_ok)
        return ours

    def test_vhdx_killed_at_each_step_is_refused_or_whole(self):
        self.make("-o", self.path("trace"), "-e", "trace=pwrite64,fdatasync,ftruncate,fsync")
        with open(self.path("trace"), encoding="utf-8") as trace:
            names = [line.split("(")[0] for line in trace if "(" in line and "<" not in line[:1]]
        steps = [name for name in names if name in ("pwrite64", "fdatasync", "ftruncate", "fsync")]
        self.assertGreater(len(steps), 15)
        os.unlink(self.image)
        opened = []
        for call in sorted(set(steps)):
            count = steps.count(call)
            # All of the last ones, which are finish's, and a few of those before.
            for number in sorted(set(range(1, count, 4)) | set(range(max(1, count - 8), count + 1))):
                said_ok = self.make("-o", "/dev/null", "-e", f"trace={call}", "-e",
                                    f"inject={call}:signal=KILL:when={number}")
                self.assertFalse(said_ok)
                opened.append(self.check(said_ok))
                os.unlink(self.image)
        # Killed at the very last flushes it is whole; at all others it opens nowhere.
        self.assertIn(True, opened)
        self.assertGreater(opened.count(False), 12)

    def test_vhdx_failed_flush_is_told_and_leaves_it_refused(self):
        # 1 is sync's, 2 is finish's before the identifier is written.
        for number in range(1, 3):
            said_ok = self.make("-o", "/dev/null", "-e", "trace=fdatasync", "-e",
                                f"inject=fdatasync:error=EIO:when={number}")
            self.assertFalse(said_ok)
            self.assertFalse(self.check(said_ok), "opens although its data was not flushed")
            os.unlink(self.image)

    def test_vhdx_is_flushed_before_each_next_step(self):
        self.assertTrue(self.make("-o", self.path("trace"), "-e", "trace=pwrite64,fdatasync,fsync"))
        steps = []
        with open(self.path("trace"), encoding="utf-8") as trace:
            for line in trace:
                write = re.match(r"pwrite64\(\d+, .*, (\d+), (\d+)\)\s+= \d+$", line)
                if write:
                    length, offset = int(write.group(1)), int(write.group(2))
                    steps.append("marker" if (offset, length) == (0, 24) else
                                 "identifier" if offset == 0 else
                                 "header" if offset < MIB else
                                 "metadata" if offset < 3 * MIB else
                                 "bat" if offset < 4 * MIB else "data")
                elif line.startswith(("fdatasync", "fsync")):
                    steps.append("flush")
        self.assertEqual(steps.count("identifier"), 1)
        short = []
        for step in steps:
            if not short or short[-1] != step:
                short.append(step)
        end = ["flush", "metadata", "header", "flush", "identifier", "flush"]
        self.assertEqual(short[-len(end):], end)
        self.assertEqual(short[:4], ["marker", "data", "bat", "flush"])
        for step in ("header", "metadata"):
            self.assertNotIn(step, short[:-len(end)])


class Full(Lab):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("mounting a small file system needs root")
        self.small = self.path("small")
        os.mkdir(self.small)
        done = run("mount", "-t", "tmpfs", "-o", "size=8m", "none", self.small, ok=False)
        if done.returncode:
            self.skipTest("cannot mount tmpfs: " + done.stderr.strip())

    def tearDown(self):
        for tool in self.tools:
            tool.kill()
        self.tools.clear()
        run("umount", self.small, ok=False)
        super().tearDown()

    def test_fixed_image_that_does_not_fit_is_refused_at_once(self):
        for kind in ("raw", "vhdx"):
            path = os.path.join(self.small, "x." + kind)
            self.refused(28, ["reserve", "No space"], "create", path, kind, f"size={20 * MIB}",
                         "fixed")
            self.assertFalse(os.path.exists(path))

    def test_dynamic_image_that_fills_up(self):
        tool = self.tool()
        tool("create", os.path.join(self.small, "x.vhdx"), "vhdx", f"size={20 * MIB}")
        with self.assertRaises(Refused):
            tool("fill", 0, 20 * MIB, 1)

    def test_thin_image_fits(self):
        raw = self.raw("in.raw", 400 * MIB, [(300 * MIB, MIB)])
        path = os.path.join(self.small, "x.vhdx")
        tool = self.tool()
        tool("create", path, "vhdx", f"size={400 * MIB}")
        tool("copy-from", raw, "raw")
        tool("finish")
        tool("dump", self.path("out.raw"))
        self.assertEqual(sha256(raw), sha256(self.path("out.raw")))


if __name__ == "__main__":
    missing = [program for program in ("qemu-img", "strace") if not shutil.which(program)]
    if missing:
        print("skipped: not installed: " + " ".join(missing))
        sys.exit(77)
    unittest.main()
