/* SPDX-License-Identifier: Apache-2.0 */
/* The engines of work.h. Offsets grow from op to op and wrap; a range that is written again was
 * looked at, and its message answered for, long before. */
#include "tests/transport/dpdk/work.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/checked.h"

#define SCRIBBLE 0xA5
#define LOOSE    0x3C
#define PAGE     4096u
#define AHEAD    (WORK_MEMORY / 2) /* bytes that may be written and not yet looked at */

static void fault(struct work *work, const char *what)
{
    work->wrong++;
    if (!work->fault)
        work->fault = what;
}

static void fill(uint8_t *bytes, uint32_t length, uint64_t seed)
{
    for (uint32_t i = 0; i < length; i++) {
        if (i % 8 == 0)
            seed = seed * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(seed >> (8 * (i % 8)) ^ seed >> 33);
    }
}

static bool is_filled(const uint8_t *bytes, uint32_t length, uint64_t seed)
{
    for (uint32_t i = 0; i < length; i++) {
        if (i % 8 == 0)
            seed = seed * 6364136223846793005u + 1442695040888963407u;
        if (bytes[i] != (uint8_t)(seed >> (8 * (i % 8)) ^ seed >> 33))
            return false;
    }
    return true;
}

static void done(struct gw_op *op, int status)
{
    struct work_op *own = (struct work_op *)(void *)op;
    struct work *work = own->work;

    if (!own->is_posted || own->is_done)
        fault(work, "done twice, or before it was posted");
    own->is_done = true;
    own->status = status;
    work->done++;
    if (status && !work->is_ending)
        fault(work, "done with an error on a channel that should live");
    /* The memory is ours again: whoever reads it later sends this. */
    if (own->length)
        memset(own->bytes, SCRIBBLE, own->length);
}

static uint32_t write_length(struct sim *sim, uint32_t largest)
{
    switch (sim_below(sim, 8)) {
    case 0:
        return (uint32_t)sim_below(sim, 3);
    case 1:
        return 4096;
    case 2:
        return (uint32_t)sim_below(sim, largest + 1);
    default:
        return (uint32_t)sim_below(sim, gw_min(largest, 6000) + 1);
    }
}

/* Two regions at once, so that a burst has writes of both. */
static void register_regions(struct work *work)
{
    struct gw_region_table *table = &work->to->regions;
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert(page != MAP_FAILED);
    work->region = (struct gw_region){
        .memory = work->memory, .length = WORK_MEMORY, .access = GW_ACCESS_REMOTE_WRITE};
    work->loose =
        (struct gw_region){.memory = page, .length = PAGE, .access = GW_ACCESS_REMOTE_WRITE};
    memset(page, LOOSE, PAGE);
    if (gw_region_table_add(table, &work->region, 7) || gw_region_table_add(table, &work->loose, 7))
        abort();
}

static void plan_loose(struct sim *sim, struct work_op *op)
{
    op->is_loose = true;
    op->length = (uint32_t)sim_below(sim, PAGE + 1);
    op->offset = sim_below(sim, PAGE - op->length + 1);
}

void work_init(struct work *work, struct sim_end *from, struct sim_end *to, unsigned op_count,
               uint32_t largest_write)
{
    struct sim *sim = from->sim;
    uint64_t offset = 0, untold = 0;

    *work = (struct work){.from = from, .to = to, .op_count = op_count};
    work->memory = calloc(1, WORK_MEMORY);
    work->ops = calloc(op_count, sizeof(work->ops[0]));
    assert(work->memory && work->ops && op_count > 0);
    memset(work->memory, SCRIBBLE, WORK_MEMORY);
    register_regions(work);
    for (unsigned i = 0; i < op_count; i++) {
        struct work_op *op = &work->ops[i];

        /* The last one is a message, so that every write is told of; and one comes before the
         * sender would have to wait for it. */
        op->is_message = i + 1 == op_count || sim_below(sim, 4) == 0 || untold > AHEAD / 2;
        op->work = work;
        op->seed = sim_random(sim);
        if (!op->is_message && sim_below(sim, 4) == 0) {
            plan_loose(sim, op);
            continue;
        }
        op->length = !op->is_message     ? write_length(sim, largest_write)
                     : sim_below(sim, 4) ? (uint32_t)sim_below(sim, 300)
                                         : (uint32_t)sim_below(sim, GW_MESSAGE_MAX + 1);
        untold = op->is_message ? 0 : untold + op->length;
        if (!op->is_message) {
            if (offset + op->length > WORK_MEMORY)
                offset = 0;
            op->offset = offset;
            offset += op->length;
        }
    }
}

void work_free(struct work *work)
{
    for (unsigned i = 0; i < work->op_count; i++)
        free(work->ops[i].bytes);
    gw_region_table_remove(&work->to->regions, &work->region);
    if (!work->has_loose_ended)
        gw_region_table_remove(&work->to->regions, &work->loose);
    munmap(work->loose.memory, PAGE);
    free(work->ops);
    free(work->memory);
}

/* Bytes posted that the receiver has not yet looked at: a write must not meet those. */
static bool is_far_ahead(const struct work *work)
{
    uint64_t bytes = 0;

    for (unsigned i = work->checked; i < work->posted; i++)
        bytes += work->ops[i].is_message || work->ops[i].is_loose ? 0 : work->ops[i].length;
    return bytes > AHEAD;
}

static int post(struct work *work, struct work_op *op)
{
    struct dpdk_core *core = work->from->core;
    int rc;

    op->bytes = malloc(op->length ? op->length : 1);
    assert(op->bytes);
    if (op->is_loose)
        memset(op->bytes, LOOSE, op->length);
    else
        fill(op->bytes, op->length, op->seed);
    op->is_posted = true;
    if (op->is_message) {
        op->send =
            (struct gw_send){.op = {.done = done}, .message = op->bytes, .length = op->length};
        rc = gw_dpdk_core_send(core, &op->send);
    } else {
        op->write =
            (struct gw_write){.op = {.done = done},
                              .local = op->bytes,
                              .length = op->length,
                              .remote_key = op->is_loose ? work->loose.key : work->region.key,
                              .remote_offset = op->offset};
        rc = gw_dpdk_core_write(core, &op->write);
    }
    if (rc) {
        op->is_posted = false;
        free(op->bytes);
        op->bytes = NULL;
    }
    return rc;
}

void work_post(struct work *work)
{
    unsigned burst = 64;

    while (work->posted < work->op_count && burst-- && !is_far_ahead(work)) {
        if (post(work, &work->ops[work->posted]))
            return;
        work->posted++;
    }
}

/* All writes before the message must be there now. Then the memory is used for something else. */
static void look_at(struct work *work, const struct gw_message *message)
{
    struct work_op *op = NULL;

    for (; work->checked < work->posted; work->checked++) {
        op = &work->ops[work->checked];
        if (op->is_message)
            break;
        if (op->is_loose)
            continue;
        if (!is_filled(work->memory + op->offset, op->length, op->seed))
            fault(work, "a message came before a write before it was in place, or it is wrong");
        if (op->length)
            memset(work->memory + op->offset, SCRIBBLE, op->length);
    }
    if (!op || !op->is_message) {
        fault(work, "a message that nobody sent");
        return;
    }
    work->checked++;
    if (message->length != op->length || !is_filled(message->data, op->length, op->seed))
        fault(work, "a message is wrong, or not the next one");
}

void work_receive(struct work *work)
{
    struct gw_message message;

    while (gw_dpdk_core_recv(work->to->core, &message) == 0)
        look_at(work, &message);
}

bool work_is_over(const struct work *work)
{
    return work->done == work->op_count && work->checked == work->op_count;
}

void work_check(struct work *work)
{
    const uint8_t *loose = work->loose.memory;

    for (uint32_t i = 0; i < PAGE && !work->has_loose_ended; i++)
        if (loose[i] != LOOSE)
            fault(work, "what was meant for one region is in another one");
    for (unsigned i = 0; i < work->op_count; i++)
        if (work->ops[i].is_posted != work->ops[i].is_done)
            fault(work, "posted and never done");
    if (work->checked < work->op_count)
        return; /* it ended early: what was written last was never looked at */
    for (uint32_t i = 0; i < WORK_MEMORY; i++) {
        if (work->memory[i] != SCRIBBLE) {
            fault(work, "memory was written after it was delivered");
            return;
        }
    }
}
