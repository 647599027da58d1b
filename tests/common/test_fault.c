/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a file that is cut under its readers: an error of the call, and of nobody else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/error.h"
#include "common/fault.h"

#define SIZE 65536u

/* A mapping of a file that has no bytes any more. */
static char *gone(void)
{
    char path[] = "/dev/shm/godwit-fault-XXXXXX", *memory;
    int fd = mkstemp(path);

    cr_assert_geq(fd, 0);
    unlink(path);
    cr_assert_eq(ftruncate(fd, SIZE), 0);
    memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert_neq(memory, MAP_FAILED);
    memset(memory, 1, SIZE);
    cr_assert_eq(ftruncate(fd, 0), 0);
    close(fd);
    return memory;
}

static int touch(void *context)
{
    return *(volatile char *)context;
}

static int touch_inside(void *context)
{
    int inner = gw_fault_run("inner", touch, context);

    cr_assert_eq(inner, -EFAULT);
    return touch(context);
}

Test(fault, lost_memory_is_an_error_every_time)
{
    char *memory = gone();

    for (int i = 0; i < 3; i++) {
        cr_assert_eq(gw_fault_run("disk", touch, memory), -EFAULT);
        cr_assert_not_null(strstr(gw_error_message(), "disk: "));
    }
    munmap(memory, SIZE);
}

Test(fault, whole_memory_is_read)
{
    char here = 7;

    cr_assert_eq(gw_fault_run("disk", touch, &here), 7);
}

Test(fault, calls_nest)
{
    char *memory = gone();

    cr_assert_eq(gw_fault_run("outer", touch_inside, memory), -EFAULT);
    cr_assert_not_null(strstr(gw_error_message(), "outer: "));
    munmap(memory, SIZE);
}

static void *run_blocked(void *memory)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    cr_assert_eq(gw_fault_run("disk", touch, memory), -EFAULT);
    return NULL;
}

Test(fault, a_thread_that_blocks_signals_is_guarded_too)
{
    char *memory = gone();
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, run_blocked, memory), 0);
    pthread_join(thread, NULL);
    munmap(memory, SIZE);
}

Test(fault, outside_of_a_call_it_is_fatal_as_before, .signal = SIGBUS)
{
    char here = 1;

    /* Sanitizers would catch the signal and print; the plain handler is what is asked about. */
    signal(SIGBUS, SIG_DFL);
    gw_fault_run("disk", touch, &here);
    touch(gone());
}
