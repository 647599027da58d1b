/* SPDX-License-Identifier: Apache-2.0 */
/* Folders that are synced. That a sync is asked for is seen where power is lost (tests/scenario/faultfs.py). */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "common/error.h"
#include "common/folder.h"

Test(folder, the_one_that_a_path_lies_in_is_synced)
{
    /* The file itself need not be there: it may have been removed. */
    cr_assert_eq(gw_folder_sync_of("/tmp/godwit-there-is-none"), 0, "%s", gw_error_message());
    cr_assert_eq(gw_folder_sync_of("there-is-none"), 0, "%s", gw_error_message());
}

Test(folder, one_that_is_missing_is_told_with_the_path)
{
    cr_assert_eq(gw_folder_sync_of("/tmp/godwit-none/disk"), -ENOENT);
    cr_assert(strstr(gw_error_message(), "/tmp/godwit-none/disk"), "%s", gw_error_message());
}

Test(folder, a_path_that_is_too_long_is_not_cut)
{
    char path[PATH_MAX + 2];

    memset(path, '/', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    cr_assert_eq(gw_folder_sync_of(path), -ENAMETOOLONG);
}
