/* SPDX-License-Identifier: Apache-2.0 */
/* The rounds and the decisions between them. */
#include "engine/precopy/precopy.h"

#include <errno.h>
#include <stdlib.h>

#include "common/checked.h"
#include "common/clock.h"

/* A round this much smaller than the one before is progress. */
#define PROGRESS_PERCENT 80u
/* Rounds without progress before the guest is slowed by a step. */
#define PATIENCE         2u
#define RATE_INTERVAL_NS (100 * GW_NS_PER_MS)
/* What is left fits the allowed pause already: more rounds while they shorten it, until the copy in
 * the pause takes no more than this part of what is allowed. */
#define SHORT_SHARE       16u
#define SHORTENING_ROUNDS 4u
/* Disk rounds before memory begins: what is left then goes with the rounds of memory. */
#define ALL_KINDS        (~0u)
#define DISK_ROUNDS_MAX  4u
#define SMALL_DISK_ROUND (64u << 20)
/* Bytes per second, until a round has measured it: a first pass may have found nothing but holes.
 */
#define UNMEASURED_RATE (10u << 20)

struct member {
    struct gw_source_volume *volume;
    struct gw_bitmap dirty;
    uint16_t index;
    uint64_t copied; /* the first pass has come so far */
    bool is_copied;  /* has had its first pass */
};

struct gw_precopy {
    struct gw_precopy_options options;
    struct member members[GW_VOLUMES_MAX];
    unsigned count;
    struct gw_precopy_report report;
    uint64_t collected_ns; /* when the dirty maps were last read */
    uint64_t round_bytes;  /* of the round that ran last */
    unsigned stalls;       /* rounds in a row without progress */
};

int gw_precopy_new(const struct gw_precopy_options *options, struct gw_precopy **out)
{
    struct gw_precopy *precopy = calloc(1, sizeof(*precopy));

    if (!precopy)
        return gw_fail(-ENOMEM, "no memory for a pre-copy");
    precopy->options = *options;
    *out = precopy;
    return 0;
}

void gw_precopy_free(struct gw_precopy *precopy)
{
    if (!precopy)
        return;
    for (unsigned i = 0; i < precopy->count; i++)
        gw_bitmap_free(&precopy->members[i].dirty);
    free(precopy);
}

int gw_precopy_add(struct gw_precopy *precopy, uint16_t index, struct gw_source_volume *volume)
{
    struct member *member = &precopy->members[precopy->count];
    int error;

    if (precopy->count == GW_VOLUMES_MAX)
        return gw_fail(-E2BIG, "more than %u volumes", GW_VOLUMES_MAX);
    error = gw_bitmap_init(&member->dirty,
                           (volume->size + volume->granularity - 1) / volume->granularity);
    if (error)
        return error;
    member->volume = volume;
    member->index = index;
    precopy->count++;
    return 0;
}

void gw_precopy_get(const struct gw_precopy *precopy, struct gw_precopy_report *out)
{
    *out = precopy->report;
}

static uint64_t dirty_bytes_of(const struct member *member)
{
    return gw_min(gw_bitmap_count(&member->dirty) * member->volume->granularity,
                  member->volume->size);
}

static uint64_t dirty_bytes(const struct gw_precopy *precopy)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < precopy->count; i++)
        bytes += dirty_bytes_of(&precopy->members[i]);
    return bytes;
}

static void tell(struct gw_precopy *precopy)
{
    precopy->options.hooks->report(precopy->options.context, &precopy->report);
}

static void predict(struct gw_precopy *precopy)
{
    struct gw_precopy_report *report = &precopy->report;
    uint64_t rate = report->rate > 0 ? report->rate : UNMEASURED_RATE;

    report->predicted_pause_ns =
        precopy->options.fixed_pause_ns +
        (uint64_t)((double)report->dirty_bytes * (double)GW_NS_PER_S / (double)rate);
}

/* After a collection: all RAM that could go directly so far may have to be sent again, through slots. */
static void look_for_punches(struct gw_precopy *precopy)
{
    const struct gw_precopy_hooks *hooks = precopy->options.hooks;

    if (!hooks->is_punched || !hooks->is_punched(precopy->options.context))
        return;
    for (unsigned i = 0; i < precopy->count; i++) {
        struct member *member = &precopy->members[i];

        if (member->volume->kind != GW_VOLUME_RAM || member->volume->is_punched)
            continue;
        member->volume->is_punched = true;
        if (member->is_copied)
            gw_bitmap_set_range(&member->dirty, 0,
                                (member->volume->size + member->volume->granularity - 1) /
                                    member->volume->granularity);
    }
}

/* Reads the dirty maps of every copied volume, with the guest stopped when that is needed. */
static int collect(struct gw_precopy *precopy)
{
    const struct gw_precopy_hooks *hooks = precopy->options.hooks;
    void *context = precopy->options.context;
    bool stop = precopy->options.needs_barriers || precopy->options.needs_stop;
    uint64_t now;
    int error = stop ? hooks->stop(context) : 0, cont_error = 0;

    if (error)
        return error;
    for (unsigned i = 0; !error && i < precopy->count; i++) {
        struct member *member = &precopy->members[i];

        if (member->is_copied)
            error = member->volume->ops->collect(member->volume, &member->dirty);
    }
    if (!error)
        look_for_punches(precopy);
    now = gw_clock_ns();
    if (stop)
        cont_error = hooks->cont(context);
    if (error || cont_error)
        return error ? error : cont_error;
    precopy->report.dirty_bytes = dirty_bytes(precopy);
    /* Two looks right after each other say nothing of a rate. */
    if (precopy->collected_ns && now - precopy->collected_ns > RATE_INTERVAL_NS)
        precopy->report.dirty_rate =
            (uint64_t)((double)precopy->report.dirty_bytes * (double)GW_NS_PER_S /
                       (double)gw_max(now - precopy->collected_ns, 1));
    precopy->collected_ns = now;
    predict(precopy);
    return 0;
}

/* Runs what round holds and measures the rate by it. */
static int run(struct gw_precopy *precopy, struct gw_round *round)
{
    uint64_t started = gw_clock_ns(), data, zero, elapsed;
    int error = precopy->options.hooks->run_round(precopy->options.context, round);

    if (error)
        return error;
    elapsed = gw_max(gw_clock_ns() - started, 1);
    gw_round_counts(round, &data, &zero);
    precopy->round_bytes = data;
    /* A round of a few pages says more about latency than about the rate. */
    if (data >= (4u << 20) || precopy->report.rate == 0)
        precopy->report.rate = (uint64_t)((double)data * (double)GW_NS_PER_S / (double)elapsed);
    return 0;
}

/* One round over the dirty maps of these kinds, which are clear afterwards. */
static int run_dirty(struct gw_precopy *precopy, unsigned kinds, bool is_still)
{
    struct gw_round *round;
    int error = gw_round_new(&round);

    if (error)
        return error;
    if (is_still)
        gw_round_set_still(round);
    for (unsigned i = 0; !error && i < precopy->count; i++) {
        struct member *member = &precopy->members[i];

        if (member->is_copied && (kinds >> member->volume->kind & 1))
            error = gw_round_add(round, member->index, member->volume, &member->dirty);
    }
    precopy->report.round++;
    tell(precopy);
    if (!error)
        error = run(precopy, round);
    gw_round_free(round);
    for (unsigned i = 0; !error && i < precopy->count; i++)
        if (kinds >> precopy->members[i].volume->kind & 1)
            gw_bitmap_clear_all(&precopy->members[i].dirty);
    return error;
}

void gw_precopy_resume(struct gw_precopy *precopy, uint16_t index, uint64_t copied)
{
    for (unsigned i = 0; i < precopy->count; i++) {
        struct member *member = &precopy->members[i];

        if (member->index != index)
            continue;
        member->copied = gw_min(copied, member->volume->size);
        member->is_copied = member->copied == member->volume->size;
    }
}

struct gw_bitmap *gw_precopy_dirty(struct gw_precopy *precopy, uint16_t index)
{
    for (unsigned i = 0; i < precopy->count; i++)
        if (precopy->members[i].index == index)
            return &precopy->members[i].dirty;
    return NULL;
}

uint64_t gw_precopy_copied(const struct gw_precopy *precopy, uint16_t index)
{
    for (unsigned i = 0; i < precopy->count; i++)
        if (precopy->members[i].index == index)
            return precopy->members[i].copied;
    return 0;
}

static bool is_due(const struct member *member, enum gw_volume_kind kind)
{
    return member->volume->kind == kind && !member->is_copied;
}

/* The volumes' first pass, or as much of it as fits until the next sync is due. */
static int run_part(struct gw_precopy *precopy, enum gw_volume_kind kind)
{
    struct gw_round *round;
    int error = gw_round_new(&round);

    if (error)
        return error;
    if (kind == GW_VOLUME_DISK && precopy->options.sync_interval_ns)
        gw_round_set_deadline(round, gw_clock_ns() + precopy->options.sync_interval_ns);
    for (unsigned i = 0; !error && i < precopy->count; i++) {
        struct member *member = &precopy->members[i];

        if (is_due(member, kind))
            error = gw_round_add_rest(round, member->index, member->volume, member->copied);
    }
    if (!error)
        error = run(precopy, round);
    for (unsigned i = 0; !error && i < precopy->count; i++) {
        struct member *member = &precopy->members[i];

        if (is_due(member, kind))
            gw_precopy_resume(precopy, member->index, gw_round_position(round, member->index));
    }
    gw_round_free(round);
    return error;
}

static bool is_any_due(const struct gw_precopy *precopy, enum gw_volume_kind kind)
{
    for (unsigned i = 0; i < precopy->count; i++)
        if (is_due(&precopy->members[i], kind))
            return true;
    return false;
}

static int first_pass(struct gw_precopy *precopy, enum gw_volume_kind kind)
{
    uint64_t bytes = 0, sent = 0, started = gw_clock_ns();
    int error = 0;

    for (unsigned i = 0; i < precopy->count; i++)
        if (is_due(&precopy->members[i], kind) && precopy->members[i].copied == 0)
            bytes += gw_source_data_bytes(precopy->members[i].volume);
    precopy->report.dirty_bytes = bytes;
    precopy->report.round++;
    tell(precopy);
    while (!error && is_any_due(precopy, kind)) {
        error = run_part(precopy, kind);
        sent += precopy->round_bytes;
        if (!error && is_any_due(precopy, kind))
            error = precopy->options.hooks->sync(precopy->options.context);
    }
    if (kind == GW_VOLUME_RAM) {
        precopy->report.ram_pass_bytes = sent;
        precopy->report.ram_pass_ns = gw_clock_ns() - started;
    }
    return error;
}

int gw_precopy_first_pass(struct gw_precopy *precopy, enum gw_volume_kind kind)
{
    const struct gw_precopy_hooks *hooks = precopy->options.hooks;
    uint64_t before = UINT64_MAX;
    int error = 0;

    if (precopy->options.needs_barriers) {
        /* Drains what was pinned before the trackers were armed. */
        error = hooks->stop(precopy->options.context);
        if (!error)
            error = hooks->cont(precopy->options.context);
    }
    precopy->collected_ns = gw_clock_ns();
    if (!error)
        error = first_pass(precopy, kind);
    if (error || kind == GW_VOLUME_RAM)
        return error;
    for (unsigned i = 0; !error && i < DISK_ROUNDS_MAX; i++) {
        error = hooks->sync(precopy->options.context);
        if (!error)
            error = collect(precopy);
        if (error || precopy->report.dirty_bytes <= SMALL_DISK_ROUND ||
            precopy->report.dirty_bytes > before / 100 * PROGRESS_PERCENT)
            break;
        before = precopy->report.dirty_bytes;
        error = run_dirty(precopy, ALL_KINDS, false);
    }
    return error;
}

/* The round did not get smaller: slow the guest by a step, or say that it cannot end. */
static int push_back(struct gw_precopy *precopy)
{
    struct gw_precopy_report *report = &precopy->report;

    if (precopy->options.no_throttle || report->throttle_percent >= GW_THROTTLE_MAX_PERCENT) {
        report->is_stuck = true;
        return 0;
    }
    report->throttle_percent = (unsigned)gw_min(report->throttle_percent + GW_THROTTLE_STEP_PERCENT,
                                                GW_THROTTLE_MAX_PERCENT);
    return precopy->options.hooks->throttle(precopy->options.context, report->throttle_percent);
}

/* Is it worth another round, though what is left fits? The allowed pause is a limit, not a wish. */
static bool can_be_shorter(const struct gw_precopy *precopy, uint64_t before, unsigned rounds)
{
    const struct gw_precopy_report *report = &precopy->report;
    uint64_t fixed = precopy->options.fixed_pause_ns;
    uint64_t allowed = precopy->options.max_pause_ns - gw_min(fixed, precopy->options.max_pause_ns);

    return rounds < SHORTENING_ROUNDS &&
           report->predicted_pause_ns - fixed > allowed / SHORT_SHARE &&
           report->dirty_bytes <= before / 100 * PROGRESS_PERCENT;
}

int gw_precopy_converge(struct gw_precopy *precopy)
{
    uint64_t before = UINT64_MAX;
    unsigned rounds = 0;

    for (;;) {
        int error = collect(precopy);

        if (error)
            return error;
        tell(precopy);
        if (precopy->report.predicted_pause_ns <= precopy->options.max_pause_ns &&
            !can_be_shorter(precopy, before, rounds++))
            return 0;
        precopy->stalls =
            precopy->report.dirty_bytes > before / 100 * PROGRESS_PERCENT ? precopy->stalls + 1 : 0;
        before = precopy->report.dirty_bytes;
        if (precopy->stalls >= PATIENCE) {
            precopy->stalls = 0;
            error = push_back(precopy);
        }
        if (!error)
            error = run_dirty(precopy, ALL_KINDS, false);
        if (!error)
            error = precopy->options.hooks->sync(precopy->options.context);
        if (error)
            return error;
    }
}

int gw_precopy_last_collect(struct gw_precopy *precopy, enum gw_volume_kind kind)
{
    int error = 0;

    for (unsigned i = 0; !error && i < precopy->count; i++) {
        struct member *member = &precopy->members[i];

        if (member->is_copied && member->volume->kind == kind)
            error = member->volume->ops->collect(member->volume, &member->dirty);
    }
    if (!error && kind == GW_VOLUME_RAM)
        look_for_punches(precopy);
    return error;
}

int gw_precopy_last_send(struct gw_precopy *precopy, enum gw_volume_kind kind, uint64_t *last_bytes)
{
    int error;

    precopy->report.dirty_bytes = 0;
    for (unsigned i = 0; i < precopy->count; i++)
        if (precopy->members[i].volume->kind == kind)
            precopy->report.dirty_bytes += dirty_bytes_of(&precopy->members[i]);
    if (precopy->report.dirty_bytes == 0)
        return 0;
    error = run_dirty(precopy, 1u << kind, true);
    if (!error)
        *last_bytes += precopy->round_bytes;
    return error;
}
