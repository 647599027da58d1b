/* SPDX-License-Identifier: Apache-2.0 */
/* A copy from one path of this host to another: where its files go, and what is noted of them. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/session/copy.h"
#include "engine/session/local.h"
#include "engine/session/message.h"
#include "engine/session/space.h"
#include "engine/volume/nbd.h"

static int local_path(const struct gw_copy_request *request,
                      const struct gw_offered_volume *offered, char *out)
{
    char *resolved = realpath(request->target_path, NULL);
    size_t length = strlen(request->target_path);
    bool is_folder = length > 0 && request->target_path[length - 1] == '/';
    char name[256];

    if (gw_nbd_is_uri(request->target_path))
        is_folder = false;
    if (resolved && !is_folder) {
        char probe[PATH_MAX];

        snprintf(probe, sizeof(probe), "%s/.", resolved);
        free(resolved);
        resolved = realpath(probe, NULL);
        is_folder = resolved != NULL;
    }
    free(resolved);
    gw_endpoint_name(offered, name, sizeof(name));
    length =
        (size_t)snprintf(out, PATH_MAX, is_folder ? "%s/%s" : "%s", request->target_path, name);
    return length < PATH_MAX
               ? 0
               : gw_fail(-ENAMETOOLONG, "'%s' is too long a name", request->target_path);
}

/* Where each file goes; what their file systems have to have for all of them is checked first. */
static int place_files(struct gw_copy *copy, char (*paths)[PATH_MAX], json_t *list)
{
    const struct gw_copy_request *request = copy->request;
    struct gw_copy_plan *plan = &copy->plan;
    struct gw_space space = {0};
    int error = 0;

    for (unsigned i = 0; i < plan->count && !error; i++) {
        char warning[GW_SPACE_WARNING_MAX] = "";

        if (plan->count > 1)
            snprintf(paths[i], PATH_MAX, "%s", plan->offered[i].target);
        else
            error = local_path(request, &plan->offered[i], paths[i]);
        if (!error)
            plan->offered[i].already_bytes = gw_part_allocated(gw_part_find(
                json_object_get(copy->older.detail, "disks"), i, plan->offered[i].name, paths[i]));
        if (!error && !gw_nbd_is_uri(paths[i]))
            error = gw_space_add(&space, &plan->offered[i], paths[i], warning);
        if (!error)
            json_array_append_new(list,
                                  json_pack("{s:s,s:s,s:s*}", "name", plan->offered[i].name, "path",
                                            paths[i], "warning", warning[0] ? warning : NULL));
    }
    return error;
}

/* A block device that stands there is not the copy's to remove. */
static void remove_file(const char *path)
{
    struct stat info;

    if (lstat(path, &info) == 0 && S_ISREG(info.st_mode))
        unlink(path);
}

/* What the copy of one file needs to know when a checkpoint is due. */
struct file {
    struct gw_copy *copy;
    unsigned index;
    const json_t *entry; /* NULL: nothing is kept */
};

static int note_durable(void *context, uint64_t durable)
{
    struct file *file = context;
    int error = gw_part_note(file->entry, &file->copy->plan.offered[file->index], durable);

    return error ? error : gw_copy_checkpoint(file->copy);
}

/* The image that an earlier attempt left is given its new name, if there is one. */
static int take_part(struct file *file, const char *path, uint64_t *durable)
{
    struct gw_copy *copy = file->copy;
    struct gw_offered_volume *offered = &copy->plan.offered[file->index];
    const json_t *older;
    char reason[GW_PART_REASON_MAX];
    int error;

    if (!copy->older.detail)
        return 0;
    older = gw_part_find(json_object_get(copy->older.detail, "disks"), file->index, offered->name,
                         path);
    gw_part_check(older, offered, durable, reason);
    if (*durable > 0) {
        copy->partial.is_kept = true;
        error = gw_partial_write(copy->environment, &copy->partial);
        if (!error)
            error = gw_part_take_over(older, file->entry);
        if (error)
            return error;
    } else if (older) {
        gw_part_unlink(older, copy->older.epoch);
    }
    copy->kept_bytes += *durable;
    offered->is_continued = *durable > 0;
    gw_copy_note_restart(copy, reason);
    return gw_copy_take_older(copy);
}

/* Without a state folder, or to an export, nothing is noted. */
static int note_file(struct file *file, const char *path, uint64_t *durable)
{
    struct gw_copy *copy = file->copy;
    json_t *entry;
    int error;

    if (!copy->partial.detail || gw_nbd_is_uri(path))
        return 0;
    error = gw_part_entry_new(copy->environment, copy->epoch, file->index,
                              &copy->plan.offered[file->index], path, &entry);
    if (error)
        return error;
    json_array_append_new(json_object_get(copy->partial.detail, "disks"), entry);
    file->entry = entry;
    error = gw_partial_write(copy->environment, &copy->partial);
    return error ? error : take_part(file, path, durable);
}

static int copy_file(struct gw_copy *copy, unsigned index, const char *path)
{
    struct file file = {.copy = copy, .index = index};
    struct gw_offered_volume *offered = &copy->plan.offered[index];
    struct gw_local_options options = {
        .offered = offered,
        .path = path,
        .verify = copy->request->verify,
        .epoch = copy->epoch,
        .resent_bytes = &copy->resent_bytes,
        .checkpoint = note_durable,
        .context = &file,
    };
    int error = note_file(&file, path, &options.durable);

    if (error)
        return error;
    /* Files of a chain are finished one by one, and a part of a chain is of no use. */
    if (file.entry && copy->plan.count == 1)
        options.sync_interval_ns = gw_copy_sync_interval_ns(copy);
    error = gw_local_copy(copy->plan.volumes[index], &options, copy->progress, copy->out->detail);
    if (error == -EUCLEAN && offered->is_continued) {
        char reason[GW_PART_REASON_MAX];

        snprintf(reason, sizeof(reason), "%s: it starts over: %.180s", offered->name,
                 gw_error_message());
        gw_copy_note_restart(copy, reason);
        gw_part_unlink(file.entry, copy->epoch);
        copy->kept_bytes = 0;
        offered->is_continued = false;
        options.durable = 0;
        error =
            gw_local_copy(copy->plan.volumes[index], &options, copy->progress, copy->out->detail);
    }
    return error;
}

/* One file after the other. When one fails, those before it are of no use and are removed. */
static int copy_files(struct gw_copy *copy, char (*paths)[PATH_MAX])
{
    struct gw_error cause;
    unsigned done = 0;
    int error = 0;

    while (done < copy->plan.count && !error) {
        error = copy_file(copy, done, paths[done]);
        if (!error)
            done++;
    }
    if (!error)
        return 0;
    gw_error_take(error, &cause);
    while (done > 0)
        remove_file(paths[--done]);
    return gw_error_raise(&cause);
}

int gw_copy_local(struct gw_copy *copy)
{
    char(*paths)[PATH_MAX] = calloc(copy->plan.count, sizeof(*paths));
    json_t *list = json_array();
    char epoch[2 * GW_ID_SIZE + 1];
    uint8_t id[GW_ID_SIZE];
    int error = paths ? gw_id_random(id) : gw_fail(-ENOMEM, "no memory for the paths of a copy");

    json_object_set_new(copy->out->detail, "volumes", list);
    gw_id_format(id, epoch);
    if (!error)
        error = gw_copy_begin_partial(copy, epoch);
    if (!error)
        error = place_files(copy, paths, list);
    if (!error) {
        gw_copy_begin_phase(copy->progress, gw_copy_plan_bytes(&copy->plan));
        gw_offer_note_warnings(list, copy->progress);
        error = copy_files(copy, paths);
        gw_copy_report_resumed(copy);
    }
    free(paths);
    return gw_copy_end_partial(copy, error, false);
}
