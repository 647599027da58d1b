/* SPDX-License-Identifier: Apache-2.0 */
/* Is an unfinished image gone, or only the file system that it is on? */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/session/attended.h"
#include "engine/session/partial.h"
#include "engine/session/parts.h"
#include "engine/session/target-steps.h"
#include "tests/engine/volume/place.h"

static struct place place;
static char folder[PATH_MAX], behind[PATH_MAX], part[PATH_MAX], journal[PATH_MAX], final[PATH_MAX];
static json_t *identity;

static void set_up(void)
{
    place_on_disk(&place);
    snprintf(folder, sizeof(folder), "%s", place_path(&place, "images"));
    snprintf(behind, sizeof(behind), "%s", place_path(&place, "behind"));
    snprintf(part, sizeof(part), "%s", place_path(&place, "images/disk.raw.part"));
    snprintf(journal, sizeof(journal), "%s", place_path(&place, "images/disk.raw.journal"));
    snprintf(final, sizeof(final), "%s", place_path(&place, "images/disk.raw"));
    cr_assert_eq(mkdir(folder, 0700), 0);
    identity = gw_part_folder(part);
    cr_assert(json_is_object(identity));
}

static void tear_down(void)
{
    json_decref(identity);
    place_end(&place);
}

TestSuite(parts, .init = set_up, .fini = tear_down, .timeout = 60);

/* As a file system that is not mounted: another folder is where it was. */
static void take_away(void)
{
    cr_assert_eq(rename(folder, behind), 0);
    cr_assert_eq(mkdir(folder, 0700), 0);
}

static void bring_back(void)
{
    cr_assert_eq(rmdir(folder), 0);
    cr_assert_eq(rename(behind, folder), 0);
}

static int check_here(json_t *where)
{
    json_t *entry = json_pack("{s:s,s:s,s:s,s:O*}", "path", final, "part", part, "journal", journal,
                              "folder", where);
    int error = gw_part_check_here(entry);

    json_decref(entry);
    return error;
}

Test(parts, folder_stays_itself_whatever_is_in_it)
{
    json_t *now;

    place_fill(part, 0, 512, 1);
    now = gw_part_folder(part);
    cr_assert(json_equal(now, identity));
    json_decref(now);
    take_away();
    now = gw_part_folder(part);
    cr_assert_not(json_equal(now, identity));
    json_decref(now);
    bring_back();
    now = gw_part_folder(part);
    cr_assert(json_equal(now, identity));
    json_decref(now);
}

Test(parts, folder_that_is_not_there_has_no_identity)
{
    json_t *none = gw_part_folder(place_path(&place, "nowhere/disk.raw"));

    cr_assert(json_is_null(none));
    json_decref(none);
}

Test(parts, part_is_there_or_gone_in_its_own_folder)
{
    cr_assert_eq(gw_part_look(part, identity), -ENOENT);
    cr_assert_eq(check_here(identity), 0);
    place_fill(part, 0, 512, 1);
    cr_assert_eq(gw_part_look(part, identity), 0);
}

Test(parts, part_is_away_with_its_folder)
{
    place_fill(part, 0, 512, 1);
    take_away();
    cr_assert_eq(gw_part_look(part, identity), -ENOMEDIUM);
    cr_assert_eq(check_here(identity), -ENOMEDIUM);
    cr_assert_not_null(strstr(gw_error_message(), "mount its file system"));
    bring_back();
    cr_assert_eq(gw_part_look(part, identity), 0);
}

/* Nothing would ever end the wait for a folder that nobody noted. */
Test(parts, part_of_a_note_without_a_folder_is_gone)
{
    json_t *null = json_null();

    cr_assert_eq(gw_part_look(part, NULL), -ENOENT);
    cr_assert_eq(gw_part_look(part, null), -ENOENT);
    cr_assert_eq(check_here(NULL), 0);
}

/* A copy that failed for it leaves nothing to wait for. */
Test(parts, part_with_too_long_a_name_was_never_made)
{
    char name[PATH_MAX];

    snprintf(name, sizeof(name), "%s/%0300d.part", folder, 0);
    cr_assert_eq(gw_part_look(name, identity), -ENOENT);
}

/* As on a file system that gives its folders other inodes at each mount. */
Test(parts, journal_or_finished_image_shows_the_folder)
{
    take_away();
    place_fill(journal, 0, 512, 1);
    cr_assert_eq(check_here(identity), 0);
    cr_assert_eq(unlink(journal), 0);
    cr_assert_eq(check_here(identity), -ENOMEDIUM);
    place_fill(final, 0, 512, 1);
    cr_assert_eq(check_here(identity), 0);
}

/* ---- a file system that is read-only ---- */

#define EPOCH "00112233445566778899aabbccddeeff"

static struct place small;
static char lasting[PATH_MAX], note[PATH_MAX];

static void set_writable(bool is_writable)
{
    cr_assert_eq(mount(NULL, small.folder, NULL, MS_REMOUNT | (is_writable ? 0 : MS_RDONLY), NULL),
                 0);
}

static void begin_read_only(void)
{
    place_small(&small, 1 << 20);
    snprintf(lasting, sizeof(lasting), "%s", place_path(&small, "disk.raw.godwit-" EPOCH ".part"));
    snprintf(note, sizeof(note), "%s", place_path(&place, "partial/" EPOCH ".target"));
    place_fill(lasting, 0, 4096, 1);
}

Test(parts, part_that_cannot_be_removed_is_not_forgotten)
{
    struct gw_environment environment = {.state_dir = place.folder};
    struct gw_partial partial = {.epoch = EPOCH, .side = GW_SIDE_TARGET, .is_kept = true};

    begin_read_only();
    partial.detail = json_pack("{s:s,s:s,s:[{s:s,s:s,s:s,s:o}]}", "kind", "copy", "vm", "disk.raw",
                               "disks", "path", place_path(&small, "disk.raw"), "part", lasting,
                               "journal", "", "folder", gw_part_folder(lasting));
    cr_assert_eq(gw_partial_write(&environment, &partial), 0, "%s", gw_error_message());
    set_writable(false);
    gw_partial_drop(&environment, &partial);
    cr_assert_eq(access(note, F_OK), 0, "it is forgotten");
    cr_assert_eq(access(lasting, F_OK), 0);
    gw_partial_free(&partial);
    cr_assert_eq(gw_partial_read(&environment, EPOCH, GW_SIDE_TARGET, &partial), 0);
    cr_assert(gw_partial_is_given_up(&partial));
    cr_assert_eq(gw_partial_check_here(&partial), -ENOMEDIUM);
    cr_assert(strstr(gw_error_message(), "Read-only"), "%s", gw_error_message());
    set_writable(true);
    gw_partial_drop(&environment, &partial);
    cr_assert_neq(access(note, F_OK), 0);
    cr_assert_neq(access(lasting, F_OK), 0);
    gw_partial_free(&partial);
    place_end(&small);
}

Test(parts, discard_waits_until_its_files_can_be_removed)
{
    struct gw_target_steps steps = {.epoch = EPOCH, .launched.pid_fd = -1};
    char image_path[PATH_MAX];

    begin_read_only();
    snprintf(image_path, sizeof(image_path), "%s", place_path(&small, "finished.raw"));
    place_fill(image_path, 0, 4096, 1);
    steps.detail = json_pack("{s:[s,s],s:[o,o],s:[o,o],s:[s,s],s:[]}", "images", image_path,
                             place_path(&small, "disk.raw"), "files", gw_part_identity(image_path),
                             gw_part_identity(lasting), "folders", gw_part_folder(image_path),
                             gw_part_folder(lasting), "parts",
                             place_path(&small, "finished.raw.part"), lasting, "ram");
    set_writable(false);
    cr_assert_eq(gw_target_steps_act(&steps, GW_ACT_DISCARD), -ENOMEDIUM);
    cr_assert_eq(access(image_path, F_OK), 0);
    json_object_set_new(steps.detail, GW_GIVEN_UP, json_true());
    cr_assert_eq(gw_target_steps_act(&steps, GW_ACT_DISCARD), 0, "a person's word");
    json_object_del(steps.detail, GW_GIVEN_UP);
    set_writable(true);
    cr_assert_eq(gw_target_steps_act(&steps, GW_ACT_DISCARD), 0, "%s", gw_error_message());
    cr_assert_neq(access(image_path, F_OK), 0);
    cr_assert_neq(access(lasting, F_OK), 0);
    json_decref(steps.detail);
    place_end(&small);
}

/* ---- notes ---- */

Test(parts, damaged_note_is_removed_by_its_digits)
{
    struct gw_environment environment = {.state_dir = place.folder};
    struct gw_partial partial = {.epoch = EPOCH, .side = GW_SIDE_TARGET, .is_kept = true};

    cr_assert_eq(gw_attended_new(&environment.attended), 0);
    snprintf(note, sizeof(note), "%s", place_path(&place, "partial/" EPOCH ".target"));
    partial.detail = json_pack("{s:s}", "kind", "copy");
    cr_assert_eq(gw_partial_write(&environment, &partial), 0, "%s", gw_error_message());
    cr_assert_eq(gw_partial_forget_damaged(&environment, EPOCH), -ENOENT, "it is whole");
    cr_assert_eq(access(note, F_OK), 0);
    place_truncate(note, 10);
    gw_partial_free(&partial);
    cr_assert_eq(gw_partial_read(&environment, EPOCH, GW_SIDE_TARGET, &partial), -EUCLEAN);
    cr_assert(strstr(gw_error_message(), "godwit cancel 001122334455"), "%s", gw_error_message());
    cr_assert_eq(gw_partial_forget_damaged(&environment, "0011223f"), -ENOENT);
    cr_assert_eq(gw_attend(environment.attended, EPOCH, GW_SIDE_TARGET), 0);
    cr_assert_eq(gw_partial_forget_damaged(&environment, "00112233"), -EBUSY);
    gw_unattend(environment.attended, EPOCH, GW_SIDE_TARGET);
    cr_assert_eq(access(note, F_OK), 0);
    cr_assert_eq(gw_partial_forget_damaged(&environment, "00112233"), 0, "%s", gw_error_message());
    cr_assert_neq(access(note, F_OK), 0);
    gw_attended_free(environment.attended);
}

Test(parts, notes_that_were_cut_short_go_at_the_start)
{
    struct gw_environment environment = {.state_dir = place.folder, .keep_partial_hours = 1};
    struct gw_partial partial = {.epoch = EPOCH, .side = GW_SIDE_SOURCE, .is_kept = true};
    char cut[PATH_MAX], foreign[PATH_MAX];

    cr_assert_eq(gw_attended_new(&environment.attended), 0);
    snprintf(note, sizeof(note), "%s", place_path(&place, "partial/" EPOCH ".source"));
    snprintf(cut, sizeof(cut), "%s", place_path(&place, "partial/" EPOCH ".source.new"));
    snprintf(foreign, sizeof(foreign), "%s", place_path(&place, "partial/other.source.new"));
    partial.detail = json_pack("{s:s}", "kind", "copy");
    cr_assert_eq(gw_partial_write(&environment, &partial), 0, "%s", gw_error_message());
    place_fill(cut, 0, 512, 1);
    place_fill(foreign, 0, 512, 1);
    gw_partials_tidy(&environment, false);
    cr_assert_eq(access(cut, F_OK), 0, "somebody may be writing it");
    cr_assert_eq(gw_attend(environment.attended, EPOCH, GW_SIDE_SOURCE), 0);
    gw_partials_tidy(&environment, true);
    cr_assert_eq(access(cut, F_OK), 0, "somebody has it in hand");
    gw_unattend(environment.attended, EPOCH, GW_SIDE_SOURCE);
    gw_partials_tidy(&environment, true);
    cr_assert_neq(access(cut, F_OK), 0);
    cr_assert_eq(access(note, F_OK), 0);
    cr_assert_eq(access(foreign, F_OK), 0, "it is nobody's note");
    gw_partial_free(&partial);
    gw_attended_free(environment.attended);
}

/* ---- one attempt after the other ---- */

#define LATER "ffeeddccbbaa99887766554433221100"

static struct gw_environment state;
static struct gw_partial older, later;
static char of_older[PATH_MAX], of_later[PATH_MAX];

static json_t *disk_of(int volume, const char *epoch, const char *file)
{
    char record[PATH_MAX + 8];

    snprintf(record, sizeof(record), "%s.journal", file);
    return json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:o}", "volume", volume, "name", "disk", "path",
                     final, "epoch", epoch, "part", file, "journal", record, "folder",
                     gw_part_folder(file));
}

/* older has one image. later goes on with it, and has another one of its own. */
static void begin_following(void)
{
    state = (struct gw_environment){.state_dir = place.folder, .keep_partial_hours = 1};
    older = (struct gw_partial){.epoch = EPOCH, .side = GW_SIDE_TARGET, .is_kept = true};
    later = (struct gw_partial){.epoch = LATER, .side = GW_SIDE_TARGET, .is_kept = true};
    snprintf(of_older, sizeof(of_older), "%s",
             place_path(&place, "images/a.godwit-" EPOCH ".part"));
    snprintf(of_later, sizeof(of_later), "%s",
             place_path(&place, "images/b.godwit-" LATER ".part"));
    place_fill(of_older, 0, 512, 1);
    place_fill(of_later, 0, 512, 1);
    cr_assert_eq(gw_attended_new(&state.attended), 0);
    older.detail = json_pack("{s:s,s:[o]}", "kind", "copy", "disks", disk_of(0, EPOCH, of_older));
    later.detail = json_pack("{s:s,s:[o,o]}", "kind", "copy", "disks", disk_of(0, EPOCH, of_older),
                             disk_of(1, LATER, of_later));
    cr_assert_eq(gw_partial_write(&state, &older), 0, "%s", gw_error_message());
    cr_assert_eq(gw_partial_follow(&later, &older, EPOCH), 0);
    cr_assert_eq(gw_partial_write(&state, &later), 0, "%s", gw_error_message());
}

static void end_following(void)
{
    gw_partial_free(&older);
    gw_partial_free(&later);
    gw_attended_free(state.attended);
}

static bool is_noted(const char *epoch)
{
    struct gw_partial found;
    int error = gw_partial_read(&state, epoch, GW_SIDE_TARGET, &found);

    gw_partial_free(&found);
    return error == 0;
}

Test(parts, attempt_that_died_before_it_replaced_another_is_undone)
{
    struct gw_partial follower;

    begin_following();
    cr_assert(gw_partial_is_provisional(&state, &later));
    cr_assert_eq(gw_partial_find_follower(&state, EPOCH, GW_SIDE_TARGET, &follower), -ENOENT);
    gw_partials_tidy(&state, true);
    cr_assert(is_noted(EPOCH));
    cr_assert(!is_noted(LATER), "it would be gone on with");
    cr_assert_eq(access(of_older, F_OK), 0, "it is the earlier attempt's");
    cr_assert_neq(access(of_later, F_OK), 0);
    end_following();
}

Test(parts, attempt_that_replaced_another_is_found_by_its_name)
{
    struct gw_partial follower;
    bool is_replaced = false;

    begin_following();
    cr_assert_eq(gw_partial_replace(&state, &older, &later, &is_replaced), 0, "%s",
                 gw_error_message());
    cr_assert(is_replaced);
    gw_partials_tidy(&state, true);
    cr_assert(!gw_partial_is_provisional(&state, &later));
    cr_assert_eq(gw_partial_find_follower(&state, EPOCH, GW_SIDE_TARGET, &follower), 0);
    cr_assert_str_eq(follower.epoch, LATER);
    gw_partial_drop(&state, &follower);
    gw_partial_free(&follower);
    cr_assert(!is_noted(LATER));
    cr_assert_neq(access(of_older, F_OK), 0);
    cr_assert_neq(access(of_later, F_OK), 0);
    end_following();
}

Test(parts, attempt_that_is_dropped_takes_those_with_it_that_began_on_it)
{
    begin_following();
    gw_partial_drop(&state, &older);
    cr_assert(!is_noted(EPOCH) && !is_noted(LATER));
    cr_assert_neq(access(of_older, F_OK), 0);
    cr_assert_neq(access(of_later, F_OK), 0);
    end_following();
}

/* Its folder is away when it is undone, and the earlier attempt is finished before it is there again. */
Test(parts, attempt_that_is_undone_later_leaves_what_was_never_its_own)
{
    struct gw_partial kept;
    bool is_gone;

    begin_following();
    take_away();
    gw_partial_drop(&state, &later);
    cr_assert_eq(gw_partial_read(&state, LATER, GW_SIDE_TARGET, &kept), 0);
    cr_assert(gw_partial_is_given_up(&kept));
    bring_back();
    cr_assert_eq(gw_partial_unlink(&state, &older, &is_gone), 0);
    gw_partial_drop(&state, &kept);
    gw_partial_free(&kept);
    cr_assert_eq(access(of_older, F_OK), 0, "it is not the dead attempt's");
    cr_assert_neq(access(of_later, F_OK), 0);
    end_following();
}

/* ---- the source ---- */

static dev_t mount_source(void)
{
    char options[2 * PATH_MAX + 32];
    struct stat status;

    snprintf(options, sizeof(options), "lowerdir=%s:%s", place_path(&place, "lower"),
             place_path(&place, "empty"));
    if (mount("overlay", folder, "overlay", MS_RDONLY, options))
        cr_skip_test("no overlay can be mounted");
    cr_assert_eq(stat(final, &status), 0);
    return status.st_dev;
}

Test(parts, source_stays_itself_on_a_device_of_another_number)
{
    const struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};
    char before[GW_CHECKPOINT_SOURCE_MAX], now[GW_CHECKPOINT_SOURCE_MAX], lower[PATH_MAX];
    dev_t device;

    place_small(&small, 1 << 20); /* for a mount namespace of its own */
    snprintf(lower, sizeof(lower), "%s", place_path(&place, "lower/disk.raw"));
    cr_assert_eq(mkdir(place_path(&place, "lower"), 0700), 0);
    cr_assert_eq(mkdir(place_path(&place, "empty"), 0700), 0);
    place_fill(lower, 0, 4096, 1);
    device = mount_source();
    gw_part_source(final, "raw", before, sizeof(before));
    cr_assert_neq(mount_source(), device);
    gw_part_source(final, "raw", now, sizeof(now));
    cr_assert_str_eq(now, before);
    cr_assert_eq(umount(folder), 0);
    cr_assert_eq(umount(folder), 0);
    cr_assert_eq(utimensat(AT_FDCWD, lower, times, 0), 0);
    mount_source();
    gw_part_source(final, "raw", now, sizeof(now));
    cr_assert_str_neq(now, before, "it was changed");
    cr_assert_eq(umount(folder), 0);
    cr_assert_eq(rename(lower, place_path(&place, "lower/other.raw")), 0);
    place_fill(lower, 0, 4096, 1);
    cr_assert_eq(utimensat(AT_FDCWD, lower, times, 0), 0);
    gw_part_source(lower, "raw", before, sizeof(before));
    gw_part_source(place_path(&place, "lower/other.raw"), "raw", now, sizeof(now));
    cr_assert_str_neq(strstr(now, "bytes"), strstr(before, "bytes"), "it is another file");
    place_end(&small);
}
