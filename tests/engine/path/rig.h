/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig: a sender and a receiver in one process, joined by a real control session over any transport
 * wrapped by faulty, with volumes in memory. What fails here aborts the test.
 * Threads: the test's, plus two workers.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_ENGINE_PATH_RIG_H
#define GODWIT_TESTS_ENGINE_PATH_RIG_H

#include "engine/precopy/windows.h"
#include "engine/worker/path.h"
#include "tests/transport/faulty.h"

#define PATH_DEATHS_MAX 8u

struct path_rig {
    struct gw_transport *faulty;
    struct gw_listener *listener;
    struct gw_address address;
    struct gw_credentials *credentials;
    struct gw_control *near, *far;
    struct gw_network everywhere;
    bool is_clear;
    struct gw_domain *near_domain, *far_domain;
    struct gw_worker *near_worker, *far_worker;
    struct gw_sender *sender;
    struct gw_receiver *receiver;
    struct gw_windows *windows; /* NULL where nothing needs them */
    struct gw_pins pins;        /* the target's */
    struct path_answer {
        struct gw_window window;
        bool is_there; /* the target has decided */
        struct gw_error error;
    } answers[16];
    unsigned answer_count;
    bool is_unanswered; /* the target looks at no window until this is cleared */
    unsigned
        deaths; /* channels that died and were replaced; from PATH_DEATHS_MAX on none is dropped */
    /* Called often while a round runs, or NULL. */
    void (*look)(void *context);
    void *look_context;
};

#define PATH_DEATHS_MAX 8u

/* transport: "loop" or "tcp". */
void path_rig_open(struct path_rig *rig, const char *transport, bool is_clear);
/* As if a device placed the writes: at most limit bytes can be registered, by both ends together,
 * and the target allows itself target_limit. */
void path_rig_open_rdma(struct path_rig *rig, const char *transport, bool is_clear, uint64_t limit,
                        uint64_t target_limit);
void path_rig_close(struct path_rig *rig);
/* Volumes first, then channels. */
void path_rig_add_volume(struct path_rig *rig, uint16_t index, struct gw_source_volume *source,
                         struct gw_target_volume *target);
void path_rig_add_channel(struct path_rig *rig);
/* Only the target has a lane on this channel; the test holds the other end. */
void path_rig_dial(struct path_rig *rig, struct gw_poller *poller, struct gw_channel **channel,
                   struct gw_seal **seal);
/* Runs the round. 0, or the error of a FAILED event at either end; dead channels are buried and
 * replaced. */
int path_rig_run(struct path_rig *rig, struct gw_round *round);

/* A source in memory: data wherever a 64 KiB block is not zero, holes elsewhere. bytes are lent. */
struct gw_source_volume *path_source_new(enum gw_volume_kind kind, void *bytes, uint64_t size);
/* How often its readers had nothing else to do. */
unsigned path_source_tidied(const struct gw_source_volume *volume);
/* A target in memory. Disks are written by call, RAM is mapped. Its bytes are its own. */
struct gw_target_volume *path_target_new(enum gw_volume_kind kind, uint64_t size);
const uint8_t *path_target_bytes(struct gw_target_volume *target);

#endif
