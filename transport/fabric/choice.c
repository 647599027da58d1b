/* SPDX-License-Identifier: Apache-2.0 */
/* Judges the providers of a host by their names and by what was found out about them. It asks nobody. */
#include "transport/fabric/choice.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

#define REASONS_MAX 320u /* of a message, so that its end is not cut */

static const char *const preferred[] = {"cxi", "efa", "opx", "psm2", "verbs"};

#define VERBS_RANK (GW_ARRAY_LENGTH(preferred) - 1)

/* Of those that are never taken by themselves. */
static const struct {
    const char *name, *reason;
} slow[] = {
    {"tcp", "over the kernel's sockets"},
    {"net", "over the kernel's sockets"},
    {"sockets", "over the kernel's sockets"},
    {"udp", "over the kernel's sockets"},
    {"psm3", "over the kernel's sockets or verbs"},
    {"ucx", "over the kernel's sockets or verbs"},
    {"mlx", "over the kernel's sockets or verbs"},
    {"shm", "on this host only"},
    {"sm2", "on this host only"},
};

/* One of the names that stand between ';' in a provider's. */
struct part {
    const char *at;
    size_t length;
};

/* The first one, where at is NULL; false behind the last one. */
static bool next_part(const char *name, struct part *part)
{
    part->at = part->at ? part->at + part->length : name;
    part->at += strspn(part->at, ";");
    part->length = strcspn(part->at, ";");
    return part->length > 0;
}

static bool is_named(const struct part *part, const char *name)
{
    return strlen(name) == part->length && memcmp(part->at, name, part->length) == 0;
}

/* Of libfabric itself: utilities, hooks, and what collectives are off-loaded to (fi_provider(7)). */
static bool is_layer(const struct part *part)
{
    return part->length > 4 &&
           (memcmp(part->at, "ofi_", 4) == 0 || memcmp(part->at, "off_", 4) == 0);
}

/* The place in the order; GW_ARRAY_LENGTH(preferred) for what is not in it. */
static size_t rank_of(const char *name)
{
    size_t rank = 0;

    while (rank < GW_ARRAY_LENGTH(preferred) && strcmp(preferred[rank], name) != 0)
        rank++;
    return rank;
}

/* NULL for a name that is in the order. */
static const char *judge_name(const char *name)
{
    struct part part = {0};
    bool has_layer = strpbrk(name, ";:+") != NULL;

    if (rank_of(name) < GW_ARRAY_LENGTH(preferred))
        return NULL;
    while (next_part(name, &part)) {
        for (size_t i = 0; i < GW_ARRAY_LENGTH(slow); i++)
            if (is_named(&part, slow[i].name))
                return slow[i].reason;
        has_layer |= is_layer(&part);
    }
    return has_layer ? "a layer over another one" : "not known to be fast";
}

/* NULL for one that fits. */
static const char *judge(const struct fabric_candidate *candidate, bool takes_verbs)
{
    const char *reason = judge_name(candidate->name);

    if (reason)
        return reason;
    if (!takes_verbs && rank_of(candidate->name) == VERBS_RANK)
        return "the transport verbs does the same";
    if (!candidate->writes)
        return "writes into no memory of a peer";
    return candidate->fault[0] ? candidate->fault : NULL;
}

static bool is_known(const struct fabric_candidates *candidates,
                     const struct fabric_candidate *candidate)
{
    for (unsigned i = 0; i < candidates->count; i++) {
        const struct fabric_candidate *known = &candidates->list[i];

        if (strcmp(known->name, candidate->name) == 0 && known->connects == candidate->connects &&
            known->writes == candidate->writes && strcmp(known->fault, candidate->fault) == 0)
            return true;
    }
    return false;
}

void gw_fabric_candidates_add(struct fabric_candidates *candidates,
                              const struct fabric_candidate *candidate)
{
    if (candidates->count < FABRIC_CANDIDATES_MAX && !is_known(candidates, candidate))
        candidates->list[candidates->count++] = *candidate;
}

/* ---- what is said where none fits ---- */

struct text {
    char bytes[REASONS_MAX];
    size_t length;
};

static void add(struct text *text, const char *more)
{
    size_t length = gw_min(strlen(more), sizeof(text->bytes) - 1 - text->length);

    memcpy(text->bytes + text->length, more, length);
    text->length += length;
    text->bytes[text->length] = 0;
}

/* The first reason of each name is that name's. */
static const char *reason_of(const struct fabric_candidates *candidates, unsigned index,
                             bool takes_verbs)
{
    for (unsigned i = 0; i < index; i++)
        if (strcmp(candidates->list[i].name, candidates->list[index].name) == 0)
            return NULL;
    return judge(&candidates->list[index], takes_verbs);
}

/* "tcp, sockets: over the kernel's sockets; shm: on this host only" */
static void list_reasons(const struct fabric_candidate *list, const char **reasons, unsigned count,
                         struct text *text)
{
    for (unsigned i = 0; i < count; i++) {
        const char *reason = reasons[i];

        if (!reason)
            continue;
        add(text, text->length ? "; " : "");
        for (unsigned j = i; j < count; j++) {
            if (!reasons[j] || strcmp(reasons[j], reason) != 0)
                continue;
            add(text, j > i ? ", " : "");
            add(text, list[j].name);
            reasons[j] = NULL;
        }
        add(text, ": ");
        add(text, reason);
    }
}

/* Those of the order come first: theirs are the reasons that matter, should the rest be cut. */
static int refuse(const struct fabric_candidates *candidates, bool takes_verbs)
{
    const char *of_order[FABRIC_CANDIDATES_MAX] = {NULL}, *others[FABRIC_CANDIDATES_MAX] = {NULL};
    struct text text = {.length = 0};

    for (unsigned i = 0; i < candidates->count; i++) {
        const char *reason = reason_of(candidates, i, takes_verbs);

        *(judge_name(candidates->list[i].name) ? &others[i] : &of_order[i]) = reason;
    }
    list_reasons(candidates->list, of_order, candidates->count, &text);
    list_reasons(candidates->list, others, candidates->count, &text);
    return gw_fail(-ENODEV,
                   "fabric: no provider of this host is fast and fits (%s); --provider tcp, or "
                   "another one that is named, is used all the same; for RDMA there is --transport "
                   "verbs",
                   text.length ? text.bytes : "libfabric has none");
}

int gw_fabric_choose(const struct fabric_candidates *candidates, bool takes_verbs,
                     const struct fabric_candidate **out)
{
    const struct fabric_candidate *best = NULL;

    for (unsigned i = 0; i < candidates->count; i++) {
        const struct fabric_candidate *one = &candidates->list[i];
        size_t rank = rank_of(one->name), best_rank = best ? rank_of(best->name) : 0;

        if (judge(one, takes_verbs))
            continue;
        if (!best || rank < best_rank || (rank == best_rank && one->connects && !best->connects))
            best = one;
    }
    if (!best)
        return refuse(candidates, takes_verbs);
    *out = best;
    return 0;
}
