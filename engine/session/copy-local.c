/* SPDX-License-Identifier: Apache-2.0 */
/* A copy from one path of this host to another: where its files go, and what is noted of them. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
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

/* One file of the copy. */
struct file {
    struct gw_copy *copy;
    unsigned index;
    const json_t *entry; /* NULL: nothing is kept */
    struct gw_local_options options;
    struct gw_target_volume *target; /* NULL: not filled */
};

static int note_durable(void *context, uint64_t durable)
{
    struct file *file = context;
    int error;

    if (!file->entry)
        return 0;
    error = gw_part_note(file->entry, &file->copy->plan.offered[file->index], durable);
    return error ? error : gw_copy_checkpoint(file->copy);
}

static const json_t *find_older(const struct file *file)
{
    const struct gw_copy *copy = file->copy;

    return gw_part_find(json_object_get(copy->older.detail, "disks"), file->index,
                        copy->plan.offered[file->index].name, file->options.path);
}

/* Is there an image that an earlier attempt left? */
static int look_for_part(struct file *file)
{
    struct gw_copy *copy = file->copy;
    struct gw_offered_volume *offered = &copy->plan.offered[file->index];
    const json_t *older = find_older(file);
    char reason[GW_PART_REASON_MAX];
    int error = gw_part_refuse_unknown(older, offered);

    if (error)
        return error;
    gw_part_check(older, offered, &file->options.durable, reason);
    offered->is_continued = file->options.durable > 0;
    offered->is_finished = offered->is_continued && gw_part_is_finished(older);
    if (offered->is_continued)
        file->options.epoch = gw_part_epoch(older, copy->older.epoch);
    copy->kept_bytes += file->options.durable;
    gw_copy_note_restart(copy, reason);
    return 0;
}

/* Without a state folder, or to an export, nothing is noted. */
static int note_file(struct file *file)
{
    struct gw_copy *copy = file->copy;
    json_t *entry;
    int error = 0;

    /* An export too: what a server holds is written out now and then, and not all of it at the end. */
    file->options.sync_interval_ns = gw_copy_sync_interval_ns(copy);
    if (!copy->partial.detail || gw_nbd_is_uri(file->options.path))
        return 0;
    if (copy->older.detail)
        error = look_for_part(file);
    if (!error)
        error = gw_part_entry_new(copy->environment, file->options.epoch, file->index,
                                  file->options.offered, file->options.path, &entry);
    if (error)
        return error;
    if (file->options.offered->is_finished)
        json_object_set(entry, "file", json_object_get(find_older(file), "file"));
    json_array_append_new(json_object_get(copy->partial.detail, "disks"), entry);
    file->entry = entry;
    return 0;
}

static int fill(struct file *file)
{
    struct gw_copy *copy = file->copy;

    return gw_local_fill(copy->plan.volumes[file->index], &file->options, copy->progress,
                         &file->target);
}

/* An unfinished image whose tables cannot be relied on is made anew. */
static int start_over(struct file *file)
{
    struct gw_offered_volume *offered = &file->copy->plan.offered[file->index];
    char reason[GW_PART_REASON_MAX];

    snprintf(reason, sizeof(reason), "%s: it starts over: %.180s", offered->name,
             gw_error_message());
    gw_copy_note_restart(file->copy, reason);
    if (gw_part_unlink(file->entry, file->copy->epoch))
        gw_log(GW_LOG_WARNING, "%s", gw_error_message()); /* to make it anew fails then */
    file->copy->kept_bytes -= file->options.durable;
    offered->is_continued = false;
    file->options.durable = 0;
    return fill(file);
}

/* Of an export, which is known once it is open; there is one volume then. */
static void note_warning(const struct file *file)
{
    json_t *list = json_object_get(file->copy->out->detail, "volumes");

    if (!file->target->warning)
        return;
    json_object_set_new(json_array_get(list, file->index), "warning",
                        json_string(file->target->warning));
    gw_offer_note_warnings(list, file->copy->progress);
}

static int fill_file(struct file *file)
{
    uint64_t size = file->copy->plan.offered[file->index].size;
    int error = fill(file);

    if (error == -EUCLEAN && file->options.offered->is_continued &&
        !file->options.offered->is_finished)
        error = start_over(file);
    if (!error)
        note_warning(file);
    /* While the others of a chain are copied, it is there to be gone on with. */
    if (error || !file->entry || file->copy->plan.count == 1)
        return error;
    error = file->target->ops->sync(file->target);
    return error ? error : note_durable(file, size);
}

/* One file after the other; they get their names when all are there, those that others need first. */
static int copy_files(struct gw_copy *copy, struct file *files)
{
    int error = 0;

    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        error = note_file(&files[i]);
    if (!error && copy->partial.detail)
        error = gw_partial_write(copy->environment, &copy->partial);
    if (!error)
        error = gw_copy_take_older(copy);
    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        error = fill_file(&files[i]);
    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        error = files[i].target->ops->complete(files[i].target);
    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        error = gw_local_verify(copy->plan.volumes[i], files[i].target, &files[i].options);
    if (!error)
        gw_partial_note_finished(copy->environment, &copy->partial);
    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        error = files[i].target->ops->finish(files[i].target);
    return error;
}

static int run_files(struct gw_copy *copy, char (*paths)[PATH_MAX])
{
    struct file *files = calloc(copy->plan.count, sizeof(*files));
    struct gw_error cause;
    int error;

    if (!files)
        return gw_fail(-ENOMEM, "no memory for the files of a copy");
    for (unsigned i = 0; i < copy->plan.count; i++)
        files[i] = (struct file){.copy = copy,
                                 .index = i,
                                 .options = {.offered = &copy->plan.offered[i],
                                             .path = paths[i],
                                             .verify = copy->request->verify,
                                             .epoch = copy->epoch,
                                             .resent_bytes = &copy->resent_bytes,
                                             .checkpoint = note_durable,
                                             .context = &files[i]}};
    error = copy_files(copy, files);
    gw_error_take(error, &cause);
    for (unsigned i = 0; i < copy->plan.count; i++) {
        struct gw_target_volume *target = files[i].target;

        /* One without the others is of no use. */
        if (target && error)
            target->ops->abort(target);
        if (target)
            target->ops->close(target);
    }
    free(files);
    json_object_set_new(copy->out->detail, "path", json_string("local"));
    return error ? gw_error_raise(&cause) : 0;
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
        error = run_files(copy, paths);
        gw_copy_report_resumed(copy);
    }
    free(paths);
    return gw_copy_end_partial(copy, error, false);
}
