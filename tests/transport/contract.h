/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the contract test share: a test body is written once and run over every back
 * end, plain and wrapped by faulty. */
#ifndef GODWIT_TESTS_TRANSPORT_CONTRACT_H
#define GODWIT_TESTS_TRANSPORT_CONTRACT_H

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <stdlib.h>

#include "common/error.h"
#include "tests/transport/rig.h"

#define MIB (1u << 20)

/* A test that is run over every back end. The body is given an open rig whose ends are joined. */
#define CONTRACT(name)                                                                             \
    static void body_##name(struct rig *rig);                                                      \
    ParameterizedTestParameters(contract, name)                                                    \
    {                                                                                              \
        const enum rig_kind *kinds;                                                                \
        int count = rig_kinds(&kinds);                                                             \
        return cr_make_param_array(const enum rig_kind, kinds, (size_t)count);                     \
    }                                                                                              \
    ParameterizedTest(const enum rig_kind *kind, contract, name)                                   \
    {                                                                                              \
        struct rig rig;                                                                            \
        rig_open(&rig, *kind);                                                                     \
        rig_join(&rig);                                                                            \
        body_##name(&rig);                                                                         \
        rig_close(&rig);                                                                           \
    }                                                                                              \
    static void body_##name(struct rig *rig)

/* Memory of the far end that the near end may write. */
struct target {
    uint8_t *memory;
    size_t size;
    struct gw_region *region;
};

static inline void target_open(struct rig *rig, size_t size, uint32_t only_channel,
                               struct target *target)
{
    target->memory = calloc(1, size);
    target->size = size;
    cr_assert_eq(gw_reg(rig->far_domain, target->memory, size, GW_ACCESS_REMOTE_WRITE, only_channel,
                        &target->region),
                 0);
}

static inline void target_close(struct target *target)
{
    gw_unreg(target->region);
    free(target->memory);
}

#endif
