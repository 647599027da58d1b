/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images by line: reads one command a line from stdin, does it through engine/image/image.h, prints
 * what it found and then "ok" or "error ERRNO MESSAGE". The scripts image-*.py drive it and compare
 * with what QEMU and libvhdi say. It judges nothing itself.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/image.h"

#define PIECE     (1u << 20)
#define WORDS_MAX 16

static int parse_format(const char *name, enum gw_image_format *out)
{
    if (strcmp(name, "probe") == 0) {
        *out = GW_IMAGE_PROBE;
        return 0;
    }
    return gw_image_format_parse(name, out);
}

static bool has_word(char **words, const char *word)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], word) == 0)
            return true;
    return false;
}

static const char *value_of(char **words, const char *key)
{
    size_t length = strlen(key);

    for (int i = 0; words[i]; i++)
        if (strncmp(words[i], key, length) == 0 && words[i][length] == '=')
            return words[i] + length + 1;
    return NULL;
}

static uint64_t number_of(char **words, const char *key)
{
    const char *text = value_of(words, key);

    return text ? strtoull(text, NULL, 0) : 0;
}

/* parent=OLD=NEW, as often as wanted. */
static unsigned parse_mappings(char **words, struct gw_parent_mapping *mappings)
{
    unsigned count = 0;

    for (int i = 0; words[i]; i++) {
        char *middle;

        if (strncmp(words[i], "parent=", 7) != 0)
            continue;
        middle = strrchr(words[i] + 7, '=');
        *middle = '\0';
        mappings[count++] = (struct gw_parent_mapping){words[i] + 7, middle + 1};
    }
    return count;
}

static int do_open(char **words, struct gw_image **image)
{
    struct gw_image_open_options options = {.path = words[1]};
    struct gw_parent_mapping mappings[WORDS_MAX];
    int rc = parse_format(words[2], &options.format);

    options.is_in_use = has_word(words, "in-use");
    options.is_direct = has_word(words, "direct");
    options.is_alone = has_word(words, "alone");
    options.mappings = mappings;
    options.mapping_count = parse_mappings(words, mappings);
    return rc ? rc : gw_image_open(&options, image);
}

static int do_create(char **words, struct gw_image **image)
{
    struct gw_image_create_options options = {.path = words[1]};
    const char *id = value_of(words, "id");
    int rc = parse_format(words[2], &options.format);

    options.is_fixed = has_word(words, "fixed");
    options.is_direct = has_word(words, "direct");
    options.virtual_size = number_of(words, "size");
    options.block_size = (uint32_t)number_of(words, "block");
    options.logical_sector_size = (uint32_t)number_of(words, "logical");
    options.physical_sector_size = (uint32_t)number_of(words, "physical");
    options.disk_id = (const uint8_t *)id; /* 16 characters */
    return rc ? rc : gw_image_create(&options, image);
}

static int do_info(struct gw_image *image)
{
    const struct gw_image_info *info = gw_image_info(image);

    printf("{\"format\": \"%s\", \"fixed\": %d, \"device\": %d, \"size\": %llu, \"file\": %llu, "
           "\"block\": %u, \"logical\": %u, \"physical\": %u, \"memory_alignment\": %u, "
           "\"file_alignment\": %u, \"id\": \"",
           gw_image_format_name(info->format), info->is_fixed, info->is_block_device,
           (unsigned long long)info->virtual_size, (unsigned long long)info->file_size,
           info->block_size, info->logical_sector_size, info->physical_sector_size,
           info->memory_alignment, info->file_alignment);
    for (int i = 0; i < 16; i++)
        printf("%02x", info->disk_id[i]);
    printf("\"}\n");
    return 0;
}

/* With step=N asked for N bytes at a time. */
static int do_extents(char **words, struct gw_image *image)
{
    static const char *const kinds[] = {"data", "zero", "absent"};
    uint64_t size = gw_image_info(image)->virtual_size, step = number_of(words, "step");
    struct gw_extent extent = {0};
    int rc = 0;

    for (uint64_t at = 0; at < size && rc == 0; at += extent.length) {
        rc = gw_image_extent(image, at, step ? gw_min(at + step, size) : size, &extent);
        if (rc)
            break;
        if (extent.offset != at || extent.length == 0 || extent.length > size - at ||
            (step && extent.length > step))
            return gw_fail(-EPROTO, "extent at %llu breaks its contract", (unsigned long long)at);
        printf("%llu %llu %s\n", (unsigned long long)extent.offset,
               (unsigned long long)extent.length, kinds[extent.kind]);
    }
    return rc;
}

static int transfer(const struct gw_location *place, void *buffer, size_t length, bool is_write)
{
    size_t done = 0;

    while (done < length) {
        off_t at = (off_t)(place->file_offset + done);
        size_t left = gw_align_up(length - done, is_write ? 1 : 4096); /* O_DIRECT wants it so */
        ssize_t n = is_write ? pwrite(place->fd, (char *)buffer + done, left, at)
                             : pread(place->fd, (char *)buffer + done, left, at);

        if (n <= 0)
            return gw_fail_errno(n ? -errno : -EIO, "transfer at %lld", (long long)at);
        done += (size_t)n;
    }
    return 0;
}

/* Reads what the image says is at offset. */
static int read_piece(struct gw_image *image, uint64_t offset, uint64_t length, void *buffer,
                      uint64_t *got)
{
    struct gw_location place;
    int rc = gw_image_locate(image, offset, length, &place);

    if (rc)
        return rc;
    if (place.length == 0 || place.length > length)
        return gw_fail(-EPROTO, "locate at %llu breaks its contract", (unsigned long long)offset);
    *got = place.length;
    if (place.kind == GW_EXTENT_DATA)
        return transfer(&place, buffer, place.length, false);
    memset(buffer, 0, place.length);
    return 0;
}

static int write_piece(struct gw_image *image, uint64_t offset, uint64_t length, void *buffer)
{
    uint32_t alignment = gw_image_info(image)->file_alignment;
    uint64_t size = gw_image_info(image)->virtual_size;
    int rc = 0;

    while (length > 0 && rc == 0) {
        struct gw_location place;

        rc = gw_image_locate(image, offset, length, &place);
        if (rc)
            return rc;
        if (place.kind != GW_EXTENT_DATA || place.length == 0 || place.length > length)
            return gw_fail(-EPROTO, "locate for writing breaks its contract");
        /* As a worker with O_DIRECT does: the end of the disk is rounded up. */
        if (offset + length == size)
            rc = transfer(&place, buffer, gw_align_up(place.length, alignment), true);
        else
            rc = transfer(&place, buffer, place.length, true);
        buffer = (char *)buffer + place.length;
        offset += place.length;
        length -= place.length;
    }
    return rc;
}

static int each_piece(struct gw_image *image, FILE *into, uint64_t offset, uint64_t length)
{
    void *buffer = aligned_alloc(4096, PIECE);
    int rc = 0;

    while (length > 0 && rc == 0) {
        uint64_t got = 0;

        rc = read_piece(image, offset, gw_min(length, PIECE), buffer, &got);
        if (rc == 0 && into && fwrite(buffer, 1, got, into) != got)
            rc = gw_fail(-EIO, "cannot write the dump");
        if (rc == 0 && !into)
            for (uint64_t i = 0; i < got; i++)
                printf("%02x", ((unsigned char *)buffer)[i]);
        offset += got;
        length -= got;
    }
    if (!into)
        printf("\n");
    free(buffer);
    return rc;
}

static int do_dump(struct gw_image *image, const char *path)
{
    FILE *into = fopen(path, "w");
    int rc;

    if (!into)
        return gw_fail_errno(-errno, "cannot make %s", path);
    rc = each_piece(image, into, 0, gw_image_info(image)->virtual_size);
    fclose(into);
    return rc;
}

static int do_fill(struct gw_image *image, uint64_t offset, uint64_t length, int byte)
{
    void *buffer = aligned_alloc(4096, PIECE);
    int rc = 0;

    memset(buffer, byte, PIECE);
    while (length > 0 && rc == 0) {
        uint64_t piece = gw_min(length, PIECE);

        rc = write_piece(image, offset, piece, buffer);
        offset += piece;
        length -= piece;
    }
    free(buffer);
    return rc;
}

static int copy_extent(struct gw_image *from, struct gw_image *to, const struct gw_extent *extent)
{
    uint64_t offset = extent->offset, left = extent->length;
    void *buffer;
    int rc = 0;

    if (extent->kind != GW_EXTENT_DATA)
        return gw_image_zero(to, offset, left);
    buffer = aligned_alloc(4096, PIECE);
    while (left > 0 && rc == 0) {
        uint64_t got = 0;

        memset(buffer, 0, PIECE);
        rc = read_piece(from, offset, gw_min(left, PIECE), buffer, &got);
        if (rc == 0)
            rc = write_piece(to, offset, got, buffer);
        offset += got;
        left -= got;
    }
    free(buffer);
    return rc;
}

/* Everything that the image named has, into this one. */
static int do_copy_from(char **words, struct gw_image *to)
{
    struct gw_image *from = NULL;
    struct gw_extent extent = {0};
    uint64_t size;
    int rc = do_open(words, &from);

    if (rc)
        return rc;
    size = gw_image_info(from)->virtual_size;
    for (uint64_t at = 0; at < size && rc == 0; at += extent.length) {
        rc = gw_image_extent(from, at, size, &extent);
        if (rc == 0)
            rc = copy_extent(from, to, &extent);
    }
    gw_image_close(from);
    return rc;
}

static int do_appeared(struct gw_image *image)
{
    uint64_t offset, length;

    while (gw_image_take_appeared(image, &offset, &length))
        printf("%llu %llu\n", (unsigned long long)offset, (unsigned long long)length);
    return 0;
}

static int do_memory(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    printf("%ld\n", usage.ru_maxrss); /* KiB */
    return 0;
}

static int with_image(struct gw_image *image, char **words, int count)
{
    const char *verb = words[0];
    uint64_t offset = count > 1 ? strtoull(words[1], NULL, 0) : 0;
    uint64_t length = count > 2 ? strtoull(words[2], NULL, 0) : 0;

    if (strcmp(verb, "info") == 0)
        return do_info(image);
    if (strcmp(verb, "extents") == 0)
        return do_extents(words, image);
    if (strcmp(verb, "read") == 0)
        return each_piece(image, NULL, offset, length);
    if (strcmp(verb, "dump") == 0)
        return do_dump(image, words[1]);
    if (strcmp(verb, "fill") == 0)
        return do_fill(image, offset, length, atoi(words[3]));
    if (strcmp(verb, "copy-from") == 0)
        return do_copy_from(words, image);
    if (strcmp(verb, "zero") == 0)
        return gw_image_zero(image, offset, length);
    if (strcmp(verb, "refresh") == 0)
        return gw_image_refresh(image);
    if (strcmp(verb, "appeared") == 0)
        return do_appeared(image);
    if (strcmp(verb, "sync") == 0)
        return gw_image_sync(image);
    if (strcmp(verb, "finish") == 0)
        return gw_image_finish(image);
    if (strcmp(verb, "unchanged") == 0)
        return gw_image_unchanged(image);
    return gw_fail(-EINVAL, "no such command: %s", verb);
}

static int run(struct gw_image **image, char **words, int count)
{
    if (strcmp(words[0], "memory") == 0)
        return do_memory();
    if (strcmp(words[0], "open") == 0 || strcmp(words[0], "create") == 0) {
        gw_image_close(*image);
        *image = NULL;
        return words[0][0] == 'o' ? do_open(words, image) : do_create(words, image);
    }
    if (strcmp(words[0], "close") == 0) {
        gw_image_close(*image);
        *image = NULL;
        return 0;
    }
    if (!*image)
        return gw_fail(-EBADF, "no image is open");
    return with_image(*image, words, count);
}

int main(void)
{
    struct gw_image *image = NULL;
    char line[4096];

    while (fgets(line, sizeof(line), stdin)) {
        char *words[WORDS_MAX + 1] = {NULL};
        int count = 0, rc;

        for (char *word = strtok(line, " \n"); word && count < WORDS_MAX;
             word = strtok(NULL, " \n"))
            words[count++] = word;
        if (count == 0)
            continue;
        rc = run(&image, words, count);
        if (rc)
            printf("error %d %s\n", -rc, gw_error_message());
        else
            printf("ok\n");
        fflush(stdout);
    }
    gw_image_close(image);
    return 0;
}
