/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps the history in SQLite. It reads no journal and decides nothing. */
#include "agent/history.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/snapshot.h"
#include "common/error.h"
#include "common/json.h"

#define BUSY_TIMEOUT_MS 5000

struct gw_history {
    pthread_mutex_t lock; /* protects database; leaf */
    sqlite3 *database;
    char *path;
};

static int fail(struct gw_history *history, const char *doing)
{
    bool is_short =
        !history->database || (sqlite3_errcode(history->database) & 0xff) == SQLITE_NOMEM;

    bool is_full = history->database && (sqlite3_errcode(history->database) & 0xff) == SQLITE_FULL;

    return gw_fail(is_short ? -ENOMEM : -EIO, "history %s: %s: %s%s", history->path, doing,
                   history->database ? sqlite3_errmsg(history->database) : "out of memory",
                   is_full ? gw_error_way_out(-ENOSPC) : "");
}

static int prepare(struct gw_history *history, const char *sql, sqlite3_stmt **out)
{
    if (sqlite3_prepare_v2(history->database, sql, -1, out, NULL) != SQLITE_OK)
        return fail(history, "prepare");
    return 0;
}

static int create(struct gw_history *history)
{
    static const char schema[] = "PRAGMA journal_mode=WAL;"
                                 "PRAGMA synchronous=NORMAL;"
                                 "CREATE TABLE IF NOT EXISTS history("
                                 "  number INTEGER PRIMARY KEY AUTOINCREMENT,"
                                 "  id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL,"
                                 "  what TEXT NOT NULL, peer TEXT NOT NULL,"
                                 "  state TEXT NOT NULL, exit_code INTEGER NOT NULL,"
                                 "  message TEXT NOT NULL, detail TEXT NOT NULL,"
                                 "  submitted INTEGER NOT NULL, ended INTEGER NOT NULL,"
                                 "  owner INTEGER NOT NULL);";

    sqlite3_busy_timeout(history->database, BUSY_TIMEOUT_MS);
    if (sqlite3_exec(history->database, schema, NULL, NULL, NULL) != SQLITE_OK)
        return fail(history, "create");
    return 0;
}

/* SQLite would make the file with the umask; what was migrated is nobody else's business. */
static int create_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0)
        return gw_fail_write(-errno, "history %s", path);
    close(fd);
    return 0;
}

int gw_history_open(const char *path, struct gw_history **out)
{
    struct gw_history *history = calloc(1, sizeof(*history));
    int error;

    if (!history)
        return gw_fail(-ENOMEM, "out of memory");
    pthread_mutex_init(&history->lock, NULL);
    history->path = strdup(path);
    if (!history->path) {
        error = gw_fail(-ENOMEM, "out of memory");
        goto err;
    }
    error = create_file(path);
    if (error)
        goto err;
    if (sqlite3_open_v2(path, &history->database,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK) {
        error = fail(history, "open");
        goto err;
    }
    error = create(history);
    if (error)
        goto err;
    *out = history;
    return 0;
err:
    gw_history_close(history);
    return error;
}

void gw_history_close(struct gw_history *history)
{
    if (!history)
        return;
    sqlite3_close(history->database);
    pthread_mutex_destroy(&history->lock);
    free(history->path);
    free(history);
}

/* The text is lent until the statement is ended. */
static void bind_text(sqlite3_stmt *statement, int index, const char *text)
{
    sqlite3_bind_text(statement, index, text ? text : "", -1, SQLITE_STATIC);
}

static int put_locked(struct gw_history *history, const struct gw_history_entry *entry)
{
    static const char sql[] =
        "INSERT INTO "
        "history(id,kind,what,peer,state,exit_code,message,detail,submitted,ended,owner)"
        " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)"
        " ON CONFLICT(id) DO UPDATE SET state=?5,exit_code=?6,message=?7,detail=?8,ended=?10";
    unsigned failures = gw_json_failures();
    char *detail = entry->detail ? json_dumps(entry->detail, JSON_COMPACT) : NULL;
    sqlite3_stmt *statement;
    int error = gw_json_failures() != failures
                    ? gw_fail(-ENOMEM, "history %s: out of memory", history->path)
                    : prepare(history, sql, &statement);

    if (!error) {
        bind_text(statement, 1, entry->id);
        bind_text(statement, 2, entry->kind);
        bind_text(statement, 3, entry->what);
        bind_text(statement, 4, entry->peer);
        bind_text(statement, 5, entry->state);
        sqlite3_bind_int(statement, 6, entry->exit_code);
        bind_text(statement, 7, entry->message);
        bind_text(statement, 8, detail);
        sqlite3_bind_int64(statement, 9, (sqlite3_int64)entry->submitted_ns);
        sqlite3_bind_int64(statement, 10, (sqlite3_int64)entry->ended_ns);
        sqlite3_bind_int64(statement, 11, entry->owner_pid);
        if (sqlite3_step(statement) != SQLITE_DONE)
            error = fail(history, "put");
        sqlite3_finalize(statement);
    }
    free(detail);
    return error;
}

static int trim_locked(struct gw_history *history)
{
    sqlite3_stmt *statement;
    int error = prepare(history,
                        "DELETE FROM history WHERE number <= "
                        "(SELECT max(number) FROM history) - ?1 AND state NOT IN "
                        "('queued','running')",
                        &statement);

    if (error)
        return error;
    sqlite3_bind_int(statement, 1, GW_HISTORY_MAX);
    if (sqlite3_step(statement) != SQLITE_DONE)
        error = fail(history, "trim");
    sqlite3_finalize(statement);
    return error;
}

int gw_history_put(struct gw_history *history, const struct gw_history_entry *entry)
{
    int error;

    pthread_mutex_lock(&history->lock);
    error = put_locked(history, entry);
    if (!error)
        error = trim_locked(history);
    pthread_mutex_unlock(&history->lock);
    return error;
}

static int settle_locked(struct gw_history *history, const struct gw_history_end *end)
{
    sqlite3_stmt *statement;
    int error =
        prepare(history,
                "UPDATE history SET state='ended', exit_code=?3, ended=?6, message=message ||"
                " CASE message WHEN '' THEN '' ELSE '; in the end: ' END || ?4"
                " WHERE kind=?2 AND (state='interrupted' OR (state='ended' AND exit_code=?5))"
                " AND detail<>'' AND json_extract(detail,'$.epoch')=?1",
                &statement);

    if (error)
        return error;
    bind_text(statement, 1, end->epoch);
    bind_text(statement, 2, end->kind);
    sqlite3_bind_int(statement, 3, end->exit_code);
    bind_text(statement, 4, end->message);
    sqlite3_bind_int(statement, 5, end->doubt_code);
    sqlite3_bind_int64(statement, 6, (sqlite3_int64)end->ended_ns);
    if (sqlite3_step(statement) != SQLITE_DONE)
        error = fail(history, "settle");
    sqlite3_finalize(statement);
    return error;
}

int gw_history_settle(struct gw_history *history, const struct gw_history_end *end)
{
    int error;

    pthread_mutex_lock(&history->lock);
    error = settle_locked(history, end);
    pthread_mutex_unlock(&history->lock);
    return error;
}

static int interrupt_one(struct gw_history *history, sqlite3_int64 number)
{
    sqlite3_stmt *statement;
    int error = prepare(history,
                        "UPDATE history SET state='interrupted', exit_code=1, message="
                        "'the agent ended before the migration did' WHERE number=?1",
                        &statement);

    if (error)
        return error;
    sqlite3_bind_int64(statement, 1, number);
    if (sqlite3_step(statement) != SQLITE_DONE)
        error = fail(history, "interrupt");
    sqlite3_finalize(statement);
    return error;
}

static int interrupt_locked(struct gw_history *history, bool is_alone, int *count)
{
    sqlite3_stmt *statement;
    int step, error = prepare(history,
                              "SELECT number, owner FROM history WHERE state IN "
                              "('queued','running')",
                              &statement);

    if (error)
        return error;
    while (!error && (step = sqlite3_step(statement)) == SQLITE_ROW) {
        pid_t owner = (pid_t)sqlite3_column_int64(statement, 1);

        if (!is_alone && owner > 0 && (kill(owner, 0) == 0 || errno == EPERM))
            continue;
        error = interrupt_one(history, sqlite3_column_int64(statement, 0));
        (*count)++;
    }
    if (!error && step != SQLITE_DONE)
        error = fail(history, "list");
    sqlite3_finalize(statement);
    return error;
}

int gw_history_interrupt(struct gw_history *history, bool is_alone, int *count)
{
    int error;

    *count = 0;
    pthread_mutex_lock(&history->lock);
    error = interrupt_locked(history, is_alone, count);
    pthread_mutex_unlock(&history->lock);
    return error;
}

static json_t *column_text(sqlite3_stmt *statement, int column)
{
    const unsigned char *text = sqlite3_column_text(statement, column);

    return gw_json_text(text ? (const char *)text : "");
}

static json_t *row(sqlite3_stmt *statement)
{
    const char *detail = (const char *)sqlite3_column_text(statement, 7);
    json_t *parsed = detail && *detail ? json_loads(detail, 0, NULL) : NULL;

    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:i, s:o, s:o, s:I, s:I}", "job",
                     column_text(statement, 0), "kind", column_text(statement, 1), "what",
                     column_text(statement, 2), "peer", column_text(statement, 3), "state",
                     column_text(statement, 4), "exit_code", sqlite3_column_int(statement, 5),
                     "message", column_text(statement, 6), "detail", parsed ? parsed : json_null(),
                     "submitted_ms", (json_int_t)(sqlite3_column_int64(statement, 8) / 1000000),
                     "ended_ms", (json_int_t)(sqlite3_column_int64(statement, 9) / 1000000));
}

static int list_locked(struct gw_history *history, unsigned limit, json_t *list)
{
    unsigned failures = gw_json_failures();
    sqlite3_stmt *statement;
    int step, error = prepare(history,
                              "SELECT id,kind,what,peer,state,exit_code,message,detail,submitted,"
                              "ended FROM history ORDER BY number DESC LIMIT ?1",
                              &statement);

    if (error)
        return error;
    sqlite3_bind_int64(statement, 1, limit);
    while ((step = sqlite3_step(statement)) == SQLITE_ROW)
        json_array_append_new(list, row(statement));
    if (step != SQLITE_DONE)
        error = fail(history, "list");
    else if (gw_json_failures() != failures)
        error = gw_fail(-ENOMEM, "history %s: out of memory", history->path);
    sqlite3_finalize(statement);
    return error;
}

int gw_history_list(struct gw_history *history, unsigned limit, json_t **out)
{
    json_t *list = json_array();
    int error;

    if (!list)
        return gw_fail(-ENOMEM, "out of memory");
    pthread_mutex_lock(&history->lock);
    error = list_locked(history, limit, list);
    pthread_mutex_unlock(&history->lock);
    if (error) {
        json_decref(list);
        return error;
    }
    *out = list;
    return 0;
}
