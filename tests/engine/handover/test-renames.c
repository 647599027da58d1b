/* SPDX-License-Identifier: Apache-2.0 */
/* Images renamed out of the way and back: never over another file, and as often as wanted. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/handover/renames.h"

static char folder[64], from[96], to[128];

static void touch(const char *path)
{
    close(open(path, O_WRONLY | O_CREAT, 0600));
}

static void set_up(void)
{
    strcpy(folder, "/var/tmp/godwit-renames-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(from, sizeof(from), "%s/a.vhdx", folder);
    cr_assert_eq(gw_rename_name(from, "e1", to, sizeof(to)), 0);
    touch(from);
}

static void tear_down(void)
{
    unlink(from);
    unlink(to);
    rmdir(folder);
}

TestSuite(renames, .init = set_up, .fini = tear_down);

Test(renames, there_and_back_and_again)
{
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(gw_rename_file(from, to), 0);
        cr_assert_eq(gw_rename_file(from, to), 0, "%s", gw_error_message());
        cr_assert_neq(access(from, F_OK), 0);
        cr_assert_eq(access(to, F_OK), 0);
        cr_assert_eq(gw_rename_file(to, from), 0);
        cr_assert_eq(gw_rename_file(to, from), 0);
        cr_assert_eq(access(from, F_OK), 0);
    }
}

Test(renames, never_over_another_file)
{
    touch(to);
    cr_assert_eq(gw_rename_file(from, to), -EEXIST);
    cr_assert_eq(access(from, F_OK), 0);
}

Test(renames, finish_what_was_cut_short)
{
    cr_assert_eq(link(from, to), 0);
    cr_assert_eq(gw_rename_file(from, to), 0, "%s", gw_error_message());
    cr_assert_neq(access(from, F_OK), 0);
}

Test(renames, say_that_neither_name_is_there)
{
    unlink(from);
    cr_assert_eq(gw_rename_file(from, to), -ENOENT);
    cr_assert_not_null(strstr(gw_error_message(), from));
}

Test(renames, refuse_another_folder_and_long_names)
{
    char name[NAME_MAX + 1], out[512];

    cr_assert_eq(gw_rename_file(from, "/var/tmp/elsewhere"), -EINVAL);
    memset(name, 'x', NAME_MAX);
    name[NAME_MAX] = '\0';
    cr_assert_eq(gw_rename_name(name, "e1", out, sizeof(out)), -ENAMETOOLONG);
}
