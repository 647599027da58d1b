/* SPDX-License-Identifier: Apache-2.0 */
/*
 * figures: what a channel's owner counts while any thread may ask for it (gw_channel_info).
 *
 * Errors: none.
 * Threads: add by the owner alone, read by any.
 * Units: bytes, messages.
 */
#ifndef GODWIT_TRANSPORT_FIGURES_H
#define GODWIT_TRANSPORT_FIGURES_H

#include <string.h>

#include "transport/transport.h"

static inline void gw_figure_add(uint64_t *counter, uint64_t more)
{
    __atomic_store_n(counter, *counter + more, __ATOMIC_RELAXED);
}

static inline void gw_figures_read(const struct gw_channel_info *from, struct gw_channel_info *out)
{
    out->local = from->local;
    out->peer = from->peer;
    memcpy(out->description, from->description, sizeof(out->description));
    out->bytes_sent = __atomic_load_n(&from->bytes_sent, __ATOMIC_RELAXED);
    out->bytes_received = __atomic_load_n(&from->bytes_received, __ATOMIC_RELAXED);
    out->messages_sent = __atomic_load_n(&from->messages_sent, __ATOMIC_RELAXED);
    out->messages_received = __atomic_load_n(&from->messages_received, __ATOMIC_RELAXED);
}

#endif
