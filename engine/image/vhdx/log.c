/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: MS-VHDX 2.3. Finds the active sequence and keeps the sectors that it changes in memory,
 * over the tables (overlay.c). A log that is too large for that is refused.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

#define WAY_OUT GW_VHDX_LOG_WAY_OUT

/* Bytes that may be checked in search of the active sequence, as a multiple of the log: a sound log
 * is read about twice; one made to be slow to search is refused. */
#define SEARCH_FACTOR 16u

struct log {
    const struct gw_vhdx *vhdx;
    uint8_t *bytes;
    uint32_t sectors;
    uint64_t budget;
};

struct entry {
    uint32_t at, sectors; /* first sector of the log, count */
    uint32_t descriptors, descriptor_sectors, tail;
    uint64_t sequence, flushed, last;
};

/* The active sequence so far: entries from first to before end. */
struct sequence {
    uint32_t first, sectors;
    struct entry head;
    bool is_valid;
};

/* A ring: sector numbers run on past the end. */
static uint8_t *log_sector(const struct log *log, uint64_t sector)
{
    return log->bytes + sector % log->sectors * VHDX_LOG_SECTOR;
}

static uint8_t *log_descriptor(const struct log *log, const struct entry *entry, uint32_t index)
{
    uint64_t offset = VHDX_LOG_HEADER_SIZE + (uint64_t)index * VHDX_LOG_DESCRIPTOR_SIZE;

    return log_sector(log, entry->at + offset / VHDX_LOG_SECTOR) + offset % VHDX_LOG_SECTOR;
}

static bool entry_header_decode(const struct log *log, uint32_t at, struct entry *out)
{
    const uint8_t *header = log_sector(log, at);
    uint32_t length = gw_get_le32(header + VHDX_LOG_LENGTH);
    uint64_t descriptor_bytes;

    if (memcmp(header, VHDX_LOG_SIGNATURE, 4) != 0 ||
        memcmp(header + VHDX_LOG_GUID, log->vhdx->header.log_guid, 16) != 0)
        return false;
    out->at = at;
    out->sectors = length / VHDX_LOG_SECTOR;
    out->tail = gw_get_le32(header + VHDX_LOG_TAIL);
    out->sequence = gw_get_le64(header + VHDX_LOG_SEQUENCE);
    out->descriptors = gw_get_le32(header + VHDX_LOG_DESCRIPTOR_COUNT);
    out->flushed = gw_get_le64(header + VHDX_LOG_FLUSHED);
    out->last = gw_get_le64(header + VHDX_LOG_LAST);
    descriptor_bytes = VHDX_LOG_HEADER_SIZE + (uint64_t)out->descriptors * VHDX_LOG_DESCRIPTOR_SIZE;
    if (length == 0 || length % VHDX_LOG_SECTOR || out->sectors > log->sectors ||
        out->sequence == 0 || out->tail % VHDX_LOG_SECTOR ||
        out->tail / VHDX_LOG_SECTOR >= log->sectors || descriptor_bytes > length)
        return false;
    out->descriptor_sectors =
        (uint32_t)(gw_align_up(descriptor_bytes, VHDX_LOG_SECTOR) / VHDX_LOG_SECTOR);
    return true;
}

static bool data_sector_is_valid(const uint8_t *sector, uint64_t sequence)
{
    return memcmp(sector, VHDX_LOG_DATA_SIGNATURE, 4) == 0 &&
           gw_get_le32(sector + VHDX_DATA_SEQUENCE_HIGH) == sequence >> 32 &&
           gw_get_le32(sector + VHDX_DATA_SEQUENCE_LOW) == (uint32_t)sequence;
}

static bool descriptors_are_valid(const struct log *log, const struct entry *entry)
{
    uint64_t data = entry->at + entry->descriptor_sectors;
    uint64_t data_count = 0;

    for (uint32_t i = 0; i < entry->descriptors; i++) {
        const uint8_t *bytes = log_descriptor(log, entry, i);

        if (gw_get_le64(bytes + VHDX_DESC_SEQUENCE) != entry->sequence ||
            gw_get_le64(bytes + VHDX_DESC_OFFSET) % VHDX_LOG_SECTOR)
            return false;
        if (memcmp(bytes, VHDX_LOG_ZERO_SIGNATURE, 4) == 0) {
            if (gw_get_le64(bytes + VHDX_DESC_LEADING) % VHDX_LOG_SECTOR)
                return false;
        } else if (memcmp(bytes, VHDX_LOG_DESC_SIGNATURE, 4) == 0) {
            if (++data_count + entry->descriptor_sectors > entry->sectors ||
                !data_sector_is_valid(log_sector(log, data + data_count - 1), entry->sequence))
                return false;
        } else {
            return false;
        }
    }
    return true;
}

static bool entry_checksum_is_valid(const struct log *log, const struct entry *entry)
{
    uint8_t first[VHDX_LOG_SECTOR];
    uint32_t sum = ~0u;

    memcpy(first, log_sector(log, entry->at), sizeof(first));
    memset(first + VHDX_LOG_CHECKSUM, 0, 4);
    sum = gw_vhdx_checksum_add(sum, first, sizeof(first));
    for (uint32_t i = 1; i < entry->sectors; i++)
        sum = gw_vhdx_checksum_add(sum, log_sector(log, (uint64_t)entry->at + i), VHDX_LOG_SECTOR);
    return ~sum == gw_get_le32(log_sector(log, entry->at) + VHDX_LOG_CHECKSUM);
}

/* False, too, when the budget is spent. */
static bool entry_decode(struct log *log, uint32_t at, struct entry *out)
{
    uint64_t cost;

    if (!entry_header_decode(log, at, out))
        return false;
    cost = (uint64_t)out->sectors * VHDX_LOG_SECTOR;
    if (cost > log->budget) {
        log->budget = 0;
        return false;
    }
    log->budget -= cost;
    return descriptors_are_valid(log, out) && entry_checksum_is_valid(log, out);
}

static bool tail_is_within(const struct log *log, const struct sequence *sequence)
{
    uint32_t tail = sequence->head.tail / VHDX_LOG_SECTOR;
    uint32_t from_first = (tail + log->sectors - sequence->first) % log->sectors;

    return from_first < sequence->sectors;
}

/* The longest run of entries that begins at sector first. */
static struct sequence sequence_at(struct log *log, uint32_t first)
{
    struct sequence sequence = {.first = first};
    struct entry next;

    while (sequence.sectors < log->sectors &&
           entry_decode(log, (first + sequence.sectors) % log->sectors, &next) &&
           (sequence.sectors == 0 || next.sequence == sequence.head.sequence + 1) &&
           sequence.sectors + next.sectors <= log->sectors) {
        sequence.head = next;
        sequence.sectors += next.sectors;
    }
    sequence.is_valid = sequence.sectors > 0 && tail_is_within(log, &sequence);
    return sequence;
}

static int find_active(struct log *log, struct sequence *out)
{
    const char *path = log->vhdx->base.file.path;
    struct sequence best = {0};
    bool any = false;
    uint32_t first = 0;

    log->budget = (uint64_t)log->sectors * VHDX_LOG_SECTOR * SEARCH_FACTOR;
    while (first < log->sectors) {
        struct sequence found = sequence_at(log, first);

        any = any ||
              memcmp(log_sector(log, first) + VHDX_LOG_GUID, log->vhdx->header.log_guid, 16) == 0;
        if (log->budget == 0)
            return gw_fail(-EUCLEAN, "%s: the log is damaged (no end to its entries); " WAY_OUT,
                           path);
        if (found.is_valid && (!best.is_valid || found.head.sequence > best.head.sequence))
            best = found;
        first += found.is_valid ? found.sectors : 1;
    }
    /* A program that died between naming a new log and writing its first entry changed nothing. */
    if (!best.is_valid && any)
        return gw_fail(-EUCLEAN, "%s: the log is damaged; " WAY_OUT, path);
    *out = best;
    return 0;
}

static int replay_zero(struct gw_vhdx *vhdx, const uint8_t *descriptor)
{
    uint64_t offset = gw_get_le64(descriptor + VHDX_DESC_OFFSET);
    uint64_t length = gw_get_le64(descriptor + VHDX_DESC_LEADING);
    uint64_t end;
    int rc = 0;

    if (!gw_add_fits(offset, length, &end))
        return gw_fail(-EUCLEAN, "%s: the log zeroes a range that does not exist",
                       vhdx->base.file.path);
    for (; offset < end && rc == 0; offset += VHDX_LOG_SECTOR)
        rc = gw_vhdx_overlay_put(vhdx, offset, NULL);
    return rc;
}

static int replay_data(struct gw_vhdx *vhdx, const uint8_t *descriptor, const uint8_t *data)
{
    uint8_t sector[VHDX_LOG_SECTOR];

    memcpy(sector, descriptor + VHDX_DESC_LEADING, 8);
    memcpy(sector + 8, data + VHDX_DATA_BYTES, VHDX_DATA_LENGTH);
    memcpy(sector + 8 + VHDX_DATA_LENGTH, descriptor + VHDX_DESC_TRAILING, 4);
    return gw_vhdx_overlay_put(vhdx, gw_get_le64(descriptor + VHDX_DESC_OFFSET), sector);
}

static int replay_entry(struct gw_vhdx *vhdx, const struct log *log, const struct entry *entry)
{
    uint64_t data = (uint64_t)entry->at + entry->descriptor_sectors;
    int rc = 0;

    for (uint32_t i = 0; i < entry->descriptors && rc == 0; i++) {
        const uint8_t *descriptor = log_descriptor(log, entry, i);

        if (memcmp(descriptor, VHDX_LOG_ZERO_SIGNATURE, 4) == 0)
            rc = replay_zero(vhdx, descriptor);
        else
            rc = replay_data(vhdx, descriptor, log_sector(log, data++));
    }
    return rc;
}

static int replay_sequence(struct gw_vhdx *vhdx, struct log *log, const struct sequence *active)
{
    const struct gw_image_file *file = &vhdx->base.file;
    uint32_t done = 0;
    bool is_needed = false; /* what lies before the tail is in its place already */
    int rc = 0;

    if (file->size < active->head.flushed)
        return gw_fail(-EUCLEAN,
                       "%s is truncated: its log says that it had %llu bytes, it has %llu; copy it "
                       "anew from where it came from",
                       file->path, (unsigned long long)active->head.flushed,
                       (unsigned long long)file->size);
    if (active->head.last / VHDX_ALIGNMENT > GW_VHDX_FILE_MIB_MAX)
        return gw_fail(-ENOTSUP, "%s: the log makes the file longer than 128 TiB", file->path);
    vhdx->file_size = gw_max(file->size, active->head.last);
    log->budget = UINT64_MAX;
    while (done < active->sectors && rc == 0) {
        struct entry entry;

        /* It was valid a moment ago, in this same memory. */
        if (!entry_decode(log, (active->first + done) % log->sectors, &entry))
            return gw_fail(-EUCLEAN, "%s: the log is damaged; " WAY_OUT, file->path);
        is_needed = is_needed || entry.at == active->head.tail / VHDX_LOG_SECTOR;
        if (is_needed)
            rc = replay_entry(vhdx, log, &entry);
        done += entry.sectors;
    }
    if (rc == 0 && !is_needed)
        return gw_fail(-EUCLEAN, "%s: the log is damaged (its tail is within an entry); " WAY_OUT,
                       file->path);
    return rc;
}

static int log_check(const struct gw_vhdx *vhdx)
{
    const struct gw_vhdx_header *header = &vhdx->header;
    const char *path = vhdx->base.file.path;

    if (header->log_version != 0)
        return gw_fail(-ENOTSUP, "%s: log version %u is not supported; " WAY_OUT, path,
                       header->log_version);
    if (!gw_range_fits(header->log.offset, header->log.length, vhdx->base.file.size))
        return gw_fail(-EUCLEAN,
                       "%s is truncated: its log ends at byte %llu, the file at %llu; copy it anew "
                       "from where it came from",
                       path, (unsigned long long)(header->log.offset + header->log.length),
                       (unsigned long long)vhdx->base.file.size);
    if (header->log.length > GW_VHDX_LOG_MAX)
        return gw_fail(-ENOTSUP, "%s: a log of %llu MiB is too large to replay in memory; " WAY_OUT,
                       path, (unsigned long long)(header->log.length >> 20));
    return 0;
}

int gw_vhdx_log_replay(struct gw_vhdx *vhdx)
{
    struct log log = {.vhdx = vhdx};
    struct sequence active = {0};
    int rc = log_check(vhdx);

    if (rc)
        return rc;
    log.sectors = (uint32_t)(vhdx->header.log.length / VHDX_LOG_SECTOR);
    log.bytes = malloc(vhdx->header.log.length);
    if (!log.bytes)
        return gw_fail(-ENOMEM, "no memory for the log of %s", vhdx->base.file.path);
    rc = gw_image_file_read(&vhdx->base.file, vhdx->header.log.offset, log.bytes,
                            vhdx->header.log.length);
    if (rc == 0)
        rc = find_active(&log, &active);
    if (rc == 0 && active.is_valid)
        rc = replay_sequence(vhdx, &log, &active);
    free(log.bytes);
    return rc;
}
