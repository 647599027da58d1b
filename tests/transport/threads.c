/* SPDX-License-Identifier: Apache-2.0 */
/* Two threads, one end each, and a control thread that makes channels and registers and ends
 * regions while they work; over every back end. A plain executable, so that it can run under
 * ThreadSanitizer. What is written is checked against the source; a region that has ended must
 * never change again. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "tests/check.h"
#include "tests/transport/rig.h"

#define ROUNDS      300
#define SLOT_SIZE   20000u
#define SLOTS       16u
#define REGION_TURN 200
#define VICTIM_SIZE 3000u

struct end {
    struct rig *rig;
    struct gw_poller *poller;
    struct gw_channel *channel;
    uint64_t key;    /* of the region that the near end writes */
    uint8_t *memory; /* source or target */
};

/* Polls, and sleeps on the armed descriptor when there is nothing to do. */
static int wait_ready(struct gw_poller *poller, struct gw_channel **ready, int max)
{
    int count = gw_poll(poller, ready, max);
    struct pollfd wake = {.events = POLLIN};

    if (count)
        return count;
    wake.fd = gw_poller_arm(poller);
    count = gw_poll(poller, ready, max);
    if (!count)
        poll(&wake, 1, 100);
    return count;
}

static int receive(struct end *end, struct gw_message *out)
{
    struct gw_channel *ready[4];
    int error;

    while ((error = gw_recv(end->channel, out)) == -EAGAIN)
        wait_ready(end->poller, ready, 4);
    return error;
}

/* Writes all slots, says so, and waits for the answer, over and over. */
static void *near_end(void *argument)
{
    struct end *end = argument;
    struct gw_region region = {.key = end->key};
    struct gw_channel *ready[4];

    for (unsigned round = 0; round < ROUNDS; round++) {
        struct rig_write writes[SLOTS];
        struct rig_send send = rig_send(&round, sizeof(round));
        struct gw_message message;

        rig_fill(end->memory, 64, round);
        for (unsigned i = 0; i < SLOTS; i++) {
            memcpy(end->memory + i * SLOT_SIZE, &round, sizeof(round));
            writes[i] = rig_write(end->memory + i * SLOT_SIZE, SLOT_SIZE, &region, i * SLOT_SIZE);
            writes[i].write.flags = GW_POST_MORE;
            check(rig_post_write(end->channel, &writes[i]) == 0);
        }
        check(rig_post_send(end->channel, &send) == 0);
        check(receive(end, &message) == 0);
        check(memcmp(message.data, &round, sizeof(round)) == 0);
        while (!send.done_count)
            wait_ready(end->poller, ready, 4);
        for (unsigned i = 0; i < SLOTS; i++)
            check(writes[i].done_count == 1 && writes[i].status == 0);
    }
    return NULL;
}

static void *far_end(void *argument)
{
    struct end *end = argument;
    struct gw_channel *ready[4];

    for (unsigned round = 0; round < ROUNDS; round++) {
        struct rig_send send = rig_send(&round, sizeof(round));
        struct gw_message message;

        check(receive(end, &message) == 0);
        check(memcmp(message.data, &round, sizeof(round)) == 0);
        for (unsigned i = 0; i < SLOTS; i++)
            check(memcmp(end->memory + i * SLOT_SIZE, &round, sizeof(round)) == 0);
        check(rig_post_send(end->channel, &send) == 0);
        while (!send.done_count)
            wait_ready(end->poller, ready, 4);
    }
    return NULL;
}

/* A third channel on pollers of its own writes into regions that the control thread ends under it.
 */
struct victim {
    struct rig *rig;
    struct gw_poller *poller;
    struct gw_channel *channel;
    atomic_bool *stop;
    _Atomic uint64_t *key;
    const uint8_t *source; /* VICTIM_SIZE bytes */
};

static void *write_until_dead(void *argument)
{
    struct victim *victim = argument;
    struct rig_write writes[32];
    struct gw_channel *ready[4];
    unsigned posted = 0;
    bool dead = false;

    memset(writes, 0, sizeof(writes));
    while (!dead) {
        struct gw_region region = {.key = atomic_load(victim->key)};
        struct rig_write *write = &writes[posted % 32];
        int error = 0;

        if (posted < 32 || write->done_count) {
            *write = rig_write(victim->source, VICTIM_SIZE, &region, 0);
            error = rig_post_write(victim->channel, write);
            posted += error == 0;
        }
        dead = error != 0 && error != -EAGAIN;
        gw_poll(victim->poller, ready, 4);
    }
    gw_close(victim->channel);
    return NULL;
}

static void *poll_until_stopped(void *argument)
{
    struct victim *victim = argument;
    struct gw_channel *ready[4];

    while (!atomic_load(victim->stop))
        wait_ready(victim->poller, ready, 4);
    gw_close(victim->channel);
    return NULL;
}

static void end_regions_under_writers(struct rig *rig)
{
    for (int turn = 0; turn < REGION_TURN / 10; turn++) {
        _Atomic uint64_t key;
        atomic_bool stop = false;
        struct victim near = {.rig = rig, .stop = &stop, .key = &key}, far = near;
        uint8_t *memory = calloc(1, VICTIM_SIZE), *copy = malloc(VICTIM_SIZE), *source;
        struct gw_region *region;
        pthread_t near_thread, far_thread;
        struct rig private = *rig;

        check(gw_poller_open(rig->transport, &near.poller) == 0);
        check(gw_poller_open(rig->far_transport, &far.poller) == 0);
        private.near_poller = near.poller;
        private.far_poller = far.poller;
        rig_channel(&private, 7, &near.channel, &far.channel);
        near.source = source = rig_source_new(&private, VICTIM_SIZE, 1);
        check(gw_reg(rig->far_domain, memory, VICTIM_SIZE, GW_ACCESS_REMOTE_WRITE, 7, &region) ==
              0);
        atomic_store(&key, region->key);
        check(pthread_create(&near_thread, NULL, write_until_dead, &near) == 0);
        check(pthread_create(&far_thread, NULL, poll_until_stopped, &far) == 0);
        for (volatile int spin = 0; spin < turn * 20000; spin++)
            ;
        gw_unreg(region);
        /* From here on the memory is ours: a late write would show, here or to the sanitizer. */
        memset(memory, 0x55, VICTIM_SIZE);
        memcpy(copy, memory, VICTIM_SIZE);
        pthread_join(near_thread, NULL);
        check(memcmp(memory, copy, VICTIM_SIZE) == 0);
        atomic_store(&stop, true);
        pthread_join(far_thread, NULL);
        gw_poller_close(near.poller);
        gw_poller_close(far.poller);
        rig_source_free(&private, source);
        free(memory);
        free(copy);
    }
}

/* libfabric's tcp looks at a key when a write begins, and then places all of it (docs/fabric.md). */
static bool ends_regions_at_once(enum rig_kind kind)
{
    const char *provider = getenv("GODWIT_TEST_FABRIC");

    return (kind != RIG_FABRIC && kind != RIG_FAULTY_FABRIC) ||
           (provider && strcmp(provider, "verbs") == 0);
}

static void run(enum rig_kind kind)
{
    struct rig rig;
    struct end near, far;
    struct gw_region *region;
    pthread_t near_thread, far_thread;

    rig_open(&rig, kind);
    rig_join(&rig);
    near = (struct end){.rig = &rig, .poller = rig.near_poller, .channel = rig.near};
    far = (struct end){.rig = &rig, .poller = rig.far_poller, .channel = rig.far};
    near.memory = rig_source_new(&rig, (size_t)SLOTS * SLOT_SIZE, 0);
    far.memory = calloc(SLOTS, SLOT_SIZE);
    check(gw_reg(rig.far_domain, far.memory, SLOTS * SLOT_SIZE, GW_ACCESS_REMOTE_WRITE, 1,
                 &region) == 0);
    near.key = region->key;
    check(pthread_create(&near_thread, NULL, near_end, &near) == 0);
    check(pthread_create(&far_thread, NULL, far_end, &far) == 0);
    for (int i = 0; i < REGION_TURN; i++) {
        struct gw_region *other;
        uint8_t byte;

        check(gw_reg(rig.far_domain, &byte, 1, GW_ACCESS_REMOTE_WRITE, 0, &other) == 0);
        gw_unreg(other);
    }
    if (ends_regions_at_once(kind))
        end_regions_under_writers(&rig);
    pthread_join(near_thread, NULL);
    pthread_join(far_thread, NULL);
    gw_unreg(region);
    rig_source_free(&rig, near.memory);
    rig_close(&rig);
    free(far.memory);
    printf("%s: ok\n", rig_name(kind));
}

int main(void)
{
    const enum rig_kind *kinds;
    int count = rig_kinds(&kinds);

    for (int i = 0; i < count; i++)
        run(kinds[i]);
    return 0;
}
