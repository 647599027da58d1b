/* SPDX-License-Identifier: Apache-2.0 */
/*
 * describe: reads what a VM is from a running QEMU: its command line, and over QMP what words
 * alone do not tell (the versioned machine type, PCI addresses, MAC addresses, nodes, RAM files,
 * bridges).
 *
 * Errors: -errno when reading itself fails. What stands against a move (an unknown option or
 *   device, RAM that is not shared, a medium in a drive) is no error: it is added to refused, by
 *   name, all of it, and the description is only fit to be moved when refused is empty.
 * Threads: one at a time. Changes nothing in QEMU.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_DESCRIBE_H
#define GODWIT_ENGINE_VMM_QEMU_DESCRIBE_H

#include "engine/vmm/qemu/line.h"
#include "engine/vmm/qemu/qmp.h"
#include "engine/vmm/qemu/vm.h"

/* The caller frees *out with gw_vm_free. */
int gw_vm_describe(struct gw_qmp *qmp, struct gw_reasons *refused, struct gw_vm **out);

/* Steps of the above, each in its own file. */
int gw_describe_memory(struct gw_qmp *qmp, struct gw_vm *vm, struct gw_reasons *refused);
int gw_describe_devices(struct gw_qmp *qmp, struct gw_vm *vm, struct gw_reasons *refused);
int gw_describe_disks(struct gw_qmp *qmp, const struct gw_line *line, struct gw_vm *vm,
                      struct gw_reasons *refused);
int gw_describe_nets(struct gw_qmp *qmp, char *const *words, unsigned count, struct gw_vm *vm,
                     struct gw_reasons *refused);

/* qom-get; *out is a new reference. */
int gw_qom_get(struct gw_qmp *qmp, const char *path, const char *property, json_t **out);
/* The QOM path of devices[index]. */
void gw_vm_device_path(const struct gw_vm *vm, unsigned index, char *path, size_t size);

#endif
