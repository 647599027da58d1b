/* SPDX-License-Identifier: Apache-2.0 */
/* The decisions of the pre-copy, with a simulated guest (guest.h). */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "tests/engine/precopy/guest.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

struct rig {
    struct guest guest;
    struct gw_precopy_options options;
    struct gw_precopy *precopy;
};

TestSuite(precopy, .timeout = 60);

static void begin(struct rig *rig)
{
    rig->options.hooks = &guest_hooks;
    rig->options.context = &rig->guest;
    cr_assert_eq(gw_precopy_new(&rig->options, &rig->precopy), 0);
    for (unsigned i = 0; i < rig->guest.volume_count; i++)
        cr_assert_eq(gw_precopy_add(rig->precopy, (uint16_t)i, &rig->guest.volumes[i].fake.volume),
                     0);
}

/* A guest with RAM alone. */
static void begin_ram(struct rig *rig, uint64_t size, uint64_t dirty_rate)
{
    guest_init(&rig->guest, dirty_rate, GIB);
    guest_add(&rig->guest, GW_VOLUME_RAM, size, GW_EXTENT_DATA);
    begin(rig);
}

static void end(struct rig *rig)
{
    gw_precopy_free(rig->precopy);
    guest_free(&rig->guest);
}

static struct gw_precopy_report report_of(const struct rig *rig)
{
    struct gw_precopy_report report;

    gw_precopy_get(rig->precopy, &report);
    return report;
}

/* First passes and rounds, as a move does them. */
static int copy_live(struct rig *rig)
{
    int error = 0;

    for (unsigned i = 0; !error && i < rig->guest.volume_count; i++)
        error = gw_precopy_first_pass(rig->precopy, rig->guest.volumes[i].fake.volume.kind);
    return error ? error : gw_precopy_converge(rig->precopy);
}

static uint64_t last_round(struct rig *rig)
{
    uint64_t bytes = 0;

    rig->guest.is_stopped = true; /* by the caller, as the header says */
    for (enum gw_volume_kind kind = GW_VOLUME_DISK; kind <= GW_VOLUME_RAM; kind++) {
        cr_assert_eq(gw_precopy_last_collect(rig->precopy, kind), 0, "%s", gw_error_message());
        cr_assert_eq(gw_precopy_last_send(rig->precopy, kind, &bytes), 0, "%s", gw_error_message());
    }
    return bytes;
}

Test(precopy, converges_when_the_link_is_faster_than_the_guest)
{
    struct rig rig = {.options = {.max_pause_ns = 20 * GW_NS_PER_MS}};
    struct gw_precopy_report report;

    begin_ram(&rig, 256 * MIB, 300 * MIB);
    cr_assert_eq(copy_live(&rig), 0, "%s", gw_error_message());
    report = report_of(&rig);
    cr_assert_leq(report.predicted_pause_ns, 20 * GW_NS_PER_MS);
    cr_assert_not(report.is_stuck);
    cr_assert_eq(guest_count(&rig.guest, 't'), 0, "it was slowed without need");
    cr_assert_geq(guest_count(&rig.guest, 'r'), 2);
    end(&rig);
}

Test(precopy, target_has_everything_after_the_last_round)
{
    struct rig rig = {.options = {.max_pause_ns = 30 * GW_NS_PER_MS}};

    guest_init(&rig.guest, 300 * MIB, GIB);
    guest_add(&rig.guest, GW_VOLUME_DISK, 200 * MIB, GW_EXTENT_DATA);
    guest_add(&rig.guest, GW_VOLUME_RAM, 100 * MIB, GW_EXTENT_DATA);
    begin(&rig);
    cr_assert_eq(copy_live(&rig), 0, "%s", gw_error_message());
    /* The negative control: without the last round something is missing. */
    cr_assert_gt(guest_differences(&rig.guest), 0);
    last_round(&rig);
    cr_assert_eq(guest_differences(&rig.guest), 0);
    end(&rig);
}

Test(precopy, last_round_sends_what_is_dirty_and_nothing_else)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_S}};

    begin_ram(&rig, 64 * MIB, 0);
    cr_assert_eq(copy_live(&rig), 0);
    guest_write(&rig.guest, 0, 5);
    guest_write(&rig.guest, 0, 6);
    guest_write(&rig.guest, 0, 16000);
    cr_assert_eq(last_round(&rig), 3 * 4096);
    cr_assert_eq(rig.guest.last_data, 3 * 4096);
    cr_assert_eq(guest_differences(&rig.guest), 0);
    end(&rig);
}

Test(precopy, last_round_of_an_idle_guest_sends_nothing)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_S}};

    begin_ram(&rig, 64 * MIB, 0);
    cr_assert_eq(copy_live(&rig), 0);
    cr_assert_eq(last_round(&rig), 0);
    end(&rig);
}

Test(precopy, only_the_last_round_is_still)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_S}};

    begin_ram(&rig, 16 * MIB, 0);
    cr_assert_eq(copy_live(&rig), 0);
    guest_write(&rig.guest, 0, 5);
    cr_assert_not(rig.guest.last_was_still);
    last_round(&rig);
    cr_assert(rig.guest.last_was_still);
    end(&rig);
}

Test(precopy, slows_the_guest_step_by_step_until_it_converges)
{
    struct rig rig = {.options = {.max_pause_ns = 10 * GW_NS_PER_MS}};
    struct gw_precopy_report report;
    unsigned steps;

    begin_ram(&rig, 48 * MIB, 2 * GIB);
    cr_assert_eq(copy_live(&rig), 0, "%s", gw_error_message());
    report = report_of(&rig);
    steps = guest_count(&rig.guest, 't');
    cr_assert_eq(rig.guest.throttle_percent, steps * GW_THROTTLE_STEP_PERCENT);
    cr_assert_eq(report.throttle_percent, rig.guest.throttle_percent);
    /* At 40 % it still writes 1.2 GiB/s against 1 GiB/s. */
    cr_assert_geq(rig.guest.throttle_percent, 60);
    cr_assert_leq(report.predicted_pause_ns, 10 * GW_NS_PER_MS);
    cr_assert_not(report.is_stuck);
    end(&rig);
}

Test(precopy, gives_rounds_a_chance_before_the_first_step)
{
    struct rig rig = {.options = {.max_pause_ns = 5 * GW_NS_PER_MS}};
    const char *step;

    begin_ram(&rig, 32 * MIB, 8 * GIB);
    rig.guest.rounds_left = 6;
    cr_assert_eq(copy_live(&rig), -ECANCELED);
    step = strchr(rig.guest.log, 't');
    cr_assert_not_null(step);
    *(char *)step = '\0';
    rig.guest.log_length = (unsigned)(step - rig.guest.log);
    cr_assert_geq(guest_count(&rig.guest, 'r'), 3, "%s", rig.guest.log);
    end(&rig);
}

Test(precopy, stops_at_the_largest_step_and_says_that_it_is_stuck)
{
    struct rig rig = {.options = {.max_pause_ns = 1 * GW_NS_PER_MS}};
    struct gw_precopy_report report;

    begin_ram(&rig, 16 * MIB, 1000 * GIB);
    rig.guest.rounds_left = 24;
    cr_assert_eq(copy_live(&rig), -ECANCELED);
    report = report_of(&rig);
    cr_assert_eq(guest_count(&rig.guest, 't'), 5, "20, 40, 60, 80, 95");
    cr_assert_eq(rig.guest.throttle_percent, GW_THROTTLE_MAX_PERCENT);
    cr_assert(report.is_stuck);
    end(&rig);
}

Test(precopy, no_throttle_says_that_it_is_stuck_and_goes_on)
{
    struct rig rig = {.options = {.max_pause_ns = 1 * GW_NS_PER_MS, .no_throttle = true}};

    begin_ram(&rig, 16 * MIB, 1000 * GIB);
    rig.guest.calms_when_stuck = true;
    cr_assert_eq(copy_live(&rig), 0, "%s", gw_error_message());
    cr_assert(report_of(&rig).is_stuck);
    cr_assert_eq(guest_count(&rig.guest, 't'), 0);
    cr_assert_leq(report_of(&rig).predicted_pause_ns, 1 * GW_NS_PER_MS);
    end(&rig);
}

Test(precopy, barriers_stop_the_guest_around_every_collection)
{
    struct rig rig = {.options = {.max_pause_ns = 20 * GW_NS_PER_MS, .needs_barriers = true}};

    begin_ram(&rig, 128 * MIB, 400 * MIB);
    cr_assert_eq(copy_live(&rig), 0, "%s", gw_error_message());
    cr_assert_eq(rig.guest.running_collects, 0, "%s", rig.guest.log);
    cr_assert_geq(rig.guest.stopped_collects, 2);
    cr_assert_eq(guest_count(&rig.guest, 'S'), guest_count(&rig.guest, 'C'));
    cr_assert_not(rig.guest.is_stopped);
    end(&rig);
}

/* What was pinned before the trackers were armed must have landed before the first byte is read. */
Test(precopy, barriers_drain_before_the_first_byte)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_S, .needs_barriers = true}};

    begin_ram(&rig, 16 * MIB, 0);
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_RAM), 0);
    cr_assert_str_eq(rig.guest.log, "SCr");
    end(&rig);
}

Test(precopy, barrier_ends_before_the_round_begins)
{
    struct rig rig = {.options = {.max_pause_ns = 20 * GW_NS_PER_MS, .needs_barriers = true}};

    begin_ram(&rig, 128 * MIB, 400 * MIB);
    cr_assert_eq(copy_live(&rig), 0);
    for (const char *at = rig.guest.log; (at = strchr(at, 'S')); at++)
        cr_assert(strncmp(at, "SC", 2) == 0 || strncmp(at, "ScC", 3) == 0, "%s", rig.guest.log);
    end(&rig);
}

Test(precopy, inexact_tracker_stops_the_guest_around_collections_only)
{
    struct rig rig = {.options = {.max_pause_ns = 20 * GW_NS_PER_MS, .needs_stop = true}};

    begin_ram(&rig, 128 * MIB, 400 * MIB);
    cr_assert_eq(copy_live(&rig), 0);
    cr_assert_eq(rig.guest.running_collects, 0);
    cr_assert_eq(guest_count(&rig.guest, 'S'), guest_count(&rig.guest, 'c'));
    cr_assert_eq(rig.guest.log[0], 'r');
    end(&rig);
}

Test(precopy, without_barriers_the_guest_is_never_stopped)
{
    struct rig rig = {.options = {.max_pause_ns = 20 * GW_NS_PER_MS}};

    begin_ram(&rig, 128 * MIB, 400 * MIB);
    cr_assert_eq(copy_live(&rig), 0);
    cr_assert_eq(guest_count(&rig.guest, 'S') + guest_count(&rig.guest, 'C'), 0);
    cr_assert_geq(rig.guest.running_collects, 2);
    end(&rig);
}

Test(precopy, last_round_neither_stops_nor_continues)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_S, .needs_barriers = true}};
    unsigned before;

    begin_ram(&rig, 16 * MIB, 0);
    cr_assert_eq(copy_live(&rig), 0);
    guest_write(&rig.guest, 0, 5);
    before = rig.guest.log_length;
    last_round(&rig);
    cr_assert_str_eq(rig.guest.log + before, "cr");
    end(&rig);
}

Test(precopy, disks_are_synced_between_rounds)
{
    struct rig rig = {.options = {.max_pause_ns = 5 * GW_NS_PER_MS}};

    guest_init(&rig.guest, 300 * MIB, GIB);
    guest_add(&rig.guest, GW_VOLUME_DISK, 256 * MIB, GW_EXTENT_DATA);
    begin(&rig);
    cr_assert_eq(copy_live(&rig), 0);
    cr_assert_eq(rig.guest.log[1], 'y', "after the first pass: %s", rig.guest.log);
    for (const char *at = strstr(rig.guest.log, "r"); at; at = strstr(at + 1, "r"))
        cr_assert_eq(at[1], 'y', "%s", rig.guest.log);
    end(&rig);
}

Test(precopy, ram_that_was_not_copied_yet_is_not_collected)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_S}};

    guest_init(&rig.guest, 0, GIB);
    guest_add(&rig.guest, GW_VOLUME_DISK, 16 * MIB, GW_EXTENT_DATA);
    guest_add(&rig.guest, GW_VOLUME_RAM, 16 * MIB, GW_EXTENT_DATA);
    begin(&rig);
    guest_write(&rig.guest, 1, 7);
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_DISK), 0);
    cr_assert_eq(report_of(&rig).dirty_bytes, 0);
    cr_assert(gw_bitmap_test(&rig.guest.volumes[1].written, 7), "its mark was taken too early");
    end(&rig);
}

Test(precopy, second_first_pass_of_a_kind_sends_nothing_again)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_S}};

    begin_ram(&rig, 16 * MIB, 0);
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_RAM), 0);
    cr_assert_gt(rig.guest.last_data, 0);
    rig.guest.last_data = 0;
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_RAM), 0);
    cr_assert_eq(rig.guest.last_data, 0);
    end(&rig);
}

Test(precopy, prediction_grows_with_the_dirty_bytes)
{
    struct rig rig = {.options = {.max_pause_ns = UINT64_MAX, .fixed_pause_ns = 7000}};
    uint64_t before = 0;

    begin_ram(&rig, 64 * MIB, 0);
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_RAM), 0);
    for (unsigned i = 0; i < 14; i++) {
        struct gw_precopy_report report;

        for (uint64_t j = 0; j < 1ull << i; j++)
            guest_write(&rig.guest, 0, j);
        cr_assert_eq(gw_precopy_converge(rig.precopy), 0);
        report = report_of(&rig);
        cr_assert_eq(report.dirty_bytes, 4096ull << i);
        cr_assert_gt(report.predicted_pause_ns, before);
        /* The definition, computed here too. */
        cr_assert_float_eq((double)report.predicted_pause_ns,
                           7000 + (double)report.dirty_bytes * 1e9 / (double)report.rate, 2);
        before = report.predicted_pause_ns;
    }
    end(&rig);
}

Test(precopy, nothing_dirty_predicts_the_fixed_part)
{
    struct rig rig = {.options = {.max_pause_ns = UINT64_MAX, .fixed_pause_ns = 12345}};

    begin_ram(&rig, 16 * MIB, 0);
    cr_assert_eq(copy_live(&rig), 0);
    cr_assert_eq(report_of(&rig).predicted_pause_ns, 12345);
    end(&rig);
}

/* A first pass of nothing but holes measures no rate; what became dirty is not free for that. */
Test(precopy, unmeasured_rate_promises_no_short_pause)
{
    struct rig rig = {.options = {.max_pause_ns = 5 * GW_NS_PER_MS}};

    guest_init(&rig.guest, 0, GIB);
    guest_add(&rig.guest, GW_VOLUME_RAM, 64 * MIB, GW_EXTENT_ABSENT);
    begin(&rig);
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_RAM), 0);
    cr_assert_eq(rig.guest.last_data, 0);
    rig.guest.volumes[0].extents[0].kind = GW_EXTENT_DATA;
    for (uint64_t i = 0; i < rig.guest.volumes[0].granules; i++)
        guest_write(&rig.guest, 0, i);
    cr_assert_eq(gw_precopy_converge(rig.precopy), 0);
    cr_assert_eq(guest_count(&rig.guest, 'r'), 2, "64 MiB were left to the pause");
    end(&rig);
}

Test(precopy, dirty_bytes_never_exceed_the_volume)
{
    struct rig rig = {.options = {.max_pause_ns = UINT64_MAX}};

    guest_init(&rig.guest, 0, GIB);
    guest_add(&rig.guest, GW_VOLUME_DISK, 64 * KIB + 512, GW_EXTENT_DATA);
    begin(&rig);
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_DISK), 0);
    guest_write(&rig.guest, 0, 0);
    guest_write(&rig.guest, 0, 1);
    cr_assert_eq(gw_precopy_converge(rig.precopy), 0);
    cr_assert_eq(report_of(&rig).dirty_bytes, 64 * KIB + 512);
    end(&rig);
}

/* A round that failed has sent nothing for certain: its marks come again. */
Test(precopy, failed_round_loses_no_dirty_mark)
{
    struct rig rig = {.options = {.max_pause_ns = 0}};

    begin_ram(&rig, 16 * MIB, 0);
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_RAM), 0);
    guest_write(&rig.guest, 0, 42);
    rig.guest.fail_letter = 'r';
    cr_assert_eq(gw_precopy_converge(rig.precopy), -EIO);
    cr_assert_eq(guest_differences(&rig.guest), 1);
    last_round(&rig);
    cr_assert_eq(guest_differences(&rig.guest), 0);
    end(&rig);
}

struct failure {
    char letter;
    unsigned skip;
    bool needs_barriers;
};

ParameterizedTestParameters(precopy, failed_hook_ends_it_and_leaves_the_guest_running)
{
    static struct failure failures[] = {
        {'r', 0, true}, {'r', 1, true}, {'r', 2, true}, {'r', 3, false},
        {'c', 0, true}, {'c', 1, true}, {'c', 2, true}, {'c', 0, false},
        {'S', 0, true}, {'S', 1, true}, {'S', 2, true}, {'y', 0, true},
        {'y', 1, true}, {'t', 0, true}, {'t', 1, true}, {'t', 1, false},
    };

    return cr_make_param_array(struct failure, failures, sizeof(failures) / sizeof(*failures));
}

ParameterizedTest(struct failure *failure, precopy,
                  failed_hook_ends_it_and_leaves_the_guest_running, .timeout = 60)
{
    struct rig rig = {
        .options = {.max_pause_ns = GW_NS_PER_MS, .needs_barriers = failure->needs_barriers}};
    unsigned length;

    guest_init(&rig.guest, 1000 * GIB, GIB);
    guest_add(&rig.guest, GW_VOLUME_DISK, 16 * MIB, GW_EXTENT_DATA);
    guest_add(&rig.guest, GW_VOLUME_RAM, 16 * MIB, GW_EXTENT_DATA);
    begin(&rig);
    rig.guest.fail_letter = failure->letter;
    rig.guest.fail_skip = failure->skip;
    cr_assert_eq(copy_live(&rig), -EIO, "%s", rig.guest.log);
    cr_assert_not(rig.guest.is_stopped, "%s", rig.guest.log);
    /* Only a collection between a stop and a cont leaves a call to be made. */
    length = rig.guest.log_length;
    cr_assert(rig.guest.log[length - 1] == failure->letter ||
                  (failure->letter == 'c' && rig.guest.log[length - 1] == 'C'),
              "went on after the failure: %s", rig.guest.log);
    end(&rig);
}

Test(precopy, failed_cont_is_told_to_the_caller)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_MS, .needs_barriers = true}};

    begin_ram(&rig, 16 * MIB, 0);
    rig.guest.fail_letter = 'C';
    cr_assert_eq(copy_live(&rig), -EIO);
    cr_assert_str_eq(rig.guest.log, "SC", "nothing is sent of a guest that may be stopped");
    end(&rig);
}

Test(precopy, refuses_more_volumes_than_a_migration_has)
{
    struct rig rig = {.options = {.max_pause_ns = 0}};

    begin_ram(&rig, 1 * MIB, 0);
    for (unsigned i = 1; i < GW_VOLUMES_MAX; i++)
        cr_assert_eq(gw_precopy_add(rig.precopy, (uint16_t)i, &rig.guest.volumes[0].fake.volume),
                     0);
    cr_assert_eq(gw_precopy_add(rig.precopy, 64, &rig.guest.volumes[0].fake.volume), -E2BIG);
    end(&rig);
}

/* What a device may have read of pages that were taken away is sent again, once, as a copy. */
Test(precopy, punched_ram_is_sent_again_as_a_copy)
{
    struct rig rig = {.options = {.max_pause_ns = GW_NS_PER_S}};

    begin_ram(&rig, 16 * MIB, 0);
    cr_assert_eq(gw_precopy_first_pass(rig.precopy, GW_VOLUME_RAM), 0);
    rig.guest.is_punched = true;
    cr_assert_eq(last_round(&rig), 16 * MIB);
    cr_assert(rig.guest.volumes[0].fake.volume.is_punched);
    cr_assert_eq(last_round(&rig), 0, "sent twice");
    end(&rig);
}
