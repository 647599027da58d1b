/* SPDX-License-Identifier: Apache-2.0 */
/*
 * precopy: one algorithm for disks and memory. Send what is allocated, then rounds of what became
 * dirty, until what is left fits the allowed pause at the measured rate; then the caller stops the
 * guest and asks for the last round. It decides; sending, stopping and slowing are hooks.
 *
 * The rules that keep it right:
 *   - A dirty mark is cleared before the bytes are read, never after.
 *   - A round ends with every byte of it in the peer's volumes (the hook waits for that), so an
 * older copy never lands on a newer one.
 *   - Pages that are pinned for DMA escape every tracker. With direct I/O (needs_barriers) the
 * guest is stopped and continued after the trackers were armed and before the first byte is read,
 * and around every collection after that: stopping drains the I/O, so nothing pinned before a
 * collection lands after it, and the set that would have to be copied again (U of
 * docs/dirty-tracking.md) is empty.
 *
 * Errors: 0 or -errno; -ECANCELED from a hook ends it.
 * Threads: the migration's control thread.
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_ENGINE_PRECOPY_PRECOPY_H
#define GODWIT_ENGINE_PRECOPY_PRECOPY_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/volume/volume.h"
#include "engine/worker/round.h"

#define GW_THROTTLE_STEP_PERCENT 20u
#define GW_THROTTLE_MAX_PERCENT  95u

struct gw_precopy_report {
    uint32_t round;
    uint64_t dirty_bytes;        /* to be sent in this round; in a first pass, what is allocated */
    uint64_t rate;               /* bytes per second, measured */
    uint64_t dirty_rate;         /* bytes per second, measured */
    uint64_t predicted_pause_ns; /* if the guest were stopped now */
    unsigned throttle_percent;
    uint64_t ram_pass_bytes, ram_pass_ns; /* the first pass over RAM: data, duration */
    bool is_stuck;                        /* no slower guest is allowed, and it does not converge */
};

struct gw_precopy_hooks {
    /* Sends the round and returns when all of it is applied. */
    int (*run_round)(void *context, struct gw_round *round);
    /* The disks of the target are made durable, so that the last sync is short. Everything that was
     * collected has been sent when it is called. */
    int (*sync)(void *context);
    /* Of a guest that its owner has paused they do nothing. */
    int (*stop)(void *context);
    int (*cont)(void *context);
    /* The guest runs (100 - percent) of the time from now on; 0 takes it off. */
    int (*throttle)(void *context, unsigned percent);
    void (*report)(void *context, const struct gw_precopy_report *report);
    /* Were pages taken out of the guest's RAM while parts of it are registered for a device? From
     * then on all of it goes through slots, and it is sent again: the device may have read pages
     * that were the guest's no more. May be NULL. */
    bool (*is_punched)(void *context);
};

struct gw_precopy_options {
    const struct gw_precopy_hooks *hooks;
    void *context;
    uint64_t max_pause_ns;
    uint64_t fixed_pause_ns; /* what the handover takes besides the last copy: an estimate */
    bool needs_barriers;     /* a disk does direct I/O */
    bool needs_stop;         /* a tracker is exact only while the guest is stopped */
    bool no_throttle;
    uint64_t
        sync_interval_ns; /* the first pass over the disks is synced this often; 0: at its end */
};

struct gw_precopy;

int gw_precopy_new(const struct gw_precopy_options *options, struct gw_precopy **out);
void gw_precopy_free(struct gw_precopy *precopy);
/* A volume whose tracker is armed already. index as in the sender. */
int gw_precopy_add(struct gw_precopy *precopy, uint16_t index, struct gw_source_volume *volume);

/* An earlier attempt had copied that much, from the start: the first pass begins there. What of that
 * is not as it should be is the caller's to mark (gw_precopy_dirty). */
void gw_precopy_resume(struct gw_precopy *precopy, uint16_t index, uint64_t copied);
/* That much, from the start, has been sent once; what became dirty since is with the tracker. */
/* What is to be sent again of a volume, a bit for each of its granules: more may be added before the
 * first pass. */
struct gw_bitmap *gw_precopy_dirty(struct gw_precopy *precopy, uint16_t index);
uint64_t gw_precopy_copied(const struct gw_precopy *precopy, uint16_t index);
/* First pass over the volumes of that kind that have had none, then rounds over every volume that
 * has, until the next one would be small. */
int gw_precopy_first_pass(struct gw_precopy *precopy, enum gw_volume_kind kind);
/* Rounds over everything until the predicted pause fits, and a few more while they shorten it. */
int gw_precopy_converge(struct gw_precopy *precopy);
/* The guest is stopped. The last round, in two halves, one after the other for each kind: what became
 * dirty is collected, then sent, with digests; its bytes are added to *last_bytes. The two kinds'
 * collections may run in two threads, and one kind's beside the other's sending. */
int gw_precopy_last_collect(struct gw_precopy *precopy, enum gw_volume_kind kind);
int gw_precopy_last_send(struct gw_precopy *precopy, enum gw_volume_kind kind,
                         uint64_t *last_bytes);
void gw_precopy_get(const struct gw_precopy *precopy, struct gw_precopy_report *out);

#endif
