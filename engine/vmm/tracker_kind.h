/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a kind of tracker provides to tracker.c, which checks arguments and dispatches. Private to
 * this folder. Errors, order, threads and units are those of tracker.h.
 */
#ifndef GODWIT_ENGINE_VMM_TRACKER_KIND_H
#define GODWIT_ENGINE_VMM_TRACKER_KIND_H

#include "engine/vmm/process_set.h"
#include "engine/vmm/tracker.h"

struct gw_tracker_ops {
    enum gw_tracker_kind kind;
    const char *name;
    bool needs_stop;
    bool needs_copy;
    bool clears_all; /* a look at one memory clears what is known of the process's others */
    int (*probe)(void);
    int (*open)(const struct gw_tracker_options *options, struct gw_tracker **out);
    int (*arm)(struct gw_tracker *tracker);
    int (*collect)(struct gw_tracker *tracker, struct gw_bitmap *dirty);
    void (*copied)(struct gw_tracker *tracker, uint64_t offset, const void *bytes, uint64_t length);
    /* Whom it watches; NULL for a kind that need not know. */
    struct gw_process_set *(*processes)(struct gw_tracker *tracker);
    void (*close)(struct gw_tracker *tracker);
};

/* Each kind embeds this first; tracker.c fills it after open. */
struct gw_tracker {
    const struct gw_tracker_ops *ops;
    uint64_t page_count;
    bool is_armed;
};

extern const struct gw_tracker_ops gw_tracker_uffd_ops;
extern const struct gw_tracker_ops gw_tracker_softdirty_ops;
extern const struct gw_tracker_ops gw_tracker_compare_ops;

#endif
