/* SPDX-License-Identifier: Apache-2.0 */
/* A file stands for the device: QEMU's locks are the same on both. What a real QEMU says to them is in
 * tests/scenario/devices.py. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/image/file.h"
#include "engine/session/fence.h"

#define EPOCH "00112233445566778899aabbccddeeff"
#define OTHER "ffeeddccbbaa99887766554433221100"

static char path[] = "/tmp/godwit-fence-XXXXXX";
static struct gw_fences *fences;

static void begin(void)
{
    int fd = mkstemp(path);

    cr_assert_geq(fd, 0);
    close(fd);
    cr_assert_eq(gw_fences_new(&fences), 0);
}

static void end(void)
{
    gw_fences_free(fences);
    unlink(path);
}

TestSuite(fence, .init = begin, .fini = end, .timeout = 30);

/* As a QEMU that begins: 0, or -EBUSY. */
static int use(bool is_writer)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int error;

    cr_assert_geq(fd, 0);
    error = gw_image_lock(fd, path, is_writer);
    close(fd);
    return error;
}

Test(fence, keeps_writers_off_and_no_readers)
{
    cr_assert_eq(use(true), 0);
    cr_assert_eq(gw_fence_put(fences, path, EPOCH, true), 0);
    cr_assert_eq(use(true), -EBUSY);
    cr_assert_eq(use(false), 0);
    gw_fence_remove(fences, EPOCH);
    cr_assert_eq(use(true), 0);
}

/* The QEMU that is handed over has its locks, and keeps them. */
Test(fence, is_put_beside_a_writer)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    cr_assert_geq(fd, 0);
    cr_assert_eq(gw_image_lock(fd, path, true), 0);
    cr_assert_eq(gw_fence_put(fences, path, EPOCH, true), 0);
    cr_assert_eq(use(true), -EBUSY);
    close(fd);
    cr_assert_eq(use(true), -EBUSY, "it ended with the writer");
}

/* A step may be made again; and the moves of two VMs have nothing to do with each other. */
Test(fence, belongs_to_a_move)
{
    cr_assert_eq(gw_fence_put(fences, path, EPOCH, true), 0);
    cr_assert_eq(gw_fence_put(fences, path, EPOCH, true), 0);
    gw_fence_remove(fences, OTHER);
    cr_assert_eq(use(true), -EBUSY);
    gw_fence_remove(fences, EPOCH);
    cr_assert_eq(use(true), 0);
}

Test(fence, ends_some_time_after_the_move)
{
    cr_assert_eq(gw_fence_put(fences, path, EPOCH, true), 0);
    gw_fences_tidy(fences);
    cr_assert_eq(use(true), -EBUSY, "nothing was decided");
    gw_fence_expire(fences, OTHER, 0);
    gw_fences_tidy(fences);
    cr_assert_eq(use(true), -EBUSY, "another move has ended");
    gw_fence_expire(fences, EPOCH, 3600);
    gw_fence_expire(fences, EPOCH, 0);
    gw_fences_tidy(fences);
    cr_assert_eq(use(true), -EBUSY, "its time is not over");
}

/* A recovery says again and again that the VM is gone, as long as the target does not know that this is known. By
 * then the device may be another's. */
Test(fence, does_not_begin_again)
{
    cr_assert_eq(gw_fence_put(fences, path, EPOCH, true), 0);
    gw_fence_expire(fences, EPOCH, 0);
    gw_fences_tidy(fences);
    cr_assert_eq(use(true), 0);
    cr_assert_eq(gw_fence_put(fences, path, EPOCH, false), 0);
    cr_assert_eq(use(true), 0, "it came back");
}

/* As an agent that was started again has it. */
Test(fence, leaves_a_device_that_another_vm_has)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    cr_assert_geq(fd, 0);
    cr_assert_eq(gw_image_lock(fd, path, true), 0);
    cr_assert_eq(gw_fence_put(fences, path, EPOCH, false), -EBUSY);
    close(fd);
    cr_assert_eq(use(true), 0);
}

Test(fence, device_that_is_gone_is_an_error)
{
    cr_assert_eq(gw_fence_put(fences, "/tmp/godwit-no-such-device", EPOCH, true), -ENOENT);
}

/* A copy in a command of its own has none. */
Test(fence, nobody_has_to_have_any)
{
    cr_assert_eq(gw_fence_put(NULL, path, EPOCH, true), 0);
    gw_fence_remove(NULL, EPOCH);
    gw_fence_expire(NULL, EPOCH, 0);
    cr_assert_eq(gw_fence_give_up(NULL, path), 0);
    gw_fences_tidy(NULL);
    gw_fences_free(NULL);
}
