/* SPDX-License-Identifier: Apache-2.0 */
/* A small table under a lock. */
#include "engine/session/attended.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"

struct item {
    char epoch[GW_EPOCH_TEXT_MAX];
    enum gw_journal_side side;
    int lock_fd; /* -1: this process has the folder for itself */
};

/* What recovery has asked about. */
struct asked {
    char epoch[GW_EPOCH_TEXT_MAX];
    enum gw_journal_side side;
    unsigned calls;
};

struct gw_attended {
    pthread_mutex_t lock; /* protects what follows, but for folder; leaf */
    struct asked asked[GW_ATTENDED_MAX];
    unsigned next_asked; /* the one that makes room for another */
    struct item items[GW_ATTENDED_MAX];
    unsigned count;
    char *folder; /* of the locks that several processes see, or NULL */
};

int gw_attended_new(struct gw_attended **out)
{
    struct gw_attended *attended = calloc(1, sizeof(*attended));

    if (!attended)
        return gw_fail(-ENOMEM, "no memory for the table of moves");
    pthread_mutex_init(&attended->lock, NULL);
    *out = attended;
    return 0;
}

void gw_attended_free(struct gw_attended *attended)
{
    if (!attended)
        return;
    pthread_mutex_destroy(&attended->lock);
    free(attended->folder);
    free(attended);
}

static struct item *find(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    for (unsigned i = 0; i < attended->count; i++)
        if (attended->items[i].side == side && strcmp(attended->items[i].epoch, epoch) == 0)
            return &attended->items[i];
    return NULL;
}

bool gw_attended_has(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    bool has;

    pthread_mutex_lock(&attended->lock);
    has = find(attended, epoch, side) != NULL;
    pthread_mutex_unlock(&attended->lock);
    return has;
}

int gw_attended_share(struct gw_attended *attended, const char *folder)
{
    attended->folder = strdup(folder);
    return attended->folder ? 0 : gw_fail(-ENOMEM, "no memory for the table of copies");
}

static int lock_path(const struct gw_attended *attended, const struct item *item, char *out)
{
    int length =
        snprintf(out, PATH_MAX, "%s/%s.%d.lock", attended->folder, item->epoch, (int)item->side);

    return length < PATH_MAX ? 0 : gw_fail(-ENAMETOOLONG, "the state folder has too long a name");
}

/* Whoever had the lock before may have removed the file between our opening and locking it. */
static bool is_named(int fd, const char *path)
{
    struct stat ours, named;

    return fstat(fd, &ours) == 0 && stat(path, &named) == 0 && ours.st_dev == named.st_dev &&
           ours.st_ino == named.st_ino;
}

/* The lock goes with the process, however it ends. */
static int take_lock(const struct gw_attended *attended, struct item *item)
{
    char path[PATH_MAX];
    int error;

    item->lock_fd = -1;
    if (!attended->folder)
        return 0;
    error = lock_path(attended, item, path);
    if (error)
        return error;
    item->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (item->lock_fd < 0)
        return gw_fail_errno(-errno, "cannot make %s", path);
    if (flock(item->lock_fd, LOCK_EX | LOCK_NB) == 0 && is_named(item->lock_fd, path))
        return 0;
    close(item->lock_fd);
    return gw_fail(-EBUSY, "migration %s is another process's", item->epoch);
}

static void drop_lock(const struct gw_attended *attended, const struct item *item)
{
    char path[PATH_MAX];

    if (item->lock_fd < 0)
        return;
    if (lock_path(attended, item, path) == 0)
        unlink(path);
    close(item->lock_fd);
}

int gw_attend(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    int error = 0;

    pthread_mutex_lock(&attended->lock);
    if (find(attended, epoch, side)) {
        error = gw_fail(-EBUSY, "move %s is in hand already: ask again", epoch);
    } else if (attended->count == GW_ATTENDED_MAX) {
        error = gw_fail(-EBUSY, "more than %u moves at once", GW_ATTENDED_MAX);
    } else {
        struct item *item = &attended->items[attended->count];

        snprintf(item->epoch, sizeof(item->epoch), "%s", epoch);
        item->side = side;
        error = take_lock(attended, item);
        attended->count += !error;
    }
    pthread_mutex_unlock(&attended->lock);
    return error;
}

static struct asked *find_asked(struct gw_attended *attended, const char *epoch,
                                enum gw_journal_side side)
{
    struct asked *asked;

    for (unsigned i = 0; i < GW_ATTENDED_MAX; i++)
        if (attended->asked[i].side == side && strcmp(attended->asked[i].epoch, epoch) == 0)
            return &attended->asked[i];
    asked = &attended->asked[attended->next_asked++ % GW_ATTENDED_MAX];
    snprintf(asked->epoch, sizeof(asked->epoch), "%s", epoch);
    asked->side = side;
    asked->calls = 0;
    return asked;
}

bool gw_attended_is_due(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    unsigned calls;

    pthread_mutex_lock(&attended->lock);
    calls = find_asked(attended, epoch, side)->calls++;
    pthread_mutex_unlock(&attended->lock);
    return calls < GW_PATIENCE_CALLS || calls % GW_PATIENCE_CALLS == 0;
}

void gw_unattend(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    struct item *item;

    pthread_mutex_lock(&attended->lock);
    item = find(attended, epoch, side);
    if (item)
        drop_lock(attended, item);
    if (item)
        *item = attended->items[--attended->count];
    pthread_mutex_unlock(&attended->lock);
}
