/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fit: what godwit asks of a provider, and which of those that libfabric answers will do.
 *
 * Errors: -ENOMEM with a message.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_FABRIC_FIT_H
#define GODWIT_TRANSPORT_FABRIC_FIT_H

#include <rdma/fabric.h>
#include <stdbool.h>

#include "transport/fabric/choice.h"

struct fabric_library;

/* What godwit asks of a provider (NULL: of any) with endpoints of one kind. The caller frees it. */
int gw_fabric_hints(const struct fabric_library *library, const char *provider, bool is_rdm,
                    struct fi_info **out);
/* Why it is unfit although it has what was asked for; NULL for one that fits. */
const char *gw_fabric_find_fault(const struct fi_info *info, char text[FABRIC_FAULT_MAX]);
/* Whether it is of this provider. libfabric may answer layers over one that was asked for, too. */
bool gw_fabric_is_of(const struct fi_info *info, const char *provider);
/* The first of list that is of this provider (NULL: of any) and fits; NULL, with the fault of the first one that
 * does not, where there is none. */
const struct fi_info *gw_fabric_pick(const struct fi_info *list, const char *provider,
                                     char fault[FABRIC_FAULT_MAX]);

#endif
