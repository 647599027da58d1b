#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scripts/softroce, tested inside a host of the lab (it changes the machine that it runs on): the device is
made, carries verified bytes, survives as a unit and goes again; each thing that is missing is named, and the
command that is named with it mends it.

  scripts/lab run 'python3 tests/lab/inside_softroce.py'
"""
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import re
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOFTROCE = os.path.join(ROOT, 'scripts', 'softroce')
sys.dont_write_bytecode = True
LOADER = importlib.machinery.SourceFileLoader('softroce', SOFTROCE)
softroce = importlib.util.module_from_spec(importlib.util.spec_from_loader('softroce', LOADER))
LOADER.exec_module(softroce)


def shell(command):
    answer = subprocess.run(['bash', '-c', command], capture_output=True, text=True, check=False)
    return answer.returncode, answer.stdout + answer.stderr


class SoftRoce(unittest.TestCase):
    def done(self, command):
        status, text = shell(command)
        self.assertEqual(status, 0, text)

    def run_it(self, words, before=None, wanted=0):
        """scripts/softroce with these words; what it printed."""
        if before:
            self.done(before)
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = softroce.main(words.split())
        self.assertEqual(status, wanted, output.getvalue())
        return output.getvalue()

    def refused(self, words, reason, before=None):
        self.assertIn(reason, self.run_it(words, before, wanted=1))

    def mended(self, fault, spoil):
        """status names the fault; what it names as the mend is run, and then status is good."""
        text = self.run_it('status', spoil, wanted=1)
        found = re.search('FAULT: .*%s.*?: ([^:]*)$' % fault, text, re.M)
        self.assertIsNotNone(found, text)
        self.done(found.group(1))
        self.run_it('status')

    def test_a_what_cannot_have_a_device_is_refused(self):
        self.done('rdma link delete rxe0; ip route add default dev eth0')
        self.refused('status', 'there is no soft-RoCE device on eth0: scripts/softroce up eth0')
        self.refused('up none0', 'there is no network card none0')
        self.refused('up lo', 'lo reaches no other host')
        self.refused('up vlan7', 'name the card beneath it',
                     'ip link add link eth0 name vlan7 type vlan id 7')
        self.refused('test', 'scripts/softroce up')
        self.refused('down eth0', 'no soft-RoCE device on eth0')
        status, text = shell('setpriv --reuid 65534 --regid 65534 --clear-groups %s up' % SOFTROCE)
        self.assertEqual(status, 1)
        self.assertIn('needs root', text)

    def test_b_a_kernel_without_the_module_is_named(self):
        self.refused('up', 'has no module rdma_rxe',
                     'rmmod rdma_rxe; mount --bind /mnt $(realpath /lib/modules/$(uname -r))')
        self.done('umount /lib/modules/$(uname -r); ip link del vlan7')

    def test_c_up_makes_it_and_bytes_arrive(self):
        text = self.run_it('up')
        self.assertIn('rxe0 was made on eth0', text)
        self.assertRegex(text, r'address 10\.99\.0\.1: GID index \d+ \(RoCE v2\)')
        self.assertIn('path MTU 4096, of an MTU of 9000', text)
        self.assertNotIn('was made', self.run_it('up'))
        self.assertRegex(self.run_it('test'), r'ok: 20 .* with 10\.99\.0\.1, \d+ RoCE packets')
        with subprocess.Popen([SOFTROCE, 'test', '--listen'], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as server:
            self.done('while ! pidof -q rping; do sleep 0.1; done; sleep 0.5')
            self.run_it('test 10.99.0.1')
            self.assertEqual(server.wait(20), 0)

    def test_d_the_path_mtu_is_what_the_kernel_says(self):
        for mtu, path in ((1500, 1024), (2100, 1024), (2200, 2048), (4100, 2048), (4200, 4096)):
            text = self.run_it('status', 'ip link set eth0 mtu %d' % mtu)
            self.assertIn('path MTU %d, of an MTU of %d' % (path, mtu), text)
            _, told = shell('ibv_devinfo -d rxe0 | grep active_mtu')
            self.assertEqual(told.split()[1], str(path))
        self.done('ip link set eth0 mtu 9000')

    def test_e_each_fault_is_named_with_its_mend(self):
        self.mended('eth0 is down', 'ip link set eth0 down')
        self.mended('nftables drops', 'nft "add table inet f; add chain inet f in { type filter hook input '
                                      'priority 0; policy drop; }; add rule inet f in tcp dport 22 accept; '
                                      'add rule inet f in udp dport { 53, 5000-6000 } accept"')
        self.mended('iptables-legacy drops', 'nft flush ruleset; iptables-legacy -P INPUT DROP; '
                                             'iptables-legacy -A INPUT -p udp --dport 53 -j ACCEPT')
        self.mended('iptables-nft drops', 'iptables-legacy -P INPUT ACCEPT; iptables-legacy -F; '
                                          'iptables-nft -A INPUT -p udp -m multiport --dports 4000:5000 '
                                          '-j REJECT')
        self.run_it('status', 'iptables-nft -F')
        text = self.run_it('status', 'ip addr del 10.99.0.1/24 dev eth0', wanted=1)
        self.assertIn('eth0 has no IPv4 address', text)
        self.done('ip addr add 10.99.0.1/24 dev eth0; ip route add default dev eth0')

    def test_f_other_rules_and_limits(self):
        # A firewall that lets RoCE in, or is about something else, is no fault.
        self.run_it('status', 'iptables-legacy -A INPUT -p udp --dport 4791 -j ACCEPT; '
                              'iptables-legacy -A INPUT -p tcp -j DROP; '
                              'iptables-legacy -A INPUT -i other0 -j DROP')
        self.done('iptables-legacy -F')
        _, text = shell('setpriv --bounding-set -all --inh-caps -all --ambient-caps -all prlimit '
                        '--memlock=8388608:8388608 %s status' % SOFTROCE)
        self.assertIn('limited to 8192 KiB', text)

    def test_g_a_unit_makes_it_again_and_down_takes_all(self):
        unit = re.search(r'by (/\S+\.service)', self.run_it('up --persistent')).group(1)
        with open(unit) as handle:
            lines = handle.read()
        _, faults = shell('systemd-analyze verify --man=no %s 2>&1 | grep softroce' % unit)
        self.assertEqual(faults, '')
        # The unit's own commands, with the device gone and the module out, on a kernel without crc32_generic in a file.
        self.assertIn('Before=godwit-agent.service', lines)
        self.done('M=$(realpath /lib/modules/$(uname -r)) && mkdir /tmp/modules && cp $M/modules.order /tmp/modules && '
                  "cp $(modprobe -a --show-depends rdma_rxe ib_uverbs rdma_ucm | awk '/insmod/ { print $2 }' | sort -u | "
                  'grep -v crc32_generic) /tmp/modules && mount --bind /tmp/modules $M && depmod && '
                  '! modprobe -n crc32_generic && rdma link delete rxe0 && rmmod rdma_rxe')
        starts = re.findall(r'^ExecStart=(-?)(.*)$', lines, re.M)
        for _ in range(2):  # and with the device there
            for minus, command in starts:
                status, text = shell(command)
                self.assertTrue(status == 0 or minus, '%s: %s' % (command, text))
            self.done('rdma link show rxe0/1')
        # A device that cannot be made is no success.
        self.done('rdma link delete rxe0 && rmmod rdma_rxe && '
                  'mkdir -p /etc/modprobe.d && echo install rdma_rxe /bin/false >/etc/modprobe.d/none.conf')
        self.assertNotIn(0, [shell(command)[0] for minus, command in starts if not minus])
        self.done('rm /etc/modprobe.d/none.conf')
        for _, command in starts:
            shell(command)
        self.assertIn('unit ' + unit, self.run_it('status'))
        self.assertIn('rxe0 was removed from eth0', self.run_it('down'))
        self.assertEqual(os.listdir('/sys/class/infiniband'), [])
        self.assertFalse(os.path.exists(unit))


if __name__ == '__main__':
    if 'LAB_HOST' not in os.environ:
        sys.exit('inside_softroce: only for a host of the lab: it takes network cards down')
    unittest.main(verbosity=2)
