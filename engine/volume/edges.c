/* SPDX-License-Identifier: Apache-2.0 */
/* A volume before another one: it keeps the edges, and hands everything else on. */
#include "engine/volume/edges.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/log.h"
#include "common/memory.h"

#define EDGE ((uint64_t)1 << 20)

struct edges {
    struct gw_target_volume volume, *inner;
    struct gw_edges_options options;
    uint64_t head,
        tail;        /* [0, head) and [tail, size) are kept; between them lies the inner volume's */
    uint8_t *memory; /* the first, and behind it the last */
    /* Whoever writes first zeroes the edges, and the others wait for that. Leaf; after that nobody takes it. */
    pthread_mutex_t lock;
    _Atomic bool is_begun;
    bool
        is_written; /* the edges themselves, where they belong, by this attempt, and not for good yet */
    bool is_let_go; /* the place: others may have it */
    bool is_complete;
};

static struct edges *of(struct gw_target_volume *volume)
{
    return gw_container_of(volume, struct edges, volume);
}

static uint64_t room_of(const struct edges *edges)
{
    return edges->head + (edges->volume.size - edges->tail);
}

/* Where the byte at offset is kept, or NULL; and how many of length are in the same part. */
static uint8_t *find(const struct edges *edges, uint64_t offset, uint64_t *length)
{
    if (offset >= edges->tail)
        return edges->memory + edges->head + (offset - edges->tail);
    *length = gw_min(*length, (offset < edges->head ? edges->head : edges->tail) - offset);
    return offset < edges->head ? edges->memory + offset : NULL;
}

/* ---- the place itself ---- */

static int sync_inner(struct edges *edges)
{
    edges->inner->wanted = edges->volume.wanted;
    return edges->inner->ops->sync(edges->inner);
}

static int zero_inner(struct edges *edges, uint64_t offset, uint64_t length)
{
    return length ? edges->inner->ops->zero(edges->inner, offset, length) : 0;
}

static int zero_edges(struct edges *edges)
{
    int error = zero_inner(edges, 0, edges->head);

    return error ? error : zero_inner(edges, edges->tail, edges->volume.size - edges->tail);
}

static int begin_once(struct edges *edges)
{
    int error = 0;

    pthread_mutex_lock(&edges->lock);
    if (!atomic_load_explicit(&edges->is_begun, memory_order_relaxed)) {
        error = zero_edges(edges);
        if (!error)
            error = sync_inner(edges);
        if (!error)
            atomic_store_explicit(&edges->is_begun, true, memory_order_release);
    }
    pthread_mutex_unlock(&edges->lock);
    return error;
}

/* Before anything else is written. Not earlier: a migration that is refused leaves the place as it was. */
static int begin(struct edges *edges)
{
    return atomic_load_explicit(&edges->is_begun, memory_order_acquire) ? 0 : begin_once(edges);
}

static int write_edge(struct edges *edges, uint64_t offset, uint64_t length)
{
    const uint8_t *bytes = find(edges, offset, &length);

    /* There are zeroes already. Behind what is kept lie zeroes, too, up to the end of a page. */
    if (length == 0 || gw_memory_is_zero(bytes, gw_align_up(length, sizeof(uint64_t))))
        return 0;
    edges->is_written = true;
    return gw_target_write(edges->inner, offset, bytes, length);
}

/* So that a loss of power leaves nothing that looks whole and is not. The inner volume's complete syncs the head. */
static int write_edges(struct edges *edges)
{
    int error = begin(edges);

    if (!error)
        error = sync_inner(edges);
    if (!error)
        error = write_edge(edges, edges->tail, edges->volume.size - edges->tail);
    if (!error)
        error = sync_inner(edges);
    return error ? error : write_edge(edges, 0, edges->head);
}

static int check_edge(struct edges *edges, uint64_t offset, uint64_t length, uint8_t *buffer)
{
    uint64_t rest = length;
    int error = length ? edges->options.read(edges->inner, offset, buffer, length) : 0;

    if (error || length == 0 || memcmp(buffer, find(edges, offset, &rest), length) == 0)
        return error;
    return gw_fail(-ESTALE, "%s: somebody has written there since", edges->options.path);
}

/* Is there what was written, in the place that was let go? */
static int check_edges(struct edges *edges)
{
    uint64_t behind = edges->volume.size - edges->tail;
    uint8_t *buffer =
        malloc(gw_align_up(gw_max(gw_max(edges->head, behind), 1), GW_LOCATION_ALIGNMENT));
    int error = buffer ? 0 : gw_fail(-ENOMEM, "no memory to read %s", edges->options.path);

    if (!error)
        error = check_edge(edges, 0, edges->head, buffer);
    if (!error)
        error = check_edge(edges, edges->tail, behind, buffer);
    free(buffer);
    return error;
}

/* Of what was complete and will never be used: what it holds proved wrong, say. Where it cannot be done, people have
 * to know. */
static void take_back(struct edges *edges)
{
    int error;

    if (!edges->is_written)
        return;
    error = edges->is_let_go ? edges->options.reopen(edges->inner) : 0;
    if (!error && edges->is_let_go)
        error = check_edges(edges);
    if (!error)
        error = zero_edges(edges);
    if (error)
        gw_log(GW_LOG_WARNING,
               "what was copied to %s looks like a whole disk and is not to be used; it is left as "
               "it is: %s",
               edges->options.path, gw_error_message());
    else if (sync_inner(edges))
        gw_log(GW_LOG_INFO,
               "%s: its edges are zeroes, and may be the disk's again after a loss of power: %s",
               edges->options.path, gw_error_message());
    edges->is_written = false;
}

/* ---- the volume ---- */

static int locate(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    struct edges *edges = of(volume);
    uint8_t *kept = find(edges, offset, &length);
    int error = kept ? 0 : begin(edges);

    if (error)
        return error;
    if (!kept)
        return edges->inner->ops->locate(edges->inner, offset, length, out);
    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA, .where = GW_IN_MEMORY, .length = length, .memory = kept, .fd = -1};
    return 0;
}

static int write_bytes(struct gw_target_volume *volume, uint64_t offset, const void *from,
                       uint64_t length)
{
    struct edges *edges = of(volume);
    uint64_t part = length;
    int error;

    if (find(edges, offset, &part) || part < length)
        return gw_fail(-ENOTSUP, "%s: its edges are written in memory", volume->name);
    error = begin(edges);
    return error ? error : edges->inner->ops->write(edges->inner, offset, from, length);
}

static int zero(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    struct edges *edges = of(volume);
    uint64_t end = offset + length, part;
    int error = 0;

    for (; !error && offset < end; offset += part) {
        uint8_t *kept;

        part = end - offset;
        kept = find(edges, offset, &part);
        if (kept)
            memset(kept, 0, part);
        else if ((error = begin(edges)) == 0)
            error = zero_inner(edges, offset, part);
    }
    return error;
}

static int sync_volume(struct gw_target_volume *volume)
{
    return sync_inner(of(volume));
}

static int complete(struct gw_target_volume *volume)
{
    struct edges *edges = of(volume);
    int error = edges->is_complete ? 0 : write_edges(edges);

    if (error)
        return error;
    edges->is_let_go = true;
    error = edges->inner->ops->complete(edges->inner);
    edges->is_complete = !error;
    return error;
}

static int finish(struct gw_target_volume *volume)
{
    struct edges *edges = of(volume);
    int error = complete(volume);

    if (!error)
        error = edges->inner->ops->finish(edges->inner);
    /* From now on it is a disk, and may be anybody's. */
    if (!error)
        edges->is_written = false;
    return error;
}

static void abort_target(struct gw_target_volume *volume)
{
    take_back(of(volume));
    of(volume)->inner->ops->abort(of(volume)->inner);
}

static void free_edges(struct edges *edges)
{
    edges->inner->ops->close(edges->inner);
    if (edges->memory)
        gw_memory_free(edges->memory, gw_max(room_of(edges), 1));
    pthread_mutex_destroy(&edges->lock);
    free(edges);
}

/* One that is kept to be gone on with is no more whole than one that is not. */
static void close_target(struct gw_target_volume *volume)
{
    take_back(of(volume));
    free_edges(of(volume));
}

/* ---- its view: what the inner volume shows, with the edges as they are kept ---- */

struct view {
    struct gw_source_volume volume, *inner;
    const struct edges *edges;
};

static struct view *view_of(struct gw_source_volume *volume)
{
    return gw_container_of(volume, struct view, volume);
}

static int view_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                       struct gw_extent *out)
{
    struct view *view = view_of(volume);
    uint64_t length = end - offset;

    if (!find(view->edges, offset, &length))
        return view->inner->ops->next_extent(view->inner, offset, offset + length, out);
    *out = (struct gw_extent){.offset = offset, .length = length, .kind = GW_EXTENT_DATA};
    return 0;
}

static int view_locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                       struct gw_location *out)
{
    struct view *view = view_of(volume);
    uint8_t *kept = find(view->edges, offset, &length);

    if (!kept)
        return view->inner->ops->locate(view->inner, offset, length, out);
    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA, .where = GW_IN_MEMORY, .length = length, .memory = kept, .fd = -1};
    return 0;
}

static int view_read(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length)
{
    return view_of(volume)->inner->ops->read(view_of(volume)->inner, offset, into, length);
}

static void view_copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                        uint64_t length)
{
}

static int view_collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    return gw_fail(-ENOTSUP, "%s is at rest: nothing tracks its writes", volume->name);
}

static int view_unchanged(struct gw_source_volume *volume)
{
    return 0;
}

static void view_close(struct gw_source_volume *volume)
{
    view_of(volume)->inner->ops->close(view_of(volume)->inner);
    free(view_of(volume));
}

static const struct gw_source_ops view_ops = {
    .next_extent = view_extent,
    .locate = view_locate,
    .read = view_read,
    .copied = view_copied,
    .collect = view_collect,
    .unchanged = view_unchanged,
    .close = view_close,
};

static int make_view(struct gw_target_volume *volume, struct gw_source_volume **out)
{
    struct edges *edges = of(volume);
    struct view *view = calloc(1, sizeof(*view));
    int error = view ? edges->inner->ops->view(edges->inner, &view->inner)
                     : gw_fail(-ENOMEM, "no memory for a volume");

    if (error) {
        free(view);
        return error;
    }
    view->volume = *view->inner;
    view->volume.ops = &view_ops;
    view->edges = edges;
    *out = &view->volume;
    return 0;
}

static const struct gw_target_ops ops = {
    .locate = locate,
    .write = write_bytes,
    .zero = zero,
    .sync = sync_volume,
    .view = make_view,
    .complete = complete,
    .finish = finish,
    .abort = abort_target,
    .close = close_target,
};

int gw_edges_target_new(struct gw_target_volume *inner, const struct gw_edges_options *options,
                        struct gw_target_volume **out)
{
    struct edges *edges = calloc(1, sizeof(*edges));
    uint64_t size = inner->size;
    void *memory;
    int error;

    if (!edges) {
        inner->ops->close(inner);
        return gw_fail(-ENOMEM, "no memory for a volume");
    }
    edges->inner = inner;
    edges->volume = *inner;
    edges->volume.ops = &ops;
    edges->options = *options;
    pthread_mutex_init(&edges->lock, NULL);
    /* What lies between begins and ends where every device takes a write past the page cache. */
    edges->head = gw_min(size, EDGE);
    edges->tail = gw_max(edges->head, gw_align_down(size - edges->head, EDGE));
    error = gw_memory_new(gw_max(room_of(edges), 1), &memory);
    if (error) {
        free_edges(edges);
        return error;
    }
    edges->memory = memory;
    *out = &edges->volume;
    return 0;
}
