/* SPDX-License-Identifier: Apache-2.0 */
/* Copies on one host: what arrives, compared by qemu-img and cmp, and what a failure leaves. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/session/local.h"
#include "engine/volume/disk.h"
#include "tests/engine/volume/place.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define SIZE (24 * MIB)

TestSuite(local, .timeout = 90);

struct rig {
    struct place place;
    char from[128], to[128];
    struct gw_copy_request request;
    struct gw_progress progress;
    struct gw_outcome outcome;
};

/* FOLDER/in.FORMAT: data, zeroes that are written, holes. */
static void begin(struct rig *rig, const char *format)
{
    place_on_disk(&rig->place);
    snprintf(rig->from, sizeof(rig->from), "%s/in.%s", rig->place.folder, format);
    snprintf(rig->to, sizeof(rig->to), "%s/out", rig->place.folder);
    place_fill(place_path(&rig->place, "plain"), 1 * MIB + 4 * KIB, 3 * MIB, 1);
    place_truncate(place_path(&rig->place, "plain"), SIZE);
    place_fill(place_path(&rig->place, "plain"), SIZE - 64 * KIB, 64 * KIB, 2);
    cr_assert_eq(place_run("dd if=/dev/zero of='%s/plain' bs=64k seek=200 count=20 conv=notrunc "
                           "2>/dev/null",
                           rig->place.folder),
                 0);
    cr_assert_eq(place_run("qemu-img convert -f raw -O %s '%s/plain' '%s'", format,
                           rig->place.folder, rig->from),
                 0);
    cr_assert_eq(gw_progress_init(&rig->progress), 0);
    rig->request =
        (struct gw_copy_request){.source_path = rig->from, .target_path = rig->to, .verify = true};
}

static int run(struct rig *rig)
{
    static const struct gw_environment environment;
    int error;

    gw_outcome_free(&rig->outcome);
    error = gw_copy_run(&environment, &rig->request, &rig->progress, &rig->outcome);
    return error;
}

static void end(struct rig *rig)
{
    gw_outcome_free(&rig->outcome);
    gw_progress_free(&rig->progress);
    place_end(&rig->place);
}

static int compare(const struct rig *rig, const char *name, const char *format)
{
    return place_run("qemu-img compare -q -f raw -F %s '%s/plain' '%s/%s'", format,
                     rig->place.folder, rig->place.folder, name);
}

static void expect_copy(const char *from, const char *to, bool is_fixed)
{
    struct rig rig = {0};

    begin(&rig, from);
    rig.request.target_format = to;
    rig.request.is_fixed = is_fixed;
    cr_assert_eq(run(&rig), 0, "%s", gw_error_message());
    cr_assert_eq(rig.outcome.exit_code, GW_EXIT_DONE);
    cr_assert_eq(compare(&rig, "out", to), 0);
    cr_assert_eq(place_count(&rig.place), 3, "something is left beside it");
    if (!is_fixed)
        cr_assert_lt(place_allocated(rig.to), SIZE / 2, "thin stays thin");
    /* The negative control. */
    place_fill(place_path(&rig.place, "plain"), 9 * MIB, 512, 3);
    cr_assert_eq(compare(&rig, "out", to), 1);
    end(&rig);
}

Test(local, raw_to_raw)
{
    expect_copy("raw", "raw", false);
}

Test(local, raw_to_vhdx)
{
    expect_copy("raw", "vhdx", false);
}

Test(local, vhdx_to_raw)
{
    expect_copy("vhdx", "raw", false);
}

Test(local, vhdx_to_vhdx)
{
    expect_copy("vhdx", "vhdx", false);
}

Test(local, raw_to_fixed_vhdx)
{
    expect_copy("raw", "vhdx", true);
}

Test(local, vhdx_made_here_is_whole_for_qemu_img_check)
{
    struct rig rig = {0};

    begin(&rig, "raw");
    rig.request.target_format = "vhdx";
    cr_assert_eq(run(&rig), 0, "%s", gw_error_message());
    cr_assert_eq(place_run("qemu-img check -q -f vhdx '%s'", rig.to), 0);
    end(&rig);
}

Test(local, raw_with_an_odd_tail_is_copied_to_the_byte)
{
    struct rig rig = {0};

    begin(&rig, "raw");
    place_truncate(rig.from, SIZE + 777);
    place_fill(rig.from, SIZE, 777, 4);
    rig.request.source_format = "raw";
    cr_assert_eq(run(&rig), 0, "%s", gw_error_message());
    cr_assert(place_same(rig.from, rig.to));
    end(&rig);
}

Test(local, folder_as_a_target_keeps_the_name)
{
    struct rig rig = {0};

    begin(&rig, "raw");
    cr_assert_eq(place_run("mkdir '%s'", rig.to), 0);
    cr_assert_eq(run(&rig), 0, "%s", gw_error_message());
    cr_assert(place_same(rig.from, place_path(&rig.place, "out/in.raw")));
    end(&rig);
}

Test(local, existing_target_is_refused_and_left)
{
    struct rig rig = {0};

    begin(&rig, "raw");
    place_fill(rig.to, 0, 512, 9);
    cr_assert_eq(run(&rig), -EEXIST);
    cr_assert_eq(rig.outcome.exit_code, GW_EXIT_FAILED);
    cr_assert_eq(place_run("test $(stat -c %%s '%s') = 512", rig.to), 0);
    cr_assert_eq(place_count(&rig.place), 3);
    end(&rig);
}

Test(local, missing_source_leaves_nothing)
{
    struct rig rig = {0};

    begin(&rig, "raw");
    rig.request.source_path = "/nowhere/disk.raw";
    cr_assert_eq(run(&rig), -ENOENT);
    cr_assert_eq(place_count(&rig.place), 2);
    end(&rig);
}

Test(local, cancelled_copy_leaves_nothing)
{
    struct rig rig = {0};

    begin(&rig, "raw");
    cr_assert_eq(gw_progress_cancel(&rig.progress), 0);
    cr_assert_eq(run(&rig), -ECANCELED, "%s", gw_error_message());
    cr_assert_eq(place_count(&rig.place), 2);
    end(&rig);
}

Test(local, target_that_is_full_leaves_nothing)
{
    struct rig rig = {0};
    struct place small;

    place_small(&small, 1 * MIB);
    begin(&rig, "raw");
    rig.request.target_path = place_path(&small, "out");
    cr_assert_eq(run(&rig), -ENOSPC, "%s", gw_error_message());
    cr_assert_eq(place_count(&small), 0);
    end(&rig);
    place_end(&small);
}

Test(local, vhdx_target_that_is_full_leaves_nothing)
{
    struct rig rig = {0};
    struct place small;

    place_small(&small, 3 * MIB);
    begin(&rig, "raw");
    rig.request.target_format = "vhdx";
    rig.request.target_path = place_path(&small, "out");
    cr_assert_eq(run(&rig), -ENOSPC, "%s", gw_error_message());
    cr_assert_eq(place_count(&small), 0);
    end(&rig);
    place_end(&small);
}

/* ---- a source that does something in the middle ---- */

struct decorated {
    struct gw_source_volume volume;
    struct gw_source_volume *inner;
    void (*at_read)(struct decorated *decorated, uint64_t offset, struct gw_location *out);
    const char *path;
    _Atomic unsigned reads;
    uint8_t *bytes; /* aligned, of a chunk */
    struct gw_progress *progress;
};

static struct decorated *of(struct gw_source_volume *volume)
{
    return gw_container_of(volume, struct decorated, volume);
}

static int next_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                       struct gw_extent *out)
{
    return of(volume)->inner->ops->next_extent(of(volume)->inner, offset, end, out);
}

static int locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    struct decorated *decorated = of(volume);
    int error = decorated->inner->ops->locate(decorated->inner, offset, length, out);

    if (!error && out->kind == GW_EXTENT_DATA)
        decorated->at_read(decorated, offset, out);
    return error;
}

static int read_bytes(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length)
{
    return of(volume)->inner->ops->read(of(volume)->inner, offset, into, length);
}

static void copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                   uint64_t length)
{
}

static int collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    return of(volume)->inner->ops->collect(of(volume)->inner, dirty);
}

static int unchanged(struct gw_source_volume *volume)
{
    return of(volume)->inner->ops->unchanged(of(volume)->inner);
}

static void close_volume(struct gw_source_volume *volume)
{
    of(volume)->inner->ops->close(of(volume)->inner);
}

static const struct gw_source_ops decorated_ops = {
    .next_extent = next_extent,
    .locate = locate,
    .read = read_bytes,
    .copied = copied,
    .collect = collect,
    .unchanged = unchanged,
    .close = close_volume,
};

static int run_decorated(struct rig *rig, struct decorated *decorated)
{
    struct gw_disk_source_options source = {.name = "disk", .path = rig->from};
    struct gw_offered_volume offered = {.name = "disk", .format = GW_IMAGE_RAW, .size = SIZE};
    struct gw_local_options target = {.offered = &offered, .path = rig->to, .verify = true};
    struct gw_target_volume *made = NULL;
    int error;

    cr_assert_eq(gw_disk_source_open(&source, &decorated->inner), 0, "%s", gw_error_message());
    decorated->volume = *decorated->inner;
    decorated->volume.ops = &decorated_ops;
    decorated->path = rig->from;
    decorated->progress = &rig->progress;
    error = gw_local_fill(&decorated->volume, &target, &rig->progress, &made);
    if (!error)
        error = made->ops->complete(made);
    if (!error)
        error = gw_local_verify(&decorated->volume, made, &target);
    if (!error)
        error = made->ops->finish(made);
    if (made && error)
        made->ops->abort(made);
    if (made)
        made->ops->close(made);
    close_volume(&decorated->volume);
    return error;
}

static void do_nothing(struct decorated *decorated, uint64_t offset, struct gw_location *out)
{
    decorated->reads++;
}

/* The control for those below: the decoration itself breaks nothing. */
Test(local, decorated_source_is_copied)
{
    struct decorated decorated = {.at_read = do_nothing};
    struct rig rig = {0};

    begin(&rig, "raw");
    cr_assert_eq(run_decorated(&rig, &decorated), 0, "%s", gw_error_message());
    cr_assert_gt(decorated.reads, 10);
    cr_assert_eq(compare(&rig, "out", "raw"), 0);
    end(&rig);
}

static void change_file(struct decorated *decorated, uint64_t offset, struct gw_location *out)
{
    if (decorated->reads++ == 5) {
        usleep(20000); /* the clock of file times is coarse */
        place_fill(decorated->path, 1 * MIB + 4 * KIB, 512, 7);
    }
}

Test(local, image_that_changes_during_the_copy_is_an_error_and_leaves_nothing)
{
    struct decorated decorated = {.at_read = change_file};
    struct rig rig = {0};

    begin(&rig, "raw");
    cr_assert_eq(run_decorated(&rig, &decorated), -ESTALE, "%s", gw_error_message());
    cr_assert_eq(place_count(&rig.place), 2);
    end(&rig);
}

static void cancel(struct decorated *decorated, uint64_t offset, struct gw_location *out)
{
    if (decorated->reads++ == 0)
        gw_progress_cancel(decorated->progress);
}

Test(local, copy_cancelled_in_the_middle_leaves_nothing)
{
    struct decorated decorated = {.at_read = cancel};
    struct rig rig = {0};

    begin(&rig, "raw");
    /* More than the threads claim at once. */
    place_fill(rig.from, 0, SIZE, 3);
    cr_assert_eq(run_decorated(&rig, &decorated), -ECANCELED, "%s", gw_error_message());
    cr_assert_eq(place_count(&rig.place), 2);
    end(&rig);
}

/* Once, other bytes than the file's are handed to the copy. */
static void lie(struct decorated *decorated, uint64_t offset, struct gw_location *out)
{
    if (decorated->reads++ == 5) {
        memset(decorated->bytes, 0x5a, 256 * KIB);
        out->where = GW_IN_MEMORY;
        out->memory = decorated->bytes;
    }
}

Test(local, verification_finds_a_wrong_byte_and_leaves_nothing)
{
    struct decorated decorated = {.at_read = lie};
    struct rig rig = {0};

    cr_assert_eq(posix_memalign((void **)&decorated.bytes, 4096, 256 * KIB), 0);
    begin(&rig, "raw");
    cr_assert_eq(run_decorated(&rig, &decorated), -EBADMSG, "%s", gw_error_message());
    cr_assert_eq(place_count(&rig.place), 2);
    free(decorated.bytes);
    end(&rig);
}
