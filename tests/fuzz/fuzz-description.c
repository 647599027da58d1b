/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoder of VM descriptions, which take a peer's word for nothing. What it accepts must write
 * as JSON, decode again, and become a command line without an unescaped comma of the peer's.
 */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/vmm/qemu/launch.h"
#include "engine/vmm/qemu/plan.h"
#include "engine/vmm/qemu/vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void build(const struct gw_vm *vm)
{
    const char *paths[GW_VM_MEMORIES_MAX];
    int taps[GW_VM_NETS_MAX] = {0};
    struct gw_launch_options options = {.run_dir = "/run", .ram_paths = paths};
    struct gw_arguments *arguments = calloc(1, sizeof(*arguments));

    for (size_t i = 0; i < GW_VM_MEMORIES_MAX; i++)
        paths[i] = "/ram";
    if (arguments && gw_vm_arguments(vm, &options, taps, arguments) == 0) {
        for (unsigned i = 0; i < arguments->count; i++) {
            /* No value of a peer's names a file of this host. */
            if (strstr(arguments->words[i], "/etc/"))
                abort();
        }
        gw_arguments_free(arguments);
    }
    free(arguments);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = json_loadb((const char *)data, size, 0, NULL), *again;
    struct gw_reasons faults = {0};
    struct gw_vm *vm, *copy;

    if (!json)
        return 0;
    if (gw_vm_from_json(json, &faults, &vm) == 0) {
        build(vm);
        if (gw_vm_to_json(vm, &again) != 0 || gw_vm_from_json(again, NULL, &copy) != 0)
            abort();
        json_decref(again);
        gw_vm_free(copy);
        gw_vm_free(vm);
    }
    gw_reasons_free(&faults);
    json_decref(json);
    return 0;
}
