/* SPDX-License-Identifier: Apache-2.0 */
/* The hooks of the simulated guest. Half of what it writes in a round, it writes in the middle. */
#include "tests/engine/precopy/guest.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"

void guest_init(struct guest *guest, uint64_t dirty_rate, uint64_t send_rate)
{
    memset(guest, 0, sizeof(*guest));
    guest->dirty_rate = dirty_rate;
    guest->send_rate = send_rate;
    guest->rounds_left = 1000;
}

void guest_free(struct guest *guest)
{
    for (unsigned i = 0; i < guest->volume_count; i++) {
        gw_bitmap_free(&guest->volumes[i].written);
        free(guest->volumes[i].version);
        free(guest->volumes[i].copy);
    }
}

static int log_call(struct guest *guest, char letter)
{
    cr_assert_lt(guest->log_length, GUEST_LOG_MAX - 1);
    guest->log[guest->log_length++] = letter;
    if (letter != guest->fail_letter || guest->fail_skip-- > 0)
        return 0;
    guest->fail_letter = 0;
    return gw_fail(-EIO, "hook %c fails", letter);
}

static void before_collect(struct fake_volume *fake)
{
    struct guest *guest = fake->context;

    fake->collect_code = log_call(guest, 'c');
    if (guest->is_stopped)
        guest->stopped_collects++;
    else
        guest->running_collects++;
}

struct gw_source_volume *guest_add(struct guest *guest, enum gw_volume_kind kind, uint64_t size,
                                   enum gw_extent_kind kind_of_bytes)
{
    struct guest_volume *volume = &guest->volumes[guest->volume_count++];
    uint32_t granularity = kind == GW_VOLUME_RAM ? 4096 : 65536;

    cr_assert_leq(guest->volume_count, GUEST_VOLUMES_MAX);
    volume->extents[0] = (struct gw_extent){0, size, kind_of_bytes};
    fake_volume_init(&volume->fake, kind, granularity, volume->extents, 1);
    volume->granules = (size + granularity - 1) / granularity;
    cr_assert_eq(gw_bitmap_init(&volume->written, volume->granules), 0);
    volume->version = calloc(volume->granules, sizeof(uint32_t));
    volume->copy = calloc(volume->granules, sizeof(uint32_t));
    for (uint64_t i = 0; kind_of_bytes == GW_EXTENT_DATA && i < volume->granules; i++)
        volume->version[i] = 1;
    volume->fake.written = &volume->written;
    volume->fake.before_collect = before_collect;
    volume->fake.context = guest;
    return &volume->fake.volume;
}

void guest_write(struct guest *guest, unsigned volume, uint64_t granule)
{
    guest->volumes[volume].version[granule]++;
    gw_bitmap_set_range(&guest->volumes[volume].written, granule, 1);
}

/* The guest runs for that long: writes go round and round in each volume. */
static void live(struct guest *guest, uint64_t time_ns)
{
    double seconds = (double)time_ns / 1e9 * (100 - guest->throttle_percent) / 100;

    cr_assert_not(guest->is_stopped && !guest->last_was_still,
                  "a round while the guest is stopped");
    for (unsigned i = 0; !guest->is_stopped && i < guest->volume_count; i++) {
        struct guest_volume *volume = &guest->volumes[i];
        uint64_t count = (uint64_t)((double)guest->dirty_rate * seconds /
                                    volume->fake.volume.granularity / guest->volume_count);

        for (uint64_t j = 0; j < gw_min(count, volume->granules); j++)
            guest_write(guest, i, volume->cursor++ % volume->granules);
    }
}

static void copy_piece(struct guest *guest, const struct gw_piece *piece)
{
    struct guest_volume *volume = &guest->volumes[piece->volume];
    uint64_t granularity = volume->fake.volume.granularity;

    for (uint64_t at = piece->offset; at < piece->offset + piece->length; at += granularity)
        volume->copy[at / granularity] = volume->version[at / granularity];
}

static int run_round(void *context, struct gw_round *round)
{
    struct guest *guest = context;
    uint64_t started = gw_clock_ns(), data, zero, wanted, passed = 0;
    struct gw_piece piece;
    int error = log_call(guest, 'r');

    if (error)
        return error;
    if (guest->rounds_left-- == 0)
        return gw_fail(-ECANCELED, "cancelled");
    guest->last_was_still = gw_round_is_still(round);
    while (gw_round_claim(round, &piece, 1, UINT64_MAX) == 1) {
        copy_piece(guest, &piece);
        gw_round_counts(round, &data, &zero);
        wanted = (uint64_t)((double)data * 1e9 / (double)guest->send_rate);
        live(guest, wanted - passed);
        passed = wanted;
        gw_round_applied(round, piece.length);
    }
    cr_assert(gw_round_is_done(round));
    gw_round_counts(round, &guest->last_data, &zero);
    while (gw_clock_ns() - started < passed) {
        struct timespec pause = {.tv_nsec = 200000};

        nanosleep(&pause, NULL);
    }
    return 0;
}

static int sync_disks(void *context)
{
    return log_call(context, 'y');
}

static int stop(void *context)
{
    struct guest *guest = context;
    int error = log_call(guest, 'S');

    cr_assert_not(guest->is_stopped, "stopped twice");
    guest->is_stopped = !error;
    return error;
}

static int cont(void *context)
{
    struct guest *guest = context;
    int error = log_call(guest, 'C');

    cr_assert(guest->is_stopped, "continued without a stop");
    guest->is_stopped = error != 0;
    return error;
}

static int throttle(void *context, unsigned percent)
{
    struct guest *guest = context;
    int error = log_call(guest, 't');

    if (!error)
        guest->throttle_percent = percent;
    return error;
}

static void report(void *context, const struct gw_precopy_report *now)
{
    struct guest *guest = context;

    guest->report = *now;
    if (now->is_stuck && guest->calms_when_stuck)
        guest->dirty_rate = 0;
}

static bool is_punched(void *context)
{
    return ((struct guest *)context)->is_punched;
}

const struct gw_precopy_hooks guest_hooks = {
    .run_round = run_round,
    .sync = sync_disks,
    .stop = stop,
    .cont = cont,
    .throttle = throttle,
    .report = report,
    .is_punched = is_punched,
};

uint64_t guest_differences(const struct guest *guest)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < guest->volume_count; i++)
        for (uint64_t j = 0; j < guest->volumes[i].granules; j++)
            count += guest->volumes[i].version[j] != guest->volumes[i].copy[j];
    return count;
}

unsigned guest_count(const struct guest *guest, char letter)
{
    unsigned count = 0;

    for (unsigned i = 0; i < guest->log_length; i++)
        count += guest->log[i] == letter;
    return count;
}
