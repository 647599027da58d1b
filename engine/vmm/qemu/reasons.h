/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reasons: a list of lines for a person: everything that stands against a move, each with its way
 * out.
 * Errors: none; what does not fit or finds no memory is counted and said at the end.
 * Threads: a list belongs to its caller.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_REASONS_H
#define GODWIT_ENGINE_VMM_QEMU_REASONS_H

#include <jansson.h>

#define GW_REASONS_MAX 128u

struct gw_reasons {
    unsigned count;
    unsigned lost; /* lines that did not fit */
    char *lines[GW_REASONS_MAX];
};

/* A line that is in the list already is not added again. */
void gw_reasons_add(struct gw_reasons *reasons, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void gw_reasons_free(struct gw_reasons *reasons);
/* 0 when the list is empty; else error, with as many lines as fit as the message. */
int gw_reasons_fail(const struct gw_reasons *reasons, int error);
/* An array of strings, NULL without memory. */
json_t *gw_reasons_json(const struct gw_reasons *reasons);

#endif
