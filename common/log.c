/* SPDX-License-Identifier: Apache-2.0 */
/* Writes each log line with one write(2), so that lines of several threads never mix. */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static enum gw_log_level limit = GW_LOG_WARNING;

void gw_log_set_level(enum gw_log_level level)
{
    limit = level;
}

void gw_log(enum gw_log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    char line[1024];
    va_list args;
    int length, rest;

    if (level > limit)
        return;
    length = snprintf(line, sizeof(line), "godwit: %s: ", names[level]);
    va_start(args, format);
    rest = vsnprintf(line + length, sizeof(line) - (size_t)length - 1, format, args);
    va_end(args);
    if (rest < 0)
        return;
    length += rest;
    if (length > (int)sizeof(line) - 2)
        length = (int)sizeof(line) - 2;
    line[length++] = '\n';
    /* A log line that cannot be written has nowhere to be reported. */
    if (write(STDERR_FILENO, line, (size_t)length) < 0)
        return;
}
