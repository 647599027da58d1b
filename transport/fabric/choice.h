/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choice: which provider of libfabric is used where nobody named one. Only those that reach another
 * host past its kernel are for that; the first of this list which fits is the one:
 *
 *   cxi    HPE Slingshot (fi_cxi(7))
 *   efa    Elastic Fabric Adapter (fi_efa(7))
 *   opx    Omni-Path (fi_opx(7)); psm2, its older provider (fi_psm2(7))
 *   verbs  InfiniBand, RoCE, iWARP (fi_verbs(7)): last, since godwit's own transport verbs does it
 *
 * A layer over one of them ("verbs;ofi_rxm") is another name, and never taken: what it makes of delivery
 * complete is not the device's word. Everything here is pure.
 *
 * Errors: -ENODEV with each provider that was passed over, and why.
 * Threads: any.
 * Units: counts.
 */
#ifndef GODWIT_TRANSPORT_FABRIC_CHOICE_H
#define GODWIT_TRANSPORT_FABRIC_CHOICE_H

#include <stdbool.h>

#define FABRIC_PROVIDER_MAX   32u
#define FABRIC_FAULT_MAX      160u
#define FABRIC_CANDIDATES_MAX 48u

/* One provider of this host with one kind of endpoint. */
struct fabric_candidate {
    char name[FABRIC_PROVIDER_MAX]; /* as libfabric has it: "efa", "tcp;ofi_rxm" */
    bool connects;                  /* FI_EP_MSG; else FI_EP_RDM */
    bool writes;                    /* it has what godwit asks for: writes into memory, messages */
    char fault[FABRIC_FAULT_MAX];   /* why it is unfit all the same; "" where it is not */
};

struct fabric_candidates {
    struct fabric_candidate list[FABRIC_CANDIDATES_MAX];
    unsigned count;
};

/* Adds what is not in it yet; what is too much is left out. */
void gw_fabric_candidates_add(struct fabric_candidates *candidates,
                              const struct fabric_candidate *candidate);
/* takes_verbs: somebody asked for libfabric, so that verbs over it is wanted, too. *out is one of the
 * list: of two of one name the one that connects. */
int gw_fabric_choose(const struct fabric_candidates *candidates, bool takes_verbs,
                     const struct fabric_candidate **out);

/* Whether a device of this host may have one of these providers but verbs. sys_class is /sys/class. It
 * costs next to nothing, and hosts without need not load libfabric to know it. */
bool gw_fabric_has_device(const char *sys_class);

#endif
