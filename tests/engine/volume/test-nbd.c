/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2, VDI and VMDK images as volumes through qemu-nbd, judged by qemu-img. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/volume/nbd-client.h"
#include "engine/volume/nbd-server.h"
#include "engine/volume/nbd.h"
#include "tests/engine/volume/place.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define SIZE (64 * MIB + 512) /* the last granule is short */
#define PART "disk.godwit-0123abcd.part"

TestSuite(nbd, .timeout = 120);

static struct gw_nbd_target_options options_of(const char *path)
{
    return (struct gw_nbd_target_options){
        .name = "vda", .path = path, .epoch = "0123abcd", .format = "qcow2", .size = SIZE};
}

static struct gw_target_volume *create(const struct place *place)
{
    struct gw_nbd_target_options options = options_of(place_path(place, "disk"));
    struct gw_target_volume *volume = NULL;

    cr_assert_eq(gw_nbd_target_create(&options, &volume), 0, "%s", gw_error_message());
    return volume;
}

/* The same bytes into the volume and into a raw file beside it. */
static void write_both(struct gw_target_volume *volume, const struct place *place, uint64_t offset,
                       uint64_t length, unsigned seed)
{
    uint8_t *bytes = malloc(length);

    for (uint64_t i = 0; i < length; i++)
        bytes[i] = place_byte(seed, offset + i);
    cr_assert_eq(volume->ops->write(volume, offset, bytes, length), 0, "%s", gw_error_message());
    free(bytes);
    place_fill(place_path(place, "wanted"), offset, length, seed);
}

static bool is_as_wanted(const struct place *place)
{
    return place_run("qemu-img compare -q -f qcow2 -F raw %s/disk %s/wanted", place->folder,
                     place->folder) == 0;
}

static bool has_server(void)
{
    return place_run("pgrep -P %d -x qemu-nbd >/dev/null", (int)getpid()) == 0;
}

Test(nbd, target_holds_what_was_written_as_qemu_img_reads_it)
{
    struct gw_target_volume *volume;
    struct gw_location to;
    struct place place;

    place_on_disk(&place);
    volume = create(&place);
    place_fill(place_path(&place, "wanted"), 0, 4096, 1);
    place_truncate(place_path(&place, "wanted"), 0);
    place_truncate(place_path(&place, "wanted"), SIZE);
    cr_assert_eq(volume->ops->locate(volume, 0, 4096, &to), 0);
    cr_assert_eq(to.where, GW_BY_CALL);
    cr_assert(has_server());
    write_both(volume, &place, 0, 256 * KIB, 1);
    write_both(volume, &place, 10 * MIB - 4096, 128 * KIB, 2);
    write_both(volume, &place, 64 * MIB, 512, 3);
    cr_assert_eq(volume->ops->sync(volume), 0, "%s", gw_error_message());
    write_both(volume, &place, 0, 64 * KIB, 4); /* a later round */
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    cr_assert(place_has(&place, PART) && !place_has(&place, "disk"));
    cr_assert_not(has_server());
    cr_assert_eq(place_run("qemu-img compare -q -f qcow2 -F raw '%s' '%s'", volume->place,
                           place_path(&place, "wanted")),
                 0);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    cr_assert(!place_has(&place, PART) && place_has(&place, "disk"));
    cr_assert(is_as_wanted(&place));
    cr_assert_eq(place_run("qemu-img check -q -f qcow2 %s/disk", place.folder), 0);
    place_fill(place_path(&place, "wanted"), 20 * MIB, 512, 5);
    cr_assert_not(is_as_wanted(&place), "the comparison notices nothing");
    volume->ops->close(volume);
    place_end(&place);
}

Test(nbd, target_zeroes_what_was_written_and_stays_thin)
{
    struct gw_target_volume *volume;
    struct place place;

    place_on_disk(&place);
    volume = create(&place);
    place_fill(place_path(&place, "wanted"), 0, 4096, 1);
    place_truncate(place_path(&place, "wanted"), 0);
    cr_assert_eq(volume->ops->zero(volume, 0, SIZE), 0, "%s", gw_error_message());
    write_both(volume, &place, 0, 192 * KIB, 1);
    write_both(volume, &place, 3 * MIB, 8 * MIB, 2);
    /* All but the first granule goes again, in one range over written and unwritten parts. */
    cr_assert_eq(volume->ops->zero(volume, 64 * KIB, SIZE - 64 * KIB), 0, "%s", gw_error_message());
    place_truncate(place_path(&place, "wanted"), 64 * KIB);
    place_truncate(place_path(&place, "wanted"), SIZE);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    cr_assert(is_as_wanted(&place));
    cr_assert_lt(place_allocated(place_path(&place, "disk")), 2 * MIB);
    volume->ops->close(volume);
    place_end(&place);
}

Test(nbd, target_that_is_aborted_leaves_nothing)
{
    struct gw_target_volume *volume;
    struct place place;

    place_on_disk(&place);
    for (int is_finished = 0; is_finished < 2; is_finished++) {
        volume = create(&place);
        cr_assert_eq(place_count(&place), 1);
        if (is_finished)
            cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
        volume->ops->abort(volume);
        cr_assert_eq(place_count(&place), 0);
        cr_assert_not(has_server());
        volume->ops->close(volume);
    }
    place_end(&place);
}

Test(nbd, target_does_not_take_a_name_that_is_there)
{
    struct gw_nbd_target_options options;
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    place_fill(place_path(&place, "disk"), 0, 4096, 7);
    options = options_of(place_path(&place, "disk"));
    cr_assert_eq(gw_nbd_target_create(&options, &volume), -EEXIST);
    cr_assert_eq(place_run("mv %s/disk %s/" PART, place.folder, place.folder), 0);
    cr_assert_eq(gw_nbd_target_create(&options, &volume), -EEXIST, "%s", gw_error_message());
    cr_assert(place_has(&place, PART), "somebody else's file is gone");
    cr_assert_eq(place_run("rm %s/" PART, place.folder), 0);
    /* One that appears while the image is written. */
    cr_assert_eq(gw_nbd_target_create(&options, &volume), 0, "%s", gw_error_message());
    place_fill(place_path(&place, "disk"), 0, 4096, 7);
    cr_assert_eq(volume->ops->finish(volume), -EEXIST);
    volume->ops->abort(volume);
    volume->ops->close(volume);
    cr_assert_eq(place_count(&place), 1);
    cr_assert_eq(place_allocated(place_path(&place, "disk")), 4096);
    place_end(&place);
}

Test(nbd, target_takes_only_formats_and_clusters_that_are_known)
{
    static const char *const formats[] = {"", "raw", "vhdx", "qcow2 ", "blkdebug", "luks", "qed"};
    struct gw_nbd_target_options options;
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    options = options_of(place_path(&place, "disk"));
    for (unsigned i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
        options.format = formats[i];
        cr_expect_eq(gw_nbd_target_create(&options, &volume), -ENOTSUP, "%s", formats[i]);
    }
    options.format = "qcow2";
    for (uint32_t cluster = 1; cluster != 0; cluster <<= 1) {
        if (cluster >= 512 && cluster <= 2 * MIB)
            continue;
        options.cluster_size = cluster;
        cr_expect_eq(gw_nbd_target_create(&options, &volume), -EPROTO, "%u", cluster);
    }
    options = options_of(place_path(&place, "disk"));
    options.format = "vdi";
    options.is_fixed = true;
    cr_expect_eq(gw_nbd_target_create(&options, &volume), -ENOTSUP);
    cr_assert_eq(place_count(&place), 0);
    place_end(&place);
}

/* It stays for whoever reaps it. */
static void await_end_of_a_child(void)
{
    siginfo_t info = {0};

    for (int i = 0; i < 9000 && info.si_pid == 0; i++) {
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
            return; /* it is reaped already */
        usleep(10000);
    }
}

Test(nbd, target_whose_server_dies_fails_at_once)
{
    struct gw_target_volume *volume;
    uint8_t bytes[4096] = {1};
    struct place place;

    place_in_memory(&place);
    volume = create(&place);
    cr_assert_eq(volume->ops->write(volume, 0, bytes, sizeof(bytes)), 0);
    cr_assert_eq(place_run("pkill -KILL -P %d qemu-nbd", (int)getpid()), 0);
    await_end_of_a_child();
    for (int i = 0; i < 6; i++) /* more often than there are connections */
        cr_assert_lt(volume->ops->write(volume, 0, bytes, sizeof(bytes)), 0);
    cr_assert_lt(volume->ops->sync(volume), 0);
    cr_assert_lt(volume->ops->finish(volume), 0);
    cr_assert_not(place_has(&place, "disk"), "an image that is not whole has its final name");
    volume->ops->abort(volume);
    volume->ops->close(volume);
    cr_assert_eq(place_count(&place), 0);
    place_end(&place);
}

static const char *const others[] = {"vdi", "vmdk"};

Test(nbd, other_formats_hold_what_was_written_and_are_read_again)
{
    for (unsigned i = 0; i < sizeof(others) / sizeof(*others); i++) {
        struct gw_nbd_target_options options;
        struct gw_target_volume *volume = NULL;
        struct gw_source_volume *source = NULL;
        uint8_t bytes[512];
        struct place place;

        place_on_disk(&place);
        options = options_of(place_path(&place, "disk"));
        options.format = others[i];
        cr_assert_eq(gw_nbd_target_create(&options, &volume), 0, "%s", gw_error_message());
        place_fill(place_path(&place, "wanted"), 0, 4096, 1);
        place_truncate(place_path(&place, "wanted"), 0);
        place_truncate(place_path(&place, "wanted"), SIZE);
        write_both(volume, &place, 0, 256 * KIB, 1);
        write_both(volume, &place, 10 * MIB - 4096, 128 * KIB, 2);
        write_both(volume, &place, 64 * MIB, 512, 3);
        cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
        volume->ops->close(volume);
        cr_assert_eq(place_run("qemu-img compare -q -f %s -F raw %s/disk %s/wanted", others[i],
                               place.folder, place.folder),
                     0, "%s", others[i]);
        cr_assert_lt(place_allocated(place_path(&place, "disk")), 8 * MIB, "%s is not thin",
                     others[i]);
        /* No name of the part is left in it. */
        cr_assert_neq(place_run("grep -q godwit-0123abcd %s/disk", place.folder), 0, "%s",
                      others[i]);
        cr_assert(strcmp(gw_nbd_format_probe(place_path(&place, "disk")), others[i]) == 0);
        cr_assert_eq(gw_nbd_source_open_image(place_path(&place, "disk"), others[i], &source), 0,
                     "%s", gw_error_message());
        cr_assert_eq(source->size, SIZE);
        cr_assert_eq(source->ops->read(source, 64 * MIB, bytes, sizeof(bytes)), 0);
        cr_assert_eq(bytes[7], place_byte(3, 64 * MIB + 7));
        source->ops->close(source);
        place_end(&place);
    }
}

Test(nbd, vmdk_keeps_its_own_name)
{
    struct gw_nbd_target_options options;
    struct gw_target_volume *volume = NULL;
    struct place place;

    place_in_memory(&place);
    options = options_of(place_path(&place, "disk"));
    options.format = "vmdk";
    cr_assert_eq(gw_nbd_target_create(&options, &volume), 0, "%s", gw_error_message());
    cr_assert_eq(place_run("grep -aq 'SPARSE \"%s\"' %s/%s", PART, place.folder, PART), 0);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    cr_assert_eq(place_run("grep -aq 'SPARSE \"disk\"' %s/disk", place.folder), 0);
    cr_assert_eq(place_run("qemu-img check -q -f vmdk %s/disk", place.folder), 0);
    volume->ops->close(volume);
    place_end(&place);
}

/* ---- sources ---- */

static void expect_refused(const struct place *place, const char *format, int wanted,
                           const char *word)
{
    struct gw_source_volume *volume;

    cr_expect_eq(gw_nbd_source_open_image(place_path(place, "disk"), format, &volume), wanted);
    cr_expect(strstr(gw_error_message(), word), "%s", gw_error_message());
    cr_expect_not(has_server());
}

Test(nbd, vmdk_that_names_other_files_is_refused)
{
    struct place place;

    place_in_memory(&place);
    cr_assert_eq(place_run("cd %s && qemu-img create -q -f vmdk base 8M && "
                           "qemu-img create -q -f vmdk -b base -F vmdk disk",
                           place.folder),
                 0);
    expect_refused(&place, "vmdk", -ENOTSUP, "layer above another");
    cr_assert_eq(place_run("cd %s && qemu-img create -q -f vmdk -o "
                           "subformat=twoGbMaxExtentSparse disk 8M",
                           place.folder),
                 0);
    expect_refused(&place, "vmdk", -EUCLEAN, "one file");
    /* A header without a capacity: the descriptor names the extents. */
    cr_assert_eq(place_run("cd %s && qemu-img create -q -f vmdk disk 8M && "
                           "dd if=/dev/zero of=disk bs=1 seek=12 count=8 conv=notrunc 2>/dev/null",
                           place.folder),
                 0);
    expect_refused(&place, "vmdk", -ENOTSUP, "one sparse file");
    cr_assert_eq(place_run("cd %s && qemu-img create -q -f vmdk disk 8M && "
                           "dd if=/dev/zero of=disk bs=1 seek=36 count=8 conv=notrunc 2>/dev/null",
                           place.folder),
                 0);
    expect_refused(&place, "vmdk", -ENOTSUP, "not behind its header");
    /* QEMU reads the name of what lies beneath from the second sector, whatever the header says. */
    cr_assert_eq(place_run("exec 2>/dev/null; cd %s && rm disk && qemu-img create -q -f vmdk -b "
                           "base -F vmdk disk && "
                           "dd if=disk of=disk bs=512 skip=1 seek=40 count=1 conv=notrunc && "
                           "printf '\\050' | dd of=disk bs=1 seek=28 conv=notrunc",
                           place.folder),
                 0);
    expect_refused(&place, "vmdk", -ENOTSUP, "not behind its header");
    place_end(&place);
}

Test(nbd, nothing_beneath_an_image_is_read)
{
    struct gw_nbd_server_options options = {.name = "vda", .format = "qcow2", .is_read_only = true};
    struct gw_nbd_server server;
    uint8_t bytes[512];
    struct place place;

    place_in_memory(&place);
    cr_assert_eq(place_run("cd %s && qemu-img create -q -f qcow2 base 8M && qemu-io -c 'write -P 7 "
                           "0 64k' base >/dev/null && qemu-img create -q -f qcow2 -b base -F qcow2 "
                           "disk",
                           place.folder),
                 0);
    options.path = place_path(&place, "disk");
    cr_assert_eq(gw_nbd_server_start(&options, &server), 0, "%s", gw_error_message());
    cr_assert_eq(gw_nbd_client_read(server.client, 0, bytes, sizeof(bytes)), 0);
    cr_assert_eq(bytes[0], 0, "the base was read");
    gw_nbd_server_kill(&server);
    place_end(&place);
}

Test(nbd, vdi_that_is_a_layer_is_refused)
{
    struct place place;

    place_in_memory(&place);
    cr_assert_eq(place_run("cd %s && qemu-img create -q -f vdi disk 8M && printf x | dd of=disk "
                           "bs=1 seek=424 conv=notrunc 2>/dev/null",
                           place.folder),
                 0);
    expect_refused(&place, "vdi", -ENOTSUP, "layer above another");
    cr_assert_eq(place_run("cd %s && printf x | dd of=disk bs=1 seek=64 conv=notrunc 2>/dev/null",
                           place.folder),
                 0);
    expect_refused(&place, "vdi", -EUCLEAN, "no vdi image");
    place_end(&place);
}

static void expect_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                          enum gw_extent_kind kind)
{
    struct gw_extent extent;

    cr_assert_eq(volume->ops->next_extent(volume, offset, volume->size, &extent), 0, "%s",
                 gw_error_message());
    cr_expect_eq(extent.offset, offset);
    cr_expect_eq(extent.length, length, "at %llu: %llu", (unsigned long long)offset,
                 (unsigned long long)extent.length);
    cr_expect_eq(extent.kind, kind, "at %llu: kind %d", (unsigned long long)offset, extent.kind);
}

Test(nbd, source_tells_granules_of_small_clusters)
{
    struct gw_source_volume *volume;
    uint8_t bytes[8192];
    struct place place;
    uint64_t end = 3072 * MIB + 64 * KIB + 512;

    place_on_disk(&place);
    cr_assert_eq(place_run("qemu-img create -q -f qcow2 -o cluster_size=4k %s/disk %llu",
                           place.folder, (unsigned long long)end),
                 0);
    /* 4 KiB in the middle of a granule; a zeroed granule; the short one at the end. */
    cr_assert_eq(place_run("qemu-io -f qcow2 -c 'write -P 7 72k 4k' -c 'write -z 1M 64k' "
                           "-c 'write -P 9 2050M 128k' -c 'write -P 8 %llu 512' %s/disk "
                           ">/dev/null",
                           (unsigned long long)end - 512, place.folder),
                 0);
    cr_assert_eq(gw_nbd_source_open_image(place_path(&place, "disk"), "qcow2", &volume), 0, "%s",
                 gw_error_message());
    cr_assert_eq(volume->size, end);
    cr_assert(volume->needs_copy && volume->is_still);
    expect_extent(volume, 0, 64 * KIB, GW_EXTENT_ABSENT);
    expect_extent(volume, 64 * KIB, 64 * KIB, GW_EXTENT_DATA);
    /* QEMU tells of zeroed clusters as of holes; what one question covers ends a run. */
    expect_extent(volume, 128 * KIB, 1024 * MIB - 128 * KIB, GW_EXTENT_ABSENT);
    expect_extent(volume, 2050 * MIB, 128 * KIB, GW_EXTENT_DATA);
    expect_extent(volume, end - 512, 512, GW_EXTENT_DATA);
    expect_extent(volume, 64 * KIB, 64 * KIB, GW_EXTENT_DATA); /* back again */
    cr_assert_eq(volume->ops->read(volume, 70 * KIB, bytes, sizeof(bytes)), 0, "%s",
                 gw_error_message());
    cr_expect(bytes[2 * KIB - 1] == 0 && bytes[2 * KIB] == 7 && bytes[6 * KIB - 1] == 7 &&
              bytes[6 * KIB] == 0);
    cr_expect_eq(gw_source_data_bytes(volume), 192 * KIB + 512);
    cr_expect_eq(volume->ops->collect(volume, NULL), -ENOTSUP);
    volume->ops->close(volume);
    cr_assert_not(has_server());
    place_end(&place);
}

Test(nbd, source_that_is_no_such_image_is_refused_with_the_cause)
{
    struct gw_source_volume *volume;
    struct place place;

    place_in_memory(&place);
    place_fill(place_path(&place, "disk"), 0, 1 * MIB, 1);
    cr_assert_lt(gw_nbd_source_open_image(place_path(&place, "disk"), "qcow2", &volume), 0);
    cr_expect(strstr(gw_error_message(), "qcow2"), "%s", gw_error_message());
    cr_assert_eq(gw_nbd_source_open_image(place_path(&place, "disk"), "luks", &volume), -ENOTSUP);
    cr_assert_not(has_server());
    place_end(&place);
}

static int want_once(void *context)
{
    unsigned *asked = context;

    return ++*asked < 2 ? 0 : gw_fail(-ECANCELED, "cancelled");
}

/* A qemu-img that stays at one of its tasks for ever. */
static void slow_down(const struct place *place, const char *task)
{
    char path[4096];

    cr_assert_eq(
        place_run("mkdir %s/tools && cd %s/tools && printf '#!/bin/sh\n[ \"$1\" = %s ] && "
                  "exec sleep 600\nexec %%s \"$@\"\n' \"$(command -v qemu-img)\" >qemu-img && "
                  "chmod 755 qemu-img",
                  place->folder, place->folder, task),
        0);
    snprintf(path, sizeof(path), "%s/tools:%s", place->folder, getenv("PATH"));
    setenv("PATH", path, 1);
}

static bool has_slow_tool(void)
{
    return place_run("pgrep -P %d -x sleep >/dev/null", (int)getpid()) == 0;
}

Test(nbd, image_that_nobody_wants_any_more_is_not_made)
{
    struct gw_nbd_target_options options;
    struct gw_target_volume *volume;
    struct place place;
    unsigned asked = 0;

    place_on_disk(&place);
    slow_down(&place, "create");
    options = options_of(place_path(&place, "disk"));
    options.wanted = (struct gw_wanted){.check = want_once, .context = &asked};
    cr_assert_eq(gw_nbd_target_create(&options, &volume), -ECANCELED);
    cr_assert_eq(asked, 2);
    cr_assert_not(has_slow_tool());
    cr_assert_eq(place_count(&place), 1);
    place_end(&place);
}

Test(nbd, image_that_nobody_wants_any_more_is_not_checked)
{
    struct gw_target_volume *volume;
    struct place place;
    unsigned asked = 0;

    place_on_disk(&place);
    slow_down(&place, "check");
    volume = create(&place);
    volume->wanted = (struct gw_wanted){.check = want_once, .context = &asked};
    cr_assert_eq(volume->ops->complete(volume), -ECANCELED);
    cr_assert_not(has_slow_tool());
    volume->ops->abort(volume);
    volume->ops->close(volume);
    cr_assert_eq(place_count(&place), 1);
    place_end(&place);
}
