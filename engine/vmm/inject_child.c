/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tracer: stops one thread, runs two system calls in it at its own system call instruction, and
 * puts it back exactly. What makes "exactly" true:
 * - All signals are blocked while foreign registers are in place; they stay pending and are
 * delivered later. Only SIGKILL and SIGSTOP get through, and both are survived.
 * - Registers are put back in a stop inside the kernel's signal handling (PTRACE_EVENT_STOP)
 * together with the number of the interrupted call, so that the kernel itself decides whether that
 * call is restarted (ERESTARTSYS and its relatives) or ends with EINTR because a signal is waiting.
 * - From the first foreign register to the last restored one there is no time limit: giving up
 * halfway would be the only way to do harm.
 */
#include "engine/vmm/inject_child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/vmm/pagemap_abi.h"

#if !defined(__x86_64__)

void gw_injection_run(const struct gw_injection *injection, struct gw_injection_result *result)
{
    *result = (struct gw_injection_result){GW_INJECTION_REGISTERS, -ENOTSUP, -1};
}

#else

#define SYSCALL_INSTRUCTION   0x050fu /* 0f 05, as a little-endian word */
#define SYSCALL_LENGTH        2u
#define USER_CODE_SEGMENT     0x33u /* of a 64-bit thread */
#define SYSCALL_STOP          (SIGTRAP | 0x80)
#define STOP_TIMEOUT_NS       (5 * GW_NS_PER_S)
#define SYSCALL_WAIT_NS       (200 * GW_NS_PER_MS)
#define WITHOUT_LIMIT         UINT64_MAX
#define SEQUENCE_RETRIES      20
#define SIGNAL_SET_BYTES      8         /* the kernel's sigset_t */
#define GET_RSEQ_CONFIG       0x420f    /* PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13 */
#define OPTION_SUSPEND_FILTER (1 << 21) /* PTRACE_O_SUSPEND_SECCOMP */
#define EVENT_STOP            128       /* PTRACE_EVENT_STOP */

static int ptrace_call(int request, pid_t pid, uint64_t address, uint64_t data)
{
    return syscall(SYS_ptrace, request, pid, address, data) < 0 ? -errno : 0;
}

static int peek(pid_t pid, uint64_t address, uint64_t *out)
{
    return ptrace_call(PTRACE_PEEKDATA, pid, address, (uintptr_t)out);
}

/* Waits for the thread to stop. SIGCHLD is blocked, and wakes this up early; losing one costs 10
 * ms. */
static int wait_stop(pid_t pid, uint64_t limit_ns, int *status)
{
    const struct timespec nap = {.tv_nsec = (long)(10 * GW_NS_PER_MS)};
    uint64_t begin = gw_clock_ns();
    sigset_t child;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (;;) {
        pid_t got = waitpid(pid, status, __WALL | WNOHANG);

        if (got == pid)
            return WIFSTOPPED(*status) ? 0 : -ESRCH;
        if (got < 0 && errno != EINTR)
            return -ESRCH;
        if (limit_ns != WITHOUT_LIMIT && gw_clock_ns() - begin > limit_ns)
            return -ETIMEDOUT;
        sigtimedwait(&child, NULL, &nap);
    }
}

static bool is_event_stop(int status)
{
    return status >> 16 == EVENT_STOP;
}

static bool is_syscall_stop(int status)
{
    return status >> 16 == 0 && WSTOPSIG(status) == SYSCALL_STOP;
}

/* The signal that a thread must be resumed with, so that it is not lost. */
static int signal_of_stop(int status)
{
    return status >> 16 == 0 && WSTOPSIG(status) != SYSCALL_STOP ? WSTOPSIG(status) : 0;
}

/* Waits for a stop in the kernel's signal handling; signals that come first are delivered. */
static int wait_event_stop(pid_t pid, uint64_t limit_ns)
{
    for (;;) {
        int status, error = wait_stop(pid, limit_ns, &status);

        if (error || is_event_stop(status))
            return error;
        error = ptrace_call(PTRACE_CONT, pid, 0, (uint64_t)signal_of_stop(status));
        if (error)
            return error;
    }
}

static int interrupt_running(pid_t pid)
{
    int error = ptrace_call(PTRACE_INTERRUPT, pid, 0, 0);

    return error ? error : wait_event_stop(pid, STOP_TIMEOUT_NS);
}

/* From a stop at a system call to one in the signal handling behind it, where the kernel has not
 * yet decided about a restart. */
static int interrupt_stopped(pid_t pid, uint64_t limit_ns)
{
    int error = ptrace_call(PTRACE_INTERRUPT, pid, 0, 0);

    if (!error)
        error = ptrace_call(PTRACE_CONT, pid, 0, 0);
    return error ? error : wait_event_stop(pid, limit_ns);
}

static int get_registers(pid_t pid, struct user_regs_struct *out)
{
    return ptrace_call(PTRACE_GETREGS, pid, 0, (uintptr_t)out);
}

static int set_registers(pid_t pid, const struct user_regs_struct *registers)
{
    return ptrace_call(PTRACE_SETREGS, pid, 0, (uintptr_t)registers);
}

/* The system call instruction that the stopped thread is in; 0 when it was stopped in its own code.
 */
static uint64_t own_site(pid_t pid, const struct user_regs_struct *registers)
{
    uint64_t word, site = registers->rip - SYSCALL_LENGTH;

    if ((int64_t)registers->orig_rax < 0 || peek(pid, site, &word))
        return 0;
    return (word & 0xffff) == SYSCALL_INSTRUCTION ? site : 0;
}

/* A thread stopped in its own code goes on to its next system call, when it makes one soon. The
 * call is interrupted, or completes; either way the thread then stops right behind it. */
static int run_to_syscall(pid_t pid)
{
    int error = ptrace_call(PTRACE_SYSCALL, pid, 0, 0), status;

    while (!error) {
        error = wait_stop(pid, SYSCALL_WAIT_NS, &status);
        if (error || is_syscall_stop(status))
            break;
        error = ptrace_call(PTRACE_SYSCALL, pid, 0, (uint64_t)signal_of_stop(status));
    }
    if (error == -ETIMEDOUT)
        return interrupt_running(pid);
    return error ? error : interrupt_stopped(pid, STOP_TIMEOUT_NS);
}

/* True inside a restartable sequence (rseq(2)): the kernel would take the thread's place in it for
 * abandoned, but our restoring its registers would continue it. */
static bool is_in_sequence(pid_t pid, uint64_t at)
{
    struct {
        uint64_t area;
        uint32_t size, signature, flags, padding;
    } config = {0};
    uint64_t sequence = 0, start = 0, length = 0;

    if (syscall(SYS_ptrace, GET_RSEQ_CONFIG, pid, sizeof(config), &config) < 0 || !config.area)
        return false;
    /* struct rseq: rseq_cs at 8; struct rseq_cs: start_ip at 8, post_commit_offset at 16. */
    if (peek(pid, config.area + 8, &sequence) || !sequence || peek(pid, sequence + 8, &start) ||
        peek(pid, sequence + 16, &length))
        return false;
    return at - start < length;
}

/* Stops the thread where a system call can be run in it: out holds its registers, site the
 * instruction. */
static int stop_at_site(const struct gw_injection *injection, struct user_regs_struct *out,
                        uint64_t *site)
{
    pid_t pid = injection->pid;
    int error = interrupt_running(pid);

    for (int try = 0; !error && try < SEQUENCE_RETRIES; try++) {
        error = get_registers(pid, out);
        if (error)
            return error;
        if (out->cs != USER_CODE_SEGMENT)
            return -ENOTSUP;
        *site = own_site(pid, out);
        if (!*site && (int64_t)out->orig_rax < 0 && injection->fallback_site &&
            !is_in_sequence(pid, out->rip))
            *site = injection->fallback_site;
        if (*site)
            return 0;
        error = run_to_syscall(pid);
        if (!error && !injection->fallback_site && try > 0)
            return -EAGAIN;
    }
    return error ? error : -EAGAIN;
}

/* To the next entry into or exit from a system call. A stop signal may come between; a fault of the
 * thread itself cannot, but if it did it must not reach the thread while its registers are not its
 * own. */
static int run_to_syscall_stop(pid_t pid)
{
    int status, resume_with = 0;

    for (;;) {
        int error = ptrace_call(PTRACE_SYSCALL, pid, 0, (uint64_t)resume_with);

        if (!error)
            error = wait_stop(pid, WITHOUT_LIMIT, &status);
        if (error || is_syscall_stop(status))
            return error;
        resume_with = signal_of_stop(status);
        if (resume_with && resume_with != SIGSTOP)
            return -EFAULT;
    }
}

/* Runs one system call in the stopped thread, whose registers are saved, and leaves it at its end.
 */
static int run_syscall(pid_t pid, const struct user_regs_struct *saved, uint64_t site, long number,
                       uint64_t argument, int64_t *result)
{
    struct user_regs_struct registers = *saved;
    int error;

    registers.rip = site;
    registers.rax = (uint64_t)number;
    registers.rdi = argument;
    registers.orig_rax = UINT64_MAX; /* no call to restart */
    error = set_registers(pid, &registers);
    if (!error)
        error = run_to_syscall_stop(pid); /* entry */
    if (!error)
        error = run_to_syscall_stop(pid); /* exit */
    if (!error)
        error = get_registers(pid, &registers);
    if (!error)
        *result = (int64_t)registers.rax;
    return error;
}

static void create_and_fetch(const struct gw_injection *injection,
                             const struct user_regs_struct *saved, uint64_t site,
                             struct gw_injection_result *result)
{
    int64_t made = -1, closed;

    result->step = GW_INJECTION_CREATE;
    result->error = run_syscall(injection->pid, saved, site, SYS_userfaultfd,
                                O_CLOEXEC | O_NONBLOCK | GW_UFFD_USER_MODE_ONLY, &made);
    if (!result->error && made < 0)
        result->error = (int)made;
    if (result->error)
        return;
    result->fd = (int)syscall(SYS_pidfd_getfd, injection->pidfd, (int)made, 0);
    if (result->fd < 0) {
        result->step = GW_INJECTION_FETCH;
        result->error = -errno;
    }
    run_syscall(injection->pid, saved, site, SYS_close, (uint64_t)made, &closed);
}

static void inject(const struct gw_injection *injection, struct gw_injection_result *result)
{
    pid_t pid = injection->pid;
    uint64_t all_signals = UINT64_MAX, mask, site;
    struct user_regs_struct saved;
    int error;

    result->step = GW_INJECTION_STOP;
    result->error = stop_at_site(injection, &saved, &site);
    if (result->error) {
        if (result->error == -EAGAIN)
            result->step = GW_INJECTION_SITE;
        if (result->error == -ENOTSUP)
            result->step = GW_INJECTION_REGISTERS;
        return;
    }
    result->step = GW_INJECTION_REGISTERS;
    result->error = ptrace_call(PTRACE_GETSIGMASK, pid, SIGNAL_SET_BYTES, (uintptr_t)&mask);
    if (!result->error)
        result->error =
            ptrace_call(PTRACE_SETSIGMASK, pid, SIGNAL_SET_BYTES, (uintptr_t)&all_signals);
    if (result->error)
        return;
    create_and_fetch(injection, &saved, site, result);
    error = interrupt_stopped(pid, WITHOUT_LIMIT);
    if (!error)
        error = set_registers(pid, &saved);
    if (!error)
        error = ptrace_call(PTRACE_SETSIGMASK, pid, SIGNAL_SET_BYTES, (uintptr_t)&mask);
    if (result->error || error) {
        if (!result->error)
            *result = (struct gw_injection_result){GW_INJECTION_RESTORE, error, result->fd};
        return;
    }
    result->step = GW_INJECTION_DONE;
}

static int seize(const struct gw_injection *injection, struct gw_injection_result *result)
{
    uint64_t options = PTRACE_O_TRACESYSGOOD;
    int error;

    result->step = GW_INJECTION_SEIZE;
    if (!injection->is_filtered)
        return ptrace_call(PTRACE_SEIZE, injection->pid, 0, options);
    /* A filter may kill the process for a call that it does not expect: it is suspended meanwhile.
     */
    error = ptrace_call(PTRACE_SEIZE, injection->pid, 0, options | OPTION_SUSPEND_FILTER);
    if (!error)
        return 0;
    error = ptrace_call(PTRACE_SEIZE, injection->pid, 0, options);
    if (error || injection->is_filter_known)
        return error;
    result->step = GW_INJECTION_FILTER;
    return -EPERM;
}

void gw_injection_run(const struct gw_injection *injection, struct gw_injection_result *result)
{
    *result = (struct gw_injection_result){.fd = -1};
    result->error = seize(injection, result);
    if (result->step == GW_INJECTION_SEIZE && !result->error)
        inject(injection, result);
    /* Detaching needs a stopped thread. One that is not (it did not stop in time, or was never
     * asked to) is let go by the end of this process, which takes back a stop that is still
     * pending. */
    ptrace_call(PTRACE_DETACH, injection->pid, 0, 0);
}

#endif
