/* SPDX-License-Identifier: Apache-2.0 */
/* What fits and what does not, by what the file system itself says at that moment; and what quotas and a
 * limit on the size of files forbid. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/quota.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/session/space.h"
#include "tests/engine/volume/place.h"

#define MIB    (1024ull * 1024)
#define NOBODY 65534

TestSuite(space, .timeout = 60);

struct rig {
    struct place place;
    struct gw_space space;
    char path[128], warning[GW_SPACE_WARNING_MAX];
};

static void begin(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    place_on_disk(&rig->place);
    snprintf(rig->path, sizeof(rig->path), "%s/new", rig->place.folder);
}

static uint64_t free_here(const struct rig *rig)
{
    struct statvfs info;

    cr_assert_eq(statvfs(rig->place.folder, &info), 0);
    return (uint64_t)info.f_bavail * info.f_frsize;
}

static int add(struct rig *rig, enum gw_image_format format, uint64_t size, uint64_t data,
               bool is_fixed)
{
    struct gw_offered_volume offered = {
        .name = "vda", .format = format, .size = size, .data_bytes = data, .is_fixed = is_fixed};

    return gw_space_add(&rig->space, &offered, rig->path, rig->warning);
}

Test(space, what_is_written_must_fit_and_what_may_grow_is_warned_of)
{
    struct rig rig;
    uint64_t half;

    begin(&rig);
    half = free_here(&rig) / 2;
    cr_assert_eq(add(&rig, GW_IMAGE_RAW, 64 * MIB, MIB, false), 0, "%s", gw_error_message());
    cr_assert_str_empty(rig.warning);
    cr_assert_eq(add(&rig, GW_IMAGE_VHDX, 4 * half, MIB, false), 0, "%s", gw_error_message());
    cr_assert(strstr(rig.warning, "may grow to"), "%s", rig.warning);
    cr_assert_eq(add(&rig, GW_IMAGE_VHDX, 4 * half, MIB, true), -ENOSPC);
    cr_assert(strstr(gw_error_message(), "vda"), "%s", gw_error_message());
    place_end(&rig.place);
}

Test(space, disks_of_one_file_system_are_counted_together)
{
    struct rig rig;
    uint64_t most;

    begin(&rig);
    most = free_here(&rig) / 3 * 2;
    cr_assert_eq(add(&rig, GW_IMAGE_VHDX, most, most, false), 0, "%s", gw_error_message());
    cr_assert_eq(add(&rig, GW_IMAGE_VHDX, most, most, false), -ENOSPC);
    memset(&rig.space, 0, sizeof(rig.space));
    cr_assert_eq(add(&rig, GW_IMAGE_VHDX, most, most, false), 0);
    place_end(&rig.place);
}

Test(space, limit_on_files_is_seen_beforehand)
{
    struct rlimit limit = {.rlim_cur = 8 * MIB, .rlim_max = RLIM_INFINITY};
    struct rig rig;

    begin(&rig);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(add(&rig, GW_IMAGE_RAW, 8 * MIB, MIB, false), 0, "%s", gw_error_message());
    cr_assert_eq(add(&rig, GW_IMAGE_RAW, 9 * MIB, MIB, false), -EFBIG);
    cr_assert(strstr(gw_error_message(), "--format vhdx"), "%s", gw_error_message());
    cr_assert_eq(add(&rig, GW_IMAGE_VHDX, 9 * MIB, MIB, false), 0, "%s", gw_error_message());
    cr_assert(strstr(rig.warning, "may not become as large"), "%s", rig.warning);
    cr_assert_eq(add(&rig, GW_IMAGE_VHDX, 9 * MIB, 9 * MIB, false), -EFBIG);
    cr_assert_eq(add(&rig, GW_IMAGE_VHDX, 9 * MIB, MIB, true), -EFBIG);
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    place_end(&rig.place);
}

Test(space, folder_that_is_missing_is_an_error)
{
    struct rig rig;

    begin(&rig);
    snprintf(rig.path, sizeof(rig.path), "%s/none/new", rig.place.folder);
    cr_assert_eq(add(&rig, GW_IMAGE_RAW, MIB, MIB, false), -ENOENT);
    place_end(&rig.place);
}

/* A file system that counts what nobody has, and lets him have 8 MiB; in a mount namespace of this process. */
static void mount_with_quota(struct rig *rig, char *folder, size_t size)
{
    struct dqblk quota = {.dqb_bhardlimit = 8 * MIB / 1024, .dqb_valid = QIF_BLIMITS};
    int fd;

    if (geteuid() != 0 || unshare(CLONE_NEWNS) ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
        cr_skip_test("no mount namespace of its own: needs root");
    snprintf(folder, size, "%s/mnt", rig->place.folder);
    if (place_run("cd '%s' && chmod 755 . && truncate -s 256M fs && mkfs.ext4 -q -O quota -E "
                  "quotatype=usrquota fs "
                  "&& mkdir mnt && mount -o loop,usrquota fs mnt 2>/dev/null && chmod 777 mnt",
                  rig->place.folder) != 0)
        cr_skip_test("no ext4 with quotas can be mounted here");
    fd = open(folder, O_RDONLY | O_DIRECTORY);
    cr_assert_geq(fd, 0);
    if (syscall(SYS_quotactl_fd, fd, QCMD(Q_SETQUOTA, USRQUOTA), NOBODY, &quota))
        cr_skip_test("no quota can be set here");
    close(fd);
}

Test(space, quota_counts_as_room)
{
    char folder[96];
    struct rig rig;

    begin(&rig);
    mount_with_quota(&rig, folder, sizeof(folder));
    snprintf(rig.path, sizeof(rig.path), "%s/new", folder);
    cr_assert_eq(add(&rig, GW_IMAGE_RAW, 64 * MIB, 9 * MIB, false), 0, "root has none: %s",
                 gw_error_message());
    memset(&rig.space, 0, sizeof(rig.space));
    cr_assert_eq(seteuid(NOBODY), 0);
    cr_assert_eq(add(&rig, GW_IMAGE_RAW, 64 * MIB, 9 * MIB, false), -ENOSPC);
    memset(&rig.space, 0, sizeof(rig.space));
    cr_assert_eq(add(&rig, GW_IMAGE_RAW, 64 * MIB, 7 * MIB, false), 0, "%s", gw_error_message());
    cr_assert(strstr(rig.warning, "may grow to"), "%s", rig.warning);
    cr_assert_eq(seteuid(0), 0);
    cr_assert_eq(umount2(folder, MNT_DETACH), 0);
    place_end(&rig.place);
}
