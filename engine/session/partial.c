/* SPDX-License-Identifier: Apache-2.0 */
/* The store of unfinished migrations: files, and what they stand for. What of that is in a QEMU is partial-vmm.c's; who
 * goes on from them is elsewhere (move-partial.c, serve-partial.c, copy-partial.c). */
#include "engine/session/partial.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "engine/handover/guard.h"
#include "engine/handover/handover.h"
#include "engine/session/attended.h"
#include "engine/session/dial.h"
#include "engine/session/message.h"
#include "engine/session/named.h"
#include "engine/session/parts.h"

#define FILE_MAX (1u << 20) /* bytes of one file */

static const char *const side_names[] = {"source", "target"};
#define UNFINISHED ".new" /* after the name of a note that is being written */

static int folder_of(const struct gw_environment *environment, char *out)
{
    if (snprintf(out, PATH_MAX, "%s/partial", environment->state_dir) >= PATH_MAX)
        return gw_fail(-ENAMETOOLONG, "the state folder %s has too long a name",
                       environment->state_dir);
    return 0;
}

static int path_of(const struct gw_environment *environment, const char *epoch,
                   enum gw_journal_side side, char *out)
{
    int length = snprintf(out, PATH_MAX, "%s/partial/%s.%s", environment->state_dir, epoch,
                          side_names[side]);

    return length < PATH_MAX ? 0 : gw_fail(-ENAMETOOLONG, "the state folder has too long a name");
}

static int sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 || fsync(fd) ? gw_fail_errno(-errno, "%s", folder) : 0;

    if (fd >= 0)
        close(fd);
    return error;
}

static int write_file(const char *path, const json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT), temporary[PATH_MAX + 8];
    size_t length = text ? strlen(text) : 0;
    int fd, error = 0;

    if (!text || length > FILE_MAX) {
        free(text);
        return gw_fail(-ENOMEM, "%s: the record is too large", path);
    }
    snprintf(temporary, sizeof(temporary), "%s" UNFINISHED, path);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    /* A write that is cut short says nothing: there was no more room. */
    errno = fd < 0 ? errno : ENOSPC;
    if (fd < 0 || write(fd, text, length) != (ssize_t)length || fsync(fd) ||
        rename(temporary, path))
        error = gw_fail_write(-errno, "cannot write %s", path);
    if (fd >= 0)
        close(fd);
    if (error)
        unlink(temporary);
    free(text);
    return error;
}

int gw_partial_write(const struct gw_environment *environment, struct gw_partial *partial)
{
    char folder[PATH_MAX], path[PATH_MAX];
    json_t *object;
    int error;

    if (!environment->state_dir)
        return 0;
    partial->changed_ns = gw_clock_wall_ns();
    error = folder_of(environment, folder);
    if (!error && mkdir(folder, 0700) && errno != EEXIST)
        error = gw_fail_write(-errno, "cannot make the folder %s", folder);
    if (!error)
        error = path_of(environment, partial->epoch, partial->side, path);
    if (error)
        return error;
    object = json_pack("{s:b,s:I,s:O}", "kept", (int)partial->is_kept, "changed_ns",
                       (json_int_t)partial->changed_ns, "detail", partial->detail);
    error = write_file(path, object);
    json_decref(object);
    return error ? error : sync_folder(folder);
}

void gw_partial_note_finished(const struct gw_environment *environment, struct gw_partial *partial)
{
    if (!partial->is_kept)
        return;
    gw_part_note_finished(json_object_get(partial->detail, "disks"));
    if (gw_partial_write(environment, partial))
        gw_log(GW_LOG_WARNING, "%s", gw_error_message());
}

static int read_file(const char *path, struct gw_partial *out)
{
    json_error_t fault;
    json_t *object;
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &status)) {
        int error = gw_fail_errno(-errno, "%s", path);

        if (fd >= 0)
            close(fd);
        return error;
    }
    errno = 0;
    object = status.st_size <= (off_t)FILE_MAX ? json_loadfd(fd, 0, &fault) : NULL;
    close(fd);
    /* What cannot be read is not damaged. */
    if (!object && (errno == EIO || errno == ENOMEM))
        return gw_fail_errno(-errno, "%s", path);
    if (!json_is_object(json_object_get(object, "detail"))) {
        json_decref(object);
        return gw_fail(-EUCLEAN, "%s is damaged: godwit cancel %.12s on its host removes it", path,
                       strrchr(path, '/') + 1);
    }
    out->is_kept = json_is_true(json_object_get(object, "kept"));
    out->changed_ns = (uint64_t)json_integer_value(json_object_get(object, "changed_ns"));
    out->detail = json_incref(json_object_get(object, "detail"));
    json_decref(object);
    return 0;
}

int gw_partial_read(const struct gw_environment *environment, const char *epoch,
                    enum gw_journal_side side, struct gw_partial *out)
{
    char path[PATH_MAX];
    int error = environment->state_dir ? path_of(environment, epoch, side, path) : -ENOENT;

    memset(out, 0, sizeof(*out));
    snprintf(out->epoch, sizeof(out->epoch), "%s", epoch);
    out->side = side;
    return error ? error : read_file(path, out);
}

bool gw_partial_is_kept(const struct gw_environment *environment, const char *epoch,
                        enum gw_journal_side side)
{
    struct gw_partial partial;
    int error = gw_partial_read(environment, epoch, side, &partial);
    bool is_kept = error ? error != -ENOENT && error != -EUCLEAN : partial.is_kept;

    gw_partial_free(&partial);
    return is_kept;
}

void gw_partial_free(struct gw_partial *partial)
{
    json_decref(partial->detail);
    partial->detail = NULL;
}

void gw_partial_forget(const struct gw_environment *environment, const char *epoch,
                       enum gw_journal_side side)
{
    struct gw_partial partial = {.detail = NULL};
    const json_t *disk;
    char path[PATH_MAX];
    size_t index;

    if (!environment->state_dir || path_of(environment, epoch, side, path))
        return;
    if (gw_partial_read(environment, epoch, side, &partial) == 0) {
        gw_partial_give_back(environment, &partial);
        json_array_foreach(json_object_get(partial.detail, "disks"), index, disk)
        {
            gw_part_end(disk);
            if (gw_part_sync(disk))
                gw_log(GW_LOG_WARNING, "%s", gw_error_message());
        }
    }
    gw_partial_free(&partial);
    unlink(path);
}

int gw_partial_unlink(const struct gw_environment *environment, const struct gw_partial *partial,
                      bool *is_gone)
{
    char folder[PATH_MAX], path[PATH_MAX];
    int error = folder_of(environment, folder);

    if (!error)
        error = path_of(environment, partial->epoch, partial->side, path);
    if (!error && unlink(path) && errno != ENOENT)
        error = gw_fail_errno(-errno, "cannot remove %s", path);
    *is_gone = !error;
    return error ? error : sync_folder(folder);
}

/* "EPOCH.source": false for any other name. */
static bool parse_name(const char *name, struct gw_partial *out)
{
    const char *dot = strchr(name, '.');

    if (!dot || dot - name != 32)
        return false;
    for (int side = GW_SIDE_SOURCE; side <= (int)GW_SIDE_TARGET; side++) {
        if (strcmp(dot + 1, side_names[side]) != 0)
            continue;
        snprintf(out->epoch, sizeof(out->epoch), "%.32s", name);
        out->side = (enum gw_journal_side)side;
        return true;
    }
    return false;
}

int gw_partial_each(const struct gw_environment *environment,
                    int (*each)(const struct gw_partial *partial, void *context), void *context)
{
    char folder[PATH_MAX];
    struct dirent *item;
    int result = 0;
    DIR *list;

    if (!environment->state_dir || folder_of(environment, folder))
        return 0;
    list = opendir(folder);
    if (!list)
        return 0;
    while (result == 0 && (item = readdir(list)) != NULL) {
        struct gw_partial named, partial;

        if (!parse_name(item->d_name, &named))
            continue;
        if (gw_partial_read(environment, named.epoch, named.side, &partial) == 0)
            result = each(&partial, context);
        gw_partial_free(&partial);
    }
    closedir(list);
    return result;
}

/* The one of that name, or why not. */
static int find_damaged(const char *folder, const char *word, struct gw_partial *out)
{
    const struct dirent *item;
    unsigned count = 0;
    DIR *list = opendir(folder);

    while (list && (item = readdir(list)) != NULL) {
        struct gw_partial named, partial = {.detail = NULL};
        char path[PATH_MAX + NAME_MAX];

        if (!parse_name(item->d_name, &named) || !gw_named_is(named.epoch, NULL, word))
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, item->d_name);
        if (read_file(path, &partial) == -EUCLEAN) {
            *out = named;
            count++;
        }
        gw_partial_free(&partial);
    }
    if (list)
        closedir(list);
    if (count > 1)
        return gw_fail(-EINVAL, "more than one note that is damaged begins with %.40s", word);
    return count ? 0 : gw_fail(-ENOENT, "no note of %.40s is damaged", word);
}

int gw_partial_forget_damaged(const struct gw_environment *environment, const char *word)
{
    struct gw_partial found = {.detail = NULL};
    char folder[PATH_MAX];
    int error =
        environment->state_dir && environment->attended ? folder_of(environment, folder) : -ENOENT;

    if (!error)
        error = find_damaged(folder, word, &found);
    if (!error)
        error = gw_attend(environment->attended, found.epoch, found.side);
    if (error)
        return error;
    gw_partial_forget(environment, found.epoch, found.side);
    gw_unattend(environment->attended, found.epoch, found.side);
    gw_log(
        GW_LOG_WARNING,
        "migration %.12s: its note was damaged and is removed; what it stood for may be left: "
        "files called NAME.godwit-%s.part and .journal, or with the digits of an attempt that it "
        "went on with",
        found.epoch, found.epoch);
    return 0;
}

/* ---- what it stands for ---- */

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

/* Images that have their names are their owner's, whatever became of them since; those of a chain that lacks a name are
 * of no use. Names alone decide: what they stand for may have changed. */
static bool lacks_names(const struct gw_partial *partial)
{
    const json_t *disk;
    size_t index;

    json_array_foreach(json_object_get(partial->detail, "disks"), index,
                       disk) if (gw_part_is_seen(disk)) return true;
    return false;
}

static int unlink_parts(const struct gw_partial *partial)
{
    bool takes_finished =
        json_is_true(json_object_get(partial->detail, GW_TAKES_FINISHED)) && lacks_names(partial);
    const json_t *disk;
    size_t index;
    int error = 0;

    /* Before the parts, so that one that is cut short still lacks names. */
    json_array_foreach(json_object_get(partial->detail, "disks"), index,
                       disk) if (takes_finished && !error) error = gw_part_unlink_finished(disk);
    json_array_foreach(json_object_get(partial->detail, "disks"), index, disk)
    {
        if (!error)
            error = gw_part_unlink(disk, partial->epoch);
        if (!error)
            error = gw_part_sync(disk);
    }
    return error;
}

int gw_partial_check_here(const struct gw_partial *partial)
{
    const json_t *disk;
    size_t index;
    int error = 0;

    json_array_foreach(json_object_get(partial->detail, "disks"), index, disk)
    {
        error = gw_part_check_here(disk);
        if (error)
            break;
    }
    return error;
}

bool gw_partial_is_given_up(const struct gw_partial *partial)
{
    return json_is_true(json_object_get(partial->detail, "given-up"));
}

bool gw_partial_is_of_note(const struct gw_partial *partial)
{
    return partial->is_kept || gw_partial_is_given_up(partial) || gw_partial_check_here(partial);
}

static void give_up(const struct gw_environment *environment, const struct gw_partial *partial)
{
    struct gw_partial later = *partial;

    if (gw_partial_is_given_up(partial))
        return;
    gw_log(
        GW_LOG_WARNING,
        "migration %.12s: what it left here is removed when it can be: %s, or godwit cancel %.12s "
        "forgets it",
        partial->epoch, gw_error_message(), partial->epoch);
    gw_partial_give_back(environment, &later);
    later.is_kept = false;
    json_object_set_new(later.detail, "given-up", json_true());
    if (gw_partial_write(environment, &later))
        gw_log(GW_LOG_WARNING, "%s", gw_error_message());
}

enum known { UNKNOWN, OPEN, ENDED };

/* What the journal says of it. Never UNKNOWN by mistake: a VM that runs must not be ended. */
static enum known ask_journal(const struct gw_environment *environment,
                              const struct gw_partial *partial)
{
    enum gw_handover_state state = GW_HANDOVER_NONE;
    struct gw_journal_entry entry;
    /* Who has no journal has never moved a VM. */
    int error = environment->journal
                    ? gw_journal_find(environment->journal, partial->epoch, partial->side, &entry)
                    : -ENOENT;

    if (error)
        return error == -ENOENT ? UNKNOWN : OPEN;
    error = gw_handover_state_parse(entry.state, &state);
    gw_journal_entry_free(&entry);
    return error || !gw_handover_is_ended(state) ? OPEN : ENDED;
}

/* The QEMU of an offer that was never answered: nothing else knows of it. */
static int end_launched(const struct gw_environment *environment, const struct gw_partial *partial)
{
    return partial->side == GW_SIDE_TARGET && ask_journal(environment, partial) == UNKNOWN
               ? gw_partial_end_launched(partial)
               : 0;
}

void gw_partial_drop(const struct gw_environment *environment, const struct gw_partial *partial)
{
    struct gw_partial own = *partial;

    gw_partial_drop_followers(environment, partial);
    /* At once, for whoever finds the note later: the earlier attempt may have ended by then. */
    if (gw_partial_give_back(environment, &own) && gw_partial_write(environment, &own))
        gw_log(GW_LOG_WARNING, "%s", gw_error_message());
    if (end_launched(environment, partial) || gw_partial_check_here(partial)) {
        give_up(environment, partial);
        return;
    }
    if (unlink_parts(partial)) {
        give_up(environment, partial);
        return;
    }
    if (json_object_get(partial->detail, "qmp") && gw_partial_clean_source(environment, partial)) {
        give_up(environment, partial);
        return;
    }
    gw_partial_forget(environment, partial->epoch, partial->side);
}

void gw_partial_cancel(const struct gw_environment *environment, const struct gw_partial *partial)
{
    struct gw_control_frame frame = {.message = NULL};
    bool is_provisional = gw_partial_is_provisional(environment, partial);
    bool takes_finished = json_is_true(json_object_get(partial->detail, GW_TAKES_FINISHED));
    struct gw_control *control;

    gw_partial_drop(environment, partial);
    /* Its source learns of it when it asks; a copy on one host has no other side; and of a copy that
     * had nothing to keep the other side keeps nothing. */
    if (partial->side == GW_SIDE_TARGET || !text_of(partial->detail, "peer")[0] ||
        (!partial->is_kept && strcmp(text_of(partial->detail, "kind"), "copy") == 0))
        return;
    if (gw_dial_again(environment, json_string_value(json_object_get(partial->detail, "peer")),
                      &control)) {
        gw_log(GW_LOG_WARNING, "move %s: the target keeps its part until it is too old: %s",
               partial->epoch, gw_error_message());
        return;
    }
    if (gw_message_send(control, json_pack("{s:s,s:s,s:s,s:b,s:b}", "type", "handover", "message",
                                           gw_handover_event_name(GW_EVENT_ABORT), "epoch",
                                           partial->epoch, "keep", (int)is_provisional,
                                           GW_TAKES_FINISHED, (int)takes_finished)) == 0 &&
        gw_control_receive(control, GW_DIAL_TIMEOUT_MS, &frame) == 0)
        json_decref(frame.message);
    gw_message_send_type(control, "bye");
    gw_control_close(control);
}

int gw_partial_say_kept(const struct gw_error *cause, const char *epoch)
{
    return gw_fail(cause->code, "%.300s; what was copied is kept: godwit resume %.12s goes on",
                   cause->text, epoch);
}

bool gw_partial_is_loss(int error)
{
    static const int losses[] = {ECONNRESET, EPIPE,        ETIMEDOUT,   ECONNREFUSED, ECONNABORTED,
                                 ENOTCONN,   EHOSTUNREACH, ENETUNREACH, ENETDOWN,     EHOSTDOWN};

    for (size_t i = 0; i < sizeof(losses) / sizeof(losses[0]); i++)
        if (error == -losses[i])
            return true;
    return false;
}

/* ---- the agent's rounds ---- */

struct rounds {
    const struct gw_environment *environment;
    bool is_start;
};

/* A move that ended at its target when its images were complete: no part has its name any more. */
static bool has_parts(const struct gw_partial *partial)
{
    const json_t *disk;
    size_t index;

    if (partial->side != GW_SIDE_TARGET || strcmp(text_of(partial->detail, "kind"), "move") != 0)
        return true;
    json_array_foreach(json_object_get(partial->detail, "disks"), index, disk)
    {
        const char *part = text_of(disk, "part");

        /* A device has no other name: what is on it may be a part. */
        if (!part[0] || gw_part_look(part, json_object_get(disk, "folder")) != -ENOENT)
            return true;
    }
    return false;
}

static int look_at(const struct gw_partial *partial, void *context)
{
    const struct rounds *rounds = context;
    const struct gw_environment *environment = rounds->environment;
    uint64_t now_ns = gw_clock_wall_ns();
    /* A clock that was set back makes nothing old. */
    uint64_t age_ns = now_ns > partial->changed_ns ? now_ns - partial->changed_ns : 0;
    bool is_late = age_ns / GW_NS_PER_S >= (uint64_t)environment->keep_partial_hours * 3600;
    bool is_given_up = gw_partial_is_given_up(partial);
    enum known known = ask_journal(environment, partial);
    bool is_dead =
        (rounds->is_start || known == ENDED) && gw_partial_is_provisional(environment, partial);

    /* Recovery, or whoever has it in hand, sees to it. */
    if (known == OPEN || gw_attend(environment->attended, partial->epoch, partial->side))
        return 0;
    /* Its QEMU was cleaned before, which takes the socket to know whose server it has. */
    if (rounds->is_start && known == ENDED)
        gw_partial_remove_sockets(partial);
    if ((rounds->is_start || is_given_up) && end_launched(environment, partial)) {
        give_up(environment, partial);
    } else if (is_given_up && gw_partial_check_here(partial)) {
        /* Once more in the next round. */
    } else if (partial->is_kept && !is_dead &&
                       (known != ENDED || !rounds->is_start || has_parts(partial))
                   ? is_late
                   : rounds->is_start || is_dead) {
        gw_log(GW_LOG_INFO, "migration %.12s: what it left here is removed", partial->epoch);
        /* The target of one that died before its first record would wait for it. */
        gw_partial_cancel(environment, partial);
    } else if (is_given_up &&
               (!json_object_get(partial->detail, "qmp") ||
                gw_attended_is_due(environment->attended, partial->epoch, partial->side))) {
        gw_partial_drop(environment, partial); /* the other host was told at first */
    }
    gw_unattend(environment->attended, partial->epoch, partial->side);
    return 0;
}

/* Whoever writes a note has it in hand: this one was cut short. */
static void remove_cut(const struct gw_environment *environment, int folder_fd, const char *name)
{
    char note[NAME_MAX + 1];
    struct gw_partial named;

    snprintf(note, sizeof(note), "%.*s", (int)(strlen(name) - strlen(UNFINISHED)), name);
    if (!environment->attended || !parse_name(note, &named) ||
        gw_attend(environment->attended, named.epoch, named.side))
        return;
    unlinkat(folder_fd, name, 0);
    gw_unattend(environment->attended, named.epoch, named.side);
}

/* Notes that were being written when an agent was killed. */
static void remove_unfinished(const struct gw_environment *environment)
{
    char folder[PATH_MAX];
    DIR *list = folder_of(environment, folder) ? NULL : opendir(folder);
    const struct dirent *item;

    while (list && (item = readdir(list)) != NULL) {
        size_t length = strlen(item->d_name), tail = strlen(UNFINISHED);

        if (length > tail && strcmp(item->d_name + length - tail, UNFINISHED) == 0)
            remove_cut(environment, dirfd(list), item->d_name);
    }
    if (list)
        closedir(list);
}

/* Of a move that is at its end, and whose agent died before it removed the log. */
static void tidy_guard_log(const struct gw_environment *environment, const char *name)
{
    struct gw_partial partial = {.side = GW_SIDE_SOURCE};
    char log[PATH_MAX];
    int end = 0;

    if (sscanf(name, "guard-%32[0-9a-f].log%n", partial.epoch, &end) != 1 || end == 0 ||
        name[end] ||
        snprintf(log, sizeof(log), "%s/%s", environment->state_dir, name) >= (int)sizeof(log) ||
        gw_attend(environment->attended, partial.epoch, partial.side))
        return;
    if (ask_journal(environment, &partial) == ENDED)
        gw_guard_take_over(log, 0);
    gw_unattend(environment->attended, partial.epoch, partial.side);
}

static void tidy_guard_logs(const struct gw_environment *environment)
{
    DIR *list = environment->state_dir ? opendir(environment->state_dir) : NULL;
    const struct dirent *item;

    while (list && (item = readdir(list)) != NULL)
        tidy_guard_log(environment, item->d_name);
    if (list)
        closedir(list);
}

void gw_partials_tidy(const struct gw_environment *environment, bool is_start)
{
    struct rounds rounds = {.environment = environment, .is_start = is_start};

    if (is_start && environment->state_dir)
        remove_unfinished(environment);
    if (!environment->attended)
        return;
    gw_partial_each(environment, look_at, &rounds);
    tidy_guard_logs(environment);
}

struct described {
    const struct gw_environment *environment;
    json_t *list;
};

static int describe(const struct gw_partial *partial, void *context)
{
    bool is_given_up = gw_partial_is_given_up(partial);
    struct gw_error away = {0};
    const struct described *described = context;
    const json_t *disk;
    json_int_t bytes = 0;
    size_t index;

    gw_error_take(gw_partial_check_here(partial), &away);
    if ((!partial->is_kept && !is_given_up && !away.code) ||
        gw_partial_is_provisional(described->environment, partial))
        return 0;
    json_array_foreach(json_object_get(partial->detail, "disks"), index, disk) bytes +=
        json_object_get(disk, "journal") ? (json_int_t)gw_part_durable(disk)
                                         : json_integer_value(json_object_get(disk, "copied"));
    json_array_append_new(
        described->list,
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:b,s:b,s:s*}", "epoch", partial->epoch, "side",
                  side_names[partial->side], "kind", text_of(partial->detail, "kind"), "vm",
                  text_of(partial->detail, "vm"), "peer",
                  partial->side == GW_SIDE_SOURCE ? text_of(partial->detail, "peer") : "", "bytes",
                  bytes, "changed_ms", (json_int_t)(partial->changed_ns / GW_NS_PER_MS), "kept",
                  (int)partial->is_kept, "given_up", (int)is_given_up, "away",
                  away.code ? away.text : NULL));
    return 0;
}

json_t *gw_partials_describe(const struct gw_environment *environment)
{
    struct described described = {.environment = environment, .list = json_array()};

    gw_partial_each(environment, describe, &described);
    return described.list;
}
