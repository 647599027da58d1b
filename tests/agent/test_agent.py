# SPDX-License-Identifier: Apache-2.0
"""An agent's life: start, queue, cancel, end, and what is left behind. The engine is the scripted one."""
import json
import os
import signal
import sqlite3
import stat
import subprocess
import unittest

from lab import Admin, GODWIT, Lab, PATIENCE_S, wait_for


class Life(Lab):
    def test_ends_on_sigterm_and_removes_its_socket(self):
        agent = self.start_ready()
        self.assertTrue(os.path.exists(agent.socket_path))
        self.end_agent(agent)
        self.assertFalse(os.path.exists(agent.socket_path))

    def test_ends_on_sigint(self):
        self.end_agent(self.start_ready(), number=signal.SIGINT)

    def test_socket_is_closed_to_others(self):
        agent = self.start_ready()
        self.assertEqual(stat.S_IMODE(os.stat(agent.socket_path).st_mode), 0o600)

    def test_keeps_its_instance_id(self):
        self.end_agent(self.start_ready())
        with open(self.path('a', 'instance-id'), 'rb') as file:
            first = file.read()
        self.end_agent(self.start_ready())
        with open(self.path('a', 'instance-id'), 'rb') as file:
            self.assertEqual(file.read(), first)
        self.assertEqual(len(first), 16)

    def test_refuses_a_damaged_instance_id(self):
        os.mkdir(self.path('a'))
        with open(self.path('a', 'instance-id'), 'wb') as file:
            file.write(b'short')
        agent = self.start_agent()
        self.assertIn('instance-id is damaged', agent.first_line)
        self.assertEqual(agent.wait(timeout=PATIENCE_S), 1)

    def test_needs_credentials(self):
        agent = self.start_agent(psk=False)
        self.assertIn('no credentials: give --psk', agent.first_line)
        self.assertEqual(agent.wait(timeout=PATIENCE_S), 2)

    def test_refuses_a_key_that_others_may_write(self):
        os.chmod(self.psk, 0o666)
        agent = self.start_agent()
        self.assertIn(self.psk, agent.first_line)
        self.assertNotEqual(agent.wait(timeout=PATIENCE_S), 0)

    def test_refuses_storage_that_is_missing(self):
        agent = self.start_agent('--storage', self.path('nothing'))
        self.assertIn('nothing: No such file or directory', agent.first_line)

    def test_refuses_a_port_that_is_taken(self):
        first = self.start_ready()
        admin = Admin(first.socket_path)
        address = admin.ask({'request': 'status'})['agent']['listen'][0]
        admin.close()
        second = self.start_agent(name='b', listen=address)
        self.assertTrue(second.first_line.startswith('failed '), second.first_line)
        self.assertIn(address, second.first_line)

    def test_second_agent_on_the_same_state_is_refused(self):
        self.start_ready()
        second = self.start_agent('--socket', self.path('other.sock'))
        self.assertIn('another agent has it', second.first_line)
        self.assertEqual(second.wait(timeout=PATIENCE_S), 1)

    def test_second_agent_on_the_same_socket_is_refused(self):
        first = self.start_ready()
        second = self.start_agent('--socket', first.socket_path, name='b')
        self.assertIn('another agent answers on', second.first_line)
        self.assertEqual(self.run_command('status', socket_path=first.socket_path).returncode, 0)

    def test_replaces_a_stale_socket(self):
        first = self.start_ready()
        first.kill()
        first.wait()
        self.assertTrue(os.path.exists(first.socket_path))
        second = self.start_ready()
        self.assertEqual(self.run_command('status', socket_path=second.socket_path).returncode, 0)

    def test_never_removes_a_file_that_is_no_socket(self):
        with open(self.path('a.sock'), 'w') as file:
            file.write('precious')
        agent = self.start_agent()
        self.assertIn('no socket', agent.first_line)
        with open(self.path('a.sock')) as file:
            self.assertEqual(file.read(), 'precious')

    def test_refuses_a_state_on_tmpfs(self):
        if subprocess.run(['stat', '-f', '-c', '%T', '/dev/shm'], capture_output=True,
                          text=True).stdout.strip() != 'tmpfs':
            self.skipTest('/dev/shm is not a tmpfs')
        folder = '/dev/shm/godwit-test-%d' % os.getpid()
        self.environment['GODWIT_ALLOW_VOLATILE_STATE'] = ''
        try:
            agent = self.start_agent('--state', folder)
            self.assertTrue(agent.first_line.startswith('failed '), agent.first_line)
            self.assertIn(folder, agent.first_line)
            agent.wait(timeout=PATIENCE_S)
        finally:
            subprocess.run(['rm', '-rf', folder])

    def test_reads_its_configuration(self):
        os.mkdir(self.path('images'))
        with open(self.path('agent.conf'), 'w') as file:
            file.write('[agent]\nstorage = %s\nlimits = live-out=3, storage-in=7\n'
                       'trusted-network = 192.0.2.0/24\n' % self.path('images'))
        agent = self.start_ready('--config', self.path('agent.conf'))
        admin = Admin(agent.socket_path)
        told = admin.ask({'request': 'status'})['agent']
        admin.close()
        self.assertEqual(told['storage'], [self.path('images')])
        self.assertEqual(told['limits'], {'live_out': 3, 'live_in': 2, 'storage_out': 2,
                                          'storage_in': 7})
        self.assertEqual(told['trusted_networks'], ['192.0.2.0/24'])

    def test_names_the_faulty_line_of_its_configuration(self):
        with open(self.path('agent.conf'), 'w') as file:
            file.write('[agent]\npsk = x\nlisten-to = y\n')
        result = self.run_command('agent', '--config', self.path('agent.conf'))
        self.assertEqual(result.returncode, 2)
        self.assertIn("line 3: there is no option 'listen-to'", result.stderr)


    def test_refuses_an_option_that_its_transport_does_not_have(self):
        with open(self.path('agent.conf'), 'w') as file:
            file.write('[agent]\npsk = %s\ntransport = tcp\n[tcp]\nspeed = 9\n' % self.psk)
        result = self.run_command('agent', '--config', self.path('agent.conf'), '--state',
                                  self.path('s'), '--allow-volatile-state')
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("transport tcp has no option 'speed': it has none", result.stderr)

    def test_names_a_section_that_is_no_transports(self):
        with open(self.path('agent.conf'), 'w') as file:
            file.write('[agent]\ntransport = tcp\n[pigeon]\nspeed = 9\n')
        result = self.run_command('agent', '--config', self.path('agent.conf'))
        self.assertEqual(result.returncode, 2)
        self.assertIn('line 4: section [pigeon]: only [agent] and those of transports exist, ',
                      result.stderr)

    def test_refuses_a_transport_option_that_is_none(self):
        for option, reason in (('tcp', "'tcp' is not TRANSPORT.NAME=VALUE"),
                               ('tcp.x=', "'tcp.x=' is not TRANSPORT.NAME=VALUE"),
                               ('pigeon.x=1', "'pigeon' is not part of this build")):
            result = self.run_command('agent', '--psk', self.psk, '--state', self.path('s'),
                                      '--allow-volatile-state', '--transport-option', option)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(reason, result.stderr)


class Queue(Lab):
    def states(self, agent):
        return [job['state'] for job in self.jobs(agent).values()]

    def test_runs_two_copies_at_once_and_queues_the_rest(self):
        self.shut_gate()
        agent = self.start_ready()
        for _ in range(4):
            self.submit(agent)
        self.assertEqual(self.states(agent), ['running', 'running', 'queued', 'queued'])
        self.open_gate()
        self.assertTrue(wait_for(lambda: self.states(agent) == ['ended'] * 4))
        self.assertEqual([job['exit_code'] for job in self.jobs(agent).values()], [0] * 4)

    def test_moves_and_copies_have_their_own_limits(self):
        self.shut_gate()
        agent = self.start_ready('--limits', 'live-out=1,storage-out=1')
        for kind in ('move', 'move', 'copy', 'copy'):
            self.submit(agent, kind)
        self.assertEqual(self.states(agent), ['running', 'queued', 'running', 'queued'])

    def test_refuses_beyond_the_queue(self):
        self.shut_gate()
        agent = self.start_ready('--limits', 'storage-out=1')
        admin = Admin(agent.socket_path)
        answers = [admin.ask({'request': 'copy', 'source': '/x/slow', 'target': '/y'})
                   for _ in range(259)]
        admin.close()
        refused = [answer for answer in answers if not answer['ok']]
        self.assertTrue(refused)
        self.assertIn('queue is full', refused[0]['error'])

    def test_cancels_what_runs(self):
        self.shut_gate()
        agent = self.start_ready()
        job = self.submit(agent)
        self.assertEqual(self.run_command('cancel', job, socket_path=agent.socket_path).returncode, 0)
        self.assertTrue(wait_for(lambda: self.jobs(agent)[job]['state'] == 'ended'))
        self.assertEqual(self.jobs(agent)[job]['exit_code'], 1)

    def test_cancels_what_waits(self):
        self.shut_gate()
        agent = self.start_ready('--limits', 'storage-out=1')
        self.submit(agent)
        job = self.submit(agent)
        result = self.run_command('cancel', job[:6], socket_path=agent.socket_path)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.jobs(agent)[job]['state'], 'ended')
        self.assertIn('before it began', self.jobs(agent)[job]['message'])

    def test_refuses_to_cancel_after_the_commit(self):
        self.shut_gate()
        agent = self.start_ready()
        job = self.submit(agent, 'move', 'commit')
        self.assertTrue(wait_for(lambda: self.jobs(agent)[job]['progress']['state'] == 'COMMITTED'))
        result = self.run_command('cancel', job, '--json', socket_path=agent.socket_path)
        self.assertEqual(result.returncode, 4)
        self.assertIn('"exit_code":4', result.stdout)

    def test_cancel_removes_a_damaged_note(self):
        agent = self.start_ready()
        epoch = '3f9a33445566778899aabbccddeeff00'
        os.makedirs(self.path('a', 'partial'), exist_ok=True)
        note = self.path('a', 'partial', epoch + '.target')
        with open(note, 'w') as handle:
            handle.write('{')
        self.assertEqual(self.run_command('cancel', '3f9', socket_path=agent.socket_path).returncode, 1)
        self.assertTrue(os.path.exists(note))
        result = self.run_command('cancel', epoch[:12], socket_path=agent.socket_path)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse(os.path.exists(note))

    def test_cancel_of_an_unknown_job_fails(self):
        agent = self.start_ready()
        result = self.run_command('cancel', 'feedbeef', socket_path=agent.socket_path)
        self.assertEqual(result.returncode, 1)
        self.assertIn("no migration 'feedbeef'", result.stderr)


class End(Lab):
    def test_sigterm_cancels_what_runs_and_takes_nothing_more(self):
        self.shut_gate()
        agent = self.start_ready()
        self.submit(agent, 'move')
        self.end_agent(agent)
        with sqlite3.connect(self.path('a', 'history.db')) as database:
            rows = database.execute('SELECT state, exit_code FROM history').fetchall()
        self.assertEqual(rows, [('ended', 1)])

    def test_sigterm_waits_for_what_is_committed(self):
        self.shut_gate()
        agent = self.start_ready()
        job = self.submit(agent, 'move', 'commit')
        self.assertTrue(wait_for(lambda: self.jobs(agent)[job]['progress']['state'] == 'COMMITTED'))
        agent.send_signal(signal.SIGTERM)
        line = ' '
        while line and 'past the point of no return' not in line:
            line = agent.stderr.readline().decode()
        self.assertTrue(line, 'it does not say that it waits')
        self.open_gate()
        self.assertEqual(agent.wait(timeout=PATIENCE_S), 0)
        with sqlite3.connect(self.path('a', 'history.db')) as database:
            rows = database.execute('SELECT state, exit_code FROM history').fetchall()
        self.assertEqual(rows, [('ended', 0)])

    def test_history_of_a_killed_agent_is_interrupted(self):
        self.shut_gate()
        agent = self.start_ready()
        job = self.submit(agent, 'move')
        agent.kill()
        agent.wait()
        agent = self.start_ready()
        admin = Admin(agent.socket_path)
        history = admin.ask({'request': 'history'})['history']
        admin.close()
        self.assertEqual([(entry['job'], entry['state']) for entry in history], [(job, 'interrupted')])

    def test_recovers_what_the_journal_holds(self):
        """The journal is written by hand, as a killed source leaves it; the fake engine leaves a trace."""
        self.end_agent(self.start_ready())
        self.assertFalse(os.path.exists(self.path('a', 'recover-was-called')))
        with sqlite3.connect(self.path('a', 'journal.db')) as database:
            tables = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type='table'"))
        self.assertTrue(tables)
        tool = os.environ.get('JOURNAL_TOOL')
        self.assertTrue(tool, 'JOURNAL_TOOL is not set')
        subprocess.run([tool, self.path('a', 'journal.db'), '11' * 16, 'COMMITTED'], check=True)
        agent = self.start_ready()
        self.assertTrue(wait_for(lambda: os.path.exists(self.path('a', 'recover-was-called'))))
        status = self.run_command('status', socket_path=agent.socket_path)
        self.assertIn('IN DOUBT ' + '1' * 12, status.stdout)
        self.assertIn('godwit resolve %s --keep source\n' % ('1' * 12), status.stdout)
        self.assertEqual(status.returncode, 4)
        history = self.run_command('history', socket_path=agent.socket_path)
        self.assertIn('godwit resolve %s --keep target\n' % ('1' * 12), history.stdout)
        self.assertEqual(history.returncode, 4)

    def test_resolve_warns_asks_and_tells_the_agent(self):
        self.end_agent(self.start_ready())
        epoch = '22' * 16
        tool = os.environ['JOURNAL_TOOL']
        subprocess.run([tool, self.path('a', 'journal.db'), epoch, 'COMMITTED'], check=True)
        agent = self.start_ready()

        def resolve(*words):
            return self.run_command('resolve', *words, socket_path=agent.socket_path)

        asked = resolve(epoch, '--keep', 'source')
        self.assertEqual(asked.returncode, 2, asked.stderr)
        for words in ('there are two', 'is lost', '--yes'):
            self.assertIn(words, asked.stderr)
        done = resolve(epoch, '--keep', 'source', '--yes', '--json')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)['move']['state'], 'CLOSED')
        unknown = resolve('33' * 16, '--keep', 'source', '--yes')
        self.assertEqual(unknown.returncode, 1)
        self.assertIn('no move in doubt', unknown.stderr)
        for words in ((epoch,), (epoch, '--keep', 'both'), ('--keep', 'source')):
            self.assertEqual(resolve(*words).returncode, 2, words)


class Private(Lab):
    """A move where no agent runs. The default sockets of this machine may be in use: then these skip."""

    def setUp(self):
        super().setUp()
        self.environment.pop('GODWIT_SOCKET')
        self.environment['XDG_RUNTIME_DIR'] = self.path('run')
        result = self.run_command('status', '--json')
        if '"agents":[]' not in result.stdout:
            self.skipTest('an agent runs on this host already')

    def move(self, name, *options, **more):
        return self.run_command('move', '--psk', self.psk, '--qmp', name, '--to', '127.0.0.1', *options,
                                **more)

    def test_runs_and_cleans_up(self):
        result = self.move('fine')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn('move: done', result.stdout)
        self.assertTrue(wait_for(lambda: not self.private_pids()))
        self.assertEqual([name for name in os.listdir(self.path('home')) if 'private' in name], [])
        self.assertIn('fine', self.run_command('history').stdout)

    def test_exit_codes_come_back(self):
        for name, code in (('fail', 1), ('blocked', 3), ('doubt', 4), ('verify', 5)):
            self.assertEqual(self.move(name).returncode, code, name)

    def test_ctrl_c_detaches_and_the_move_goes_on(self):
        self.shut_gate()
        words = [GODWIT, 'move', '--psk', self.psk, '--qmp', 'slow', '--to', '127.0.0.1']
        command = subprocess.Popen(words, env=self.environment, cwd=self.folder, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertTrue(command.stderr.readline())
        command.send_signal(signal.SIGINT)
        _, text = command.communicate(timeout=PATIENCE_S)
        self.assertEqual(command.returncode, 130, text)
        self.assertIn('godwit cancel', text)
        self.assertIn('running', self.run_command('status').stdout)
        self.open_gate()
        self.assertTrue(wait_for(lambda: 'exit code 0' in self.run_command('history').stdout))

    def test_detached_from_the_start_can_be_cancelled(self):
        self.shut_gate()
        result = self.move('slow', '--detach')
        self.assertEqual(result.returncode, 0, result.stderr)
        job = result.stdout.strip()
        self.assertEqual(self.run_command('cancel', job).returncode, 0)
        self.assertTrue(wait_for(lambda: 'cancelled' in self.run_command('history').stdout))

    def kill_with(self, state):
        """The folder that a private agent leaves which is killed at this state of a move."""
        self.shut_gate()
        self.assertEqual(self.move('slow', '--detach').returncode, 0)
        [pid] = self.private_pids()
        os.kill(pid, signal.SIGKILL)
        self.assertTrue(wait_for(lambda: not self.private_pids()))
        self.open_gate()
        [name] = [name for name in os.listdir(self.path('home')) if 'private' in name]
        folder = self.path('home', name)
        subprocess.run([os.environ['JOURNAL_TOOL'], os.path.join(folder, 'journal.db'), '44' * 16, state], check=True)
        return folder

    def test_doubt_of_a_killed_one_is_shown_and_settled(self):
        folder = self.kill_with('COMMITTED')
        for command in ('status', 'history'):
            result = self.run_command(command)
            self.assertEqual(result.returncode, 4, result.stdout + result.stderr)
            self.assertIn('IN DOUBT ' + '4' * 12, result.stdout)
        self.assertIn('--state ' + folder, self.run_command('status').stdout)
        [left] = json.loads(self.run_command('status', '--json').stdout)['agents']
        self.assertEqual((left['agent']['left'], left['agent']['private']), (True, True))
        other = self.start_ready()
        result = self.run_command('resolve', '44' * 16, '--keep', 'source', '--yes', socket_path=other.socket_path)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.end_agent(other)

    def test_next_move_takes_up_what_a_killed_one_left(self):
        folder = self.kill_with('COPYING')
        self.assertEqual(self.run_command('status').returncode, 0)
        self.assertIn('COPYING', self.run_command('status').stdout)
        self.assertEqual(self.move('fine').returncode, 0)
        self.assertTrue(os.path.exists(os.path.join(folder, 'recover-was-called')))
        self.assertEqual([name for name in os.listdir(self.path('home')) if 'private' in name],
                         [os.path.basename(folder)])

    def test_bad_key_leaves_what_a_killed_one_left(self):
        folder = self.kill_with('COPYING')
        result = self.run_command('move', '--psk', 'missing.psk', '--qmp', 'fine', '--to', '127.0.0.1')
        self.assertNotEqual(result.returncode, 0)
        self.assertTrue(os.path.exists(os.path.join(folder, 'instance-id')))
        self.assertEqual([name for name in os.listdir(self.path('home')) if 'private' in name],
                         [os.path.basename(folder)])

    def test_bad_key_fails_and_leaves_nothing(self):
        result = self.run_command('move', '--psk', 'missing.psk', '--qmp', 'fine', '--to', '127.0.0.1')
        self.assertNotEqual(result.returncode, 0)
        self.assertIn('missing.psk', result.stderr)
        self.assertEqual([name for name in os.listdir(self.path('home')) if 'private' in name], [])


if __name__ == '__main__':
    unittest.main()
