/* SPDX-License-Identifier: Apache-2.0 */
/* What is written in place does not look like a disk before it is one: loop devices, and exports of qemu-nbd. What lies
 * there is read from the file behind them. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

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
#include "engine/volume/device.h"
#include "engine/volume/disk.h"
#include "engine/volume/location.h"
#include "engine/volume/nbd.h"
#include "tests/engine/volume/place.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define SIZE (6 * MIB)
#define OLD  3 /* seeds of what was there, and of the disk */
#define NEW  5

enum medium { DEVICE, BIG_SECTORS, EXPORT };

static enum medium media[] = {DEVICE, BIG_SECTORS, EXPORT};

#define EACH_MEDIUM(name)                                                                          \
    ParameterizedTestParameters(edges, name)                                                       \
    {                                                                                              \
        return cr_make_param_array(enum medium, media, sizeof(media) / sizeof(*media));            \
    }                                                                                              \
    ParameterizedTest(enum medium *medium, edges, name, .timeout = 60)

TestSuite(edges, .timeout = 60);

struct rig {
    struct place place;
    enum medium medium;
    char target[600]; /* device or URI */
    char behind[512]; /* the file that has its bytes */
};

static void set_up(struct rig *rig, enum medium medium, uint64_t size)
{
    char command[1200];
    FILE *losetup;

    rig->medium = medium;
    place_on_disk(&rig->place);
    snprintf(rig->behind, sizeof(rig->behind), "%s", place_path(&rig->place, "behind"));
    place_fill(rig->behind, 0, size, OLD);
    if (medium == EXPORT) {
        snprintf(rig->target, sizeof(rig->target), "nbd+unix:///?socket=%s/nbd", rig->place.folder);
        cr_assert_eq(place_run("qemu-nbd -f raw --socket=%s/nbd --pid-file=%s/pid --shared=4 "
                               "--persistent --fork %s",
                               rig->place.folder, rig->place.folder, rig->behind),
                     0);
        return;
    }
    snprintf(command, sizeof(command), "losetup -f --show --sector-size %d %s 2>&1",
             medium == BIG_SECTORS ? 4096 : 512, rig->behind);
    losetup = popen(command, "r");
    if (!fgets(rig->target, sizeof(rig->target), losetup) || pclose(losetup)) {
        place_end(&rig->place);
        cr_skip_test("no loop device: %s", rig->target);
    }
    rig->target[strcspn(rig->target, "\n")] = '\0';
}

static void tear_down(struct rig *rig)
{
    if (rig->medium == EXPORT)
        cr_assert_eq(place_run("kill $(cat %s/pid)", rig->place.folder), 0);
    else
        cr_assert_eq(place_run("losetup -d %s", rig->target), 0);
    place_end(&rig->place);
}

static struct gw_target_volume *open_with(const struct rig *rig, uint64_t size, bool is_continued)
{
    struct gw_disk_target_options options = {.name = "vda",
                                             .path = rig->target,
                                             .epoch = "0123abcd",
                                             .format = GW_IMAGE_RAW,
                                             .size = size,
                                             .is_continued = is_continued};
    struct gw_target_volume *volume = NULL;
    int error = rig->medium == EXPORT ? gw_nbd_target_open_uri("vda", rig->target, size, &volume)
                                      : gw_disk_target_create(&options, &volume);

    cr_assert_eq(error, 0, "%s", gw_error_message());
    return volume;
}

static struct gw_target_volume *open_target(const struct rig *rig, uint64_t size)
{
    return open_with(rig, size, false);
}

static void write_range(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                        unsigned seed)
{
    uint8_t *bytes = NULL;

    cr_assert_eq(posix_memalign((void **)&bytes, 4096, length), 0);
    for (uint64_t i = 0; i < length; i++)
        bytes[i] = place_byte(seed, offset + i);
    cr_assert_eq(gw_target_write(volume, offset, bytes, length), 0, "%s", gw_error_message());
    free(bytes);
}

/* A place with a target of which all is written. */
static struct gw_target_volume *set_up_written(struct rig *rig, enum medium medium)
{
    struct gw_target_volume *volume;

    set_up(rig, medium, SIZE);
    volume = open_target(rig, 5 * MIB);
    write_range(volume, 0, 5 * MIB, NEW);
    return volume;
}

static void give_up(struct gw_target_volume *volume)
{
    volume->ops->abort(volume);
    volume->ops->close(volume);
}

/* seed 0: zeroes. */
static bool has(const struct rig *rig, uint64_t offset, uint64_t length, unsigned seed)
{
    uint8_t *bytes = malloc(length);
    int fd = open(rig->behind, O_RDONLY | O_CLOEXEC);
    uint64_t i = 0;

    if (rig->medium != EXPORT)
        place_run("blockdev --flushbufs %s", rig->target);
    cr_assert_eq(pread(fd, bytes, length, (off_t)offset), (ssize_t)length);
    while (i < length && bytes[i] == (seed ? place_byte(seed, offset + i) : 0))
        i++;
    close(fd);
    free(bytes);
    return i == length;
}

/* The rest of a place of SIZE that a disk of 5 MiB is on. */
static void expect_unfinished(const struct rig *rig)
{
    cr_assert(has(rig, 0, 1 * MIB, 0));
    cr_assert(has(rig, 4 * MIB, 1 * MIB, 0));
    cr_assert(has(rig, 1 * MIB, 3 * MIB, NEW));
    cr_assert(has(rig, 5 * MIB, 1 * MIB, OLD));
}

static void expect_finished(const struct rig *rig)
{
    cr_assert(has(rig, 0, 5 * MIB, NEW));
    cr_assert(has(rig, 5 * MIB, 1 * MIB, OLD));
}

EACH_MEDIUM(are_zeroes_until_all_is_there)
{
    struct gw_target_volume *volume;
    struct rig rig;

    set_up(&rig, *medium, SIZE);
    volume = open_target(&rig, 5 * MIB);
    write_range(volume, 2 * MIB, 64 * KIB, NEW);
    cr_assert_eq(volume->ops->sync(volume), 0);
    cr_assert(has(&rig, 0, 1 * MIB, 0));
    cr_assert(has(&rig, 4 * MIB, 1 * MIB, 0));
    write_range(volume, 0, 5 * MIB, NEW);
    cr_assert_eq(volume->ops->sync(volume), 0);
    expect_unfinished(&rig);
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    expect_finished(&rig);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    volume->ops->close(volume);
    expect_finished(&rig);
    tear_down(&rig);
}

EACH_MEDIUM(are_as_they_were_where_nothing_was_written)
{
    struct gw_target_volume *volume;
    struct rig rig;

    set_up(&rig, *medium, SIZE);
    volume = open_target(&rig, 5 * MIB);
    write_range(volume, 0, 64 * KIB, NEW);
    give_up(volume);
    cr_assert(has(&rig, 0, SIZE, OLD));
    tear_down(&rig);
}

EACH_MEDIUM(are_zeroes_of_what_is_given_up_half_written)
{
    struct gw_target_volume *volume;
    struct rig rig;

    volume = set_up_written(&rig, *medium);
    give_up(volume);
    expect_unfinished(&rig);
    tear_down(&rig);
}

/* From then on it is a disk, and may be anybody's. */
EACH_MEDIUM(are_left_of_what_is_given_up_when_it_is_finished)
{
    struct gw_target_volume *volume;
    struct rig rig;

    volume = set_up_written(&rig, *medium);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    give_up(volume);
    expect_finished(&rig);
    tear_down(&rig);
}

EACH_MEDIUM(are_zeroes_again_of_what_is_kept_unfinished)
{
    struct gw_target_volume *volume;
    struct rig rig;

    volume = set_up_written(&rig, *medium);
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    volume->ops->close(volume);
    expect_unfinished(&rig);
    tear_down(&rig);
}

static int is_unwanted(void *context)
{
    return gw_fail(-ECANCELED, "cancelled");
}

/* A cancel is no reason to leave it as it is. */
EACH_MEDIUM(are_zeroes_again_of_what_is_cancelled)
{
    struct gw_target_volume *volume;
    struct rig rig;

    volume = set_up_written(&rig, *medium);
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    volume->wanted.check = is_unwanted;
    give_up(volume);
    expect_unfinished(&rig);
    tear_down(&rig);
}

EACH_MEDIUM(of_every_size_arrive)
{
    static const uint64_t sizes[] = {512,           4096,          1 * MIB - 4096,
                                     1 * MIB,       1 * MIB + 512, 2 * MIB - 4096,
                                     2 * MIB,       2 * MIB + 512, 3 * MIB + 64 * KIB + 512,
                                     2 * MIB + 700, SIZE};

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct gw_target_volume *volume;
        struct rig rig;

        if (*medium == EXPORT && sizes[i] % 512)
            continue; /* of an NBD server, no matter what is kept in memory */
        set_up(&rig, *medium, SIZE);
        volume = open_target(&rig, sizes[i]);
        write_range(volume, 0, sizes[i], OLD + 1);
        write_range(volume, sizes[i] / 1024 * 512, sizes[i] - sizes[i] / 1024 * 512, NEW);
        write_range(volume, 0, sizes[i] / 1024 * 512, NEW);
        cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
        volume->ops->close(volume);
        cr_assert(has(&rig, 0, sizes[i], NEW), "%llu bytes", (unsigned long long)sizes[i]);
        cr_assert(sizes[i] == SIZE || has(&rig, sizes[i], SIZE - sizes[i], OLD), "%llu bytes",
                  (unsigned long long)sizes[i]);
        tear_down(&rig);
    }
}

EACH_MEDIUM(are_zeroed_with_the_rest)
{
    struct gw_target_volume *volume;
    struct rig rig;

    volume = set_up_written(&rig, *medium);
    cr_assert_eq(volume->ops->zero(volume, 512 * KIB, 4 * MIB), 0, "%s", gw_error_message());
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    volume->ops->close(volume);
    cr_assert(has(&rig, 0, 512 * KIB, NEW));
    cr_assert(has(&rig, 512 * KIB, 4 * MIB, 0));
    cr_assert(has(&rig, 4 * MIB + 512 * KIB, 512 * KIB, NEW));
    tear_down(&rig);
}

/* ---- devices ---- */

static bool shows(struct gw_target_volume *volume, uint64_t offset, uint64_t length, unsigned seed)
{
    struct gw_source_volume *view;
    uint8_t *bytes = NULL;
    uint64_t i = 0;

    cr_assert_eq(posix_memalign((void **)&bytes, 4096, length), 0);
    cr_assert_eq(volume->ops->view(volume, &view), 0, "%s", gw_error_message());
    for (uint64_t moved = 0; moved < length;) {
        struct gw_extent extent;
        struct gw_location from;

        cr_assert_eq(view->ops->next_extent(view, offset + moved, offset + length, &extent), 0);
        cr_assert_eq(view->ops->locate(view, offset + moved, extent.length, &from), 0);
        if (from.where == GW_IN_MEMORY)
            memcpy(bytes + moved, from.memory, from.length);
        else
            cr_assert_eq(gw_location_read(&from, bytes + moved), 0, "%s", gw_error_message());
        moved += from.length;
    }
    view->ops->close(view);
    while (i < length && bytes[i] == (seed ? place_byte(seed, offset + i) : 0))
        i++;
    free(bytes);
    return i == length;
}

Test(edges, are_seen_as_they_will_be)
{
    struct gw_target_volume *volume;
    struct rig rig;

    volume = set_up_written(&rig, DEVICE);
    cr_assert(shows(volume, 0, 5 * MIB, NEW));
    give_up(volume);
    tear_down(&rig);
}

/* The agent dies when it had just written them: what goes on with it does not take them for its own. */
static void die_when_complete(const struct rig *rig)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        struct gw_target_volume *volume = open_target(rig, 5 * MIB);

        write_range(volume, 0, 5 * MIB, NEW);
        _exit(volume->ops->complete(volume) ? 1 : 0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
    expect_finished(rig);
}

Test(edges, of_an_attempt_that_died_are_written_again)
{
    struct gw_target_volume *volume;
    struct rig rig;

    set_up(&rig, DEVICE, SIZE);
    die_when_complete(&rig);
    volume = open_with(&rig, 5 * MIB, true);
    cr_assert(shows(volume, 0, 1 * MIB, 0));
    cr_assert(shows(volume, 1 * MIB, 3 * MIB, NEW));
    cr_assert(shows(volume, 4 * MIB, 1 * MIB, 0));
    write_range(volume, 2 * MIB, 64 * KIB, NEW);
    expect_unfinished(&rig);
    write_range(volume, 0, 1 * MIB, NEW);
    write_range(volume, 4 * MIB, 1 * MIB, NEW);
    cr_assert_eq(volume->ops->finish(volume), 0);
    volume->ops->close(volume);
    expect_finished(&rig);
    tear_down(&rig);
}

Test(edges, of_an_attempt_that_died_are_left_where_nothing_was_written)
{
    struct gw_target_volume *volume;
    struct rig rig;

    set_up(&rig, DEVICE, SIZE);
    die_when_complete(&rig);
    volume = open_with(&rig, 5 * MIB, true);
    give_up(volume);
    expect_finished(&rig);
    tear_down(&rig);
}

/* What somebody else has made of it is theirs. */
static void use_meanwhile(struct rig *rig, const char *command)
{
    struct gw_target_volume *volume;

    volume = set_up_written(rig, DEVICE);
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    cr_assert_eq(place_run(command, rig->target, rig->target, rig->behind), 0);
    give_up(volume);
    cr_assert(has(rig, 0, 1 * MIB, NEW));
    cr_assert(has(rig, 4 * MIB, 1 * MIB, NEW));
    tear_down(rig);
}

Test(edges, stay_where_somebody_wrote_since)
{
    struct rig rig;

    use_meanwhile(&rig, "dd if=/dev/zero of=%s bs=512 seek=4096 count=1 conv=notrunc status=none");
}

Test(edges, stay_where_somebody_wrote_since_and_has_not_synced)
{
    struct rig rig;

    use_meanwhile(&rig, "exec 3>%s; dd if=/dev/zero bs=512 seek=4096 count=1 status=none >&3");
}

Test(edges, stay_on_another_device_of_that_name)
{
    struct rig rig;

    use_meanwhile(&rig, "losetup -d %s && losetup %s %s");
}

/* No kernel counts what is written to an export. */
Test(edges, stay_on_an_export_that_has_other_bytes)
{
    struct gw_target_volume *volume;
    struct rig rig;

    volume = set_up_written(&rig, EXPORT);
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    place_fill(rig.behind, 5 * MIB - 512, 512, OLD);
    give_up(volume);
    cr_assert(has(&rig, 0, 1 * MIB, NEW));
    cr_assert(has(&rig, 4 * MIB, 1 * MIB - 512, NEW));
    tear_down(&rig);
}

static pid_t start_user(const struct rig *rig, const char *words)
{
    pid_t child = fork();

    if (child == 0) {
        char command[1200];

        snprintf(command, sizeof(command), words, rig->target, rig->place.folder);
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    for (int i = 0; i < 200 && !place_has(&rig->place, "up"); i++)
        usleep(50000);
    cr_assert(place_has(&rig->place, "up"));
    return child;
}

Test(edges, stay_where_a_qemu_has_it)
{
    struct gw_target_volume *volume;
    struct rig rig;
    pid_t user;

    volume = set_up_written(&rig, DEVICE);
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    user = start_user(&rig, "exec qemu-nbd -f raw %s --persistent --socket=%s/up");
    give_up(volume);
    expect_finished(&rig);
    kill(user, SIGTERM);
    waitpid(user, NULL, 0);
    tear_down(&rig);
}

Test(edges, mark_is_the_same_until_somebody_writes)
{
    char mark[GW_DEVICE_MARK_MAX];
    struct rig rig;

    set_up(&rig, DEVICE, SIZE);
    cr_assert_eq(gw_device_mark(rig.target, mark), 0, "%s", gw_error_message());
    cr_assert_eq(place_run("cat %s >/dev/null", rig.target), 0);
    cr_assert_eq(gw_device_check(rig.target, mark), 0, "%s", gw_error_message());
    cr_assert_eq(place_run("blkdiscard -o 1048576 -l 65536 %s", rig.target), 0);
    cr_assert_eq(gw_device_check(rig.target, mark), -ESTALE);
    cr_assert_eq(gw_device_mark(rig.behind, mark), -ENOTBLK);
    tear_down(&rig);
}
