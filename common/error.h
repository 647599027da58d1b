/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors: every function that can fail returns 0 or a negative errno. The first place that knows
 * the cause writes one message with gw_fail(); callers pass the number up in silence.
 *
 * Threads: the message belongs to the calling thread. A thread that hands an error to another
 * copies the text (struct gw_error).
 */
#ifndef GODWIT_COMMON_ERROR_H
#define GODWIT_COMMON_ERROR_H

#define GW_ERROR_TEXT_MAX 512

/* An error that travels between threads: a negative errno and its message. */
struct gw_error {
    int code;
    char text[GW_ERROR_TEXT_MAX];
};

/* Stores the message and returns error (a negative errno), so that "return gw_fail(-EINVAL, ...)"
 * reads as one statement. Lower case, the exact cause, the way out where it is known. */
int gw_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* As gw_fail, with ": " and the text of errno's value behind the message. */
int gw_fail_errno(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What a user can do about a file that cannot be written: a clause that begins with "; ", or "". */
const char *gw_error_way_out(int error);

/* As gw_fail_errno, of a file of godwit's own that cannot be written; the way out comes last. */
int gw_fail_write(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The calling thread's last message; never NULL; valid until its next gw_fail(). */
const char *gw_error_message(void);

/* Copies the calling thread's message and the code into out, cut at GW_ERROR_TEXT_MAX. */
void gw_error_take(int code, struct gw_error *out);

/* Makes error the calling thread's own and returns its code. */
int gw_error_raise(const struct gw_error *error);

#endif
