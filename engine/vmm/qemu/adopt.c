/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target's QEMU that somebody else started: a hook's, or one that waits already. It is held
 * against the description before anything is copied, because a misfit shows only when the state is
 * loaded.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/vmm/qemu/describe.h"
#include "engine/vmm/qemu/launch.h"
#include "engine/vmm/qemu/migrate.h"

#define HOOK_OUTPUT_MAX 65536u
#define HOOK_TIMEOUT_MS 60000u

static void check_memory(const struct gw_vm *vm, const struct gw_vm *waiting, char ram_paths[][512],
                         struct gw_reasons *faults)
{
    for (unsigned i = 0; i < vm->memory_count; i++) {
        const struct gw_vm_memory *found = NULL;

        for (unsigned j = 0; j < waiting->memory_count; j++) {
            if (strcmp(waiting->memories[j].id, vm->memories[i].id) == 0)
                found = &waiting->memories[j];
        }
        if (!found)
            gw_reasons_add(faults, "the waiting QEMU has no shared memory backend %s",
                           vm->memories[i].id);
        else if (found->size != vm->memories[i].size)
            gw_reasons_add(faults, "the waiting QEMU's memory %s has %llu bytes, the VM %llu",
                           vm->memories[i].id, (unsigned long long)found->size,
                           (unsigned long long)vm->memories[i].size);
        else
            memcpy(ram_paths[i], found->path, sizeof(found->path));
    }
}

static int check_devices(struct gw_qmp *qmp, const struct gw_vm *vm, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < vm->device_count; i++) {
        char path[160];
        json_t *type = NULL;
        int ret;

        gw_vm_device_path(vm, i, path, sizeof(path));
        ret = gw_qom_get(qmp, path, "type", &type);
        if (ret < 0 && ret != -ENODEV && ret != -EREMOTEIO)
            return ret;
        if (ret < 0 || strcmp(json_string_value(type) ?: "", vm->devices[i].kind) != 0)
            gw_reasons_add(faults, "the waiting QEMU has %s at %s, the VM has %s",
                           ret < 0 ? "nothing" : json_string_value(type) ?: "", path,
                           vm->devices[i].kind);
        json_decref(type);
    }
    for (unsigned i = 0; i < vm->disk_count; i++) {
        if (vm->disks[i].is_machine_ide)
            gw_reasons_add(faults,
                           "disk %s was given with -hda or if=ide: a waiting QEMU cannot take it",
                           vm->disks[i].name);
    }
    return 0;
}

static int check_fit(struct gw_qmp *qmp, const struct gw_vm *vm, char ram_paths[][512],
                     struct gw_reasons *faults)
{
    struct gw_vm *waiting;
    char state[32];
    json_t *type;
    int ret = gw_vm_status(qmp, state, sizeof(state));

    if (ret == 0 && strcmp(state, "inmigrate") != 0)
        gw_reasons_add(faults,
                       "QEMU at %s does not wait for a migration (it is \"%s\"); start it with "
                       "-incoming defer -S",
                       gw_qmp_path(qmp), state);
    if (ret == 0)
        ret = gw_qom_get(qmp, "/machine", "type", &type);
    if (ret < 0)
        return ret;
    if (strncmp(json_string_value(type) ?: "", vm->machine, strlen(vm->machine)) != 0 ||
        strcmp((json_string_value(type) ?: "") + strlen(vm->machine), "-machine") != 0)
        gw_reasons_add(faults, "the waiting QEMU is a %s, the VM a %s",
                       json_string_value(type) ?: "", vm->machine);
    json_decref(type);
    ret = gw_vm_new(&waiting);
    if (ret < 0)
        return ret;
    waiting->pid = gw_qmp_pid(qmp);
    ret = gw_describe_memory(qmp, waiting, faults);
    if (ret == 0)
        check_memory(vm, waiting, ram_paths, faults);
    gw_vm_free(waiting);
    return ret < 0 ? ret : check_devices(qmp, vm, faults);
}

int gw_vm_adopt(const char *qmp_path, const struct gw_vm *vm, char ram_paths[][512],
                struct gw_reasons *faults, struct gw_launched *out)
{
    struct gw_launched launched = {.pid_fd = -1};
    int ret;

    if (snprintf(launched.qmp_path, sizeof(launched.qmp_path), "%s", qmp_path) >=
        (int)sizeof(launched.qmp_path))
        return gw_fail(-ENAMETOOLONG, "%s is too long for a socket", qmp_path);
    ret = gw_qmp_open(qmp_path, &launched.qmp);
    if (ret < 0)
        return ret;
    launched.pid = gw_qmp_pid(launched.qmp);
    launched.pid_fd = (int)syscall(SYS_pidfd_open, launched.pid, 0);
    if (launched.pid_fd < 0)
        ret = gw_fail_errno(-errno, "process %d of %s", (int)launched.pid, qmp_path);
    if (ret == 0)
        ret = check_fit(launched.qmp, vm, ram_paths, faults);
    if (ret == 0)
        ret = gw_reasons_fail(faults, -EINVAL);
    if (ret == 0)
        ret = gw_vm_prepare_target(launched.qmp);
    if (ret < 0) {
        struct gw_error error;

        gw_error_take(ret, &error);
        gw_vm_leave(&launched);
        return gw_error_raise(&error);
    }
    *out = launched;
    return 0;
}

struct hook {
    pid_t pid;
    int in, out; /* its standard input and output */
};

static int hook_start(const char *path, struct hook *hook)
{
    int in[2], out[2];

    /* A socket, so that a hook that reads nothing is an error and no SIGPIPE. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) < 0)
        return gw_fail_errno(-errno, "socketpair");
    if (pipe2(out, O_CLOEXEC) < 0) {
        int error = -errno;

        close(in[0]);
        close(in[1]);
        return gw_fail_errno(error, "pipe");
    }
    hook->pid = fork();
    if (hook->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execl(path, path, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    hook->in = in[1];
    hook->out = out[0];
    if (hook->pid < 0) {
        close(hook->in);
        close(hook->out);
        return gw_fail_errno(-EAGAIN, "the launch hook %s: fork", path);
    }
    return 0;
}

/* Gives the hook its input and takes its output, both at once, until it closes the output. */
static int hook_talk(const struct hook *hook, const char *input, char *output, uint64_t deadline)
{
    size_t left = strlen(input), used = 0;
    int in = hook->in;

    fcntl(in, F_SETFL, O_NONBLOCK);
    for (;;) {
        struct pollfd fds[2] = {{.fd = hook->out, .events = POLLIN}, {.fd = in, .events = POLLOUT}};
        ssize_t done;

        if (poll(fds, in >= 0 ? 2 : 1, gw_clock_left_ms(deadline)) == 0)
            return gw_fail(-ETIMEDOUT, "the launch hook did not end within %u s",
                           HOOK_TIMEOUT_MS / 1000);
        if (in >= 0 && fds[1].revents) {
            done = send(in, input, left, MSG_NOSIGNAL);
            if (done > 0) {
                input += done;
                left -= (size_t)done;
            }
            /* A hook that does not read all of it may know what it does. */
            if (left == 0 || (done < 0 && errno != EAGAIN)) {
                close(in);
                in = -1;
            }
        }
        if (fds[0].revents) {
            done = read(hook->out, output + used, HOOK_OUTPUT_MAX - used);
            if (done <= 0 || (used += (size_t)done) == HOOK_OUTPUT_MAX)
                break;
        }
    }
    if (in >= 0)
        close(in);
    output[used < HOOK_OUTPUT_MAX ? used : HOOK_OUTPUT_MAX - 1] = '\0';
    return 0;
}

static int hook_run(const char *path, const char *input, char *output)
{
    uint64_t deadline = gw_clock_ns() + HOOK_TIMEOUT_MS * GW_NS_PER_MS;
    struct hook hook;
    int status = 0, ret = hook_start(path, &hook);

    if (ret < 0)
        return ret;
    ret = hook_talk(&hook, input, output, deadline);
    close(hook.out);
    if (ret < 0)
        kill(hook.pid, SIGKILL);
    waitpid(hook.pid, &status, 0);
    if (ret < 0)
        return ret;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return gw_fail(-ECHILD, "the launch hook %s failed (%s %d)", path,
                       WIFEXITED(status) ? "exit status" : "signal",
                       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return 0;
}

static int hook_input(const struct gw_vm *vm, const struct gw_launch_options *options, char **text)
{
    json_t *input, *paths = json_array();
    int ret = gw_vm_to_json(vm, &input);

    if (ret < 0) {
        json_decref(paths);
        return ret;
    }
    for (unsigned i = 0; paths && i < vm->memory_count; i++)
        json_array_append_new(paths, json_string(options->ram_paths[i]));
    json_object_set_new(input, "ram_paths", paths);
    json_object_set_new(input, "run_dir", json_string(options->run_dir));
    *text = json_dumps(input, JSON_INDENT(1));
    json_decref(input);
    return *text ? 0 : gw_fail(-ENOMEM, "no memory for the launch hook's input");
}

/* Does the hook's QEMU use the RAM files that it was told to use? */
static int check_files(const struct gw_vm *vm, char paths[][512],
                       const struct gw_launch_options *options)
{
    for (unsigned i = 0; i < vm->memory_count; i++) {
        struct stat used, given;

        if (stat(paths[i], &used) < 0 || stat(options->ram_paths[i], &given) < 0 ||
            used.st_dev != given.st_dev || used.st_ino != given.st_ino)
            return gw_fail(-EINVAL, "the launch hook's QEMU uses %s for memory %s, not %s",
                           paths[i], vm->memories[i].id, options->ram_paths[i]);
    }
    return 0;
}

int gw_vm_launch_hook(const char *hook, const struct gw_vm *vm,
                      const struct gw_launch_options *options, struct gw_launched *out)
{
    char paths[GW_VM_MEMORIES_MAX][512], *input = NULL, *output = calloc(1, HOOK_OUTPUT_MAX);
    struct gw_reasons faults = {0};
    json_t *answer = NULL;
    const char *qmp;
    int ret = output ? hook_input(vm, options, &input) : gw_fail(-ENOMEM, "no memory");

    if (ret == 0)
        ret = hook_run(hook, input, output);
    if (ret == 0) {
        answer = json_loads(output, JSON_DISABLE_EOF_CHECK, NULL);
        qmp = json_string_value(json_object_get(answer, "qmp"));
        ret = qmp ? gw_vm_adopt(qmp, vm, paths, &faults, out)
                  : gw_fail(-EPROTO, "the launch hook %s did not print {\"qmp\": PATH}", hook);
    }
    if (ret == 0) {
        out->is_owned = true;
        ret = options->note ? options->note(out->pid, options->note_context) : 0;
        if (ret == 0)
            ret = check_files(vm, paths, options);
        if (ret < 0) {
            struct gw_error error;

            gw_error_take(ret, &error);
            gw_vm_end(out);
            gw_error_raise(&error);
        }
    }
    json_decref(answer);
    gw_reasons_free(&faults);
    free(input);
    free(output);
    return ret;
}
