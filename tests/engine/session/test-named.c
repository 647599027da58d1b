/* SPDX-License-Identifier: Apache-2.0 */
/* Which move a person's word means. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stddef.h>

#include "engine/session/named.h"

#define EPOCH "3f9a33445566778899aabbccddeeff00"

Test(named, move_is_known_by_its_digits_or_its_vm)
{
    static const struct {
        const char *vm, *word;
        bool is_meant;
    } cases[] = {
        {"web1", EPOCH, true},
        {"web1", "3f9a33445566", true},
        {"web1", "3f9a", true},
        {"web1", "3f9", false}, /* too little to tell it from a VM's name */
        {"3f9", "3f9", true},
        {"web1", "9a33", false},
        {"web1", EPOCH "0", false},
        {"web1", "web1", true},
        {"web1", "web", false},
        {"web1", "web12", false},
        {"web1", "", false},
        {"", "", false},
        {NULL, "", false},
        {NULL, "3f9a", true},
        {NULL, "web1", false},
        {"/srv/disk.raw", "/srv/disk.raw", true},
        {"/srv/disk.raw", "disk.raw", false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(gw_named_is(EPOCH, cases[i].vm, cases[i].word), cases[i].is_meant,
                     "case %zu: %s", i, cases[i].word);
}

Test(named, empty_word_is_refused)
{
    cr_assert_eq(gw_named_check(""), -EINVAL);
    cr_assert_eq(gw_named_check(NULL), -EINVAL);
    cr_assert_eq(gw_named_check("web1"), 0);
}
