/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source: the sending side's session with a target: the control conversation, the data channels
 * over every rail, the rounds, and what happens when a channel dies.
 *
 * Errors: 0 or -errno with a message; -ECANCELED when the migration was cancelled; what the target
 *   reports keeps its words.
 * Order: connect → offer (by the caller, with exchange) → open_channels → run_round … → close.
 * Threads: the migration's control thread.
 * Units: bytes, milliseconds.
 */
#ifndef GODWIT_ENGINE_SESSION_SOURCE_H
#define GODWIT_ENGINE_SESSION_SOURCE_H

#include "engine/migration.h"
#include "engine/session/link.h"
#include "engine/precopy/windows.h"
#include "engine/session/message.h"

#define GW_REPLY_TIMEOUT_MS 60000
/* One that sets aside hundreds of gigabytes of memory, writes out what a server or a disk holds, or reads all of an image back to verify it,
 * takes its time; a peer that is gone is found by the transport. */
#define GW_SLOW_REPLY_TIMEOUT_MS (60 * 60 * 1000)

#define GW_STALL_DEFAULT_S 30u

struct gw_source {
    const struct gw_environment *environment;
    struct gw_progress *progress;
    struct gw_control *control;
    uint8_t migration_id[GW_ID_SIZE];
    char epoch[2 * GW_ID_SIZE + 1];
    struct gw_link link;
    struct gw_address peer;
    unsigned reconnect_s, stall_s;
    /* From the target's answer to the offer until the pause: a link that is lost is dialled again,
     * and the migration goes on (regrow.c). */
    bool may_regrow;
    bool is_given_up;        /* the link was lost and did not come back */
    unsigned mends;          /* channels replaced and links regrown so far */
    unsigned idle_regrowths; /* in a row, without a byte between them */
    uint64_t moved_at_regrowth;
    bool is_finishing;      /* "finish" was said; the answer may take its time */
    bool is_finished_there; /* a rejoin told so */
    json_t *digests;        /* the message, once sent: said again after a rejoin */
    /* The link is down: the guest must run. May be NULL. */
    int (*link_down)(void *context);
    uint64_t limit_ns; /* of every wait for the target while the guest is stopped; 0: none */
    struct gw_sender *sender;
    struct gw_windows *windows; /* NULL until the first round */
    struct gw_pins pins;        /* with a limit of its own */
    const bool *is_stopped;     /* the guest, by us; NULL where there is none */
    json_t *blocked;            /* the target's reasons against the offer, or NULL */
    bool is_older_gone;     /* the target says that it has nothing of the attempt to go on with */
    bool is_cancel_ignored; /* from COMMITTED on */
    uint64_t sent_before_ns, sent_before; /* for the rate of the last second */
    uint64_t rounds_ns;                   /* how long rounds ran in all */
    /* Called about every 10 ms while a round runs: throttling, QMP events. May be NULL. */
    int (*tick)(void *context);
    void *tick_context;
};

/* request is lent until close. */
int gw_source_connect(const struct gw_environment *environment, const struct gw_address *peer,
                      const struct gw_link_request *request, struct gw_progress *progress,
                      struct gw_source **out);
void gw_source_close(struct gw_source *source); /* takes NULL */
/* Sends request (taken over) and waits for a reply of that type, which the caller decrefs. A
 * message of type "error" becomes the error. */
int gw_source_exchange(struct gw_source *source, json_t *request, const char *type, json_t **reply);
/* Sends a message (taken over) that has no answer, if need be once more after the link was lost. */
int gw_source_tell(struct gw_source *source, json_t *message);
/* Waits for the next message. */
int gw_source_receive(struct gw_source *source, int timeout_ms, json_t **out);
/* accepted: the target's reply to the offer. */
int gw_source_open_channels(struct gw_source *source, const json_t *accepted);
/* The error is what ended a call on the control session. If that was the link and it may regrow: dials
 * until it is there again, and returns 0 with every lane of the old one given back to the round and
 * new ones in place. Else the error. */
int gw_source_heal(struct gw_source *source, int error);
/* From now on no wait for the target is longer than this, and a lost link ends the migration; 0:
 * waits are as long as they were. For the time in which the guest is stopped. */
void gw_source_set_limit(struct gw_source *source, int limit_ms);
/* Sends the round and returns when every byte of it is in the target's volumes. */
int gw_source_run_round(struct gw_source *source, struct gw_round *round);
/* Between rounds: every channel shows that the target is at its other end; those that do not are replaced. */
int gw_source_mend_channels(struct gw_source *source);
/* -ECANCELED once somebody asked for it. */
int gw_source_check_cancel(struct gw_source *source);
void gw_source_update_progress(struct gw_source *source);
/* Reads every volume, which must hold still, and tells the target the digests; it compares when it
 * finishes. */
int gw_source_send_digests(struct gw_source *source, struct gw_source_volume *const *volumes,
                           unsigned count);
/* What the target has of a volume, up to end, beside what the volume holds (compare.h). Between rounds. */
int gw_source_compare(struct gw_source *source, unsigned index, struct gw_source_volume *volume,
                      uint64_t end, struct gw_bitmap *different, uint64_t *bytes);
/* Adds "stats" to detail: bytes, CPU seconds by stage. */
void gw_source_report(struct gw_source *source, json_t *detail);

#endif
