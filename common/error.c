/* SPDX-License-Identifier: Apache-2.0 */
/* The calling thread's last error message. It formats and keeps text; it decides nothing. */
#include "common/error.h"

#include <errno.h>
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

static int fail_errno(int error, const char *way_out, const char *format, va_list args)
{
    char text[GW_ERROR_TEXT_MAX];
    char cause[96];

    vsnprintf(text, sizeof(text), format, args);
    snprintf(message, sizeof(message), "%.*s: %s%s", GW_ERROR_TEXT_MAX - 200, text,
             strerror_r(error < 0 ? -error : error, cause, sizeof(cause)), way_out);
    return error;
}

int gw_fail_errno(int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fail_errno(error, "", format, args);
    va_end(args);
    return error;
}

const char *gw_error_way_out(int error)
{
    switch (error) {
    case -ENOSPC:
    case -EDQUOT:
        return "; make room on its file system";
    case -EROFS:
        return "; mount its file system read-write";
    case -EACCES:
    case -EPERM:
        return "; let godwit write there";
    default:
        return "";
    }
}

int gw_fail_write(int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fail_errno(error, gw_error_way_out(error), format, args);
    va_end(args);
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
