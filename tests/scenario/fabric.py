#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves and copies over libfabric, with the provider that needs no device: control and data both run over it,
and no byte over godwit's own TCP."""
import os
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
        lib.check(len(cut.splitlines()) >= 2, 'nothing was cut: %s', cut)
        world.source.limit_rate(None)
        move.result().expect('done')
        world.assert_moved()


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
