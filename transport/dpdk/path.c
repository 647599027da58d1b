/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long datagrams may be: packetization layer path MTU discovery (RFC 8899). What both ends
 * agreed on is probed first, with a padded datagram that carries nothing; if that is lost, the usual
 * lengths from below. A path that swallows long datagrams later on shows by short ones that arrive
 * while long ones time out: then back to the length that every path carries, and up again later.
 */
#include "transport/dpdk/private.h"

#define TRIES       3u /* RFC 8899, MAX_PROBES */
#define WAIT_MIN_NS GW_NS_PER_S
#define WAIT_MAX_NS (60 * GW_NS_PER_S)
#define SILENT_PTOS 2u

/* What usual MTUs leave behind IPv6 and UDP, or IPv4 and UDP: 1400, 1500 (both), 4000, 9000 (both). */
static const uint32_t steps[] = {1352, 1452, 1472, 3952, 8952, 8972};

static void set_length(struct dpdk_core *core, uint32_t length)
{
    core->path.length = length;
    gw_dpdk_cc_set_unit(&core->cc, length);
}

static void begin(struct dpdk_path_search *path, uint32_t length, uint64_t now_ns)
{
    path->probing = length;
    path->tries = 0;
    path->next_ns = now_ns;
}

static void rest(struct dpdk_path_search *path, uint64_t now_ns)
{
    path->probing = 0;
    path->is_climbing = false;
    path->next_ns = path->length < path->max ? now_ns + path->wait_ns : DPDK_NONE;
    path->wait_ns = gw_min(path->wait_ns * 2, WAIT_MAX_NS);
}

/* The next step above what is known, below what was refused. */
static void climb(struct dpdk_path_search *path, uint64_t now_ns)
{
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(steps); i++) {
        if (steps[i] > path->length && steps[i] < path->max) {
            begin(path, steps[i], now_ns);
            return;
        }
    }
    rest(path, now_ns);
}

void gw_dpdk_path_open(struct dpdk_core *core, uint32_t max, uint64_t now_ns)
{
    struct dpdk_path_search *path = &core->path;

    path->max = max;
    path->wait_ns = WAIT_MIN_NS;
    path->next_ns = DPDK_NONE;
    set_length(core, DPDK_DATAGRAM_MIN);
    if (max > DPDK_DATAGRAM_MIN)
        begin(path, max, now_ns);
}

uint32_t gw_dpdk_path_due(const struct dpdk_core *core, uint64_t now_ns)
{
    const struct dpdk_path_search *path = &core->path;

    if (path->number || now_ns < path->next_ns)
        return 0;
    return path->probing ? path->probing : path->max;
}

void gw_dpdk_path_probed(struct dpdk_core *core, uint64_t now_ns, uint64_t number)
{
    struct dpdk_path_search *path = &core->path;

    if (path->probing == 0)
        begin(path, path->max, now_ns);
    path->number = number;
    path->sent_ns = now_ns;
}

static void probe_failed(struct dpdk_path_search *path, uint64_t now_ns)
{
    path->number = 0;
    path->next_ns = now_ns;
    if (++path->tries < TRIES)
        return;
    if (path->is_climbing) {
        rest(path, now_ns);
        return;
    }
    path->is_climbing = true;
    climb(path, now_ns);
}

void gw_dpdk_path_tick(struct dpdk_core *core, uint64_t now_ns)
{
    struct dpdk_path_search *path = &core->path;

    if (path->number && now_ns - path->sent_ns > gw_dpdk_sender_pto_ns(core))
        probe_failed(path, now_ns);
}

void gw_dpdk_path_acknowledged(struct dpdk_core *core, uint64_t now_ns,
                               const struct dpdk_sent *sent)
{
    struct dpdk_path_search *path = &core->path;

    if (sent->length > DPDK_DATAGRAM_MIN)
        path->silent_ptos = 0;
    if (path->probing == 0 || sent->length < path->probing)
        return;
    path->number = 0;
    set_length(core, path->probing);
    if (path->is_climbing)
        climb(path, now_ns);
    else
        rest(path, now_ns);
}

void gw_dpdk_path_lost(struct dpdk_core *core, uint64_t now_ns, const struct dpdk_sent *sent)
{
    if (core->path.number == sent->number)
        probe_failed(&core->path, now_ns);
}

void gw_dpdk_path_only_short(struct dpdk_core *core, uint64_t now_ns)
{
    struct dpdk_path_search *path = &core->path;

    if (path->length == DPDK_DATAGRAM_MIN || path->silent_ptos < SILENT_PTOS)
        return;
    path->number = 0;
    path->silent_ptos = 0;
    set_length(core, DPDK_DATAGRAM_MIN);
    rest(path, now_ns);
}
