/* SPDX-License-Identifier: Apache-2.0 */
/* A few threads claim pieces from one round, read them and write them. */
#include "engine/session/local.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/fault.h"
#include "common/clock.h"
#include "common/memory.h"
#include "engine/session/compare.h"
#include "engine/session/message.h"
#include "engine/session/verify.h"
#include "engine/volume/location.h"
#include "engine/worker/record.h"
#include "engine/worker/round.h"

#define THREADS 4

struct local {
    struct gw_source_volume *source;
    struct gw_target_volume *target;
    struct gw_round *round;
    struct gw_progress *progress;
    _Atomic uint64_t moved;
    _Atomic bool is_failed;
    pthread_mutex_t lock; /* protects error; leaf */
    struct gw_error error;
};

static int write_piece(struct local *local, uint64_t offset, const uint8_t *bytes, uint64_t length)
{
    struct gw_target_volume *target = local->target;

    if (length % sizeof(uint64_t) == 0 && gw_memory_is_zero(bytes, length))
        return target->ops->zero(target, offset, length);
    return gw_target_write(target, offset, bytes, length);
}

static int move_piece(struct local *local, const struct gw_piece *piece, uint8_t *buffer)
{
    struct gw_source_volume *source = local->source;
    struct gw_location from;
    int error = 0;

    if (piece->kind != GW_EXTENT_DATA)
        return local->target->ops->zero(local->target, piece->offset, piece->length);
    for (uint64_t moved = 0; !error && moved < piece->length; moved += from.length) {
        uint64_t offset = piece->offset + moved;

        error = source->ops->locate(source, offset, piece->length - moved, &from);
        if (error)
            return error;
        from.length = gw_min(from.length, piece->length - moved);
        if (from.kind != GW_EXTENT_DATA) {
            error = local->target->ops->zero(local->target, offset, from.length);
        } else if (from.where == GW_IN_MEMORY) {
            error = write_piece(local, offset, from.memory, from.length);
        } else {
            error = from.where == GW_BY_CALL
                        ? source->ops->read(source, offset, buffer, from.length)
                        : gw_location_read(&from, buffer);
            if (!error)
                error = write_piece(local, offset, buffer, from.length);
        }
    }
    if (!error)
        atomic_fetch_add(&local->moved, piece->length);
    return error;
}

static void report(struct local *local)
{
    struct gw_progress_data *data = &local->progress->data;
    uint64_t moved = atomic_load(&local->moved), now = gw_clock_ns();

    pthread_mutex_lock(&local->progress->lock);
    data->bytes_done = moved;
    data->bytes_sent = moved;
    data->rate =
        (uint64_t)((double)moved * (double)GW_NS_PER_S / (double)gw_max(now - data->started_ns, 1));
    pthread_mutex_unlock(&local->progress->lock);
}

struct touch {
    struct local *local;
    const struct gw_piece *piece;
    uint8_t *buffer;
};

static int touch_piece(void *context)
{
    struct touch *touch = context;

    return move_piece(touch->local, touch->piece, touch->buffer);
}

static int check_cancel(const struct gw_progress *progress)
{
    struct pollfd fd = {.fd = progress->cancel_fd, .events = POLLIN};

    return poll(&fd, 1, 0) > 0 ? gw_fail(-ECANCELED, "cancelled") : 0;
}

static int work(struct local *local, uint8_t *buffer)
{
    struct gw_piece pieces[16];
    int count;

    while (!atomic_load(&local->is_failed) &&
           (count = gw_round_claim(local->round, pieces, GW_ARRAY_LENGTH(pieces), 4u << 20)) != 0) {
        int error = count < 0 ? count : check_cancel(local->progress);

        for (int i = 0; !error && i < count; i++) {
            struct touch touch = {.local = local, .piece = &pieces[i], .buffer = buffer};

            error = gw_fault_run(local->source->name, touch_piece, &touch);
        }
        if (error)
            return error;
        report(local);
    }
    return 0;
}

static void *run(void *argument)
{
    struct local *local = argument;
    void *buffer;
    int error = gw_memory_new(GW_CHUNK_MAX + GW_RING_ALIGNMENT, &buffer);

    if (!error) {
        error = work(local, buffer);
        gw_memory_free(buffer, GW_CHUNK_MAX + GW_RING_ALIGNMENT);
    }
    if (error) {
        atomic_store(&local->is_failed, true);
        pthread_mutex_lock(&local->lock);
        if (!local->error.code)
            gw_error_take(error, &local->error);
        pthread_mutex_unlock(&local->lock);
    }
    return NULL;
}

static int run_threads(struct local *local)
{
    pthread_t threads[THREADS];
    int started = 0, error = 0;

    while (started < THREADS && !error) {
        error = -pthread_create(&threads[started], NULL, run, local);
        if (!error)
            started++;
    }
    /* One thread is enough. */
    if (started == 0)
        return gw_fail_errno(error, "no thread to copy with");
    while (started > 0)
        pthread_join(threads[--started], NULL);
    return local->error.code ? gw_error_raise(&local->error) : 0;
}

static int compare(struct gw_source_volume *volume, const struct gw_target_volume *target,
                   const struct gw_local_options *options)
{
    uint8_t read[GW_VERIFY_SIZE], written[GW_VERIFY_SIZE];
    int error = gw_verify_source(volume, read);

    if (!error)
        error = gw_endpoint_digest(target->place, gw_offer_format(options->offered), volume->size,
                                   written);
    if (error || memcmp(read, written, GW_VERIFY_SIZE) == 0)
        return error;
    return gw_fail(-EBADMSG, "%s: what was written differs from the source", options->path);
}

/* A pass of all threads over one round. */
static int run_round(struct local *local)
{
    int error = run_threads(local);

    atomic_store(&local->is_failed, false);
    return error;
}

/* What is there and is not as the source has it is written again. */
static int mend(struct local *local, const struct gw_local_options *options)
{
    struct gw_source_volume *volume = local->source, *view;
    struct gw_bitmap different;
    uint64_t bytes = 0;
    int error;

    error = gw_compare_begin(volume, &different);
    if (error)
        return error;
    error = local->target->ops->view(local->target, &view);
    if (!error) {
        error = gw_compare_volumes(volume, view, options->durable, &different, &bytes);
        view->ops->close(view);
    }
    if (!error && bytes > 0)
        error = gw_round_new(&local->round);
    if (!error && bytes > 0)
        error = gw_round_add(local->round, 0, volume, &different);
    if (!error && bytes > 0)
        error = run_round(local);
    gw_round_free(local->round);
    local->round = NULL;
    gw_bitmap_free(&different);
    if (options->resent_bytes)
        *options->resent_bytes += bytes;
    return error;
}

/* What is left from position, or as much as fits until the next checkpoint. */
static int copy_part(struct local *local, const struct gw_local_options *options,
                     uint64_t *position)
{
    int error = gw_round_new(&local->round);

    if (error)
        return error;
    if (options->sync_interval_ns)
        gw_round_set_deadline(local->round, gw_clock_ns() + options->sync_interval_ns);
    error = gw_round_add_rest(local->round, 0, local->source, *position);
    if (!error)
        error = run_round(local);
    if (!error)
        *position = gw_min(gw_round_position(local->round, 0), local->source->size);
    gw_round_free(local->round);
    local->round = NULL;
    return error;
}

static int copy_all(struct local *local, const struct gw_local_options *options)
{
    uint64_t position = options->durable;
    int error = position > 0 ? mend(local, options) : 0;

    while (!error && position < local->source->size) {
        error = copy_part(local, options, &position);
        if (error || !options->sync_interval_ns || position == local->source->size)
            continue;
        /* The data first: a record of what is not there would be a lie. */
        error = local->target->ops->sync(local->target);
        if (!error)
            error = options->checkpoint(options->context, position);
    }
    return error;
}

static int check_wanted(void *context)
{
    return check_cancel(context);
}

static int make_target(const struct gw_local_options *options, struct gw_progress *progress,
                       struct gw_target_volume **out)
{
    struct gw_wanted wanted = {.check = check_wanted, .context = progress};
    char epoch[2 * GW_ID_SIZE + 1];
    uint8_t id[GW_ID_SIZE];
    int error = options->epoch ? 0 : gw_id_random(id);

    if (error)
        return error;
    if (!options->epoch)
        gw_id_format(id, epoch);
    return gw_endpoint_make(options->offered, options->path,
                            options->epoch ? options->epoch : epoch, wanted, out);
}

int gw_local_fill(struct gw_source_volume *volume, const struct gw_local_options *options,
                  struct gw_progress *progress, struct gw_target_volume **out)
{
    struct local local = {.source = volume, .progress = progress};
    int error = make_target(options, progress, &local.target);

    if (error)
        return error;
    pthread_mutex_init(&local.lock, NULL);
    error = copy_all(&local, options);
    if (!error)
        error = volume->ops->unchanged(volume);
    pthread_mutex_destroy(&local.lock);
    if (!error) {
        *out = local.target;
        return 0;
    }
    local.target->ops->abort(local.target);
    local.target->ops->close(local.target);
    return error;
}

int gw_local_verify(struct gw_source_volume *volume, const struct gw_target_volume *target,
                    const struct gw_local_options *options)
{
    return options->verify ? compare(volume, target, options) : 0;
}
