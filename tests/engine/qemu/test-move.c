/* SPDX-License-Identifier: Apache-2.0 */
/*
 * describe → JSON → check → launch → device state → cont, between two real QEMUs. The guest's own
 * counter on the serial port shows that it goes on where it was.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/vmm/qemu/disks.h"
#include "tests/engine/qemu/move.h"

TestSuite(move, .timeout = 300);

/* The last whole line of the counter in a serial log; 0 when there is none yet. first: the first
 * one. */
static unsigned long counter_of(const char *dir, const char *file, bool first)
{
    char path[160], *text;
    unsigned long value = 0;

    snprintf(path, sizeof(path), "%s/%s", dir, file);
    text = file_text(path);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        unsigned long number = 0;

        if (end - line != 8)
            continue;
        for (int i = 0; i < 8; i++)
            number = number << 4 | (unsigned long)(line[i] - 'A');
        value = number;
        if (first)
            break;
    }
    free(text);
    return value;
}

static unsigned long await_counter(const char *dir, const char *file, unsigned long past)
{
    for (int i = 0; i < 4500; i++) {
        unsigned long value = counter_of(dir, file, false);

        if (value > past)
            return value;
        usleep(20000);
    }
    cr_assert_fail("the guest's counter in %s/%s does not pass %lu", dir, file, past);
    return 0;
}

static struct gw_vm *through_json(const struct gw_vm *vm)
{
    json_t *json, *again;
    struct gw_vm *copy;
    char *text, *second;

    cr_assert_eq(gw_vm_to_json(vm, &json), 0, "%s", gw_error_message());
    text = json_dumps(json, JSON_INDENT(1));
    cr_assert_eq(gw_vm_from_json(json, NULL, &copy), 0, "%s\n%s", gw_error_message(), text);
    cr_assert_eq(gw_vm_to_json(copy, &again), 0);
    second = json_dumps(again, JSON_INDENT(1));
    cr_assert_str_eq(text, second);
    free(text);
    free(second);
    json_decref(json);
    json_decref(again);
    return copy;
}

/* Runs line as the source until the guest counts, moves it, and sees the counter go on. */
static void move(const char *line)
{
    struct qemu source = {.pid = -1};
    struct gw_launched target;
    struct gw_launch_options options = {0};
    struct gw_state_result result;
    struct gw_vm *vm, *copy;
    char dir[64], storage[GW_VM_MEMORIES_MAX][512];
    const char *paths[GW_VM_MEMORIES_MAX];
    unsigned long stopped_at, resumed_at;
    bool was_running;

    qemu_prepare(&source);
    guest_write(source.dir, "boot.raw", 4 << 20);
    shell(source.dir, "truncate -s 1M @/second.raw; qemu-img create -q -f vhdx @/third.vhdx 8M");
    qemu_start(&source, line);
    await_counter(source.dir, "serial", 100);
    vm = describe(&source);
    copy = through_json(vm);
    folder_make(dir, sizeof(dir));
    ram_make(vm, dir, storage, paths);
    options.run_dir = dir;
    options.ram_paths = paths;
    cr_assert_eq(gw_vm_launch(copy, &options, &target), 0, "%s", gw_error_message());
    cr_assert_eq(gw_vm_stop(source.qmp, &was_running), 0, "%s", gw_error_message());
    cr_assert(was_running);
    ram_copy(vm, paths);
    result = state_move(&source, &target);
    cr_assert_lt(result.bytes, 32u << 20);
    stopped_at = counter_of(source.dir, "serial", false);
    cr_assert_eq(gw_vm_cont(target.qmp), 0, "%s", gw_error_message());
    cr_assert_eq(gw_vm_announce(target.qmp), 0, "%s", gw_error_message());
    await_counter(dir, "serial0.log", stopped_at);
    resumed_at = counter_of(dir, "serial0.log", true);
    cr_assert(resumed_at >= stopped_at && resumed_at <= stopped_at + 3, "%lu, then %lu", stopped_at,
              resumed_at);
    cr_assert_eq(gw_vm_end(&target), 0, "%s", gw_error_message());
    gw_vm_free(vm);
    gw_vm_free(copy);
    folder_remove(dir);
    qemu_end(&source);
}

#define RAM64                                                                                      \
    "-m 64 -object memory-backend-file,id=ram0,size=64M,mem-path=@/ram,share=on -serial "          \
    "file:@/serial "

Test(move, pc_with_drive_pairs)
{
    move("-machine pc,memory-backend=ram0 " RAM64
         "-name one,debug-threads=on -drive file=@/boot.raw,format=raw,if=none,id=hd0 "
         "-device virtio-blk-pci,drive=hd0,id=d0,bootindex=1,serial=a-b "
         "-drive file=@/second.raw,format=raw,if=virtio,discard=unmap");
}

Test(move, q35_with_blockdev_scsi_and_usb)
{
    move(
        "-machine q35,memory-backend=ram0 " RAM64
        "-nodefaults -uuid 6bf5e0e7-0d5a-4b1e-9d5a-111213141516 -smp 2,sockets=1,cores=2 -vga std "
        "-object iothread,id=io0 -blockdev driver=file,filename=@/boot.raw,node-name=f0 "
        "-blockdev driver=raw,file=f0,node-name=n0 "
        "-device virtio-blk-pci,drive=n0,iothread=io0,bootindex=0 "
        "-device pcie-root-port,id=rp1,chassis=1,slot=1 -device virtio-scsi-pci,id=scsi0,bus=rp1 "
        "-blockdev {\"driver\":\"raw\",\"node-name\":\"n1\",\"file\":{\"driver\":\"file\","
        "\"filename\":\"@/second.raw\"}} -device scsi-hd,drive=n1,bus=scsi0.0,id=sd1 "
        "-netdev user,id=u0,restrict=on -device virtio-net-pci,netdev=u0 -device qemu-xhci,id=xhci "
        "-device usb-tablet,bus=xhci.0 -object rng-random,id=r0,filename=/dev/urandom "
        "-device virtio-rng-pci,rng=r0 -device virtio-balloon-pci -rtc base=utc,driftfix=slew "
        "-boot menu=off -smbios type=1,product=a,,b -device virtio-serial-pci "
        "-chardev socket,id=ga,path=@/ga,server=on,wait=off "
        "-device virtserialport,chardev=ga,name=org.qemu.guest_agent.0");
}

Test(move, pc_with_machine_ide_and_defaults)
{
    move("-machine pc,memory-backend=ram0 " RAM64 "-hda @/boot.raw -nographic -monitor none");
}

Test(move, q35_with_nic_and_numa)
{
    move("-machine q35 -m 64 -smp 2 -object "
         "memory-backend-file,id=m0,size=32M,mem-path=@/ram,share=on "
         "-object memory-backend-file,id=m1,size=32M,mem-path=@/ram1,share=on "
         "-numa node,nodeid=0,cpus=0,memdev=m0 -numa node,nodeid=1,cpus=1,memdev=m1 "
         "-serial file:@/serial -nic user,model=e1000 -vga none "
         "-drive file=@/boot.raw,format=raw,if=none,id=hd0 -device ide-hd,drive=hd0,bus=ide.0");
}

#define PLUGGED                                                                                    \
    "-object memory-backend-file,id=plug0,size=32M,mem-path=@/plug,share=on,reserve=off "          \
    "-device virtio-mem-pci,memdev=plug0,requested-size=8M "

Test(move, pc_with_virtio_mem)
{
    move("-machine pc,memory-backend=ram0 " RAM64 "-m maxmem=1G " PLUGGED "-hda @/boot.raw");
}

/* Both follow from the size of the host's huge pages, and QEMU does not load the state of others. */
Test(move, virtio_mem_keeps_its_address_and_block_size)
{
    struct qemu source = {.pid = -1};
    const struct gw_vm_properties *properties;
    struct gw_vm *vm;

    qemu_prepare(&source);
    guest_write(source.dir, "boot.raw", 4 << 20);
    qemu_start(&source, "-machine pc,memory-backend=ram0 " RAM64 "-m maxmem=8G " PLUGGED
                        "-object memory-backend-file,id=dimm0,size=64M,mem-path=@/dimm,share=on "
                        "-device virtio-mem-pci,memdev=dimm0,block-size=4M,memaddr=0x200000000 "
                        "-hda @/boot.raw");
    vm = describe(&source);
    cr_assert_eq(vm->device_count, 2);
    properties = &vm->devices[0].properties;
    cr_assert_str_eq(gw_vm_property_get(properties, "memaddr") ?: "none", "4294967296");
    cr_assert_str_eq(gw_vm_property_get(properties, "block-size") ?: "none", "2097152");
    properties = &vm->devices[1].properties;
    cr_assert_str_eq(gw_vm_property_get(properties, "memaddr"), "0x200000000");
    cr_assert_str_eq(gw_vm_property_get(properties, "block-size"), "4M");
    for (unsigned i = 0; i < vm->memory_count; i++)
        cr_assert_eq(gw_vm_memory_is_plugged(vm, &vm->memories[i]),
                     strcmp(vm->memories[i].id, "ram0") != 0);
    gw_vm_free(vm);
    qemu_end(&source);
}

static const char *const image_format[] = {"raw", "vhdx"};

/* The whole of a disk's way at the pause: out of the source, as a file to the target, into its
 * QEMU. */
static void move_disk(const char *format, const char *extra)
{
    struct qemu source = {.pid = -1};
    struct gw_launched target;
    struct gw_launch_options options = {0};
    struct gw_disk_place place;
    struct gw_disk_image image = {.format = format};
    struct gw_disk_swap swap;
    struct gw_vm *vm, *again;
    char dir[64], storage[GW_VM_MEMORIES_MAX][512], command[200], line[1024], path[128], *text;
    const char *paths[GW_VM_MEMORIES_MAX];
    char node[GW_VM_NODE_SIZE];
    unsigned long stopped_at;
    bool was_running;
    struct qemu arrived = {.pid = -1};

    qemu_prepare(&source);
    guest_write(source.dir, "boot.raw", 4 << 20);
    snprintf(command, sizeof(command), "qemu-img convert -q -f raw -O %s @/boot.raw @/disk",
             format);
    cr_assert_eq(shell(source.dir, command), 0);
    snprintf(line, sizeof(line),
             "-machine pc,memory-backend=ram0 " RAM64 "-object iothread,id=io0 -drive "
             "file=@/disk,format=%s,if=none,id=vda%s",
             format, extra);
    qemu_start(&source, line);
    await_counter(source.dir, "serial", 100);
    vm = describe(&source);
    folder_make(dir, sizeof(dir));
    ram_make(vm, dir, storage, paths);
    options.run_dir = dir;
    options.ram_paths = paths;
    cr_assert_eq(gw_vm_launch(vm, &options, &target), 0, "%s", gw_error_message());
    cr_assert_eq(gw_disk_swap_prepare(&vm->disks[0], 0, &swap), 0, "%s", gw_error_message());
    cr_assert_eq(gw_vm_stop(source.qmp, &was_running), 0, "%s", gw_error_message());
    ram_copy(vm, paths);
    cr_assert_eq(gw_disk_swap_out(source.qmp, &swap), 0, "%s", gw_error_message());
    snprintf(path, sizeof(path), "%s/disk", dir);
    snprintf(command, sizeof(command), "cp @/disk %s", path);
    cr_assert_eq(shell(source.dir, command), 0);
    state_move(&source, &target);
    gw_disk_node_name(&vm->disks[0], 0, node);
    image.path = path;
    image.node = node;
    cr_assert_eq(gw_disk_place_find(target.qmp, vm, 0, &place), 0, "%s", gw_error_message());
    cr_assert_eq(gw_disk_swap_in(target.qmp, &vm->disks[0], &place, &image), 0, "%s",
                 gw_error_message());
    stopped_at = counter_of(source.dir, "serial", false);
    cr_assert_eq(gw_vm_cont(target.qmp), 0, "%s", gw_error_message());
    await_counter(dir, "serial0.log", stopped_at);
    /* What arrived can be described again, and would move on with the same options. */
    arrived.qmp = target.qmp;
    again = describe(&arrived);
    cr_assert_str_eq(again->disks[0].path, path);
    cr_assert_str_eq(again->disks[0].format, format);
    cr_assert_eq(again->disks[0].is_direct, vm->disks[0].is_direct);
    cr_assert_eq(again->disks[0].is_discard, vm->disks[0].is_discard);
    cr_assert_str_eq(again->disks[0].aio, vm->disks[0].aio);
    cr_assert_str_eq(again->disks[0].name, vm->disks[0].name);
    cr_assert_eq(gw_qmp_human(target.qmp,
                              "qemu-io -d /machine/peripheral/d0/virtio-backend \"write -P 3 "
                              "1M 64k\"",
                              &text),
                 0);
    cr_assert_str_empty(text);
    free(text);
    gw_disk_swap_free(&swap);
    cr_assert_eq(gw_vm_end(&target), 0);
    snprintf(command, sizeof(command),
             "qemu-io -f %s -c 'read -P 3 1M 64k' %s/disk | grep -q '^read 65536'", format, dir);
    cr_assert_eq(shell(source.dir, command), 0);
    gw_vm_free(vm);
    gw_vm_free(again);
    folder_remove(dir);
    qemu_end(&source);
}

Test(move, disks_follow_their_vm)
{
    for (size_t i = 0; i < 2; i++) {
        move_disk(image_format[i], " -device virtio-blk-pci,drive=vda,id=d0,bootindex=1");
        move_disk(image_format[i], ",cache=none,discard=unmap,aio=native -device "
                                   "virtio-blk-pci,drive=vda,id=d0,bootindex=1,iothread=io0");
    }
}

Test(move, a_failed_stream_leaves_the_source_whole)
{
    struct qemu source = {.pid = -1};
    struct gw_state_result result;
    int pair[2];
    bool was_running;

    qemu_start(&source, "-machine pc,memory-backend=ram0 -nodefaults " RAM64);
    cr_assert_eq(gw_vm_prepare_source(source.qmp), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(gw_vm_save_state(source.qmp, pair[0], 5000, &result), -EBUSY, "the guest runs");
    cr_assert_eq(gw_vm_stop(source.qmp, &was_running), 0);
    close(pair[1]);
    cr_assert_eq(gw_vm_save_state(source.qmp, pair[0], 5000, &result), -EIO);
    close(pair[0]);
    /* Nobody reads: the socket fills, and the time passes. */
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(gw_vm_save_state(source.qmp, pair[0], 300, &result), -ETIMEDOUT, "%s",
                 gw_error_message());
    close(pair[0]);
    close(pair[1]);
    cr_assert_eq(gw_vm_cont(source.qmp), 0, "%s", gw_error_message());
    cr_assert_eq(gw_vm_stop(source.qmp, &was_running), 0);
    cr_assert(was_running);
    cr_assert_eq(gw_vm_stop(source.qmp, &was_running), 0);
    cr_assert_not(was_running);
    qemu_end(&source);
}
