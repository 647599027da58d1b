/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp: a connection to one QEMU's machine protocol (JSON lines, docs/interop/qmp-spec of QEMU).
 *
 * Errors: 0 or -errno with a message that names the socket or the command and quotes QEMU.
 *   -ENOTSOCK not a socket; -ECONNREFUSED nobody listens; -EPROTO not QMP; -EBUSY another client
 * holds the socket; -ETIMEDOUT no answer in time (a late answer is dropped, the connection stays
 * usable); -EPIPE the connection ended. An error that QEMU answers is -ENOTSUP (no such command),
 * -ENODEV (no such device) or -EREMOTEIO (everything else).
 * Order: open → execute, wait_event in any order → close. Events that arrive while a command runs
 *   are kept, at most GW_QMP_EVENTS_MAX of them (the oldest go first).
 * Threads: one at a time per connection.
 * Units: milliseconds where the name says so. A line of QEMU's is at most GW_QMP_LINE_MAX bytes.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_QMP_H
#define GODWIT_ENGINE_VMM_QEMU_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define GW_QMP_LINE_MAX   (16u << 20)
#define GW_QMP_EVENTS_MAX 1024u
#define GW_QMP_TIMEOUT_MS 10000u
#define GW_QMP_BATCH_MAX  16u

struct gw_qmp;

struct gw_qmp_version {
    unsigned major, minor, micro;
    char package[64];
};

/* Connects, reads the greeting and leaves negotiation mode, all within GW_QMP_TIMEOUT_MS. */
int gw_qmp_open(const char *path, struct gw_qmp **out);
/* The same on a connected socket; name is for messages. Takes over fd, on failure too. */
int gw_qmp_open_fd(int fd, const char *name, struct gw_qmp **out);
void gw_qmp_close(struct gw_qmp *qmp); /* takes NULL */

/* The process at the other end (SO_PEERCRED): QEMU's, when QEMU made the listening socket itself.
 */
pid_t gw_qmp_pid(const struct gw_qmp *qmp);
const char *gw_qmp_path(const struct gw_qmp *qmp);
const struct gw_qmp_version *gw_qmp_version(const struct gw_qmp *qmp);
int gw_qmp_fd(const struct gw_qmp *qmp); /* readable when an event may be waiting */
/* For the commands that follow; GW_QMP_TIMEOUT_MS at first. */
void gw_qmp_set_timeout(struct gw_qmp *qmp, uint32_t timeout_ms);

/* Runs one command. arguments (an object or NULL) is stolen, on failure too. *result is a new
 * reference; result may be NULL. */
int gw_qmp_execute(struct gw_qmp *qmp, const char *command, json_t *arguments, json_t **result);
/* As above, and sends a copy of fd along (getfd, add-fd). */
int gw_qmp_execute_fd(struct gw_qmp *qmp, const char *command, json_t *arguments, int fd,
                      json_t **result);
/* One command of a batch. arguments is stolen; result is the caller's to drop
 * (gw_qmp_batch_free). */
struct gw_qmp_call {
    const char *command;
    json_t *arguments;
    json_t *result; /* NULL when error is set */
    int error;
    bool may_fail; /* its error is not the batch's */
    int fd;        /* a descriptor to send along, plus one; 0: none. One in a batch */
};

/* Sends all commands at once and takes the answers: one round trip in place of count. QEMU runs
 * them in this order, the later ones too when an earlier one failed, so a batch holds nothing that
 * must not happen then. Returns the first error, with its message; each call has its own number. count is
 * at most GW_QMP_BATCH_MAX. */
int gw_qmp_execute_batch(struct gw_qmp *qmp, struct gw_qmp_call *calls, unsigned count);
void gw_qmp_batch_free(struct gw_qmp_call *calls, unsigned count); /* the results */
/* Runs what gw_qmp_command describes: {"execute": NAME, "arguments": {...}}. Borrows command. */
int gw_qmp_execute_object(struct gw_qmp *qmp, const json_t *command, json_t **result);
/* The JSON form of a command, for undo lists and transactions kept elsewhere. Steals arguments.
 * NULL when memory is short or arguments is NULL by such a failure. */
json_t *gw_qmp_command(const char *command, json_t *arguments);
/* One human monitor command; *text is the caller's to free. */
int gw_qmp_human(struct gw_qmp *qmp, const char *line, char **text);

/* The class of QEMU's last error answer ("GenericError"), or "" when the last command had none. */
const char *gw_qmp_error_class(const struct gw_qmp *qmp);

/* Waits for an event of that name that has not been waited for before; older events of other names
 * stay. match may be NULL. *event is a new reference; event may be NULL. */
typedef bool gw_qmp_match(const json_t *event, void *context);
int gw_qmp_wait_event(struct gw_qmp *qmp, const char *name, gw_qmp_match *match, void *context,
                      uint32_t timeout_ms, json_t **event);
/* Takes in what has arrived without blocking and hands out the oldest event, -EAGAIN when none. */
int gw_qmp_next_event(struct gw_qmp *qmp, json_t **event);
/* Forgets the kept events of that name (before a command whose event will be waited for). */
void gw_qmp_drop_events(struct gw_qmp *qmp, const char *name);

#endif
