/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault: what is wrong in an image, gathered by somebody who wants to know all of it. Where nobody
 * gathers, the first fault ends the opening.
 *
 * Errors: none; what does not fit is counted.
 * Threads: one.
 * Units: bytes, file offsets.
 */
#ifndef GODWIT_ENGINE_IMAGE_FAULT_H
#define GODWIT_ENGINE_IMAGE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#define GW_FAULTS_MAX     64u
#define GW_FAULT_TEXT_MAX 320u

struct gw_fault {
    uint64_t offset;  /* of the structure or entry that is wrong */
    bool is_harmless; /* a spare copy: what counts is sound */
    char text[GW_FAULT_TEXT_MAX];
};

struct gw_faults {
    unsigned count; /* all; the first GW_FAULTS_MAX are in the list */
    unsigned harmless_count;
    struct gw_fault list[GW_FAULTS_MAX];
};

void gw_faults_add(struct gw_faults *faults, uint64_t offset, bool is_harmless, const char *text);

#endif
