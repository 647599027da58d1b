/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts the target's QEMU, waits until it answers, and ends it. The process is a grandchild in a
 * session of its own: the agent's end does not take the VM with it, and nobody has to reap it.
 */
#include "engine/vmm/qemu/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/vmm/qemu/migrate.h"

#define START_TIMEOUT_MS 15000u
#define PROBE_TIMEOUT_MS 40000u

static int open_pid_fd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int signal_pid_fd(int pid_fd, int number)
{
    return (int)syscall(SYS_pidfd_send_signal, pid_fd, number, NULL, 0);
}

/* True when the process has ended within timeout_ms. */
static bool has_ended(int pid_fd, int timeout_ms)
{
    struct pollfd poll_fd = {.fd = pid_fd, .events = POLLIN};

    return poll(&poll_fd, 1, timeout_ms) == 1;
}

/* In the child: only calls that are safe after a fork of a process with threads. */
static void become_qemu(char *const *words, int log_fd, const int *keep, unsigned keep_count)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0)
        _exit(126);
    syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    for (unsigned i = 0; i < keep_count; i++)
        fcntl(keep[i], F_SETFD, 0);
    execvp(words[0], words);
    dprintf(2, "cannot start %s: %s\n", words[0], strerror(errno));
    _exit(127);
}

/* Forks twice and reports the grandchild's pid. */
static int spawn(char *const *words, int log_fd, const int *keep, unsigned keep_count, pid_t *pid)
{
    int pipe_fds[2], null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t middle;
    ssize_t got;

    if (null_fd < 0)
        return gw_fail_errno(-errno, "open /dev/null");
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        close(null_fd);
        return gw_fail_errno(-errno, "pipe");
    }
    middle = fork();
    if (middle == 0) {
        pid_t child;

        setsid();
        dup2(null_fd, 0);
        child = fork();
        if (child == 0)
            become_qemu(words, log_fd, keep, keep_count);
        if (write(pipe_fds[1], &child, sizeof(child)) != sizeof(child))
            _exit(1);
        _exit(0);
    }
    close(null_fd);
    close(pipe_fds[1]);
    *pid = -1;
    got = middle > 0 ? read(pipe_fds[0], pid, sizeof(*pid)) : -1;
    close(pipe_fds[0]);
    if (middle > 0)
        waitpid(middle, NULL, 0);
    if (got != sizeof(*pid) || *pid < 0)
        return gw_fail_errno(-EAGAIN, "starting %s: fork", words[0]);
    return 0;
}

void gw_vm_last_line(const char *path, char *out, size_t size)
{
    char text[4096];
    ssize_t length = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *line;

    snprintf(out, size, "its log %s is empty", path);
    if (fd >= 0) {
        off_t end = lseek(fd, 0, SEEK_END);

        lseek(fd, end > (off_t)sizeof(text) - 1 ? end - (off_t)sizeof(text) + 1 : 0, SEEK_SET);
        length = read(fd, text, sizeof(text) - 1);
        close(fd);
    }
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r'))
        length--;
    if (length <= 0)
        return;
    text[length] = '\0';
    line = strrchr(text, '\n');
    snprintf(out, size, "%.299s", line ? line + 1 : text);
}

/* Connects as soon as the socket is there; ends early when the process does. */
static int await_qmp(struct gw_launched *launched, const char *log_path, uint32_t timeout_ms)
{
    uint64_t deadline = gw_clock_ns() + timeout_ms * GW_NS_PER_MS;
    char line[300];

    for (;;) {
        int ret = gw_qmp_open(launched->qmp_path, &launched->qmp);

        if (ret == 0)
            break;
        if (has_ended(launched->pid_fd, 10)) {
            gw_vm_last_line(log_path, line, sizeof(line));
            return gw_fail(-ECHILD, "QEMU ended at once: %s", line);
        }
        /* -EPROTO: the socket is there long before a slow QEMU has made its machine and greets. */
        if (ret != -ENOENT && ret != -ECONNREFUSED && ret != -EPROTO)
            return ret;
        if (gw_clock_left_ms(deadline) == 0)
            return gw_fail(-ETIMEDOUT,
                           "the target's QEMU did not answer within %u ms; its log is %s",
                           timeout_ms, log_path);
    }
    if (gw_qmp_pid(launched->qmp) != launched->pid)
        return gw_fail(-EPROTO, "%s belongs to process %d, not to the QEMU that was started (%d)",
                       launched->qmp_path, (int)gw_qmp_pid(launched->qmp), (int)launched->pid);
    return 0;
}

static void close_taps(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
}

static int open_taps(const struct gw_vm *vm, int *fds)
{
    for (unsigned i = 0; i < vm->net_count; i++)
        fds[i] = -1;
    for (unsigned i = 0; i < vm->net_count; i++) {
        int ret;

        if (vm->nets[i].kind != GW_VM_NET_TAP)
            continue;
        ret = gw_tap_open(vm->nets[i].bridge, &fds[i]);
        if (ret < 0) {
            close_taps(fds, vm->net_count);
            return ret;
        }
    }
    return 0;
}

static int start(const struct gw_vm *vm, const struct gw_launch_options *options,
                 const char *log_path, pid_t *pid)
{
    int taps[GW_VM_NETS_MAX], keep[GW_VM_NETS_MAX], log_fd;
    unsigned keep_count = 0;
    struct gw_arguments *arguments = calloc(1, sizeof(*arguments));
    int ret;

    if (!arguments)
        return gw_fail(-ENOMEM, "no memory for a command line");
    ret = open_taps(vm, taps);
    if (ret < 0) {
        free(arguments);
        return ret;
    }
    for (unsigned i = 0; i < vm->net_count; i++) {
        if (taps[i] >= 0)
            keep[keep_count++] = taps[i];
    }
    ret = gw_vm_arguments(vm, options, taps, arguments);
    log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (ret == 0 && log_fd < 0)
        ret = gw_fail_errno(-errno, "the log of the target's QEMU: %s", log_path);
    if (ret == 0)
        ret = spawn(arguments->words, log_fd, keep, keep_count, pid);
    if (log_fd >= 0)
        close(log_fd);
    close_taps(taps, vm->net_count);
    gw_arguments_free(arguments);
    free(arguments);
    return ret;
}

int gw_vm_launch(const struct gw_vm *vm, const struct gw_launch_options *options,
                 struct gw_launched *out)
{
    struct gw_launched launched = {.pid = -1, .pid_fd = -1, .is_owned = true};
    struct gw_reasons faults = {0};
    char log_path[512];
    int ret;

    /* Once more, so that no caller can forget it. */
    gw_vm_check(vm, &faults);
    ret = gw_reasons_fail(&faults, -EINVAL);
    gw_reasons_free(&faults);
    if (ret < 0)
        return ret;
    if (snprintf(launched.qmp_path, sizeof(launched.qmp_path), "%s/qmp", options->run_dir) >=
        (int)sizeof(launched.qmp_path))
        return gw_fail(-ENAMETOOLONG, "the run folder %s is too long for a socket",
                       options->run_dir);
    snprintf(log_path, sizeof(log_path), "%s/log", options->run_dir);
    ret = start(vm, options, log_path, &launched.pid);
    if (ret < 0)
        return ret;
    launched.pid_fd = open_pid_fd(launched.pid);
    if (launched.pid_fd < 0) {
        char line[300];

        gw_vm_last_line(log_path, line, sizeof(line));
        return gw_fail(-ECHILD, "the target's QEMU ended at once: %s", line);
    }
    ret = await_qmp(&launched, log_path,
                    options->timeout_ms ? options->timeout_ms : START_TIMEOUT_MS);
    if (ret == 0)
        ret = gw_vm_prepare_target(launched.qmp);
    if (ret < 0) {
        struct gw_error error;

        gw_error_take(ret, &error);
        gw_vm_end(&launched);
        return gw_error_raise(&error);
    }
    *out = launched;
    return 0;
}

int gw_vm_probe(const char *binary, const char *accelerator, struct gw_launched *out)
{
    struct gw_launched launched = {.pid = -1, .pid_fd = -1, .is_owned = true};
    char dir[] = "/tmp/godwit-probe-XXXXXX", socket[96], log_path[64], line[300];
    char *words[] = {(char *)binary,
                     (char *)"-no-user-config",
                     (char *)"-nodefaults",
                     (char *)"-machine",
                     (char *)"none",
                     (char *)"-accel",
                     (char *)accelerator,
                     (char *)"-display",
                     (char *)"none",
                     (char *)"-qmp",
                     socket,
                     NULL};
    int log_fd, ret;

    if (!mkdtemp(dir))
        return gw_fail_errno(-errno, "a folder for a moment: %s", dir);
    snprintf(launched.qmp_path, sizeof(launched.qmp_path), "%s/qmp", dir);
    snprintf(socket, sizeof(socket), "unix:%s/qmp,server=on,wait=off", dir);
    snprintf(log_path, sizeof(log_path), "%s/log", dir);
    log_fd = open(log_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ret = log_fd < 0 ? gw_fail_errno(-errno, "%s", log_path)
                     : spawn(words, log_fd, NULL, 0, &launched.pid);
    if (log_fd >= 0)
        close(log_fd);
    if (ret == 0) {
        launched.pid_fd = open_pid_fd(launched.pid);
        if (launched.pid_fd < 0) {
            gw_vm_last_line(log_path, line, sizeof(line));
            ret = gw_fail(-ECHILD, "%s does not start: %s", binary, line);
        } else {
            ret = await_qmp(&launched, log_path, START_TIMEOUT_MS);
        }
    }
    /* Nothing waits for it but the plan, and a host that is busy starts programs slowly. */
    if (ret == 0)
        gw_qmp_set_timeout(launched.qmp, PROBE_TIMEOUT_MS);
    unlink(launched.qmp_path);
    unlink(log_path);
    rmdir(dir);
    if (ret < 0) {
        struct gw_error error;

        gw_error_take(ret, &error);
        gw_vm_end(&launched);
        return gw_error_raise(&error);
    }
    *out = launched;
    return 0;
}

void gw_vm_leave(struct gw_launched *launched)
{
    gw_qmp_close(launched->qmp);
    if (launched->pid_fd >= 0)
        close(launched->pid_fd);
    launched->qmp = NULL;
    launched->pid_fd = -1;
}

int gw_vm_end(struct gw_launched *launched)
{
    int ret = 0;

    if (launched->is_owned && launched->pid_fd >= 0 && !has_ended(launched->pid_fd, 0)) {
        if (launched->qmp) {
            gw_qmp_set_timeout(launched->qmp, 1000);
            gw_qmp_execute(launched->qmp, "quit", NULL, NULL);
        }
        if (!launched->qmp || !has_ended(launched->pid_fd, 1000)) {
            signal_pid_fd(launched->pid_fd, SIGKILL);
            if (!has_ended(launched->pid_fd, 5000))
                ret = gw_fail(-ETIMEDOUT,
                              "QEMU (process %d) does not end, even killed; it may hang in "
                              "storage",
                              (int)launched->pid);
        }
    }
    gw_vm_leave(launched);
    return ret;
}
