/* SPDX-License-Identifier: Apache-2.0 */
/* Rounds of writes from one end to the other, compared byte by byte; see data.h. */
#include "tests/transport/dpdk/data.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"

#define SLOTS      8u
#define GUARD      (64u << 10) /* on both sides of the region */
#define WRITES_MAX 64u         /* of a round */
#define WRITE_MAX  16384u
#define SCRIBBLE   0xa5

struct slot {
    uint8_t *source;
    struct rig_write writes[WRITES_MAX];
    unsigned write_count;
    struct rig_send told, answered;
    uint8_t told_bytes[8], answer_bytes[8];
};

struct data {
    struct rig *rig;
    unsigned seed;
    uint64_t random;
    uint8_t *memory, *expected;
    struct gw_region *region;
    struct slot slots[SLOTS];
    uint64_t posted, arrived, answered; /* rounds */
    uint64_t progress_ns;
};

static uint8_t *region_memory(const struct data *data)
{
    return data->memory + GUARD;
}

struct data *data_open(struct rig *rig, unsigned seed)
{
    struct data *data = calloc(1, sizeof(*data));

    data->rig = rig;
    data->seed = seed;
    data->random = seed;
    data->memory = calloc(1, GUARD + SLOTS * DATA_SLOT_SIZE + GUARD);
    data->expected = malloc(DATA_SLOT_SIZE);
    memset(region_memory(data), SCRIBBLE, SLOTS * DATA_SLOT_SIZE);
    cr_assert_eq(gw_reg(rig->far_domain, region_memory(data), SLOTS * DATA_SLOT_SIZE,
                        GW_ACCESS_REMOTE_WRITE, 0, &data->region),
                 0);
    for (unsigned i = 0; i < SLOTS; i++)
        data->slots[i].source = rig_source_new(rig, DATA_SLOT_SIZE, 0);
    data->progress_ns = gw_clock_ns();
    return data;
}

static unsigned seed_of(const struct data *data, uint64_t round)
{
    return data->seed * 1000003u + (unsigned)round;
}

/* ---- the far end ---- */

static void take(struct data *data, const struct gw_message *message)
{
    struct slot *slot = &data->slots[data->arrived % SLOTS];
    uint8_t *memory = region_memory(data) + data->arrived % SLOTS * DATA_SLOT_SIZE;

    cr_assert_eq(message->length, 8);
    cr_assert_eq(gw_get_le64(message->data), data->arrived);
    rig_fill(data->expected, DATA_SLOT_SIZE, seed_of(data, data->arrived));
    cr_assert(memcmp(memory, data->expected, DATA_SLOT_SIZE) == 0, "wrong bytes in round %llu",
              (unsigned long long)data->arrived);
    memset(memory, SCRIBBLE, DATA_SLOT_SIZE);
    gw_put_le64(slot->answer_bytes, data->arrived++);
    slot->answered = rig_send(slot->answer_bytes, sizeof(slot->answer_bytes));
    cr_assert_eq(rig_post_send(data->rig->far, &slot->answered), 0);
}

/* ---- both ---- */

static bool receive(struct gw_channel *channel, struct gw_message *out)
{
    int error = gw_recv(channel, out);

    cr_assert(error == 0 || error == -EAGAIN, "%s", gw_error_message());
    return error == 0;
}

static bool is_slot_over(const struct slot *slot)
{
    for (unsigned i = 0; i < slot->write_count; i++)
        if (slot->writes[i].done_count == 0)
            return false;
    return slot->told.done_count && slot->answered.done_count;
}

static void turn(struct data *data)
{
    uint64_t before = data->arrived + data->answered;
    struct gw_message message;

    rig_turn(data->rig);
    while (receive(data->rig->far, &message))
        take(data, &message);
    while (receive(data->rig->near, &message))
        cr_assert_eq(gw_get_le64(message.data), data->answered++);
    if (data->arrived + data->answered != before)
        data->progress_ns = gw_clock_ns();
    cr_assert(gw_clock_ns() - data->progress_ns < RIG_WAIT_MS * GW_NS_PER_MS,
              "stalled: %llu rounds were posted, %llu arrived, %llu are answered",
              (unsigned long long)data->posted, (unsigned long long)data->arrived,
              (unsigned long long)data->answered);
}

/* Turns until the round and its ops are over. */
static void await(struct data *data, uint64_t round)
{
    const struct slot *slot = &data->slots[round % SLOTS];

    while (data->answered <= round || !is_slot_over(slot))
        turn(data);
    for (unsigned i = 0; i < slot->write_count; i++) {
        cr_assert_eq(slot->writes[i].done_count, 1);
        cr_assert_eq(slot->writes[i].status, 0);
    }
    cr_assert_eq(slot->told.done_count, 1);
    cr_assert_eq(slot->told.status, 0);
}

static uint32_t next_length(struct data *data, unsigned index, uint32_t left)
{
    data->random = data->random * 6364136223846793005ull + 1442695040888963407ull;
    if (index == WRITES_MAX - 1)
        return left;
    return (uint32_t)gw_min(1 + (data->random >> 33) % WRITE_MAX, left);
}

static void post_writes(struct data *data, struct slot *slot, uint64_t offset)
{
    uint32_t at = 0;

    slot->write_count = 0;
    while (at < DATA_SLOT_SIZE) {
        uint32_t length = next_length(data, slot->write_count, DATA_SLOT_SIZE - at);
        struct rig_write *write = &slot->writes[slot->write_count];
        int error;

        *write = rig_write(slot->source + at, length, data->region, offset + at);
        while ((error = rig_post_write(data->rig->near, write)) == -EAGAIN)
            turn(data);
        cr_assert_eq(error, 0, "%s", gw_error_message());
        slot->write_count++;
        at += length;
    }
}

void data_round(struct data *data)
{
    struct slot *slot = &data->slots[data->posted % SLOTS];
    int error;

    if (data->posted >= SLOTS)
        await(data, data->posted - SLOTS);
    rig_fill(slot->source, DATA_SLOT_SIZE, seed_of(data, data->posted));
    post_writes(data, slot, data->posted % SLOTS * DATA_SLOT_SIZE);
    gw_put_le64(slot->told_bytes, data->posted);
    slot->told = rig_send(slot->told_bytes, sizeof(slot->told_bytes));
    slot->answered.done_count = 0;
    while ((error = rig_post_send(data->rig->near, &slot->told)) == -EAGAIN)
        turn(data);
    cr_assert_eq(error, 0, "%s", gw_error_message());
    data->posted++;
}

static bool is_all(const uint8_t *bytes, size_t size, uint8_t wanted)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != wanted)
            return false;
    return true;
}

void data_finish(struct data *data)
{
    for (uint64_t round = data->posted > SLOTS ? data->posted - SLOTS : 0; round < data->posted;
         round++)
        await(data, round);
    cr_assert(is_all(region_memory(data), SLOTS * DATA_SLOT_SIZE, SCRIBBLE),
              "something was written after it had been handed over");
    cr_assert(is_all(data->memory, GUARD, 0) &&
                  is_all(region_memory(data) + SLOTS * DATA_SLOT_SIZE, GUARD, 0),
              "something was written beside the region");
}

void data_close(struct data *data)
{
    gw_unreg(data->region);
    for (unsigned i = 0; i < SLOTS; i++)
        rig_source_free(data->rig, data->slots[i].source);
    free(data->memory);
    free(data->expected);
    free(data);
}
