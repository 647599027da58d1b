/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts the target's QEMU, waits until it answers, and ends it. The process is a grandchild in a
 * session of its own: the agent's end does not take the VM with it, and nobody has to reap it. A probe, which holds
 * nothing of anybody's, is a child that ends with whoever started it.
 */
#include "engine/vmm/qemu/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/vmm/qemu/migrate.h"

#define START_TIMEOUT_MS 15000u
#define PROBE_TIMEOUT_MS 40000u
#define END_TIMEOUT_MS   1000 /* of a QEMU that has closed its monitor */

struct program {
    char *const *words;
    int log_fd;
    const int *keep; /* the descriptors that it gets */
    unsigned keep_count;
    int (*note)(pid_t pid, void *context); /* as in gw_launch_options */
    void *note_context;
};

/* Where the grandchild waits for the word: a byte, which is 1 when it may go on. agent_fd: the process that gives it,
 * whose end the pipe alone does not tell: another grandchild that waits may have a copy of its other end. */
struct gate {
    int read_fd, write_fd, agent_fd;
};

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

static void close_gate(const struct gate *gate)
{
    const int fds[] = {gate->read_fd, gate->write_fd, gate->agent_fd};

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static int open_gate(struct gate *out)
{
    struct gate gate = {.agent_fd = open_pid_fd(getpid())};
    int fds[2] = {-1, -1};

    if (gate.agent_fd < 0 || pipe2(fds, O_CLOEXEC) < 0) {
        int error = gw_fail_errno(-errno, "starting QEMU: descriptors");

        gate.read_fd = gate.write_fd = -1;
        close_gate(&gate);
        return error;
    }
    gate.read_fd = fds[0];
    gate.write_fd = fds[1];
    *out = gate;
    return 0;
}

/* In the child: only calls that are safe after a fork of a process with threads. */
static void pass_gate(const struct gate *gate)
{
    struct pollfd fds[] = {{.fd = gate->read_fd, .events = POLLIN},
                           {.fd = gate->agent_fd, .events = POLLIN}};
    char word = 0;

    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    if (!(fds[0].revents & POLLIN) || read(gate->read_fd, &word, 1) != 1 || !word)
        _exit(125);
}

/* As above. */
static void become_qemu(const struct program *program)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(program->log_fd, 1) < 0 || dup2(program->log_fd, 2) < 0)
        _exit(126);
    syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    for (unsigned i = 0; i < program->keep_count; i++)
        fcntl(program->keep[i], F_SETFD, 0);
    execvp(program->words[0], program->words);
    dprintf(2, "cannot start %s: %s\n", program->words[0], strerror(errno));
    _exit(127);
}

/* As above, of the child between the two. */
static void become_middle(const struct program *program, const struct gate *gate, int answer_fd)
{
    pid_t child;

    setsid();
    child = fork();
    if (child == 0) {
        pass_gate(gate);
        become_qemu(program);
    }
    _exit(write(answer_fd, &child, sizeof(child)) != sizeof(child));
}

/* Forks twice; the grandchild's number. */
static int fork_twice(const struct program *program, const struct gate *gate, pid_t *pid)
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
        dup2(null_fd, 0);
        become_middle(program, gate, pipe_fds[1]);
    }
    close(null_fd);
    close(pipe_fds[1]);
    *pid = -1;
    got = middle > 0 ? read(pipe_fds[0], pid, sizeof(*pid)) : -1;
    close(pipe_fds[0]);
    if (middle > 0)
        waitpid(middle, NULL, 0);
    if (got != sizeof(*pid) || *pid < 0)
        return gw_fail_errno(-EAGAIN, "starting %s: fork", program->words[0]);
    return 0;
}

/* The grandchild waits at the gate until it can be ended, and is noted. */
static int spawn(const struct program *program, struct gw_launched *out)
{
    struct gate gate;
    char word;
    int ret = open_gate(&gate);

    if (ret < 0)
        return ret;
    ret = fork_twice(program, &gate, &out->pid);
    if (ret == 0) {
        out->pid_fd = open_pid_fd(out->pid);
        if (out->pid_fd < 0)
            ret =
                gw_fail_errno(-errno, "starting %s: process %d", program->words[0], (int)out->pid);
        if (ret == 0 && program->note)
            ret = program->note(out->pid, program->note_context);
        word = ret == 0;
        if (write(gate.write_fd, &word, 1) != 1 && ret == 0)
            ret = gw_fail_errno(-errno, "starting %s", program->words[0]);
    }
    if (ret < 0 && out->pid_fd >= 0)
        close(out->pid_fd);
    close_gate(&gate);
    return ret;
}

/* A child of this thread's, which ends with it. */
static int spawn_child(const struct program *program, struct gw_launched *out)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t parent = getpid();

    if (null_fd < 0)
        return gw_fail_errno(-errno, "open /dev/null");
    out->pid = fork();
    if (out->pid == 0) {
        setsid();
        dup2(null_fd, 0);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
            _exit(126);
        become_qemu(program);
    }
    close(null_fd);
    if (out->pid < 0)
        return gw_fail_errno(-EAGAIN, "starting %s: fork", program->words[0]);
    out->is_child = true;
    out->pid_fd = open_pid_fd(out->pid);
    if (out->pid_fd < 0) {
        int error =
            gw_fail_errno(-errno, "starting %s: process %d", program->words[0], (int)out->pid);

        kill(out->pid, SIGKILL); /* not reaped yet: the number is still its own */
        waitpid(out->pid, NULL, 0);
        return error;
    }
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
                 const char *log_path, struct gw_launched *out)
{
    int taps[GW_VM_NETS_MAX], keep[GW_VM_NETS_MAX];
    struct program program = {
        .keep = keep, .note = options->note, .note_context = options->note_context};
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
            keep[program.keep_count++] = taps[i];
    }
    ret = gw_vm_arguments(vm, options, taps, arguments);
    program.words = arguments->words;
    program.log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (ret == 0 && program.log_fd < 0)
        ret = gw_fail_errno(-errno, "the log of the target's QEMU: %s", log_path);
    if (ret == 0)
        ret = spawn(&program, out);
    if (program.log_fd >= 0)
        close(program.log_fd);
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
    ret = start(vm, options, log_path, &launched);
    if (ret < 0)
        return ret;
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

/* Its monitor is a socket between the two alone, and its log memory: there is nothing to remove. */
static int start_probe(const char *binary, const char *accelerator, int monitor_fd, int log_fd,
                       struct gw_launched *out)
{
    char monitor[64];
    char *words[] = {(char *)binary,
                     (char *)"-no-user-config",
                     (char *)"-nodefaults",
                     (char *)"-machine",
                     (char *)"none",
                     (char *)"-accel",
                     (char *)accelerator,
                     (char *)"-display",
                     (char *)"none",
                     (char *)"-chardev",
                     monitor,
                     (char *)"-mon",
                     (char *)"chardev=monitor,mode=control",
                     NULL};
    struct program program = {
        .words = words, .log_fd = log_fd, .keep = &monitor_fd, .keep_count = 1};

    snprintf(monitor, sizeof(monitor), "socket,id=monitor,fd=%d", monitor_fd);
    return spawn_child(&program, out);
}

/* Takes over fd. */
static int await_probe(struct gw_launched *launched, const char *binary, int fd, int log_fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    char log_path[64], line[300];
    int ret;

    if (poll(&poll_fd, 1, START_TIMEOUT_MS) == 0) {
        close(fd);
        return gw_fail(-ETIMEDOUT, "%s did not answer within %u ms", binary, START_TIMEOUT_MS);
    }
    ret = gw_qmp_open_fd(fd, binary, &launched->qmp);
    if (ret == -EPIPE && has_ended(launched->pid_fd, END_TIMEOUT_MS)) {
        snprintf(log_path, sizeof(log_path), "/proc/self/fd/%d", log_fd);
        gw_vm_last_line(log_path, line, sizeof(line));
        ret = gw_fail(-ECHILD, "%s does not start: %s", binary, line);
    }
    return ret;
}

int gw_vm_probe(const char *binary, const char *accelerator, struct gw_launched *out)
{
    struct gw_launched launched = {.pid = -1, .pid_fd = -1, .is_owned = true};
    int fds[2] = {-1, -1}, log_fd = memfd_create("godwit-probe", MFD_CLOEXEC), ret = 0;

    if (log_fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        ret = gw_fail_errno(-errno, "starting %s: descriptors", binary);
    if (ret == 0)
        ret = start_probe(binary, accelerator, fds[1], log_fd, &launched);
    if (fds[1] >= 0)
        close(fds[1]);
    if (ret == 0)
        ret = await_probe(&launched, binary, fds[0], log_fd);
    else if (fds[0] >= 0)
        close(fds[0]);
    if (log_fd >= 0)
        close(log_fd);
    if (ret < 0) {
        struct gw_error error;

        gw_error_take(ret, &error);
        gw_vm_end(&launched);
        return gw_error_raise(&error);
    }
    /* Nothing waits for it but the plan, and a host that is busy starts programs slowly. */
    gw_qmp_set_timeout(launched.qmp, PROBE_TIMEOUT_MS);
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
    if (launched->is_child && launched->pid_fd >= 0)
        waitpid(launched->pid, NULL, ret ? WNOHANG : 0);
    gw_vm_leave(launched);
    return ret;
}
