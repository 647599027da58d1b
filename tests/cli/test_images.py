# SPDX-License-Identifier: Apache-2.0
"""godwit copy of VHD images and of chains: as the chain, flat, larger, with other sectors and identifiers."""
import hashlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', 'agent'), os.path.join(HERE, '..', 'engine')]
from image_build import (MIB, PARTLY, PRESENT, VhdBuild, VhdxBuild, expected, sectors, vhd_expected,  # noqa: E402
                         vhdx_locator)
from image_lab import Vhdx, run, sha256  # noqa: E402
from lab import GODWIT, Lab  # noqa: E402

SIZE = 8 * MIB


class Images(Lab):
    def done(self, *words):
        result = self.run_command('copy', *words)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def refused(self, code, text, *words):
        result = self.run_command('copy', *words)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertIn(text, result.stderr)

    def content(self, *words):
        """The digest of the source as godwit makes a raw disk of it."""
        self.done('--format', 'raw', '--flatten', *words, 'content.raw')
        digest = sha256(self.path('content.raw'))
        os.unlink(self.path('content.raw'))
        return digest

    def vhdx_chain(self, relative='.\\bases\\base.vhdx', folder='bases'):
        os.makedirs(self.path(folder), exist_ok=True)
        base = VhdxBuild(SIZE)
        base.blocks = {0: (PRESENT, os.urandom(MIB)), 5: (PRESENT, os.urandom(MIB))}
        child = VhdxBuild(SIZE, parent=vhdx_locator(base, relative, absolute_win32_path='\\\\?\\d:\\vm\\base.vhdx'))
        child.blocks = {0: (PARTLY, sectors(1, 3, 2000)), 3: (PRESENT, os.urandom(MIB))}
        base.write(self.path(folder, 'base.vhdx'))
        child.write(self.path('child.avhdx'))
        return hashlib.sha256(expected(child, expected(base))).hexdigest()

    def vhd_chain(self):
        os.makedirs(self.path('bases'), exist_ok=True)
        base = VhdBuild(SIZE)
        base.blocks = {0: os.urandom(2 * MIB)}
        child = VhdBuild(SIZE, parent=base, locators=[(b'W2ku', 'C:\\vm\\b.vhd'.encode('utf-16-le')),
                                                      (b'W2ru', '.\\bases\\b.vhd'.encode('utf-16-le'))])
        child.blocks = {0: sectors(3, 9), 2: sectors(*range(7))}
        base.write(self.path('bases', 'b.vhd'))
        child.write(self.path('c.vhd'))
        return hashlib.sha256(vhd_expected(child, vhd_expected(base))).hexdigest()


class Chains(Images):
    def test_a_chain_is_copied_as_the_chain(self):
        disk = self.vhdx_chain()
        os.mkdir(self.path('there'))
        self.done('--verify', 'child.avhdx', 'there')
        self.assertEqual(sorted(os.listdir(self.path('there'))), ['base.vhdx', 'child.avhdx'])
        shutil.rmtree(self.path('bases'))
        os.unlink(self.path('child.avhdx'))
        self.assertEqual(self.content('there/child.avhdx'), disk)

    def test_a_chain_that_lies_side_by_side_is_copied_byte_by_byte(self):
        self.vhdx_chain('.\\base.vhdx', '.')
        os.mkdir(self.path('there'))
        self.done('child.avhdx', 'there/')
        for name in ('base.vhdx', 'child.avhdx'):
            self.assertEqual(sha256(self.path(name)), sha256(self.path('there', name)))

    def test_the_source_of_a_chain_is_not_changed(self):
        self.vhdx_chain()
        before = sha256(self.path('child.avhdx'))
        os.mkdir(self.path('there'))
        self.done('child.avhdx', 'there/')
        self.assertEqual(sha256(self.path('child.avhdx')), before)
        self.assertNotEqual(sha256(self.path('there', 'child.avhdx')), before)

    def test_a_vhd_chain(self):
        disk = self.vhd_chain()
        os.mkdir(self.path('there'))
        self.done('c.vhd', 'there/')
        shutil.rmtree(self.path('bases'))
        self.assertEqual(self.content('there/c.vhd'), disk)

    def test_a_chain_that_fails_leaves_nothing(self):
        self.vhdx_chain()
        os.mkdir(self.path('there'))
        with open(self.path('there', 'child.avhdx'), 'w'):
            pass
        self.refused(1, 'exists', 'child.avhdx', 'there/')
        self.assertEqual(os.listdir(self.path('there')), ['child.avhdx'])

    def test_options_for_one_image_want_flatten(self):
        self.vhdx_chain()
        self.refused(2, '--flatten', '--size', '20M', 'child.avhdx', '.')

    def test_a_parent_that_is_missing_is_named_with_the_way_out(self):
        self.vhdx_chain('..\\base.vhdx', 'elsewhere')
        self.refused(1, "--parent 'base.vhdx=PATH'", 'child.avhdx', 'there.vhdx')

    def test_a_parent_can_be_named(self):
        disk = self.vhdx_chain('..\\base.vhdx', 'elsewhere')
        self.assertEqual(self.content('--parent', 'base.vhdx=elsewhere/base.vhdx', 'child.avhdx'), disk)
        self.assertEqual(self.content('--parent', '\\\\?\\D:\\VM=elsewhere', 'child.avhdx'), disk)

    def test_a_chain_reaches_another_host(self):
        disk = self.vhdx_chain()
        os.makedirs(self.path('vm', 'disks'))
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        self.start_ready('--storage', self.path('vm'), listen='127.0.0.1:' + port)
        self.done('--psk', self.psk, '--verify', '--port', port, 'child.avhdx', '127.0.0.1:disks')
        shutil.rmtree(self.path('bases'))
        self.assertEqual(self.content('vm/disks/child.avhdx'), disk)


class Shapes(Images):
    def disk(self, name='disk.raw', head=b''):
        with open(self.path(name), 'wb') as file:
            file.truncate(SIZE)
            file.write(os.urandom(100000))
            file.seek(0)
            file.write(head)
        return self.path(name)

    def header_ids(self, name):
        image = Vhdx(self.path(name))
        return image.get((64 << 10) + 32, 16), image.get(image.item(0xAB)[1], 16)

    def test_flatten_makes_one_vhdx_that_qemu_reads(self):
        disk = self.vhdx_chain()
        self.done('--flatten', 'child.avhdx', 'flat.vhdx')
        run('qemu-img', 'convert', '-f', 'vhdx', '-O', 'raw', self.path('flat.vhdx'), self.path('flat.raw'))
        self.assertEqual(sha256(self.path('flat.raw')), disk)

    def test_a_vhd_with_a_file_system_becomes_a_larger_vhdx(self):
        for tool in ('mkfs.ext4', 'fsck.ext4', 'debugfs'):
            if not shutil.which(tool):
                self.skipTest(tool + ' is not installed')
        os.mkdir(self.path('files'))
        with open(self.path('files', 'inside'), 'wb') as file:
            file.write(os.urandom(3 * MIB))
        run('mkfs.ext4', '-q', '-d', self.path('files'), self.path('fs.raw'), '24M')
        run('qemu-img', 'convert', '-O', 'vpc', '-o', 'force_size=on', self.path('fs.raw'), self.path('fs.vhd'))
        self.done('--size', '3T', 'fs.vhd', 'fs.vhdx')
        info = run('qemu-img', 'info', '--output=json', self.path('fs.vhdx')).stdout
        self.assertIn('"virtual-size": %d' % (3 << 40), info)
        self.assertLess(os.stat(self.path('fs.vhdx')).st_blocks * 512, 64 * MIB)
        run('qemu-img', 'check', '-f', 'vhdx', self.path('fs.vhdx'))
        run('qemu-img', 'dd', '-f', 'vhdx', '-O', 'raw', 'bs=1M', 'count=24', 'if=' + self.path('fs.vhdx'),
            'of=' + self.path('again.raw'))
        run('fsck.ext4', '-f', '-n', self.path('again.raw'))
        run('debugfs', '-R', 'dump inside %s' % self.path('inside'), self.path('again.raw'))
        self.assertEqual(sha256(self.path('inside')), sha256(self.path('files', 'inside')))

    def test_a_vhd_is_not_written(self):
        self.disk()
        self.refused(2, 'does not write VHD', '--format', 'vhdx', 'disk.raw', 'new.vhd')

    def test_a_disk_cannot_become_smaller(self):
        self.disk()
        self.refused(2, 'cannot become', '--size', '1M', 'disk.raw', 'new.raw')

    def test_a_larger_raw_disk(self):
        self.disk()
        self.done('--size', '20M', '--verify', 'disk.raw', 'new.raw')
        self.assertEqual(os.path.getsize(self.path('new.raw')), 20 * MIB)
        run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', self.path('disk.raw'), self.path('new.raw'))

    def test_a_size_that_is_none(self):
        self.disk()
        self.refused(2, 'is no size', '--size', '5 apples', 'disk.raw', 'new.raw')

    def test_block_size_as_asked(self):
        self.disk()
        self.done('--format', 'vhdx', '--block-size', '4M', 'disk.raw', 'new.vhdx')
        self.assertIn('"cluster-size": 4194304',
                      run('qemu-img', 'info', '--output=json', self.path('new.vhdx')).stdout)

    def test_block_size_out_of_bounds(self):
        self.disk()
        self.refused(2, 'block_size', '--format', 'vhdx', '--block-size', '512M', 'disk.raw', 'new.vhdx')

    def test_the_smallest_and_the_largest_blocks(self):
        self.disk()
        for size, number in (('1M', MIB), ('256M', 256 * MIB)):
            name = 'blocks-%s.vhdx' % size
            self.done('--format', 'vhdx', '--block-size', size, 'disk.raw', name)
            self.assertIn('"cluster-size": %d' % number,
                          run('qemu-img', 'info', '--output=json', self.path(name)).stdout)
            run('qemu-img', 'compare', '-f', 'raw', '-F', 'vhdx', self.path('disk.raw'), self.path(name))

    def test_blocks_and_sectors_are_the_sources(self):
        old = VhdxBuild(SIZE, block=4 * MIB, sector=4096)
        old.blocks = {1: (PRESENT, os.urandom(4 * MIB))}
        old.write(self.path('old.vhdx'))
        self.done('old.vhdx', 'new.vhdx')
        image = Vhdx(self.path('new.vhdx'))
        self.assertEqual(image.get(image.item(0x37)[1], 4), (4 * MIB).to_bytes(4, 'little'))
        self.assertEqual(image.get(image.item(0x1D)[1], 4), (4096).to_bytes(4, 'little'))
        self.assertEqual(self.content('new.vhdx'), hashlib.sha256(expected(old)).hexdigest())

    def test_a_log_is_replayed_and_the_source_left_as_it_is(self):
        from image_malformed import Log  # at the top its tests would run here too
        old = VhdxBuild(SIZE)
        old.blocks = {2: (PRESENT, os.urandom(MIB))}
        old.write(self.path('old.vhdx'))
        image = Vhdx(self.path('old.vhdx'))
        table = image.bat()[1]
        sector = image.get(table, 4096)
        image.set_entry(2, 0)
        log = Log('run')
        log.image, log.vhdx = image.path, image
        log.put_log(log.entry_bytes(9, [(table, sector)]))
        before = sha256(image.path)
        self.assertEqual(self.content('old.vhdx'), hashlib.sha256(expected(old)).hexdigest())
        self.assertEqual(sha256(image.path), before)

    def test_vhds_of_qemu_become_raw_and_vhdx(self):
        self.disk()
        for kind in 'fixed', 'dynamic':
            vhd = self.path(kind + '.vhd')
            run('qemu-img', 'convert', '-O', 'vpc', '-o', 'force_size=on,subformat=' + kind, self.path('disk.raw'), vhd)
            for form in 'raw', 'vhdx':
                self.done('--format', form, vhd, '%s.%s' % (kind, form))
                run('qemu-img', 'compare', '-f', 'raw', '-F', form, self.path('disk.raw'),
                    self.path('%s.%s' % (kind, form)))

    def limited(self, *words):
        """A copy by a process whose files may not become larger than half the disk (ulimit -f)."""
        limit = (SIZE // 2, SIZE // 2)
        return subprocess.run([GODWIT, 'copy', *words], env=self.environment, cwd=self.folder, capture_output=True,
                              text=True, timeout=60,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))

    def test_a_file_that_may_not_be_that_large_is_refused_beforehand(self):
        self.disk()
        result = self.limited('disk.raw', 'new.raw')
        self.assertIn(result.returncode, (1, 3), result.stderr)
        self.assertIn('may not have', result.stderr)
        self.assertFalse([name for name in os.listdir(self.folder) if name.startswith('new')])

    def test_a_thin_one_that_cannot_grow_that_far_is_warned_of(self):
        run('qemu-img', 'create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', self.path('thin.vhdx'), str(SIZE * 4))
        result = self.limited('thin.vhdx', 'new.vhdx')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn('may not become as large', result.stdout + result.stderr)

    def test_dynamic_of_a_fixed_one(self):
        run('qemu-img', 'create', '-q', '-f', 'vhdx', '-o', 'subformat=fixed', self.path('fixed.vhdx'), '20M')
        self.done('--dynamic', 'fixed.vhdx', 'thin.vhdx')
        self.assertLess(os.path.getsize(self.path('thin.vhdx')), 10 * MIB)

    def test_identifiers_are_kept(self):
        run('qemu-img', 'create', '-q', '-f', 'vhdx', self.path('a.vhdx'), '20M')
        self.done('a.vhdx', 'b.vhdx')
        self.assertEqual(self.header_ids('a.vhdx'), self.header_ids('b.vhdx'))

    def test_a_copied_base_is_still_the_parent(self):
        disk = self.vhdx_chain()
        os.rename(self.path('bases', 'base.vhdx'), self.path('old.vhdx'))
        self.done('--block-size', '2M', 'old.vhdx', 'bases/base.vhdx')
        self.assertEqual(self.content('child.avhdx'), disk)

    def test_identifiers_are_new_when_asked_for(self):
        run('qemu-img', 'create', '-q', '-f', 'vhdx', self.path('a.vhdx'), '20M')
        self.done('--new-id', 'a.vhdx', 'b.vhdx')
        for old, new in zip(self.header_ids('a.vhdx'), self.header_ids('b.vhdx')):
            self.assertNotEqual(old, new)

    def test_sectors_of_4096(self):
        self.disk()
        self.done('--format', 'vhdx', '--sector-size', '4096', 'disk.raw', 'new.vhdx')
        image = Vhdx(self.path('new.vhdx'))
        self.assertEqual(image.get(image.item(0x1D)[1], 4), (4096).to_bytes(4, 'little'))
        self.assertEqual(self.content('new.vhdx'), sha256(self.path('disk.raw')))

    def test_sectors_of_4096_under_a_partition_table_of_512(self):
        self.disk(head=bytes(510) + b'\x55\xaaEFI PART')
        self.refused(2, 'partition table', '--format', 'vhdx', '--sector-size', '4096', 'disk.raw', 'new.vhdx')

    def test_sectors_of_4096_with_their_own_partition_table(self):
        self.disk(head=bytes(510) + b'\x55\xaa' + bytes(3584) + b'EFI PART')
        self.done('--format', 'vhdx', '--sector-size', '4096', 'disk.raw', 'new.vhdx')

    def test_sectors_that_do_not_exist(self):
        self.disk()
        self.refused(2, 'sector', '--format', 'vhdx', '--sector-size', '1024', 'disk.raw', 'new.vhdx')


if __name__ == '__main__':
    unittest.main()
