#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves and copies over libfabric, with the provider that needs no device: control and data both run over it,
and no byte over godwit's own TCP."""
import os
import re
import subprocess
import sys

import copies
import lib

SIZE = {'memory_mib': 192, 'disk_mib': 192, 'fill_mib': 24}
FABRIC = ['--transport', 'fabric', '--provider', 'tcp']
# Those that do not connect stand for fabrics that have no others.
ENDPOINTS = {'connected': 'tcp', 'unconnected': 'tcp;ofi_rxm'}


def options(endpoints):
    return ['--transport', 'fabric', '--provider', ENDPOINTS[endpoints]]


def went_by_fabric(world, result, provider='tcp'):
    [agent] = world.source.command('status').result().events[-1]['agents']
    named = [one.get('variant') for one in agent['agent']['transports'] if one['name'] == 'fabric']
    lib.check(named == [provider], 'status names the provider %s', named)
    transport = result.detail['stats']['transport']
    lib.check(transport.startswith('fabric %s ' % provider), 'it went by %s', transport)
    lib.check(not world.source.connections(), 'there are connections to the TCP port')
    listening = world.target.inside('ss', '-Hltn')
    lib.check(':13561' in listening and ':13560' not in listening, 'the target listens on %s', listening)


@lib.scenario(secrecy=['clear', 'sealed'], endpoints=['connected', 'unconnected'])
def move(secrecy, endpoints):
    with lib.World(trusted=secrecy == 'clear', image_format='vhdx', **SIZE) as world:
        world.start_agents(source=options(endpoints), target=options(endpoints))
        world.start_guest()
        world.guest.serial.wait_tick(least=18)
        result = world.move().expect('done')
        numbers = world.assert_moved()
        lib.check(numbers['pages'] > 0, 'the guest checked no page')
        went_by_fabric(world, result, ENDPOINTS[endpoints])


@lib.scenario()
def copy_of_a_vhdx():
    with lib.World() as world:
        world.start_agents(source=FABRIC, target=FABRIC)
        path = copies.make_source(world, 'dynamic')
        result = copies.run_copy(world, path, world.target.address + ':copy.vhdx').expect('done')
        copies.compare(path, 'vhdx', os.path.join(world.target.storage, 'copy.vhdx'), 'vhdx')
        went_by_fabric(world, result)


@lib.scenario(endpoints=['connected', 'unconnected'])
def connections_that_are_cut_lose_nothing(endpoints):
    """The connections of both hosts are cut in the middle; what was lost is sent again. Of endpoints that do not
    connect it is those that the provider makes by itself, and would make again without a word."""
    match = '=' if endpoints == 'connected' else '!='
    least = 3 if endpoints == 'connected' else 2
    with lib.World(held='a', **SIZE) as world:
        world.start_agents(source=options(endpoints), target=options(endpoints))
        world.start_guest()
        move = world.go_to('disks')
        ports = ('dport', match, ':13561') + (('and', 'sport', '!=', ':13561') if match == '!=' else ())
        lib.guestctl.wait_for(
            lambda: len(world.source.inside('ss', '-Htn', 'state', 'established', *ports).splitlines()) >= least,
            lib.PATIENCE_S, 'control and two data channels')
        cut = world.source.inside('ss', '-HKtn', *ports)
        # The agent may close the others as soon as it has lost the first.
        lib.check(cut.splitlines(), 'nothing was cut')
        world.source.limit_rate(None)
        move.result().expect('done')
        world.assert_moved()


@lib.scenario()
def endpoints_that_take_no_write_leave_the_move_to_tcp():
    """The hosts talk over TCP, and a firewall is between their endpoints: data goes on over the next transport."""
    words = ['--transport', 'fabric,tcp', '--provider', ENDPOINTS['unconnected']]
    with lib.World(**SIZE) as world:
        world.start_agents(source=words, target=words)
        world.target.inside('iptables', '-A', 'INPUT', '-i', 'wire0', '-p', 'tcp', '--syn', '-m', 'multiport', '!',
                            '--dports', '13560,13561', '-j', 'DROP')
        world.start_guest()
        result = world.move().expect('done')
        world.assert_moved()
        transport = result.detail['stats']['transport']
        lib.check(transport.startswith('tcp '), 'it went by %s', transport)
        reasons = {one['transport']: one['reason'] for one in result.detail['passed_over']}
        lib.check('took no write a moment ago' in reasons['fabric'], '%s', reasons)


@lib.scenario(source=['connected', 'unconnected'])
def hosts_of_different_providers_are_told_both(source):
    """Nothing arrives, in one line. Where the target's provider takes the port of TCP for itself it names none."""
    target = 'unconnected' if source == 'connected' else 'connected'
    with lib.World() as world:
        world.start_agents(source=options(source), target=options(target))
        path = copies.make_source(world, 'dynamic')
        result = copies.run_copy(world, path, world.target.address + ':copy.vhdx').expect('failed')
        lib.check(len(result.errors.splitlines()) == 1, '%s', result.errors)
        # Both where the target says it.
        lib.check(ENDPOINTS[source] in result.error and 'provider' in result.error, '%s', result.error)
        lib.check(ENDPOINTS[target] in result.error or target == 'connected', '%s', result.error)
        lib.check(not world.target.storage_files(), 'something is left at the target')


@lib.scenario()
def sockets_are_not_chosen_without_being_named():
    """Of this host's providers none is fast: nobody listens, and each is named with the reason in one line."""
    with lib.World() as world:
        world.make_key()
        command = world.target.enter() + [
            lib.godwit_binary(), 'agent', '--listen', world.target.address, '--psk', world.psk, '--state',
            world.target.state, '--socket', world.target.socket, '--transport', 'fabric']
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                                env=dict(os.environ, FI_PROVIDER='tcp,sockets,shm'))
        lib.check(answer.returncode == 1, 'the agent ended with %d', answer.returncode)
        lib.check(len(answer.stderr.splitlines()) == 1, '%s', answer.stderr)
        for text in ('no provider of this host is fast and fits', ': over the kernel\'s sockets',
                     'shm: on this host only', '--provider tcp', '--transport verbs'):
            lib.check(text in answer.stderr, 'no "%s" in %s', text, answer.stderr)
        for name in ('tcp', 'sockets', 'shm'):
            lib.check(re.search(r'[(,; ]%s[,:]' % name, answer.stderr), '%s is not in %s', name, answer.stderr)
        lib.check(':1356' not in world.target.inside('ss', '-Hltn'), 'somebody listens')


@lib.scenario()
def a_plain_host_does_not_load_libfabric():
    """Where nothing is named and no device is there, an agent is as it was before there was libfabric."""
    if any(os.path.isdir('/sys/class/' + folder) for folder in ('infiniband', 'cxi')):
        raise lib.Skip('this host may have such a device')
    with lib.World() as world:
        world.start_agents()
        with open('/proc/%d/maps' % world.target.agent.pid) as maps:
            lib.check('libfabric' not in maps.read(), 'libfabric was loaded')
        listening = world.target.inside('ss', '-Hltn')
        lib.check(':13560' in listening and ':13561' not in listening, 'the target listens on %s', listening)
        [agent] = world.target.command('status').result().events[-1]['agents']
        reasons = {one['name']: one.get('reason', '') for one in agent['agent']['transports']}
        lib.check('no device of EFA' in reasons['fabric'], '%s', reasons)


@lib.scenario()
def a_device_whose_provider_is_not_there_costs_no_move():
    """Where sysfs has a device, libfabric is asked; it has no fast provider, and all goes over TCP as before."""
    device = 'mount -t tmpfs tmpfs /sys/class && mkdir -p /sys/class/cxi/cxi0 && exec "$@"'
    with lib.World() as world:
        world.source.enter = lambda enter=world.source.enter: enter() + ['sh', '-c', device, 'sh']
        world.start_agents()
        [agent] = world.source.command('status').result().events[-1]['agents']
        reasons = {one['name']: one.get('reason', '') for one in agent['agent']['transports']}
        lib.check('no provider of this host is fast and fits' in reasons['fabric'], '%s', reasons)
        lib.check(re.search(r'[(,; ]tcp[,:]', reasons['fabric']), '%s', reasons)
        path = copies.make_source(world, 'dynamic')
        result = copies.run_copy(world, path, world.target.address + ':copy.vhdx').expect('done')
        transport = result.detail['stats']['transport']
        lib.check(transport.startswith('tcp '), 'it went by %s', transport)


@lib.scenario(words=['', '--transport auto'])
def a_port_that_is_taken_keeps_only_fabric_away(words):
    """What nobody asked for by its name may not keep an agent from starting; what somebody did does."""
    holder = 'import socket, time; s = socket.create_server(("%s", 13561)); print("up", flush=True); time.sleep(900)'
    with lib.World() as world:
        taken = subprocess.Popen(world.target.enter() + ['python3', '-c', holder % world.target.address],
                                 stdout=subprocess.PIPE)
        world.stack.callback(lib.guestctl.end_process, taken.pid, child=taken)
        lib.check(taken.stdout.readline() == b'up\n', 'the port was not to be had')
        if words:
            world.make_key()
            command = world.target.enter() + [
                lib.godwit_binary(), 'agent', '--listen', world.target.address, '--psk', world.psk,
                '--state', world.target.state, '--socket', world.target.socket, '--provider', 'tcp', '--transport',
                'auto,fabric']
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            lib.check(answer.returncode == 1, 'the agent ended with %d: %s', answer.returncode, answer.stderr)
        world.start_agents(target=['--provider', 'tcp'] + words.split())
        [agent] = world.target.command('status').result().events[-1]['agents']
        listens = {one['name']: one.get('listens') for one in agent['agent']['transports']}
        lib.check(listens['tcp'] and not listens['fabric'], 'it listens with %s', listens)
        path = copies.make_source(world, 'dynamic')
        result = copies.run_copy(world, path, world.target.address + ':copy.vhdx').expect('done')
        transport = result.detail['stats']['transport']
        lib.check(transport.startswith('tcp '), 'it went by %s', transport)


@lib.scenario()
def no_such_provider_is_one_line():
    with lib.World() as world:
        world.make_key()
        for words, text in ((['--provider', 'nothing'], "no provider 'nothing' on this host"),
                            (['--transport-option', 'fabric.colour=red'], "has no option 'colour'")):
            command = world.target.enter() + [
                lib.godwit_binary(), 'agent', '--listen', world.target.address, '--psk', world.psk, '--state',
                world.target.state, '--socket', world.target.socket, '--transport', 'fabric'] + words
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            lib.check(answer.returncode != 0, 'the agent ended well')
            lib.check(text in answer.stderr and len(answer.stderr.splitlines()) == 1, '%s', answer.stderr)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=5))
