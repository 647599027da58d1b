/* SPDX-License-Identifier: Apache-2.0 */
/* A small table under a lock. */
#include "engine/session/attended.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

struct item {
    char epoch[GW_EPOCH_TEXT_MAX];
    enum gw_journal_side side;
};

struct gw_attended {
    pthread_mutex_t lock; /* protects items; leaf */
    struct item items[GW_ATTENDED_MAX];
    unsigned count;
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
    free(attended);
}

static struct item *find(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    for (unsigned i = 0; i < attended->count; i++)
        if (attended->items[i].side == side && strcmp(attended->items[i].epoch, epoch) == 0)
            return &attended->items[i];
    return NULL;
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
        struct item *item = &attended->items[attended->count++];

        snprintf(item->epoch, sizeof(item->epoch), "%s", epoch);
        item->side = side;
    }
    pthread_mutex_unlock(&attended->lock);
    return error;
}

void gw_unattend(struct gw_attended *attended, const char *epoch, enum gw_journal_side side)
{
    struct item *item;

    pthread_mutex_lock(&attended->lock);
    item = find(attended, epoch, side);
    if (item)
        *item = attended->items[--attended->count];
    pthread_mutex_unlock(&attended->lock);
}
