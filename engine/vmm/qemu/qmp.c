/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The QMP client: lines of JSON over a UNIX socket; one command in flight, or one batch. It knows
 * how a command is framed and how an error reads; it knows no command's meaning.
 */
#include "engine/vmm/qemu/qmp.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

#define READ_STEP 65536u

struct gw_qmp {
    int fd;
    bool is_broken; /* the stream is out of step or ended */
    pid_t pid;
    uint32_t timeout_ms;
    uint64_t next_id;
    struct gw_qmp_version version;
    char error_class[48];
    char *path;
    char *buffer; /* bytes received: [0, used), of which [0, scanned) hold no newline */
    size_t used, scanned, room;
    json_t *events; /* array, oldest first */
};

static int lost(struct gw_qmp *qmp, int error)
{
    qmp->is_broken = true;
    if (error == 0 || error == -ECONNRESET || error == -EPIPE)
        return gw_fail(-EPIPE, "qmp: QEMU closed the connection %s", qmp->path);
    return gw_fail_errno(error, "qmp: connection %s", qmp->path);
}

static int make_room(struct gw_qmp *qmp)
{
    size_t room;
    char *bigger;

    if (qmp->room - qmp->used >= READ_STEP)
        return 0;
    room = qmp->room ? qmp->room * 2 : READ_STEP * 2;
    if (qmp->used >= GW_QMP_LINE_MAX) {
        qmp->is_broken = true;
        return gw_fail(-EPROTO, "qmp: %s sent a line longer than %u bytes", qmp->path,
                       GW_QMP_LINE_MAX);
    }
    bigger = realloc(qmp->buffer, room);
    if (!bigger)
        return gw_fail(-ENOMEM, "qmp: no memory for a line of %zu bytes", room);
    qmp->buffer = bigger;
    qmp->room = room;
    return 0;
}

/* Length of the first complete line, its newline included; 0 when there is none yet. */
static size_t line_length(struct gw_qmp *qmp)
{
    char *newline = NULL;

    if (qmp->used > qmp->scanned)
        newline = memchr(qmp->buffer + qmp->scanned, '\n', qmp->used - qmp->scanned);
    if (!newline) {
        qmp->scanned = qmp->used;
        return 0;
    }
    return (size_t)(newline - qmp->buffer) + 1;
}

/* Receives until a whole line is in the buffer. -EAGAIN when the deadline passes first. */
static int fill_line(struct gw_qmp *qmp, uint64_t deadline, size_t *length)
{
    while ((*length = line_length(qmp)) == 0) {
        struct pollfd poll_fd = {.fd = qmp->fd, .events = POLLIN};
        ssize_t got;
        int ready, ret;

        if (qmp->is_broken)
            return gw_fail(-EPIPE, "qmp: the connection %s has failed before", qmp->path);
        ret = make_room(qmp);
        if (ret < 0)
            return ret;
        ready = poll(&poll_fd, 1, gw_clock_left_ms(deadline));
        if (ready == 0)
            return -EAGAIN;
        if (ready < 0) {
            if (errno == EINTR)
                continue;
            return lost(qmp, -errno);
        }
        got = recv(qmp->fd, qmp->buffer + qmp->used, qmp->room - qmp->used, MSG_DONTWAIT);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            return lost(qmp, got < 0 ? -errno : 0);
        qmp->used += (size_t)got;
    }
    return 0;
}

static int take_line(struct gw_qmp *qmp, size_t length, json_t **message)
{
    json_error_t error;

    *message = json_loadb(qmp->buffer, length, 0, &error);
    /* CPU models have numbers beyond 63 bits, which fit a real only. */
    if (!*message)
        *message = json_loadb(qmp->buffer, length, JSON_DECODE_INT_AS_REAL, &error);
    if (!*message || !json_is_object(*message)) {
        char start[33];
        size_t shown = length < sizeof(start) ? length : sizeof(start) - 1;

        json_decref(*message);
        qmp->is_broken = true;
        for (size_t i = 0; i < shown; i++) {
            char byte = qmp->buffer[i];

            start[i] = byte >= ' ' && byte < 127 ? byte : '.';
        }
        start[shown] = '\0';
        return gw_fail(-EPROTO, "qmp: %s does not speak QMP: it says \"%s\"", qmp->path, start);
    }
    memmove(qmp->buffer, qmp->buffer + length, qmp->used - length);
    qmp->used -= length;
    qmp->scanned = 0;
    return 0;
}

/* The next message; events go to the queue. -EAGAIN at the deadline. *reply is NULL for an event.
 */
static int receive(struct gw_qmp *qmp, uint64_t deadline, json_t **reply)
{
    json_t *message;
    size_t length;
    int ret = fill_line(qmp, deadline, &length);

    if (ret < 0)
        return ret;
    ret = take_line(qmp, length, &message);
    if (ret < 0)
        return ret;
    if (!json_object_get(message, "event")) {
        *reply = message;
        return 0;
    }
    *reply = NULL;
    if (json_array_size(qmp->events) >= GW_QMP_EVENTS_MAX)
        json_array_remove(qmp->events, 0);
    if (json_array_append_new(qmp->events, message) < 0)
        return gw_fail(-ENOMEM, "qmp: no memory for an event");
    return 0;
}

static int send_bytes(struct gw_qmp *qmp, const char *bytes, size_t length, int fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    uint64_t deadline = gw_clock_ns() + qmp->timeout_ms * GW_NS_PER_MS;

    while (length > 0) {
        struct iovec piece = {.iov_base = (char *)bytes, .iov_len = length};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
        ssize_t sent;

        if (fd >= 0) {
            message.msg_control = control.room;
            message.msg_controllen = sizeof(control.room);
            control.header.cmsg_level = SOL_SOCKET;
            control.header.cmsg_type = SCM_RIGHTS;
            control.header.cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        }
        sent = sendmsg(qmp->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            bytes += sent;
            length -= (size_t)sent;
            fd = -1;
        } else if (errno == EAGAIN) {
            struct pollfd poll_fd = {.fd = qmp->fd, .events = POLLOUT};

            if (poll(&poll_fd, 1, gw_clock_left_ms(deadline)) == 0)
                return lost(qmp, -ETIMEDOUT);
        } else if (errno != EINTR) {
            return lost(qmp, -errno);
        }
    }
    return 0;
}

static int answer_error(struct gw_qmp *qmp, const char *command, const json_t *error)
{
    const char *class = json_string_value(json_object_get(error, "class"));
    const char *text = json_string_value(json_object_get(error, "desc"));
    int number = -EREMOTEIO;

    snprintf(qmp->error_class, sizeof(qmp->error_class), "%s", class ? class : "");
    if (strcmp(qmp->error_class, "CommandNotFound") == 0)
        number = -ENOTSUP;
    else if (strcmp(qmp->error_class, "DeviceNotFound") == 0)
        number = -ENODEV;
    return gw_fail(number, "QEMU refused %s: %s", command, text ? text : "no reason given");
}

/* Waits for the answer with that id; answers to commands that timed out earlier are dropped. */
static int await_answer(struct gw_qmp *qmp, const char *command, uint64_t id, json_t **result)
{
    uint64_t deadline = gw_clock_ns() + qmp->timeout_ms * GW_NS_PER_MS;

    for (;;) {
        json_t *reply, *value;
        int ret = receive(qmp, deadline, &reply);

        if (ret == -EAGAIN)
            return gw_fail(-ETIMEDOUT, "qmp: QEMU did not answer %s within %u ms (%s)", command,
                           qmp->timeout_ms, qmp->path);
        if (ret < 0)
            return ret;
        if (!reply)
            continue;
        value = json_object_get(reply, "id");
        if (!json_is_number(value) || json_number_value(value) != (double)id) {
            json_decref(reply);
            continue;
        }
        value = json_object_get(reply, "error");
        if (value) {
            ret = answer_error(qmp, command, value);
        } else {
            value = json_object_get(reply, "return");
            if (!value)
                ret = gw_fail(-EPROTO, "qmp: %s: an answer without return or error", command);
            else if (result)
                *result = json_incref(value);
        }
        json_decref(reply);
        return ret;
    }
}

/* The command as a line with that id; the caller frees. Steals arguments. NULL: no memory. */
static char *write_command(const char *command, uint64_t id, json_t *arguments)
{
    json_t *request = json_pack("{s:s, s:I}", "execute", command, "id", (json_int_t)id);
    char *text = NULL, *line = NULL;

    if (request && (!arguments || json_object_set(request, "arguments", arguments) == 0))
        text = json_dumps(request, JSON_COMPACT);
    json_decref(arguments);
    json_decref(request);
    if (text && asprintf(&line, "%s\n", text) < 0)
        line = NULL;
    free(text);
    return line;
}

static int start_command(struct gw_qmp *qmp, const char *command, json_t *arguments, int fd,
                         uint64_t *id)
{
    char *line;
    int ret;

    *id = qmp->next_id++;
    line = write_command(command, *id, arguments);
    if (!line)
        return gw_fail(-ENOMEM, "qmp: %s: the arguments cannot be written as JSON", command);
    ret = qmp->is_broken
              ? gw_fail(-EPIPE, "qmp: %s: the connection %s has failed before", command, qmp->path)
              : send_bytes(qmp, line, strlen(line), fd);
    free(line);
    return ret;
}

int gw_qmp_execute_fd(struct gw_qmp *qmp, const char *command, json_t *arguments, int fd,
                      json_t **result)
{
    uint64_t id;
    int ret;

    qmp->error_class[0] = '\0';
    ret = start_command(qmp, command, arguments, fd, &id);
    return ret < 0 ? ret : await_answer(qmp, command, id, result);
}

/* The answers, in the order of the commands. The first error's message is kept. */
static int await_answers(struct gw_qmp *qmp, struct gw_qmp_call *calls, const uint64_t *ids,
                         unsigned count)
{
    struct gw_error first = {0};

    for (unsigned i = 0; i < count; i++) {
        struct gw_qmp_call *call = &calls[i];

        call->error = await_answer(qmp, call->command, ids[i], &call->result);
        if (call->error && !first.code && !call->may_fail)
            gw_error_take(call->error, &first);
    }
    return first.code ? gw_error_raise(&first) : 0;
}

/* All commands as one text, each a line; the caller frees. Takes the arguments over. NULL: no memory. */
static char *write_commands(struct gw_qmp *qmp, struct gw_qmp_call *calls, uint64_t *ids,
                            unsigned count)
{
    char *text = strdup("");

    for (unsigned i = 0; i < count; i++) {
        char *line, *longer = NULL;

        ids[i] = qmp->next_id++;
        line = write_command(calls[i].command, ids[i], calls[i].arguments);
        calls[i].arguments = NULL;
        if (text && line && asprintf(&longer, "%s%s", text, line) < 0)
            longer = NULL;
        free(line);
        free(text);
        text = longer;
    }
    return text;
}

/* One send: QEMU, which runs the first command at once, may share the processor. */
int gw_qmp_execute_batch(struct gw_qmp *qmp, struct gw_qmp_call *calls, unsigned count)
{
    uint64_t ids[GW_QMP_BATCH_MAX];
    char *text;
    int ret, fd = -1;

    assert(count <= GW_QMP_BATCH_MAX);
    qmp->error_class[0] = '\0';
    for (unsigned i = 0; i < count; i++) {
        calls[i].result = NULL;
        calls[i].error = -ECANCELED;
        assert(calls[i].fd == 0 || fd < 0);
        if (calls[i].fd)
            fd = calls[i].fd - 1;
    }
    text = write_commands(qmp, calls, ids, count);
    if (!text)
        return gw_fail(-ENOMEM, "qmp: commands cannot be written as JSON");
    ret = qmp->is_broken ? gw_fail(-EPIPE, "qmp: %s: the connection %s has failed before",
                                   calls[0].command, qmp->path)
                         : send_bytes(qmp, text, strlen(text), fd);
    free(text);
    return ret < 0 ? ret : await_answers(qmp, calls, ids, count);
}

void gw_qmp_batch_free(struct gw_qmp_call *calls, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        json_decref(calls[i].result);
        calls[i].result = NULL;
    }
}

int gw_qmp_execute(struct gw_qmp *qmp, const char *command, json_t *arguments, json_t **result)
{
    return gw_qmp_execute_fd(qmp, command, arguments, -1, result);
}

int gw_qmp_execute_object(struct gw_qmp *qmp, const json_t *command, json_t **result)
{
    const char *name = json_string_value(json_object_get(command, "execute"));

    if (!name)
        return gw_fail(-EINVAL, "qmp: a command without a name");
    return gw_qmp_execute(qmp, name, json_incref(json_object_get(command, "arguments")), result);
}

json_t *gw_qmp_command(const char *command, json_t *arguments)
{
    return arguments ? json_pack("{s:s, s:o}", "execute", command, "arguments", arguments) : NULL;
}

int gw_qmp_human(struct gw_qmp *qmp, const char *line, char **text)
{
    json_t *result;
    int ret = gw_qmp_execute(qmp, "human-monitor-command", json_pack("{s:s}", "command-line", line),
                             &result);

    if (ret < 0)
        return ret;
    *text = strdup(json_is_string(result) ? json_string_value(result) : "");
    json_decref(result);
    return *text ? 0 : gw_fail(-ENOMEM, "qmp: no memory for the answer to %s", line);
}

int gw_qmp_wait_event(struct gw_qmp *qmp, const char *name, gw_qmp_match *match, void *context,
                      uint32_t timeout_ms, json_t **event)
{
    uint64_t deadline = gw_clock_ns() + timeout_ms * GW_NS_PER_MS;
    size_t seen = 0;

    for (;;) {
        json_t *reply;
        int ret;

        for (; seen < json_array_size(qmp->events); seen++) {
            json_t *kept = json_array_get(qmp->events, seen);
            const char *kept_name = json_string_value(json_object_get(kept, "event"));

            if (!kept_name || strcmp(kept_name, name) != 0 || (match && !match(kept, context)))
                continue;
            if (event)
                *event = json_incref(kept);
            json_array_remove(qmp->events, seen);
            return 0;
        }
        ret = receive(qmp, deadline, &reply);
        if (ret == -EAGAIN)
            return gw_fail(-ETIMEDOUT, "qmp: no event %s within %u ms (%s)", name, timeout_ms,
                           qmp->path);
        if (ret < 0)
            return ret;
        if (reply)
            json_decref(reply);
        else
            seen = json_array_size(qmp->events) - 1;
    }
}

int gw_qmp_next_event(struct gw_qmp *qmp, json_t **event)
{
    json_t *reply;
    int ret;

    while ((ret = receive(qmp, 0, &reply)) == 0)
        json_decref(reply);
    if (json_array_size(qmp->events) == 0)
        return ret;
    *event = json_incref(json_array_get(qmp->events, 0));
    json_array_remove(qmp->events, 0);
    return 0;
}

void gw_qmp_drop_events(struct gw_qmp *qmp, const char *name)
{
    size_t i = 0;

    while (i < json_array_size(qmp->events)) {
        json_t *kept = json_object_get(json_array_get(qmp->events, i), "event");

        if (json_is_string(kept) && strcmp(json_string_value(kept), name) == 0)
            json_array_remove(qmp->events, i);
        else
            i++;
    }
}

/* Does another client hold the listening socket that peer is bound to? An accepted connection shows
 * in /proc/net/unix under the listener's path in state 03, one that still waits in state 02. */
static bool held_by_another(int fd)
{
    struct sockaddr_un peer;
    socklen_t length = sizeof(peer);
    char line[512];
    bool is_held = false;
    FILE *table;

    memset(&peer, 0, sizeof(peer));
    if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0 || peer.sun_path[0] == '\0')
        return false;
    table = fopen("/proc/net/unix", "re");
    if (!table)
        return false;
    while (!is_held && fgets(line, sizeof(line), table)) {
        unsigned state = 0;
        int path_at = 0;

        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%*s %*s %*s %*s %*s %x %*s %n", &state, &path_at) >= 1 && path_at > 0)
            is_held =
                state == 3 && strncmp(line + path_at, peer.sun_path, sizeof(peer.sun_path)) == 0;
    }
    fclose(table);
    return is_held;
}

static void read_version(struct gw_qmp *qmp, const json_t *greeting)
{
    const json_t *version = json_object_get(json_object_get(greeting, "QMP"), "version");
    const json_t *numbers = json_object_get(version, "qemu");
    const char *package = json_string_value(json_object_get(version, "package"));

    qmp->version.major = (unsigned)json_integer_value(json_object_get(numbers, "major"));
    qmp->version.minor = (unsigned)json_integer_value(json_object_get(numbers, "minor"));
    qmp->version.micro = (unsigned)json_integer_value(json_object_get(numbers, "micro"));
    snprintf(qmp->version.package, sizeof(qmp->version.package), "%s", package ? package : "");
}

static int greet(struct gw_qmp *qmp)
{
    uint64_t deadline = gw_clock_ns() + 3 * GW_NS_PER_S;
    json_t *greeting = NULL;
    int ret;

    do {
        ret = receive(qmp, deadline, &greeting);
    } while (ret == 0 && !greeting);
    if (ret == -EAGAIN && held_by_another(qmp->fd))
        return gw_fail(
            -EBUSY,
            "qmp: another client is connected to %s; QMP serves one client per socket: end "
            "that one, or give QEMU a second -qmp socket for godwit",
            qmp->path);
    if (ret == -EAGAIN)
        return gw_fail(-EPROTO,
                       "qmp: %s (process %d) sent no QMP greeting within 3 s: QEMU hangs, or "
                       "it is another kind of socket",
                       qmp->path, (int)qmp->pid);
    if (ret < 0)
        return ret;
    if (!json_is_object(json_object_get(greeting, "QMP"))) {
        json_decref(greeting);
        return gw_fail(-EPROTO, "qmp: %s answers JSON, but is not QMP", qmp->path);
    }
    read_version(qmp, greeting);
    json_decref(greeting);
    return gw_qmp_execute(qmp, "qmp_capabilities", NULL, NULL);
}

int gw_qmp_open_fd(int fd, const char *name, struct gw_qmp **out)
{
    struct gw_qmp *qmp = calloc(1, sizeof(*qmp));
    struct ucred peer;
    socklen_t length = sizeof(peer);
    int ret;

    if (!qmp) {
        close(fd);
        return gw_fail(-ENOMEM, "qmp: no memory");
    }
    qmp->fd = fd;
    qmp->timeout_ms = GW_QMP_TIMEOUT_MS;
    qmp->next_id = 1;
    qmp->path = strdup(name);
    qmp->events = json_array();
    if (!qmp->path || !qmp->events) {
        ret = gw_fail(-ENOMEM, "qmp: no memory");
        goto err;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0)
        qmp->pid = peer.pid;
    ret = greet(qmp);
    if (ret < 0)
        goto err;
    *out = qmp;
    return 0;
err:
    gw_qmp_close(qmp);
    return ret;
}

int gw_qmp_open(const char *path, struct gw_qmp **out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;
    int fd;

    if (stat(path, &status) < 0)
        return gw_fail_errno(-errno, "qmp: %s", path);
    if (!S_ISSOCK(status.st_mode))
        return gw_fail(-ENOTSOCK,
                       "qmp: %s is not a socket; give the path of QEMU's -qmp unix: socket", path);
    if (strlen(path) >= sizeof(address.sun_path))
        return gw_fail(-ENAMETOOLONG, "qmp: the path %s is longer than a UNIX socket's may be",
                       path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return gw_fail_errno(-errno, "qmp: socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int error = errno;

        close(fd);
        if (error == EAGAIN)
            return gw_fail(-EBUSY,
                           "qmp: another client is connected to %s, and more wait; QMP serves one "
                           "client per socket: give QEMU a second -qmp socket for godwit",
                           path);
        if (error == ECONNREFUSED)
            return gw_fail(-ECONNREFUSED, "qmp: nobody listens on %s; is that QEMU still running?",
                           path);
        return gw_fail_errno(-error, "qmp: connect to %s", path);
    }
    return gw_qmp_open_fd(fd, path, out);
}

void gw_qmp_close(struct gw_qmp *qmp)
{
    if (!qmp)
        return;
    close(qmp->fd);
    json_decref(qmp->events);
    free(qmp->buffer);
    free(qmp->path);
    free(qmp);
}

pid_t gw_qmp_pid(const struct gw_qmp *qmp)
{
    return qmp->pid;
}

const char *gw_qmp_path(const struct gw_qmp *qmp)
{
    return qmp->path;
}

const struct gw_qmp_version *gw_qmp_version(const struct gw_qmp *qmp)
{
    return &qmp->version;
}

int gw_qmp_fd(const struct gw_qmp *qmp)
{
    return qmp->fd;
}

void gw_qmp_set_timeout(struct gw_qmp *qmp, uint32_t timeout_ms)
{
    qmp->timeout_ms = timeout_ms;
}

const char *gw_qmp_error_class(const struct gw_qmp *qmp)
{
    return qmp->error_class;
}
