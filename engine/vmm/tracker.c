/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chooses a kind of tracker and passes calls on to it. What holds for all kinds is checked here; no
 * kind knows another.
 */
#include "engine/vmm/tracker.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/mappers.h"
#include "engine/vmm/tracker_kind.h"

/* Best first: the order in which AUTO tries them. */
static const struct gw_tracker_ops *const kinds[] = {
    &gw_tracker_uffd_ops,
    &gw_tracker_softdirty_ops,
    &gw_tracker_compare_ops,
};

static const struct gw_tracker_ops *find_ops(enum gw_tracker_kind kind)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(kinds); i++)
        if (kinds[i]->kind == kind)
            return kinds[i];
    return NULL;
}

static int check_options(const struct gw_tracker_options *options)
{
    uint64_t base_page = (uint64_t)sysconf(_SC_PAGESIZE);

    if (options->size == 0 || options->size % base_page != 0)
        return gw_fail(-EINVAL, "%llu bytes are no size of a guest's RAM",
                       (unsigned long long)options->size);
    if (!gw_is_power_of_two(options->page_size) || options->page_size < base_page)
        return gw_fail(-EINVAL, "%llu is no page size", (unsigned long long)options->page_size);
    if (options->vmm_pid <= 0)
        return gw_fail(-EINVAL, "no hypervisor process is named");
    if (kill(options->vmm_pid, 0) < 0 && errno == ESRCH)
        return gw_fail(-ESRCH, "the hypervisor, process %d, has ended", (int)options->vmm_pid);
    return 0;
}

/* Whatever the kind: RAM that is not this file would be copied in vain, and its loss seen by
 * nobody. */
static int check_mapping(const struct gw_tracker_options *options)
{
    struct gw_mappings list = {0};
    struct gw_file_id file;
    char name[32];
    size_t count;
    int error = gw_file_id_of(options->ram_fd, &file);

    if (error)
        return error;
    error = gw_mappings_read_writable(options->vmm_pid, &file, &list);
    count = list.count;
    gw_mappings_free(&list);
    /* Comparing needs no right to look into the process; the others will name the one they miss. */
    if (error == -EACCES || error == -EPERM)
        return 0;
    if (error || count > 0)
        return error;
    gw_process_name(options->vmm_pid, name, sizeof(name));
    return gw_fail(-EINVAL,
                   "process %d (%s) does not map the RAM file shared and writable: the guest's "
                   "memory must be a memory-backend-file with share=on",
                   (int)options->vmm_pid, name);
}

static int open_kind(const struct gw_tracker_ops *ops, const struct gw_tracker_options *options,
                     struct gw_tracker **out)
{
    struct gw_tracker *tracker;
    int error = 0;

    if (ops->clears_all && options->is_one_of_several)
        error = gw_fail(-ENOTSUP,
                        "%s keeps its marks for a whole process, and the VM has several memory "
                        "backends: use --tracker uffd or compare",
                        ops->name);
    if (!error)
        error = ops->probe();
    if (!error)
        error = ops->open(options, &tracker);
    if (error)
        return error;
    tracker->ops = ops;
    tracker->page_count = (options->size - 1) / options->page_size + 1;
    *out = tracker;
    return 0;
}

int gw_tracker_open(const struct gw_tracker_options *options, struct gw_tracker **out)
{
    int error = check_options(options);

    if (!error)
        error = check_mapping(options);
    if (error)
        return error;
    if (options->kind != GW_TRACKER_AUTO) {
        const struct gw_tracker_ops *ops = find_ops(options->kind);

        return ops ? open_kind(ops, options, out) : gw_fail(-EINVAL, "no such kind of tracker");
    }
    for (size_t i = 0; i < GW_ARRAY_LENGTH(kinds); i++) {
        error = open_kind(kinds[i], options, out);
        if (!error)
            return 0;
    }
    return error;
}

int gw_tracker_arm(struct gw_tracker *tracker)
{
    int error = tracker->ops->arm(tracker);

    tracker->is_armed = !error;
    return error;
}

int gw_tracker_collect(struct gw_tracker *tracker, struct gw_bitmap *dirty)
{
    assert(tracker->is_armed);
    assert(dirty->bit_count == tracker->page_count);
    return tracker->ops->collect(tracker, dirty);
}

void gw_tracker_hasten(struct gw_tracker *tracker)
{
    struct gw_process_set *processes = tracker->ops->processes(tracker);

    if (processes)
        processes->leaves_others = true;
}

int gw_tracker_check(struct gw_tracker *tracker)
{
    struct gw_process_set *processes = tracker->ops->processes(tracker);

    return processes ? gw_process_set_check(processes) : 0;
}

void gw_tracker_copied(struct gw_tracker *tracker, uint64_t offset, const void *bytes,
                       uint64_t length)
{
    tracker->ops->copied(tracker, offset, bytes, length);
}

bool gw_tracker_needs_stop(const struct gw_tracker *tracker)
{
    return tracker->ops->needs_stop;
}

bool gw_tracker_needs_copy(const struct gw_tracker *tracker)
{
    return tracker->ops->needs_copy;
}

enum gw_tracker_kind gw_tracker_kind_of(const struct gw_tracker *tracker)
{
    return tracker->ops->kind;
}

const char *gw_tracker_name(enum gw_tracker_kind kind)
{
    const struct gw_tracker_ops *ops = find_ops(kind);

    return ops ? ops->name : "auto";
}

int gw_tracker_kind_parse(const char *name, enum gw_tracker_kind *out)
{
    enum gw_tracker_kind kind = GW_TRACKER_AUTO;

    for (size_t i = 0; i < GW_ARRAY_LENGTH(kinds); i++)
        if (strcmp(name, kinds[i]->name) == 0)
            kind = kinds[i]->kind;
    if (kind == GW_TRACKER_AUTO && strcmp(name, "auto") != 0)
        return gw_fail(-EINVAL, "%.64s is no tracker: auto, uffd, softdirty or compare", name);
    *out = kind;
    return 0;
}

void gw_tracker_close(struct gw_tracker *tracker)
{
    if (tracker)
        tracker->ops->close(tracker);
}

int gw_tracker_probe(enum gw_tracker_kind kind)
{
    const struct gw_tracker_ops *ops = find_ops(kind);
    int error = -EINVAL;

    if (ops)
        return ops->probe();
    for (size_t i = 0; i < GW_ARRAY_LENGTH(kinds) && error; i++)
        error = kinds[i]->probe();
    return error;
}
