/* SPDX-License-Identifier: Apache-2.0 */
/* Members of messages, ids, and the table of moves in hand. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "engine/session/attended.h"
#include "engine/session/message.h"

static json_t *parse(const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

    cr_assert_not_null(value, "%s", text);
    return value;
}

static void expect_number(const char *text, uint64_t max, int wanted, uint64_t value)
{
    json_t *message = parse(text);
    uint64_t got = 77;

    cr_assert_eq(gw_message_number(message, "n", max, &got), wanted, "%s", text);
    cr_assert_eq(got, wanted ? 77 : value, "%s", text);
    json_decref(message);
}

Test(message, number_within_bounds_is_taken)
{
    expect_number("{\"n\":0}", 0, 0, 0);
    expect_number("{\"n\":10}", 10, 0, 10);
    expect_number("{\"n\":9223372036854775807}", UINT64_MAX, 0, INT64_MAX);
}

Test(message, number_past_its_bound_is_refused)
{
    expect_number("{\"n\":11}", 10, -EPROTO, 0);
}

Test(message, negative_number_is_refused)
{
    expect_number("{\"n\":-1}", UINT64_MAX, -EPROTO, 0);
}

Test(message, real_number_is_refused)
{
    expect_number("{\"n\":1.0}", 10, -EPROTO, 0);
}

Test(message, number_in_a_text_is_refused)
{
    expect_number("{\"n\":\"1\"}", 10, -EPROTO, 0);
}

Test(message, true_is_no_number)
{
    expect_number("{\"n\":true}", 10, -EPROTO, 0);
}

Test(message, missing_number_is_refused_by_its_name)
{
    expect_number("{}", 10, -EPROTO, 0);
    cr_assert_not_null(strstr(gw_error_message(), "'n'"), "%s", gw_error_message());
}

static void expect_text(const char *json, int wanted)
{
    json_t *message = parse(json);
    const char *text = NULL;

    cr_assert_eq(gw_message_text(message, "t", &text), wanted, "%s", json);
    if (wanted == 0)
        cr_assert_str_eq(text, "x");
    json_decref(message);
}

Test(message, text_is_lent)
{
    expect_text("{\"t\":\"x\"}", 0);
}

Test(message, missing_null_or_other_text_is_refused)
{
    expect_text("{}", -EPROTO);
    expect_text("{\"t\":null}", -EPROTO);
    expect_text("{\"t\":1}", -EPROTO);
    expect_text("{\"t\":[\"x\"]}", -EPROTO);
}

Test(message, optional_text_may_be_missing_or_null_and_nothing_else)
{
    json_t *message = parse("{\"null\":null,\"text\":\"x\",\"one\":1}");
    const char *text = "before";

    cr_assert_eq(gw_message_optional_text(message, "missing", &text), 0);
    cr_assert_null(text);
    cr_assert_eq(gw_message_optional_text(message, "null", &text), 0);
    cr_assert_null(text);
    cr_assert_eq(gw_message_optional_text(message, "text", &text), 0);
    cr_assert_str_eq(text, "x");
    cr_assert_eq(gw_message_optional_text(message, "one", &text), -EPROTO);
    json_decref(message);
}

Test(message, missing_bool_is_false_and_a_number_is_refused)
{
    json_t *message = parse("{\"yes\":true,\"no\":false,\"one\":1}");
    bool is = true;

    cr_assert_eq(gw_message_bool(message, "missing", &is), 0);
    cr_assert_not(is);
    cr_assert_eq(gw_message_bool(message, "yes", &is), 0);
    cr_assert(is);
    cr_assert_eq(gw_message_bool(message, "no", &is), 0);
    cr_assert_not(is);
    cr_assert_eq(gw_message_bool(message, "one", &is), -EPROTO);
    json_decref(message);
}

Test(message, list_is_taken_up_to_its_bound)
{
    json_t *message = parse("{\"l\":[1,2,3],\"o\":{}}"), *list;

    cr_assert_eq(gw_message_array(message, "l", 3, &list), 0);
    cr_assert_eq(json_array_size(list), 3);
    cr_assert_eq(gw_message_array(message, "l", 2, &list), -EPROTO);
    cr_assert_eq(gw_message_array(message, "o", 3, &list), -EPROTO);
    cr_assert_eq(gw_message_array(message, "missing", 3, &list), -EPROTO);
    json_decref(message);
}

Test(message, type_of_anything_is_a_text)
{
    static const char *const texts[] = {"{}", "[]", "1", "null", "{\"type\":1}", "\"type\""};

    for (unsigned i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        json_t *message = parse(texts[i]);

        cr_assert_str_eq(gw_message_type(message), "", "%s", texts[i]);
        cr_assert_not(gw_message_is(message, "offer"));
        json_decref(message);
    }
}

Test(message, type_is_compared_whole)
{
    json_t *message = parse("{\"type\":\"offer\"}");

    cr_assert(gw_message_is(message, "offer"));
    cr_assert_not(gw_message_is(message, "off"));
    cr_assert_not(gw_message_is(message, "offered"));
    json_decref(message);
}

static void expect_raised(const char *json, int wanted, const char *words)
{
    json_t *message = parse(json);

    cr_assert_eq(gw_message_raise(message), wanted, "%s", json);
    cr_assert_str_eq(gw_error_message(), words);
    json_decref(message);
}

Test(message, error_of_the_peer_keeps_its_words)
{
    expect_raised("{\"type\":\"error\",\"code\":5,\"message\":\"the disk is on fire\"}", -EREMOTEIO,
                  "the other host: the disk is on fire");
}

Test(message, error_that_callers_act_upon_keeps_its_code)
{
    expect_raised("{\"code\":28,\"message\":\"full\"}", -ENOSPC, "the other host: full");
    expect_raised("{\"code\":17,\"message\":\"there\"}", -EEXIST, "the other host: there");
}

/* It would be taken for a change of this side's own image. */
Test(message, stale_file_of_the_peer_is_not_this_sides)
{
    expect_raised("{\"code\":116,\"message\":\"stale\"}", -EREMOTEIO, "the other host: stale");
}

/* A peer may not make this side believe that anything succeeded. */
Test(message, error_without_a_code_or_words_is_an_error_all_the_same)
{
    expect_raised("{}", -EREMOTEIO, "the other host: failed without a word");
    expect_raised("{\"code\":0}", -EREMOTEIO, "the other host: failed without a word");
    expect_raised("{\"code\":-28}", -EREMOTEIO, "the other host: failed without a word");
    expect_raised("{\"code\":4294967324}", -EREMOTEIO, "the other host: failed without a word");
    expect_raised("{\"code\":\"28\",\"message\":7}", -EREMOTEIO,
                  "the other host: failed without a word");
}

Test(message, error_words_with_format_signs_are_words)
{
    expect_raised("{\"message\":\"100%s %n\"}", -EREMOTEIO, "the other host: 100%s %n");
}

Test(id, round_trips)
{
    static const uint8_t id[16] = {0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff, 0xab, 0xcd,
                                   0xef, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde};
    uint8_t back[16];
    char text[33];

    gw_id_format(id, text);
    cr_assert_str_eq(text, "00017f80feffabcdef123456789abcde");
    cr_assert_eq(gw_id_parse(text, back), 0);
    cr_assert_arr_eq(back, id, 16);
}

Test(id, refuses_what_is_not_32_small_hex_digits)
{
    static const char *const texts[] = {
        "",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0",
        "0123456789abcdef0123456789abcdeg",
        "0123456789ABCDEF0123456789abcdef",
        " 123456789abcdef0123456789abcdef",
        "+123456789abcdef0123456789abcde/",
        "0123456789abcdef0123456789abcd:0",
    };
    uint8_t id[16];

    for (unsigned i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        cr_assert_eq(gw_id_parse(texts[i], id), -EPROTO, "'%s'", texts[i]);
}

Test(id, random_ids_differ)
{
    uint8_t first[16], second[16];

    cr_assert_eq(gw_id_random(first), 0);
    cr_assert_eq(gw_id_random(second), 0);
    cr_assert_arr_neq(first, second, 16);
}

Test(attended, move_in_hand_is_refused_to_others)
{
    struct gw_attended *attended;

    cr_assert_eq(gw_attended_new(&attended), 0);
    cr_assert_eq(gw_attend(attended, "aa", GW_SIDE_SOURCE), 0);
    cr_assert_eq(gw_attend(attended, "aa", GW_SIDE_SOURCE), -EBUSY);
    gw_attended_free(attended);
}

Test(attended, sides_and_epochs_are_apart)
{
    struct gw_attended *attended;

    cr_assert_eq(gw_attended_new(&attended), 0);
    cr_assert_eq(gw_attend(attended, "aa", GW_SIDE_SOURCE), 0);
    cr_assert_eq(gw_attend(attended, "aa", GW_SIDE_TARGET), 0);
    cr_assert_eq(gw_attend(attended, "ab", GW_SIDE_SOURCE), 0);
    gw_attended_free(attended);
}

Test(attended, released_move_can_be_taken_again_and_others_stay)
{
    struct gw_attended *attended;

    cr_assert_eq(gw_attended_new(&attended), 0);
    cr_assert_eq(gw_attend(attended, "aa", GW_SIDE_SOURCE), 0);
    cr_assert_eq(gw_attend(attended, "bb", GW_SIDE_SOURCE), 0);
    cr_assert_eq(gw_attend(attended, "cc", GW_SIDE_SOURCE), 0);
    gw_unattend(attended, "aa", GW_SIDE_SOURCE);
    gw_unattend(attended, "zz", GW_SIDE_SOURCE);
    cr_assert_eq(gw_attend(attended, "bb", GW_SIDE_SOURCE), -EBUSY);
    cr_assert_eq(gw_attend(attended, "cc", GW_SIDE_SOURCE), -EBUSY);
    cr_assert_eq(gw_attend(attended, "aa", GW_SIDE_SOURCE), 0);
    gw_attended_free(attended);
}

#define MANY 300u

static const char *epoch_of(unsigned index, char out[16])
{
    snprintf(out, 16, "%u", index);
    return out;
}

Test(attended, any_number_of_moves_is_in_hand_at_once)
{
    struct gw_attended *attended;
    char epoch[16];

    cr_assert_eq(gw_attended_new(&attended), 0);
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(gw_attend(attended, epoch_of(i, epoch), GW_SIDE_TARGET), 0);
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(gw_attend(attended, epoch_of(i, epoch), GW_SIDE_TARGET), -EBUSY);
    for (unsigned i = 0; i < MANY; i++) {
        gw_unattend(attended, epoch_of(i, epoch), GW_SIDE_TARGET);
        cr_assert_not(gw_attended_has(attended, epoch, GW_SIDE_TARGET));
    }
    gw_attended_free(attended);
}

Test(attended, free_takes_null)
{
    gw_attended_free(NULL);
}

/* How many of the moves are due in one round of recovery. */
static unsigned due_in_round(struct gw_attended *attended, unsigned moves)
{
    unsigned due = 0;
    char epoch[16];

    gw_attended_begin_round(attended);
    for (unsigned i = 0; i < moves; i++)
        due += gw_attended_is_due(attended, epoch_of(i, epoch), GW_SIDE_SOURCE);
    return due;
}

Test(attended, recovery_is_in_less_of_a_hurry_later)
{
    struct gw_attended *attended;
    unsigned due = 0;

    cr_assert_eq(gw_attended_new(&attended), 0);
    for (unsigned round = 0; round < GW_PATIENCE_CALLS; round++)
        cr_assert_eq(due_in_round(attended, 1), 1, "round %u", round);
    for (unsigned round = 0; round < 3 * GW_PATIENCE_CALLS; round++)
        due += due_in_round(attended, 1);
    cr_assert_eq(due, 3, "%u", due);
    cr_assert(gw_attended_is_due(attended, "0", GW_SIDE_TARGET), "the other side's is another one");
    cr_assert(gw_attended_is_due(attended, "1", GW_SIDE_SOURCE));
    gw_attended_free(attended);
}

Test(attended, recovery_is_in_no_hurry_with_any_of_very_many)
{
    struct gw_attended *attended;
    unsigned due = 0;

    cr_assert_eq(gw_attended_new(&attended), 0);
    for (unsigned round = 0; round < GW_PATIENCE_CALLS; round++)
        cr_assert_eq(due_in_round(attended, MANY), MANY, "round %u", round);
    for (unsigned round = 0; round < 2 * GW_PATIENCE_CALLS; round++)
        due += due_in_round(attended, MANY);
    cr_assert_eq(due, 2 * MANY, "%u", due);
    gw_attended_free(attended);
}

/* The hand that has it meanwhile, recovery's own too, changes nothing; that nobody asks for a round does. */
Test(attended, hurry_comes_back_with_a_move_that_was_settled)
{
    struct gw_attended *attended;

    cr_assert_eq(gw_attended_new(&attended), 0);
    for (unsigned round = 0; round <= GW_PATIENCE_CALLS; round++) {
        cr_assert_eq(due_in_round(attended, 1), 1, "round %u", round);
        cr_assert_eq(gw_attend(attended, "0", GW_SIDE_SOURCE), 0);
        gw_unattend(attended, "0", GW_SIDE_SOURCE);
    }
    cr_assert_eq(due_in_round(attended, 1), 0);
    cr_assert_eq(due_in_round(attended, 0), 0);
    cr_assert_eq(due_in_round(attended, 1), 1);
    cr_assert_eq(due_in_round(attended, 1), 1);
    gw_attended_free(attended);
}
