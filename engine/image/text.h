/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text: what images say in UTF-16 and in GUIDs, as text for people and paths.
 *
 * Errors: 0 or -errno without a message: the caller knows what the text was to be.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_IMAGE_TEXT_H
#define GODWIT_ENGINE_IMAGE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_GUID_TEXT 37 /* 8-4-4-4-12 and the closing zero */

/* UTF-8 of UTF-16 (RFC 2781), allocated. Zeroes at the end are padding. -EILSEQ for an odd length,
 * half a pair, a zero or another control character within; -ENOMEM. */
int gw_text_from_utf16(const uint8_t *bytes, size_t length, bool is_big_endian, char **out);
/* The other way, into room for twice strlen(text) bytes; returns the length. text is UTF-8 that
 * gw_text_from_utf16 made or that a command line gave: what is not UTF-8 is -EILSEQ. */
int gw_text_to_utf16(const char *text, bool is_big_endian, uint8_t *out, size_t *length);

/* Lower case, without braces. VHDX keeps the first three fields little endian, VHD all of them big.
 */
void gw_guid_format(const uint8_t guid[16], bool is_big_endian, char out[GW_GUID_TEXT]);
/* With or without braces, in either case, as VHDX keeps it. -EINVAL. */
int gw_guid_parse(const char *text, uint8_t guid[16]);

#endif
