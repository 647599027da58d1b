# SPDX-License-Identifier: Apache-2.0
"""What peers meet at an agent's listeners: who is let in, limits, unfinished handshakes, strangers. The
transport and the link are the real ones; behind them is the scripted engine, which keeps a session."""
import os
import signal
import socket
import subprocess
import unittest

from lab import Admin, GODWIT, Lab, PATIENCE_S, wait_for

PEER = os.environ['PEER_TOOL']


class Sessions(Lab):
    def setUp(self):
        super().setUp()
        self.peers = []

    def tearDown(self):
        for peer in self.peers:
            peer.stdin.close()
            peer.wait(timeout=PATIENCE_S)
            peer.stdout.close()
        super().tearDown()

    def start(self, *options):
        self.agent = self.start_ready(*options)
        admin = Admin(self.agent.socket_path)
        self.address = admin.ask({'request': 'status'})['agent']['listen'][0]
        admin.close()

    def peer(self, what='session', psk=None):
        """Starts a peer; its first line is peer.line."""
        peer = subprocess.Popen([PEER, psk or self.psk, self.address, what], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)
        self.peers.append(peer)
        peer.line = peer.stdout.readline().strip()
        return peer

    def serving(self):
        return [job for job in self.jobs(self.agent).values() if job['kind'] == 'serve']

    def test_a_proven_peer_gets_a_session_that_status_shows(self):
        self.start()
        peer = self.peer()
        self.assertEqual(peer.line, 'open')
        self.assertTrue(wait_for(lambda: [job['state'] for job in self.serving()] == ['running']))
        self.assertEqual(self.serving()[0]['what'], 'from lab')
        peer.stdin.close()
        self.assertTrue(wait_for(lambda: [job['state'] for job in self.serving()] == ['ended']))

    def test_another_key_is_refused(self):
        self.start()
        other = self.path('other.psk')
        with open(other, 'wb') as file:
            subprocess.run([GODWIT, 'key', 'other'], stdout=file, check=True, timeout=PATIENCE_S)
        self.assertIn('key', self.peer(psk=other).line)
        self.assertEqual(self.serving(), [])
        self.assertIn('was not let in', self.end_agent(self.agent))

    def test_beyond_the_limits_peers_hear_that_the_host_is_busy(self):
        self.start('--limits', 'live-in=1,storage-in=1')
        first, second = self.peer(), self.peer()
        self.assertEqual((first.line, second.line), ('open', 'open'))
        self.assertTrue(wait_for(lambda: len(self.serving()) == 2))
        self.assertIn('this host is busy', self.peer().line)
        first.stdin.close()
        self.assertTrue(wait_for(lambda: self.peer().line == 'open', step_s=0.5))

    def test_a_session_can_be_cancelled(self):
        self.start()
        self.peer()
        self.assertTrue(wait_for(self.serving))
        job = self.serving()[0]['job']
        self.assertEqual(self.run_command('cancel', job, socket_path=self.agent.socket_path).returncode,
                         0)
        self.assertTrue(wait_for(lambda: self.serving()[0]['state'] == 'ended'))

    def test_unfinished_handshakes_of_one_host_are_bounded(self):
        self.start()
        lines = [self.peer('silent').line for _ in range(10)]
        self.assertEqual(lines[:8], ['open'] * 8)
        self.assertIn('too many unfinished handshakes', lines[8])
        for peer in self.peers:
            peer.stdin.close()
        self.assertTrue(wait_for(lambda: self.peer().line == 'open', step_s=0.5))

    def test_a_data_channel_of_no_session_is_refused(self):
        self.start()
        self.assertIn('no session on this host has that link', self.peer('stranger').line)

    def test_garbage_on_the_port_harms_nobody(self):
        self.start()
        host, port = self.address.rsplit(':', 1)
        for text in (b'', b'GET / HTTP/1.0\r\n\r\n', os.urandom(4096), b'\x16\x03\x01\x02\x00\x01\x00'):
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as stranger:
                stranger.sendall(text)
        self.assertEqual(self.peer().line, 'open')

    def test_who_dials_an_agent_that_is_ending_hears_so(self):
        # A handshake that is not finished keeps the agent, for 10 s only: a busy machine may take more than that.
        for _ in range(5):
            self.start()
            silent = self.peer('silent')
            self.assertEqual(silent.line, 'open')
            self.agent.send_signal(signal.SIGTERM)
            heard = []
            wait_for(lambda: heard.append(self.peer().line) or self.agent.poll() is not None or
                     'the agent is ending' in heard[-1])
            silent.stdin.close()
            self.assertEqual(self.agent.wait(timeout=PATIENCE_S), 0)
            if 'the agent is ending' in heard[-1]:
                return
        self.fail('nobody is told: %s' % heard)

    def test_sigterm_ends_sessions(self):
        self.start()
        self.peer()
        self.assertTrue(wait_for(self.serving))
        self.end_agent(self.agent)


if __name__ == '__main__':
    unittest.main()
