# SPDX-License-Identifier: Apache-2.0
"""What the tests of the agent and the command line share: a folder of their own, agents in it, commands.

GODWIT is the program under test (with the scripted engine of fake-engine.c, unless a test says
otherwise). Every agent here has its own state folder and socket beneath the test's folder.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

GODWIT = os.environ['GODWIT']
PATIENCE_S = 90


def wait_for(what, timeout_s=PATIENCE_S, step_s=0.05):
    """The first true answer of what(), or the last one."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = what()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(step_s)


class Admin:
    """A connection to an agent's admin socket that speaks raw bytes and JSON lines."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(PATIENCE_S)
        self.file = self.socket.makefile('rb')

    def send(self, value):
        text = value if isinstance(value, bytes) else json.dumps(value).encode() + b'\n'
        self.socket.sendall(text)

    def receive(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def ask(self, value):
        self.send(value)
        return self.receive()

    def close(self):
        self.file.close()
        self.socket.close()


class Lab(unittest.TestCase):
    """A folder per test; agents started in it are ended, and must end cleanly."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='godwit-agent-')
        # A test that skips in its setUp has no tearDown.
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.environment = dict(os.environ, GODWIT_STATE_HOME=self.path('home'),
                                GODWIT_ALLOW_VOLATILE_STATE='1', GODWIT_SOCKET='',
                                FAKE_SLOW_MS='2000')
        self.agents = []
        self.psk = self.path('lab.psk')
        with open(self.psk, 'wb') as key:
            subprocess.run([GODWIT, 'key', 'lab'], stdout=key, check=True, timeout=PATIENCE_S)

    def tearDown(self):
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()
            agent.wait()
            agent.stderr.close()
        for pid in self.private_pids():
            os.kill(pid, signal.SIGKILL)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def shut_gate(self):
        """Slow jobs of agents and commands that are started from now on go on until open_gate()."""
        self.environment['FAKE_GATE'] = self.path('gate')

    def open_gate(self):
        with open(self.path('gate'), 'w'):
            pass

    def private_pids(self):
        """Processes of private agents whose state is in this test's folder."""
        found = []
        for name in os.listdir('/proc'):
            if not name.isdigit():
                continue
            try:
                with open('/proc/%s/cmdline' % name, 'rb') as file:
                    words = file.read().split(b'\0')
            except OSError:
                continue
            if b'--private' in words and any(word.startswith(self.folder.encode()) for word in words):
                found.append(int(name))
        return found

    def start_agent(self, *options, name='a', listen='127.0.0.1:0', psk=True):
        """Starts an agent and waits until it answers. Its socket is agent.socket_path."""
        read_end, write_end = os.pipe()
        words = [GODWIT, 'agent', '--state', self.path(name), '--ready-fd', str(write_end), '--socket',
                 self.path(name + '.sock')]
        words += ['--psk', self.psk] if psk else []
        words += ['--listen', listen] if listen else []
        agent = subprocess.Popen(words + list(options), env=self.environment, cwd=self.folder,
                                 pass_fds=[write_end], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.close(write_end)
        self.agents.append(agent)
        with os.fdopen(read_end) as file:
            agent.first_line = file.readline().rstrip('\n')
        agent.socket_path = self.path(name + '.sock')
        return agent

    def start_ready(self, *options, **more):
        agent = self.start_agent(*options, **more)
        self.assertTrue(agent.first_line.startswith('ready '), agent.first_line)
        return agent

    def end_agent(self, agent, code=0, number=signal.SIGTERM):
        agent.send_signal(number)
        result = agent.wait(timeout=PATIENCE_S)
        log = agent.stderr.read().decode()
        self.assertEqual(result, code, log)
        return log

    def run_command(self, *words, socket_path=None, timeout=PATIENCE_S, **environment):
        env = dict(self.environment, **environment)
        if socket_path:
            env['GODWIT_SOCKET'] = socket_path
        return subprocess.run([GODWIT, *words], env=env, cwd=self.folder, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=timeout)

    def submit(self, agent, kind='copy', source='slow', **more):
        """Queues a job by the admin socket; its id."""
        request = {'request': kind, 'to': '127.0.0.1', **more}
        request['qmp' if kind == 'move' else 'source'] = '/x/' + source
        admin = Admin(agent.socket_path)
        answer = admin.ask(request)
        admin.close()
        self.assertTrue(answer['ok'], answer)
        return answer['job']

    def jobs(self, agent):
        """State of each job by id."""
        admin = Admin(agent.socket_path)
        answer = admin.ask({'request': 'status'})
        admin.close()
        return {job['job']: job for job in answer['jobs']}
