/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal in SQLite. One transaction per record, which costs at most one sync of the write-ahead log;
 * the log is moved into the database only when the caller says so. It does not know which states
 * follow which.
 */
#include "engine/handover/journal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "engine/handover/handover.h"

#define SCHEMA_VERSION  1
#define BUSY_TIMEOUT_MS 2000
#define APPLICATION_ID  1735870001 /* 0x67774a31, "gwJ1" */
#define INSTANCE_SIZE   16

#ifndef RAMFS_MAGIC
#define RAMFS_MAGIC 0x858458f6
#endif

enum statement {
    BEGIN,
    COMMIT,
    ROLLBACK,
    PUT,
    HISTORY,
    FIND,
    COMPLETE,
    EACH,
    PAST,
    STATEMENT_COUNT
};

static const char *const statement_text[STATEMENT_COUNT] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [PUT] = "INSERT INTO migration(epoch, side, state, peer_instance, detail, changed_ns)"
            " VALUES(?1, ?2, ?3, ?4, ?5, ?6)"
            " ON CONFLICT(epoch, side) DO UPDATE SET state = excluded.state,"
            " peer_instance = excluded.peer_instance, detail = excluded.detail,"
            " changed_ns = excluded.changed_ns",
    [HISTORY] = "INSERT INTO history(epoch, side, state, at_ns) VALUES(?1, ?2, ?3, ?6)",
    [FIND] = "SELECT epoch, side, state, peer_instance, detail FROM migration"
             " WHERE epoch = ?1 AND side = ?2",
    [COMPLETE] = "SELECT epoch FROM migration"
                 " WHERE epoch >= ?1 AND epoch < ?1 || 'g' AND side = ?2 LIMIT 2",
    [EACH] = "SELECT epoch, side, state, peer_instance, detail FROM migration"
             " ORDER BY changed_ns, epoch, side",
    [PAST] = "SELECT state, at_ns FROM history WHERE epoch = ?1 AND side = ?2 ORDER BY number",
};

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS migration(epoch TEXT NOT NULL, side INTEGER NOT NULL,"
    " state TEXT NOT NULL, peer_instance BLOB NOT NULL, detail TEXT, changed_ns INTEGER NOT NULL,"
    " PRIMARY KEY(epoch, side));"
    "CREATE TABLE IF NOT EXISTS history(number INTEGER PRIMARY KEY, epoch TEXT NOT NULL,"
    " side INTEGER NOT NULL, state TEXT NOT NULL, at_ns INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS history_of ON history(epoch, side);"
    "CREATE TABLE IF NOT EXISTS checkpoint(count INTEGER NOT NULL);"
    "INSERT INTO checkpoint VALUES(0);"
    "PRAGMA user_version = 1;"
    "PRAGMA application_id = 1735870001;"
    "COMMIT;";

static_assert(APPLICATION_ID == 1735870001, "the schema names the same application id");
static_assert(SCHEMA_VERSION == 1, "the schema names the same version");

struct gw_journal {
    pthread_mutex_t lock; /* protects everything below; leaf */
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    char *path;
    bool is_synced;  /* a commit syncs the log */
    bool is_failing; /* the newest record failed, and somebody was told */
    struct gw_error failure;
    /* Set once, before others use the journal. */
    void (*recorded)(void *context, const struct gw_journal_entry *entry);
    void *context;
};

/* What the kernel said of the log or, without one, of the database: SQLite calls it all an I/O error, and
 * errno may be another call's by now. */
static int system_error(struct gw_journal *journal)
{
    sqlite3_file *log = NULL;
    int number = 0;

    /* Its index could not grow. Of this one SQLite does not keep what the kernel said. */
    if (sqlite3_extended_errcode(journal->database) == SQLITE_IOERR_SHMSIZE)
        return -ENOSPC;
    sqlite3_file_control(journal->database, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
    if (log && log->pMethods)
        log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &number);
    if (!number)
        sqlite3_file_control(journal->database, "main", SQLITE_FCNTL_LAST_ERRNO, &number);
    return number == ENOSPC || number == EDQUOT || number == EROFS || number == EACCES ? -number
                                                                                       : -EIO;
}

static int error_of(struct gw_journal *journal)
{
    switch (sqlite3_extended_errcode(journal->database) & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return -EACCES;
    case SQLITE_CANTOPEN:
        return -ENOENT;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EUCLEAN;
    case SQLITE_NOMEM:
        return -ENOMEM;
    default:
        return system_error(journal);
    }
}

/* The errno that fits what SQLite said last, with a message that names the file and the way out. */
static int fail(struct gw_journal *journal, const char *what)
{
    const int error = error_of(journal);
    const bool is_io = (sqlite3_extended_errcode(journal->database) & 0xff) == SQLITE_IOERR;
    char cause[96];

    return gw_fail(error, "journal %s: %s: %s%s", journal->path, what,
                   is_io ? strerror_r(-error, cause, sizeof(cause))
                         : sqlite3_errmsg(journal->database),
                   error == -EBUSY ? " (does another godwit use this state folder?)"
                                   : gw_error_way_out(error));
}

static int execute(struct gw_journal *journal, const char *sql, const char *what)
{
    if (sqlite3_exec(journal->database, sql, NULL, NULL, NULL) != SQLITE_OK)
        return fail(journal, what);
    return 0;
}

/* With NORMAL a commit is written and not synced: the next one that is syncs the whole log. */
static int set_synced(struct gw_journal *journal, bool is_synced)
{
    int error = 0;

    if (journal->is_synced != is_synced)
        error =
            execute(journal, is_synced ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL",
                    "cannot be told how durable a record is to be");
    if (error == 0)
        journal->is_synced = is_synced;
    return error;
}

static int read_number(void *out, int columns, char **values, char **names)
{
    if (columns > 0 && values[0] != NULL)
        *(long *)out = strtol(values[0], NULL, 10);
    return 0;
}

static int read_text(void *out, int columns, char **values, char **names)
{
    char *text = out;

    text[0] = '\0';
    if (columns > 0 && values[0] != NULL)
        strncat(text, values[0], 63);
    return 0;
}

/* The folder exists, is durable, and the file is there with its mode before SQLite sees it. */
static int prepare_file(const char *path, bool allow_volatile)
{
    char folder[4096];
    struct statfs fs;
    struct stat status;
    int fd, folder_fd, error = 0;

    if (strlen(path) >= sizeof(folder))
        return gw_fail(-ENAMETOOLONG, "journal: the path is longer than %zu bytes", sizeof(folder));
    strcpy(folder, path);
    folder_fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder_fd < 0)
        return gw_fail_errno(-errno, "journal %s: cannot open its folder", path);
    if (fstatfs(folder_fd, &fs) != 0) {
        error = gw_fail_errno(-errno, "journal %s: cannot tell its file system", path);
    } else if (!allow_volatile && (fs.f_type == TMPFS_MAGIC || fs.f_type == (long)RAMFS_MAGIC)) {
        error =
            gw_fail(-ENOTSUP,
                    "journal %s: on tmpfs, where no promise outlives a power cut; give --state a "
                    "folder on a disk",
                    path);
    }
    if (error != 0)
        goto out;
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        error = gw_fail_write(-errno, "journal %s: cannot be opened for writing", path);
        goto out;
    }
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        error = gw_fail(-EINVAL, "journal %s: is not a regular file", path);
    /* The name itself must outlive a power cut. */
    else if (fsync(folder_fd) != 0)
        error = gw_fail_write(-errno, "journal %s: cannot sync its folder", path);
    close(fd);
out:
    close(folder_fd);
    return error;
}

static int set_up_schema(struct gw_journal *journal)
{
    char check[64] = "";
    long version = 0, application = 0, tables = 0;
    int error;

    if (sqlite3_exec(journal->database, "PRAGMA user_version", read_number, &version, NULL) !=
            SQLITE_OK ||
        sqlite3_exec(journal->database, "PRAGMA application_id", read_number, &application, NULL) !=
            SQLITE_OK ||
        sqlite3_exec(journal->database, "SELECT count(*) FROM sqlite_master", read_number, &tables,
                     NULL) != SQLITE_OK)
        return fail(journal, "cannot be read");
    if (tables == 0 && version == 0)
        return execute(journal, schema, "cannot be laid out");
    if (application != APPLICATION_ID)
        return gw_fail(-EINVAL, "journal %s: is a database of another program", journal->path);
    if (version != SCHEMA_VERSION)
        return gw_fail(
            -ENOTSUP,
            "journal %s: has version %ld, this godwit knows %d; use the godwit that wrote it",
            journal->path, version, SCHEMA_VERSION);
    error = sqlite3_exec(journal->database, "PRAGMA quick_check(1)", read_text, check, NULL);
    if (error != SQLITE_OK)
        return fail(journal, "is damaged");
    if (strcmp(check, "ok") != 0)
        return gw_fail(-EUCLEAN, "journal %s: is damaged: %s", journal->path, check);
    return 0;
}

static int set_up(struct gw_journal *journal)
{
    char mode[64] = "";
    int error;

    sqlite3_extended_result_codes(journal->database, 1);
    sqlite3_busy_timeout(journal->database, BUSY_TIMEOUT_MS);
    if (sqlite3_exec(journal->database, "PRAGMA journal_mode=WAL", read_text, mode, NULL) !=
        SQLITE_OK)
        return fail(journal, "cannot be opened");
    if (strcmp(mode, "wal") != 0)
        return gw_fail(-ENOTSUP, "journal %s: the file system does not allow a write-ahead log",
                       journal->path);
    error = execute(journal,
                    "PRAGMA wal_autocheckpoint=0; PRAGMA trusted_schema=OFF;"
                    "PRAGMA checkpoint_fullfsync=ON; PRAGMA foreign_keys=OFF",
                    "cannot be set up");
    if (error == 0)
        error = set_synced(journal, true);
    if (error == 0)
        error = set_up_schema(journal);
    /* What an earlier life left in the log is moved now, so that the log is short in a pause. */
    if (error == 0)
        error = gw_journal_checkpoint(journal);
    for (unsigned i = 0; error == 0 && i < STATEMENT_COUNT; i++)
        if (sqlite3_prepare_v3(journal->database, statement_text[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &journal->statements[i], NULL) != SQLITE_OK)
            error = fail(journal, "has another layout than this godwit writes");
    return error;
}

int gw_journal_open(const char *path, bool allow_volatile, struct gw_journal **out)
{
    struct gw_journal *journal;
    int error = prepare_file(path, allow_volatile);

    if (error != 0)
        return error;
    journal = calloc(1, sizeof(*journal));
    if (journal == NULL)
        return gw_fail(-ENOMEM, "journal %s: out of memory", path);
    pthread_mutex_init(&journal->lock, NULL);
    journal->path = strdup(path);
    if (journal->path == NULL) {
        error = gw_fail(-ENOMEM, "journal %s: out of memory", path);
        goto err;
    }
    if (sqlite3_open_v2(path, &journal->database,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
                        NULL) != SQLITE_OK) {
        error = journal->database != NULL ? fail(journal, "cannot be opened")
                                          : gw_fail(-ENOMEM, "journal %s: out of memory", path);
        goto err;
    }
    error = set_up(journal);
    if (error != 0)
        goto err;
    *out = journal;
    return 0;
err:
    gw_journal_close(journal);
    return error;
}

void gw_journal_close(struct gw_journal *journal)
{
    if (journal == NULL)
        return;
    for (unsigned i = 0; i < STATEMENT_COUNT; i++)
        sqlite3_finalize(journal->statements[i]);
    sqlite3_close(journal->database);
    pthread_mutex_destroy(&journal->lock);
    free(journal->path);
    free(journal);
}

/* Runs a statement that returns no rows. */
static int run(struct gw_journal *journal, enum statement which, const char *what)
{
    sqlite3_stmt *statement = journal->statements[which];
    int error = 0;

    if (sqlite3_step(statement) != SQLITE_DONE)
        error = fail(journal, what);
    sqlite3_reset(statement);
    return error;
}

static void bind(sqlite3_stmt *statement, const struct gw_journal_entry *entry, const char *detail,
                 uint64_t now_ns)
{
    sqlite3_bind_text(statement, 1, entry->epoch, -1, SQLITE_STATIC);
    sqlite3_bind_int(statement, 2, (int)entry->side);
    sqlite3_bind_text(statement, 3, entry->state, -1, SQLITE_STATIC);
    sqlite3_bind_blob(statement, 4, entry->peer_instance, INSTANCE_SIZE, SQLITE_STATIC);
    if (detail != NULL)
        sqlite3_bind_text(statement, 5, detail, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(statement, 5);
    sqlite3_bind_int64(statement, 6, (sqlite3_int64)now_ns);
}

static int write_entry(struct gw_journal *journal, const struct gw_journal_entry *entry,
                       const char *detail, bool is_synced)
{
    const uint64_t now_ns = gw_clock_wall_ns();
    int error = set_synced(journal, is_synced);

    if (error == 0)
        error = run(journal, BEGIN, "cannot be written");
    if (error != 0)
        return error;
    bind(journal->statements[PUT], entry, detail, now_ns);
    bind(journal->statements[HISTORY], entry, detail, now_ns);
    error = run(journal, PUT, "cannot be written");
    if (error == 0)
        error = run(journal, HISTORY, "cannot be written");
    if (error == 0)
        error = run(journal, COMMIT, "cannot be made durable");
    sqlite3_clear_bindings(journal->statements[PUT]);
    sqlite3_clear_bindings(journal->statements[HISTORY]);
    if (error != 0 && sqlite3_get_autocommit(journal->database) == 0) {
        /* The first error is the one to tell; the transaction ends in any case. */
        sqlite3_step(journal->statements[ROLLBACK]);
        sqlite3_reset(journal->statements[ROLLBACK]);
    }
    return error;
}

/* Said once when it begins and once when it ends: who waits for a record tries every few seconds. Under the lock;
 * was it otherwise before? */
static bool note_failing(struct gw_journal *journal, int error)
{
    bool was_failing = journal->is_failing;

    journal->is_failing = error != 0;
    if (error)
        gw_error_take(error, &journal->failure);
    return was_failing != journal->is_failing;
}

int gw_journal_record(struct gw_journal *journal, const struct gw_journal_entry *entry)
{
    unsigned failures = gw_json_failures();
    enum gw_handover_state state;
    bool is_news;
    char *detail = NULL;
    int error = gw_handover_state_parse(entry->state, &state);

    if (error != 0)
        return error;
    if (!gw_handover_is_journalled(state) || gw_handover_side(state) != entry->side)
        return gw_fail(-EINVAL, "journal: state %s is never recorded by the %s", entry->state,
                       entry->side == GW_SIDE_SOURCE ? "source" : "target");
    if (entry->epoch[0] == '\0' || memchr(entry->epoch, '\0', sizeof(entry->epoch)) == NULL)
        return gw_fail(-EINVAL, "journal: the epoch is empty or not ended");
    if (entry->detail != NULL) {
        detail = json_dumps(entry->detail, JSON_COMPACT | JSON_ENCODE_ANY);
        if (detail == NULL)
            return gw_json_failures() != failures
                       ? gw_fail(-ENOMEM, "journal %s: out of memory", journal->path)
                       : gw_fail(-EINVAL, "journal: the detail of %s is not text", entry->epoch);
    }
    pthread_mutex_lock(&journal->lock);
    error = write_entry(journal, entry, detail, gw_handover_needs_sync(state));
    is_news = note_failing(journal, error);
    pthread_mutex_unlock(&journal->lock);
    free(detail);
    if (is_news && error)
        gw_log(GW_LOG_ERROR, "%s", gw_error_message());
    else if (is_news)
        gw_log(GW_LOG_WARNING, "journal %s: takes records again", journal->path);
    if (!error && journal->recorded)
        journal->recorded(journal->context, entry);
    return error;
}

bool gw_journal_is_failing(struct gw_journal *journal, struct gw_error *out)
{
    bool is_failing;

    pthread_mutex_lock(&journal->lock);
    is_failing = journal->is_failing;
    *out = journal->failure;
    pthread_mutex_unlock(&journal->lock);
    return is_failing;
}

void gw_journal_watch(struct gw_journal *journal,
                      void (*recorded)(void *context, const struct gw_journal_entry *entry),
                      void *context)
{
    journal->recorded = recorded;
    journal->context = context;
}

/* One row of FIND or EACH. On failure nothing in out is to be freed. */
static int decode(struct gw_journal *journal, sqlite3_stmt *row, struct gw_journal_entry *out)
{
    const char *epoch = (const char *)sqlite3_column_text(row, 0);
    const int side = sqlite3_column_int(row, 1);
    const char *state = (const char *)sqlite3_column_text(row, 2);
    const void *instance = sqlite3_column_blob(row, 3);
    const char *detail = (const char *)sqlite3_column_text(row, 4);
    enum gw_handover_state parsed;
    unsigned failures = gw_json_failures();

    memset(out, 0, sizeof(*out));
    /* What could not be read is not what is damaged. */
    if (sqlite3_errcode(journal->database) == SQLITE_NOMEM)
        return fail(journal, "cannot be read");
    if (epoch == NULL || strlen(epoch) >= sizeof(out->epoch) || state == NULL ||
        strlen(state) >= sizeof(out->state) || gw_handover_state_parse(state, &parsed) != 0 ||
        (side != GW_SIDE_SOURCE && side != GW_SIDE_TARGET) ||
        (int)gw_handover_side(parsed) != side || instance == NULL ||
        sqlite3_column_bytes(row, 3) != INSTANCE_SIZE)
        return gw_fail(-EUCLEAN, "journal %s: the entry of migration %.40s is damaged",
                       journal->path, epoch != NULL ? epoch : "(none)");
    strcpy(out->epoch, epoch);
    out->side = (enum gw_journal_side)side;
    strcpy(out->state, state);
    memcpy(out->peer_instance, instance, INSTANCE_SIZE);
    if (detail != NULL) {
        out->detail = json_loads(detail, JSON_DECODE_ANY, NULL);
        if (out->detail == NULL && gw_json_failures() != failures)
            return gw_fail(-ENOMEM, "journal %s: out of memory", journal->path);
        if (out->detail == NULL)
            return gw_fail(-EUCLEAN, "journal %s: the detail of migration %s is damaged",
                           journal->path, out->epoch);
    }
    return 0;
}

int gw_journal_find(struct gw_journal *journal, const char *epoch, enum gw_journal_side side,
                    struct gw_journal_entry *out)
{
    sqlite3_stmt *statement;
    int error;

    pthread_mutex_lock(&journal->lock);
    statement = journal->statements[FIND];
    sqlite3_bind_text(statement, 1, epoch, -1, SQLITE_STATIC);
    sqlite3_bind_int(statement, 2, (int)side);
    switch (sqlite3_step(statement)) {
    case SQLITE_ROW:
        error = decode(journal, statement, out);
        break;
    case SQLITE_DONE:
        error = gw_fail(-ENOENT, "journal %s: no record of migration %s", journal->path, epoch);
        break;
    default:
        error = fail(journal, "cannot be read");
        break;
    }
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    pthread_mutex_unlock(&journal->lock);
    return error;
}

int gw_journal_complete(struct gw_journal *journal, const char *start, enum gw_journal_side side,
                        char epoch[GW_EPOCH_TEXT_MAX])
{
    sqlite3_stmt *statement;
    unsigned count = 0;
    int step, error = 0;

    pthread_mutex_lock(&journal->lock);
    statement = journal->statements[COMPLETE];
    sqlite3_bind_text(statement, 1, start, -1, SQLITE_STATIC);
    sqlite3_bind_int(statement, 2, (int)side);
    while ((step = sqlite3_step(statement)) == SQLITE_ROW && count < 2) {
        const char *found = (const char *)sqlite3_column_text(statement, 0);

        snprintf(epoch, GW_EPOCH_TEXT_MAX, "%s", found ? found : "");
        count++;
    }
    if (step != SQLITE_ROW && step != SQLITE_DONE)
        error = fail(journal, "cannot be read");
    else if (count != 1)
        error = gw_fail(count ? -ENOTUNIQ : -ENOENT, "journal %s: %u migrations begin with %s",
                        journal->path, count, start);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    pthread_mutex_unlock(&journal->lock);
    return error;
}

void gw_journal_entry_free(struct gw_journal_entry *entry)
{
    if (entry == NULL)
        return;
    json_decref(entry->detail);
    entry->detail = NULL;
}

bool gw_journal_entry_is_open(const struct gw_journal_entry *entry)
{
    enum gw_handover_state state;

    return gw_handover_state_parse(entry->state, &state) != 0 || !gw_handover_is_ended(state) ||
           json_is_true(json_object_get(entry->detail, GW_CONTRADICTED));
}

/* Everything that is open, read under the lock, so that each() may use the journal itself. */
static int read_open(struct gw_journal *journal, struct gw_journal_entry **out, size_t *count)
{
    sqlite3_stmt *statement = journal->statements[EACH];
    struct gw_journal_entry *entries = NULL, entry, *grown;
    size_t room = 0;
    int step, error = 0;

    *count = 0;
    while (error == 0 && (step = sqlite3_step(statement)) != SQLITE_DONE) {
        error = step == SQLITE_ROW ? decode(journal, statement, &entry)
                                   : fail(journal, "cannot be read");
        if (error != 0)
            break;
        if (!gw_journal_entry_is_open(&entry)) {
            gw_journal_entry_free(&entry);
            continue;
        }
        if (*count == room) {
            room = room == 0 ? 8 : room * 2;
            grown = reallocarray(entries, room, sizeof(*entries));
            if (grown == NULL) {
                gw_journal_entry_free(&entry);
                error = gw_fail(-ENOMEM, "journal %s: out of memory", journal->path);
                break;
            }
            entries = grown;
        }
        entries[(*count)++] = entry;
    }
    sqlite3_reset(statement);
    *out = entries;
    return error;
}

int gw_journal_each_open(struct gw_journal *journal,
                         int (*each)(const struct gw_journal_entry *entry, void *context),
                         void *context)
{
    struct gw_journal_entry *entries = NULL;
    size_t count = 0;
    int error;

    pthread_mutex_lock(&journal->lock);
    error = read_open(journal, &entries, &count);
    pthread_mutex_unlock(&journal->lock);
    for (size_t i = 0; i < count; i++) {
        if (error == 0)
            error = each(&entries[i], context);
        gw_journal_entry_free(&entries[i]);
    }
    free(entries);
    return error;
}

int gw_journal_history(struct gw_journal *journal, const char *epoch, enum gw_journal_side side,
                       json_t **out)
{
    sqlite3_stmt *statement;
    unsigned failures = gw_json_failures();
    json_t *list = json_array();
    int step, error = 0;

    pthread_mutex_lock(&journal->lock);
    statement = journal->statements[PAST];
    sqlite3_bind_text(statement, 1, epoch, -1, SQLITE_STATIC);
    sqlite3_bind_int(statement, 2, (int)side);
    while (error == 0 && (step = sqlite3_step(statement)) != SQLITE_DONE) {
        if (step != SQLITE_ROW)
            error = fail(journal, "cannot be read");
        else if (json_array_append_new(
                     list, json_pack("{s:s, s:I}", "state", sqlite3_column_text(statement, 0),
                                     "at_ns", (json_int_t)sqlite3_column_int64(statement, 1))) != 0)
            error = gw_json_failures() != failures
                        ? gw_fail(-ENOMEM, "journal %s: out of memory", journal->path)
                        : gw_fail(-EUCLEAN, "journal %s: the history of migration %s is damaged",
                                  journal->path, epoch);
    }
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    pthread_mutex_unlock(&journal->lock);
    if (error != 0)
        json_decref(list);
    else
        *out = list;
    return error;
}

int gw_journal_checkpoint(struct gw_journal *journal)
{
    int error = 0;

    pthread_mutex_lock(&journal->lock);
    error = set_synced(journal, true);
    if (error == 0 && sqlite3_wal_checkpoint_v2(journal->database, NULL, SQLITE_CHECKPOINT_TRUNCATE,
                                                NULL, NULL) != SQLITE_OK)
        error = fail(journal, "cannot move its log");
    /* The first record of an empty log syncs the log's header as well: that one is made here, so
     * that no record of a migration costs two. */
    if (error == 0)
        error = execute(journal, "UPDATE checkpoint SET count = count + 1", "cannot be written");
    pthread_mutex_unlock(&journal->lock);
    return error;
}
