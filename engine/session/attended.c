/* SPDX-License-Identifier: Apache-2.0 */
/* A list under a lock: as long as what is in hand, and what recovery asks about, at the moment. */
#include "engine/session/attended.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

#define LOOK_NS (20 * GW_NS_PER_MS)

/* A move that is in hand, or that recovery asks about, or both. */
struct item {
    struct item *next;
    char epoch[GW_EPOCH_TEXT_MAX];
    enum gw_journal_side side;
    bool is_in_hand;
    int lock_fd;    /* of one in hand; -1: this process has the folder for itself */
    unsigned calls; /* of gw_attended_is_due, in as many rounds of recovery without a gap */
    bool is_asked;  /* in this round */
};

struct gw_attended {
    pthread_mutex_t lock; /* protects items; leaf */
    struct item *items;
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
    while (attended->items) {
        struct item *item = attended->items;

        attended->items = item->next;
        free(item);
    }
    pthread_mutex_destroy(&attended->lock);
    free(attended->folder);
    free(attended);
}

static struct item *find(const struct gw_attended *attended, const char *epoch,
                         enum gw_journal_side side)
{
    struct item *item = attended->items;

    while (item && (item->side != side || strcmp(item->epoch, epoch) != 0))
        item = item->next;
    return item;
}

/* NULL: no memory. */
static struct item *find_or_add(struct gw_attended *attended, const char *epoch,
                                enum gw_journal_side side)
{
    struct item *item = find(attended, epoch, side);

    if (item)
        return item;
    item = calloc(1, sizeof(*item));
    if (!item)
        return NULL;
    snprintf(item->epoch, sizeof(item->epoch), "%s", epoch);
    item->side = side;
    item->lock_fd = -1;
    item->next = attended->items;
    attended->items = item;
    return item;
}

/* Those that nobody needs go. */
static void sweep(struct gw_attended *attended)
{
    struct item **link = &attended->items;

    while (*link) {
        struct item *item = *link;

        if (item->is_in_hand || item->calls > 0) {
            link = &item->next;
            continue;
        }
        *link = item->next;
        free(item);
    }
}

bool gw_attended_has(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    const struct item *item;
    bool has;

    pthread_mutex_lock(&attended->lock);
    item = find(attended, epoch, side);
    has = item && item->is_in_hand;
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
    item->lock_fd = -1;
    return gw_fail(-EBUSY, "migration %s is another process's", item->epoch);
}

static void drop_lock(const struct gw_attended *attended, struct item *item)
{
    char path[PATH_MAX];

    if (item->lock_fd < 0)
        return;
    if (lock_path(attended, item, path) == 0)
        unlink(path);
    close(item->lock_fd);
    item->lock_fd = -1;
}

int gw_attend(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    struct item *item;
    int error = 0;

    pthread_mutex_lock(&attended->lock);
    item = find_or_add(attended, epoch, side);
    if (!item)
        error = gw_fail(-ENOMEM, "no memory for the table of moves");
    else if (item->is_in_hand)
        error = gw_fail(-EBUSY, "move %s is in hand already: ask again", epoch);
    else
        error = take_lock(attended, item);
    if (!error)
        item->is_in_hand = true;
    sweep(attended);
    pthread_mutex_unlock(&attended->lock);
    return error;
}

int gw_attend_soon(struct gw_attended *attended, const char *epoch, enum gw_journal_side side,
                   unsigned timeout_s)
{
    const struct timespec look = {.tv_nsec = (long)LOOK_NS};
    uint64_t deadline = gw_clock_ns() + timeout_s * GW_NS_PER_S;
    int error;

    while ((error = gw_attend(attended, epoch, side)) == -EBUSY && gw_clock_ns() < deadline)
        nanosleep(&look, NULL);
    return error;
}

void gw_unattend(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    struct item *item;

    pthread_mutex_lock(&attended->lock);
    item = find(attended, epoch, side);
    if (item) {
        drop_lock(attended, item);
        item->is_in_hand = false;
    }
    sweep(attended);
    pthread_mutex_unlock(&attended->lock);
}

void gw_attended_begin_round(struct gw_attended *attended)
{
    pthread_mutex_lock(&attended->lock);
    for (struct item *item = attended->items; item; item = item->next) {
        if (!item->is_asked)
            item->calls = 0;
        item->is_asked = false;
    }
    sweep(attended);
    pthread_mutex_unlock(&attended->lock);
}

bool gw_attended_is_due(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    struct item *item;
    unsigned calls = 0; /* one that cannot be counted is asked about each time */

    pthread_mutex_lock(&attended->lock);
    item = find_or_add(attended, epoch, side);
    if (item) {
        calls = item->calls++;
        item->is_asked = true;
    }
    pthread_mutex_unlock(&attended->lock);
    return calls < GW_PATIENCE_CALLS || calls % GW_PATIENCE_CALLS == 0;
}
