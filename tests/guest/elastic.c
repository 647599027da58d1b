/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that comes and goes. A virtio-mem device: blocks are plugged and unplugged, one a tick, until the guest
 * has what the host requests, every other block at first, so that some that are plugged lie between some that are
 * not; every page of a plugged block is written with a pattern of its own. A balloon: the last pages of the span
 * are given to the host, and written anew when they come back. VIRTIO 1.2, 5.15 and 5.5.
 */
#include "guest.h"

#define MEM_NUMBER         0x1058
#define MEM_FEATURES       2u /* it is told that what is unplugged must not be touched */
#define MEM_BLOCK_SIZE     0u
#define MEM_ADDRESS        16u
#define MEM_REGION_SIZE    24u
#define MEM_REQUESTED_SIZE 48u
#define MEM_PLUG           0u
#define MEM_UNPLUG         1u
#define MEM_ACK            0u
#define MEM_BLOCK_LIMIT    64u
#define BALLOON_NUMBER     0x1045
#define BALLOON_OLD_NUMBER 0x1002
#define BALLOON_NUM_PAGES  0u
#define BALLOON_ACTUAL     4u
#define BALLOON_BATCH      256u
#define BALLOON_INFLATE    0u
#define BALLOON_DEFLATE    1u

static struct {
    struct virtio device;
    int is_there;
    uint64_t address, block_size;
    uint32_t block_count, plugged_count, pages_per_block;
    uint8_t is_plugged[MEM_BLOCK_LIMIT];
    uint32_t *generations; /* of the region's pages; 0: not written */
    uint32_t next_generation;
} mem;

static struct {
    struct virtio device;
    int is_there;
    uint32_t given;
} balloon;

static uint64_t *region_page(uint64_t page)
{
    return (uint64_t *)(mem.address + page * PAGE);
}

/* Names a page of the region in its pattern: numbers of the span's pages end before. */
static uint64_t number_of(uint64_t page)
{
    return HIGHEST_ADDRESS / PAGE + page;
}

static void write_region_page(uint64_t page)
{
    mem.generations[page] = ++mem.next_generation;
    fill_pattern(region_page(page), 0, number_of(page), mem.generations[page]);
}

void elastic_open(void)
{
    mem.is_there = virtio_open(&mem.device, MEM_NUMBER, MEM_NUMBER, MEM_FEATURES, 1);
    balloon.is_there =
        virtio_open(&balloon.device, BALLOON_NUMBER, BALLOON_OLD_NUMBER, 0, VIRTIO_QUEUES);
    if (!mem.is_there)
        return;
    mem.address = virtio_read_long(&mem.device, MEM_ADDRESS);
    mem.block_size = virtio_read_long(&mem.device, MEM_BLOCK_SIZE);
    mem.block_count = (uint32_t)(virtio_read_long(&mem.device, MEM_REGION_SIZE) / mem.block_size);
    mem.pages_per_block = (uint32_t)(mem.block_size / PAGE);
    if (mem.block_count > MEM_BLOCK_LIMIT ||
        mem.address + mem.block_count * mem.block_size > HIGHEST_ADDRESS)
        stop("the virtio-mem device is too large");
    mem.generations = take_table((uint64_t)mem.block_count * mem.pages_per_block);
}

/* Has the device plug or unplug this block. False when it does not want to now. */
static int change_block(uint32_t block, uint16_t type)
{
    static struct {
        uint16_t type, zero[3];
        uint64_t address;
        uint16_t block_count, more_zero[3];
    } request;
    static uint16_t answer[8];

    request.type = type;
    request.address = mem.address + block * mem.block_size;
    request.block_count = 1;
    virtio_ask(&mem.device.queues[0], &request, sizeof(request), answer, sizeof(answer));
    return *(volatile uint16_t *)answer == MEM_ACK;
}

static void plug(uint32_t block)
{
    uint64_t first = (uint64_t)block * mem.pages_per_block;

    if (!change_block(block, MEM_PLUG))
        return;
    for (uint32_t i = 0; i < mem.pages_per_block; i++)
        write_region_page(first + i);
    mem.is_plugged[block] = 1;
    mem.plugged_count++;
}

static void unplug(uint32_t block)
{
    uint64_t first = (uint64_t)block * mem.pages_per_block;

    if (!change_block(block, MEM_UNPLUG))
        return;
    memset(&mem.generations[first], 0, mem.pages_per_block * sizeof(*mem.generations));
    mem.is_plugged[block] = 0;
    mem.plugged_count--;
}

/* The first block in the order of plugging that is not plugged, or the last that is. */
static uint32_t find_block(int is_plugged)
{
    uint32_t found = 0;

    for (uint32_t parity = 0; parity < 2; parity++)
        for (uint32_t block = parity; block < mem.block_count; block += 2) {
            if (mem.is_plugged[block] != is_plugged)
                continue;
            if (!is_plugged)
                return block;
            found = block;
        }
    return found;
}

static void follow_mem(void)
{
    uint32_t wanted =
        (uint32_t)(virtio_read_long(&mem.device, MEM_REQUESTED_SIZE) / mem.block_size);

    if (mem.plugged_count < wanted)
        plug(find_block(0));
    else if (mem.plugged_count > wanted)
        unplug(find_block(1));
}

static void follow_balloon(void)
{
    static uint32_t frames[BALLOON_BATCH];
    uint32_t wanted = virtio_read(&balloon.device, BALLOON_NUM_PAGES), count = 0;
    int is_growing = wanted > balloon.given;

    if (wanted >= span_pages())
        stop("the balloon is larger than the memory span");
    if (wanted == balloon.given)
        return;
    for (uint32_t given = balloon.given; count < BALLOON_BATCH && given != wanted; count++) {
        uint64_t page = span_pages() - (is_growing ? ++given : given--);

        frames[count] = (uint32_t)((is_growing ? give_page(page) : take_page(page)) / PAGE);
    }
    virtio_ask(&balloon.device.queues[is_growing ? BALLOON_INFLATE : BALLOON_DEFLATE], frames,
               count * sizeof(*frames), 0, 0);
    balloon.given += is_growing ? count : -count;
    virtio_write(&balloon.device, BALLOON_ACTUAL, balloon.given);
}

void elastic_work(int is_quiet)
{
    if (balloon.is_there)
        follow_balloon();
    if (!mem.is_there)
        return;
    follow_mem();
    if (!is_quiet && mem.plugged_count) {
        uint32_t page = random_below(mem.block_count * mem.pages_per_block);

        if (mem.generations[page])
            write_region_page(page);
    }
}

uint64_t elastic_verify(uint64_t *pages)
{
    uint64_t bad = 0;

    for (uint64_t page = 0; mem.is_there && page < mem.block_count * mem.pages_per_block; page++) {
        if (!mem.generations[page])
            continue;
        ++*pages;
        if (has_pattern(region_page(page), 0, number_of(page), mem.generations[page]))
            continue;
        if (bad++ == 0) {
            put_text("VERIFY BAD");
            put_number("plugged", page);
            put_number("address", (uint64_t)region_page(page));
            put_number("generation", mem.generations[page]);
            put_number("found", region_page(page)[1]);
            end_line();
        }
    }
    return bad;
}
