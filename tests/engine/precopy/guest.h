/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest: a simulated VM and the far side of its move. Its time is its own: it passes only while a
 * round is sent, at send_rate (the sender sleeps as long, so that the measured rate is near it).
 * Each granule has a version that every write raises; sending copies the version. So "the target
 * has it all" is a comparison of two arrays that godwit does not know.
 *
 * Errors: a failed assertion of the test.
 * Threads: one.
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_TESTS_ENGINE_PRECOPY_GUEST_H
#define GODWIT_TESTS_ENGINE_PRECOPY_GUEST_H

#include "engine/precopy/precopy.h"
#include "tests/engine/worker/fake-volume.h"

#define GUEST_VOLUMES_MAX 2
#define GUEST_LOG_MAX     4096

struct guest_volume {
    struct fake_volume fake;
    struct gw_extent extents[1];
    struct gw_bitmap written;
    uint32_t *version, *copy; /* per granule, here and there */
    uint64_t granules, cursor;
};

struct guest {
    struct guest_volume volumes[GUEST_VOLUMES_MAX];
    unsigned volume_count;
    uint64_t dirty_rate, send_rate; /* bytes per second */
    bool is_stopped;
    unsigned throttle_percent;
    uint64_t last_data; /* bytes of the newest round */
    bool last_was_still;
    struct gw_precopy_report report;
    /* What was called: S stop, C cont, c collect, r round, y sync, t throttle. */
    char log[GUEST_LOG_MAX];
    unsigned log_length;
    unsigned stopped_collects, running_collects;
    /* The call with this letter fails, once, after skip others of it. */
    char fail_letter;
    unsigned fail_skip;
    unsigned rounds_left; /* then run_round answers -ECANCELED */
    bool calms_when_stuck;
    bool is_punched; /* what that hook answers */
};

extern const struct gw_precopy_hooks guest_hooks;

void guest_init(struct guest *guest, uint64_t dirty_rate, uint64_t send_rate);
void guest_free(struct guest *guest);
/* A volume of size bytes, all data unless kind_of_bytes says otherwise. */
struct gw_source_volume *guest_add(struct guest *guest, enum gw_volume_kind kind, uint64_t size,
                                   enum gw_extent_kind kind_of_bytes);
void guest_write(struct guest *guest, unsigned volume, uint64_t granule);
/* Granules that the target does not have as they are here. */
uint64_t guest_differences(const struct guest *guest);
unsigned guest_count(const struct guest *guest, char letter);

#endif
