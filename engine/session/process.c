/* SPDX-License-Identifier: Apache-2.0 */
/* Tells a process from whatever had, or will have, its number. Ending one is its owner's business. */
#include "engine/session/process.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "common/error.h"

/* The first line of a file of the kernel's. */
static int read_line(const char *path, char *line, int size)
{
    FILE *file = fopen(path, "re");
    int error = file && fgets(line, size, file) ? 0 : -errno;

    if (file)
        fclose(file);
    return file && error ? -EIO : error;
}

int gw_process_identify(pid_t pid, char *text, size_t size)
{
    char path[64], boot[64], line[1024];
    const char *end;
    unsigned long long start;
    int error = read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (!error)
        error = read_line(path, line, sizeof(line));
    if (error)
        return gw_fail_errno(error, "which process %d is cannot be read", (int)pid);
    /* Field 22 of proc(5); the second, a name, may hold anything but the last parenthesis. */
    end = strrchr(line, ')');
    if (!end || sscanf(end + 1,
                       " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                       "%*s %llu",
                       &start) != 1)
        return gw_fail(-EIO, "%s is not as proc(5) says", path);
    boot[strcspn(boot, "\n")] = '\0';
    if (snprintf(text, size, "%s %llu", boot, start) >= (int)size)
        return gw_fail(-EOVERFLOW, "%s: no room for %llu", path, start);
    return 0;
}

bool gw_process_has_ended(int pid_fd)
{
    struct pollfd fd = {.fd = pid_fd, .events = POLLIN};

    return poll(&fd, 1, 0) > 0;
}

/* What pidfd_open(2) says where no process has the number: also that a thread of some process has it. */
static bool is_nobody(int error)
{
    return error == ESRCH || error == ENOENT || error == EINVAL;
}

int gw_process_find(const json_t *detail, int *pid_fd)
{
    pid_t pid = (pid_t)json_integer_value(json_object_get(detail, "pid"));
    const char *process = json_string_value(json_object_get(detail, "process"));
    char now[GW_PROCESS_TEXT_MAX];
    int fd, error;

    *pid_fd = -1;
    if (!process || pid <= 0)
        return -ESRCH;
    fd = pidfd_open(pid, 0);
    if (fd < 0 && is_nobody(errno))
        return -ESRCH;
    if (fd < 0)
        return gw_fail_errno(-errno, "process %d cannot be looked at", (int)pid);
    /* Looked at while it is held: the number had not passed to another when its start was read. */
    error = gw_process_identify(pid, now, sizeof(now));
    if (gw_process_has_ended(fd) || (!error && strcmp(now, process) != 0))
        error = -ESRCH;
    if (error)
        close(fd);
    else
        *pid_fd = fd;
    return error;
}

bool gw_process_is_gone(const json_t *detail)
{
    pid_t pid = (pid_t)json_integer_value(json_object_get(detail, "pid"));
    bool is_gone;
    int fd;

    if (pid <= 0)
        return false;
    if (json_object_get(detail, "process")) {
        is_gone = gw_process_find(detail, &fd) == -ESRCH;
    } else {
        fd = pidfd_open(pid, 0);
        is_gone = fd < 0 ? is_nobody(errno) : gw_process_has_ended(fd);
    }
    if (fd >= 0)
        close(fd);
    return is_gone;
}
