/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window: a lane's list of the windows of guest RAM that it may write into (source) or that its
 * peer may write into (target), and the windows themselves, which the control thread owns. Private
 * to engine/worker.
 *
 * Errors: -ENOMEM with a message.
 * Threads: a list belongs to its lane's worker. A window's range is set before a lane
 *   hears of it and stays until no lane holds it; regions, holders and is_closing are written under
 *   the lock of gw_window_set, by control threads and lanes.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_WORKER_WINDOW_H
#define GODWIT_ENGINE_WORKER_WINDOW_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/worker/path.h"

#define GW_WINDOW_DOMAINS 16u /* rails */
#define GW_WINDOW_PAGE    4096u

/* A window as one side has it registered. */
struct gw_window_entry {
    struct gw_window window;
    struct gw_region *regions[GW_WINDOW_DOMAINS];
    unsigned region_count;
    unsigned holders;       /* lanes that may still use it */
    atomic_bool is_closing; /* no lane takes it up any more */
    struct gw_window_entry *next;
};

struct gw_window_set {
    pthread_mutex_t lock; /* guards the list, holders and is_closing; leaf */
    struct gw_window_entry *first;
    unsigned count;
    struct gw_pins *pins;
};

/* What one lane knows of a window. */
struct gw_lane_window {
    struct gw_window window;
    struct gw_window_entry *entry;
    const struct gw_region *region; /* in the lane's domain: source local, target remote */
    uint64_t key;                   /* source: what the target's region is named by */
    unsigned uses;                  /* source: entries that name it and are not freed */
    bool is_told;                   /* target: the key has travelled */
};

/* Sorted by volume and offset. */
struct gw_lane_windows {
    struct gw_lane_window **list;
    unsigned count, room;
};

void gw_window_set_init(struct gw_window_set *set);
/* Ends every region. No lane is left. */
void gw_window_set_free(struct gw_window_set *set);
/* Under the lock, or where no lane knows the window. */
struct gw_window_entry *gw_window_set_find(struct gw_window_set *set, uint32_t number);
int gw_window_set_add(struct gw_window_set *set, const struct gw_window *window,
                      struct gw_window_entry **out);
/* Ends its regions and takes it out. */
void gw_window_set_remove(struct gw_window_set *set, struct gw_window_entry *entry);
/* Registers memory for the window in domain, unless it is already. */
int gw_window_register(struct gw_window_set *set, struct gw_window_entry *entry,
                       struct gw_domain *domain, void *memory, unsigned access);
/* NULL when it is not registered there. */
struct gw_region *gw_window_region(const struct gw_window_entry *entry,
                                   const struct gw_domain *domain);
/* The domain loses its last lane: ends the regions in it, and the windows that have no other. */
void gw_window_set_leave(struct gw_window_set *set, const struct gw_domain *domain);

/* Makes the lane a holder of the window. NULL, without a message, when it is closing, unknown or
 * not registered in domain. */
struct gw_lane_window *gw_lane_windows_hold(struct gw_lane_windows *windows,
                                            struct gw_window_set *set, uint32_t number,
                                            const struct gw_domain *domain);
/* Takes it out of the list; the lane holds it no more. Returns true when nobody does. */
bool gw_lane_windows_release(struct gw_lane_windows *windows, struct gw_window_set *set,
                             struct gw_lane_window *window);
void gw_lane_windows_release_all(struct gw_lane_windows *windows, struct gw_window_set *set);
/* The window that offset lies in, or NULL. */
struct gw_lane_window *gw_lane_windows_find(const struct gw_lane_windows *windows, uint16_t volume,
                                            uint64_t offset);
/* Where the next window behind offset begins; UINT64_MAX when there is none. */
uint64_t gw_lane_windows_next(const struct gw_lane_windows *windows, uint16_t volume,
                              uint64_t offset);
struct gw_lane_window *gw_lane_windows_number(const struct gw_lane_windows *windows,
                                              uint32_t number);

#endif
