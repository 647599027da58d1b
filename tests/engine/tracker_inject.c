/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Injects a userfaultfd hundreds of times into processes that check themselves: nothing that they
 * do may change. Each target below is a process whose main thread is in a state that is hard to
 * leave and to come back to.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/vmm/inject.h"

#define SIGNAL_COUNT 500

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("  %s:%d: ", __FILE__, __LINE__);                                               \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

struct target {
    pid_t pid;
    int pidfd;
    int channel; /* a byte in each direction means what the target says it means */
};

/* Counted by any thread of the target. */
static atomic_int signals_seen;

static void on_signal(int number)
{
    signals_seen++;
}

static bool start(struct target *target, void (*run)(int channel))
{
    int sockets[2];
    char ready;

    /* Without a child there is nobody whom the tests may send signals to. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0 ||
        (target->pid = fork()) < 0) {
        perror("no target");
        exit(1);
    }
    if (target->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(sockets[0]);
        run(sockets[1]);
        _exit(0);
    }
    close(sockets[1]);
    target->channel = sockets[0];
    target->pidfd = (int)syscall(SYS_pidfd_open, target->pid, 0);
    CHECK(read(target->channel, &ready, 1) == 1, "the target did not start");
    return true;
}

/* What the target exited with. */
static int finish(struct target *target)
{
    int status;

    waitpid(target->pid, &status, 0);
    close(target->channel);
    close(target->pidfd);
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        printf("  the target died of signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool inject_once(const struct target *target)
{
    int fd, error = gw_inject_userfaultfd(target->pid, target->pidfd, &fd);

    CHECK(error == 0, "injection: %s", gw_error_message());
    close(fd);
    return true;
}

static void say(int channel, char what)
{
    if (write(channel, &what, 1) != 1)
        _exit(90);
}

static bool is_told_to_end(int channel)
{
    char byte;

    return recv(channel, &byte, 1, MSG_DONTWAIT) == 1;
}

static int count_own_descriptors(void)
{
    int count = 0;

    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Integers and floating point in registers all the time, beside the main thread. */
static void *compute(void *argument)
{
    const volatile bool *ends = argument;

    while (!*ends) {
        double sum = 0;
        uint64_t product = 1;

        for (int i = 1; i <= 2000; i++) {
            sum += 1.0 / i;
            product *= (uint64_t)(2 * i + 1);
        }
        if (fabs(sum - 8.178368103610284) > 1e-9 || product != UINT64_C(0x2eaea5668fe15c41))
            return product == UINT64_C(0x2eaea5668fe15c41) ? (void *)"sum"
                                                           : (void *)(uintptr_t)product;
    }
    return NULL;
}

static bool pipes_work(const int ends[2], uint64_t turn)
{
    uint64_t back = 0;
    struct pollfd ready = {.fd = ends[0], .events = POLLIN};

    return write(ends[1], &turn, sizeof(turn)) == (ssize_t)sizeof(turn) &&
           poll(&ready, 1, 1000) == 1 &&
           read(ends[0], &back, sizeof(back)) == (ssize_t)sizeof(back) && back == turn;
}

/* System calls of every kind, with results that are checked, and signals in between. */
static void run_busy(int channel)
{
    struct sigaction action = {.sa_handler = on_signal};
    const struct timespec nap = {.tv_nsec = 200000};
    volatile bool ends = false;
    pthread_t threads[2];
    void *fault = NULL;
    int pipe_ends[2], before;

    sigaction(SIGRTMIN, &action, NULL);
    if (pipe(pipe_ends) < 0)
        _exit(91);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, compute, (void *)(uintptr_t)&ends);
    before = count_own_descriptors();
    say(channel, 'r');
    for (uint64_t turn = 0; !is_told_to_end(channel); turn++) {
        sigset_t none;
        int got;

        if (!pipes_work(pipe_ends, turn) && errno != EINTR)
            _exit(92);
        sigemptyset(&none);
        got = ppoll(NULL, 0, &nap, &none);
        if (got != 0 && errno != EINTR)
            _exit(93);
        if (getpid() != (pid_t)syscall(SYS_getpid))
            _exit(94);
        errno = 0;
        if (syscall(SYS_close, 12345) != -1 || errno != EBADF)
            _exit(95);
    }
    ends = true;
    for (int i = 0; i < 2; i++) {
        void *one;

        pthread_join(threads[i], &one);
        fault = one ? one : fault;
    }
    if (fault)
        _exit(96);
    /* One that is being taken away is gone a little later on a busy machine; one that is left stays. */
    for (int i = 0; i < 20000 && count_own_descriptors() != before; i++)
        usleep(1000);
    if (count_own_descriptors() != before)
        _exit(97);
    /* Those on the way arrive, on a busy machine a little later. */
    for (int i = 0; i < 20000 && signals_seen < SIGNAL_COUNT; i++)
        usleep(1000);
    _exit(signals_seen == SIGNAL_COUNT ? 0 : 98);
}

static bool busy_with_threads_and_signals(void)
{
    struct target target = {0};
    bool is_good = start(&target, run_busy);
    union sigval value = {0};
    int code;

    for (int i = 0; i < SIGNAL_COUNT && is_good; i++) {
        while (sigqueue(target.pid, SIGRTMIN, value) < 0)
            usleep(1000);
        if (i % 2 == 0)
            is_good = inject_once(&target);
    }
    usleep(20000);
    say(target.channel, 'e');
    code = finish(&target);
    CHECK(is_good && code == 0, "the target found fault %d", code);
    return true;
}

/* One sleep: it must end, with 0 and not EINTR (restart_syscall), and no sooner than it was to. */
static void run_sleeper(int channel)
{
    const struct timespec second = {.tv_sec = 1};
    uint64_t begin = gw_clock_ns(), took;
    int result;

    say(channel, 'r');
    result = nanosleep(&second, NULL);
    took = gw_clock_ns() - begin;
    _exit(result != 0 ? 91 : took < GW_NS_PER_S ? 92 : 0);
}

static char state_of(pid_t pid)
{
    char path[64], state = '?';
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (file && fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
        state = '?';
    if (file)
        fclose(file);
    return state;
}

static bool await_state(const struct target *target, char state)
{
    for (int i = 0; i < 9000 && state_of(target->pid) != state; i++)
        usleep(10000);
    CHECK(state_of(target->pid) == state, "the target is in state %c", state_of(target->pid));
    return true;
}

/* It is in the one system call that it sleeps in: a signal that came before would not end that. */
static bool await_sleep(const struct target *target)
{
    return await_state(target, 'S');
}

/* A sleep that began anew with each injection would not end while there are any. */
static bool sleeping_on_time(void)
{
    struct target target = {0};
    uint64_t begin = gw_clock_ns();
    bool is_good = start(&target, run_sleeper) && inject_once(&target);
    int code;

    while (is_good && state_of(target.pid) != 'Z' && gw_clock_ns() - begin < 90 * GW_NS_PER_S) {
        /* The last one may find it at its end. */
        is_good = inject_once(&target) ||
                  (gw_clock_ns() - begin >= GW_NS_PER_S && await_state(&target, 'Z'));
        usleep(10000);
    }
    if (state_of(target.pid) != 'Z')
        kill(target.pid, SIGKILL);
    code = finish(&target);
    CHECK(is_good && code == 0, "the target found fault %d", code);
    return true;
}

/* pause(2) ends with EINTR when a signal is handled, and with nothing else. */
static void run_pauser(int channel)
{
    struct sigaction action = {.sa_handler = on_signal};
    int result;

    sigaction(SIGUSR1, &action, NULL);
    say(channel, 'r');
    result = pause();
    _exit(result == -1 && errno == EINTR && signals_seen == 1 ? 0 : 91);
}

static bool pausing_until_a_signal(void)
{
    bool is_good = true;

    for (int i = 0; i < 30 && is_good; i++) {
        struct target target = {0};
        int code;

        is_good = start(&target, run_pauser) && inject_once(&target) && inject_once(&target) &&
                  await_sleep(&target);
        kill(target.pid, is_good ? SIGUSR1 : SIGKILL);
        code = finish(&target);
        CHECK(code == 0, "the target found fault %d", code);
    }
    return is_good;
}

/* No system calls for a while: an instruction elsewhere in the program must serve. */
static void run_spinner(int channel)
{
    uint64_t begin = gw_clock_ns(), sum = 0;

    say(channel, 'r');
    while (gw_clock_ns() - begin < 4 * GW_NS_PER_S)
        for (uint64_t i = 0; i < 1000; i++)
            sum += i;
    _exit(sum % 499500 == 0 ? 0 : 91);
}

static bool busy_without_system_calls(void)
{
    struct target target = {0};
    bool is_good = start(&target, run_spinner);
    int code;

    for (int i = 0; i < 3 && is_good; i++)
        is_good = inject_once(&target);
    code = finish(&target);
    CHECK(is_good && code == 0, "the target found fault %d", code);
    return true;
}

static bool stopped_stays_stopped(void)
{
    struct target target = {0};
    bool is_good = start(&target, run_pauser) && await_sleep(&target);
    char after;
    int code;

    kill(target.pid, SIGSTOP);
    is_good =
        is_good && await_state(&target, 'T') && inject_once(&target) && await_state(&target, 'T');
    usleep(20000);
    after = state_of(target.pid);
    kill(target.pid, SIGCONT);
    is_good = is_good && await_sleep(&target);
    kill(target.pid, is_good ? SIGUSR1 : SIGKILL);
    code = finish(&target);
    CHECK(after == 'T', "state %c after the injection", after);
    CHECK(is_good && code == 0, "the target found fault %d", code);
    return true;
}

/* A filter that kills the process for anything but what this loop does. */
static void run_filtered(int channel)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    char byte = 'r';

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        syscall(SYS_exit_group, 91);
    if (syscall(SYS_write, channel, &byte, 1) != 1 || syscall(SYS_read, channel, &byte, 1) != 1)
        syscall(SYS_exit_group, 92);
    syscall(SYS_exit_group, 0);
}

static bool filtered_is_not_killed(void)
{
    struct target target = {0};
    bool is_good = start(&target, run_filtered);
    int code;

    for (int i = 0; i < 20 && is_good; i++)
        is_good = inject_once(&target);
    say(target.channel, 'e');
    code = finish(&target);
    CHECK(is_good && code == 0, "the target found fault %d", code);
    return true;
}

/* The process that asks for the injection is killed at any moment: the target notices nothing. */
static bool killed_injector_harms_nobody(void)
{
    struct target target = {0};
    bool is_good = start(&target, run_busy);
    union sigval value = {0};
    int code;

    for (int i = 0; i < 60 && is_good; i++) {
        pid_t agent = fork();

        if (agent == 0)
            for (int fd;;)
                gw_inject_userfaultfd(target.pid, target.pidfd, &fd);
        usleep((useconds_t)(1000 + rand() % 4000));
        kill(agent, SIGKILL);
        waitpid(agent, NULL, 0);
    }
    usleep(100000); /* the last injection, whose asker is dead, comes to its end */
    for (int i = 0; i < SIGNAL_COUNT; i++)
        while (sigqueue(target.pid, SIGRTMIN, value) < 0)
            usleep(1000);
    usleep(50000);
    say(target.channel, 'e');
    code = finish(&target);
    CHECK(is_good && code == 0, "the target found fault %d", code);
    return true;
}

static bool ended_process_is_told(void)
{
    struct target target = {0};
    int fd, error;

    if (!start(&target, run_pauser))
        return false;
    kill(target.pid, SIGKILL);
    waitid(P_PID, (id_t)target.pid, NULL, WEXITED | WNOWAIT);
    error = gw_inject_userfaultfd(target.pid, target.pidfd, &fd);
    finish(&target);
    CHECK(error == -ESRCH, "an injection into a dead process returned %d", error);
    return true;
}

int main(void)
{
    static const struct {
        const char *name;
        bool (*run)(void);
    } tests[] = {
        {"busy_with_threads_and_signals", busy_with_threads_and_signals},
        {"sleeping_on_time", sleeping_on_time},
        {"pausing_until_a_signal", pausing_until_a_signal},
        {"busy_without_system_calls", busy_without_system_calls},
        {"stopped_stays_stopped", stopped_stays_stopped},
        {"filtered_is_not_killed", filtered_is_not_killed},
        {"killed_injector_harms_nobody", killed_injector_harms_nobody},
        {"ended_process_is_told", ended_process_is_told},
    };
    int failures = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        uint64_t begin = gw_clock_ns();
        bool is_good = tests[i].run();

        printf("%s %s (%llu ms)\n", is_good ? "ok" : "not ok", tests[i].name,
               (unsigned long long)((gw_clock_ns() - begin) / GW_NS_PER_MS));
        failures += !is_good;
    }
    return failures ? 1 : 0;
}
