/* SPDX-License-Identifier: Apache-2.0 */
/* Moves are refused until the handover is here. */
#include <errno.h>

#include "common/error.h"
#include "engine/session/serve.h"

int gw_serve_vm_offer(struct gw_serve *serve, const json_t *offer, json_t *reply)
{
    return gw_fail(-ENOTSUP, "this agent does not receive VMs");
}

int gw_serve_vm_message(struct gw_serve *serve, const json_t *message)
{
    return -ENOENT;
}

int gw_serve_vm_bytes(struct gw_serve *serve, const void *bytes, uint32_t length)
{
    return gw_fail(-EPROTO, "raw bytes out of turn");
}

void gw_serve_vm_end(struct gw_serve *serve, int error)
{
}

int gw_serve_vm_outcome(struct gw_serve *serve, const json_t *message)
{
    return gw_fail(-ENOTSUP, "this agent does not receive VMs");
}
