/* SPDX-License-Identifier: Apache-2.0 */
/* The calling thread's last error message. It formats and keeps text; it decides nothing. */
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[GW_ERROR_TEXT_MAX];

int gw_fail(int error, const char *format, ...)
{
    char text[GW_ERROR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    memcpy(message, text, sizeof(message));
    return error;
}

int gw_fail_errno(int error, const char *format, ...)
{
    char text[GW_ERROR_TEXT_MAX];
    char cause[96];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(message, sizeof(message), "%.*s: %s", GW_ERROR_TEXT_MAX - 100, text,
             strerror_r(error < 0 ? -error : error, cause, sizeof(cause)));
    return error;
}

const char *gw_error_message(void)
{
    return message;
}

void gw_error_take(int code, struct gw_error *out)
{
    out->code = code;
    memcpy(out->text, message, sizeof(out->text));
}

int gw_error_raise(const struct gw_error *error)
{
    memcpy(message, error->text, sizeof(message));
    return error->code;
}
