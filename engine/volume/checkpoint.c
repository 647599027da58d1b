/* SPDX-License-Identifier: Apache-2.0 */
/* The journal of an unfinished image: two slots, the newest valid one counts. It knows neither the
 * image nor who copies. */
#include "engine/volume/checkpoint.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/folder.h"

#define MAGIC       "gwjourn1"
#define VERSION     1u
#define DIGEST_AT   24u
#define PAYLOAD_AT  40u
#define SOURCE_AT   48u /* within the payload */
#define FORMAT_AT   29u
#define FORMAT_SIZE 15u

static_assert(PAYLOAD_AT + SOURCE_AT + GW_CHECKPOINT_SOURCE_MAX <= GW_CHECKPOINT_SLOT,
              "every record fits its slot");

static void digest_of(const uint8_t *slot, uint32_t length, uint8_t out[16])
{
    XXH128_canonical_t canonical;
    uint8_t bytes[GW_CHECKPOINT_SLOT];

    memcpy(bytes, slot, DIGEST_AT);
    memcpy(bytes + DIGEST_AT, slot + PAYLOAD_AT, length);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, DIGEST_AT + length));
    memcpy(out, &canonical, sizeof(canonical));
}

bool gw_checkpoint_is_same(const struct gw_checkpoint *one, const struct gw_checkpoint *other)
{
    return strcmp(one->source, other->source) == 0 && strcmp(one->format, other->format) == 0 &&
           one->is_fixed == other->is_fixed && one->size == other->size &&
           one->block_size == other->block_size &&
           one->logical_sector_size == other->logical_sector_size &&
           one->physical_sector_size == other->physical_sector_size;
}

void gw_checkpoint_encode(const struct gw_checkpoint *checkpoint, uint64_t number, uint8_t *slot)
{
    uint8_t *payload = slot + PAYLOAD_AT;
    size_t source_length = strnlen(checkpoint->source, GW_CHECKPOINT_SOURCE_MAX - 1);
    uint32_t length = SOURCE_AT + (uint32_t)source_length;

    memset(slot, 0, GW_CHECKPOINT_SLOT);
    memcpy(slot, MAGIC, 8);
    gw_put_le32(slot + 8, VERSION);
    gw_put_le32(slot + 12, length);
    gw_put_le64(slot + 16, number);
    gw_put_le64(payload, checkpoint->durable);
    gw_put_le64(payload + 8, checkpoint->size);
    gw_put_le32(payload + 16, checkpoint->block_size);
    gw_put_le32(payload + 20, checkpoint->logical_sector_size);
    gw_put_le32(payload + 24, checkpoint->physical_sector_size);
    payload[28] = checkpoint->is_fixed;
    memcpy(payload + FORMAT_AT, checkpoint->format, strnlen(checkpoint->format, FORMAT_SIZE));
    gw_put_le32(payload + 44, (uint32_t)source_length);
    memcpy(payload + SOURCE_AT, checkpoint->source, source_length);
    digest_of(slot, length, slot + DIGEST_AT);
}

/* A record that was written whole says nothing impossible unless somebody made it up. */
static bool decode_payload(const uint8_t *payload, uint32_t length, struct gw_checkpoint *out)
{
    uint32_t source_length;

    if (length < SOURCE_AT)
        return false;
    source_length = gw_get_le32(payload + 44);
    if (source_length != length - SOURCE_AT || source_length >= GW_CHECKPOINT_SOURCE_MAX ||
        memchr(payload + SOURCE_AT, 0, source_length))
        return false;
    memset(out, 0, sizeof(*out));
    out->durable = gw_get_le64(payload);
    out->size = gw_get_le64(payload + 8);
    out->block_size = gw_get_le32(payload + 16);
    out->logical_sector_size = gw_get_le32(payload + 20);
    out->physical_sector_size = gw_get_le32(payload + 24);
    out->is_fixed = payload[28] == 1;
    memcpy(out->format, payload + FORMAT_AT, FORMAT_SIZE);
    memcpy(out->source, payload + SOURCE_AT, source_length);
    return payload[28] <= 1 && out->size > 0 && out->size <= INT64_MAX && out->durable <= out->size;
}

static bool decode_slot(const uint8_t *slot, struct gw_checkpoint *out, uint64_t *number)
{
    uint32_t length = gw_get_le32(slot + 12);
    uint8_t digest[16];

    if (memcmp(slot, MAGIC, 8) != 0 || gw_get_le32(slot + 8) != VERSION ||
        length > GW_CHECKPOINT_SLOT - PAYLOAD_AT)
        return false;
    digest_of(slot, length, digest);
    *number = gw_get_le64(slot + 16);
    return memcmp(digest, slot + DIGEST_AT, sizeof(digest)) == 0 &&
           decode_payload(slot + PAYLOAD_AT, length, out);
}

int gw_checkpoint_decode(const uint8_t *bytes, size_t length, struct gw_checkpoint *out,
                         uint64_t *number)
{
    uint64_t newest = 0;
    bool is_any = false;

    for (size_t at = 0; length >= GW_CHECKPOINT_SLOT && at < GW_CHECKPOINT_SIZE &&
                        at <= length - GW_CHECKPOINT_SLOT;
         at += GW_CHECKPOINT_SLOT) {
        struct gw_checkpoint found;
        uint64_t is_number;

        if (!decode_slot(bytes + at, &found, &is_number) || (is_any && is_number <= newest))
            continue;
        newest = is_number;
        is_any = true;
        *out = found;
    }
    if (!is_any)
        return gw_fail(-EUCLEAN, "the journal of the unfinished image is damaged");
    if (number)
        *number = newest;
    return 0;
}

static int read_open(int fd, const char *path, struct gw_checkpoint *out, uint64_t *number)
{
    uint8_t bytes[GW_CHECKPOINT_SIZE];
    ssize_t got = pread(fd, bytes, sizeof(bytes), 0);

    if (got < 0)
        return gw_fail_errno(-errno, "cannot read %s", path);
    return gw_checkpoint_decode(bytes, (size_t)got, out, number);
}

int gw_checkpoint_read(const char *path, struct gw_checkpoint *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), error;

    if (fd < 0)
        return gw_fail_errno(-errno, "%s", path);
    error = read_open(fd, path, out, NULL);
    close(fd);
    return error;
}

/* The slot that holds the older record, or none that is valid, is written over. */
static int write_open(int fd, const char *path, const struct gw_checkpoint *checkpoint)
{
    uint8_t slot[GW_CHECKPOINT_SLOT];
    struct gw_checkpoint before;
    uint64_t number = 0;
    off_t at;

    if (read_open(fd, path, &before, &number))
        number = 0;
    number++;
    at = (off_t)(number % 2 * GW_CHECKPOINT_SLOT);
    gw_checkpoint_encode(checkpoint, number, slot);
    if (pwrite(fd, slot, sizeof(slot), at) != (ssize_t)sizeof(slot) || fdatasync(fd))
        return gw_fail_errno(errno ? -errno : -EIO, "cannot write %s", path);
    return number == 1 ? gw_folder_sync_of(path) : 0;
}

int gw_checkpoint_write(const char *path, const struct gw_checkpoint *checkpoint)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600), error;

    if (fd < 0)
        return gw_fail_errno(-errno, "cannot write %s", path);
    error = write_open(fd, path, checkpoint);
    close(fd);
    return error;
}
