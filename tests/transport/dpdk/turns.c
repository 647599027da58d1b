/* SPDX-License-Identifier: Apache-2.0 */
/* godwit's dpdk transport between two ports of one process, both ends driven by one thread in turn, each
 * timed by its own CPU time: what the path costs a datagram, on a machine that is shared with others. Beside
 * "dpdk-plain both", which does the same without godwit. The ports come from the environment (rig.h), so:
 *   tests/transport/dpdk/contract vhost 1500 dpdk-turns [SECONDS]
 * with FORWARD=1 the near end is the one that sends, else the far one (vhost's); with WRITER=1 a thread writes
 * to what is sent all the time, as a guest that is moved does. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/memory.h"
#include "tests/transport/rig.h"
#include "transport/dpdk/dpdk.h"
#include "transport/dpdk/private.h"

#define WINDOW (32u << 20)
#define SIZE   (256u << 10)
#define WRITES 64u
#define WARM   200u /* turns before the clock starts */

struct slot {
    struct rig_write write;
    bool is_posted;
};

static void die(const char *what)
{
    fprintf(stderr, "dpdk-turns: %s: %s\n", what, gw_error_message());
    exit(1);
}

static void *write_always(void *source)
{
    for (uint8_t turn = 0;; turn++)
        for (size_t at = 0; at < WINDOW; at += 4096)
            ((volatile uint8_t *)source)[at] = turn;
    return NULL;
}

static void post(struct gw_channel *channel, struct slot *slots, const uint8_t *source,
                 const struct gw_region *region, uint64_t *posted)
{
    for (unsigned i = 0; i < WRITES; i++) {
        struct slot *slot = &slots[i];
        uint64_t at = *posted % WINDOW;

        if (slot->is_posted && slot->write.done_count == 0)
            continue;
        slot->write = rig_write(source + at, SIZE, region, at);
        slot->is_posted = true;
        if (rig_post_write(channel, &slot->write) != 0)
            die("write");
        *posted += SIZE;
    }
}

int main(int argc, char **argv)
{
    bool is_forward = getenv("FORWARD");
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 1;
    static struct slot slots[WRITES];
    struct gw_channel_info before, after;
    uint64_t cpu[2] = {0}, posted = 0, end_ns = 0, turns = 0;
    struct gw_channel *ready[4], *from, *to;
    struct gw_poller *pollers[2];
    struct gw_region *region;
    const struct dpdk_counts *counts;
    void *source, *target;
    pthread_t writer;
    struct rig rig;

    rig_open(&rig, RIG_DPDK);
    rig_join(&rig);
    from = is_forward ? rig.near : rig.far;
    to = is_forward ? rig.far : rig.near;
    pollers[0] = is_forward ? rig.near_poller : rig.far_poller;
    pollers[1] = is_forward ? rig.far_poller : rig.near_poller;
    if (gw_memory_new(WINDOW, &source) || gw_memory_new(WINDOW, &target) ||
        gw_reg(is_forward ? rig.far_domain : rig.near_domain, target, WINDOW,
               GW_ACCESS_REMOTE_WRITE, 0, &region))
        die("memory");
    memset(source, 0x5a, WINDOW);
    memset(target, 0x5a, WINDOW);
    counts = &gw_dpdk_channel_of(from)->core->counts;
    if (getenv("WRITER") && pthread_create(&writer, NULL, write_always, source) != 0)
        die("thread");
    for (; !end_ns || gw_clock_ns() < end_ns; turns++) {
        uint64_t clocks[3];

        if (turns == WARM) {
            end_ns = gw_clock_ns() + (uint64_t)(seconds * (double)GW_NS_PER_S);
            memset(cpu, 0, sizeof(cpu));
            gw_channel_info(to, &before);
        }
        clocks[0] = gw_clock_thread_ns();
        post(from, slots, source, region, &posted);
        gw_poll(pollers[0], ready, 4);
        clocks[1] = gw_clock_thread_ns();
        gw_poll(pollers[1], ready, 4);
        clocks[2] = gw_clock_thread_ns();
        cpu[0] += clocks[1] - clocks[0];
        cpu[1] += clocks[2] - clocks[1];
    }
    gw_channel_info(to, &after);
    posted = after.bytes_received - before.bytes_received;
    printf("turns: send %.3f receive %.3f CPU s/GB (%.2f GB, %.0f KB a turn; %s)\n",
           (double)cpu[0] / (double)posted, (double)cpu[1] / (double)posted, (double)posted / 1e9,
           (double)posted / (double)(turns - WARM) / 1e3, after.description);
    printf("turns: %llu datagrams, sent again %llu, forged %llu\n",
           (unsigned long long)counts->datagrams_sent, (unsigned long long)counts->sent_again,
           (unsigned long long)gw_dpdk_channel_of(to)->core->counts.forged);
    fflush(stdout);
    _Exit(0); /* the ports of a pair wait for each other */
}
