/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve: the receiving side's session, shared by its parts: serve.c (the conversation, channels),
 * serve-rejoin.c (the wait for a source whose link was lost), serve-disks.c (volumes that are files)
 * and serve-vm.c with serve-vm-make.c (the VM and its handover). Private to engine/session.
 * Errors: as migration.h.
 * Threads: as migration.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_SERVE_H
#define GODWIT_ENGINE_SESSION_SERVE_H

#include "engine/image/image.h"
#include "engine/migration.h"
#include "engine/handover/handover.h"
#include "engine/session/attended.h"
#include "engine/session/message.h"
#include "engine/session/offer.h"
#include "engine/session/partial.h"
#include "engine/session/parts.h"
#include "engine/session/verify.h"
#include "engine/worker/bench-lane.h"
#include "engine/worker/path.h"
#include "engine/worker/workers.h"

#define GW_SERVE_REQUESTS_MAX 32u
#define GW_SERVE_DOMAINS_MAX  16u

/* The channels of one transport may be on their way out while those of the next come. */
#define GW_SERVE_BENCH_LANES (2 * GW_BENCH_LANES_MAX)

struct gw_serve_vm;

struct gw_serve {
    const struct gw_environment *environment;
    struct gw_control *control;
    struct gw_progress *progress;
    struct gw_outcome *outcome;

    pthread_mutex_t lock; /* protects these, down to is_released; leaf */
    struct gw_request *requests[GW_SERVE_REQUESTS_MAX];
    unsigned request_count;
    bool is_closed;
    uint8_t link_id[GW_ID_SIZE]; /* of the session's data channels */
    bool has_link;
    struct gw_control *next_control;     /* of a source that is back */
    char asked_link[2 * GW_ID_SIZE + 1]; /* the session whose channels it asks about */
    bool is_released;                    /* the source will not come back */
    int request_fd;                      /* eventfd: requests wait */

    /* A source that lost its link. */
    struct gw_serve *next; /* the list of sessions that may be rejoined; under its lock */
    bool is_listed;
    int rejoin_fd;        /* eventfd: next_control or is_released was set */
    unsigned reconnect_s; /* how long the source is waited for; 0: not at all */
    char peer_name[128];  /* who it has to be */
    uint8_t peer_instance[GW_ID_SIZE];
    json_t *reports; /* what was applied of each channel of the session report_link */
    char report_link[2 * GW_ID_SIZE + 1];

    uint64_t answer_until_ns; /* not 0: a session that may only ask, and when it ends */

    /* Waits that only end with what is waited for (serve-wanted.c). */
    pthread_t thread;    /* the session's */
    json_t *early;       /* messages that came during one, or NULL */
    uint64_t unheard_ns; /* when the source was last known to be there; 0: its link is up */

    /* The migration, once offered. */
    bool is_offered, is_accepted;
    uint8_t migration_id[GW_ID_SIZE];
    char epoch[2 * GW_ID_SIZE + 1];
    struct gw_target_volume *volumes[GW_VOLUMES_MAX];
    unsigned volume_count;
    char *paths[GW_VOLUMES_MAX]; /* of disks, once finished */
    enum gw_image_format formats[GW_VOLUMES_MAX];
    char foreign[GW_VOLUMES_MAX][16]; /* as gw_offered_volume.foreign */
    bool has_digest[GW_VOLUMES_MAX];  /* the source asked for --verify */
    uint8_t digests[GW_VOLUMES_MAX][GW_VERIFY_SIZE];
    enum gw_handover_state ended_in; /* of a move, when its session is over */
    bool is_told;                    /* the source has heard the error */
    bool is_finished;                /* the images have their final names and belong to the user */
    struct gw_receiver *receiver;
    bool is_path_ended; /* its channels are closed for good */
    struct gw_domain *domains[GW_SERVE_DOMAINS_MAX];
    struct gw_address domain_addresses[GW_SERVE_DOMAINS_MAX]; /* with its transport: a rail */
    unsigned domain_count;
    struct gw_workers workers;
    struct gw_serve_vm *vm; /* a move */
    /* The unfinished images, noted for a restart or a later attempt (serve-partial.c). */
    struct gw_partial partial, older;
    struct gw_offered_volume *offered; /* GW_VOLUMES_MAX, as parsed */
    json_t *kept;       /* answer to the offer: bytes of each volume that are here already */
    bool can_keep;      /* both sides want to */
    bool wants_resume;  /* the source asked for it */
    bool is_resumed;    /* it goes on with older */
    bool is_older_gone; /* there is nothing of it here: all that lets its source forget it */
    bool is_older_attended;
    bool is_older_taken; /* this attempt has taken the place of older, which has no note any more */
    bool is_attended;
    bool keeps_parts; /* the session is over, and they stay */

    /* A measurement, in place of a migration. */
    bool is_bench;
    struct gw_lane *bench_lanes[GW_SERVE_BENCH_LANES];
    unsigned bench_lane_count;
    uint64_t bench_end_ns;
};

/* serve.c: what the source is told of where data channels may be dialled. */
json_t *gw_serve_describe_transports(const struct gw_serve *serve);

/* serve-rejoin.c: the session may be rejoined from now on, by the same source, and is not any more.
 */
void gw_rejoins_add(struct gw_rejoins *rejoins, struct gw_serve *serve);
void gw_rejoins_remove(struct gw_rejoins *rejoins, struct gw_serve *serve);
/* The source of that epoch, by its proof, says that it will not rejoin: its session ends. False when
 * there is none. */
bool gw_rejoins_release(struct gw_rejoins *rejoins, const char *epoch, const struct gw_peer *peer);
/* A source that is back, or that released its session, has given up the present control session,
 * whatever it looks like from here: it is taken for lost. */
void gw_serve_heed_rejoin(struct gw_serve *serve);
/* The link is lost: closes what belonged to it, and waits until the source is back (0) or will not
 * come any more. error is why the conversation ended. */
int gw_serve_await_source(struct gw_serve *serve, int error);

bool gw_serve_is_released(struct gw_serve *serve);
/* The link is lost, and nothing forbids that its source comes back. */
bool gw_serve_may_wait(const struct gw_serve *serve);
/* 1: the source is back, and waits to be taken up; 0: it is not, or was lost again; or why it gave up. */
int gw_serve_listen_to_next(struct gw_serve *serve);

/* serve-wanted.c: of struct gw_wanted; context is the gw_serve. Ends a wait when the migration was cancelled on either
 * side, or its source is lost for good. */
int gw_serve_check_wanted(void *context);
/* All that the source has said there: kept, or why the wait is to end. It is promised nothing: this side may do
 * something else right after. */
int gw_serve_listen(struct gw_serve *serve, struct gw_control *control);
/* As gw_control_receive with no time; what came during a wait first. */
int gw_serve_next_frame(struct gw_serve *serve, struct gw_control_frame *out);

/* serve.c: is there a session in which the source can still be told something? */
bool gw_serve_is_heard(const struct gw_serve *serve);
/* serve.c: ends every lane, so that no worker is in a volume any more. */
void gw_serve_free_path(struct gw_serve *serve);
/* As above, before volumes are finished: a source that goes on writing must not reach them. The
 * error is that of a volume that failed. */
int gw_serve_end_path(struct gw_serve *serve);

/* serve-bench.c: a measurement. offer refuses it where policy does not allow it, check once it has
 * lasted too long; lanes are freed by end, with workers and domains. */
int gw_serve_bench_offer(struct gw_serve *serve);
int gw_serve_bench_prepare(struct gw_serve *serve, struct gw_worker *worker,
                           struct gw_domain *domain, uint32_t number, struct gw_lane **out);
void gw_serve_bench_start(struct gw_serve *serve, struct gw_lane *lane, struct gw_channel *channel,
                          struct gw_seal *seal);
int gw_serve_bench_check(const struct gw_serve *serve);
void gw_serve_bench_end(struct gw_serve *serve);

/* serve-disks.c: makes the volumes that the offer lists. names says what each became. */
int gw_serve_make_volumes(struct gw_serve *serve, const json_t *offer, json_t *names);
int gw_serve_sync(struct gw_serve *serve);
/* Images valid; read back and compared where the source told digests (-EBADMSG); then final names. */
int gw_serve_finish(struct gw_serve *serve);
bool gw_serve_is_verified(const struct gw_serve *serve); /* the source told digests */
int gw_serve_take_digests(struct gw_serve *serve, const json_t *message);
void gw_serve_drop_volumes(struct gw_serve *serve, bool keep);

/* serve-partial.c: begin reads what the offer says of earlier attempts. */
int gw_serve_begin_partial(struct gw_serve *serve, const json_t *offer);
/* What an earlier attempt left of a volume; reason is why it starts over, although it was asked to go
 * on, or empty. */
struct gw_serve_part {
    uint64_t durable, allocated;
    bool is_finished;
    char reason[GW_PART_REASON_MAX];
};
/* -EEXIST: what has its final name is not known to be it, and is not touched. */
int gw_serve_look_for_part(struct gw_serve *serve, unsigned volume, const char *path,
                           struct gw_serve_part *out);
/* Before the image is made: it is noted. part: as it was found. */
int gw_serve_note_disk(struct gw_serve *serve, unsigned volume, const char *path,
                       const struct gw_serve_part *part);
/* The epoch in the name of the volume's unfinished image. */
const char *gw_serve_part_epoch(const struct gw_serve *serve, unsigned volume);
/* The image that was taken over cannot be gone on with after all. */
void gw_serve_drop_part(struct gw_serve *serve, unsigned volume);
/* A copy or move of an earlier session, that is told to be given up for good: what is kept of it goes, if it is
 * this peer's; takes_finished: GW_TAKES_FINISHED. */
void gw_serve_drop_earlier(struct gw_serve *serve, const char *epoch, bool takes_finished);
/* The message "compare": answers with digests of what is there. */
int gw_serve_compare(struct gw_serve *serve, const json_t *message);
/* Before something is made or started that no journal knows of yet: these members of the note. Takes them over; NULL
 * is -ENOMEM. */
int gw_serve_note_vm(struct gw_serve *serve, json_t *members);
/* Every image is made: this attempt takes the place of older, durably. */
int gw_serve_end_older(struct gw_serve *serve);
/* After a sync: that much is durable. *is_kept: a later attempt may go on from there. */
int gw_serve_take_copied(struct gw_serve *serve, const json_t *message, bool *is_kept);
/* The note of an earlier session's move, if it is kept (with what it names) or if it is not, which
 * promises nothing and goes with the end of the move. */
void gw_serve_drop_note(struct gw_serve *serve, const char *epoch, bool is_kept);
/* The images are finished. */
void gw_serve_end_journals(struct gw_serve *serve);
/* Does what an attempt has written stay for a later one, after that error? It was lost; or it failed when it had just
 * taken older's place, and has not begun. */
bool gw_serve_keeps(const struct gw_serve *serve, int error);
/* Before the volumes are dropped: are their files older's still? Of an attempt that goes on and was refused, so that
 * it can be tried again. */
bool gw_serve_gives_back(const struct gw_serve *serve);
void gw_serve_close_partial(struct gw_serve *serve);

/* serve-vm-make.c: the target's QEMU, made ready for the offer; what the source is told goes into reply.
 */
int gw_serve_vm_offer(struct gw_serve *serve, const json_t *offer, json_t *reply);
/* A message of the handover, of this session's move or of an earlier one that the journal knows. */
int gw_serve_vm_message(struct gw_serve *serve, const json_t *message);
/* The guest is about to be stopped for the handover: QEMU gets ready for its state. */
int gw_serve_vm_stopping(struct gw_serve *serve);
/* The guest's owner paused or continued it, before the handover. */
int gw_serve_vm_owner(struct gw_serve *serve, const json_t *message);
int gw_serve_vm_bytes(struct gw_serve *serve, const void *bytes, uint32_t length);
/* False from the handover on: then a lost link is the state machine's business. */
bool gw_serve_vm_may_wait(const struct gw_serve *serve);
/* The control session is another one, or NULL. */
void gw_serve_vm_set_control(struct gw_serve *serve, struct gw_control *control);
/* The control session ended: what was not prepared is undone, what was prepared waits. Frees vm.
 * why is what ended the session (code 0: the source took its leave), and becomes what had ended the
 * attempt before. */
void gw_serve_vm_end(struct gw_serve *serve, struct gw_error *why);

#endif
