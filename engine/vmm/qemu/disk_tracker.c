/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dirty granules of a disk in use. The disk's own node gets a bitmap; each round merges it onto a
 * null-co node and clears it in one transaction, and only the null-co node is exported, for its
 * dirty map. That node lives in QEMU's main loop even when the disk is on an iothread, where
 * QEMU 7.2 aborts when the client of an export disconnects.
 */
#include "engine/vmm/qemu/disks.h"

#include <errno.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"

#define DIRTY_BITMAP  "godwit-dirty" /* on the disk's node */
#define ROUND_BITMAP  "godwit-round" /* on the null-co node */
#define MAP_PREFIX    "godwit-map-"  /* names of null-co nodes and their exports */
#define READ_TIMEOUT  10u            /* seconds for one map */
#define STATUS_LENGTH (1ull << 30)   /* asked for in one request */

struct gw_disk_tracker {
    struct gw_qmp *qmp; /* lent */
    char name[GW_VM_ID_SIZE];
    char node[GW_VM_NODE_SIZE];
    char map[GW_VM_NODE_SIZE];
    char socket[108];
    uint64_t size;
    bool was_delivered; /* what the round bitmap holds was given to the caller: clear it first */
    bool has_rest;      /* what it holds could not be given */
    bool was_dirty;     /* the last map that was read */
    bool has_server, has_bitmap, has_map;
};

static int name_socket(char *out, size_t size, const char *folder)
{
    int length = snprintf(out, size, "%s/nbd", folder);

    return length < (int)size
               ? 0
               : gw_fail(-ENAMETOOLONG, "the folder %s is too long for a socket", folder);
}

static int run(struct gw_disk_tracker *tracker, const char *command, json_t *arguments)
{
    int ret = gw_qmp_execute(tracker->qmp, command, arguments, NULL);
    struct gw_error error;

    if (ret >= 0)
        return ret;
    gw_error_take(ret, &error);
    return gw_fail(ret, "disk %s: dirty map: %.400s", tracker->name, error.text);
}

/* The first tracker starts the server; a server on our socket is our own. */
static int start_server(struct gw_disk_tracker *tracker)
{
    int ret = gw_qmp_execute(tracker->qmp, "nbd-server-start",
                             json_pack("{s:{s:s, s:{s:s}}, s:i}", "addr", "type", "unix", "data",
                                       "path", tracker->socket, "max-connections", 0),
                             NULL);

    if (ret == 0 || access(tracker->socket, F_OK) == 0)
        return 0;
    if (ret == -EREMOTEIO)
        return gw_fail(-EBUSY,
                       "disk %s: QEMU already serves NBD to somebody else (one server per QEMU); "
                       "end that with nbd-server-stop first",
                       tracker->name);
    return ret;
}

static int add_bitmap(struct gw_disk_tracker *tracker, const char *node, const char *name,
                      bool is_disabled)
{
    return run(tracker, "block-dirty-bitmap-add",
               json_pack("{s:s, s:s, s:I, s:b}", "node", node, "name", name, "granularity",
                         (json_int_t)GW_DISK_GRANULE, "disabled", (int)is_disabled));
}

static int set_up(struct gw_disk_tracker *tracker)
{
    int ret = start_server(tracker);

    tracker->has_server = ret == 0;
    if (ret == 0)
        ret = run(tracker, "blockdev-add",
                  json_pack("{s:s, s:s, s:I, s:b}", "driver", "null-co", "node-name", tracker->map,
                            "size", (json_int_t)tracker->size, "read-zeroes", 1));
    if (ret < 0)
        return ret;
    tracker->has_map = true;
    ret = add_bitmap(tracker, tracker->map, ROUND_BITMAP, true);
    if (ret < 0)
        return ret;
    ret = add_bitmap(tracker, tracker->node, DIRTY_BITMAP, false);
    tracker->has_bitmap = ret == 0;
    return ret;
}

int gw_disk_tracker_open(struct gw_qmp *qmp, const struct gw_vm_disk *disk,
                         const struct gw_disk_tracker_options *options,
                         struct gw_disk_tracker **out)
{
    unsigned index = options->index;
    struct gw_disk_tracker *tracker = calloc(1, sizeof(*tracker));
    struct gw_error error;
    int ret;

    if (!tracker)
        return gw_fail(-ENOMEM, "disk %s: no memory", disk->name);
    tracker->qmp = qmp;
    tracker->size = disk->virtual_size;
    memcpy(tracker->name, disk->name, sizeof(tracker->name));
    memcpy(tracker->node, disk->node, sizeof(tracker->node));
    snprintf(tracker->map, sizeof(tracker->map), MAP_PREFIX "%u", index % 1000);
    ret = name_socket(tracker->socket, sizeof(tracker->socket), options->socket_dir);
    if (ret == 0)
        ret = set_up(tracker);
    if (ret < 0) {
        gw_error_take(ret, &error);
        gw_disk_tracker_close(tracker);
        return gw_error_raise(&error);
    }
    *out = tracker;
    return 0;
}

/* A bitmap of the disk's node is added to a bitmap of node. */
static json_t *merge_action(const struct gw_disk_tracker *tracker, const char *node,
                            const char *target, const char *source)
{
    return json_pack("{s:s, s:{s:s, s:s, s:[{s:s, s:s}]}}", "type", "block-dirty-bitmap-merge",
                     "data", "node", node, "target", target, "bitmaps", "node", tracker->node,
                     "name", source);
}

static json_t *swap_actions(const struct gw_disk_tracker *tracker)
{
    json_t *actions = json_array();

    json_array_append_new(actions, merge_action(tracker, tracker->map, ROUND_BITMAP, DIRTY_BITMAP));
    json_array_append_new(actions,
                          json_pack("{s:s, s:{s:s, s:s}}", "type", "block-dirty-bitmap-clear",
                                    "data", "node", tracker->node, "name", DIRTY_BITMAP));
    return actions;
}

/* Was nothing written since the last period began? Asked first where that is likely: taking a map costs
 * many times as much, and a question for nothing a round trip, also in the pause. 1, 0 or -errno. */
static int is_clean(struct gw_disk_tracker *tracker)
{
    const json_t *node, *bitmap;
    size_t index, place;
    json_t *nodes;
    int clean = 0, ret;

    ret = gw_qmp_execute(tracker->qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1),
                         &nodes);
    if (ret < 0)
        return ret;
    json_array_foreach(nodes, index, node)
    {
        const char *name = json_string_value(json_object_get(node, "node-name"));

        if (!name || strcmp(name, tracker->node) != 0)
            continue;
        json_array_foreach(json_object_get(node, "dirty-bitmaps"), place, bitmap)
        {
            const char *bitmap_name = json_string_value(json_object_get(bitmap, "name"));
            const json_t *count = json_object_get(bitmap, "count");

            if (bitmap_name && strcmp(bitmap_name, DIRTY_BITMAP) == 0)
                clean = json_is_integer(count) && json_integer_value(count) == 0;
        }
    }
    json_decref(nodes);
    return clean;
}

/* Ends a period, begins the next one and exports the map of the first: one round trip. What was
 * delivered is dropped before; where that fails it is merged with and comes once more. */
static int swap_periods(struct gw_disk_tracker *tracker)
{
    struct gw_qmp_call calls[3];
    struct gw_error kept;
    unsigned count = 0;
    int ret;

    if (tracker->was_delivered)
        calls[count++] = (struct gw_qmp_call){
            .command = "block-dirty-bitmap-clear",
            .arguments = json_pack("{s:s, s:s}", "node", tracker->map, "name", ROUND_BITMAP)};
    calls[count++] =
        (struct gw_qmp_call){.command = "transaction",
                             .arguments = json_pack("{s:o}", "actions", swap_actions(tracker))};
    calls[count++] =
        (struct gw_qmp_call){.command = "block-export-add",
                             .arguments = json_pack("{s:s, s:s, s:s, s:s, s:[s]}", "type", "nbd",
                                                    "id", tracker->map, "node-name", tracker->map,
                                                    "name", tracker->map, "bitmaps", ROUND_BITMAP)};
    ret = gw_qmp_execute_batch(tracker->qmp, calls, count);
    gw_qmp_batch_free(calls, count);
    tracker->has_rest |= calls[count - 2].error == 0;
    tracker->was_delivered = tracker->was_delivered && calls[0].error != 0;
    if (ret == 0 || calls[count - 1].error)
        return ret;
    gw_error_take(ret, &kept);
    gw_disk_export_delete(tracker->qmp, tracker->map);
    return gw_error_raise(&kept);
}

/* What a reply about a range adds to. */
struct reading {
    struct gw_bitmap *dirty;
    uint64_t next, end;
    bool is_broken, has_dirty;
};

static int take_extents(void *context, const char *metacontext, uint64_t offset, uint32_t *entries,
                        size_t entry_count, int *error)
{
    struct reading *reading = context;

    if (offset != reading->next || *error)
        reading->is_broken = true;
    for (size_t i = 0; i + 1 < entry_count && !reading->is_broken && reading->next < reading->end;
         i += 2) {
        uint64_t length = gw_min(entries[i], reading->end - reading->next);

        if (length == 0)
            reading->is_broken = true;
        if (length && (entries[i + 1] & 1)) {
            uint64_t first = reading->next / GW_DISK_GRANULE;
            uint64_t last = (reading->next + length - 1) / GW_DISK_GRANULE;

            gw_bitmap_set_range(reading->dirty, first, last - first + 1);
            reading->has_dirty = true;
        }
        reading->next += length;
    }
    return 0;
}

static int failed(const struct gw_disk_tracker *tracker, const char *step)
{
    return gw_fail(-EIO, "disk %s: dirty map: %s: %s", tracker->name, step,
                   nbd_get_error() ? nbd_get_error() : "no reason given");
}

/* Runs the connection until is_done, within the deadline. */
static int work_until(struct gw_disk_tracker *tracker, struct nbd_handle *nbd, int64_t cookie,
                      uint64_t deadline)
{
    for (;;) {
        int done =
            cookie ? nbd_aio_command_completed(nbd, (uint64_t)cookie) : nbd_aio_is_ready(nbd);
        int left = gw_clock_left_ms(deadline);

        if (done == 1)
            return 0;
        if (done < 0 || nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd))
            return failed(tracker, "connection to QEMU");
        if (left == 0)
            return gw_fail(-ETIMEDOUT, "disk %s: QEMU did not give its dirty map within %u s",
                           tracker->name, READ_TIMEOUT);
        if (nbd_poll(nbd, left) < 0)
            return failed(tracker, "connection to QEMU");
    }
}

static int connect_export(struct gw_disk_tracker *tracker, struct nbd_handle *nbd,
                          uint64_t deadline)
{
    static const char context[] = "qemu:dirty-bitmap:" ROUND_BITMAP;
    int ret;

    if (nbd_set_export_name(nbd, tracker->map) < 0 || nbd_add_meta_context(nbd, context) < 0 ||
        nbd_aio_connect_unix(nbd, tracker->socket) < 0)
        return failed(tracker, "connecting");
    ret = work_until(tracker, nbd, 0, deadline);
    if (ret < 0)
        return ret;
    if (nbd_can_meta_context(nbd, context) != 1)
        return gw_fail(-EIO, "disk %s: QEMU does not offer its dirty map", tracker->name);
    return 0;
}

static int read_map(struct gw_disk_tracker *tracker, struct gw_bitmap *dirty)
{
    uint64_t deadline = gw_clock_ns() + READ_TIMEOUT * GW_NS_PER_S;
    struct reading reading = {.dirty = dirty, .end = tracker->size};
    struct nbd_handle *nbd = nbd_create();
    int ret;

    if (!nbd)
        return failed(tracker, "libnbd");
    ret = connect_export(tracker, nbd, deadline);
    while (ret == 0 && reading.next < reading.end) {
        uint64_t before = reading.next, length = gw_min(STATUS_LENGTH, reading.end - reading.next);
        nbd_extent_callback callback = {.callback = take_extents, .user_data = &reading};
        int64_t cookie =
            nbd_aio_block_status(nbd, length, reading.next, callback, NBD_NULL_COMPLETION, 0);

        ret = cookie < 0 ? failed(tracker, "asking") : work_until(tracker, nbd, cookie, deadline);
        if (ret == 0 && (reading.is_broken || reading.next == before))
            ret = gw_fail(-EPROTO, "disk %s: QEMU gave a dirty map that makes no sense",
                          tracker->name);
    }
    if (ret == 0)
        nbd_aio_disconnect(nbd, 0);
    nbd_close(nbd);
    tracker->was_dirty = reading.has_dirty;
    return ret;
}

int gw_disk_tracker_collect(struct gw_disk_tracker *tracker, struct gw_bitmap *dirty)
{
    struct gw_error error;
    int ret = tracker->has_rest || tracker->was_dirty ? 0 : is_clean(tracker), deleted;

    if (ret == 0)
        ret = swap_periods(tracker);
    else if (ret > 0)
        return 0;
    if (ret < 0)
        return ret;
    ret = read_map(tracker, dirty);
    gw_error_take(ret, &error);
    deleted = gw_disk_export_delete(tracker->qmp, tracker->map);
    if (ret < 0)
        return gw_error_raise(&error);
    tracker->was_delivered = deleted == 0;
    tracker->has_rest = !tracker->was_delivered;
    return deleted;
}

/* Stops the server when no export is left. */
static int stop_server(struct gw_qmp *qmp)
{
    json_t *exports, *nodes, *node;
    size_t index;
    bool is_used;
    int ret = gw_qmp_execute(qmp, "query-block-exports", NULL, &exports);

    if (ret < 0)
        return ret;
    is_used = json_array_size(exports) > 0;
    json_decref(exports);
    ret = gw_qmp_execute(qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &nodes);
    if (ret < 0)
        return ret;
    json_array_foreach(nodes, index, node)
    {
        const char *name = json_string_value(json_object_get(node, "node-name"));

        is_used |= name && strncmp(name, MAP_PREFIX, strlen(MAP_PREFIX)) == 0;
    }
    json_decref(nodes);
    ret = is_used ? 0 : gw_qmp_execute(qmp, "nbd-server-stop", NULL, NULL);
    return ret == -EREMOTEIO ? 0 : ret; /* there is none */
}

void gw_disk_tracker_close(struct gw_disk_tracker *tracker)
{
    if (!tracker)
        return;
    /* The disk's node may be gone already (swapped out), and its bitmaps with it. */
    if (tracker->has_bitmap)
        gw_qmp_execute(tracker->qmp, "block-dirty-bitmap-remove",
                       json_pack("{s:s, s:s}", "node", tracker->node, "name", DIRTY_BITMAP), NULL);
    if (tracker->has_map)
        gw_qmp_execute(tracker->qmp, "blockdev-del", json_pack("{s:s}", "node-name", tracker->map),
                       NULL);
    if (tracker->has_server)
        stop_server(tracker->qmp);
    free(tracker);
}

static int clean_node(struct gw_qmp *qmp, const json_t *node, bool *has_server)
{
    const char *name = json_string_value(json_object_get(node, "node-name")) ?: "";
    json_t *bitmap;
    size_t index;
    int ret = 0;

    if (strncmp(name, MAP_PREFIX, strlen(MAP_PREFIX)) == 0) {
        *has_server = true;
        return gw_qmp_execute(qmp, "blockdev-del", json_pack("{s:s}", "node-name", name), NULL);
    }
    json_array_foreach(json_object_get(node, "dirty-bitmaps"), index, bitmap)
    {
        const char *bitmap_name = json_string_value(json_object_get(bitmap, "name")) ?: "";

        if (ret == 0 && strcmp(bitmap_name, DIRTY_BITMAP) == 0)
            ret = gw_qmp_execute(qmp, "block-dirty-bitmap-remove",
                                 json_pack("{s:s, s:s}", "node", name, "name", bitmap_name), NULL);
    }
    return ret;
}

int gw_disk_tracker_clean(struct gw_qmp *qmp, const char *socket_dir)
{
    json_t *exports = NULL, *nodes = NULL, *item;
    char socket[sizeof(((struct gw_disk_tracker *)0)->socket)];
    bool has_server;
    size_t index;
    int ret = name_socket(socket, sizeof(socket), socket_dir);

    if (ret == 0)
        ret = gw_qmp_execute(qmp, "query-block-exports", NULL, &exports);
    if (ret < 0)
        return ret;
    /* Who died before the first node was there, or after the last one had gone, left the server alone. QEMU takes
     * the socket away when it stops. */
    has_server = access(socket, F_OK) == 0;
    json_array_foreach(exports, index, item)
    {
        const char *id = json_string_value(json_object_get(item, "id")) ?: "";

        if (ret == 0 && (strncmp(id, MAP_PREFIX, strlen(MAP_PREFIX)) == 0 ||
                         strncmp(id, GW_READ_PREFIX, strlen(GW_READ_PREFIX)) == 0))
            ret = gw_disk_export_delete(qmp, id);
    }
    json_decref(exports);
    if (ret == 0)
        ret = gw_qmp_execute(qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &nodes);
    if (ret < 0)
        return ret;
    json_array_foreach(nodes, index, item)
    {
        if (ret == 0)
            ret = clean_node(qmp, item, &has_server);
    }
    json_decref(nodes);
    return ret == 0 && has_server ? stop_server(qmp) : ret;
}
