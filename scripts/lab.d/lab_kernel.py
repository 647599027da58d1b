# SPDX-License-Identifier: Apache-2.0
"""The lab's kernel: the stock Debian one, fetched and made ready to boot in a cache folder, once.

The kernel is unpacked out of its compressed image, so that the emulated machine need not do it, and gets an
initramfs of busybox and the few modules that the lab uses. The cache is $GODWIT_LAB_CACHE or
~/.cache/godwit/lab. Nothing here starts a machine.
"""
import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# In this order; without the two crc32 modules "rdma link add" fails.
MODULES = ['virtio_pci', '9pnet_virtio', '9p', 'overlay', 'virtio_net', 'veth', 'crc32_generic',
           'crc32_pclmul', 'crc32c_generic', 'ib_uverbs', 'rdma_ucm', 'ib_umad', 'rdma_rxe']
# Inserted only where there is a disk.
DISK_MODULES = ['virtio_blk', 'ext4']
OLD_S = 86400


class LabError(Exception):
    """The lab itself cannot do it."""


def cache_folder():
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return os.environ.get('GODWIT_LAB_CACHE') or os.path.join(base, 'godwit', 'lab')


def output(*command, **options):
    answer = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if answer.returncode:
        raise LabError('%s: %s' % (' '.join(command[:3]), answer.stderr.strip()[-500:]))
    return answer.stdout


def tool(name):
    """Where a program is; those of the administrator too, which a user's PATH does not have."""
    found = shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')
    if not found:
        raise LabError('%s is missing: scripts/deps lab installs it' % name)
    return found


def kernel_package():
    """The package that linux-image-amd64 stands for."""
    found = re.findall(r'Depends: (linux-image-[0-9]\S+)',
                       output('apt-cache', 'depends', 'linux-image-amd64'))
    if not found:
        raise LabError('apt knows no kernel: run apt-get update')
    return found[0]


def unpack_image(compressed, plain):
    """The kernel in a bzImage as an ELF file (Documentation/x86/boot.rst: payload_offset)."""
    with open(compressed, 'rb') as handle:
        image = handle.read()
    start, length = struct.unpack_from('<II', image, 0x248)
    start += ((image[0x1f1] or 4) + 1) * 512
    try:
        kernel = lzma.LZMADecompressor().decompress(image[start:start + length])
    except lzma.LZMAError:
        kernel = image
    with open(plain, 'wb') as handle:
        handle.write(kernel)


def extract_kernel(folder):
    """Puts the newest stock kernel beneath folder/root, and folder/kernel to boot from; its version."""
    package = kernel_package()
    output('apt-get', 'download', '-q', package, cwd=folder)
    archives = [name for name in os.listdir(folder) if name.endswith('.deb')]
    root = os.path.join(folder, 'root')
    output('dpkg', '-x', os.path.join(folder, archives[0]), root)
    os.unlink(os.path.join(folder, archives[0]))
    version = package[len('linux-image-'):]
    unpack_image(os.path.join(root, 'boot', 'vmlinuz-' + version), os.path.join(folder, 'kernel'))
    output(tool('depmod'), '-b', root, version)
    return version


def copy_modules(root, version, tree):
    """Into tree/modules, with their order in tree/modules/order and tree/modules/disk-order."""
    copied = []
    for modules, name in ((MODULES, 'order'), (DISK_MODULES, 'disk-order')):
        order = []
        for module in modules:
            for line in output(tool('modprobe'), '-d', root, '-S', version, '--show-depends',
                               module).splitlines():
                words = line.split()
                if words[0] == 'insmod' and os.path.basename(words[1]) not in order + copied:
                    order.append(os.path.basename(words[1]))
                    shutil.copy(words[1], os.path.join(tree, 'modules'))
        copied += order
        with open(os.path.join(tree, 'modules', name), 'w') as handle:
            handle.write('\n'.join(order) + '\n')


def write_initramfs(folder, version):
    """busybox, the modules in dependency order, and lab.d/init."""
    tree = os.path.join(folder, 'tree')
    os.makedirs(os.path.join(tree, 'bin'))
    os.makedirs(os.path.join(tree, 'modules'))
    shutil.copy(tool('busybox'), os.path.join(tree, 'bin', 'busybox'))
    copy_modules(os.path.join(folder, 'root'), version, tree)
    shutil.copy(os.path.join(HERE, 'init'), os.path.join(tree, 'init'))
    os.chmod(os.path.join(tree, 'init'), 0o755)
    names = '\n'.join(os.path.relpath(os.path.join(at, name), tree)
                      for at, folders, files in os.walk(tree) for name in folders + files)
    archive = subprocess.run([tool('cpio'), '-o', '-H', 'newc', '--quiet', '-R', '0:0'], cwd=tree,
                             input=names.encode(), capture_output=True, check=True).stdout
    with open(os.path.join(folder, 'initrd'), 'wb') as handle:
        handle.write(archive)
    shutil.rmtree(tree)


def remove_old(cache, current):
    """Kernels for other versions of these files that nobody made anew for a day."""
    for name in os.listdir(cache):
        path = os.path.join(cache, name)
        if os.path.isdir(path) and path != current and os.stat(path).st_mtime < time.time() - OLD_S:
            shutil.rmtree(path, ignore_errors=True)


def stamp():
    """Changes with everything here that the made files depend on."""
    lines = output('cksum', os.path.join(HERE, 'init'), os.path.abspath(__file__)).splitlines()
    return '-'.join(line.split()[0] for line in lines)


def ready_kernel():
    """The folder of a kernel that can boot: {kernel, initrd, version, root/lib/modules}. Made once."""
    cache = cache_folder()
    os.makedirs(cache, exist_ok=True)
    final = os.path.join(cache, 'kernel-' + stamp())
    with open(os.path.join(cache, 'lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(os.path.join(final, 'version')):
            return final
        folder = tempfile.mkdtemp(prefix='new-', dir=cache)
        try:
            version = extract_kernel(folder)
            write_initramfs(folder, version)
            with open(os.path.join(folder, 'version'), 'w') as handle:
                handle.write(version)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(folder, final)
            remove_old(cache, final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return final
