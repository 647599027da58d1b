/* SPDX-License-Identifier: Apache-2.0 */
/* The table of regions: what a peer's writes in a row find there while one hold lasts for several (a grip), and
 * that memory is given back only when nobody holds it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "common/error.h"
#include "transport/region-table.h"

#define LENGTH 4096u

static struct gw_region_table table;
static char memory[2][LENGTH];
static struct gw_region regions[2];
static struct gw_region_grip grip;

static void begin(void)
{
    gw_region_table_init(&table);
    for (unsigned i = 0; i < 2; i++) {
        regions[i] = (struct gw_region){
            .memory = memory[i], .length = LENGTH, .access = GW_ACCESS_REMOTE_WRITE};
        cr_assert_eq(gw_region_table_add(&table, &regions[i], i ? 7 : 0), 0);
    }
}

static void end(void)
{
    gw_region_table_let_go(&grip);
    gw_region_table_destroy(&table);
}

static int reach(uint64_t key, uint64_t offset, void **at)
{
    const struct gw_region_target target = {
        .key = key, .offset = offset, .length = 64, .channel_number = 7};

    return gw_region_table_grip(&table, &grip, &target, at);
}

static void expect_at(uint64_t key, uint64_t offset, const void *expected)
{
    void *at = NULL;

    cr_assert_eq(reach(key, offset, &at), 0, "%s", gw_error_message());
    cr_assert_eq(at, expected);
}

static void expect_refused(uint64_t key, uint64_t offset)
{
    void *at = NULL;

    cr_assert_eq(reach(key, offset, &at), -EPROTO);
    cr_assert_null(at);
}

struct removal {
    pthread_t thread;
    const struct gw_region *region;
    uint64_t key;
    atomic_bool is_done;
};

static void *remove_region(void *argument)
{
    struct removal *removal = argument;

    gw_region_table_remove(&table, removal->region);
    removal->is_done = true;
    return NULL;
}

/* Until the key is gone, which comes before the wait for those that hold it. */
static void start_removal(struct removal *removal, const struct gw_region *region)
{
    *removal = (struct removal){.region = region, .key = region->key};
    cr_assert_eq(pthread_create(&removal->thread, NULL, remove_region, removal), 0);
    while (gw_region_table_hold_again(&table, removal->key)) {
        gw_region_table_release(&table, removal->key);
        usleep(1000);
    }
}

static void remove_at_once(const struct gw_region *region)
{
    struct removal removal;

    start_removal(&removal, region);
    cr_assert_eq(pthread_join(removal.thread, NULL), 0); /* or the test's time runs out */
    cr_assert(removal.is_done);
}

Test(region_grip, several_writes_find_their_places, .init = begin, .fini = end)
{
    expect_at(regions[0].key, 0, memory[0]);
    expect_at(regions[0].key, 128, memory[0] + 128);
    expect_at(regions[1].key, 64, memory[1] + 64);
    expect_at(regions[0].key, LENGTH - 64, memory[0] + LENGTH - 64);
}

/* The hold is one, however many writes there were, and of one region. */
Test(region_grip, another_region_lets_go_of_the_first, .init = begin, .fini = end, .timeout = 90)
{
    expect_at(regions[0].key, 0, memory[0]);
    expect_at(regions[0].key, 64, memory[0] + 64);
    expect_at(regions[1].key, 0, memory[1]);
    remove_at_once(&regions[0]);
    gw_region_table_let_go(&grip);
    remove_at_once(&regions[1]);
}

Test(region_grip, letting_go_twice_is_once, .init = begin, .fini = end, .timeout = 90)
{
    void *at;

    gw_region_table_let_go(&grip);
    expect_at(regions[0].key, 0, memory[0]);
    gw_region_table_let_go(&grip);
    gw_region_table_let_go(&grip);
    /* Else this hold would count as none. */
    cr_assert_eq(
        gw_region_table_hold(&table, &(struct gw_region_target){.key = regions[0].key}, &at), 0);
    gw_region_table_release(&table, regions[0].key);
    remove_at_once(&regions[0]);
}

Test(region_grip, an_unknown_key_in_a_burst_lets_go, .init = begin, .fini = end, .timeout = 90)
{
    expect_at(regions[0].key, 0, memory[0]);
    expect_refused(regions[0].key ^ (1ull << 40), 0);
    cr_assert_null(grip.slot);
    remove_at_once(&regions[0]);
    expect_refused(regions[0].key, 0);
    expect_at(regions[1].key, 0, memory[1]);
}

/* A wrong place is no wrong key: the hold lasts until it is let go, and the next write is judged by itself. */
Test(region_grip, a_write_beyond_the_end_is_refused_alone, .init = begin, .fini = end,
     .timeout = 90)
{
    expect_at(regions[0].key, 0, memory[0]);
    expect_refused(regions[0].key, LENGTH - 63);
    expect_refused(regions[0].key, UINT64_MAX - 8);
    expect_at(regions[0].key, 64, memory[0] + 64);
    gw_region_table_let_go(&grip);
    remove_at_once(&regions[0]);
}

/* Also where another channel's write found the region before. */
Test(region_grip, a_channel_whose_region_it_is_not_is_refused, .init = begin, .fini = end)
{
    const struct gw_region_target target = {
        .key = regions[1].key, .length = 1, .channel_number = 8};
    void *at = NULL;

    expect_at(regions[1].key, 0, memory[1]);
    cr_assert_eq(gw_region_table_grip(&table, &grip, &target, &at), -EPROTO);
    cr_assert_null(at);
}

/* Who holds it may go on for as long; who comes anew may not. */
Test(region_grip, removal_waits_for_the_grip, .init = begin, .fini = end, .timeout = 90)
{
    struct removal removal;
    void *at = NULL;

    expect_at(regions[0].key, 0, memory[0]);
    start_removal(&removal, &regions[0]);
    cr_assert_eq(gw_region_table_hold(&table, &(struct gw_region_target){.key = removal.key}, &at),
                 -EPROTO);
    expect_at(removal.key, 64, memory[0] + 64);
    usleep(20000); /* for one that does not wait to be done */
    cr_assert_not(removal.is_done);
    /* The next region is not held up by it, and takes the grip along. */
    expect_at(regions[1].key, 0, memory[1]);
    cr_assert_eq(pthread_join(removal.thread, NULL), 0);
    expect_refused(removal.key, 0);
}
