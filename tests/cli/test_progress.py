# SPDX-License-Identifier: Apache-2.0
"""The progress bar on a real pseudo terminal: redrawn in place, never wider than the terminal."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'agent'))
from lab import GODWIT, Lab, PATIENCE_S  # noqa: E402


class Progress(Lab):
    def setUp(self):
        super().setUp()
        if '"agents":[]' not in self.run_command('status', '--json').stdout:
            self.skipTest('an agent runs on this host already')

    def run_on_terminal(self, columns, interrupt=False):
        """What a copy of two seconds writes to a terminal, and its exit code."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
        child = subprocess.Popen([GODWIT, 'copy', 'slow', 'there'], env=self.environment,
                                 cwd=self.folder, stdin=slave, stdout=slave, stderr=slave,
                                 start_new_session=True,
                                 preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        text = b''
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            if not piece:
                break
            text += piece
            if interrupt and text.count(b'\r') > 2:
                os.write(master, b'\x03')
                interrupt = False
        os.close(master)
        return text.decode(), child.wait(timeout=PATIENCE_S)

    def frames(self, text):
        return [frame.replace('\033[K', '') for frame in re.split(r'\r(?!\n)', text.split('\r\n')[0])
                if frame.replace('\033[K', '')]

    def test_fits_every_width(self):
        for columns in (24, 40, 80, 200):
            text, code = self.run_on_terminal(columns)
            self.assertEqual(code, 0)
            frames = [frame for frame in self.frames(text) if not frame.startswith('  ')]
            self.assertGreater(len(frames), 5, text)
            for frame in frames:
                self.assertLess(len(frame), columns, frame)

    def test_shows_bar_rate_and_estimate(self):
        text, _ = self.run_on_terminal(160)
        self.assertRegex(text, r'memory \d \[=+> +\] \d+% 100\.0 MiB/s 0:\d\d left .* of 1\.0 GiB '
                               r'dirty 5\.0 MiB/s pause ~42 ms sealed')

    def test_redraws_about_five_times_a_second(self):
        began = time.monotonic()
        text, _ = self.run_on_terminal(80)
        took_s = time.monotonic() - began  # two, or more on a busy machine
        self.assertGreater(text.count('\033[K'), 6)
        self.assertLess(text.count('\033[K'), 10 * took_s)

    def test_leaves_a_clean_line_behind(self):
        text, _ = self.run_on_terminal(80)
        self.assertIn('\r\033[K', text)
        self.assertTrue(text.endswith('copy: done\r\n'), repr(text[-80:]))

    def test_ctrl_c_cancels_a_copy_that_runs_here(self):
        self.shut_gate()
        text, code = self.run_on_terminal(80, interrupt=True)
        self.assertEqual(code, 1, text)
        self.assertIn('cancelled', text)


if __name__ == '__main__':
    unittest.main()
