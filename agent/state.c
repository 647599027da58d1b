/* SPDX-License-Identifier: Apache-2.0 */
/* Opens an agent's folder and keeps others out of it. The journal's content is the engine's. */
#include "agent/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "agent/paths.h"
#include "agent/snapshot.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/migration.h"
#include "engine/session/recover.h"

#define INSTANCE_NAME "instance-id"
#define JOURNAL_NAME  "journal.db"
#define LOCK_NAME     "lock"
#define LOCK_TRIES    25 /* 20 ms apart: a command may be reading what an agent left (left.h) */

static int lock_soon(int fd)
{
    const struct timespec pause = {.tv_nsec = 20000000};
    int answer;

    for (int i = 0;
         (answer = flock(fd, LOCK_EX | LOCK_NB)) != 0 && errno == EWOULDBLOCK && i < LOCK_TRIES;
         i++)
        nanosleep(&pause, NULL);
    return answer;
}

static int take_lock(struct gw_state *state)
{
    char path[PATH_MAX];
    int error = gw_path_join(state->folder, LOCK_NAME, path, sizeof(path));

    if (error)
        return error;
    state->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (state->lock_fd < 0)
        return gw_fail_write(-errno, "state %s", path);
    if (lock_soon(state->lock_fd) != 0)
        return errno == EWOULDBLOCK
                   ? gw_fail(-EBUSY,
                             "state %s: another agent has it; give each agent its own --state DIR",
                             state->folder)
                   : gw_fail_errno(-errno, "state %s", path);
    return 0;
}

static int write_instance(const char *path, const uint8_t *id)
{
    char temporary[PATH_MAX + 8];
    bool is_written;
    int fd;

    snprintf(temporary, sizeof(temporary), "%s.new", path);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return gw_fail_write(-errno, "state %s", temporary);
    is_written = write(fd, id, GW_ID_SIZE) == GW_ID_SIZE && fsync(fd) == 0;
    close(fd);
    if (!is_written || rename(temporary, path) != 0)
        return gw_fail_write(-errno, "state %s", path);
    return 0;
}

int gw_instance_load(const char *folder, uint8_t *id)
{
    char path[PATH_MAX];
    int fd, error = gw_path_join(folder, INSTANCE_NAME, path, sizeof(path));
    ssize_t got;

    if (error)
        return error;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return gw_fail_errno(-errno, "state %s", path);
    if (fd >= 0) {
        got = read(fd, id, GW_ID_SIZE);
        close(fd);
        if (got != GW_ID_SIZE)
            return gw_fail(-EUCLEAN, "state %s is damaged: %zd bytes, not %u", path, got,
                           GW_ID_SIZE);
        return 0;
    }
    if (getrandom(id, GW_ID_SIZE, 0) != GW_ID_SIZE)
        return gw_fail_errno(-errno, "random number");
    return write_instance(path, id);
}

int gw_state_open(const char *folder, bool allow_volatile, struct gw_state *out)
{
    char path[PATH_MAX];
    int error;

    memset(out, 0, sizeof(*out));
    out->lock_fd = -1;
    error = gw_path_absolute(folder, out->folder, sizeof(out->folder));
    if (!error)
        error = gw_path_make_folder(out->folder);
    if (!error)
        error = take_lock(out);
    if (!error)
        error = gw_instance_load(out->folder, out->instance_id);
    if (!error)
        error = gw_path_join(out->folder, JOURNAL_NAME, path, sizeof(path));
    if (!error)
        error = gw_journal_open(path, allow_volatile, &out->journal);
    if (error)
        gw_state_close(out);
    return error;
}

void gw_state_close(struct gw_state *state)
{
    if (state->journal)
        gw_journal_close(state->journal);
    state->journal = NULL;
    if (state->lock_fd >= 0)
        close(state->lock_fd);
    state->lock_fd = -1;
}

static int count_entry(const struct gw_journal_entry *entry, void *context)
{
    (*(int *)context)++;
    return 0;
}

int gw_state_undecided(struct gw_state *state)
{
    int count = 0;
    int error = gw_journal_each_open(state->journal, count_entry, &count);

    return error < 0 ? error : count;
}

struct description {
    json_t *list;
    struct gw_attended *attended;
    bool is_idle;
    bool is_failing; /* the journal, and why */
    struct gw_error failure;
};

/* Nobody has it in hand, and what would settle it cannot be recorded: the guest may stand still for that. */
static bool is_stuck(const struct description *description, const struct gw_journal_entry *entry)
{
    enum gw_handover_state state;

    return description->is_failing &&
           !gw_attended_has(description->attended, entry->epoch, entry->side) &&
           gw_handover_state_parse(entry->state, &state) == 0 && !gw_handover_is_decided(state);
}

/* What waits for a person, with the command that settles it; and what an agent left behind. */
static int describe_entry(const struct gw_journal_entry *entry, void *context)
{
    struct description *description = context;
    bool is_unrecorded = is_stuck(description, entry);
    bool is_in_doubt = is_unrecorded || gw_resolve_is_in_doubt(entry);
    json_t *object;

    if (!is_in_doubt && !description->is_idle)
        return 0;
    object = gw_resolve_describe(entry);
    if (!object)
        return gw_fail(-ENOMEM, "out of memory");
    json_object_set_new(object, "is_in_doubt", json_boolean(is_in_doubt));
    if (is_unrecorded)
        json_object_set_new(object, "meaning", gw_json_text(description->failure.text));
    if (gw_recover_check_here(entry))
        json_object_set_new(object, "away", gw_json_text(gw_error_message()));
    if (entry->detail)
        json_object_set(object, "detail", entry->detail);
    json_array_append_new(description->list, object);
    return 0;
}

json_t *gw_state_describe(struct gw_state *state, struct gw_attended *attended, bool is_idle)
{
    struct description description = {
        .list = json_array(), .attended = attended, .is_idle = is_idle};

    description.is_failing = gw_journal_is_failing(state->journal, &description.failure);
    if (gw_journal_each_open(state->journal, describe_entry, &description) < 0)
        json_array_append_new(description.list,
                              json_pack("{s:s, s:o, s:b}", "state", "unknown", "meaning",
                                        gw_json_text(gw_error_message()), "is_in_doubt", 1));
    return description.list;
}
