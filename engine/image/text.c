/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-16 and GUIDs to text and back. It does not know which structure they come from. */
#include "engine/image/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where byte i of the text form lies in the little-endian form. */
static const uint8_t guid_order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};

static uint32_t unit_at(const uint8_t *bytes, bool is_big_endian)
{
    return is_big_endian ? (uint32_t)bytes[0] << 8 | bytes[1] : (uint32_t)bytes[1] << 8 | bytes[0];
}

static char *put_utf8(char *out, uint32_t point)
{
    if (point < 0x80) {
        *out++ = (char)point;
    } else if (point < 0x800) {
        *out++ = (char)(0xc0 | point >> 6);
        *out++ = (char)(0x80 | (point & 0x3f));
    } else if (point < 0x10000) {
        *out++ = (char)(0xe0 | point >> 12);
        *out++ = (char)(0x80 | (point >> 6 & 0x3f));
        *out++ = (char)(0x80 | (point & 0x3f));
    } else {
        *out++ = (char)(0xf0 | point >> 18);
        *out++ = (char)(0x80 | (point >> 12 & 0x3f));
        *out++ = (char)(0x80 | (point >> 6 & 0x3f));
        *out++ = (char)(0x80 | (point & 0x3f));
    }
    return out;
}

/* One character; how many bytes it takes, or 0 when there is none. */
static size_t take_utf16(const uint8_t *bytes, size_t length, bool is_big_endian, uint32_t *point)
{
    uint32_t low;

    *point = unit_at(bytes, is_big_endian);
    if (*point < 0x20 || *point == 0x7f || (*point >= 0xdc00 && *point < 0xe000))
        return 0;
    if (*point < 0xd800 || *point >= 0xe000)
        return 2;
    low = length >= 4 ? unit_at(bytes + 2, is_big_endian) : 0;
    if (low < 0xdc00 || low >= 0xe000)
        return 0;
    *point = 0x10000 + ((*point - 0xd800) << 10) + (low - 0xdc00);
    return 4;
}

int gw_text_from_utf16(const uint8_t *bytes, size_t length, bool is_big_endian, char **out)
{
    char *text, *end;

    if (length % 2)
        return -EILSEQ;
    while (length >= 2 && bytes[length - 1] == 0 && bytes[length - 2] == 0)
        length -= 2;
    text = malloc(length / 2 * 3 + 1);
    if (!text)
        return -ENOMEM;
    end = text;
    for (size_t at = 0; at < length;) {
        uint32_t point;
        size_t taken = take_utf16(bytes + at, length - at, is_big_endian, &point);

        if (taken == 0) {
            free(text);
            return -EILSEQ;
        }
        end = put_utf8(end, point);
        at += taken;
    }
    *end = '\0';
    *out = text;
    return 0;
}

/* One character of UTF-8; how many bytes it takes, or 0. */
static size_t take_utf8(const char *text, uint32_t *point)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char first = (unsigned char)text[0];
    size_t count = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 0;

    if (count == 0 || first >= 0xf8)
        return 0;
    *point = count == 1 ? first : first & (0xffu >> (count + 1));
    for (size_t i = 1; i < count; i++) {
        if (((unsigned char)text[i] & 0xc0) != 0x80)
            return 0;
        *point = *point << 6 | ((unsigned char)text[i] & 0x3f);
    }
    if (*point < least[count] || *point > 0x10ffff || (*point >= 0xd800 && *point < 0xe000))
        return 0;
    return count;
}

static uint8_t *put_unit(uint8_t *out, uint32_t unit, bool is_big_endian)
{
    out[is_big_endian ? 0 : 1] = (uint8_t)(unit >> 8);
    out[is_big_endian ? 1 : 0] = (uint8_t)unit;
    return out + 2;
}

int gw_text_to_utf16(const char *text, bool is_big_endian, uint8_t *out, size_t *length)
{
    uint8_t *end = out;

    while (*text) {
        uint32_t point;
        size_t taken = take_utf8(text, &point);

        if (taken == 0)
            return -EILSEQ;
        if (point >= 0x10000) {
            end = put_unit(end, 0xd800 + ((point - 0x10000) >> 10), is_big_endian);
            end = put_unit(end, 0xdc00 + ((point - 0x10000) & 0x3ff), is_big_endian);
        } else {
            end = put_unit(end, point, is_big_endian);
        }
        text += taken;
    }
    *length = (size_t)(end - out);
    return 0;
}

void gw_guid_format(const uint8_t guid[16], bool is_big_endian, char out[GW_GUID_TEXT])
{
    char *at = out;

    for (int i = 0; i < 16; i++) {
        snprintf(at, 3, "%02x", guid[is_big_endian ? i : guid_order[i]]);
        at += 2;
        if (i == 3 || i == 5 || i == 7 || i == 9)
            *at++ = '-';
    }
    *at = '\0';
}

static int digit_of(char character)
{
    if (!isxdigit((unsigned char)character))
        return -1;
    return isdigit((unsigned char)character) ? character - '0' : tolower(character) - 'a' + 10;
}

int gw_guid_parse(const char *text, uint8_t guid[16])
{
    bool has_braces = *text == '{';

    text += has_braces;
    for (int i = 0; i < 16; i++) {
        int high, low;

        if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
            return -EINVAL;
        high = digit_of(text[0]);
        low = high < 0 ? -1 : digit_of(text[1]);
        if (low < 0)
            return -EINVAL;
        guid[guid_order[i]] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    return strcmp(text, has_braces ? "}" : "") == 0 ? 0 : -EINVAL;
}
