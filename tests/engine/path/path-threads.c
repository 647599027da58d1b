/* SPDX-License-Identifier: Apache-2.0 */
/* The data path with its workers at work while the control thread asks for its account, buries
 * channels and begins round after round. A plain executable, so that it can run under
 * ThreadSanitizer. What arrives is compared with what was sent. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "tests/check.h"
#include "tests/engine/path/rig.h"

#define SIZE   (6u << 20)
#define PAGES  (SIZE / 4096u)
#define ROUNDS 6
#define VOLUME 1

struct bench {
    struct path_rig rig;
    uint8_t *bytes;
    struct gw_source_volume *source;
    struct gw_target_volume *target;
};

static void write_pages(struct bench *bench, struct gw_bitmap *dirty, unsigned seed)
{
    for (unsigned page = seed % 7; page < PAGES; page += 3) {
        memset(bench->bytes + (size_t)page * 4096, (int)(page % 11 ? seed + page : 0), 4096);
        gw_bitmap_set_range(dirty, page, 1);
    }
}

/* What a status line asks, while the workers are in the round before. */
static void look(void *context)
{
    struct bench *bench = context;
    struct gw_path_stats stats;
    char text[160];

    gw_sender_stats(bench->rig.sender, &stats);
    gw_receiver_stats(bench->rig.receiver, &stats);
    gw_sender_path(bench->rig.sender, VOLUME);
    gw_sender_describe(bench->rig.sender, text, sizeof(text));
    check(gw_sender_lane_count(bench->rig.sender) <= GW_LANES_MAX);
}

static void run_rounds(struct bench *bench)
{
    struct gw_bitmap dirty;

    check(gw_bitmap_init(&dirty, PAGES) == 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct gw_round *round;

        write_pages(bench, &dirty, i);
        check(gw_round_new(&round) == 0);
        if (i == ROUNDS - 1)
            gw_round_set_still(round);
        check(gw_round_add(round, VOLUME, bench->source, i ? &dirty : NULL) == 0);
        bench->rig.look = look;
        bench->rig.look_context = bench;
        check(path_rig_run(&bench->rig, round) == 0);
        gw_round_free(round);
        gw_bitmap_clear_all(&dirty);
        check(memcmp(bench->bytes, path_target_bytes(bench->target), SIZE) == 0);
    }
    gw_bitmap_free(&dirty);
}

static void run(const char *transport, bool is_clear, enum gw_volume_kind kind, uint64_t drop_after,
                uint64_t rdma_limit)
{
    struct bench bench;

    printf("%s%s %s %s%s\n", transport, rdma_limit ? " with windows" : "",
           is_clear ? "clear" : "sealed", kind == GW_VOLUME_RAM ? "RAM" : "disk",
           drop_after ? ", channels die" : "");
    fflush(stdout);
    memset(&bench, 0, sizeof(bench));
    if (rdma_limit)
        path_rig_open_rdma(&bench.rig, transport, is_clear, rdma_limit, 1ull << 40);
    else
        path_rig_open(&bench.rig, transport, is_clear);
    check(gw_memory_new(SIZE, (void **)&bench.bytes) == 0);
    bench.source = path_source_new(kind, bench.bytes, SIZE);
    bench.target = path_target_new(kind, SIZE);
    path_rig_add_volume(&bench.rig, VOLUME, bench.source, bench.target);
    for (int i = 0; i < 3; i++)
        path_rig_add_channel(&bench.rig);
    if (drop_after)
        gw_faulty_drop_after(bench.rig.faulty, drop_after);
    run_rounds(&bench);
    path_rig_close(&bench.rig);
    bench.source->ops->close(bench.source);
    bench.target->ops->close(bench.target);
    gw_memory_free(bench.bytes, SIZE);
}

int main(void)
{
    static const char *const transports[] = {"loop", "tcp"};

    for (unsigned i = 0; i < 8; i++) {
        const char *transport = transports[i / 4];
        enum gw_volume_kind kind = i & 1 ? GW_VOLUME_RAM : GW_VOLUME_DISK;

        run(transport, i & 2, kind, 0, 0);
        run(transport, i & 2, kind, 400, 0);
    }
    /* Three lanes have six rings; little more than 1 MiB is left for windows, which roll. */
    run("loop", true, GW_VOLUME_RAM, 0, 49ull << 20);
    run("tcp", true, GW_VOLUME_RAM, 0, 49ull << 20);
    run("loop", true, GW_VOLUME_RAM, 400, 60ull << 20);
    run("loop", false, GW_VOLUME_DISK, 0, 60ull << 20);
    return 0;
}
