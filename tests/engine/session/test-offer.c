/* SPDX-License-Identifier: Apache-2.0 */
/* Offered volumes: what is written can be read, and a bad member is refused. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "engine/session/offer.h"

static struct gw_offered_volume a_disk(void)
{
    struct gw_offered_volume volume = {
        .kind = GW_VOLUME_DISK,
        .name = "vda",
        .file_name = "web1.vhdx",
        .target = "vm/web1.vhdx",
        .size = GW_VOLUME_SIZE_MAX,
        .data_bytes = 1ull << 33,
        .format = GW_IMAGE_VHDX,
        .is_fixed = true,
        .block_size = 256u << 20,
        .logical_sector_size = 512,
        .physical_sector_size = 4096,
        .has_disk_id = true,
    };

    for (unsigned i = 0; i < 16; i++)
        volume.disk_id[i] = (uint8_t)(i * 17);
    return volume;
}

static void round_trip(const struct gw_offered_volume *volume, struct gw_offered_volume *out)
{
    json_t *object = gw_offer_volume(volume), *again;
    char *text;

    cr_assert_not_null(object);
    /* Through text, as it travels. */
    text = json_dumps(object, 0);
    again = json_loads(text, 0, NULL);
    cr_assert_not_null(again);
    cr_assert_eq(gw_offer_parse_volume(again, out), 0, "%s", gw_error_message());
    free(text);
    json_decref(again);
    json_decref(object);
}

static void expect_same(const struct gw_offered_volume *got, const struct gw_offered_volume *wanted)
{
    cr_assert_eq(got->kind, wanted->kind);
    cr_assert_str_eq(got->name, wanted->name);
    cr_assert_str_eq(got->file_name, wanted->file_name);
    cr_assert_str_eq(got->target, wanted->target);
    cr_assert_eq(got->size, wanted->size);
    cr_assert_eq(got->data_bytes, wanted->data_bytes);
    cr_assert_eq(got->format, wanted->format);
    cr_assert_eq(got->is_fixed, wanted->is_fixed);
    cr_assert_eq(got->block_size, wanted->block_size);
    cr_assert_eq(got->logical_sector_size, wanted->logical_sector_size);
    cr_assert_eq(got->physical_sector_size, wanted->physical_sector_size);
    cr_assert_eq(got->has_disk_id, wanted->has_disk_id);
    cr_assert_arr_eq(got->disk_id, wanted->disk_id, 16);
}

Test(offer, disk_round_trips)
{
    struct gw_offered_volume volume = a_disk(), got;

    round_trip(&volume, &got);
    expect_same(&got, &volume);
}

Test(offer, disk_without_an_id_round_trips)
{
    struct gw_offered_volume volume = a_disk(), got;

    volume.has_disk_id = false;
    memset(volume.disk_id, 0, sizeof(volume.disk_id));
    volume.format = GW_IMAGE_RAW;
    volume.is_fixed = false;
    round_trip(&volume, &got);
    expect_same(&got, &volume);
}

Test(offer, ram_round_trips)
{
    struct gw_offered_volume volume = {.kind = GW_VOLUME_RAM, .name = "pc.ram", .size = 3ull << 30},
                             got;

    round_trip(&volume, &got);
    expect_same(&got, &volume);
}

Test(offer, names_with_quotes_and_letters_of_any_script_round_trip)
{
    struct gw_offered_volume volume = a_disk(), got;

    strcpy(volume.file_name, "a \"b\" \\ \n \xc3\xa4\xe6\x97\xa5.vhdx");
    round_trip(&volume, &got);
    cr_assert_str_eq(got.file_name, volume.file_name);
}

Test(offer, longest_texts_round_trip)
{
    struct gw_offered_volume volume = a_disk(), got;

    memset(volume.name, 'n', sizeof(volume.name) - 1);
    memset(volume.file_name, 'f', sizeof(volume.file_name) - 1);
    memset(volume.target, 't', sizeof(volume.target) - 1);
    round_trip(&volume, &got);
    expect_same(&got, &volume);
}

struct bad {
    char member[24];
    char value[80]; /* JSON; "" takes the member away */
};

ParameterizedTestParameters(offer, bad_member_is_refused)
{
    static struct bad list[] = {
        {"kind", ""},
        {"kind", "\"tape\""},
        {"kind", "7"},
        {"name", ""},
        {"name", "null"},
        {"name", "[\"vda\"]"},
        {"file", ""},
        {"file", "1"},
        {"target", ""},
        {"target", "{}"},
        {"size", ""},
        {"size", "0"},
        {"size", "-1"},
        {"size", "1.5"},
        {"size", "\"512\""},
        {"size", "70368744177665"}, /* 64 TiB and a byte */
        {"size", "9223372036854775807"},
        {"data", ""},
        {"data", "-1"},
        {"data", "70368744177665"},
        {"format", ""},
        {"format", "\"\""},
        {"format", "\"probe\""},
        {"format", "\"qcow2\""},
        {"format", "\"VHDX\""},
        {"format", "1"},
        {"fixed", "1"},
        {"fixed", "\"true\""},
        {"block_size", ""},
        {"block_size", "-1"},
        {"block_size", "268435457"},
        {"block_size", "4294967296"},
        {"logical_sector", ""},
        {"logical_sector", "4097"},
        {"logical_sector", "-512"},
        {"physical_sector", ""},
        {"physical_sector", "4097"},
        {"disk_id", ""},
        {"disk_id", "0"},
        {"disk_id", "\"00\""},
        {"disk_id", "\"0123456789abcdef0123456789abcdeg\""},
        {"disk_id", "\"0123456789abcdef0123456789abcdef00\""},
    };

    return cr_make_param_array(struct bad, list, sizeof(list) / sizeof(*list));
}

ParameterizedTest(struct bad *bad, offer, bad_member_is_refused)
{
    struct gw_offered_volume volume = a_disk(), out;
    json_t *object = gw_offer_volume(&volume);

    /* The negative control: without the change it is taken. */
    cr_assert_eq(gw_offer_parse_volume(object, &out), 0, "%s", gw_error_message());
    if (bad->value[0])
        json_object_set_new(object, bad->member, json_loads(bad->value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(object, bad->member);
    cr_assert_eq(gw_offer_parse_volume(object, &out), -EPROTO, "%s: %s: %s", bad->member,
                 bad->value, gw_error_message());
    json_decref(object);
}

static void expect_too_long(const char *member, size_t length)
{
    struct gw_offered_volume volume = a_disk(), out;
    json_t *object = gw_offer_volume(&volume);
    char text[5000];

    memset(text, 'x', length);
    text[length] = '\0';
    json_object_set_new(object, member, json_string(text));
    cr_assert_eq(gw_offer_parse_volume(object, &out), -EPROTO);
    cr_assert_not_null(strstr(gw_error_message(), member), "%s", gw_error_message());
    json_decref(object);
}

Test(offer, name_that_does_not_fit_is_refused)
{
    expect_too_long("name", GW_VOLUME_NAME_MAX);
}

Test(offer, file_name_that_does_not_fit_is_refused)
{
    expect_too_long("file", 256);
}

Test(offer, target_that_does_not_fit_is_refused)
{
    expect_too_long("target", 4096);
}

Test(offer, what_is_no_object_is_refused)
{
    static const char *const texts[] = {"[]", "1", "null", "\"disk\"", "true"};
    struct gw_offered_volume out;

    for (unsigned i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        json_t *value = json_loads(texts[i], JSON_DECODE_ANY, NULL);

        cr_assert_eq(gw_offer_parse_volume(value, &out), -EPROTO, "%s", texts[i]);
        json_decref(value);
    }
}
