/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migration: what an agent or a command asks of the engine. A move of a running VM, a copy of an
 * image, and the other end of both.
 *
 * Errors: 0 or -errno with a message; struct gw_outcome carries the exit code of the design (docs:
 *   exit codes) and, when a plan is blocked, every reason.
 * Threads: each run blocks the thread that calls it for the whole migration. gw_progress is
 *   shared: any thread may read a snapshot or cancel.
 * Units: bytes, nanoseconds unless the name says otherwise.
 */
#ifndef GODWIT_ENGINE_MIGRATION_H
#define GODWIT_ENGINE_MIGRATION_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/pins.h"
#include "engine/handover/journal.h"
#include "engine/volume/volume.h"
#include "transport/link/transports.h"

enum gw_exit {
    GW_EXIT_DONE = 0,
    GW_EXIT_FAILED = 1,
    GW_EXIT_USAGE = 2,
    GW_EXIT_BLOCKED = 3,
    GW_EXIT_IN_DOUBT = 4,
    GW_EXIT_VERIFY = 5,
};

#define GW_STORAGE_MAX         16u
#define GW_TRUSTED_MAX         32u
#define GW_DISKS_MAX           32u
#define GW_LISTEN_MAX          16u
#define GW_RECONNECT_DEFAULT_S 300u
#define GW_RECONNECT_MAX_S     3600u /* a target waits no longer for a source, whatever it says */

/* Where this process listens, and with which back end. gw_listener_address says whether it does just now. */
struct gw_listening {
    struct gw_transport *transport;
    struct gw_listener *listener; /* lent */
};

/* What a process that runs migrations has, whatever it runs. Lent to every run. */
struct gw_environment {
    struct gw_transports transports;          /* lent */
    const struct gw_credentials *credentials; /* NULL: local copies only */
    uint8_t instance_id[GW_ID_SIZE];
    struct gw_network trusted[GW_TRUSTED_MAX];
    unsigned trusted_count;
    /* Folders that peers may write beneath, the first is the default; and URIs of NBD exports that
     * they may write to. */
    const char *storage[GW_STORAGE_MAX];
    unsigned storage_count;
    const char *state_dir;        /* journal, sockets of VMs that arrived */
    const char *ram_dir;          /* where RAM files of VMs that arrive are put; NULL: /dev/shm */
    const char *launch_hook;      /* program that starts the target's VMM, or NULL */
    const char *to_qmp;           /* a QEMU that already waits (-incoming defer -S), or NULL */
    unsigned reconnect_s;         /* how long a source dials a lost link again; 0: not at all */
    struct gw_rejoins *rejoins;   /* sessions whose sources may come back; NULL: none may */
    struct gw_attended *attended; /* which moves this process has in hand; NULL: copies only */
    struct gw_fences *fences;     /* of devices that VMs were moved away from; NULL: none */
    struct gw_journal *journal;   /* NULL: copies only */
    unsigned keep_partial_hours;  /* how long a lost move can be gone on with; 0: nothing is kept */
    struct gw_pins *pins;         /* memory registered for devices; lent; NULL: no limit */
    unsigned worker_count;        /* 0: half the CPUs, at most one per channel */
    const struct gw_topology *topology; /* where workers go; NULL: anywhere */
    struct gw_listening
        listen[GW_LISTEN_MAX * GW_TRANSPORTS_MAX]; /* where data channels may dial too */
    unsigned listen_count;
    bool allow_bench; /* peers may measure: gw_bench_run */
    bool drop_disks;  /* for measuring only: disks that arrive are checked and dropped */
};

/* The moves that a process has in hand, so that recovery leaves them alone. */
struct gw_attended;
int gw_attended_new(struct gw_attended **out);
void gw_attended_free(struct gw_attended *attended);
/* Has this process it in hand just now? */
bool gw_attended_has(struct gw_attended *attended, const char *epoch, enum gw_journal_side side);
/* Other processes have migrations noted in the same state folder: what this one has in hand is locked
 * there, in files of that folder. Before anything is attended. */
int gw_attended_share(struct gw_attended *attended, const char *folder);

/* Block devices that VMs had here before they were handed over (engine/session/fence.h). */
struct gw_fences;
int gw_fences_new(struct gw_fences **out);
void gw_fences_free(struct gw_fences *fences); /* takes NULL */
/* Removes those whose time is over; every few seconds. Takes NULL. */
void gw_fences_tidy(struct gw_fences *fences);

/* The sessions of a process that receives, which a source whose link was lost may rejoin. */
struct gw_rejoins;
int gw_rejoins_new(struct gw_rejoins **out);
void gw_rejoins_free(struct gw_rejoins *rejoins); /* after the last session; takes NULL */
/* For a control session whose hello says GW_HELLO_REJOIN: waits for its first message, and gives it
 * to the session that it names, or refuses it by name. Takes over control whatever the outcome. */
int gw_rejoins_take(struct gw_rejoins *rejoins, struct gw_control *control);

/* A mapping OLD=NEW from the command line. */
struct gw_mapping {
    const char *from, *to;
};

/* How the source reaches its target. */
struct gw_link_request {
    const char *transports; /* names with commas, best first; NULL: all that work */
    unsigned channels;      /* per rail; 0: 2 */
    const char *congestion; /* TCP_CONGESTION or NULL */
    int reconnect_s;        /* how long a lost link is dialled again; 0: not at all, -1: as said in
                               the environment */
    unsigned stall_s;       /* without any progress: said, after twice that acted on; 0: 30 */
    uint64_t pin_limit;     /* bytes registered for devices at once; 0: the environment's */
};

struct gw_move_request {
    const char *qmp_path;
    struct gw_address peer;
    struct gw_mapping disks[GW_DISKS_MAX]; /* --disk vda=PATH on the target */
    unsigned disk_count;
    struct gw_mapping nets[GW_DISKS_MAX]; /* --net br0=br1 */
    unsigned net_count;
    const char *target_storage; /* --storage DIR, within the target's own folders; or NULL */
    uint32_t max_pause_ms;      /* 0: 300 */
    bool no_throttle, delete_source, verify;
    const char *tracker;      /* NULL: auto */
    const char *resume;       /* epoch of an earlier attempt to go on with, or NULL */
    unsigned sync_interval_s; /* of the disks' first pass; 0: 10 */
    json_t *text;             /* what was asked, as a later attempt asks it again; may be NULL */
    struct gw_link_request link;
};

struct gw_copy_request {
    const char *source_path;   /* or an NBD URI */
    const char *source_format; /* NULL: probe */
    bool is_remote;
    struct gw_address peer; /* is_remote */
    const char
        *target_path; /* remote: relative to the peer's storage; a folder or "" keeps the name; or
                         an NBD URI */
    const char *target_format; /* NULL: as the source */
    bool is_fixed;             /* VHDX fixed, raw preallocated */
    bool is_dynamic;           /* not, although the source is */
    bool verify;
    uint64_t size;        /* of the new disk; 0: the source's */
    uint32_t block_size;  /* VHDX; 0: as the source's, or the format's own */
    uint32_t sector_size; /* VHDX; 0: as the source's */
    bool new_id;          /* VHDX: new identifiers in place of the source's */
    bool flatten;         /* a differencing disk becomes one image; else its chain is copied */
    struct gw_mapping parents[GW_DISKS_MAX]; /* --parent OLD=NEW */
    unsigned parent_count;
    const char *resume;       /* epoch of an earlier attempt to go on with, or NULL */
    unsigned sync_interval_s; /* between two checkpoints; 0: 10 */
    json_t *text; /* what was asked, as a later attempt asks it again; NULL: nothing is kept */
    struct gw_link_request link;
};

enum gw_phase {
    GW_PHASE_PLAN,     /* connecting, checking */
    GW_PHASE_DISKS,    /* first pass and rounds over disks */
    GW_PHASE_MEMORY,   /* rounds over RAM (and disks) */
    GW_PHASE_HANDOVER, /* from stop on */
    GW_PHASE_ENDED,
};

/* How a volume's bytes travel, and what this side's processor copied of them on the way. */
struct gw_volume_progress {
    char name[GW_VOLUME_NAME_MAX];
    char path[8]; /* "direct", "slots", "sealed", "none" yet */
    uint64_t direct_bytes, slot_bytes, sealed_bytes;
    uint64_t copied_bytes;
};

/* One snapshot of a migration. */
struct gw_progress_data {
    enum gw_phase phase;
    uint32_t round;
    uint64_t bytes_total, bytes_done; /* of the current phase: data to be moved, moved */
    uint64_t bytes_sent, bytes_zero;  /* since the start: on the wire; known to be zero */
    uint64_t rate;                    /* bytes per second, of the last second */
    uint64_t dirty_rate;              /* bytes per second */
    uint64_t predicted_pause_ns, pause_ns;
    uint64_t started_ns, ended_ns; /* gw_clock_ns */
    unsigned throttle_percent;
    unsigned channel_count;
    char epoch[GW_EPOCH_TEXT_MAX]; /* of a move, once the journal has it */
    char state[32];                /* handover state name */
    char path[32];                 /* "direct", "slots", "sealed" */
    char transport[128];
    char note[256]; /* gw_progress_note */
    unsigned volume_count;
    struct gw_volume_progress volumes[GW_VOLUMES_MAX];
    char path_note[320]; /* why memory goes through slots that could go directly */
};

struct gw_progress {
    pthread_mutex_t lock; /* protects data; leaf */
    struct gw_progress_data data;
    int cancel_fd; /* eventfd, readable once cancelled */
};

int gw_progress_init(struct gw_progress *progress);
void gw_progress_free(struct gw_progress *progress);
void gw_progress_get(struct gw_progress *progress, struct gw_progress_data *out);
/* The newest thing a person should know, in place of the one before; "" for nothing. */
void gw_progress_note(struct gw_progress *progress, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Asks for an end. -EBUSY after COMMITTED: refused. */
int gw_progress_cancel(struct gw_progress *progress);
const char *gw_phase_name(enum gw_phase phase);

struct gw_outcome {
    enum gw_exit exit_code;
    json_t *detail; /* object: what moved, rates, rounds, pause split, "blocked": [...], "target":
                       {...} */
};
void gw_outcome_free(struct gw_outcome *outcome);

int gw_move_run(const struct gw_environment *environment, const struct gw_move_request *request,
                struct gw_progress *progress, struct gw_outcome *out);
int gw_copy_run(const struct gw_environment *environment, const struct gw_copy_request *request,
                struct gw_progress *progress, struct gw_outcome *out);

/* Measures the transports that this host shares with a target. *out is an object, of which
 * docs/admin-protocol.md has the members, also when it fails (-EBADMSG: wrong bytes arrived); the
 * caller decrefs it. */
#define GW_BENCH_CHANNELS_MAX 8u
#define GW_BENCH_MS_MAX       10000u
#define GW_BENCH_WRITE_MIN    512u
#define GW_BENCH_WRITE_MAX    (1u << 20)

struct gw_bench_request {
    struct gw_address peer;
    uint32_t milliseconds;       /* for each size of writes; 0: 1000 */
    uint32_t write_bytes;        /* the only size; 0: 4 KiB, 64 KiB and 1 MiB */
    struct gw_link_request link; /* channels: of each transport; 0: 1 */
};
int gw_bench_run(const struct gw_environment *environment, const struct gw_bench_request *request,
                 struct gw_progress *progress, json_t **out);

/* The target's end of one control session, on a thread of its own. The agent hands each data
 * channel request whose hello names the session's link id to gw_serve_offer. Returns when the
 * session ended. */
struct gw_serve;
int gw_serve_new(const struct gw_environment *environment, struct gw_control *control,
                 struct gw_serve **out);
/* Any thread: is this the link of the session's data channels? */
bool gw_serve_has_link(struct gw_serve *serve, const uint8_t *link_id);
int gw_serve_offer(struct gw_serve *serve, struct gw_request *request); /* any thread; takes over */
/* For a control session whose hello says GW_HELLO_ASK: answers from the journal what became of moves
 * of earlier sessions, for half a minute at most, and takes no offer. Takes over control. */
int gw_serve_answer(const struct gw_environment *environment, struct gw_control *control);
int gw_serve_run(struct gw_serve *serve, struct gw_progress *progress, struct gw_outcome *out);
void gw_serve_free(struct gw_serve *serve);

/* Moves that the journal holds as undecided: redials their targets and settles what can be settled.
 * Called by the agent at start and every few seconds while any is in doubt. */
int gw_recover(const struct gw_environment *environment);

/* A person's word about a move in doubt. */
struct gw_resolve_request {
    const char *move;  /* the first digits of its epoch (at least 4), or the VM's name */
    bool keeps_target; /* else the source */
    bool is_confirmed; /* else it is described only */
};

/* Is it for a person to settle? */
bool gw_resolve_is_in_doubt(const struct gw_journal_entry *entry);
/* Would a person's word be taken? */
bool gw_resolve_may(const struct gw_journal_entry *entry);
/* For people: epoch, side, state, vm, peer, meaning, contradicted, and "commands", which settle it.
 * The caller decrefs; NULL when memory is short. */
json_t *gw_resolve_describe(const struct gw_journal_entry *entry);
/* -ENOENT: no such move here. -EPERM: it is not in doubt, or was settled otherwise. The outcome's
 * detail is the description, with the new "state" and its "meaning". */
int gw_resolve_run(const struct gw_environment *environment,
                   const struct gw_resolve_request *request, struct gw_outcome *out);

/* Removes what is left of migrations that nobody will go on with: at the start of an agent, before
 * it lets anybody in, of those that died with the one before; later of those kept too long. */
void gw_partials_tidy(const struct gw_environment *environment, bool is_start);
/* Removes memory and sockets of VMs that were moved here and whose QEMU has ended, unless a process maps that memory.
 * Called by the agent at start and every few seconds. */
void gw_arrived_tidy(const struct gw_environment *environment);
/* What is kept, for status: [{"epoch", "side", "vm", "bytes", "changed_ms"}]. */
json_t *gw_partials_describe(const struct gw_environment *environment);

#endif
