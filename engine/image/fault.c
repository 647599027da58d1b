/* SPDX-License-Identifier: Apache-2.0 */
/* A list with an end. */
#include "engine/image/fault.h"

#include <stdio.h>

void gw_faults_add(struct gw_faults *faults, uint64_t offset, bool is_harmless, const char *text)
{
    struct gw_fault *fault = &faults->list[faults->count];

    if (faults->count < GW_FAULTS_MAX) {
        *fault = (struct gw_fault){.offset = offset, .is_harmless = is_harmless};
        snprintf(fault->text, sizeof(fault->text), "%s", text);
    }
    faults->count++;
    faults->harmless_count += is_harmless;
}
