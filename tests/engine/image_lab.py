# SPDX-License-Identifier: Apache-2.0
"""What the image scripts share: the tool by line, qemu-img, scratch folders, a VHDX to take apart.

It computes no verdicts. MS-VHDX offsets are written here a second time on purpose: the tests must not
learn the format from the code under test.
"""
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

try:
    import pyvhdi
except ImportError:
    pyvhdi = None

MIB = 1 << 20
TOOL = os.environ.get("IMAGE_TOOL", "build/tests/engine/image-tool")


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


class Tool:
    """One image-tool process."""

    def __init__(self):
        # Freed memory that the sanitizer holds back would count as the image's.
        settings = {"ASAN_OPTIONS": "quarantine_size_mb=1", **os.environ}
        self.process = subprocess.Popen(
            [TOOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings
        )

    def __call__(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        lines = []
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"image-tool died at {words}: {self.process.wait()}")
            line = line.rstrip("\n")
            if line == "ok":
                return lines
            if line.startswith("error "):
                code, message = line.split(" ", 2)[1:]
                raise Refused(int(code), message)
            lines.append(line)

    def info(self):
        return json.loads(self("info")[0])

    def extents(self, step=0):
        """Asked for step bytes at a time; neighbours of one kind are one."""
        rows = []
        for line in self("extents", f"step={step}"):
            offset, length, kind = line.split()
            if rows and rows[-1][2] == kind:
                rows[-1] = (rows[-1][0], rows[-1][1] + int(length), kind)
            else:
                rows.append((int(offset), int(length), kind))
        return rows

    def read(self, offset, length):
        return bytes.fromhex(self("read", offset, length)[0])

    def cpu_seconds(self):
        """What it has computed so far, however busy the machine is."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        """False when the process complained at its end (a leak)."""
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait() == 0

    def kill(self):
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def run(*words, ok=True, **more):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **more
    )
    if ok and done.returncode:
        raise AssertionError(f"{words}: {done.returncode} {done.stdout} {done.stderr}")
    return done


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest"
        ) else hashlib.sha256(file.read()).hexdigest()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def crc_row(value):
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_TABLE = [crc_row(i) for i in range(256)]


class Vhdx:
    """A VHDX file as bytes to be changed in place, its checksums made right again."""

    def __init__(self, path):
        self.path = path

    def get(self, offset, length):
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def put(self, offset, data):
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def seal(self, offset, length):
        data = bytearray(self.get(offset, length))
        data[4:8] = b"\0\0\0\0"
        self.put(offset + 4, struct.pack("<I", crc32c(data)))

    def header(self, changes):
        """changes: {offset in the header: bytes}, in both headers."""
        for at in (64 << 10, 128 << 10):
            for offset, data in changes.items():
                self.put(at + offset, data)
            self.seal(at, 4096)

    def regions(self, changes):
        for at in (192 << 10, 256 << 10):
            for offset, data in changes.items():
                self.put(at + offset, data)
            self.seal(at, 64 << 10)

    def region(self, first_guid_byte):
        """(position of its entry in the table, offset, length)"""
        table = self.get(192 << 10, 64 << 10)
        for i in range(struct.unpack_from("<I", table, 8)[0]):
            entry = 16 + 32 * i
            if table[entry] == first_guid_byte:
                offset, length = struct.unpack_from("<QI", table, entry + 16)
                return entry, offset, length
        raise AssertionError("no such region")

    def bat(self):
        return self.region(0x66)

    def metadata(self):
        return self.region(0x06)

    def item(self, first_guid_byte):
        """(file offset of its table entry, file offset of the item)"""
        _, base, _ = self.metadata()
        table = self.get(base, 64 << 10)
        for i in range(struct.unpack_from("<H", table, 10)[0]):
            entry = 32 + 32 * i
            if table[entry] == first_guid_byte:
                return base + entry, base + struct.unpack_from("<I", table, entry + 16)[0]
        raise AssertionError("no such item")

    def entry(self, index):
        return struct.unpack("<Q", self.get(self.bat()[1] + 8 * index, 8))[0]

    def set_entry(self, index, value):
        self.put(self.bat()[1] + 8 * index, struct.pack("<Q", value))


class Lab(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="godwit-image-", dir=os.environ.get("IMAGE_SCRATCH"))
        self.tools = []

    def tearDown(self):
        clean = [tool.end() for tool in self.tools if tool.process.returncode is None]
        shutil.rmtree(self.folder)
        self.assertTrue(all(clean), "image-tool ended with a complaint (leak?)")

    def path(self, name):
        return os.path.join(self.folder, name)

    def tool(self):
        tool = Tool()
        self.tools.append(tool)
        return tool

    def refused(self, code, words, *command):
        """The command is refused with this errno and a message of one line that has these words."""
        with self.assertRaises(Refused) as caught:
            self.tool()(*command)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        for word in words:
            self.assertIn(word, caught.exception.message)
        return caught.exception.message

    def raw(self, name, size, pieces):
        """A sparse raw file with random bytes in pieces: [(offset, length)]."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(size)
            for offset, length in pieces:
                file.seek(offset)
                file.write(os.urandom(length))
        return path

    def disk_blocks(self, path):
        return os.stat(path).st_blocks * 512

    def assert_same(self, one, two, format_one="raw", format_two="raw"):
        done = run("qemu-img", "compare", "-f", format_one, "-F", format_two, one, two, ok=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class ReadLab(Lab):
    """Images that godwit only reads, beside libvhdi."""
    form = "vhdx"

    def opened(self, name, *words, form=None):
        tool = self.tool()
        tool("open", self.path(name), form or self.form, *words)
        return tool

    def dumped(self, tool):
        tool("dump", self.path("dump"))
        with open(self.path("dump"), "rb") as file:
            return file.read()

    def by_libvhdi(self, *names):
        """The disk as libvhdi reads it; names: the child first."""
        if not pyvhdi:
            self.skipTest("python3-libvhdi is not installed")
        files = [pyvhdi.file() for _ in names]
        for file, name in zip(files, names):
            file.open(self.path(name))
        for file, parent in zip(files, files[1:]):
            file.set_parent(parent)
        pieces, left = [], files[0].get_media_size()
        while left > 0:
            pieces.append(files[0].read_buffer(min(MIB, left)))
            left -= len(pieces[-1])
        return b"".join(pieces)

    def check_extents(self, tool, disk):
        """They follow one another up to the end, and what is not data is zero; whatever is asked at once."""
        self.assertEqual(tool.extents(step=65536), tool.extents())
        at = 0
        for offset, length, kind in tool.extents():
            self.assertEqual(offset, at)
            at += length
            if kind != "data":
                self.assertEqual(disk[offset:offset + length].count(0), length)
        self.assertEqual(at, len(disk))

    def same(self, one, two):
        self.assertEqual(len(one), len(two))
        self.assertEqual(hashlib.sha256(one).digest(), hashlib.sha256(two).digest())
