/* SPDX-License-Identifier: Apache-2.0 */
/* Which core a datagram is for. Id 0 is nobody's: OPENs go there. */
#include <assert.h>
#include <errno.h>

#include "transport/dpdk/core.h"

int gw_dpdk_table_take(struct dpdk_table *table, uint32_t incarnation, uint32_t *id)
{
    assert(incarnation != 0);
    for (uint32_t i = 0; i < DPDK_TABLE_SLOTS; i++) {
        if (table->slots[i].incarnation == 0) {
            table->slots[i].incarnation = incarnation;
            *id = i + 1;
            return 0;
        }
    }
    return gw_fail(-ENOSPC, "dpdk: %u channels on one poller, and no more", DPDK_TABLE_SLOTS);
}

void gw_dpdk_table_set(struct dpdk_table *table, uint32_t id, struct dpdk_core *core)
{
    assert(id >= 1 && id <= DPDK_TABLE_SLOTS);
    table->slots[id - 1].core = core;
}

void gw_dpdk_table_drop(struct dpdk_table *table, uint32_t id)
{
    assert(id >= 1 && id <= DPDK_TABLE_SLOTS);
    table->slots[id - 1].core = NULL;
    table->slots[id - 1].incarnation = 0;
}

struct dpdk_core *gw_dpdk_table_find(const struct dpdk_table *table, const void *datagram,
                                     uint32_t length)
{
    struct dpdk_name name;

    if (gw_dpdk_name_decode(datagram, length, &name) || name.id == 0 ||
        name.id > DPDK_TABLE_SLOTS || table->slots[name.id - 1].incarnation != name.incarnation)
        return NULL;
    return table->slots[name.id - 1].core;
}
