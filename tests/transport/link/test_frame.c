/* SPDX-License-Identifier: Apache-2.0 */
/* The decoders of what a peer says first and in frames, without a peer. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/transport/link/pair.h"
#include "transport/link/frame.h"
#include "transport/link/greeting.h"
#include "transport/link/private.h"

/* Gives bytes to a reader in pieces of the given size. The last answer of gw_frame_add. */
static int give(struct gw_frame_reader *reader, const uint8_t *bytes, size_t length, size_t piece)
{
    int rc = 0;

    for (size_t at = 0; at < length && rc == 0;) {
        size_t room;
        void *into;

        rc = gw_frame_want(reader, &into, &room);
        if (rc)
            return rc;
        cr_assert(room > 0);
        if (room > piece)
            room = piece;
        if (room > length - at)
            room = length - at;
        memcpy(into, bytes + at, room);
        at += room;
        rc = gw_frame_add(reader, room);
    }
    return rc;
}

Test(frame, any_pieces_make_the_same_frame)
{
    static uint8_t bytes[GW_FRAME_HEADER_SIZE + 20000];
    struct gw_frame_reader reader = {0};

    gw_frame_header_write(GW_FRAME_BYTES, 20000, bytes);
    for (unsigned i = 0; i < 20000; i++)
        bytes[GW_FRAME_HEADER_SIZE + i] = (uint8_t)(i * 7);
    for (size_t piece = 1; piece < 30000; piece = piece * 3 + 1) {
        cr_assert_eq(give(&reader, bytes, sizeof(bytes), piece), 1);
        cr_assert_eq(gw_frame_type(&reader), GW_FRAME_BYTES);
        cr_assert_eq(reader.length, 20000);
        cr_assert_arr_eq(reader.body, bytes + GW_FRAME_HEADER_SIZE, 20000);
        gw_frame_next(&reader);
    }
    gw_frame_reader_free(&reader);
}

Test(frame, an_empty_frame_is_complete_with_its_header)
{
    struct gw_frame_reader reader = {0};
    uint8_t bytes[GW_FRAME_HEADER_SIZE];

    gw_frame_header_write(GW_FRAME_BYTES, 0, bytes);
    cr_assert_eq(give(&reader, bytes, sizeof(bytes), 100), 1);
    gw_frame_reader_free(&reader);
}

Test(frame, a_length_beyond_the_limit_is_refused)
{
    struct gw_frame_reader reader = {0};
    uint8_t bytes[GW_FRAME_HEADER_SIZE];

    gw_frame_header_write(GW_FRAME_BYTES, GW_CONTROL_FRAME_MAX + 1, bytes);
    cr_assert_eq(give(&reader, bytes, sizeof(bytes), 100), -EPROTO);
    cr_words_contain(gw_error_message(), "more than 4194304");
    gw_frame_reader_free(&reader);
}

Test(frame, an_unknown_type_is_refused)
{
    struct gw_frame_reader reader = {0};
    static const uint8_t bytes[GW_FRAME_HEADER_SIZE] = {1, 0, 0, 0, 9};

    cr_assert_eq(give(&reader, bytes, sizeof(bytes), 100), -EPROTO);
    gw_frame_reader_free(&reader);
}

/* A length alone must not make this end allocate it. */
Test(frame, memory_grows_with_what_arrives)
{
    struct gw_frame_reader reader = {0};
    uint8_t bytes[GW_FRAME_HEADER_SIZE + 10];

    memset(bytes, 0, sizeof(bytes));
    gw_frame_header_write(GW_FRAME_BYTES, GW_CONTROL_FRAME_MAX, bytes);
    cr_assert_eq(give(&reader, bytes, sizeof(bytes), 100), 0);
    cr_assert(reader.room <= 65536);
    gw_frame_reader_free(&reader);
}

static int parse(const char *text)
{
    json_t *value = NULL;
    int rc = gw_frame_parse(text, strlen(text), &value);

    json_decref(value);
    return rc;
}

Test(frame, only_bounded_objects_are_parsed)
{
    char *text = malloc(2 * GW_JSON_VALUES_MAX + 64);
    size_t at;

    cr_assert_not_null(text);
    cr_assert_eq(parse("{\"a\":[1,2,{\"b\":null}]}"), 0);
    cr_assert_eq(parse("[1]"), -EPROTO);
    cr_assert_eq(parse("1"), -EPROTO);
    cr_assert_eq(parse(""), -EPROTO);
    cr_assert_eq(parse("{}x"), -EPROTO);
    cr_assert_eq(parse("{\"a\":1,\"a\":2}"), -EPROTO);
    cr_assert_eq(parse("{\"a\":\"\\u0000\"}"), -EPROTO);
    cr_assert_eq(parse("{\"a\":\"\xff\xfe\"}"), -EPROTO);
    cr_assert_eq(parse("{\"a\":\"]]]}}}{{{{[[[[[\"}"), 0, "brackets in strings do not count");
    cr_assert_eq(parse("{\"a\":\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"}"), 0);
    /* Exactly as deep as allowed, then one deeper. */
    for (unsigned depth = GW_JSON_DEPTH_MAX; depth <= GW_JSON_DEPTH_MAX + 1; depth++) {
        at = (size_t)sprintf(text, "{\"a\":");
        for (unsigned i = 1; i < depth; i++)
            text[at++] = '[';
        for (unsigned i = 1; i < depth; i++)
            text[at++] = ']';
        strcpy(text + at, "}");
        cr_assert_eq(parse(text), depth > GW_JSON_DEPTH_MAX ? -EPROTO : 0);
    }
    at = (size_t)sprintf(text, "{\"a\":[0");
    for (unsigned i = 0; i < GW_JSON_VALUES_MAX; i++) {
        text[at++] = ',';
        text[at++] = '0';
    }
    strcpy(text + at, "]}");
    cr_assert_eq(parse(text), -EPROTO);
    cr_words_contain(gw_error_message(), "values");
    free(text);
}

/* ---- hello ---- */

static struct gw_request request_of(const struct gw_hello *hello)
{
    struct gw_request request = {.hello_length = GW_HELLO_MAX};

    gw_hello_write(hello, request.hello);
    return request;
}

Test(hello, what_is_written_is_parsed)
{
    struct gw_hello in = {.role = GW_HELLO_DATA, .channel_number = GW_CHANNEL_LAST}, out;
    struct gw_request request;

    memset(in.link_id, 1, sizeof(in.link_id));
    memset(in.nonce, 2, sizeof(in.nonce));
    memset(in.ticket, 3, sizeof(in.ticket));
    request = request_of(&in);
    cr_assert_eq(gw_hello_parse(&request, &out), 0);
    cr_assert_eq(out.role, GW_HELLO_DATA);
    cr_assert_eq(out.channel_number, GW_CHANNEL_LAST);
    cr_assert_arr_eq(out.link_id, in.link_id, GW_ID_SIZE);
    cr_assert_arr_eq(out.nonce, in.nonce, 16);
    cr_assert_arr_eq(out.ticket, in.ticket, GW_TICKET_SIZE);
}

Test(hello, nonsense_is_refused)
{
    static const struct gw_hello bad[] = {
        {.role = GW_HELLO_CONTROL, .channel_number = 1},
        {.role = GW_HELLO_DATA, .channel_number = 0},
        {.role = GW_HELLO_DATA, .channel_number = GW_CHANNEL_LAST + 1},
        {.role = (enum gw_hello_role)0},
        {.role = GW_HELLO_REJOIN, .channel_number = 1},
        {.role = GW_HELLO_ASK, .channel_number = 1},
        {.role = (enum gw_hello_role)5},
    };
    struct gw_hello good = {.role = GW_HELLO_CONTROL}, out;
    struct gw_request request;

    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        request = request_of(&bad[i]);
        cr_assert_eq(gw_hello_parse(&request, &out), -EPROTO, "case %u", i);
    }
    request = request_of(&good);
    cr_assert_eq(gw_hello_parse(&request, &out), 0);
    request.hello[2] = 1;
    cr_assert_eq(gw_hello_parse(&request, &out), -EPROTO);
    request.hello[2] = 0;
    request.hello_length = GW_HELLO_MAX - 1;
    cr_assert_eq(gw_hello_parse(&request, &out), -EPROTO);
}

/* ---- greeting ---- */

static struct gw_greeting greeting_of(uint8_t instance, uint8_t link)
{
    struct gw_greeting greeting = {0};

    memset(greeting.instance_id, instance, GW_ID_SIZE);
    memset(greeting.link_id, link, GW_ID_SIZE);
    return greeting;
}

/* The peer's greeting with one member replaced, as the other end judges it. */
static int judge(const char *key, json_t *value)
{
    struct gw_greeting mine = greeting_of(1, 7), theirs = greeting_of(2, 7), out;
    json_t *message = gw_greeting_to_json(&theirs);
    int rc;

    if (value)
        json_object_set_new(message, key, value);
    else if (key)
        json_object_del(message, key);
    rc = gw_greeting_check(&mine, message, &out);
    json_decref(message);
    return rc;
}

Test(greeting, each_member_is_checked)
{
    static const char *const keys[] = {"godwit", "protocol", "instance", "link", "nonce", "trusts"};

    cr_assert_eq(judge(NULL, NULL), 0, "%s", gw_error_message());
    for (unsigned i = 0; i < 6; i++) {
        cr_assert_eq(judge(keys[i], NULL), -EPROTO, "without %s", keys[i]);
        cr_assert_eq(judge(keys[i], json_array()), -EPROTO, "odd %s", keys[i]);
    }
    cr_assert_eq(judge("instance", json_string("zz")), -EPROTO);
    cr_assert_eq(judge("instance", json_string("ZZ010101010101010101010101010101")), -EPROTO);
    cr_assert_eq(judge("instance", json_string("01010101010101010101010101010101")), -EACCES);
    cr_words_contain(gw_error_message(), "same agent");
    cr_assert_eq(judge("link", json_string("01010101010101010101010101010101")), -EACCES);
    cr_words_contain(gw_error_message(), "another link");
    cr_assert_eq(judge("unknown", json_string("later versions may say more")), 0);
}

Test(greeting, another_protocol_is_refused_by_name)
{
    cr_assert_eq(judge("protocol", json_integer(99)), -EACCES);
    cr_words_contain(gw_error_message(), "speaks protocol 99");
    cr_words_contain(gw_error_message(), "install the same version on both");
}

Test(greeting, text_of_the_peer_cannot_command_a_terminal)
{
    struct gw_error refusal = {-EACCES, "\x1b[2J gone \x07"};
    json_t *message = gw_verdict_to_json(&refusal);

    cr_assert_eq(gw_verdict_check(message), -EACCES);
    cr_words_contain(gw_error_message(), "the peer refused: it says \"?[2J gone ?\"");
    json_decref(message);
    message = gw_verdict_to_json(NULL);
    cr_assert_eq(gw_verdict_check(message), 0);
    json_decref(message);
    message = json_object();
    cr_assert_eq(gw_verdict_check(message), -EPROTO);
    json_decref(message);
}
