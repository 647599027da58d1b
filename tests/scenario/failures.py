#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves that fail: refused, full, killed, cancelled, cut off. Each ends with the guest running on the
source, whole, its QEMU as it was before, a clean target, the right exit code and one line of error."""
import contextlib
import os
import signal
import subprocess
import sys

import lib
from pause import where

SIZE = {'memory_mib': 160, 'disk_mib': 128, 'fill_mib': 32, 'image_format': 'vhdx'}
PHASES = ['disks', 'memory', 'handover']


# What a lost move leaves to be gone on with is for resume.py.
KEEPS_NOTHING = ['--keep-partial', '0']


class Ready(lib.Prepared):
    """A world with agents and a guest, and a move that has come to a phase and stays there for
    seconds: disks and memory on a slow wire, the handover with the target's QEMU held still, so that
    it never says that it has the state."""

    def __init__(self, target=(), **options):
        self.world = lib.World(**dict(dict(SIZE, held='a'), **options))
        self.target_options = target
        self.held = None

    def prepare(self):
        world = self.world
        world.start_agents(source=KEEPS_NOTHING, target=[*KEEPS_NOTHING, *self.target_options])
        world.start_guest()
        self.before = world.listing()

    def go_to(self, phase, *extra):
        world = self.world
        if phase != 'handover':
            return world.go_to(phase, *extra)
        world.source.hold('STOPPING')
        # The pause is given up after five times its limit, but no sooner than a test has done its part.
        move = world.start_move('--progress', '--max-pause', '30000', *extra)
        world.source.await_held('STOPPING', move)
        self.hold_target_vmm()
        world.source.go_on_to('WAITING', move)
        world.source.release()
        return move

    def hold_commit(self):
        """The next move stops right before COMMITTED is journalled: the target is PREPARED by then."""
        self.world.source.hold('COMMITTING')

    def await_commit(self):
        self.world.source.await_held('COMMITTING')

    def hold_target_vmm(self):
        self.held = self.target_vmm()
        os.kill(self.held, signal.SIGSTOP)

    def release(self):
        if self.held:
            try:
                os.kill(self.held, signal.SIGCONT)
            except ProcessLookupError:
                pass

    def after_failure(self, move):
        """The move fails; whoever was held goes on, and agents that died are there again."""
        result = move.result()
        lib.check(result.status != lib.EXIT['done'], 'the move says done')
        self.release()
        for host in self.world.hosts.values():
            if not host.agent:
                host.start_agent()

    def target_vmm(self):
        qemus = self.world.target.qemus()
        lib.check(len(qemus) == 1, 'the target runs %d QEMUs', len(qemus))
        return qemus[0][0]

    def nothing_happened(self, files=()):
        self.world.assert_nothing_happened(self.before, files)


def can_still_move(ready):
    """What failed left nothing that hinders the next try."""
    ready.world.source.limit_rate(None)
    ready.world.move().expect('done')
    ready.world.assert_moved()


# ------------------------------------------------------------------------------------------ refused

@lib.scenario()
def target_refuses():
    """Every refusal names its cause, on one guest that notices none of them; then it moves."""
    with Ready() as ready:
        world = ready.world
        taken = os.path.join(world.target.storage, 'web1-0.vhdx')
        with open(taken, 'w') as handle:
            handle.write('somebody\'s\n')
        world.assert_refused(world.move(), 'blocked', 'web1-0.vhdx', 'exists')
        ready.nothing_happened(files=['web1-0.vhdx'])
        with open(taken) as handle:
            lib.check(handle.read() == 'somebody\'s\n', 'the file that was there is changed')
        os.unlink(taken)
        world.assert_refused(world.move('--disk', 'vda=/etc/web1.vhdx'), 'blocked',
                             '/etc/web1.vhdx.*outside the storage', '--storage')
        world.assert_refused(world.move('--storage', world.folder), 'blocked', 'outside the storage')
        world.assert_refused(world.move('--disk', 'vdq=x'), 'blocked', 'vdq')
        world.assert_refused(world.move('--net', 'br0=br1'), 'blocked', 'br0')
        other = os.path.join(world.folder, 'other.psk')
        with open(other, 'w') as handle:
            subprocess.run([lib.godwit_binary(), 'key', 'lab'], stdout=handle, check=True)
        os.chmod(other, 0o600)
        world.assert_refused(world.move('--psk', other), 'failed', 'key|refused|authent')
        ready.nothing_happened()
        can_still_move(ready)


def make_bridge(host, name, address=None):
    host.inside('ip', 'link', 'add', name, 'type', 'bridge')
    host.inside('ip', 'link', 'set', name, 'up')


@lib.scenario()
def unknown_bridge_is_refused_and_mapped():
    if not os.path.exists('/dev/net/tun'):
        raise lib.Skip('there is no /dev/net/tun')
    with lib.World(**dict(SIZE, guest={'tap': 'tap0'})) as world:
        world.start_agents()
        make_bridge(world.source, 'br0')
        world.source.inside('ip', 'tuntap', 'add', 'tap0', 'mode', 'tap')
        world.source.inside('ip', 'link', 'set', 'tap0', 'master', 'br0', 'up')
        world.start_guest()
        before = world.listing()
        make_bridge(world.target, 'br1')
        world.assert_refused(world.move(), 'blocked', 'br0')
        world.assert_nothing_happened(before)
        world.move('--net', 'br0=br1').expect('done')
        world.assert_moved()
        links = world.target.inside('ip', '-o', 'link', 'show', 'master', 'br1')
        lib.check('tap' in links, 'no tap of the guest is on br1: %s', links)


# --------------------------------------------------------------------------------------------- full

@lib.scenario(sample=1, what=['storage', 'memory', 'storage while it moves'])
def target_is_full(what):
    with lib.World(**dict(SIZE, held='a')) as world:
        folder = world.target.storage if what.startswith('storage') else '/dev/shm'
        size = {'storage': '8m', 'memory': '64m', 'storage while it moves': '96m'}[what]
        if what.startswith('storage'):
            subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=' + size, 'tmpfs', folder], check=True)
            world.stack.callback(subprocess.run, ['umount', '-l', folder], check=False)
        world.start_agents()
        if what == 'memory':
            subprocess.run(['nsenter', '-t', str(world.target.agent.pid), '-m', 'mount', '-o',
                            'remount,size=' + size, folder], check=True)
        world.start_guest()
        before = world.listing()
        if what != 'storage while it moves':
            world.assert_refused(world.move(), 'blocked', 'MiB|space', folder)
            world.assert_nothing_happened(before)
            return
        move = world.go_to('disks')
        filler = os.path.join(folder, 'filler')
        # Piece by piece: the move takes its own share meanwhile.
        with open(filler, 'wb', buffering=0) as handle:
            with contextlib.suppress(OSError):
                while True:
                    handle.write(bytes(65536))
        world.assert_refused(move.result(), 'failed', '[Nn]o space left')
        world.assert_nothing_happened(before, files=['filler'])


@lib.scenario()
def foreign_image_that_appears_is_kept():
    """Somebody makes a file of the image's name on the target while the move runs: the move fails, and
    the file is theirs."""
    with Ready() as ready:
        move = ready.go_to('memory')
        path = os.path.join(ready.world.target.storage, 'web1-0.vhdx')
        with open(path, 'w') as handle:
            handle.write('somebody\'s\n')
        ready.world.source.limit_rate(None)
        ready.world.assert_refused(move.result(), 'failed', 'web1-0.vhdx', 'exists')
        ready.nothing_happened(files=['web1-0.vhdx'])
        with open(path) as handle:
            lib.check(handle.read() == 'somebody\'s\n', 'the foreign file is changed')


# --------------------------------------------------------------------------------------------- died

@lib.scenario(sample=1, phase=PHASES)
def target_vmm_dies(phase):
    with Ready() as ready:
        move = ready.go_to(phase)
        os.kill(ready.target_vmm(), signal.SIGKILL)
        ready.world.source.limit_rate(None)
        ready.world.assert_refused(move.result(), 'failed', 'QEMU')
        ready.nothing_happened()
        can_still_move(ready)


@lib.scenario(sample=1, phase=PHASES)
def target_agent_dies(phase):
    with Ready() as ready:
        world = ready.world
        move = ready.go_to(phase, '--reconnect-timeout', '2')
        world.target.stop_agent(kill=True)
        world.source.limit_rate(None)
        world.assert_refused(move.result(), 'failed')
        world.assert_still_on_source()
        world.assert_source_clean(ready.before)
        ready.release()
        world.target.start_agent()
        world.assert_listing(ready.before)
        world.assert_still_on_source()


@lib.scenario(when=['noted', 'started'])
def target_agent_dies_before_its_first_record(when):
    """While its QEMU waits to be noted, or has started, which stands still: a monitor that answers nothing."""
    with Ready(held='b') as ready:
        world, target = ready.world, ready.world.target
        if when == 'noted':
            # The notes of the disk, of the folders, and of the folders once they are made come first.
            target.holder.hold_sync(r'\.target\.new$', 3)
        else:
            target.hold('RECEIVING')
        move = world.start_move('--reconnect-timeout', '2')
        target.await_held(when, move)
        lib.check(len(target.qemus()) == (when == 'started'), 'the target runs %s', target.qemus())
        lib.check(target.shared_memory_files(), 'there is no memory yet')
        if when == 'started':
            ready.hold_target_vmm()
        target.stop_agent(kill=True)
        target.release()
        world.assert_refused(move.result(), 'failed')
        target.start_agent()
        lib.check(not target.qemus(), 'a QEMU is left: %s', target.qemus())
        world.assert_listing(ready.before)
        world.assert_still_on_source()
        can_still_move(ready)


@lib.scenario(sample=1, phase=PHASES)
def source_agent_dies(phase):
    """The guard lets the guest run on, on its real disk; the agent that comes back cleans up."""
    with Ready() as ready:
        world = ready.world
        move = ready.go_to(phase)
        world.source.stop_agent(kill=True)
        result = move.result()
        lib.check(result.status != lib.EXIT['done'], 'the command says done')
        lib.check(world.source.socket_folders(), 'the dead agent left no folder: nothing is tested by it')
        world.assert_still_on_source()
        drives = world.source_state()['qemu drives']
        lib.check(drives == ready.before['qemu drives'], 'the guest runs on %s', drives)
        ready.release()
        world.source.limit_rate(None)
        world.source.start_agent()
        world.assert_listing(ready.before)
        world.assert_still_on_source()


@lib.scenario()
def silent_source_vmm_is_cleaned_later():
    """What its QEMU does not answer while the move is undone is asked again: nothing of the move stays in it."""
    with Ready() as ready:
        world = ready.world
        move = ready.go_to('memory')
        world.source.hold('UNDOING')
        world.cancel()
        world.source.await_held('UNDOING', move)
        os.kill(world.guest.pid, signal.SIGSTOP)
        try:
            world.source.release()
            world.source.wait_log('CLEAN_SOURCE: ')
        finally:
            os.kill(world.guest.pid, signal.SIGCONT)
        lib.check(move.result().status != lib.EXIT['done'], 'the move says done')
        ready.nothing_happened()


# --------------------------------------------------------------------------------- cancelled, cut off

@lib.scenario()
def discarded_image_is_gone_for_good():
    """Before the target records that nothing of the move is left, the folder of its images is durable: a power
    cut brings no image back that nobody knows of."""
    with Ready(held='ab', image_format='raw') as ready:
        world = ready.world
        world.target.hold('PREPARING')  # the image has its final name
        move = world.start_move('--max-pause', '30000')
        world.target.await_held('PREPARING', move)
        lib.check('web1-0.raw' in world.target.storage_files(), 'it has no final name yet')
        before = len(world.target.holder.syncs)
        world.cancel()
        world.target.release()
        world.assert_refused(move.result(), 'failed', 'cancel')
        ready.nothing_happened()
        seen = [where(path) for _, _, path in world.target.holder.syncs[before:]]
        lib.check('folder' in seen and 'journal' in seen[seen.index('folder'):],
                  'it is discarded before its folder is durable: %s', seen)



@lib.scenario(sample=1, phase=PHASES, paused=['running', 'paused'])
def cancelled(phase, paused):
    with Ready() as ready:
        world = ready.world
        if paused == 'paused':
            world.guest.qmp('stop')
            ready.before = world.listing()
        move = ready.go_to(phase)
        world.cancel()
        world.assert_refused(move.result(lib.PATIENCE_S), 'failed', 'cancel')
        ready.release()
        world.assert_listing(ready.before)
        if paused == 'paused':
            world.guest.qmp('cont')
        world.assert_still_on_source()


@lib.scenario()
def cancelled_with_control_c_goes_on():
    """Ctrl-C only detaches: the move goes on in the agent."""
    with Ready() as ready:
        world = ready.world
        move = ready.go_to('memory')
        [godwit] = [pid for pid, words in world.source.processes()
                    if words[1:2] == ['move'] and words[0].endswith('godwit')]
        os.kill(godwit, signal.SIGINT)
        lib.check(move.result().status == 130, 'exit status %d', move.process.returncode)
        world.source.limit_rate(None)
        world.assert_moved()


@lib.scenario(sample=1, phase=['disks', 'memory'], secrecy=['clear', 'sealed'])
def cut_data_channel_is_replaced(phase, secrecy):
    """ss -K kills one data channel in the middle; what it had not delivered goes over another."""
    with Ready(trusted=secrecy == 'clear') as ready:
        world = ready.world
        move = ready.go_to(phase)
        ports = sorted(world.source.connections())
        lib.check(len(ports) >= 3, 'expected control and two data channels: %s', ports)
        world.source.cut_connection(data_port(world))
        after = world.source.connections()
        lib.check(set(ports) - set(after), 'nothing was cut')
        world.source.wait_log('replaced')
        world.source.limit_rate(None)
        move.result().expect('done')
        world.assert_moved()


def data_port(world):
    """One that is not the control channel's: it has carried more than control ever does."""
    def look():
        lines = world.source.inside('ss', '-Htni', 'state', 'established', 'dport', '=', ':13560').splitlines()
        for head, info in zip(lines[::2], lines[1::2]):
            words = [word for word in info.split() if word.startswith('bytes_sent:')]
            if words and int(words[0].partition(':')[2]) > lib.MIB:
                return int(head.split()[2].rpartition(':')[2])
        return None
    return lib.guestctl.wait_for(look, lib.PATIENCE_S, 'a channel that has carried 1 MiB')


@lib.scenario(sample=1, phase=PHASES)
def link_is_lost_for_good(phase):
    with Ready() as ready:
        world = ready.world
        move = ready.go_to(phase, '--reconnect-timeout', '4')
        world.source.set_link('down')
        world.assert_refused(move.result(timeout=150), 'failed')
        world.assert_still_on_source()
        world.assert_source_clean(ready.before)
        ready.release()
        world.source.set_link('up')
        world.assert_listing(ready.before)


@lib.scenario()
def source_agent_dies_between_the_names_and_the_stop():
    """The images have other names and the guest still runs: it runs on, and the guard gives the names
    back."""
    with Ready() as ready:
        world = ready.world
        names = world.source.storage_files()
        world.source.holder.hold(r': RENAME_IMAGES: done')
        move = world.start_move()
        world.source.await_held('RENAME_IMAGES', move)
        tick = world.guest.serial.wait_tick()
        world.guest.serial.wait_tick(least=tick['n'] + 1)
        lib.check(world.source.storage_files() != names, 'the images still have their names')
        world.source.stop_agent(kill=True)
        lib.check(move.result().status != lib.EXIT['done'], 'the command says done')
        lib.guestctl.wait_for(lambda: world.source.storage_files() == names, lib.PATIENCE_S,
                              'the images\' names')
        world.source.start_agent()
        world.assert_listing(ready.before)
        world.assert_still_on_source()


def state_of_job(host):
    """The handover's state of this host's newest job."""
    return host.command('status').result().events[-1]['agents'][0]['jobs'][-1]['progress']['state']


@lib.scenario()
def link_is_cut_at_the_commit():
    """From COMMITTED on nobody resumes by a guess: the command ends in doubt, status shows it, cancel is
    refused, and the agents settle it once the link is back: exactly one guest runs."""
    with Ready() as ready:
        world = ready.world
        ready.hold_commit()
        move = world.start_move('--progress')
        ready.await_commit()
        world.source.set_link('down')
        world.source.release()
        lib.guestctl.wait_for(lambda: state_of_job(world.source) in ('COMMITTED', 'IN_DOUBT'), lib.PATIENCE_S,
                              'COMMITTED', 0.2)
        job = world.source.running_job()
        cancel = world.source.command('cancel', job).result()
        result = move.result()
        world.assert_refused(result, 'in doubt')
        lib.check(cancel.status == lib.EXIT['in doubt'], 'cancel ended with %d', cancel.status)
        lib.check(result.detail['state'] in ('COMMITTED', 'IN_DOUBT'), 'the state is %s',
                  result.detail['state'])
        lib.check(world.guest.qmp('query-status')['status'] != 'running', 'the source runs')
        lib.check(world.guest.is_running(), 'the source\'s QEMU is gone')
        [agent] = world.source.command('status').result().events[-1]['agents']
        lib.check(len(agent['in_doubt']) == 1, 'status shows %s', agent['in_doubt'])
        world.source.set_link('up')
        world.assert_moved()
        lib.guestctl.wait_for(lambda: not world.source.command('status').result()
                              .events[-1]['agents'][0]['in_doubt'], lib.PATIENCE_S, 'the end of the doubt', 1)
        for host in world.hosts.values():
            entry = host.wait_history(exit_code=0)
            lib.check('in the end' in entry['message'], 'the history does not say that it was settled: %s', entry)


if __name__ == '__main__':
    sys.exit(lib.run_main(at_most=4))
