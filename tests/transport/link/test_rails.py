# SPDX-License-Identifier: Apache-2.0
"""Rails between two network namespaces that are joined by two veth pairs and also hold what must not
become a rail: a bridge numbered alike on both hosts, an interface that is down, loopback.

Usage: test_rails.py RAILS-PROBE. Needs root and ip(8); exits 77 with the reason otherwise.
"""
import json
import os
import subprocess
import sys
import time
import unittest

PROBE = sys.argv.pop(1)
A, B = ('gwrails-%d-%s' % (os.getpid(), side) for side in 'ab')


def ip(*arguments):
    subprocess.run(('ip',) + arguments, check=True, capture_output=True)


def skip(reason):
    print('SKIP: ' + reason)
    sys.exit(77)


def add_pair(names, addresses):
    """A veth pair, one end in each namespace."""
    ip('link', 'add', names[0], 'netns', A, 'type', 'veth', 'peer', 'name', names[1], 'netns', B)
    for namespace, name, address in zip((A, B), names, addresses):
        ip('-n', namespace, 'address', 'add', address, 'dev', name, *(('nodad',) if ':' in address else ()))
        ip('-n', namespace, 'link', 'set', name, 'up')


def probe(namespace, *arguments):
    run = subprocess.run(('ip', 'netns', 'exec', namespace, PROBE) + arguments, check=True,
                         capture_output=True, text=True)
    return run.stdout.splitlines()


def set_up():
    for namespace in (A, B):
        ip('netns', 'add', namespace)
        ip('-n', namespace, 'link', 'set', 'lo', 'up')
    add_pair(('east', 'west'), ('10.77.1.1/24', '10.77.1.2/24'))
    add_pair(('upper', 'lower'), ('10.77.2.1/24', '10.77.2.2/24'))
    for namespace in (A, B):
        # A bridge-like network of each host's own, numbered alike; it is up and has a carrier.
        ip('-n', namespace, 'link', 'add', 'own0', 'type', 'veth', 'peer', 'name', 'own1')
        ip('-n', namespace, 'address', 'add', '172.17.0.1/16', 'dev', 'own0')
        ip('-n', namespace, 'link', 'set', 'own0', 'up')
        ip('-n', namespace, 'link', 'set', 'own1', 'up')
        ip('-n', namespace, 'link', 'add', 'off0', 'type', 'veth', 'peer', 'name', 'off1')
        ip('-n', namespace, 'address', 'add', '10.77.3.%d/24' % (1 if namespace == A else 2),
           'dev', 'off0')
    wait_until_running(A, ('east', 'upper', 'own0'))
    wait_until_running(B, ('west', 'lower', 'own0'))


def wait_until_running(namespace, names):
    """The kernel tells of a new carrier with a delay of up to a second."""
    for _ in range(50):
        run = subprocess.run(('ip', '-j', '-n', namespace, 'link'), check=True, capture_output=True)
        states = {item['ifname']: item['operstate'] for item in json.loads(run.stdout)}
        if all(states[name] == 'UP' for name in names):
            return
        time.sleep(0.1)
    raise OSError('no carrier on %s' % (names,))


def tear_down():
    for namespace in (A, B):
        subprocess.run(('ip', 'netns', 'del', namespace), capture_output=True)


class Rails(unittest.TestCase):
    def test_local_addresses_are_those_that_a_peer_may_dial(self):
        found = probe(A, 'local', '10.77.2.1')
        self.assertEqual(found[0], '10.77.2.1:0')
        self.assertEqual(sorted(found), ['10.77.1.1:0', '10.77.2.1:0', '172.17.0.1:0'])

    def test_loopback_counts_when_it_is_the_primary(self):
        self.assertIn('127.0.0.1:0', probe(A, 'local', '127.0.0.1'))
        self.assertEqual(probe(A, 'local', '127.0.0.1')[0], '127.0.0.1:0')

    def test_one_rail_for_each_network_in_common(self):
        peers = [line.rsplit(':', 1)[0] for line in probe(B, 'local', '10.77.1.2')]
        pairs = probe(A, 'pair', '10.77.1.1:4711', '10.77.1.2:13560', *peers)
        self.assertEqual(pairs, ['10.77.1.1:0 10.77.1.2:13560', '10.77.2.1:0 10.77.2.2:13560'])

    def test_the_control_pair_is_there_even_when_nothing_else_is(self):
        self.assertEqual(probe(A, 'pair', '10.77.1.1:4711', '10.9.9.9:13560'),
                         ['10.77.1.1:0 10.9.9.9:13560'])
        self.assertEqual(probe(A, 'pair', '10.77.1.1:4711', '10.77.1.2:13560', '10.8.8.8'),
                         ['10.77.1.1:0 10.77.1.2:13560'])

    def test_a_network_that_both_hosts_number_alike_is_no_rail(self):
        pairs = probe(A, 'pair', '10.77.1.1:0', '10.77.1.2:13560', '172.17.0.1')
        self.assertEqual(len(pairs), 1)

    def test_an_interface_that_is_down_is_no_rail(self):
        pairs = probe(A, 'pair', '10.77.1.1:0', '10.77.1.2:13560', '10.77.3.2')
        self.assertEqual(len(pairs), 1)

    def test_a_port_of_the_peer_is_kept(self):
        pairs = probe(A, 'pair', '10.77.1.1:0', '10.77.1.2:13560', '10.77.2.2:14000')
        self.assertEqual(pairs[1], '10.77.2.1:0 10.77.2.2:14000')

    def test_a_second_address_of_an_interface_makes_no_second_rail(self):
        ip('-n', A, 'address', 'add', '10.77.1.77/24', 'dev', 'east')
        try:
            pairs = probe(A, 'pair', '10.77.1.1:0', '10.77.1.2:13560', '10.77.1.2', '10.77.2.2')
        finally:
            ip('-n', A, 'address', 'del', '10.77.1.77/24', 'dev', 'east')
        self.assertEqual(len(pairs), 2)

    def test_networks_of_version_6_are_rails_too(self):
        add_pair(('six', 'sixth'), ('2001:db8:6::1/64', '2001:db8:6::2/64'))
        wait_until_running(A, ('six',))
        found = probe(A, 'local', '10.77.1.1')
        self.assertIn('[2001:db8:6::1]:0', found)
        self.assertFalse([line for line in found if line.startswith('[fe80')])
        pairs = probe(A, 'pair', '10.77.1.1:0', '10.77.1.2:13560', '2001:db8:6::2')
        self.assertEqual(pairs[1], '[2001:db8:6::1]:0 [2001:db8:6::2]:13560')
        ip('-n', A, 'link', 'del', 'six')


if __name__ == '__main__':
    if os.geteuid() != 0:
        skip('network namespaces need root')
    try:
        set_up()
    except (OSError, subprocess.CalledProcessError) as error:
        tear_down()
        skip('this host makes no namespaces with veth pairs: %s' % error)
    try:
        unittest.main()
    finally:
        tear_down()
