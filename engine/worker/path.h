/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path: the bulk data path of one migration, seen by its control thread. gw_sender on the source
 * takes rounds of volumes and spreads them over lanes; gw_receiver on the target puts them into
 * volumes. Each lane is one data channel on one worker.
 *
 * Errors: 0 or -errno with a message; what goes wrong on workers arrives as an event.
 * Order: new → add_volume (all) → lanes (any time) → rounds → free. A lane is prepared, its
 *   channel dialled or admitted with the lane as context and its worker's poller, then started.
 * Threads: one control thread per migration. Events are signalled on event_fd (an eventfd, level).
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_ENGINE_WORKER_PATH_H
#define GODWIT_ENGINE_WORKER_PATH_H

#include "common/error.h"
#include "common/pins.h"
#include "engine/volume/volume.h"
#include "engine/worker/round.h"
#include "engine/worker/worker.h"
#include "transport/link/seal.h"

#define GW_LANES_MAX   64u   /* alive at once in one migration */
#define GW_WINDOWS_MAX 1024u /* open at once in one migration */
/* A window is at most this long. */
#define GW_WINDOW_MAX (1ull << 30)

enum gw_stage { GW_STAGE_READ, GW_STAGE_DIGEST, GW_STAGE_WRITE, GW_STAGE_COUNT };

/* The ways that a volume's bytes took. */
struct gw_volume_stats {
    uint64_t direct, slots, sealed; /* data bytes that went that way */
    /* Bytes that the processor of this side copied: into or out of a slot, by sealing or opening,
     * by reading or writing through a call. */
    uint64_t copied;
};

struct gw_path_stats {
    struct gw_volume_stats volumes[GW_VOLUMES_MAX];
    uint64_t stage_ns[GW_STAGE_COUNT];
    uint64_t data_bytes, zero_bytes; /* applied (source) or written (target) */
    uint64_t wire_bytes;             /* data bytes that travelled */
    uint64_t entries, records;
};

enum gw_path_event_kind {
    GW_PATH_LANE_DEAD,     /* number and error: bury it */
    GW_PATH_ROUND_DONE,    /* sender: every byte of the round is in the peer's volumes */
    GW_PATH_FAILED,        /* receiver: a volume could not be written, or a digest did not match */
    GW_PATH_JOINED,        /* receiver, never seen outside: a lane is clear and wants its regions */
    GW_PATH_WINDOW_CLOSED, /* receiver: number is that of a window whose keys are gone */
};

struct gw_path_event {
    enum gw_path_event_kind kind;
    uint32_t number; /* of the lane's channel, or of the window */
    struct gw_error error;
};

struct gw_sender;
struct gw_receiver;
struct gw_lane;

/* ---- source ---- */
int gw_sender_new(const uint8_t *migration_id, struct gw_sender **out);
void gw_sender_free(struct gw_sender *sender); /* closes every lane; takes NULL */
/* The volume is lent until free. */
void gw_sender_add_volume(struct gw_sender *sender, uint16_t index,
                          struct gw_source_volume *volume);
/* Registers the lane's ring in domain, which will be the channel's, where the transport wants it. */
int gw_sender_prepare(struct gw_sender *sender, struct gw_worker *worker, struct gw_domain *domain,
                      struct gw_lane **out);
/* Takes over channel and seal. */
void gw_sender_start(struct gw_lane *lane, struct gw_channel *channel, struct gw_seal *seal);
void gw_sender_cancel(struct gw_lane *lane); /* prepared, but the channel could not be had */
int gw_sender_event_fd(struct gw_sender *sender);
bool gw_sender_next_event(struct gw_sender *sender, struct gw_path_event *out);
/* One round at a time; lent until it is done or the sender is freed. */
void gw_sender_begin(struct gw_sender *sender, struct gw_round *round);
/* Takes the round away: no lane claims from it after the return. For a round that failed. */
void gw_sender_end(struct gw_sender *sender);
/* The target has buried the lane after applying records up to and including applied: the rest is
 * given back to the round, and the lane is gone. */
int gw_sender_bury(struct gw_sender *sender, uint32_t number, uint64_t applied);
/* The same for every lane, when the session ended that they belonged to: applied tells for each
 * number what the target applied (0 when it does not know). Numbers may be used again afterwards.
 * The first error; every lane is gone all the same. */
int gw_sender_bury_all(struct gw_sender *sender,
                       uint64_t (*applied)(void *context, uint32_t number), void *context);
/* Every lane sends a record, an empty one if need be: its acknowledgement shows that the target's end is there. */
void gw_sender_ask(struct gw_sender *sender);
/* Since gw_sender_ask, by every lane; never while one that died is not buried. */
bool gw_sender_is_answered(struct gw_sender *sender);
/* A lane that has waited for an acknowledgement since before then (gw_clock_ns); false: none. */
bool gw_sender_find_stalled(struct gw_sender *sender, uint64_t before_ns, uint32_t *number);
bool gw_sender_has_lane(struct gw_sender *sender, uint32_t number); /* it is not buried */
unsigned gw_sender_lane_count(struct gw_sender *sender);
void gw_sender_stats(struct gw_sender *sender, struct gw_path_stats *out);
const char *gw_sender_volume_name(const struct gw_sender *sender, uint16_t index); /* or NULL */
/* "direct", "slots" or "sealed": how the volume's bytes travel over the newest lane. With windows
 * it is "direct" once one was opened. */
const char *gw_sender_path(struct gw_sender *sender, uint16_t index);
/* Text of the newest lane's channel, for status. */
void gw_sender_describe(struct gw_sender *sender, char *out, uint32_t size);

/* ---- windows, source ----
 *
 * Where a device places writes (is_rdma), guest RAM is registered in windows on both sides. A
 * window is opened here first, then at the target by a control message; lanes hear its key on their
 * channels. It is closed here; each lane that has it says so once the last of its writes was
 * acknowledged; when all have, the keys end at the target, and drop ends the regions here. */
struct gw_window {
    uint32_t number; /* from 1, never used again in a migration */
    uint16_t volume;
    uint64_t offset, length; /* multiples of 4096, but for the end of a volume */
};

/* Memory that is pinned is counted there; lent. NULL: no limit. Before the first lane. */
void gw_sender_set_pins(struct gw_sender *sender, struct gw_pins *pins);
enum gw_window_use {
    GW_WINDOWS_NONE,    /* no lane will ever use a window */
    GW_WINDOWS_PENDING, /* lanes that may have not joined yet */
    GW_WINDOWS_PARTLY,  /* some have, some have not joined yet */
    GW_WINDOWS_READY,
};
enum gw_window_use gw_sender_window_use(struct gw_sender *sender);
/* Has a device read memory by itself, or may one yet? Channels that are gone count as well. */
bool gw_sender_device_reads(struct gw_sender *sender);
/* Registers the range in the domain of each such lane and numbers it. -ENOMEM: the limit. */
int gw_sender_window_open(struct gw_sender *sender, struct gw_window *window);
/* Every lane for windows has its key: pieces in it will go straight into place. */
bool gw_sender_window_is_told(struct gw_sender *sender, uint32_t number);
/* No more is claimed in it; lanes give it up when they are done with it. */
void gw_sender_window_close(struct gw_sender *sender, uint32_t number); /* once */
/* gw_round_set_horizon of the round that runs, and wakes the lanes. */
void gw_sender_set_horizon(struct gw_sender *sender, uint16_t volume, uint64_t horizon);
bool gw_sender_window_is_known(struct gw_sender *sender, uint32_t number); /* it has a region */
bool gw_sender_window_is_left(struct gw_sender *sender, uint32_t number);  /* by every lane */
void gw_sender_window_drop(struct gw_sender *sender, uint32_t number);     /* once it is left */

/* ---- target ---- */
int gw_receiver_new(const uint8_t *migration_id, struct gw_receiver **out);
void gw_receiver_free(struct gw_receiver *receiver);
void gw_receiver_add_volume(struct gw_receiver *receiver, uint16_t index,
                            struct gw_target_volume *volume);
/* Registers the ring for the channel number in domain. Volumes are registered, when allow_direct,
 * once the channel has turned out clear: within gw_receiver_next_event. */
int gw_receiver_prepare(struct gw_receiver *receiver, struct gw_worker *worker,
                        struct gw_domain *domain, uint32_t number, bool allow_direct,
                        struct gw_lane **out);
void gw_receiver_start(struct gw_lane *lane, struct gw_channel *channel, struct gw_seal *seal);
void gw_receiver_cancel(struct gw_lane *lane);
/* Closes every lane and ends its writes. The peer reaches nothing any more; what is registered stays
 * so until free, which may come when nobody waits for it. */
void gw_receiver_close(struct gw_receiver *receiver);
int gw_receiver_event_fd(struct gw_receiver *receiver);
bool gw_receiver_next_event(struct gw_receiver *receiver, struct gw_path_event *out);
/* Closes the lane, ends its writes, and tells the last record applied. -ENOENT for an unknown
 * number. */
int gw_receiver_bury(struct gw_receiver *receiver, uint32_t number, uint64_t *applied);
/* Every lane, when their session has ended, and every registration of volumes with them. tell hears
 * what was applied of each. */
void gw_receiver_bury_all(struct gw_receiver *receiver,
                          void (*tell)(void *context, uint32_t number, uint64_t applied),
                          void *context);
void gw_receiver_stats(struct gw_receiver *receiver, struct gw_path_stats *out);
/* Windows: see the source's. Registers the range in the domain of each clear lane for windows, and
 * has their keys told. -EPROTO for a range that is not one of a volume in memory; others: the
 * source goes without. */
void gw_receiver_set_pins(struct gw_receiver *receiver, struct gw_pins *pins);
int gw_receiver_window_open(struct gw_receiver *receiver, const struct gw_window *window);

#endif
