# SPDX-License-Identifier: Apache-2.0
"""A running VM and the two ways to move it, for the benchmarks that compare them: godwit, and QEMU's own
migration (multifd over 2 channels, blockdev-mirror of the disk to an NBD server in the target's QEMU).

The guest is the verifiable one: 1 GiB with 500 MiB filled, a raw disk of 1 GiB with 512 MiB of data. Busy is
20 MB/s of RAM and 5 MB/s of disk. The pause of both is from the source's last STOP to the target's RESUME, by
the time stamps of QEMU's own events on monitors that neither mover uses."""
import glob
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import benchlib  # noqa: E402 (its folder is known only now)
import guestimage  # noqa: E402 (benchlib knows where it is)

MIB = benchlib.MIB
TICKS_PER_S = 18.2
LOADS = {'idle': {'pages_per_tick': 0, 'writes_per_tick': 0},
         'busy': {'pages_per_tick': int(20e6 / 4096 / TICKS_PER_S),
                  'writes_per_tick': int(5e6 / 4096 / TICKS_PER_S)}}


class Monitor:
    """One QMP connection that keeps the events it saw."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.lines = self.socket.makefile('rwb')
        self.events = []
        self.lines.readline()
        self.ask('qmp_capabilities')

    def read(self):
        answer = json.loads(self.lines.readline())
        if 'event' in answer:
            self.events.append(answer)
        return answer

    def ask(self, command, **arguments):
        message = {'execute': command}
        if arguments:
            message['arguments'] = {name.replace('_', '-'): value for name, value in arguments.items()}
        self.lines.write(json.dumps(message).encode() + b'\n')
        self.lines.flush()
        while True:
            answer = self.read()
            if 'error' in answer:
                raise RuntimeError('%s: %s' % (command, answer['error']['desc']))
            if 'return' in answer:
                return answer['return']

    def wait_event(self, name):
        """The time stamp of the first event of that name."""
        while True:
            for event in self.events:
                if event['event'] == name:
                    stamp = event['timestamp']
                    return stamp['seconds'] + stamp['microseconds'] / 1e6
            self.read()

    def stamps(self, name):
        """The time stamps of every event of that name so far."""
        return [event['timestamp']['seconds'] + event['timestamp']['microseconds'] / 1e6
                for event in self.events if event['event'] == name]

    def wait_status(self, *wanted):
        while True:
            found = self.ask('query-migrate')
            if found.get('status') in wanted:
                return found
            if found.get('status') in ('failed', 'cancelled'):
                raise RuntimeError('the migration %s' % found)
            time.sleep(0.002)

    def close(self):
        self.lines.close()
        self.socket.close()


class Watch:
    """The events of both QEMUs while godwit moves the guest."""

    def __init__(self, near, far):
        self.near, self.far, self.pattern = Monitor(near), None, far
        self.is_over, self.span = False, None
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self):
        while not self.is_over and not self.far:
            for path in glob.glob(self.pattern):
                try:
                    self.far = Monitor(path)
                except OSError:
                    continue
            time.sleep(0.01)
        try:
            while self.far and not self.far.stamps('RESUME'):
                self.far.read()
        except (OSError, ValueError):
            return

    def pause(self):
        """ms from the last STOP at the source to RESUME at the target."""
        self.thread.join(10)
        try:
            while True:
                self.near.read()
        except (OSError, ValueError):
            pass
        self.span = self.near.stamps('STOP')[-1], self.far.stamps('RESUME')[0]
        return (self.span[1] - self.span[0]) * 1e3

    def close(self):
        self.is_over = True
        for monitor in (self.near, self.far):
            if monitor:
                monitor.close()


class Moves:
    """Guests, and the two ways to move one."""

    def __init__(self, lab, agents, load):
        self.lab, self.agents = lab, agents
        self.load, self.count = load, 0
        self.last_pause = None  # of godwit: when it began and ended
        self.image = lab.path('template-%s.raw' % load)
        guestimage.make_image(self.image, 1024 * MIB, fill_mib=512, seed=7, span_mib=500,
                              write_range_mib=64, **LOADS[load])

    def guest(self, side, disk, **options):
        self.count += 1
        name = '%s%d' % (self.load, self.count)
        return benchlib.guestctl.Guest(
            self.lab.path('guest-' + name, 'x')[:-2], memory_mib=1024, ram_dir=self.lab.folder,
            netns='%s-%s' % (self.lab.name, side), name=name,
            disks=[{'path': disk, 'format': 'raw', 'id': 'vda'}], **options)

    def owner_path(self, guest):
        """A second monitor, which the mover leaves alone."""
        return guest.qmp_path + '-owner'

    def start_source(self):
        disk = self.lab.path('disks', 'source-%d.raw' % self.count)
        subprocess.run(['cp', '--sparse=always', self.image, disk], check=True)
        guest = self.guest('a', disk)
        guest.options['extra'] = ['-qmp', 'unix:%s,server=on,wait=off' % self.owner_path(guest)]
        guest.start()
        benchlib.pin(guest, 'a')
        guest.wait_ready(120)
        guest.serial.wait_tick(60)
        return guest

    def godwit(self, *more):
        guest = self.start_source()
        watch = Watch(self.owner_path(guest), os.path.join(self.agents['b'].state, 'vm', '*', 'qmp-user'))
        try:
            seconds, detail = benchlib.move(self.lab, guest, self.agents, *more)
            pause = watch.pause()
            self.last_pause = watch.span
            found = benchlib.stages(detail['stats'], self.agents['b'].last_stats())
            self.check(detail['target']['chardevs']['serial0'])
            benchlib.end_target(detail, self.agents)
            # QEMU's total ends when the guest runs on the target; ending the source's QEMU comes after.
            seconds -= detail['steps_ms'].get('END_VMM', 0) / 1e3
            return seconds, pause, found, detail
        finally:
            watch.close()
            self.drop(guest)

    def qemu(self):
        """(seconds of the migration, ms of its pause, seconds before that to start the target's QEMU)."""
        guest = self.start_source()
        disk = self.lab.path('disks', 'target.raw')
        with open(disk, 'wb') as out:
            out.truncate(1024 * MIB)
        target = self.guest('b', disk, incoming='defer', extra=['-S'])
        try:
            target.start()
            benchlib.pin(target, 'b')
            far = Monitor(target.qmp_path)
            start_s = time.monotonic() - target.began
            near = Monitor(guest.qmp_path)
            started = time.monotonic()
            pause = self.migrate(near, far)
            seconds = time.monotonic() - started
            near.close()
            far.close()
            self.verify(target.serial)
            return seconds, pause, start_s
        finally:
            target.stop()
            self.drop(guest)

    @staticmethod
    def migrate(near, far):
        """The order of a migration with storage; the pause in ms."""
        address = {'type': 'inet', 'host': benchlib.TARGET, 'port': '10809'}
        capabilities = [{'capability': 'multifd', 'state': True},
                        {'capability': 'pause-before-switchover', 'state': True}]
        far.ask('nbd-server-start', addr={'type': 'inet', 'data': {'host': benchlib.TARGET, 'port': '10809'}})
        far.ask('block-export-add', type='nbd', id='disk', node_name='node-vda', writable=True, name='vda')
        near.ask('blockdev-add', driver='nbd', node_name='peer', server=address, export='vda')
        near.ask('blockdev-mirror', job_id='mirror', device='node-vda', target='peer', sync='full')
        for side in (near, far):
            side.ask('migrate-set-capabilities', capabilities=capabilities)
            side.ask('migrate-set-parameters', multifd_channels=2, max_bandwidth=10 << 30, downtime_limit=300)
        far.ask('migrate-incoming', uri='tcp:%s:4444' % benchlib.TARGET)
        near.wait_event('BLOCK_JOB_READY')
        near.ask('migrate', uri='tcp:%s:4444' % benchlib.TARGET)
        near.wait_status('pre-switchover')
        near.ask('block-job-cancel', device='mirror')
        near.wait_event('BLOCK_JOB_COMPLETED')
        near.ask('migrate-continue', state='pre-switchover')
        near.wait_status('completed')
        far.wait_status('completed')
        far.ask('nbd-server-stop')
        far.ask('cont')
        return (far.wait_event('RESUME') - near.wait_event('STOP')) * 1e3

    def check(self, serial_path):
        """The verdict of a guest whose serial line nobody reads yet."""
        self.count += 1
        serial = benchlib.guestctl.Serial(self.lab.path('check-%d' % self.count, 'x')[:-2], serial_path)
        try:
            self.verify(serial.start())
        finally:
            serial.stop()

    @staticmethod
    def verify(serial):
        """The guest's own verdict on the target: a mover that loses pages wins nothing."""
        serial.wait_tick(60)
        is_good, _, faults = serial.verify(180)
        if not is_good:
            raise RuntimeError('the guest found faults: %s' % faults[:3])

    def drop(self, guest):
        guest.stop()
        shutil.rmtree(self.lab.path('disks', 'x')[:-2], ignore_errors=True)
