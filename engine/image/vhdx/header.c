/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file type identifier and the two headers: MS-VHDX 2.2.1 and 2.2.2. Which header is current is
 * decided here; what the log says is not.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "common/bytes.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

#define CREATOR "godwit " GODWIT_VERSION

int gw_vhdx_identifier_check(const struct gw_image_file *file)
{
    uint8_t signature[sizeof(GW_IMAGE_UNFINISHED)] = {0};
    int rc;

    if (file->size < VHDX_ALIGNMENT)
        return gw_fail(
            -EUCLEAN, "%s has %llu bytes, too few for a VHDX: it is truncated or of another format",
            file->path, (unsigned long long)file->size);
    rc = gw_image_file_read(file, 0, signature, sizeof(GW_IMAGE_UNFINISHED) - 1);
    if (rc)
        return rc;
    if (strcmp((char *)signature, GW_IMAGE_UNFINISHED) == 0)
        return gw_fail(-EUCLEAN,
                       "%s is a copy that godwit did not finish: delete it and copy again",
                       file->path);
    if (memcmp(signature, VHDX_IDENTIFIER_SIGNATURE, 8) != 0)
        return gw_fail(-EUCLEAN,
                       "%s is not a VHDX: its signature is missing; is it of another format? "
                       "(format raw copies a plain disk)",
                       file->path);
    return 0;
}

bool gw_vhdx_header_decode(const uint8_t *bytes, struct gw_vhdx_header *out)
{
    if (memcmp(bytes, VHDX_HEADER_SIGNATURE, 4) != 0)
        return false;
    if (gw_get_le32(bytes + VHDX_HEADER_CHECKSUM) !=
        gw_vhdx_checksum(bytes, VHDX_HEADER_SIZE, VHDX_HEADER_CHECKSUM))
        return false;
    out->sequence = gw_get_le64(bytes + VHDX_HEADER_SEQUENCE);
    memcpy(out->file_guid, bytes + VHDX_HEADER_FILE_GUID, 16);
    memcpy(out->data_guid, bytes + VHDX_HEADER_DATA_GUID, 16);
    memcpy(out->log_guid, bytes + VHDX_HEADER_LOG_GUID, 16);
    out->log_version = gw_get_le16(bytes + VHDX_HEADER_LOG_VERSION);
    out->version = gw_get_le16(bytes + VHDX_HEADER_VERSION);
    out->log.length = gw_get_le32(bytes + VHDX_HEADER_LOG_LENGTH);
    out->log.offset = gw_get_le64(bytes + VHDX_HEADER_LOG_OFFSET);
    return true;
}

static int header_check(const struct gw_image_file *file, const struct gw_vhdx_header *header)
{
    if (header->version != VHDX_VERSION)
        return gw_fail(-ENOTSUP, "%s: VHDX version %u is not supported (only 1)", file->path,
                       header->version);
    if (header->log.length % VHDX_ALIGNMENT)
        return gw_fail(-EUCLEAN, "%s: the log length %llu is not a multiple of 1 MiB", file->path,
                       (unsigned long long)header->log.length);
    if (header->log.length > 0 &&
        (header->log.offset % VHDX_ALIGNMENT || header->log.offset < VHDX_ALIGNMENT ||
         header->log.offset > INT64_MAX - header->log.length))
        return gw_fail(-EUCLEAN, "%s: the log cannot lie at byte %llu", file->path,
                       (unsigned long long)header->log.offset);
    return 0;
}

int gw_vhdx_header_read(const struct gw_image_file *file, struct gw_vhdx_header *out)
{
    uint8_t bytes[2][VHDX_HEADER_SIZE];
    struct gw_vhdx_header headers[2];
    bool is_valid[2];
    int rc, current;

    rc = gw_image_file_read(file, VHDX_HEADER_1_OFFSET, bytes[0], VHDX_HEADER_SIZE);
    if (rc == 0)
        rc = gw_image_file_read(file, VHDX_HEADER_2_OFFSET, bytes[1], VHDX_HEADER_SIZE);
    if (rc)
        return rc;
    for (int i = 0; i < 2; i++)
        is_valid[i] = gw_vhdx_header_decode(bytes[i], &headers[i]);
    if (!is_valid[0] && !is_valid[1])
        return gw_fail(-EUCLEAN, "%s: both headers are damaged: restore the image from a backup",
                       file->path);
    current = !is_valid[0] || (is_valid[1] && headers[1].sequence > headers[0].sequence);
    /* Equal numbers leave the choice open, unless it makes no difference: Disk2VHD writes the same
     * header twice. */
    if (is_valid[0] && is_valid[1] && headers[0].sequence == headers[1].sequence &&
        memcmp(bytes[0], bytes[1], VHDX_HEADER_SIZE) != 0)
        return gw_fail(-EUCLEAN, "%s: two different headers have the same sequence number %llu",
                       file->path, (unsigned long long)headers[0].sequence);
    rc = header_check(file, &headers[current]);
    if (rc == 0)
        *out = headers[current];
    return rc;
}

bool gw_vhdx_has_log(const struct gw_vhdx_header *header)
{
    static const uint8_t none[16];

    return header->log.length > 0 && memcmp(header->log_guid, none, 16) != 0;
}

void gw_vhdx_identifier_encode(uint8_t *out)
{
    static_assert(sizeof(CREATOR) <= VHDX_CREATOR_CHARACTERS, "the creator must fit its field");
    memcpy(out, VHDX_IDENTIFIER_SIGNATURE, 8);
    for (size_t i = 0; i < sizeof(CREATOR); i++)
        gw_put_le16(out + VHDX_IDENTIFIER_CREATOR + 2 * i, (uint16_t)(unsigned char)CREATOR[i]);
}

void gw_vhdx_header_encode(const struct gw_vhdx_header *header, uint8_t *out)
{
    memset(out, 0, VHDX_HEADER_SIZE);
    memcpy(out, VHDX_HEADER_SIGNATURE, 4);
    gw_put_le64(out + VHDX_HEADER_SEQUENCE, header->sequence);
    memcpy(out + VHDX_HEADER_FILE_GUID, header->file_guid, 16);
    memcpy(out + VHDX_HEADER_DATA_GUID, header->data_guid, 16);
    memcpy(out + VHDX_HEADER_LOG_GUID, header->log_guid, 16);
    gw_put_le16(out + VHDX_HEADER_LOG_VERSION, header->log_version);
    gw_put_le16(out + VHDX_HEADER_VERSION, header->version);
    gw_put_le32(out + VHDX_HEADER_LOG_LENGTH, (uint32_t)header->log.length);
    gw_put_le64(out + VHDX_HEADER_LOG_OFFSET, header->log.offset);
    gw_put_le32(out + VHDX_HEADER_CHECKSUM,
                gw_vhdx_checksum(out, VHDX_HEADER_SIZE, VHDX_HEADER_CHECKSUM));
}

int gw_vhdx_guid_new(uint8_t guid[16])
{
    if (getrandom(guid, 16, 0) != 16)
        return gw_fail_errno(-errno, "no random bytes for a GUID");
    /* RFC 9562: version 4, variant 1; bytes 0-7 are in Microsoft's mixed order. */
    guid[7] = (uint8_t)((guid[7] & 0x0f) | 0x40);
    guid[8] = (uint8_t)((guid[8] & 0x3f) | 0x80);
    return 0;
}
