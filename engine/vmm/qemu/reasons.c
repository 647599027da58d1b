/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of reasons; see reasons.h. */
#include "engine/vmm/qemu/reasons.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

void gw_reasons_add(struct gw_reasons *reasons, const char *format, ...)
{
    char text[GW_ERROR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    for (unsigned i = 0; i < reasons->count; i++) {
        if (strcmp(reasons->lines[i], text) == 0)
            return;
    }
    if (reasons->count < GW_REASONS_MAX)
        reasons->lines[reasons->count] = strdup(text);
    if (reasons->count < GW_REASONS_MAX && reasons->lines[reasons->count])
        reasons->count++;
    else
        reasons->lost++;
}

void gw_reasons_free(struct gw_reasons *reasons)
{
    for (unsigned i = 0; i < reasons->count; i++)
        free(reasons->lines[i]);
    reasons->count = reasons->lost = 0;
}

int gw_reasons_fail(const struct gw_reasons *reasons, int error)
{
    char text[GW_ERROR_TEXT_MAX] = "";
    size_t used = 0;

    if (reasons->count + reasons->lost == 0)
        return 0;
    for (unsigned i = 0; i < reasons->count && used < sizeof(text) - 1; i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", i ? "; " : "",
                                 reasons->lines[i]);
    }
    return gw_fail(error, "%s", used > 0 ? text : "for reasons that there was no memory for");
}

json_t *gw_reasons_json(const struct gw_reasons *reasons)
{
    json_t *array = json_array();

    for (unsigned i = 0; array && i < reasons->count; i++)
        json_array_append_new(array, json_string(reasons->lines[i]));
    if (array && reasons->lost)
        json_array_append_new(array, json_sprintf("and %u more", reasons->lost));
    return array;
}
