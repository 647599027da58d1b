# SPDX-License-Identifier: Apache-2.0
"""Command lines that are wrong, one per test: exit code 2, the cause, and the way to the help."""
import json
import os
import stat
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'agent'))
from lab import GODWIT, Lab  # noqa: E402


class Arguments(Lab):
    def wrong(self, words, text):
        result = self.run_command(*words)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn(text, result.stderr)
        self.assertIn('--help', result.stderr)
        self.assertEqual(result.stdout, '')

    def test_no_command(self):
        result = self.run_command()
        self.assertEqual(result.returncode, 2)
        self.assertIn('usage: godwit', result.stderr)

    def test_unknown_command(self):
        self.wrong(['teleport'], "no command 'teleport'")

    def test_unknown_long_option(self):
        self.wrong(['move', '--fast'], "unknown option '--fast'")

    def test_unknown_short_option(self):
        self.wrong(['copy', '-x'], "unknown option '-x'")

    def test_value_missing(self):
        self.wrong(['move', '--qmp'], "option '--qmp' needs a value")

    def test_value_for_a_flag(self):
        self.wrong(['move', '--verify=yes'], "'--verify=yes'")

    def test_move_without_a_vm(self):
        self.wrong(['move', '--to', 'x'], '--qmp PATH is missing')

    def test_move_without_a_target(self):
        self.wrong(['move', '--qmp', 'x'], '--to HOST is missing')

    def test_move_with_an_operand(self):
        self.wrong(['move', '--qmp', 'x', '--to', '127.0.0.1', 'web1'], "'web1' is not expected")

    def test_move_without_credentials(self):
        self.wrong(['move', '--qmp', 'x', '--to', '127.0.0.1'], 'say who you are: --psk')

    def test_mapping_without_equals(self):
        self.wrong(['move', '--disk', 'vda'], "'vda' is not OLD=NEW")

    def test_mapping_given_twice(self):
        self.wrong(['move', '--disk', 'a=b', '--disk', 'a=c'], "'a' is given twice")

    def test_pause_that_is_no_number(self):
        self.wrong(['move', '--max-pause', 'soon'], "'soon' is not a number")

    def test_negative_pause(self):
        self.wrong(['move', '--max-pause', '-5'], "'-5' is not a number")

    def test_unknown_tracker(self):
        self.wrong(['move', '--psk', 'k', '--qmp', 'x', '--to', '127.0.0.1', '--tracker', 'magic'],
                   "tracker 'magic'")

    def test_port_beyond_the_range(self):
        self.wrong(['move', '--psk', 'k', '--qmp', 'x', '--to', '127.0.0.1:99999'], '99999')

    def test_copy_without_a_target(self):
        self.wrong(['copy', 'a'], 'expected SOURCE and')

    def test_copy_from_another_host(self):
        self.wrong(['copy', 'hosta:disk', 'disk'], "looks like another host's")

    def test_copy_to_an_empty_host(self):
        self.wrong(['copy', 'a', ':disk'], 'no host before')

    def test_copy_to_an_unknown_format(self):
        self.wrong(['copy', '--format', 'qed', 'a', 'b'], "'qed' is none of raw, vhdx, qcow2, vdi and vmdk")

    def test_copy_port_without_a_host(self):
        self.wrong(['copy', '--port', '1', 'a', './b:c'], 'names no host')

    def test_bad_trusted_network(self):
        self.wrong(['copy', '--trusted-network', '10.0.0.0/40', 'a', 'b'], '10.0.0.0/40')

    def test_channels_out_of_range(self):
        self.wrong(['copy', '--channels', '1000', 'a', 'b'], "'channels'")

    def test_key_without_a_name(self):
        self.wrong(['key'], 'expected one NAME')

    def test_key_with_a_bad_name(self):
        self.wrong(['key', 'a:b'], "name 'a:b'")

    def test_resume_of_an_empty_name(self):
        self.wrong(['resume', ''], 'an empty name means none')

    def test_cancel_without_a_job(self):
        self.wrong(['cancel'], 'expected one JOB')

    def test_history_limit_of_zero(self):
        self.wrong(['history', '--limit', '0'], "limit '0'")

    def test_agent_with_an_operand(self):
        self.wrong(['agent', 'now'], "'now' is not expected")

    def test_agent_with_bad_limits(self):
        self.wrong(['agent', '--limits', 'live=3'], "'live=3' is none of")

    def test_agent_with_a_limit_of_zero(self):
        self.wrong(['agent', '--limits', 'live-in=0'], 'live-in=0')

    def test_agent_with_a_missing_configuration(self):
        self.wrong(['agent', '--config', 'none.conf'], 'none.conf: No such file')

    def test_a_socket_that_was_named_must_answer(self):
        result = self.run_command('copy', '--socket', 'none.sock', 'a', 'b')
        self.assertEqual(result.returncode, 1)
        self.assertIn('no agent answers on none.sock', result.stderr)


class Results(Lab):
    """What comes back from commands that run by themselves."""

    def setUp(self):
        super().setUp()
        self.environment['GODWIT_SOCKET'] = ''
        if '"agents":[]' not in self.run_command('status', '--json').stdout:
            self.skipTest('an agent runs on this host already')

    def test_json_of_a_copy(self):
        result = self.run_command('copy', '--json', 'fine', 'there')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, '')
        value = json.loads(result.stdout)
        self.assertEqual(value['exit_code'], 0)
        self.assertEqual(value['command'], 'copy')
        self.assertIsNone(value['job'])
        self.assertIsNone(value['error'])
        self.assertEqual(value['progress']['phase'], 'ended')
        self.assertEqual(value['detail']['volumes'][0]['name'], 'vda')

    def test_json_of_a_failure(self):
        result = self.run_command('copy', '--json', 'fail', 'there')
        self.assertEqual(result.returncode, 1)
        value = json.loads(result.stdout)
        self.assertEqual((value['exit_code'], value['error']), (1, 'fake: the disk broke'))

    def test_json_with_progress_is_one_object_a_line(self):
        result = self.run_command('copy', '--json', '--progress', 'slow', 'there')
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual({line['event'] for line in lines[:-1]}, {'progress'})
        self.assertGreater(len(lines), 4)
        self.assertEqual(lines[-1]['event'], 'ended')

    def test_exit_codes(self):
        for name, code in (('fine', 0), ('fail', 1), ('blocked', 3), ('doubt', 4), ('verify', 5)):
            self.assertEqual(self.run_command('copy', name, 'there').returncode, code, name)

    def test_blocked_lists_every_reason(self):
        result = self.run_command('copy', 'blocked', 'there')
        self.assertIn('- no bridge br7', result.stderr)
        self.assertIn('- no room', result.stderr)

    def test_plain_lines_without_a_terminal(self):
        result = self.run_command('copy', 'slow', 'there')
        self.assertNotIn('\r', result.stderr)
        self.assertIn('disks:', result.stderr)
        self.assertIn('memory', result.stderr)

    def test_a_full_standard_output_is_an_error(self):
        with open('/dev/full', 'w') as full:
            result = subprocess.run([GODWIT, 'copy', '--json', 'fine', 'there'], stdout=full,
                                    stderr=subprocess.PIPE, env=self.environment, cwd=self.folder,
                                    timeout=30)
        self.assertEqual(result.returncode, 1)

    def test_key_file_is_closed_to_others(self):
        os.umask(0o022)
        path = self.path('new.psk')
        with open(path, 'wb') as file:
            subprocess.run([GODWIT, 'key', 'new'], stdout=file, check=True, timeout=30)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def test_two_keys_differ(self):
        first = self.run_command('key', 'a').stdout
        self.assertNotEqual(first, self.run_command('key', 'a').stdout)
        self.assertRegex(first.splitlines()[-1], r'^a:[0-9a-f]{64}$')

    def test_status_without_an_agent_says_what_to_do(self):
        result = self.run_command('status')
        self.assertEqual(result.returncode, 0)
        self.assertIn('start one with godwit agent', result.stdout)


if __name__ == '__main__':
    unittest.main()
