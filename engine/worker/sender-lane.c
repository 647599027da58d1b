/* SPDX-License-Identifier: Apache-2.0 */
/* One lane of the source: claims pieces, reads or maps them, digests or seals them, writes them
 * into the peer's ring or straight into its memory, and describes them in records. */
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
#include "engine/worker/sender.h"

#define RAM_PAGE 4096u
#define COPY_MAX (64u << 10) /* of live RAM that is copied before it is looked at */
/* Data described by one record when there is more to come. */
#define RECORD_BYTES_GOAL (512u << 10)
#define CLAIM_BYTES       (2u << 20)

static struct gw_sender_lane *of(struct gw_lane *base)
{
    return gw_container_of(base, struct gw_sender_lane, talk.lane);
}

static struct gw_sender_entry *entry_at(struct gw_sender_lane *lane, uint64_t cursor)
{
    return &lane->entries[cursor % GW_ENTRIES_OUT_MAX];
}

static struct gw_sender_record *record_at(struct gw_sender_lane *lane, uint64_t sequence)
{
    return &lane->records[sequence % GW_RECORDS_OUT_MAX];
}

static bool is_clear(const struct gw_sender_lane *lane)
{
    return gw_seal_is_clear(lane->talk.seal);
}

/* Entries are given back to the lane in order, once acknowledged and their ops done. */
static void free_entries(struct gw_sender_lane *lane)
{
    while (lane->freed < lane->acked && !entry_at(lane, lane->freed)->is_op_out) {
        struct gw_sender_entry *entry = entry_at(lane, lane->freed++);

        gw_landing_free_to(&lane->places, entry->ring_end);
        if (entry->window)
            entry->window->uses--;
    }
}

static void write_done(struct gw_op *op, int status)
{
    struct gw_sender_entry *entry = gw_container_of(op, struct gw_sender_entry, write.op);

    entry->is_op_out = false;
    free_entries(entry->lane);
}

static void send_done(struct gw_op *op, int status)
{
    gw_container_of(op, struct gw_sender_record, send.op)->is_op_out = false;
}

/* ---- taking work ---- */

/* Length of the run of zero, or of non-zero, pages that begins at memory. */
static uint64_t page_run(const uint8_t *memory, uint64_t length, bool *is_zero)
{
    uint64_t run = gw_min(RAM_PAGE, length);

    *is_zero = gw_memory_is_zero(memory, run);
    while (run < length &&
           gw_memory_is_zero(memory + run, gw_min(RAM_PAGE, length - run)) == *is_zero)
        run += gw_min(RAM_PAGE, length - run);
    return run;
}

static void read_done(struct gw_io *io, int64_t result)
{
    struct gw_sender_entry *entry = gw_container_of(io, struct gw_sender_entry, io);

    entry->lane->reading--;
    entry->state = GW_ENTRY_READY;
    if (result < 0)
        entry->error = (int)result;
    else if ((uint64_t)result < entry->piece.length)
        memset((uint8_t *)io->memory + result, 0, entry->piece.length - (uint64_t)result);
}

/* Fills the entry's buffer from a file, now or through the worker's io_uring. */
static int read_file(struct gw_sender_lane *lane, struct gw_sender_entry *entry,
                     const struct gw_location *from, void *into)
{
    uint64_t started = gw_clock_ns();
    int error;

    entry->io = (struct gw_io){
        .done = read_done,
        .fd = from->fd,
        .memory = into,
        .within = &lane->io_memory,
        .file_offset = from->file_offset,
        /* O_DIRECT reads whole sectors; the buffer is aligned and has room. */
        .length = (uint32_t)gw_align_up(entry->piece.length, GW_RING_ALIGNMENT),
    };
    if (!from->is_memory_file) {
        lane->io_memory.base = is_clear(lane) ? lane->ring : lane->plain;
        lane->io_memory.length = GW_SENDER_RING;
        entry->state = GW_ENTRY_READING;
        lane->reading++;
        gw_worker_submit(lane->talk.lane.worker, &entry->io);
        return 0;
    }
    error = gw_location_read(from, into);
    gw_lane_account(&lane->counters, GW_STAGE_READ, started);
    return error;
}

/* Gets the bytes of a ring entry to where they are digested and sealed from. */
static int fetch(struct gw_sender_lane *lane, struct gw_sender_entry *entry,
                 const struct gw_location *from)
{
    struct gw_source_volume *volume = lane->sender->volumes[entry->piece.volume];
    void *buffer = (is_clear(lane) ? lane->ring : lane->plain) + entry->position;
    uint64_t started = gw_clock_ns();
    int error = 0;

    entry->bytes = buffer;
    if (from->where == GW_IN_FILE)
        return read_file(lane, entry, from, buffer);
    if (from->where == GW_BY_CALL)
        error = volume->ops->read(volume, entry->piece.offset, buffer, entry->piece.length);
    else if (volume->needs_copy ||
             (is_clear(lane) && (!volume->is_still || gw_sender_lane_needs_region(lane))))
        memcpy(buffer, from->memory, entry->piece.length);
    else
        entry->bytes = from->memory;
    if (entry->bytes == buffer)
        gw_lane_copied(&lane->counters, entry->piece.volume, entry->piece.length);
    gw_lane_account(&lane->counters, GW_STAGE_READ, started);
    return error;
}

/* May the bytes at the front of piece go straight into place? length is cut where the answer
 * changes. */
static bool is_direct(const struct gw_sender_lane *lane, const struct gw_piece *piece,
                      uint64_t *length, struct gw_lane_window **window)
{
    uint64_t next;

    if (!is_clear(lane) || lane->sender->volumes[piece->volume]->needs_copy)
        return false;
    if (!gw_sender_lane_needs_region(lane))
        return lane->has_direct[piece->volume];
    if (lane->sender->volumes[piece->volume]->is_punched)
        return false;
    *window = gw_lane_windows_find(&lane->windows, piece->volume, piece->offset);
    next = *window ? (*window)->window.offset + (*window)->window.length
                   : gw_lane_windows_next(&lane->windows, piece->volume, piece->offset);
    *length = gw_min(*length, next - piece->offset);
    return *window != NULL;
}

/* Makes one entry of the front of piece. 1 when it did, 0 when the ring is full, or -errno. */
static int take_front(struct gw_sender_lane *lane, struct gw_round *round, struct gw_piece *piece)
{
    struct gw_source_volume *volume = lane->sender->volumes[piece->volume];
    struct gw_sender_entry *entry = entry_at(lane, lane->claimed);
    struct gw_location from = {.kind = piece->kind, .length = piece->length};
    bool is_zero = piece->kind != GW_EXTENT_DATA, is_live_ram, goes_direct = false;
    struct gw_lane_window *window = NULL;
    uint64_t ring_before = lane->places.head;
    int error;

    if (!is_zero) {
        error = volume->ops->locate(volume, piece->offset, piece->length, &from);
        if (error)
            return error;
        is_zero = from.kind != GW_EXTENT_DATA;
        from.length = gw_min(from.length, piece->length);
        goes_direct = !is_zero && is_direct(lane, piece, &from.length, &window);
    }
    is_live_ram = volume->kind == GW_VOLUME_RAM && !is_zero;
    if (is_live_ram && volume->needs_copy)
        from.length = gw_min(from.length, COPY_MAX);
    else if (is_live_ram)
        from.length = page_run(from.memory, from.length, &is_zero);
    *entry = (struct gw_sender_entry){
        .lane = lane,
        .piece = *piece,
        .state = GW_ENTRY_READY,
        .kind = is_zero ? GW_ENTRY_ZERO : GW_ENTRY_RING,
        .is_final = is_zero,
        .bytes = from.memory,
    };
    entry->piece.length = from.length;
    if (!is_zero && goes_direct) {
        entry->kind = GW_ENTRY_DIRECT;
        entry->has_digest = gw_round_is_still(round);
        entry->window = window;
    } else if (!is_zero) {
        if (!gw_landing_take(&lane->places, from.length, &entry->position)) {
            /* Reads take their time wherever the bytes go: more of them at once. */
            if (lane->reading > 0)
                gw_landing_lengthen(&lane->places);
            return 0;
        }
        entry->has_digest = true;
        error = fetch(lane, entry, &from);
        if (error)
            return error;
    }
    if (is_live_ram && volume->needs_copy) {
        entry->piece.length = page_run(entry->bytes, from.length, &is_zero);
        volume->ops->copied(volume, piece->offset, entry->bytes, entry->piece.length);
        if (is_zero) {
            lane->places.head = ring_before;
            entry->kind = GW_ENTRY_ZERO;
            entry->is_final = true;
        }
    }
    entry->ring_end = lane->places.head;
    if (entry->window)
        entry->window->uses++;
    piece->offset += entry->piece.length;
    piece->length -= entry->piece.length;
    lane->claimed++;
    return 1;
}

/* The piece that is being worked on, claiming more when the batch is used up. NULL: nothing to do.
 */
static struct gw_piece *current_piece(struct gw_sender_lane *lane, struct gw_round *round,
                                      int *error)
{
    int count;

    if (lane->batch_next < lane->batch_count && lane->batch[lane->batch_next].length == 0)
        lane->batch_next++;
    if (lane->batch_next < lane->batch_count)
        return &lane->batch[lane->batch_next];
    count = gw_round_claim_near(round, gw_worker_node(lane->talk.lane.worker), lane->batch,
                                GW_SENDER_BATCH, CLAIM_BYTES);
    lane->batch_next = 0;
    lane->batch_count = count > 0 ? (unsigned)count : 0;
    if (count < 0)
        *error = count;
    return count > 0 ? &lane->batch[0] : NULL;
}

struct touch {
    struct gw_sender_lane *lane;
    struct gw_round *round;
    struct gw_piece *piece;
    struct gw_sender_entry *entry;
};

static int touch_front(void *context)
{
    struct touch *touch = context;

    return take_front(touch->lane, touch->round, touch->piece);
}

/* Claims as much as there is room for. */
static bool take_work(struct gw_sender_lane *lane, int *error)
{
    struct gw_round *round = atomic_load_explicit(&lane->sender->round, memory_order_acquire);
    bool any = false;

    /* A little ahead of what is posted is enough to keep the reads going. */
    while (round && lane->claimed - lane->freed < GW_ENTRIES_OUT_MAX &&
           lane->claimed - lane->posted < 128) {
        struct gw_piece *piece = current_piece(lane, round, error);
        struct touch touch;
        int taken;

        if (!piece)
            return any;
        touch = (struct touch){.lane = lane, .round = round, .piece = piece};
        taken = gw_fault_run(lane->sender->volumes[piece->volume]->name, touch_front, &touch);
        if (taken < 0)
            *error = taken;
        if (taken <= 0)
            return any;
        any = true;
    }
    return any;
}

/* ---- posting ---- */

/* Looks for zeroes, then makes the digest or seals. In posting order: the seal counts chunks. */
static int finish_entry(struct gw_sender_lane *lane, struct gw_sender_entry *entry)
{
    struct gw_source_volume *volume = lane->sender->volumes[entry->piece.volume];
    uint64_t started = gw_clock_ns(), length = entry->piece.length;
    int error = 0;

    if (volume->kind == GW_VOLUME_DISK && length % sizeof(uint64_t) == 0 &&
        gw_memory_is_zero(entry->bytes, length)) {
        entry->kind = GW_ENTRY_ZERO;
    } else if (entry->kind == GW_ENTRY_RING && !is_clear(lane)) {
        struct gw_chunk_name name = {
            .volume = entry->piece.volume,
            .length = (uint32_t)length,
            .offset = entry->piece.offset,
        };

        memcpy(name.migration_id, lane->sender->migration_id, GW_ID_SIZE);
        error = gw_seal_chunk(lane->talk.seal, &name, entry->bytes, lane->ring + entry->position,
                              entry->digest);
        entry->bytes = lane->ring + entry->position;
        gw_lane_copied(&lane->counters, entry->piece.volume, length);
    } else if (entry->has_digest) {
        gw_lane_digest(entry->bytes, length, entry->digest);
    }
    entry->is_final = true;
    gw_lane_account(&lane->counters, GW_STAGE_DIGEST, started);
    return error;
}

static int touch_entry(void *context)
{
    struct touch *touch = context;

    return finish_entry(touch->lane, touch->entry);
}

/* Which way the bytes took. */
static void count_way(struct gw_sender_lane *lane, const struct gw_sender_entry *entry)
{
    _Atomic uint64_t *way = entry->kind == GW_ENTRY_DIRECT
                                ? &lane->counters.volumes[entry->piece.volume].direct
                            : is_clear(lane) ? &lane->counters.volumes[entry->piece.volume].slots
                                             : &lane->counters.volumes[entry->piece.volume].sealed;

    atomic_fetch_add_explicit(way, entry->piece.length, memory_order_relaxed);
    atomic_fetch_add_explicit(&lane->counters.wire_bytes, entry->piece.length,
                              memory_order_relaxed);
}

static int post_bytes(struct gw_sender_lane *lane, struct gw_sender_entry *entry)
{
    const struct gw_lane_window *window = entry->window;
    bool is_ring = entry->kind == GW_ENTRY_RING;
    int error;

    entry->write = (struct gw_write){
        .op.done = write_done,
        .local = entry->bytes,
        .length = (uint32_t)entry->piece.length,
        .flags = GW_POST_MORE | GW_POST_STABLE,
        .region = is_ring  ? lane->ring_region
                  : window ? window->region
                           : NULL,
        .remote_key = is_ring  ? lane->ring_key
                      : window ? window->key
                               : lane->direct[entry->piece.volume].key,
        .remote_offset = is_ring  ? entry->position
                         : window ? entry->piece.offset - window->window.offset
                                  : entry->piece.offset,
    };
    entry->is_op_out = true;
    error = gw_write(lane->talk.lane.channel, &entry->write);
    if (error)
        entry->is_op_out = false;
    else
        count_way(lane, entry);
    return error;
}

/* Sends the open record. -EAGAIN: the channel or the peer's window is full. */
static int flush_record(struct gw_sender_lane *lane)
{
    struct gw_sender_record *record = record_at(lane, lane->sent + 1);
    int error;

    /* Records are opened in the order in which they were sealed. */
    if (record->is_op_out || lane->is_closed_sealed)
        return -EAGAIN;
    if (!lane->is_open_sealed) {
        error =
            gw_seal_record(lane->talk.seal, lane->open_plain, lane->open_length, record->message);
        if (error)
            return error;
        lane->is_open_sealed = true;
        lane->sealed_length = lane->open_length + GW_SEAL_TAG_SIZE;
    }
    record->send = (struct gw_send){
        .op.done = send_done, .message = record->message, .length = lane->sealed_length};
    record->is_op_out = true;
    error = gw_send(lane->talk.lane.channel, &record->send);
    if (error) {
        record->is_op_out = false;
        return error;
    }
    record->entry_end = lane->posted;
    record->sent_ns = gw_clock_ns();
    record->ring_used =
        lane->open_bytes ? entry_at(lane, lane->posted - 1)->ring_end - lane->places.tail : 0;
    if (lane->sent == lane->applied)
        atomic_store_explicit(&lane->waiting_since_ns, record->sent_ns, memory_order_relaxed);
    lane->sent++;
    lane->open_count = 0;
    lane->open_bytes = 0;
    lane->is_open_sealed = false;
    /* After waiting_since_ns: who sees this one sees that one too. */
    atomic_store(&lane->is_asked, false);
    atomic_fetch_add_explicit(&lane->counters.records, 1, memory_order_relaxed);
    return 0;
}

static void append_entry(struct gw_sender_lane *lane, const struct gw_sender_entry *entry)
{
    struct gw_record_entry out = {
        .kind = entry->kind,
        .has_digest = entry->has_digest && entry->kind != GW_ENTRY_ZERO,
        .volume = entry->piece.volume,
        .position = entry->position,
        .offset = entry->piece.offset,
        .length = entry->piece.length,
    };

    memcpy(out.digest, entry->digest, GW_DIGEST_SIZE);
    if (lane->open_count == 0)
        lane->open_length = gw_record_begin(lane->open_plain);
    lane->open_length = gw_record_append(lane->open_plain, lane->open_length, &out);
    lane->open_count++;
    if (entry->kind != GW_ENTRY_ZERO)
        lane->open_bytes += entry->piece.length;
}

/* A volume that cannot be read ends the round for everyone, not only for this lane. */
static int volume_failed(struct gw_sender_lane *lane, int error)
{
    gw_events_push(&lane->sender->events, GW_PATH_FAILED, lane->number, error);
    return error;
}

static int post_one(struct gw_sender_lane *lane, struct gw_sender_entry *entry)
{
    int error = 0;

    if (entry->error) {
        error = gw_fail_errno(entry->error, "%s: read at %llu",
                              lane->sender->volumes[entry->piece.volume]->name,
                              (unsigned long long)entry->piece.offset);
        return volume_failed(lane, error);
    }
    if (!entry->is_final) {
        struct touch touch = {.lane = lane, .entry = entry};

        error = gw_fault_run(lane->sender->volumes[entry->piece.volume]->name, touch_entry, &touch);
        if (error == -EFAULT)
            return volume_failed(lane, error);
    }
    if (!error && entry->kind != GW_ENTRY_ZERO)
        error = post_bytes(lane, entry);
    if (error)
        return error;
    entry->state = GW_ENTRY_POSTED;
    append_entry(lane, entry);
    lane->posted++;
    atomic_fetch_add_explicit(&lane->counters.entries, 1, memory_order_relaxed);
    return 0;
}

/* Is there a record to be sent, be it without entries? */
static bool has_record(struct gw_sender_lane *lane)
{
    if (lane->sent - lane->applied == GW_RECORDS_OUT_MAX)
        return false;
    if (lane->open_count > 0 || lane->is_open_sealed)
        return true;
    if (!atomic_load(&lane->is_asked))
        return false;
    lane->open_length = gw_record_begin(lane->open_plain);
    return true;
}

static bool post_work(struct gw_sender_lane *lane, int *error)
{
    bool any = false;
    int result = 0;

    while (!result && lane->posted < lane->claimed &&
           lane->sent - lane->applied < GW_RECORDS_OUT_MAX) {
        struct gw_sender_entry *entry = entry_at(lane, lane->posted);

        if (lane->is_open_sealed || lane->open_count == GW_RECORD_ENTRIES_MAX ||
            lane->open_bytes >= RECORD_BYTES_GOAL) {
            result = flush_record(lane);
            continue;
        }
        if (entry->state == GW_ENTRY_READING)
            break;
        result = post_one(lane, entry);
        any |= !result;
    }
    if (!result && has_record(lane)) {
        result = flush_record(lane);
        any |= !result;
    }
    if (result && result != -EAGAIN)
        *error = result;
    return any;
}

static bool pump(struct gw_lane *base, int *error)
{
    struct gw_sender_lane *lane = of(base);
    bool any;

    if (!lane->talk.is_proof_sent) {
        *error = gw_lane_send_proof(&lane->talk);
        if (*error == -EAGAIN)
            *error = 0;
        return true;
    }
    if (!lane->has_regions)
        return false;
    any = take_work(lane, error);
    if (*error)
        volume_failed(lane, *error);
    else
        any |= post_work(lane, error);
    if (!*error)
        any |= gw_sender_lane_say_closed(lane, error);
    return any;
}

/* A volume is in use for as long as there is a round. */
static bool tidy(struct gw_lane *base)
{
    struct gw_sender *sender = of(base)->sender;

    if (!atomic_load_explicit(&sender->round, memory_order_acquire))
        return false;
    for (unsigned i = 0; i < GW_VOLUMES_MAX; i++) {
        struct gw_source_volume *volume = sender->volumes[i];

        if (volume && volume->ops->tidy && volume->ops->tidy(volume))
            return true;
    }
    return false;
}

/* ---- what the target says ---- */

static int take_regions(struct gw_sender_lane *lane, const uint8_t *record, unsigned count)
{
    if (lane->has_regions)
        return gw_fail(-EPROTO, "the target told its regions twice");
    for (unsigned i = 0; i < count; i++) {
        struct gw_record_region region;
        int error = gw_record_region(record, i, &region);

        if (error)
            return error;
        if (region.volume != GW_RECORD_RING) {
            struct gw_source_volume *volume = lane->sender->volumes[region.volume];

            if (!volume || region.length < volume->size)
                return gw_fail(-EPROTO, "the target told a region of volume %u that does not fit",
                               region.volume);
            lane->direct[region.volume] = region;
            lane->has_direct[region.volume] = true;
            continue;
        }
        if (region.length < GW_CHUNK_MAX || region.length > GW_SENDER_RING_MAX ||
            region.length % GW_RING_ALIGNMENT)
            return gw_fail(-EPROTO, "the target's ring of %llu bytes is out of bounds",
                           (unsigned long long)region.length);
        gw_landing_init(&lane->places, (uint32_t)gw_min(region.length, GW_SENDER_RING));
        lane->ring_key = region.key;
    }
    if (!lane->places.size)
        return gw_fail(-EPROTO, "the target told no ring");
    if (!is_clear(lane) && gw_memory_new(GW_SENDER_RING, (void **)&lane->plain))
        return -ENOMEM;
    lane->has_regions = true;
    return 0;
}

/* Marks entries up to the end of record sequence as applied. */
static void advance(struct gw_sender_lane *lane, uint64_t sequence)
{
    struct gw_round *round = atomic_load_explicit(&lane->sender->round, memory_order_acquire);
    const struct gw_sender_record *record = record_at(lane, sequence);
    uint64_t bytes = 0, data = 0;

    if (record->ring_used)
        gw_landing_learn(&lane->places, record->ring_used, gw_clock_ns() - record->sent_ns);
    for (; lane->acked < record->entry_end; lane->acked++) {
        struct gw_sender_entry *entry = entry_at(lane, lane->acked);

        bytes += entry->piece.length;
        if (entry->kind != GW_ENTRY_ZERO)
            data += entry->piece.length;
    }
    lane->applied = sequence;
    atomic_store_explicit(&lane->waiting_since_ns, sequence == lane->sent ? 0 : gw_clock_ns(),
                          memory_order_relaxed);
    atomic_fetch_add_explicit(&lane->counters.data_bytes, data, memory_order_relaxed);
    atomic_fetch_add_explicit(&lane->counters.zero_bytes, bytes - data, memory_order_relaxed);
    free_entries(lane);
    if (round && gw_round_applied(round, bytes))
        gw_events_push(&lane->sender->events, GW_PATH_ROUND_DONE, lane->number, 0);
}

static int take_applied(struct gw_sender_lane *lane, uint64_t sequence)
{
    if (sequence <= lane->applied || sequence > lane->sent)
        return gw_fail(-EPROTO, "acknowledgement of record %llu, but %llu to %llu are out",
                       (unsigned long long)sequence, (unsigned long long)lane->applied + 1,
                       (unsigned long long)lane->sent);
    advance(lane, sequence);
    return 0;
}

static int message(struct gw_lane *base, const void *data, uint32_t length)
{
    struct gw_sender_lane *lane = of(base);
    uint8_t record[GW_SEAL_RECORD_MAX];
    enum gw_record_type type;
    unsigned count;
    int error;

    if (!lane->talk.is_joined)
        return gw_lane_check_proof(&lane->talk, data, length);
    error = gw_seal_open_record(lane->talk.seal, data, length, record, &length);
    if (!error)
        error = gw_record_type(record, length, &type, &count);
    if (error)
        return error;
    if (type == GW_RECORD_REGIONS)
        return take_regions(lane, record, count);
    if (type == GW_RECORD_WINDOWS)
        return gw_sender_lane_take_windows(lane, record, count);
    if (type == GW_RECORD_APPLIED && lane->has_regions)
        return take_applied(lane, gw_record_applied_sequence(record));
    return gw_fail(-EPROTO, "the target sent a record of type %u", type);
}

static void dead(struct gw_lane *base, int error)
{
    struct gw_sender_lane *lane = of(base);

    gw_events_push(&lane->sender->events, GW_PATH_LANE_DEAD, lane->number, error);
}

int gw_sender_lane_give_back(struct gw_sender_lane *lane, uint64_t applied)
{
    struct gw_round *round = atomic_load(&lane->sender->round);
    int error = 0;

    if (applied > lane->sent)
        return gw_fail(-EPROTO, "the target buried a channel at record %llu, but %llu were sent",
                       (unsigned long long)applied, (unsigned long long)lane->sent);
    if (applied > lane->applied)
        advance(lane, applied);
    for (uint64_t cursor = lane->acked; round && !error && cursor < lane->claimed; cursor++)
        error = gw_round_give_back(round, &entry_at(lane, cursor)->piece);
    for (unsigned i = lane->batch_next; round && !error && i < lane->batch_count; i++)
        if (lane->batch[i].length)
            error = gw_round_give_back(round, &lane->batch[i]);
    return error;
}

void gw_sender_lane_free(struct gw_sender_lane *lane)
{
    if (lane->ring_region)
        gw_pins_give(lane->sender->windows.pins, GW_SENDER_RING);
    gw_unreg(lane->ring_region);
    gw_memory_free(lane->ring, GW_SENDER_RING);
    gw_memory_free(lane->plain, GW_SENDER_RING);
    gw_seal_free(lane->talk.seal);
    free(lane->entries);
    free(lane->records);
    free(lane);
}

const struct gw_lane_ops gw_sender_lane_ops = {
    .message = message,
    .pump = pump,
    .tidy = tidy,
    .dead = dead,
};
