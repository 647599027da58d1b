/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several threads write, read back and zero one new VHDX at once, on ranges of their own that share
 * blocks and BAT pages; then every byte is read through a fresh opening and compared with what the
 * threads' own arithmetic says. A plain program, so that ThreadSanitizer can watch it.
 */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/image/image.h"

#define THREADS      4u
#define BLOCK_SIZE   (1u << 20)
#define PIECE        (16u << 10) /* threads take turns within a block */
#define PIECES       2048u       /* of each thread: 128 blocks in all */
#define ROUNDS       3u
#define FAR_BLOCKS   64u /* each in a BAT page of its own, more pages than the cache has */
#define FAR_DISTANCE ((uint64_t)BLOCK_SIZE * 8192u)
#define VIRTUAL_SIZE (FAR_DISTANCE * (FAR_BLOCKS + 1))

struct job {
    struct gw_image *image;
    unsigned number;
    int rc;
    struct gw_error error;
};

static uint64_t piece_offset(unsigned thread, unsigned piece)
{
    return ((uint64_t)piece * THREADS + thread) * PIECE;
}

/* What a piece holds in the end; 0 for those that were zeroed last. */
static unsigned char piece_byte(unsigned thread, unsigned piece, unsigned round)
{
    return (unsigned char)((piece + round) % 7 == 0 ? 0
                                                    : (piece * 31 + thread * 5 + round) % 255 + 1);
}

static int put(struct gw_image *image, uint64_t offset, unsigned char byte)
{
    unsigned char bytes[PIECE];
    struct gw_location place;
    int rc;

    if (byte == 0)
        return gw_image_zero(image, offset, PIECE);
    memset(bytes, byte, sizeof(bytes));
    rc = gw_image_locate(image, offset, PIECE, &place);
    if (rc)
        return rc;
    assert(place.kind == GW_EXTENT_DATA && place.length == PIECE);
    if (pwrite(place.fd, bytes, PIECE, (off_t)place.file_offset) != PIECE)
        return gw_fail(-5, "pwrite failed");
    return 0;
}

static void *work(void *argument)
{
    struct job *job = argument;

    for (unsigned round = 0; round < ROUNDS && job->rc == 0; round++) {
        for (unsigned piece = 0; piece < PIECES && job->rc == 0; piece++)
            job->rc = put(job->image, piece_offset(job->number, piece),
                          piece_byte(job->number, piece, round));
        for (unsigned i = 1; i <= FAR_BLOCKS && job->rc == 0; i++)
            job->rc = put(job->image, i * FAR_DISTANCE + job->number * PIECE,
                          (unsigned char)(job->number + 1));
    }
    gw_error_take(job->rc, &job->error);
    return NULL;
}

static int run_threads(struct gw_image *image)
{
    pthread_t threads[THREADS];
    struct job jobs[THREADS];
    int rc = 0;

    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.image = image, .number = i};
        if (pthread_create(&threads[i], NULL, work, &jobs[i]))
            abort();
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        if (jobs[i].rc)
            rc = gw_error_raise(&jobs[i].error);
    }
    return rc;
}

static int expect(struct gw_image *image, uint64_t offset, unsigned char byte)
{
    unsigned char bytes[PIECE], wanted[PIECE];
    struct gw_location place;
    int rc = gw_image_locate(image, offset, PIECE, &place);

    if (rc)
        return rc;
    memset(wanted, byte, sizeof(wanted));
    memset(bytes, 0, sizeof(bytes));
    if (place.kind == GW_EXTENT_DATA &&
        pread(place.fd, bytes, PIECE, (off_t)place.file_offset) != PIECE)
        return gw_fail(-5, "pread failed");
    if (memcmp(bytes, wanted, PIECE) != 0)
        return gw_fail(-74, "byte %llu is %u, not %u", (unsigned long long)offset, bytes[0], byte);
    return 0;
}

static int check_all(const char *path)
{
    struct gw_image_open_options options = {.path = path, .format = GW_IMAGE_VHDX};
    struct gw_image *image;
    int rc = gw_image_open(&options, &image);

    if (rc)
        return rc;
    for (unsigned thread = 0; thread < THREADS && rc == 0; thread++) {
        for (unsigned piece = 0; piece < PIECES && rc == 0; piece++)
            rc = expect(image, piece_offset(thread, piece), piece_byte(thread, piece, ROUNDS - 1));
        for (unsigned i = 1; i <= FAR_BLOCKS && rc == 0; i++)
            rc = expect(image, i * FAR_DISTANCE + thread * PIECE, (unsigned char)(thread + 1));
    }
    /* A negative control of the comparison itself. */
    if (rc == 0 && expect(image, piece_offset(1, 1), 0) == 0)
        rc = gw_fail(-1, "the comparison sees no difference");
    gw_image_close(image);
    return rc;
}

int main(void)
{
    char path[] = "/tmp/godwit-image-threads-XXXXXX";
    struct gw_image_create_options options = {.path = path,
                                              .format = GW_IMAGE_VHDX,
                                              .virtual_size = VIRTUAL_SIZE,
                                              .block_size = BLOCK_SIZE};
    struct gw_image *image = NULL;
    int fd = mkstemp(path);
    int rc;

    if (fd < 0)
        abort();
    close(fd);
    unlink(path);
    rc = gw_image_create(&options, &image);
    if (rc == 0)
        rc = run_threads(image);
    if (rc == 0)
        rc = gw_image_sync(image);
    if (rc == 0)
        rc = gw_image_finish(image);
    gw_image_close(image);
    if (rc == 0)
        rc = check_all(path);
    if (rc)
        fprintf(stderr, "failed: %s\n", gw_error_message());
    unlink(path);
    return rc ? 1 : 0;
}
