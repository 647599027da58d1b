/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan: what stands against a move, found before anything is copied. Both sides look at their own
 * host; the target looks at the source's description.
 *
 * Errors: -errno when looking itself fails. What stands against the move is no error: it is added
 *   to blocked, one line each with the way out. Free space, file names and storage folders are not
 *   looked at here.
 * Order: source: gw_vm_describe → gw_plan_source, gw_plan_cpu → sent → target: gw_vm_map_bridge →
 *   gw_plan_target.
 * Threads: any; each call has its own short-lived QEMU (target) or borrows qmp (source).
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_PLAN_H
#define GODWIT_ENGINE_VMM_QEMU_PLAN_H

#include <jansson.h>

#include "engine/vmm/qemu/qmp.h"
#include "engine/vmm/qemu/reasons.h"
#include "engine/vmm/qemu/vm.h"

#define GW_PLAN_FEATURES_MAX 2000u

/* What QEMU and its disks say against a move from here. (What the description cannot hold was
 * refused by gw_vm_describe already.) Changes nothing. */
int gw_plan_source(struct gw_qmp *qmp, const struct gw_vm *vm, struct gw_reasons *blocked);
/* The CPU features that the guest has, as an array of names (query-cpu-model-expansion); JSON null
 * where this QEMU cannot tell. A new reference. */
int gw_plan_cpu(struct gw_qmp *qmp, const struct gw_vm *vm, json_t **features);

/* Can this host run it? binary NULL: qemu-system-ARCHITECTURE in PATH. features is what gw_plan_cpu
 * gave on the source (untrusted), or JSON null. */
int gw_plan_target(const struct gw_vm *vm, const char *binary, const json_t *features,
                   struct gw_reasons *blocked);

/* Does the guest give pages of that memory back to the host at any time, as it likes (free page
 * reporting, virtio-mem)? Then it must not be registered in place: it goes through slots. A balloon that
 * changes says so. */
bool gw_plan_punches_memory(const struct gw_vm *vm, const struct gw_vm_memory *memory);

#endif
