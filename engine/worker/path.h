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
#include "engine/volume/volume.h"
#include "engine/worker/round.h"
#include "engine/worker/worker.h"
#include "transport/link/seal.h"

#define GW_LANES_MAX 64u /* alive at once in one migration */

enum gw_stage { GW_STAGE_READ, GW_STAGE_DIGEST, GW_STAGE_WRITE, GW_STAGE_COUNT };

struct gw_path_stats {
    uint64_t stage_ns[GW_STAGE_COUNT];
    uint64_t data_bytes, zero_bytes; /* applied (source) or written (target) */
    uint64_t wire_bytes;             /* data bytes that travelled */
    uint64_t entries, records;
};

enum gw_path_event_kind {
    GW_PATH_LANE_DEAD,  /* number and error: bury it */
    GW_PATH_ROUND_DONE, /* sender: every byte of the round is in the peer's volumes */
    GW_PATH_FAILED,     /* receiver: a volume could not be written, or a digest did not match */
};

struct gw_path_event {
    enum gw_path_event_kind kind;
    uint32_t number; /* of the lane's channel */
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
int gw_sender_prepare(struct gw_sender *sender, struct gw_worker *worker, struct gw_lane **out);
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
/* A lane that has waited for an acknowledgement since before then (gw_clock_ns); false: none. */
bool gw_sender_find_stalled(struct gw_sender *sender, uint64_t before_ns, uint32_t *number);
unsigned gw_sender_lane_count(struct gw_sender *sender);
void gw_sender_stats(struct gw_sender *sender, struct gw_path_stats *out);
/* "direct", "slots" or "sealed": how the volume's bytes travel over the newest lane. */
const char *gw_sender_path(struct gw_sender *sender, uint16_t index);
/* Text of the newest lane's channel, for status. */
void gw_sender_describe(struct gw_sender *sender, char *out, uint32_t size);

/* ---- target ---- */
int gw_receiver_new(const uint8_t *migration_id, struct gw_receiver **out);
void gw_receiver_free(struct gw_receiver *receiver);
void gw_receiver_add_volume(struct gw_receiver *receiver, uint16_t index,
                            struct gw_target_volume *volume);
/* Registers the ring for the channel number in domain and, when allow_direct, the volumes that have
 * memory, so that the peer may write into them if the channel turns out clear. */
int gw_receiver_prepare(struct gw_receiver *receiver, struct gw_worker *worker,
                        struct gw_domain *domain, uint32_t number, bool allow_direct,
                        struct gw_lane **out);
void gw_receiver_start(struct gw_lane *lane, struct gw_channel *channel, struct gw_seal *seal);
void gw_receiver_cancel(struct gw_lane *lane);
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

#endif
