/* SPDX-License-Identifier: Apache-2.0 */
/* Counts the allocations of one thread and fails one of them. What a case is, it does not know. */
#include "tests/scarce/scarce.h"

#include <errno.h>
#include <malloc.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"

#define STEPS_MAX 5000u
#define TUNABLES  "GLIBC_TUNABLES"

static _Thread_local unsigned fails_at, seen, held; /* fails_at 0: none does */

/* Is this the one? */
static bool is_short(void)
{
    if (fails_at == 0 || held > 0)
        return false;
    if (++seen != fails_at)
        return false;
    errno = ENOMEM;
    return true;
}

void scarce_hold(void)
{
    held++;
}

void scarce_release(void)
{
    held--;
}

/* ---- what ld --wrap puts in the place of the C library's ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_reallocarray(void *memory, size_t count, size_t size);
char *__real_strdup(const char *text);
int __real_posix_memalign(void **out, size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_reallocarray(void *memory, size_t count, size_t size);
char *__wrap_strdup(const char *text);
int __wrap_posix_memalign(void **out, size_t alignment, size_t size);
int __wrap_asprintf(char **out, const char *format, ...);
int __wrap_vasprintf(char **out, const char *format, va_list arguments);
int __real_vasprintf(char **out, const char *format, va_list arguments);

void *__wrap_malloc(size_t size)
{
    return is_short() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return is_short() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    return is_short() ? NULL : __real_realloc(memory, size);
}

void *__wrap_reallocarray(void *memory, size_t count, size_t size)
{
    return is_short() ? NULL : __real_reallocarray(memory, count, size);
}

char *__wrap_strdup(const char *text)
{
    return is_short() ? NULL : __real_strdup(text);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t size)
{
    return is_short() ? ENOMEM : __real_posix_memalign(out, alignment, size);
}

int __wrap_vasprintf(char **out, const char *format, va_list arguments)
{
    return is_short() ? -1 : __real_vasprintf(out, format, arguments);
}

int __wrap_asprintf(char **out, const char *format, ...)
{
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = __wrap_vasprintf(out, format, arguments);
    va_end(arguments);
    return length;
}

/* ---- SQLite asks how large a piece is ---- */

static void *sql_malloc(int size)
{
    return __wrap_malloc((size_t)size);
}

static void *sql_realloc(void *memory, int size)
{
    return __wrap_realloc(memory, (size_t)size);
}

static int sql_size(void *memory)
{
    return (int)malloc_usable_size(memory);
}

static int sql_round_up(int size)
{
    return (size + 7) & ~7;
}

static int sql_init(void *context)
{
    return SQLITE_OK;
}

static void sql_shutdown(void *context)
{
}

void scarce_begin(char **argv)
{
    static const sqlite3_mem_methods methods = {sql_malloc,   free,     sql_realloc,  sql_size,
                                                sql_round_up, sql_init, sql_shutdown, NULL};

    if (getenv(TUNABLES) == NULL) {
        setenv(TUNABLES, "glibc.malloc.tcache_count=0", 1);
        execv("/proc/self/exe", argv);
    }
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) != SQLITE_OK || sqlite3_initialize())
        abort();
    setvbuf(stdout, NULL, _IOLBF, 0);
}

/* ---- the steps ---- */

/* What the heap holds; a sanitizer's says nothing here, and finds leaks itself. */
static uint64_t in_use(void)
{
    const struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

static int complain(const struct scarce_case *what, unsigned step, const char *fault)
{
    printf("  %s, allocation %u: %s\n", what->name, step, fault);
    return 1;
}

/* One run with that allocation failing. *was_reached: there was such a one. */
static int try_step(const struct scarce_case *what, unsigned step, bool *was_reached)
{
    const uint64_t before = in_use();
    int result, faults = 0;
    uint64_t after;

    gw_fail(-EINVAL, "nothing was said");
    seen = 0;
    fails_at = step;
    result = what->run();
    fails_at = 0;
    *was_reached = seen >= step;
    after = in_use();
    if (after > before)
        faults += complain(what, step, "memory is leaked");
    if (result == SCARCE_WRONG)
        faults += complain(what, step, "it says that it worked, and did not");
    else if (!*was_reached && result != 0)
        faults += complain(what, step, gw_error_message());
    else if (*was_reached && result == 0 && !what->may_cope)
        faults += complain(what, step, "it goes on without the memory");
    else if (result != 0 && strcmp(gw_error_message(), "nothing was said") == 0)
        faults += complain(what, step, "an error without a message");
    else if (result != 0 && result != -ENOMEM)
        faults += complain(what, step, gw_error_message());
    return faults;
}

int scarce_try(const struct scarce_case *what)
{
    bool was_reached = true;
    unsigned step = 0;
    int faults = 0;

    /* What is made once for the whole process is made now. */
    if (what->run() != 0 || what->run() != 0)
        return complain(what, 0, gw_error_message());
    while (was_reached && step < STEPS_MAX && faults < 20)
        faults += try_step(what, ++step, &was_reached);
    printf("%s: %s: %u allocations\n", faults ? "FAIL" : "PASS", what->name, step - 1);
    return faults;
}
