/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent's half of inject: what must be known of the target beforehand, the child, the
 * descriptor that it sends back, and the words for what went wrong.
 */
#include "engine/vmm/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "common/clock.h"
#include "engine/vmm/inject_child.h"
#include "engine/vmm/mappers.h"

#define RESULT_TIMEOUT_MS 15000
#define SITE_SEARCH_MAX   (16u << 20) /* bytes of code looked through in each mapping */
#define SITE_BLOCK        (64u << 10)

/* The number behind "NAME:" in /proc/PID/status; -1 when there is none. */
static long status_number(pid_t pid, const char *name)
{
    char path[64], line[256];
    size_t length = strlen(name);
    long value = -1;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    file = fopen(path, "re");
    if (!file)
        return -1;
    while (value < 0 && fgets(line, sizeof(line), file))
        if (strncmp(line, name, length) == 0 && line[length] == ':')
            value = strtol(line + length + 1, NULL, 10);
    fclose(file);
    return value;
}

/* QEMU's filters (-sandbox) forbid by list, and the injected calls are on none of the lists. */
static bool is_qemu(pid_t pid)
{
    char path[64], target[512];
    const char *name;
    ssize_t length;

    snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
    length = readlink(path, target, sizeof(target) - 1);
    if (length < 0)
        return false;
    target[length] = '\0';
    name = strrchr(target, '/');
    return name && (strncmp(name, "/qemu-system-", 13) == 0 || strncmp(name, "/qemu-kvm", 9) == 0);
}

static uint64_t search_code(int memory_fd, uint64_t start, uint64_t end, unsigned char *block)
{
    static const unsigned char instruction[2] = {0x0f, 0x05};

    if (end - start > SITE_SEARCH_MAX)
        end = start + SITE_SEARCH_MAX;
    for (uint64_t at = start; at < end; at += SITE_BLOCK) {
        ssize_t got = pread(memory_fd, block, SITE_BLOCK, (off_t)at);
        unsigned char *hit;

        if (got <= 0)
            return 0;
        hit = memmem(block, (size_t)got, instruction, sizeof(instruction));
        if (hit)
            return at + (uint64_t)(hit - block);
    }
    return 0;
}

/* The address of any system call instruction in a file that the process runs code of. The vdso is
 * left out; an instruction's inside would do as well, since nothing behind it is ever run. */
static uint64_t find_site(pid_t pid)
{
    char path[64], line[512];
    uint64_t site = 0, start, end, inode;
    unsigned char *block = malloc(SITE_BLOCK);
    FILE *maps;
    int memory_fd;

    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    memory_fd = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    maps = fopen(path, "re");
    while (block && memory_fd >= 0 && maps && !site && fgets(line, sizeof(line), maps)) {
        char flags[5];

        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %" SCNu64, &start, &end, flags,
                   &inode) == 4 &&
            strcmp(flags, "r-xp") == 0 && inode != 0)
            site = search_code(memory_fd, start, end, block);
    }
    if (maps)
        fclose(maps);
    if (memory_fd >= 0)
        close(memory_fd);
    free(block);
    return site;
}

static void send_result(int socket_fd, const struct gw_injection_result *result)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec data = {.iov_base = (void *)(uintptr_t)result, .iov_len = sizeof(*result)};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

    if (result->fd >= 0) {
        struct cmsghdr *header;

        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &result->fd, sizeof(int));
    }
    sendmsg(socket_fd, &message, MSG_NOSIGNAL);
}

static int receive_result(int socket_fd, struct gw_injection_result *result)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec data = {.iov_base = result, .iov_len = sizeof(*result)};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct pollfd ready = {.fd = socket_fd, .events = POLLIN};
    uint64_t deadline = gw_clock_ns() + RESULT_TIMEOUT_MS * GW_NS_PER_MS;
    struct cmsghdr *header;
    int polled;

    do {
        polled = poll(&ready, 1, gw_clock_left_ms(deadline));
    } while (polled < 0 && errno == EINTR);
    if (polled == 0)
        return -ETIMEDOUT;
    if (recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(*result))
        return -EPIPE;
    result->fd = -1;
    header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(&result->fd, CMSG_DATA(header), sizeof(int));
    return 0;
}

/* Closes every descriptor but the two that the child needs, so that a child that waits long for its
 * target keeps nothing of its parent's open. */
static void close_others(int keep_a, int keep_b)
{
    unsigned first = (unsigned)(keep_a < keep_b ? keep_a : keep_b);
    unsigned second = (unsigned)(keep_a < keep_b ? keep_b : keep_a);

    if (first > 0)
        close_range(0, first - 1, 0);
    if (second > first + 1)
        close_range(first + 1, second - 1, 0);
    close_range(second + 1, ~0u, 0);
}

/* The child: in a session of its own and deaf to signals, so that nothing but SIGKILL to itself
 * ends it before its work is done. */
static void run_child(const struct gw_injection *injection, int socket_fd)
{
    struct gw_injection_result result;

    setsid();
    signal(SIGCHLD, SIG_DFL);
    prctl(PR_SET_NAME, "godwit-inject");
    /* The target stands still while this process waits for a processor; it may not be allowed. */
    setpriority(PRIO_PROCESS, 0, -20);
    close_others(injection->pidfd, socket_fd);
    gw_injection_run(injection, &result);
    send_result(socket_fd, &result);
    _exit(0);
}

static void reap(pid_t child, int options)
{
    while (waitpid(child, NULL, options) < 0 && errno == EINTR)
        continue;
}

static int run_injection(const struct gw_injection *injection, struct gw_injection_result *result)
{
    int sockets[2], error;
    sigset_t all, before;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return gw_fail_errno(-errno, "no socket pair for the injection");
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    child = _Fork();
    if (child == 0)
        run_child(injection, sockets[1]);
    error = child < 0 ? gw_fail_errno(-errno, "no process for the injection") : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(sockets[1]);
    if (!error) {
        error = receive_result(sockets[0], result);
        if (error)
            gw_fail_errno(error, "the injection into process %d gave no result",
                          (int)injection->pid);
        /* A child whose target does not come to a stop is left to wait for it: never killed. */
        reap(child, error == -ETIMEDOUT ? WNOHANG : 0);
    }
    close(sockets[0]);
    return error;
}

static int explain(const struct gw_injection *injection, const struct gw_injection_result *result)
{
    struct pollfd exited = {.fd = injection->pidfd, .events = POLLIN};
    int pid = (int)injection->pid, error = result->error;
    char name[32];
    long tracer;

    gw_process_name(injection->pid, name, sizeof(name));
    /* One that ended and is not yet reaped refuses with EPERM. */
    if (error == -ESRCH || poll(&exited, 1, 0) == 1)
        return gw_fail(-ESRCH, "process %d has ended", pid);
    switch (result->step) {
    case GW_INJECTION_SEIZE:
        tracer = status_number(injection->pid, "TracerPid");
        if (tracer > 0)
            return gw_fail(-EPERM, "process %d (%s) is traced by process %ld", pid, name, tracer);
        return gw_fail_errno(
            error, "process %d (%s) cannot be traced: run as root, or with CAP_SYS_PTRACE", pid,
            name);
    case GW_INJECTION_FILTER:
        return gw_fail(
            -EPERM,
            "process %d (%s) has a seccomp filter that cannot be suspended: run as root, "
            "on a kernel with CONFIG_CHECKPOINT_RESTORE",
            pid, name);
    case GW_INJECTION_STOP:
    case GW_INJECTION_SITE:
        return gw_fail_errno(error, "the main thread of process %d (%s) cannot be stopped", pid,
                             name);
    case GW_INJECTION_CREATE:
        return gw_fail_errno(error, "process %d (%s) cannot make a userfaultfd", pid, name);
    case GW_INJECTION_FETCH:
        return gw_fail_errno(error, "the userfaultfd of process %d (%s) cannot be fetched", pid,
                             name);
    default:
        return gw_fail_errno(error, "no system call can be injected into process %d (%s)", pid,
                             name);
    }
}

int gw_inject_userfaultfd(pid_t pid, int pidfd, int *out)
{
    struct gw_injection injection = {.pid = pid,
                                     .pidfd = pidfd,
                                     .is_filtered = status_number(pid, "Seccomp") == 2,
                                     .is_filter_known = is_qemu(pid)};
    struct gw_injection_result result;
    int error = run_injection(&injection, &result);

    if (!error && result.step == GW_INJECTION_SITE) {
        injection.fallback_site = find_site(pid);
        if (injection.fallback_site)
            error = run_injection(&injection, &result);
    }
    if (error)
        return error;
    if (result.step != GW_INJECTION_DONE || result.fd < 0) {
        if (result.fd >= 0)
            close(result.fd);
        return explain(&injection, &result);
    }
    *out = result.fd;
    return 0;
}
