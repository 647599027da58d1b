/* SPDX-License-Identifier: Apache-2.0 */
/* One lane of the target: takes records, checks or opens the bytes that they describe, writes them
 * into volumes, and acknowledges records in order once they are applied. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/memory.h"
#include "engine/volume/location.h"
#include "engine/worker/receiver.h"

static struct gw_receiver_lane *of(struct gw_lane *base)
{
    return gw_container_of(base, struct gw_receiver_lane, talk.lane);
}

static bool is_clear(const struct gw_receiver_lane *lane)
{
    return gw_seal_is_clear(lane->talk.seal);
}

/* A volume that failed ends the migration: nothing unchecked may count as received. */
static int failed(struct gw_receiver_lane *lane, int error)
{
    gw_events_push(&lane->receiver->events, GW_PATH_FAILED, lane->number, error);
    return error;
}

/* ---- writes ---- */

static void advance(struct gw_receiver_lane *lane)
{
    while (lane->applied < lane->received &&
           lane->pending[(lane->applied + 1) % GW_RECORDS_OUT_MAX] == 0)
        lane->applied++;
}

static void write_done(struct gw_io *io, int64_t result)
{
    struct gw_receiver_write *write = gw_container_of(io, struct gw_receiver_write, io);
    struct gw_receiver_lane *lane = write->lane;

    lane->writes_out--;
    write->next_free = lane->free_writes;
    lane->free_writes = write;
    if (result < 0) {
        /* The record stays pending for ever, so it is never acknowledged. */
        failed(lane, gw_fail_errno((int)result, "%s: write at file offset %llu",
                                   lane->receiver->volumes[write->volume]->name,
                                   (unsigned long long)io->file_offset));
        return;
    }
    lane->pending[write->sequence % GW_RECORDS_OUT_MAX]--;
}

static bool has_free_write(void *argument)
{
    return ((struct gw_receiver_lane *)argument)->free_writes != NULL;
}

static int write_file(struct gw_receiver_lane *lane, uint16_t volume, const struct gw_location *to,
                      const uint8_t *bytes)
{
    struct gw_receiver_write *write;

    if (to->is_memory_file)
        return gw_location_write(to, bytes);
    assert(!lane->receiver->volumes[volume]->takes_at_once);
    if (!lane->free_writes)
        gw_worker_drain(lane->talk.lane.worker, has_free_write, lane);
    lane->io_memory.base = lane->plain ? lane->plain : lane->ring;
    lane->io_memory.length = GW_RECEIVER_RING;
    write = lane->free_writes;
    lane->free_writes = write->next_free;
    write->lane = lane;
    write->volume = volume;
    write->sequence = lane->received;
    write->io = (struct gw_io){
        .done = write_done,
        .fd = to->fd,
        .is_write = true,
        .memory = (void *)bytes,
        .within = &lane->io_memory,
        .file_offset = to->file_offset,
        .length = (uint32_t)to->length,
    };
    lane->writes_out++;
    lane->pending[lane->received % GW_RECORDS_OUT_MAX]++;
    gw_worker_submit(lane->talk.lane.worker, &write->io);
    return 0;
}

/* Puts checked bytes where the volume wants them. */
static int place(struct gw_receiver_lane *lane, const struct gw_record_entry *entry,
                 const uint8_t *bytes)
{
    struct gw_target_volume *volume = lane->receiver->volumes[entry->volume];
    uint64_t moved = 0;

    while (moved < entry->length) {
        struct gw_location to;
        uint64_t offset = entry->offset + moved;
        int error = volume->ops->locate(volume, offset, entry->length - moved, &to);

        if (error)
            return error;
        to.length = gw_min(to.length, entry->length - moved);
        if (to.where != GW_IN_FILE)
            gw_lane_copied(&lane->counters, entry->volume, to.length);
        if (to.where == GW_IN_MEMORY)
            memcpy(to.memory, bytes + moved, to.length);
        else if (to.where == GW_IN_FILE)
            error = write_file(lane, entry->volume, &to, bytes + moved);
        else
            error = volume->ops->write(volume, offset, bytes + moved, to.length);
        if (error)
            return error;
        moved += to.length;
    }
    return 0;
}

/* ---- entries ---- */

static int check_digest(const struct gw_receiver_lane *lane, const struct gw_record_entry *entry,
                        const uint8_t *bytes)
{
    uint8_t digest[GW_DIGEST_SIZE];

    gw_lane_digest(bytes, entry->length, digest);
    if (memcmp(digest, entry->digest, GW_DIGEST_SIZE) == 0)
        return 0;
    return gw_fail(-EBADMSG, "%s: the bytes at %llu do not match their digest",
                   lane->receiver->volumes[entry->volume]->name, (unsigned long long)entry->offset);
}

/* Where the worker keeps the bytes of an entry. A volume that takes them at once gets each chunk from
 * the same place, which stays in the processor's cache; for another they stay until they are written. */
static uint8_t *plain_of(const struct gw_receiver_lane *lane, const struct gw_record_entry *entry)
{
    bool is_hot = lane->receiver->volumes[entry->volume]->takes_at_once;

    return lane->plain + (is_hot ? GW_RECEIVER_RING : entry->position);
}

/* Where a device places writes, the source could change the ring's bytes after they were looked at:
 * they are taken into the worker's own memory first. */
static const uint8_t *own_bytes(struct gw_receiver_lane *lane, const struct gw_record_entry *entry)
{
    uint8_t *own;

    if (!gw_receiver_lane_is_rdma(lane))
        return lane->ring + entry->position;
    own = plain_of(lane, entry);
    memcpy(own, lane->ring + entry->position, entry->length);
    gw_lane_copied(&lane->counters, entry->volume, entry->length);
    return own;
}

/* Opens a sealed chunk: into its final place when that is memory, else into the worker's own
 * buffer, which the peer cannot reach. */
static int open_chunk(struct gw_receiver_lane *lane, const struct gw_record_entry *entry,
                      const uint8_t *sealed, const uint8_t **bytes)
{
    struct gw_target_volume *volume = lane->receiver->volumes[entry->volume];
    struct gw_chunk_name name = {
        .volume = entry->volume,
        .length = (uint32_t)entry->length,
        .offset = entry->offset,
    };
    uint8_t *into =
        volume->memory ? (uint8_t *)volume->memory + entry->offset : plain_of(lane, entry);

    memcpy(name.migration_id, lane->receiver->migration_id, GW_ID_SIZE);
    *bytes = volume->memory ? NULL : into;
    gw_lane_copied(&lane->counters, entry->volume, entry->length);
    return gw_seal_open_chunk(lane->talk.seal, &name, sealed, into, entry->digest);
}

static int take_ring(struct gw_receiver_lane *lane, const struct gw_record_entry *entry)
{
    uint64_t started = gw_clock_ns();
    const uint8_t *bytes = own_bytes(lane, entry);
    int error;

    if (is_clear(lane))
        error = check_digest(lane, entry, bytes);
    else
        error = open_chunk(lane, entry, bytes, &bytes);
    gw_lane_account(&lane->counters, GW_STAGE_DIGEST, started);
    if (error || !bytes)
        return error;
    started = gw_clock_ns();
    error = place(lane, entry, bytes);
    gw_lane_account(&lane->counters, GW_STAGE_WRITE, started);
    return error;
}

static int take_direct(struct gw_receiver_lane *lane, const struct gw_record_entry *entry)
{
    struct gw_target_volume *volume = lane->receiver->volumes[entry->volume];
    uint64_t started = gw_clock_ns();
    int error = 0;

    if (!is_clear(lane) || !lane->allow_direct || !volume->memory ||
        (gw_receiver_lane_is_rdma(lane) && !gw_receiver_lane_has_window(lane, entry)))
        return gw_fail(-EPROTO, "%s: direct bytes on a channel that may not write there",
                       volume->name);
    if (entry->has_digest)
        error = check_digest(lane, entry, (uint8_t *)volume->memory + entry->offset);
    gw_lane_account(&lane->counters, GW_STAGE_DIGEST, started);
    return error;
}

static int take_zero(struct gw_receiver_lane *lane, const struct gw_record_entry *entry)
{
    struct gw_target_volume *volume = lane->receiver->volumes[entry->volume];
    uint64_t started = gw_clock_ns();
    int error = volume->ops->zero(volume, entry->offset, entry->length);

    gw_lane_account(&lane->counters, GW_STAGE_WRITE, started);
    return error;
}

static int check_entry(const struct gw_receiver_lane *lane, const struct gw_record_entry *entry)
{
    const struct gw_target_volume *volume =
        entry->volume < GW_VOLUMES_MAX ? lane->receiver->volumes[entry->volume] : NULL;

    if (!volume)
        return gw_fail(-EPROTO, "record for volume %u, which nobody offered", entry->volume);
    if (!gw_range_fits(entry->offset, entry->length, volume->size))
        return gw_fail(-EPROTO, "%s: record for %llu bytes at %llu lies beyond its end",
                       volume->name, (unsigned long long)entry->length,
                       (unsigned long long)entry->offset);
    if (entry->kind == GW_ENTRY_RING &&
        (entry->position % GW_RING_ALIGNMENT ||
         !gw_range_fits(entry->position, entry->length, GW_RECEIVER_RING)))
        return gw_fail(-EPROTO, "record for ring position %u is out of bounds", entry->position);
    return 0;
}

struct touch {
    struct gw_receiver_lane *lane;
    const struct gw_record_entry *entry;
};

static int touch_entry(void *context)
{
    struct touch *touch = context;

    if (touch->entry->kind == GW_ENTRY_ZERO)
        return take_zero(touch->lane, touch->entry);
    if (touch->entry->kind == GW_ENTRY_DIRECT)
        return take_direct(touch->lane, touch->entry);
    return take_ring(touch->lane, touch->entry);
}

/* Which way the bytes took. */
static void count_way(struct gw_receiver_lane *lane, const struct gw_record_entry *entry)
{
    _Atomic uint64_t *way = entry->kind == GW_ENTRY_DIRECT
                                ? &lane->counters.volumes[entry->volume].direct
                            : is_clear(lane) ? &lane->counters.volumes[entry->volume].slots
                                             : &lane->counters.volumes[entry->volume].sealed;

    atomic_fetch_add_explicit(way, entry->length, memory_order_relaxed);
}

static int take_entry(struct gw_receiver_lane *lane, const struct gw_record_entry *entry)
{
    struct touch touch = {.lane = lane, .entry = entry};
    int error = check_entry(lane, entry);

    if (error)
        return error;
    error = gw_fault_run(lane->receiver->volumes[entry->volume]->name, touch_entry, &touch);
    if (error)
        return failed(lane, error);
    if (entry->kind != GW_ENTRY_ZERO)
        count_way(lane, entry);
    atomic_fetch_add_explicit(entry->kind == GW_ENTRY_ZERO ? &lane->counters.zero_bytes
                                                           : &lane->counters.data_bytes,
                              entry->length, memory_order_relaxed);
    return 0;
}

static int take_extents(struct gw_receiver_lane *lane, const uint8_t *record, unsigned count)
{
    int error = 0;

    if (lane->received - lane->told >= GW_RECORDS_OUT_MAX)
        return gw_fail(-EPROTO, "the source sent more than %u records unacknowledged",
                       GW_RECORDS_OUT_MAX);
    lane->received++;
    /* The record counts as pending while its entries are taken, so that none is applied in between.
     */
    lane->pending[lane->received % GW_RECORDS_OUT_MAX] = 1;
    for (unsigned i = 0; i < count && !error; i++) {
        struct gw_record_entry entry;

        error = gw_record_entry(record, i, &entry);
        if (!error)
            error = take_entry(lane, &entry);
    }
    if (error)
        return error;
    lane->pending[lane->received % GW_RECORDS_OUT_MAX]--;
    atomic_fetch_add_explicit(&lane->counters.entries, count, memory_order_relaxed);
    atomic_fetch_add_explicit(&lane->counters.records, 1, memory_order_relaxed);
    advance(lane);
    return 0;
}

/* The peer's proof: the channel belongs, and is clear or sealed. */
static int join(struct gw_receiver_lane *lane, const void *data, uint32_t length)
{
    int error = gw_lane_check_proof(&lane->talk, data, length);

    if (!error && (!is_clear(lane) || gw_receiver_lane_is_rdma(lane)))
        error = gw_memory_new(GW_RECEIVER_PLAIN, (void **)&lane->plain);
    if (error)
        return error;
    /* Registering is the control thread's; the source waits for what the lane tells afterwards. */
    if (is_clear(lane) && lane->allow_direct)
        gw_events_push(&lane->receiver->events, GW_PATH_JOINED, lane->number, 0);
    else
        lane->may_tell_regions = true;
    return 0;
}

static int message(struct gw_lane *base, const void *data, uint32_t length)
{
    struct gw_receiver_lane *lane = of(base);
    uint8_t record[GW_SEAL_RECORD_MAX];
    enum gw_record_type type;
    unsigned count;
    int error;

    if (!lane->talk.is_joined)
        return join(lane, data, length);
    error = gw_seal_open_record(lane->talk.seal, data, length, record, &length);
    if (!error)
        error = gw_record_type(record, length, &type, &count);
    if (error)
        return error;
    if (type == GW_RECORD_CLOSED)
        return gw_receiver_lane_take_closed(lane, record, count);
    if (type != GW_RECORD_EXTENTS || !lane->are_regions_sent)
        return gw_fail(-EPROTO, "the source sent a record of type %u out of turn", type);
    return take_extents(lane, record, count);
}

/* ---- what the source is told ---- */

static void send_done(struct gw_op *op, int status)
{
    gw_container_of(op, struct gw_receiver_lane, send.op)->is_send_out = false;
}

/* Where windows are told, no volume is as a whole. */
static bool has_regions(const struct gw_receiver_lane *lane)
{
    return is_clear(lane) && lane->allow_direct && !gw_receiver_lane_is_rdma(lane);
}

static uint32_t write_regions(const struct gw_receiver_lane *lane, uint8_t *out)
{
    struct gw_record_region regions[GW_VOLUMES_MAX + 1];
    unsigned count = 0;

    regions[count++] = (struct gw_record_region){
        .volume = GW_RECORD_RING,
        .key = lane->ring_region->key,
        .length = GW_RECEIVER_RING,
    };
    for (unsigned i = 0; has_regions(lane) && i < lane->receiver->region_count; i++) {
        const struct gw_receiver_region *entry = &lane->receiver->regions[i];

        if (entry->domain == lane->domain)
            regions[count++] = (struct gw_record_region){
                .volume = entry->volume,
                .key = entry->region->key,
                .length = entry->region->length,
            };
    }
    return gw_record_regions(out, regions, count);
}

/* Posts the sealed record in message; the seal counts, so a record that waits is not sealed again.
 */
static int post_message(struct gw_receiver_lane *lane)
{
    int error;

    lane->send.op.done = send_done;
    lane->send.message = lane->message;
    lane->is_send_out = true;
    error = gw_send(lane->talk.lane.channel, &lane->send);
    if (error)
        lane->is_send_out = false;
    else
        lane->is_sealed = false;
    return error == -EAGAIN ? 0 : error;
}

/* What there is to say, encoded; 0 for nothing. Windows first: a source that has its regions knows
 * all windows that were open when it joined. */
static uint32_t next_record(struct gw_receiver_lane *lane, uint8_t *out)
{
    uint32_t length = gw_receiver_lane_write_windows(lane, out);

    if (length > 0)
        return length;
    if (!lane->are_regions_sent) {
        if (!lane->may_tell_regions)
            return 0;
        lane->are_regions_sent = true;
        return write_regions(lane, out);
    }
    if (lane->told == lane->applied)
        return 0;
    lane->told = lane->applied;
    return gw_record_applied(out, lane->applied);
}

static bool pump(struct gw_lane *base, int *error)
{
    struct gw_receiver_lane *lane = of(base);
    uint8_t plain[GW_SEAL_RECORD_MAX];
    uint32_t length;

    advance(lane);
    if (!lane->talk.is_proof_sent) {
        *error = gw_lane_send_proof(&lane->talk);
        if (*error == -EAGAIN)
            *error = 0;
        return true;
    }
    if (!lane->talk.is_joined || lane->is_send_out)
        return false;
    if (!lane->is_sealed) {
        length = next_record(lane, plain);
        if (length == 0)
            return false;
        *error = gw_seal_record(lane->talk.seal, plain, length, lane->message);
        if (*error)
            return true;
        lane->send.length = length + GW_SEAL_TAG_SIZE;
        lane->is_sealed = true;
    }
    *error = post_message(lane);
    return true;
}

static void dead(struct gw_lane *base, int error)
{
    struct gw_receiver_lane *lane = of(base);

    gw_events_push(&lane->receiver->events, GW_PATH_LANE_DEAD, lane->number, error);
}

const struct gw_lane_ops gw_receiver_lane_ops = {
    .message = message,
    .pump = pump,
    .dead = dead,
};
