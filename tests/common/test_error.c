/* SPDX-License-Identifier: Apache-2.0 */
/* The last error's message: per thread, cut and never overrun, carried between threads. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "common/error.h"

TestSuite(error, .timeout = 30);

Test(error, keeps_the_message)
{
    cr_assert_eq(gw_fail(-EINVAL, "length %d is wrong", 7), -EINVAL);
    cr_assert_str_eq(gw_error_message(), "length 7 is wrong");
}

Test(error, names_the_cause)
{
    cr_assert_eq(gw_fail_errno(-ENOENT, "open %s", "x"), -ENOENT);
    cr_assert_str_eq(gw_error_message(), "open x: No such file or directory");
    cr_assert_eq(gw_fail_errno(ENOENT, "open %s", "y"), ENOENT);
    cr_assert_str_eq(gw_error_message(), "open y: No such file or directory");
}

Test(error, may_quote_the_message_before)
{
    gw_fail(-EIO, "first");
    gw_fail(-EIO, "second, after %s", gw_error_message());
    cr_assert_str_eq(gw_error_message(), "second, after first");
}

Test(error, cuts_long_messages)
{
    char text[2 * GW_ERROR_TEXT_MAX];

    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    gw_fail(-EIO, "%s", text);
    cr_assert_eq(strlen(gw_error_message()), GW_ERROR_TEXT_MAX - 1);
    gw_fail_errno(-EIO, "%s", text);
    cr_assert_lt(strlen(gw_error_message()), GW_ERROR_TEXT_MAX);
    cr_assert_not_null(strstr(gw_error_message(), ": Input/output error"));
}

Test(error, a_file_that_cannot_be_written_has_a_way_out)
{
    cr_assert_eq(gw_fail_write(-ENOSPC, "state %s", "/x"), -ENOSPC);
    cr_assert_str_eq(gw_error_message(),
                     "state /x: No space left on device; make room on its file system");
    gw_fail_write(-EROFS, "state /x");
    cr_assert_str_eq(gw_error_message(),
                     "state /x: Read-only file system; mount its file system read-write");
    gw_fail_write(-EIO, "state /x");
    cr_assert_str_eq(gw_error_message(), "state /x: Input/output error", "nobody knows a way out");
}

static void *fail_elsewhere(void *out)
{
    cr_assert_str_eq(gw_error_message(), "");
    gw_error_take(gw_fail(-ENOSPC, "the other thread's disk is full"), out);
    return NULL;
}

Test(error, travels_between_threads)
{
    struct gw_error error;
    pthread_t thread;

    gw_fail(-EIO, "mine");
    cr_assert_eq(pthread_create(&thread, NULL, fail_elsewhere, &error), 0);
    pthread_join(thread, NULL);
    cr_assert_str_eq(gw_error_message(), "mine");
    cr_assert_eq(gw_error_raise(&error), -ENOSPC);
    cr_assert_str_eq(gw_error_message(), "the other thread's disk is full");
}
