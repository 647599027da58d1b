/* SPDX-License-Identifier: Apache-2.0 */
/* The whole back end over ports that lose, reorder, double and corrupt what arrives, from 0.01 % to
 * 20 % of the frames (faulty-port.h), connecting and closing included: every byte is right, every op is
 * done once, nothing stands still. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "common/checked.h"
#include "tests/transport/dpdk/data.h"
#include "tests/transport/dpdk/faulty-port.h"

#define ROUNDS_MIN 12u /* 3 MiB */
#define ROUNDS_MAX 4000u
#define FAULTS_MIN 10u /* of a kind before a test is over */

struct faults {
    char name[16];                     /* not a pointer: each test is a process of its own */
    struct faulty_port_shares of_each; /* 1: as the share says */
    uint32_t share;
};

static struct faults cases[20];

static size_t list_cases(void)
{
    static const struct faults kinds[] = {
        {"loss", {.lose = 1}, 0},          {"reordering", {.swap = 1}, 0},
        {"duplication", {.repeat = 1}, 0}, {"corruption", {.corrupt = 1}, 0},
        {"all of them", {1, 1, 1, 1}, 0},
    };
    static const uint32_t shares[] = {100, 1000, 10000, 200000};
    size_t count = 0;

    for (size_t kind = 0; kind < GW_ARRAY_LENGTH(kinds); kind++) {
        for (size_t i = 0; i < GW_ARRAY_LENGTH(shares); i++) {
            cases[count] = kinds[kind];
            cases[count++].share = shares[i];
        }
    }
    return count;
}

static bool is_enough(const struct faults *faults)
{
    struct faulty_port_counts counts;

    faulty_port_counts(&counts);
    return (!faults->of_each.lose || counts.lost >= FAULTS_MIN) &&
           (!faults->of_each.swap || counts.swapped >= FAULTS_MIN) &&
           (!faults->of_each.repeat || counts.repeated >= FAULTS_MIN) &&
           (!faults->of_each.corrupt || counts.corrupted >= FAULTS_MIN);
}

ParameterizedTestParameters(dpdk_faults, every_byte_is_right)
{
    return cr_make_param_array(const struct faults, cases, list_cases());
}

ParameterizedTest(const struct faults *faults, dpdk_faults, every_byte_is_right)
{
    const struct faulty_port_shares shares = {.lose = faults->of_each.lose * faults->share,
                                              .swap = faults->of_each.swap * faults->share,
                                              .repeat = faults->of_each.repeat * faults->share,
                                              .corrupt = faults->of_each.corrupt * faults->share};
    unsigned rounds = 0;
    struct data *data;
    struct rig rig;

    rig_open(&rig, RIG_DPDK);
    faulty_port_attach(faults->share);
    faulty_port_set(&shares);
    rig_join(&rig);
    data = data_open(&rig, faults->share);
    while (rounds < ROUNDS_MIN || !is_enough(faults)) {
        cr_assert(rounds++ < ROUNDS_MAX, "%s of %u: they do not happen", faults->name,
                  faults->share);
        data_round(data);
    }
    data_finish(data);
    data_close(data);
    rig_close(&rig);
}
