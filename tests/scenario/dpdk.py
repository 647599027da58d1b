#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves and copies whose bytes go over DPDK: a packet socket on a veth pair of its own is the port on each
host, control goes over TCP on another. The build leaves this out without DPDK."""
import os
import subprocess
import sys

import copies
import lib

PORT = ['--transport-option', 'dpdk.devargs=net_af_packet0,iface=wire1']
SIZE = {'memory_mib': 192, 'disk_mib': 192, 'fill_mib': 24}


def bytes_sent(host, interface):
    path = '/sys/class/net/%s/statistics/tx_bytes' % interface
    return int(host.inside('cat', path))


def check_path(world, result, least_bytes):
    """The bytes went over the port, as the kernel counts them, and not over the control's network."""
    transport = result.detail['stats']['transport']
    lib.check(transport.startswith('dpdk net_af_packet'), 'the transport was %s', transport)
    lib.check('passed_over' not in result.detail, 'passed over: %s', result.detail.get('passed_over'))
    over_port, beside = bytes_sent(world.source, 'wire1'), bytes_sent(world.source, 'wire0')
    lib.check(over_port > least_bytes, '%d bytes over the port', over_port)
    lib.check(beside < least_bytes // 2, '%d bytes beside it', beside)


@lib.scenario(timeout=240, sample=1, secrecy=['clear', 'sealed'])
def move_over_a_port(secrecy):
    with lib.World(trusted=secrecy == 'clear', pairs=2, **SIZE) as world:
        trusted = ['--trusted-network', '10.78.0.0/24'] if world.is_trusted else []
        world.start_agents(PORT + trusted, PORT + trusted)
        world.start_guest()
        result = world.move('--transport', 'dpdk').expect('done')
        numbers = world.assert_moved()
        lib.check(numbers['pages'] > 0, 'the guest checked no page')
        check_path(world, result, SIZE['fill_mib'] * lib.MIB)


@lib.scenario(timeout=240)
def copy_of_a_vhdx_over_a_port():
    with lib.World(pairs=2, **SIZE) as world:
        world.start_agents(PORT, PORT)
        source = copies.make_source(world, 'dynamic')
        before = copies.digest(source)
        result = copies.run_copy(world, source, world.target.address + ':', '--transport', 'dpdk')
        result.expect('done')
        target = os.path.join(world.target.storage, os.path.basename(source))
        copies.compare(source, 'vhdx', target, 'vhdx')
        lib.check(copies.digest(source) == before, 'the source was changed by a copy')
        check_path(world, result, copies.FILL_MIB * lib.MIB)


def copy_over_tcp(world):
    """A copy that may take any way and takes TCP; why dpdk was passed over."""
    source = copies.make_source(world, 'raw')
    result = copies.run_copy(world, source, world.target.address + ':').expect('done')
    transport = result.detail['stats']['transport']
    lib.check(transport.startswith('tcp'), 'the transport was %s', transport)
    return [one['reason'] for one in result.detail['passed_over'] if one['transport'] == 'dpdk']


@lib.scenario(timeout=240)
def target_without_a_port_is_reached_over_tcp():
    with lib.World(pairs=2, **SIZE) as world:
        world.start_agents(PORT, ())
        reasons = copy_over_tcp(world)
        lib.check(reasons == ['the target does not listen with it'], 'reasons: %s', reasons)


@lib.scenario(timeout=240, why=['cable', 'silence'])
def port_that_does_not_reach_the_target_is_passed_over(why):
    with lib.World(pairs=2, **SIZE) as world:
        world.start_agents(PORT, PORT)
        # The target's port listens; its cable is out, or leads to another host.
        if why == 'cable':
            world.target.inside('ip', 'link', 'set', 'wire1', 'down')
            reason = ' link'    # the port has none, or lost it, if it was seen to have one
        else:
            elsewhere = world.name + '-c'
            subprocess.run(['ip', 'netns', 'add', elsewhere], check=True)
            world.stack.callback(subprocess.run, ['ip', 'netns', 'del', elsewhere], check=False)
            world.target.inside('ip', 'link', 'set', 'wire1', 'netns', elsewhere)
            subprocess.run(['ip', '-n', elsewhere, 'link', 'set', 'wire1', 'up'], check=True)
            reason = 'nobody answers for 10.78.0.2'
        reasons = copy_over_tcp(world)
        lib.check(len(reasons) == 1 and reason in reasons[0], 'reasons: %s', reasons)


@lib.scenario(timeout=300, sample=1, how=['deleted', 'down'])
def port_that_dies_is_replaced_by_tcp(how):
    """The disks went over the port; before the memory goes the port is taken away from both hosts. The link
    grows anew on what is left, and the move is completed there."""
    with lib.World(held='a', pairs=2, **SIZE) as world:
        world.start_agents(PORT, PORT)
        world.start_guest()
        world.source.hold('memory')
        move = world.start_move('--progress')
        world.source.await_held('memory', move)
        lib.check(bytes_sent(world.source, 'wire1') > SIZE['fill_mib'] * lib.MIB, 'the disks went elsewhere')
        if how == 'deleted':
            world.source.inside('ip', 'link', 'del', 'wire1')
        else:
            world.target.inside('ip', 'link', 'set', 'wire1', 'down')
        world.source.release()
        result = move.result().expect('done')
        world.assert_moved()
        log = world.source.agent_log()
        cause = "the port's interface wire1 is gone" if how == 'deleted' else 'the port lost its link'
        lib.check(cause in log, 'the cause was not told:\n%s', log[-4000:])
        lib.check(result.detail['stats']['transport'].startswith('tcp'), 'it ended by %s',
                  result.detail['stats']['transport'])


@lib.scenario(timeout=240)
def faulty_ports_are_named():
    """What is wrong with a port, its memory or its addresses ends the agent with one line."""
    cases = [
        ('dpdk.devargs=net_af_packet0,iface=nowhere', 'this host has no interface nowhere'),
        ('dpdk.devargs=net_pigeon0', "the device 'net_pigeon0' cannot be used"),
        ('dpdk.devargs=0000:99:00.0', "the device '0000:99:00.0' cannot be used: is it bound to vfio-pci"),
        ('dpdk.colour=red', "transport dpdk has no option 'colour'"),
        ('dpdk.mtu=100000', "mtu = '100000' is not a number from 1280 to 9216"),
        ('dpdk.address=10.0.0.1', 'has no prefix: write it as 192.0.2.1/24'),
        ('dpdk.mtu=9200', 'the interface has 9000: ip link set wire1 mtu 9200'),
    ]
    with lib.World(pairs=2, **SIZE) as world:
        world.make_key()
        for option, reason in cases:
            words = [lib.godwit_binary(), 'agent', '--psk', world.psk, '--state', world.source.state,
                     '--socket', world.source.socket, '--listen', world.source.address,
                     '--transport', 'dpdk', *PORT, '--transport-option', option]
            answer = subprocess.run(world.source.enter() + words, capture_output=True, text=True,
                                    stdin=subprocess.DEVNULL, timeout=60, check=False)
            lib.check(answer.returncode in (1, 2), '%s: status %d', option, answer.returncode)
            lines = answer.stderr.strip().splitlines()
            lib.check(lines and reason in lines[-1], '%s: %s', option, answer.stderr)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=5))
