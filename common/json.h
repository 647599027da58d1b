/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json: whether a document that was put together is whole. jansson answers a member that could not be
 * made with NULL, and takes NULL for a member without a word; who builds a large document asks once, at
 * its end, instead of after every member.
 *
 * jansson's allocator is set when the program starts (json_set_alloc_funcs, to malloc and free); a
 * program that sets its own later is not counted for.
 * Threads: each counts for itself.
 */
#ifndef GODWIT_COMMON_JSON_H
#define GODWIT_COMMON_JSON_H

/* How many allocations of jansson's have failed in this thread so far. */
unsigned gw_json_failures(void);
/* One more: something was left out of a document because memory of another kind was short. */
void gw_json_left_out(void);

#endif
