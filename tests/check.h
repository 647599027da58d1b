/* SPDX-License-Identifier: Apache-2.0 */
/* check: what ends a test program that is a plain executable, so that ThreadSanitizer can watch it or that it can be
 * one of two processes. Status 134; the calling thread's message of common/error.h goes with it. */
#ifndef GODWIT_TESTS_CHECK_H
#define GODWIT_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "common/error.h"

#define check(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition,                    \
                    gw_error_message());                                                           \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
