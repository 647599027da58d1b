/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error: what went wrong in the calling thread's last call into libgodwit that returned an error.
 * Threads: each has its own message. Compiles alone.
 */
#ifndef GODWIT_ERROR_H
#define GODWIT_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

/* Never NULL; one line, lower case; valid until the thread's next call that fails. */
const char *gw_error_message(void);

#ifdef __cplusplus
}
#endif

#endif
