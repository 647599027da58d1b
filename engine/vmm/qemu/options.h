/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options: one QEMU option argument ("virtio-blk-pci,drive=d0,serial=a,,b") as a list of names and
 * values, in both forms that QEMU takes: key=value with doubled commas, and JSON (nested members
 * become dotted names, booleans on and off).
 *
 * Errors: -EINVAL with a message that quotes the text; -ENOMEM.
 * Threads: a list belongs to its caller.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_OPTIONS_H
#define GODWIT_ENGINE_VMM_QEMU_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_OPTIONS_MAX 96u /* names in one argument */

struct gw_option {
    char *name, *value;
    bool is_used; /* a caller's mark: what is left unmarked was not understood */
};

struct gw_options {
    unsigned count;
    struct gw_option items[GW_OPTIONS_MAX];
};

/* implied is the name of a first value that has none ("driver"), or NULL. A name without a value is
 * "on". The caller frees with gw_options_free, on failure too. */
int gw_options_parse(const char *text, const char *implied, struct gw_options *out);
void gw_options_free(struct gw_options *options);
/* The last value of that name, NULL when there is none; marks every one of that name as used. */
const char *gw_options_take(struct gw_options *options, const char *name);
const char *gw_options_get(const struct gw_options *options, const char *name);

/* on/yes/true/y and off/no/false/n. */
int gw_option_bool(const char *text, bool *out);
/* A size with the suffix B K M G T P E; default_unit is the factor of a number without one. */
int gw_option_size(const char *text, uint64_t default_unit, uint64_t *out);
/* Decimal or 0x, all of the text. */
int gw_option_number(const char *text, uint64_t *out);

#endif
