/* SPDX-License-Identifier: Apache-2.0 */
/* Starts a private agent and waits until it answers. */
#include "agent/private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/left.h"
#include "agent/paths.h"
#include "common/error.h"

#define READY_TIMEOUT_MS 60000 /* it may have to settle first what another has left */
#define ARGUMENTS_MAX    160

/* "--trusted-network" and "--fingerprint" may be there GW_TRUSTED_MAX times each, two words a time.
 */
_Static_assert(ARGUMENTS_MAX > 4 * (int)GW_TRUSTED_MAX + 2 * (int)GW_TRANSPORTS_MAX + 14,
               "every option fits");

struct arguments {
    const char *words[ARGUMENTS_MAX];
    unsigned count;
};

static void add(struct arguments *arguments, const char *word)
{
    arguments->words[arguments->count++] = word;
}

static void add_option(struct arguments *arguments, const char *name, const char *value)
{
    if (!value)
        return;
    add(arguments, name);
    add(arguments, value);
}

static int make_folder(char *out, size_t size)
{
    char home[PATH_MAX], name[sizeof(GW_PRIVATE_PREFIX) + 8];
    unsigned char number[4];
    int error = gw_path_state_home(home, sizeof(home));

    if (!error)
        error = gw_path_make_folder(home);
    if (error)
        return error;
    if (getrandom(number, sizeof(number), 0) != sizeof(number))
        return gw_fail_errno(-errno, "random number");
    snprintf(name, sizeof(name), GW_PRIVATE_PREFIX "%02x%02x%02x%02x", number[0], number[1],
             number[2], number[3]);
    error = gw_path_join(home, name, out, size);
    if (!error && mkdir(out, 0700) != 0)
        return gw_fail_errno(-errno, "folder %s", out);
    return error;
}

/* In the child: only what is safe after a fork, then the same program again. */
static void become_agent(struct arguments *arguments, int ready_fd, int log_fd)
{
    sigset_t none;
    int null_fd = open("/dev/null", O_RDWR);

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    fcntl(ready_fd, F_SETFD, 0);
    execv("/proc/self/exe", (char *const *)arguments->words);
    dprintf(ready_fd, "failed cannot start itself: %s\n", strerror(errno));
    _exit(127);
}

/* The agent's one line, or its silence. */
static int wait_ready(int fd)
{
    struct pollfd item = {.fd = fd, .events = POLLIN};
    char line[GW_ERROR_TEXT_MAX];
    size_t length = 0;

    while (length < sizeof(line) - 1) {
        ssize_t got;
        int count = poll(&item, 1, READY_TIMEOUT_MS);

        if (count == 0)
            return gw_fail(-ETIMEDOUT, "the private agent did not start in %d s",
                           READY_TIMEOUT_MS / 1000);
        got = count < 0 ? -1 : read(fd, line + length, sizeof(line) - 1 - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        length += (size_t)got;
        if (line[length - 1] == '\n')
            break;
    }
    line[length] = '\0';
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "ready ", 6) == 0)
        return 0;
    if (strncmp(line, "failed ", 7) == 0)
        return gw_fail(-EIO, "%s", line + 7);
    return gw_fail(-EIO, "the private agent ended at once");
}

static int launch(struct arguments *arguments, const char *folder)
{
    char path[PATH_MAX];
    int ends[2], log_fd, error;
    char ready[16];
    pid_t child;

    error = gw_path_join(folder, "agent.log", path, sizeof(path));
    if (error)
        return error;
    log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        return gw_fail_errno(-errno, "log %s", path);
    if (pipe2(ends, O_CLOEXEC) != 0) {
        close(log_fd);
        return gw_fail_errno(-errno, "pipe");
    }
    snprintf(ready, sizeof(ready), "%d", ends[1]);
    add_option(arguments, "--ready-fd", ready);
    child = fork();
    if (child == 0)
        become_agent(arguments, ends[1], log_fd);
    close(ends[1]);
    close(log_fd);
    error = child < 0 ? gw_fail_errno(-errno, "fork") : wait_ready(ends[0]);
    close(ends[0]);
    return error;
}

static void remove_folder(const char *folder)
{
    static const char *const names[] = {"agent.log", "agent.sock.lock", "instance-id", "lock"};
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (gw_path_join(folder, names[i], path, sizeof(path)) == 0)
            unlink(path);
    rmdir(folder);
}

static int start_in(const struct gw_agent_options *options, const char *folder,
                    struct gw_client **out)
{
    struct arguments arguments = {.words = {"godwit", "agent", "--private"}, .count = 3};
    char socket_path[PATH_MAX];
    int error = gw_path_join(folder, GW_SOCKET_NAME, socket_path, sizeof(socket_path));

    if (error)
        return error;
    add_option(&arguments, "--state", folder);
    add_option(&arguments, "--socket", socket_path);
    add_option(&arguments, "--psk", options->psk);
    add_option(&arguments, "--cert", options->cert);
    add_option(&arguments, "--key", options->key);
    add_option(&arguments, "--ca", options->ca);
    for (unsigned i = 0; i < options->transports.count; i++)
        add_option(&arguments, "--transport", options->transports.items[i]);
    for (unsigned i = 0; i < options->settings.count; i++)
        add_option(&arguments, "--transport-option", options->settings.items[i]);
    for (unsigned i = 0; i < options->fingerprints.count; i++)
        add_option(&arguments, "--fingerprint", options->fingerprints.items[i]);
    for (unsigned i = 0; i < options->trusted.count; i++)
        add_option(&arguments, "--trusted-network", options->trusted.items[i]);
    if (options->allow_volatile_state)
        add(&arguments, "--allow-volatile-state");
    error = launch(&arguments, folder);
    return error ? error : gw_client_open(socket_path, out);
}

int gw_private_start(const struct gw_agent_options *options, struct gw_client **out)
{
    char folder[PATH_MAX];
    int error = gw_left_find_private(folder, sizeof(folder));

    /* Another command may have been quicker to take it up. */
    if (!error && start_in(options, folder, out) == 0)
        return 0;
    error = make_folder(folder, sizeof(folder));
    if (error)
        return error;
    error = start_in(options, folder, out);
    if (error)
        remove_folder(folder);
    return error;
}
