/* SPDX-License-Identifier: Apache-2.0 */
/* A whole move of device state between two real QEMUs, RAM copied by a plain file copy. */
#ifndef GODWIT_TESTS_ENGINE_QEMU_MOVE_H
#define GODWIT_TESTS_ENGINE_QEMU_MOVE_H

#include "engine/vmm/qemu/describe.h"
#include "engine/vmm/qemu/launch.h"
#include "engine/vmm/qemu/migrate.h"
#include "tests/engine/qemu/support.h"

/* A boot sector that counts: writes "0123...9" and a newline to COM1 again and again, and keeps a
 * 32-bit counter at 0x10000 that it also prints. Written to @/boot.raw, in an image of size bytes.
 */
void guest_write(const char *dir, const char *name, uint64_t size);

/* Describes source; every reason is a failed assertion. */
struct gw_vm *describe(struct qemu *source);
/* RAM files for vm in a fresh folder dir, empty; paths is filled for gw_launch_options. */
void ram_make(const struct gw_vm *vm, const char *dir, char storage[][512], const char **paths);
/* Copies every RAM file of vm's source into the target's. The source is stopped. */
void ram_copy(const struct gw_vm *vm, const char *const *paths);
/* Moves the device state of the stopped source into launched; both ends at once. */
struct gw_state_result state_move(struct qemu *source, struct gw_launched *launched);

#endif
