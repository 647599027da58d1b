/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scarce: memory that runs out at one allocation. The linker gives it every allocation of our own
 * code (ld --wrap), common/json.c's for jansson among them; SQLite is told to allocate through it.
 *
 * A case does one thing that allocates, takes everything of it down again, and answers what the
 * thing answered. It is run with its first allocation failing, with its second, and so on until it
 * no longer comes to the one that fails.
 * Errors: scarce_try counts what is wrong: a crash or a leak (by the sanitizers, or by what the heap
 *   holds), an error without a message, another error than -ENOMEM, a result that is not whole.
 * Threads: an allocation fails in the thread that runs the case only.
 */
#ifndef GODWIT_TESTS_SCARCE_SCARCE_H
#define GODWIT_TESTS_SCARCE_SCARCE_H

#include <stdbool.h>

struct scarce_case {
    const char *name;
    /* 0, or -errno with a message; SCARCE_WRONG when it says that it worked and did not. */
    int (*run)(void);
    /* Memory that is short need not end it: SQLite and others go on without what they wanted. */
    bool may_cope;
};

#define SCARCE_WRONG 1

/* Before anything else: whom the libraries allocate from. Starts the program again without the C
 * library's caches, which count as held. */
void scarce_begin(char **argv);
/* What the case set up itself does not fail. Nests. */
void scarce_hold(void);
void scarce_release(void);
/* The number of faults, each told on stdout. */
int scarce_try(const struct scarce_case *what);

#endif
