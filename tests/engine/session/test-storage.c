/* SPDX-License-Identifier: Apache-2.0 */
/* Paths from a peer: what they become, and what is refused. */
#include <criterion/criterion.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/session/storage.h"
#include "tests/engine/volume/place.h"

/* first/, first/sub/, second/, outside/, first/file; the first two are storage. */
static struct place place;
static struct gw_environment environment;
static char first[PATH_MAX], second[PATH_MAX], out[PATH_MAX], path[PATH_MAX + 64];

static void make_folder(const char *name)
{
    cr_assert_eq(mkdir(place_path(&place, name), 0700), 0);
}

static void set_up(void)
{
    place_on_disk(&place);
    make_folder("first");
    make_folder("first/sub");
    make_folder("second");
    make_folder("outside");
    make_folder("first-and-more");
    place_fill(place_path(&place, "first/file"), 0, 512, 1);
    snprintf(first, sizeof(first), "%s", place_path(&place, "first"));
    snprintf(second, sizeof(second), "%s", place_path(&place, "second"));
    environment = (struct gw_environment){.storage = {first, second}, .storage_count = 2};
}

static void tear_down(void)
{
    place_end(&place);
}

TestSuite(storage, .init = set_up, .fini = tear_down, .timeout = 60);

static int resolve(const char *wanted)
{
    return gw_storage_resolve(&environment, wanted, "disk.raw", out);
}

/* wanted is beneath the place when it begins with "@". */
static int resolve_in_place(const char *name)
{
    snprintf(path, sizeof(path), "%s", place_path(&place, name));
    return resolve(path);
}

static void expect(const char *wanted, const char *name)
{
    cr_assert_eq(resolve(wanted), 0, "%s: %s", wanted, gw_error_message());
    cr_assert_str_eq(out, place_path(&place, name));
}

static void expect_in_place(const char *wanted, const char *name)
{
    cr_assert_eq(resolve_in_place(wanted), 0, "%s: %s", wanted, gw_error_message());
    cr_assert_str_eq(out, place_path(&place, name));
}

Test(storage, nothing_wanted_is_the_default_name_in_the_first_folder)
{
    expect("", "first/disk.raw");
}

Test(storage, relative_name_is_beneath_the_first_folder)
{
    expect("other.raw", "first/other.raw");
    expect("sub/other.raw", "first/sub/other.raw");
}

Test(storage, folder_keeps_the_default_name)
{
    expect("sub", "first/sub/disk.raw");
    expect(".", "first/disk.raw");
}

Test(storage, trailing_slash_keeps_the_default_name)
{
    expect("sub/", "first/sub/disk.raw");
    expect("sub///", "first/sub/disk.raw");
}

Test(storage, absolute_path_in_any_folder_is_taken)
{
    expect_in_place("second/other.raw", "second/other.raw");
    expect_in_place("second", "second/disk.raw");
}

Test(storage, dots_that_stay_within_are_resolved)
{
    expect("sub/../other.raw", "first/other.raw");
    expect("./sub/./other.raw", "first/sub/other.raw");
    expect("../second/other.raw", "second/other.raw");
}

Test(storage, folder_given_with_a_trailing_slash_is_the_same)
{
    strcat(first, "/");
    expect("other.raw", "first/other.raw");
}

Test(storage, link_that_stays_within_is_followed)
{
    cr_assert_eq(symlink(second, place_path(&place, "first/link")), 0);
    expect("link/other.raw", "second/other.raw");
}

Test(storage, existing_file_is_resolved_like_a_new_one)
{
    expect("file", "first/file");
}

Test(storage, absolute_path_outside_is_refused)
{
    cr_assert_eq(resolve("/etc/passwd"), -EACCES);
    cr_assert_not_null(strstr(gw_error_message(), "first"), "it names the folders");
    cr_assert_eq(resolve_in_place("outside/disk.raw"), -EACCES);
}

Test(storage, dots_that_lead_out_are_refused)
{
    cr_assert_eq(resolve("../outside/disk.raw"), -EACCES);
    cr_assert_eq(resolve(".."), -EACCES);
    cr_assert_eq(resolve("sub/../../outside/disk.raw"), -EACCES);
    cr_assert_eq(resolve("../../../../../../../../etc/passwd"), -EACCES);
}

Test(storage, folder_whose_name_begins_alike_is_refused)
{
    cr_assert_eq(resolve_in_place("first-and-more/disk.raw"), -EACCES);
}

Test(storage, parent_of_a_folder_is_refused)
{
    cr_assert_eq(resolve(place.folder), -EACCES);
}

Test(storage, link_to_a_folder_outside_is_refused)
{
    cr_assert_eq(symlink(place_path(&place, "outside"), place_path(&place, "first/link")), 0);
    cr_assert_eq(resolve("link/disk.raw"), -EACCES);
    cr_assert_eq(resolve("link"), -EACCES);
    cr_assert_eq(resolve("link/"), -EACCES);
}

Test(storage, link_of_links_to_a_folder_outside_is_refused)
{
    cr_assert_eq(symlink("../../outside", place_path(&place, "first/sub/second")), 0);
    cr_assert_eq(symlink("sub/second", place_path(&place, "first/link")), 0);
    cr_assert_eq(resolve("link/disk.raw"), -EACCES);
}

Test(storage, missing_folder_is_enoent)
{
    cr_assert_eq(resolve("missing/disk.raw"), -ENOENT);
    cr_assert_eq(resolve("missing/"), -ENOENT);
}

Test(storage, file_in_the_place_of_a_folder_is_refused)
{
    cr_assert_eq(resolve("file/.."), -EINVAL);
    cr_assert_eq(resolve("file/."), -EINVAL);
}

Test(storage, missing_name_of_dots_is_refused)
{
    cr_assert_neq(resolve("missing/.."), 0);
    cr_assert_neq(resolve("missing/."), 0);
}

Test(storage, default_name_that_is_none_is_refused)
{
    static const char *const names[] = {"", ".", "..", "a/b", "/etc/passwd", "../x"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
        cr_assert_eq(gw_storage_resolve(&environment, "", names[i], out), -EINVAL, "'%s'",
                     names[i]);
}

Test(storage, default_name_of_a_link_of_the_peer_is_not_asked_for)
{
    expect("other.raw", "first/other.raw");
    cr_assert_eq(gw_storage_resolve(&environment, "other.raw", "../x", out), 0,
                 "a name was given: the default does not matter");
}

Test(storage, longest_name_is_taken)
{
    char name[NAME_MAX + 1], wanted[NAME_MAX + 8];

    memset(name, 'n', NAME_MAX);
    name[NAME_MAX] = '\0';
    snprintf(wanted, sizeof(wanted), "first/%s", name);
    expect(name, wanted);
}

/* Cut to fit, it would be another name than the one that was asked for. */
Test(storage, name_longer_than_a_name_may_be_is_refused)
{
    char name[NAME_MAX + 2];

    memset(name, 'n', NAME_MAX + 1);
    name[NAME_MAX + 1] = '\0';
    cr_assert_eq(resolve(name), -ENAMETOOLONG);
}

Test(storage, path_longer_than_a_path_may_be_is_refused)
{
    static char wanted[3 * PATH_MAX];

    for (unsigned i = 0; i < PATH_MAX; i++)
        strcpy(wanted + 2 * (size_t)i, "./");
    strcat(wanted, "x");
    cr_assert_eq(resolve(wanted), -ENAMETOOLONG);
}

Test(storage, relative_path_at_the_limit_with_a_long_default_name_does_not_overflow)
{
    char wanted[PATH_MAX + 1], name[NAME_MAX + 1];

    memset(name, 'n', NAME_MAX);
    name[NAME_MAX] = '\0';
    for (unsigned length = PATH_MAX - 400; length < PATH_MAX; length++) {
        for (unsigned i = 0; i < length; i++)
            wanted[i] = i % 2 ? '/' : '.';
        wanted[length] = '\0';
        if (gw_storage_resolve(&environment, wanted, name, out) == 0)
            cr_assert_eq(strlen(out), strlen(first) + 1 + NAME_MAX);
    }
}

Test(storage, host_without_storage_takes_nothing)
{
    environment.storage_count = 0;
    cr_assert_eq(resolve("disk.raw"), -EACCES);
    cr_assert_not_null(strstr(gw_error_message(), "--storage"));
}

Test(storage, folder_that_is_gone_admits_nothing)
{
    cr_assert_eq(rmdir(second), 0);
    cr_assert_eq(resolve_in_place("second/disk.raw"), -ENOENT);
    expect("disk.raw", "first/disk.raw");
}

Test(storage, root_as_a_folder_admits_every_path)
{
    strcpy(second, "/");
    expect_in_place("outside/disk.raw", "outside/disk.raw");
}
