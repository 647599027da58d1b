/* SPDX-License-Identifier: Apache-2.0 */
/* Folders that are synced, and renames. That a sync is asked for is seen where power is lost, and what is done where
 * nothing but plain renames work, on tests/scenario/faultfs.py. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static void in_a_folder_with(const char *name)
{
    char folder[] = "/var/tmp/godwit-folder-XXXXXX";

    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(chdir(folder), 0);
    close(open(name, O_WRONLY | O_CREAT, 0600));
}

static void leave(void)
{
    char folder[PATH_MAX];

    unlink("a");
    unlink("b");
    cr_assert_not_null(getcwd(folder, sizeof(folder)));
    cr_assert_eq(rmdir(folder), 0);
}

Test(folder, a_rename_takes_no_name_that_is_taken)
{
    in_a_folder_with("a");
    close(open("b", O_WRONLY | O_CREAT, 0600));
    cr_assert_eq(gw_folder_rename(AT_FDCWD, "a", "b"), -EEXIST);
    cr_assert_eq(unlink("b"), 0);
    cr_assert_eq(gw_folder_rename(AT_FDCWD, "a", "b"), 0);
    cr_assert_neq(access("a", F_OK), 0);
    cr_assert_eq(gw_folder_rename(AT_FDCWD, "a", "b"), -ENOENT);
    leave();
}

Test(folder, a_rename_by_link_that_was_cut_short_is_ended)
{
    in_a_folder_with("a");
    cr_assert_eq(link("a", "b"), 0);
    cr_assert_eq(gw_folder_rename(AT_FDCWD, "a", "b"), 0);
    cr_assert_neq(access("a", F_OK), 0);
    cr_assert_eq(access("b", F_OK), 0);
    leave();
}
