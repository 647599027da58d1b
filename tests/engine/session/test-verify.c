/* SPDX-License-Identifier: Apache-2.0 */
/* Whole-volume digests: the same for the same content, another for any other. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/error.h"
#include "engine/session/endpoint.h"
#include "engine/session/verify.h"
#include "tests/engine/volume/place.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define SIZE (2 * MIB)

TestSuite(verify, .timeout = 60);

static uint8_t *new_memory(uint64_t size)
{
    uint8_t *memory = NULL;

    cr_assert_eq(posix_memalign((void **)&memory, 4096, size), 0);
    memset(memory, 0, size);
    return memory;
}

/* Two granules of data in a volume of zeroes. */
static uint8_t *some_memory(void)
{
    uint8_t *memory = new_memory(SIZE);

    for (uint64_t i = 0; i < 2 * GW_VERIFY_GRANULE; i++)
        memory[MIB + i] = place_byte(1, i);
    return memory;
}

static void expect_memory(const uint8_t *memory, uint64_t size, const uint8_t *other,
                          uint64_t other_size, bool is_same)
{
    uint8_t first[GW_VERIFY_SIZE], second[GW_VERIFY_SIZE];

    cr_assert_eq(gw_verify_memory(memory, size, first), 0);
    cr_assert_eq(gw_verify_memory(other, other_size, second), 0);
    cr_assert_eq(memcmp(first, second, GW_VERIFY_SIZE) == 0, is_same);
}

/* The definition in verify.h, written down in one go. */
Test(verify, digest_is_the_documented_one)
{
    uint8_t *memory = some_memory(), items[2 * 24 + 8] = {0}, got[GW_VERIFY_SIZE];
    XXH128_canonical_t wanted;

    for (unsigned i = 0; i < 2; i++) {
        items[(size_t)i * 24] = (uint8_t)(16 + i); /* 1 MiB / 64 KiB */
        XXH128_canonicalFromHash(
            &wanted, XXH3_128bits(memory + MIB + i * GW_VERIFY_GRANULE, GW_VERIFY_GRANULE));
        memcpy(items + (size_t)i * 24 + 8, &wanted, 16);
    }
    items[2 * 24 + 2] = SIZE >> 16;
    XXH128_canonicalFromHash(&wanted, XXH3_128bits(items, sizeof(items)));
    cr_assert_eq(gw_verify_memory(memory, SIZE, got), 0);
    cr_assert_arr_eq(got, &wanted, GW_VERIFY_SIZE);
    free(memory);
}

Test(verify, flipped_bit_is_another_digest)
{
    uint8_t *memory = some_memory(), *other = some_memory();

    expect_memory(memory, SIZE, other, SIZE, true);
    other[MIB + 12345] ^= 0x10;
    expect_memory(memory, SIZE, other, SIZE, false);
    free(memory);
    free(other);
}

Test(verify, bit_in_a_granule_of_zeroes_is_another_digest)
{
    uint8_t *memory = some_memory(), *other = some_memory();

    other[SIZE - 1] = 1;
    expect_memory(memory, SIZE, other, SIZE, false);
    free(memory);
    free(other);
}

Test(verify, moved_granule_is_another_digest)
{
    uint8_t *memory = new_memory(SIZE), *other = new_memory(SIZE);

    memset(memory + 2 * GW_VERIFY_GRANULE, 7, GW_VERIFY_GRANULE);
    memset(other + 3 * GW_VERIFY_GRANULE, 7, GW_VERIFY_GRANULE);
    expect_memory(memory, SIZE, other, SIZE, false);
    free(memory);
    free(other);
}

Test(verify, exchanged_granules_are_another_digest)
{
    uint8_t *memory = some_memory(), *other = some_memory();

    memcpy(other + MIB, memory + MIB + GW_VERIFY_GRANULE, GW_VERIFY_GRANULE);
    memcpy(other + MIB + GW_VERIFY_GRANULE, memory + MIB, GW_VERIFY_GRANULE);
    expect_memory(memory, SIZE, other, SIZE, false);
    free(memory);
    free(other);
}

Test(verify, another_size_is_another_digest)
{
    uint8_t *memory = some_memory();

    expect_memory(memory, SIZE, memory, SIZE - GW_VERIFY_GRANULE, false);
    expect_memory(memory, SIZE, memory, SIZE - 1, false);
    free(memory);
}

Test(verify, empty_volumes_of_two_sizes_differ)
{
    uint8_t *memory = new_memory(SIZE);

    expect_memory(memory, MIB, memory, SIZE, false);
    free(memory);
}

static void digest_of(const struct place *place, const char *name, enum gw_image_format format,
                      uint8_t *out)
{
    cr_assert_eq(
        gw_endpoint_digest(place_path(place, name), gw_image_format_name(format), UINT64_MAX, out),
        0, "%s: %s", name, gw_error_message());
}

static void expect_images(bool in_memory, bool is_same, unsigned seed)
{
    uint8_t raw[GW_VERIFY_SIZE], vhdx[GW_VERIFY_SIZE];
    struct place place;

    if (in_memory)
        place_in_memory(&place);
    else
        place_on_disk(&place);
    place_fill(place_path(&place, "raw"), 65 * KIB, 700 * KIB, 1);
    place_truncate(place_path(&place, "raw"), 40 * MIB);
    place_fill(place_path(&place, "raw"), 39 * MIB, 512, 1);
    cr_assert_eq(place_run("qemu-img convert -f raw -O vhdx '%s' '%s'", place_path(&place, "raw"),
                           place_path(&place, "vhdx")),
                 0);
    place_fill(place_path(&place, "raw"), 39 * MIB, 512, seed);
    digest_of(&place, "raw", GW_IMAGE_RAW, raw);
    digest_of(&place, "vhdx", GW_IMAGE_VHDX, vhdx);
    cr_assert_eq(memcmp(raw, vhdx, GW_VERIFY_SIZE) == 0, is_same);
    place_end(&place);
}

Test(verify, raw_and_vhdx_of_one_content_agree)
{
    expect_images(false, true, 1);
}

Test(verify, raw_and_vhdx_of_one_content_agree_in_memory)
{
    expect_images(true, true, 1);
}

Test(verify, raw_and_vhdx_of_two_contents_differ)
{
    expect_images(false, false, 2);
}

Test(verify, raw_and_vhdx_of_two_contents_differ_in_memory)
{
    expect_images(true, false, 2);
}

/* Written zeroes, a hole, and half a granule of each. */
Test(verify, holes_and_written_zeroes_agree)
{
    uint8_t hole[GW_VERIFY_SIZE], zero[GW_VERIFY_SIZE];
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "hole"), MIB, 4 * KIB, 1);
    place_truncate(place_path(&place, "hole"), SIZE);
    cr_assert_eq(place_run("cp --sparse=never '%s' '%s'", place_path(&place, "hole"),
                           place_path(&place, "zero")),
                 0);
    cr_assert_lt(place_allocated(place_path(&place, "hole")),
                 place_allocated(place_path(&place, "zero")));
    digest_of(&place, "hole", GW_IMAGE_RAW, hole);
    digest_of(&place, "zero", GW_IMAGE_RAW, zero);
    cr_assert_arr_eq(hole, zero, GW_VERIFY_SIZE);
    place_end(&place);
}

Test(verify, image_and_memory_of_one_content_agree)
{
    uint8_t *memory = new_memory(SIZE), image[GW_VERIFY_SIZE], own[GW_VERIFY_SIZE];
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "raw"), 100 * KIB, 300 * KIB, 1);
    place_truncate(place_path(&place, "raw"), SIZE);
    for (uint64_t i = 100 * KIB; i < 400 * KIB; i++)
        memory[i] = place_byte(1, i);
    digest_of(&place, "raw", GW_IMAGE_RAW, image);
    cr_assert_eq(gw_verify_memory(memory, SIZE, own), 0);
    cr_assert_arr_eq(image, own, GW_VERIFY_SIZE);
    free(memory);
    place_end(&place);
}

Test(verify, image_with_an_odd_tail_agrees_with_memory)
{
    static const uint64_t size = MIB + 64 * KIB + 1234;
    uint8_t *memory = new_memory(SIZE), image[GW_VERIFY_SIZE], own[GW_VERIFY_SIZE];
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "raw"), 0, size, 1);
    for (uint64_t i = 0; i < size; i++)
        memory[i] = place_byte(1, i);
    cr_assert_eq(gw_verify_memory(memory, size, own), 0);
    digest_of(&place, "raw", GW_IMAGE_RAW, image);
    cr_assert_arr_eq(image, own, GW_VERIFY_SIZE);
    free(memory);
    place_end(&place);
}

Test(verify, missing_image_is_an_error)
{
    uint8_t digest[GW_VERIFY_SIZE];

    cr_assert_eq(gw_endpoint_digest("/nowhere/disk.raw", "raw", 4096, digest), -ENOENT);
}
