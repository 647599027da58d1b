/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of the target's handover that need only the journal's detail. */
#include "engine/session/parts.h"
#include "engine/session/process.h"
#include "engine/session/storage.h"
#include "engine/session/target-steps.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "engine/handover/renames.h"
#include "engine/vmm/qemu/migrate.h"

static const char *text_of(const struct gw_target_steps *steps, const char *member)
{
    const char *text = json_string_value(json_object_get(steps->detail, member));

    return text ? text : "";
}

static int check_vmm(struct gw_target_steps *steps)
{
    char state[32];

    if (!steps->launched.qmp && steps->launched.pid_fd >= 0)
        return gw_fail(-ESRCH, "QEMU (pid %d) is there and its monitor %s does not answer",
                       (int)steps->launched.pid, steps->launched.qmp_path);
    if (!steps->launched.qmp)
        return gw_fail(-ESRCH, "the VM's QEMU is gone");
    return gw_vm_status(steps->launched.qmp, state, sizeof(state));
}

static int cont(struct gw_target_steps *steps)
{
    int error = check_vmm(steps);

    if (error)
        return steps->launched.qmp ? gw_fail(-ESRCH, "the VM's QEMU is gone") : error;
    if (json_is_true(json_object_get(steps->detail, "paused")))
        return 0;
    return gw_vm_cont(steps->launched.qmp);
}

/* Is it at path, the file that was made for the image of that index? */
static bool is_there(const struct gw_target_steps *steps, size_t index, const char *path)
{
    json_t *found = gw_part_identity(path);
    bool is =
        gw_part_is_same(found, json_array_get(json_object_get(steps->detail, "files"), index));

    json_decref(found);
    return is;
}

/* The finished images, which have names that others may use too: only the very files that were made
 * for this move go. A block device was never made. */
static void unlink_images(const struct gw_target_steps *steps)
{
    const json_t *image;
    size_t index;

    json_array_foreach(json_object_get(steps->detail, "images"), index, image)
    {
        const char *path = json_string_value(image);

        if (is_there(steps, index, path) && unlink(path) && errno != ENOENT)
            gw_log(GW_LOG_WARNING, "%s could not be removed: %s", path, strerror(errno));
    }
}

static void unlink_all(const json_t *paths)
{
    const json_t *path;
    size_t index;

    json_array_foreach((json_t *)paths, index,
                       path) if (unlink(json_string_value(path)) && errno != ENOENT)
        gw_log(GW_LOG_WARNING, "%s could not be removed: %s", json_string_value(path),
               strerror(errno));
}

void gw_target_steps_remove_memory(const struct gw_target_steps *steps)
{
    unlink_all(json_object_get(steps->detail, "ram"));
    if (text_of(steps, "ram_dir")[0])
        rmdir(text_of(steps, "ram_dir"));
}

/* What only its QEMU needed. */
static void remove_folders(const struct gw_target_steps *steps)
{
    gw_target_steps_remove_memory(steps);
    if (text_of(steps, "run_dir")[0])
        gw_folder_remove(text_of(steps, "run_dir"));
}

/* Files that cannot be seen, since their file system is not mounted, cannot be removed, nor can those of one that is
 * read-only: once more later. */
int gw_target_steps_check_here(const struct gw_target_steps *steps)
{
    const json_t *parts = json_object_get(steps->detail, "parts"), *folder;
    const json_t *images = json_object_get(steps->detail, "images");
    size_t index;

    if (json_is_true(json_object_get(steps->detail, GW_GIVEN_UP)))
        return 0;
    json_array_foreach(json_object_get(steps->detail, "folders"), index, folder)
    {
        const json_t *file = json_array_get(json_object_get(steps->detail, "files"), index);
        const char *part = json_string_value(json_array_get(parts, index));
        const char *image = json_string_value(json_array_get(images, index));
        int error = part && json_is_object(file) ? gw_part_look(part, folder) : 0;

        if (image && is_there(steps, index, image))
            error = gw_part_check_removable(image);
        if (part && error != -ENOMEDIUM)
            error = gw_part_check_removable(part);
        if (error == -ENOMEDIUM)
            return error;
    }
    return 0;
}

/* Behind the record nobody looks any more: a name that a power cut brought back would stay. */
static int sync_folders(const json_t *paths)
{
    const json_t *path;
    size_t index;
    int error = 0;

    json_array_foreach((json_t *)paths, index, path)
    {
        const char *name = json_string_value(path);

        if (!error && name && !gw_rename_is_device(name))
            error = gw_rename_sync(name);
        if (error == -ENOENT || error == -ENOTDIR)
            error = 0; /* its folder went, too */
    }
    return error;
}

static int discard(struct gw_target_steps *steps)
{
    int error;

    /* Memory as large as the VM waits for no image. */
    remove_folders(steps);
    error = gw_target_steps_check_here(steps);
    if (error)
        return error;
    unlink_images(steps);
    /* These names have the epoch in them: they are nobody else's. */
    if (!steps->keeps_parts)
        unlink_all(json_object_get(steps->detail, "parts"));
    if (json_is_true(json_object_get(steps->detail, GW_GIVEN_UP)))
        return 0;
    error = sync_folders(json_object_get(steps->detail, "images"));
    return error ? error : sync_folders(json_object_get(steps->detail, "parts"));
}

/* A rename that no sync followed: a power cut took it back. What its owner has moved since, or
 * removed, is the owner's. */
static int give_name(const struct gw_target_steps *steps, size_t index, const char *path)
{
    const char *part =
        json_string_value(json_array_get(json_object_get(steps->detail, "parts"), index));

    return part && is_there(steps, index, part) ? gw_rename_file(part, path) : 0;
}

static int keep_names(struct gw_target_steps *steps)
{
    const json_t *image;
    size_t index;

    json_array_foreach(json_object_get(steps->detail, "images"), index, image)
    {
        const char *path = json_string_value(image);
        int error = give_name(steps, index, path);

        if (!error && is_there(steps, index, path))
            error = gw_rename_sync(path);
        if (error)
            return error;
    }
    return 0;
}

static int set_aside(struct gw_target_steps *steps)
{
    const json_t *image;
    size_t index;

    json_array_foreach(json_object_get(steps->detail, "images"), index, image)
    {
        const char *path = json_string_value(image);
        char aside[4096];
        int error = give_name(steps, index, path);

        if (!error)
            error = gw_rename_name(path, steps->epoch, aside, sizeof(aside));
        if (!error && !gw_rename_is_device(path))
            error = gw_rename_file(path, aside);
        if (error)
            return error;
    }
    remove_folders(steps);
    return 0;
}

int gw_target_steps_act(struct gw_target_steps *steps, enum gw_handover_action action)
{
    switch (action) {
    case GW_ACT_CHECK_VMM:
        return check_vmm(steps);
    case GW_ACT_CONT:
        return cont(steps);
    case GW_ACT_ANNOUNCE:
        if (steps->launched.qmp && gw_vm_announce(steps->launched.qmp))
            gw_log(GW_LOG_WARNING, "the network was not told where the VM is: %s",
                   gw_error_message());
        return 0;
    case GW_ACT_END_VMM:
        return steps->launched.qmp || steps->launched.pid > 0 ? gw_vm_end(&steps->launched) : 0;
    case GW_ACT_DISCARD:
        return discard(steps);
    case GW_ACT_KEEP_NAMES:
        return keep_names(steps);
    case GW_ACT_SET_ASIDE:
        return set_aside(steps);
    default:
        return gw_fail(-EINVAL, "%s is no step of the target's recovery",
                       gw_handover_action_name(action));
    }
}

int gw_target_steps_reconnect(struct gw_target_steps *steps, const char *state)
{
    struct gw_launched *launched = &steps->launched;
    pid_t pid = (pid_t)json_integer_value(json_object_get(steps->detail, "pid"));
    int error;

    memset(launched, 0, sizeof(*launched));
    error = gw_process_find(steps->detail, &launched->pid_fd);
    if (error && error != -ESRCH)
        return error;
    /* Another QEMU may have taken the socket's name. */
    if (gw_qmp_open(text_of(steps, "qmp"), &launched->qmp) == 0 &&
        gw_qmp_pid(launched->qmp) != pid) {
        gw_qmp_close(launched->qmp);
        launched->qmp = NULL;
    }
    /* A record that does not say which process it was: the one that answers. */
    if (launched->qmp && launched->pid_fd < 0 && !json_object_get(steps->detail, "process"))
        launched->pid_fd = pidfd_open(pid, 0);
    if (!launched->qmp && launched->pid_fd < 0)
        return 0;
    /* It may run, or wait for its first cont: whoever asks again gets an answer, or finds it gone. */
    if (!launched->qmp && !gw_process_has_ended(launched->pid_fd) &&
        strcmp(state, gw_handover_state_name(GW_HANDOVER_OWNER)) == 0) {
        gw_vm_leave(launched);
        return gw_fail(-EBUSY,
                       "QEMU (pid %d) is there and its monitor %s does not answer: end its other "
                       "client",
                       (int)pid, text_of(steps, "qmp"));
    }
    launched->pid = pid;
    launched->is_owned = json_is_true(json_object_get(steps->detail, "owned"));
    snprintf(launched->qmp_path, sizeof(launched->qmp_path), "%s", text_of(steps, "qmp"));
    return 0;
}
