/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fence: keeps a VM that was handed over from being started again on the block devices that it had here. An image
 * in a file gets another name instead; a device cannot. What holds it is QEMU's own lock on its image: a QEMU
 * that would write to it does not start, and no other program notices.
 *
 * A fence ends with the process, or some time after the move is done, so that the device can be removed or used
 * for something else; who starts VMs by itself has to be told before that. It is put once for each move: what ended
 * does not begin again.
 *
 * Errors: 0 or -errno with a message.
 * Threads: any.
 */
#ifndef GODWIT_ENGINE_SESSION_FENCE_H
#define GODWIT_ENGINE_SESSION_FENCE_H

#include <stdbool.h>

#include "engine/migration.h"

#define GW_FENCE_AFTER_S 600u /* how long a fence stays when the move is done */

/* Does nothing where fences is NULL, or for the second time. is_in_use: the VM's own QEMU may have it, and does not
 * notice as long as it takes no more of it than it has: gw_fence_remove before it does. Else -EBUSY when somebody
 * writes to it: it is another VM's by now. */
int gw_fence_put(struct gw_fences *fences, const char *path, const char *epoch, bool is_in_use);
/* The VM stays here. */
void gw_fence_remove(struct gw_fences *fences, const char *epoch);
/* The VM is gone for good: gw_fences_tidy ends its fences so many seconds after this was said first. */
void gw_fence_expire(struct gw_fences *fences, const char *epoch, unsigned seconds);
/* Somebody whom this host trusts with it writes to the device from now on. -EBUSY when it belongs to a VM of which
 * nobody knows yet where it runs. */
int gw_fence_give_up(struct gw_fences *fences, const char *path);

#endif
