/* SPDX-License-Identifier: Apache-2.0 */
/* Data channels: who gets one, what is settled, and what of its records and chunks opens. */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "tests/transport/link/pair.h"
#include "transport/link/private.h"

static const struct gw_chunk_name chunk_name = {
    .migration_id = {1, 2, 3}, .volume = 7, .length = 65536, .offset = 1ull << 40};

/* A joined lane of a fresh session. */
static void open_all(struct pair *pair, struct lane *lane, const char *transport)
{
    pair_open(pair, transport);
    lane_open(pair, lane, 0);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(lane->errors[i].code, 0, "end %u: %s", i, lane->errors[i].text);
    lane_join(lane);
}

static void close_all(struct pair *pair, struct lane *lane)
{
    lane_close(lane);
    pair_free(pair);
}

ON_EACH_TRANSPORT(seal, records_and_chunks_open_on_the_other_end)
{
    static uint8_t plain[65536], sealed[65536], opened[65536];
    uint8_t record[64], tag[GW_SEAL_TAG_SIZE], text[64];
    struct pair pair;
    struct lane lane;
    uint32_t length;

    open_all(&pair, &lane, transport);
    for (unsigned round = 0; round < 1000; round++) {
        for (unsigned from = 0; from < 2; from++) {
            cr_assert_eq(gw_seal_record(lane.seals[from], &round, sizeof(round), record), 0);
            cr_assert_eq(gw_seal_open_record(lane.seals[1 - from], record,
                                             sizeof(round) + GW_SEAL_TAG_SIZE, text, &length),
                         0, "%s", gw_error_message());
            cr_assert_eq(length, sizeof(round));
            cr_assert_arr_eq(text, &round, sizeof(round));
        }
    }
    RAND_bytes(plain, sizeof(plain));
    for (unsigned from = 0; from < 2; from++) {
        cr_assert_eq(gw_seal_chunk(lane.seals[from], &chunk_name, plain, sealed, tag), 0);
        cr_assert(memcmp(plain, sealed, sizeof(plain)) != 0);
        cr_assert_eq(gw_seal_open_chunk(lane.seals[1 - from], &chunk_name, sealed, opened, tag), 0,
                     "%s", gw_error_message());
        cr_assert_arr_eq(plain, opened, sizeof(plain));
    }
    close_all(&pair, &lane);
}
