/* SPDX-License-Identifier: Apache-2.0 */
/* Checks before a move, hooks, and QEMUs that wait already: with real QEMU processes. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/vmm/qemu/plan.h"
#include "tests/engine/qemu/move.h"

TestSuite(plan, .timeout = 120);

#define RAM "-m 32 -object memory-backend-file,id=ram0,size=32M,mem-path=@/ram,share=on "

static bool has_reason(const struct gw_reasons *reasons, const char *text)
{
    for (unsigned i = 0; i < reasons->count; i++) {
        if (strstr(reasons->lines[i], text))
            return true;
    }
    return false;
}

#define expect_reason(reasons, text)                                                               \
    cr_expect(has_reason(reasons, text), "\"%s\" is not among them (%u, first: %s)", text,         \
              (reasons)->count, (reasons)->count ? (reasons)->lines[0] : "")

Test(plan, a_vm_with_a_vhdx_passes_on_both_sides)
{
    struct gw_reasons blocked = {0};
    struct qemu qemu = {.pid = -1};
    json_t *features, *reasons;
    struct gw_vm *vm;

    qemu_prepare(&qemu);
    shell(qemu.dir, "qemu-img create -q -f vhdx @/d.vhdx 8M");
    qemu_start(&qemu, "-machine pc,memory-backend=ram0 -cpu max " RAM
                      "-drive file=@/d.vhdx,format=vhdx,if=virtio");
    vm = describe(&qemu);
    cr_assert_eq(gw_vm_blocked_reasons(qemu.qmp, &reasons), 0);
    cr_assert_geq(json_array_size(reasons), 1, "QEMU itself refuses VHDX");
    json_decref(reasons);
    cr_assert_eq(gw_plan_source(qemu.qmp, vm, &blocked), 0, "%s", gw_error_message());
    cr_assert_eq(gw_plan_cpu(qemu.qmp, vm, &features), 0, "%s", gw_error_message());
    cr_assert_gt(json_array_size(features), 20);
    cr_assert_eq(gw_plan_target(vm, NULL, features, &blocked), 0, "%s", gw_error_message());
    cr_assert_eq(gw_reasons_fail(&blocked, -1), 0, "%s", gw_error_message());
    cr_assert_not(gw_plan_punches_memory(vm, &vm->memories[0]));
    json_decref(features);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

Test(plan, what_the_target_lacks_is_listed)
{
    struct gw_reasons blocked = {0};
    struct qemu qemu = {.pid = -1};
    json_t *features = json_pack("[s, s]", "sse2", "no-such-feature");
    struct gw_vm *vm;

    qemu_start(&qemu, "-machine pc,memory-backend=ram0 " RAM);
    vm = describe(&qemu);
    strcpy(vm->machine, "pc-i440fx-99.9");
    strcpy(vm->cpu, "Frobnicator");
    vm->version_major = 99;
    vm->net_count = 1;
    vm->nets[0].kind = GW_VM_NET_TAP;
    strcpy(vm->nets[0].id, "n0");
    strcpy(vm->nets[0].bridge, "nosuchbr");
    cr_assert_eq(gw_plan_target(vm, NULL, features, &blocked), 0, "%s", gw_error_message());
    expect_reason(&blocked, "machine type pc-i440fx-99.9");
    expect_reason(&blocked, "CPU model Frobnicator");
    expect_reason(&blocked, "QEMU 99.");
    expect_reason(&blocked, "bridge nosuchbr");
    gw_reasons_free(&blocked);
    strcpy(vm->cpu, "max");
    cr_assert_eq(gw_plan_target(vm, NULL, features, &blocked), 0, "%s", gw_error_message());
    expect_reason(&blocked, "no-such-feature");
    cr_expect_not(has_reason(&blocked, " sse2"));
    gw_reasons_free(&blocked);
    cr_assert_eq(gw_plan_target(vm, "/no/such/qemu", features, &blocked), 0);
    expect_reason(&blocked, "/no/such/qemu");
    gw_reasons_free(&blocked);
    json_decref(features);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

Test(plan, what_stands_against_a_source_is_listed)
{
    struct gw_reasons refused = {0};
    struct qemu qemu = {.pid = -1};
    struct gw_vm *vm;

    qemu_prepare(&qemu);
    shell(qemu.dir,
          "truncate -s 1M @/cd.iso @/b.raw; qemu-img create -q -f qcow2 -F raw -b @/b.raw "
          "@/chain.qcow2");
    qemu_start(
        &qemu,
        "-machine q35 -m 32 -device ide-cd,drive=cd,id=cd0 -drive "
        "if=none,id=cd,file=@/cd.iso,format=raw,media=cdrom,readonly=on "
        "-drive file=@/chain.qcow2,if=virtio,id=chain -device pcie-root-port,id=rp,chassis=1");
    json_decref(qemu_run(
        &qemu, "device_add",
        json_pack("{s:s, s:s, s:s}", "driver", "virtio-rng-pci", "id", "hot", "bus", "rp")));
    cr_assert_eq(gw_vm_describe(qemu.qmp, &refused, &vm), 0, "%s", gw_error_message());
    expect_reason(&refused, "memory pc.ram is not shared");
    expect_reason(&refused, "CD-ROM cd has a medium");
    expect_reason(&refused, "disk chain: a chain of images");
    expect_reason(&refused, "virtio-rng-pci hot is not in QEMU's command line");
    gw_reasons_free(&refused);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

Test(plan, a_replaced_image_is_seen)
{
    struct gw_reasons refused = {0};
    struct qemu qemu = {.pid = -1};
    struct gw_vm *vm;

    qemu_prepare(&qemu);
    shell(qemu.dir, "truncate -s 1M @/d.raw");
    qemu_start(&qemu,
               "-machine pc,memory-backend=ram0 " RAM "-drive file=@/d.raw,format=raw,if=virtio");
    shell(qemu.dir, "mv @/d.raw @/e.raw; truncate -s 1M @/d.raw");
    cr_assert_eq(gw_vm_describe(qemu.qmp, &refused, &vm), 0, "%s", gw_error_message());
    expect_reason(&refused, "is not the file that QEMU has open");
    gw_reasons_free(&refused);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

Test(plan, a_target_that_does_not_start_gives_its_last_words)
{
    struct qemu qemu = {.pid = -1};
    const char *paths[] = {"/no/such/folder/ram"};
    struct gw_launch_options options = {.ram_paths = paths};
    struct gw_launched launched;
    struct gw_vm *vm;

    qemu_start(&qemu, "-machine pc,memory-backend=ram0 " RAM);
    vm = describe(&qemu);
    shell(qemu.dir, "mkdir @/run");
    options.run_dir = qemu.dir;
    {
        char run[80];

        snprintf(run, sizeof(run), "%s/run", qemu.dir);
        options.run_dir = run;
        cr_assert_eq(gw_vm_launch(vm, &options, &launched), -ECHILD);
    }
    cr_assert_not_null(strstr(gw_error_message(), "/no/such/folder/ram"), "%s", gw_error_message());
    gw_vm_free(vm);
    qemu_end(&qemu);
}

static bool is_gone_within_10_s(pid_t pid)
{
    struct pollfd process = {.fd = pidfd_open(pid, 0), .events = POLLIN};
    bool is_gone = process.fd < 0 || poll(&process, 1, 10000) == 1;

    if (process.fd >= 0)
        close(process.fd);
    return is_gone;
}

/* Runs what in a process that is killed once it has told a process's number, which is returned. */
static pid_t kill_once_told(void (*what)(int fd, void *context), void *context)
{
    int fds[2];
    pid_t agent, told = -1;

    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    agent = fork();
    cr_assert_geq(agent, 0);
    if (agent == 0) {
        what(fds[1], context);
        _exit(1);
    }
    close(fds[1]);
    cr_assert_eq(read(fds[0], &told, sizeof(told)), (ssize_t)sizeof(told));
    close(fds[0]);
    kill(agent, SIGKILL);
    waitpid(agent, NULL, 0);
    return told;
}

static void tell_and_wait(int fd, pid_t pid)
{
    if (write(fd, &pid, sizeof(pid)) == sizeof(pid))
        pause();
}

static void probe(int fd, void *context)
{
    struct gw_launched launched;

    if (gw_vm_probe("qemu-system-x86_64", "tcg", &launched) == 0)
        tell_and_wait(fd, launched.pid);
}

Test(plan, a_probe_ends_with_the_agent)
{
    cr_assert(is_gone_within_10_s(kill_once_told(probe, NULL)));
}

static void write_script(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    fprintf(file, "#!/bin/bash\n%s\n", text);
    fclose(file);
    chmod(path, 0700);
}

/* It stands still between its socket and its greeting, for longer than a greeting is waited for. */
Test(plan, a_target_that_is_slow_behind_its_socket_is_waited_for)
{
    struct qemu qemu = {.pid = -1};
    char storage[GW_VM_MEMORIES_MAX][512], binary[96], run[80];
    const char *paths[GW_VM_MEMORIES_MAX];
    struct gw_launch_options options = {
        .ram_paths = paths, .run_dir = run, .binary = binary, .timeout_ms = 90000};
    struct gw_launched launched;
    uint64_t took_ns = 0;
    struct gw_vm *vm;

    qemu_start(&qemu, "-machine pc,memory-backend=ram0 -nodefaults " RAM);
    vm = describe(&qemu);
    snprintf(run, sizeof(run), "%s/run", qemu.dir);
    mkdir(run, 0700);
    ram_make(vm, run, storage, paths);
    snprintf(binary, sizeof(binary), "%s/binary", qemu.dir);
    write_script(binary, "run=$(dirname $0)/run\n"
                         "(until [ -S $run/qmp ]; do :; done\n"
                         " kill -STOP $$; sleep 4; kill -CONT $$) &\n"
                         "exec qemu-system-x86_64 \"$@\"");
    /* On a busy machine it may have greeted before it is stopped. */
    for (unsigned i = 0; i < 10 && took_ns < 4 * GW_NS_PER_S; i++) {
        uint64_t begun_ns = gw_clock_ns();

        shell(qemu.dir, "rm -f @/run/qmp");
        cr_assert_eq(gw_vm_launch(vm, &options, &launched), 0, "%s", gw_error_message());
        took_ns = gw_clock_ns() - begun_ns;
        cr_assert_eq(gw_vm_end(&launched), 0, "%s", gw_error_message());
    }
    cr_assert_geq(took_ns, 4 * GW_NS_PER_S, "it was never slow");
    gw_vm_free(vm);
    qemu_end(&qemu);
}

struct noted_launch {
    const struct gw_vm *vm;
    struct gw_launch_options options;
    int fd;
};

static int tell(pid_t pid, void *context)
{
    const struct noted_launch *launch = context;

    tell_and_wait(launch->fd, pid);
    return -EIO;
}

static void launch(int fd, void *context)
{
    struct noted_launch *launch = context;
    struct gw_launched launched;

    launch->fd = fd;
    gw_vm_launch(launch->vm, &launch->options, &launched);
}

static int refuse_note(pid_t pid, void *context)
{
    *(pid_t *)context = pid;
    return gw_fail(-ENOSPC, "no room for a note");
}

/* The agent ends before it has noted which process it is, or cannot note it: nobody would end it. */
Test(plan, a_target_that_is_not_noted_does_not_run)
{
    struct qemu qemu = {.pid = -1};
    char storage[GW_VM_MEMORIES_MAX][512], binary[96], run[80], ran[100];
    const char *paths[GW_VM_MEMORIES_MAX];
    struct noted_launch noted = {
        .options = {.ram_paths = paths, .run_dir = run, .binary = binary, .note = tell}};
    struct gw_launched launched;
    struct gw_vm *vm;
    pid_t pid;

    qemu_start(&qemu, "-machine pc,memory-backend=ram0 -nodefaults " RAM);
    noted.vm = vm = describe(&qemu);
    noted.options.note_context = &noted;
    snprintf(run, sizeof(run), "%s/run", qemu.dir);
    mkdir(run, 0700);
    ram_make(vm, run, storage, paths);
    snprintf(binary, sizeof(binary), "%s/binary", qemu.dir);
    snprintf(ran, sizeof(ran), "%s/ran", qemu.dir);
    write_script(binary, "touch $(dirname $0)/ran; exec qemu-system-x86_64 \"$@\"");
    cr_assert(is_gone_within_10_s(kill_once_told(launch, &noted)));
    cr_assert_neq(access(ran, F_OK), 0, "it ran");

    noted.options.note = refuse_note;
    noted.options.note_context = &pid;
    cr_assert_eq(gw_vm_launch(vm, &noted.options, &launched), -ENOSPC);
    cr_assert(is_gone_within_10_s(pid));
    cr_assert_neq(access(ran, F_OK), 0, "it ran");
    gw_vm_free(vm);
    qemu_end(&qemu);
}

Test(plan, a_waiting_qemu_is_taken_when_it_fits)
{
    struct qemu source = {.pid = -1}, target = {.pid = -1};
    struct gw_reasons faults = {0};
    struct gw_state_result result;
    struct gw_launched launched;
    char paths[GW_VM_MEMORIES_MAX][512];
    const char *lent[1];
    struct gw_vm *vm;
    bool was_running;

    qemu_start(&source,
               "-machine pc,memory-backend=ram0 -nodefaults " RAM "-device virtio-rng-pci,id=r1");
    vm = describe(&source);
    qemu_prepare(&target);
    qemu_spawn(&target, "-accel tcg -display none -qmp unix:@/qmp,server=on,wait=off -machine "
                        "pc,memory-backend=ram0 -nodefaults " RAM
                        "-device virtio-rng-pci,id=r1 -incoming defer -S");
    qemu_connect(&target);
    qemu_leave(&target);
    cr_assert_eq(gw_vm_adopt(target.qmp_path, vm, paths, &faults, &launched), 0, "%s",
                 gw_error_message());
    cr_assert_eq(gw_vm_stop(source.qmp, &was_running), 0);
    lent[0] = paths[0];
    ram_copy(vm, lent);
    result = state_move(&source, &launched);
    cr_assert_gt(result.bytes, 10000);
    cr_assert_eq(gw_vm_cont(launched.qmp), 0, "%s", gw_error_message());
    cr_assert_eq(gw_vm_end(&launched), 0);
    cr_assert_eq(kill(target.pid, 0), 0, "a QEMU of somebody else's is not ended");
    gw_vm_free(vm);
    qemu_end(&target);
    qemu_end(&source);
}

Test(plan, a_waiting_qemu_that_does_not_fit_is_refused)
{
    struct qemu source = {.pid = -1}, target = {.pid = -1};
    struct gw_reasons faults = {0};
    struct gw_launched launched;
    char paths[GW_VM_MEMORIES_MAX][512];
    struct gw_vm *vm;

    qemu_start(&source,
               "-machine pc,memory-backend=ram0 -nodefaults " RAM "-device virtio-rng-pci,id=r1");
    vm = describe(&source);
    qemu_start(&target, "-machine q35,memory-backend=ram0 -nodefaults -m 64 -object "
                        "memory-backend-file,id=ram0,size=64M,mem-path=@/ram,share=on");
    qemu_leave(&target);
    cr_assert_eq(gw_vm_adopt(target.qmp_path, vm, paths, &faults, &launched), -EINVAL);
    expect_reason(&faults, "does not wait for a migration");
    expect_reason(&faults, "is a pc-q35");
    expect_reason(&faults, "67108864 bytes");
    expect_reason(&faults, "nothing at /machine/peripheral/r1");
    gw_reasons_free(&faults);
    gw_vm_free(vm);
    qemu_end(&target);
    qemu_end(&source);
}

Test(plan, a_launch_hook_starts_the_target)
{
    struct qemu qemu = {.pid = -1};
    char storage[GW_VM_MEMORIES_MAX][512], hook[96], run[80];
    const char *paths[GW_VM_MEMORIES_MAX];
    struct gw_launch_options options = {.ram_paths = paths, .run_dir = run};
    struct gw_launched launched;
    struct gw_vm *vm;

    qemu_start(&qemu,
               "-machine pc,memory-backend=ram0 -nodefaults " RAM "-device virtio-rng-pci,id=r1");
    vm = describe(&qemu);
    snprintf(run, sizeof(run), "%s/run", qemu.dir);
    mkdir(run, 0700);
    ram_make(vm, run, storage, paths);
    snprintf(hook, sizeof(hook), "%s/hook", qemu.dir);
    write_script(
        hook,
        "grep -q ram_paths || exit 9\n"
        "dir=$(dirname $0)/run\n"
        "qemu-system-x86_64 -accel tcg -display none -machine pc,memory-backend=ram0 -nodefaults "
        "-m 32 -object memory-backend-file,id=ram0,size=32M,mem-path=$dir/ram-ram0,share=on "
        "-device virtio-rng-pci,id=r1 -qmp unix:$dir/q,server=on,wait=off -incoming defer -S "
        "-daemonize >/dev/null 2>&1\n"
        "echo '{\"qmp\": \"'$dir/q'\"}'");
    cr_assert_eq(gw_vm_launch_hook(hook, vm, &options, &launched), 0, "%s", gw_error_message());
    cr_assert(launched.is_owned);
    cr_assert_eq(gw_vm_end(&launched), 0, "%s", gw_error_message());
    write_script(hook, "exit 3");
    cr_assert_eq(gw_vm_launch_hook(hook, vm, &options, &launched), -ECHILD);
    cr_assert_not_null(strstr(gw_error_message(), "exit status 3"), "%s", gw_error_message());
    write_script(hook, "echo hello");
    cr_assert_eq(gw_vm_launch_hook(hook, vm, &options, &launched), -EPROTO);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

Test(plan, a_tap_joins_its_bridge_and_goes_with_its_descriptor)
{
    int fd;

    if (unshare(CLONE_NEWNET) < 0 || system("ip link add gwbr0 type bridge") != 0)
        cr_skip_test("no network namespace with a bridge can be made here");
    cr_assert_eq(gw_tap_open("nosuchbr", &fd), -ENODEV);
    cr_assert_not_null(strstr(gw_error_message(), "--net nosuchbr=BRIDGE"), "%s",
                       gw_error_message());
    cr_assert_eq(gw_tap_open("gwbr0", &fd), 0, "%s", gw_error_message());
    cr_assert_eq(system("ip link show master gwbr0 up | grep -q gwtap"), 0);
    close(fd);
    cr_assert_neq(system("ip link show master gwbr0 | grep -q gwtap"), 0);
}

Test(plan, only_reporting_of_free_pages_punches_memory_at_any_time)
{
    struct gw_vm_property property = {"free-page-reporting", "off"};
    struct gw_vm *vm = calloc(1, sizeof(*vm));

    vm->device_count = 1;
    snprintf(vm->devices[0].kind, sizeof(vm->devices[0].kind), "virtio-balloon-pci");
    vm->devices[0].properties = (struct gw_vm_properties){.count = 1, .items = &property};
    cr_assert_not(gw_plan_punches_memory(vm, &vm->memories[0]));
    snprintf(property.value, sizeof(property.value), "on");
    cr_assert(gw_plan_punches_memory(vm, &vm->memories[0]));
    snprintf(property.name, sizeof(property.name), "deflate-on-oom");
    cr_assert_not(gw_plan_punches_memory(vm, &vm->memories[0]));
    free(vm);
}

Test(plan, virtio_mem_punches_its_own_memory_alone)
{
    struct gw_vm_property property = {"memdev", "plug0"};
    struct gw_vm *vm = calloc(1, sizeof(*vm));

    vm->memory_count = 2;
    snprintf(vm->memories[0].id, sizeof(vm->memories[0].id), "ram0");
    snprintf(vm->memories[1].id, sizeof(vm->memories[1].id), "plug0");
    vm->device_count = 1;
    vm->devices[0].properties = (struct gw_vm_properties){.count = 1, .items = &property};
    snprintf(vm->devices[0].kind, sizeof(vm->devices[0].kind), "pc-dimm");
    cr_assert_not(gw_plan_punches_memory(vm, &vm->memories[1]));
    snprintf(vm->devices[0].kind, sizeof(vm->devices[0].kind), "virtio-mem-pci");
    cr_assert(gw_plan_punches_memory(vm, &vm->memories[1]));
    cr_assert_not(gw_plan_punches_memory(vm, &vm->memories[0]));
    free(vm);
}
