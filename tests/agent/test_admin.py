# SPDX-License-Identifier: Apache-2.0
"""The admin socket against bad input: each is answered with a reason or cut off, and the agent lives on."""
import os
import pwd
import socket
import subprocess
import sys
import time
import unittest

from lab import Admin, Lab, PATIENCE_S


class Admins(Lab):
    def setUp(self):
        super().setUp()
        self.agent = self.start_ready()
        self.admin = Admin(self.agent.socket_path)

    def tearDown(self):
        self.admin.close()
        # Whatever was sent: the agent still answers, and ends in order.
        other = Admin(self.agent.socket_path)
        self.assertTrue(other.ask({'request': 'status'})['ok'])
        other.close()
        self.end_agent(self.agent)
        super().tearDown()

    def refused(self, request, text, code=2):
        answer = self.admin.ask(request)
        self.assertIs(answer['ok'], False)
        self.assertIn(text, answer['error'])
        self.assertEqual(answer['exit_code'], code)

    def test_garbage_is_answered_and_cut_off(self):
        self.refused(b'\x00\xff garbage\n', 'not a line of JSON')
        self.assertIsNone(self.admin.receive())

    def test_a_list_is_no_request(self):
        self.refused(b'[1,2]\n', 'not an object')

    def test_nesting_beyond_the_parser_is_refused(self):
        self.refused(b'[' * 100000 + b'\n', 'JSON')

    def test_an_oversize_line_is_refused(self):
        try:
            self.admin.send(b'{"request":"' + b'x' * (2 << 20))
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            answer = self.admin.receive()
        except ConnectionResetError:
            answer = None
        if answer is not None:
            self.assertIn('longer than', answer['error'])

    def test_keys_given_twice_are_refused(self):
        self.refused(b'{"request":"status","request":"copy"}\n', 'JSON')

    def test_a_request_needs_a_name(self):
        self.refused({'job': 'x'}, "'request' is missing")

    def test_an_unknown_request_is_refused(self):
        self.refused({'request': 'explode'}, "'explode' does not exist")

    def test_unknown_keys_are_refused(self):
        self.refused({'request': 'copy', 'source': '/a', 'target': '/b', 'sudo': True}, "no key 'sudo'")

    def test_an_empty_name_is_of_no_move(self):
        self.refused({'request': 'resume', 'move': ''}, 'an empty name means none')
        self.refused({'request': 'cancel', 'job': ''}, 'an empty name means none')
        self.refused({'request': 'resume', 'move': 7}, "'move' is not a text")

    def test_a_wrong_type_is_refused(self):
        self.refused({'request': 'copy', 'source': 7, 'target': '/b'}, "'source' is not a text")

    def test_a_zero_byte_in_a_path_is_refused(self):
        self.refused({'request': 'copy', 'source': '/a\0b', 'target': '/b'}, '')

    def test_a_number_out_of_range_is_refused(self):
        self.refused({'request': 'copy', 'source': '/a', 'target': '/b', 'channels': 1 << 40},
                     "'channels' is not a number")

    def test_an_unknown_format_is_refused(self):
        self.refused({'request': 'copy', 'source': '/a', 'target': '/b', 'format': 'qed'},
                     'none of raw, vhdx, qcow2, vdi and vmdk')

    def test_a_bad_network_is_refused(self):
        self.refused({'request': 'copy', 'source': '/a', 'target': '/b',
                      'trusted_networks': ['10.0.0.0/99']}, '10.0.0.0/99')

    def test_an_unknown_tracker_is_refused(self):
        self.refused({'request': 'move', 'qmp': '/a', 'to': '127.0.0.1', 'tracker': 'magic'}, 'magic')

    def test_a_watch_of_nothing_is_refused(self):
        self.refused({'request': 'watch', 'job': 'abc'}, 'no migration', code=1)

    def test_a_huge_history_limit_is_refused(self):
        self.refused({'request': 'history', 'limit': 1 << 30}, 'limit')

    def test_a_line_in_pieces_is_one_line(self):
        for byte in b'{"request": "status"}':
            self.admin.send(bytes([byte]))
        self.admin.send(b'\n')
        self.assertTrue(self.admin.receive()['ok'])

    def test_two_lines_at_once_get_two_answers(self):
        self.admin.send(b'{"request":"status"}\n{"request":"history"}\n')
        self.assertIn('agent', self.admin.receive())
        self.assertIn('history', self.admin.receive())

    def test_watch_tells_progress_and_the_end(self):
        job = self.submit(self.agent)
        self.admin.send({'request': 'watch', 'job': job})
        lines = [self.admin.receive()]
        while lines[-1]['event'] != 'ended':
            lines.append(self.admin.receive())
        done = [line['progress']['bytes_done'] for line in lines]
        self.assertGreater(len(lines), 3)
        self.assertEqual(done, sorted(done))
        self.assertEqual(lines[-1]['exit_code'], 0)
        self.assertEqual(set(lines[0]['progress']), {
            'phase', 'round', 'bytes_total', 'bytes_done', 'bytes_sent', 'bytes_zero', 'rate',
            'dirty_rate', 'predicted_pause_ms', 'pause_ms', 'elapsed_ms', 'throttle_percent', 'channels',
            'state', 'path', 'transport', 'note', 'paths', 'path_note'})

    def test_too_many_connections_are_refused(self):
        many = [Admin(self.agent.socket_path) for _ in range(63)]
        for one in many:
            self.assertTrue(one.ask({'request': 'history'})['ok'])
        self.assertTrue(self.admin.ask({'request': 'history'})['ok'])
        extra = Admin(self.agent.socket_path)
        self.assertIn('too many', extra.receive()['error'])
        extra.close()
        for one in many:
            one.close()
        # It sees that they are gone in its own time.
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_let_in():
            self.assertLess(time.monotonic(), deadline, 'nobody is let in again')
            time.sleep(0.05)

    def is_let_in(self):
        other = Admin(self.agent.socket_path)
        try:
            return bool((other.ask({'request': 'history'}) or {}).get('ok'))
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            other.close()

    def test_another_user_is_refused(self):
        if os.geteuid() != 0:
            self.skipTest('only root can act as another user')
        nobody = pwd.getpwnam('nobody').pw_uid
        os.chmod(self.folder, 0o755)
        os.chmod(self.agent.socket_path, 0o666)
        program = ('import os, socket, sys; os.setuid(%d); s = socket.socket(socket.AF_UNIX);'
                   's.connect(sys.argv[1]);'
                   'print(s.makefile().readline())' % nobody)
        text = subprocess.run([sys.executable, '-c', program, self.agent.socket_path],
                              capture_output=True, text=True, timeout=PATIENCE_S)
        # Refused in words, or kept out by the folder that the socket lies in.
        self.assertTrue('only root and the agent' in text.stdout or
                        'PermissionError' in text.stderr, text.stdout + text.stderr)


if __name__ == '__main__':
    unittest.main()
