/* SPDX-License-Identifier: Apache-2.0 */
/* The order in which guest RAM is registered. It registers nothing itself. */
#include "engine/precopy/windows.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"

/* Windows that wait for the target's answer. */
#define ASKED_MAX 3u
/* Windows that the target has not answered about in time before no more is asked for in a round. */
#define PASSED_MAX 8u
/* Windows that the copy has not reached: enough that it never waits, few enough that registering
 * goes along with copying. */
#define AHEAD_MAX 4u
/* Windows of a guest so large that the usual size would need more than half of GW_WINDOWS_MAX. */
#define WINDOWS_GOAL (GW_WINDOWS_MAX / 2)
/* Pieces of the smallest size that could not be registered before no more is tried. */
#define FAILURES_MAX 4u
/* A range of which less than this part is dirty is not worth a registration: pinning a page costs about
 * as much as copying it does. */
#define WORTH_PART 4u
/* How long lanes may take to join or to hear of a window, and the target to answer about one, before the
 * copy goes on without. */
#define PATIENCE_NS (2 * GW_NS_PER_S)
/* How long a round waits at its end for windows that are being closed. */
#define SETTLE_NS (5 * GW_NS_PER_S)

static_assert(PASSED_MAX + ASKED_MAX + AHEAD_MAX < GW_WINDOWS_MAX, "there is room for more");

enum state {
    STATE_ASKED,
    STATE_TELLING, /* the target has it; lanes hear of it */
    STATE_OPEN,
    STATE_CLOSING,
};

/* What the walk does at a place. */
enum step { STEP_NONE, STEP_ON, STEP_WAIT };

struct item {
    struct gw_window window;
    enum state state;
    uint64_t since_ns;
    bool is_left;  /* by our lanes, and no longer registered here */
    bool is_ended; /* at the target */
    bool
        is_passed; /* asked for: its range no longer waits for the answer, which may come all the same */
};

struct gw_windows {
    struct gw_windows_options options;
    struct gw_round *round; /* NULL between rounds */
    struct item items[GW_WINDOWS_MAX];
    unsigned count; /* oldest first */
    /* The walk: member is the volume of the round that is walked; what lies before position is
     * settled or has an item. Windows of earlier rounds lie behind it, too. */
    unsigned member;
    bool is_walking;
    uint64_t position, horizon;
    uint64_t window_bytes, begun_ns;
    bool is_target_full;
    unsigned failures; /* pieces in a row that could not be registered, however small */
    char reason[256];  /* why the target opened no more */
    char note[320];
};

int gw_windows_new(const struct gw_windows_options *options, struct gw_windows **out)
{
    struct gw_windows *windows = calloc(1, sizeof(*windows));

    if (!windows)
        return gw_fail(-ENOMEM, "no memory for windows");
    windows->options = *options;
    *out = windows;
    return 0;
}

void gw_windows_free(struct gw_windows *windows)
{
    free(windows);
}

const char *gw_windows_note(const struct gw_windows *windows)
{
    return windows->note;
}

static void set_note(struct gw_windows *windows, const char *volume, const char *reason)
{
    char note[sizeof(windows->note)];

    snprintf(note, sizeof(note), "memory %s goes through slots in part: %s", volume, reason);
    if (strcmp(note, windows->note) == 0)
        return;
    memcpy(windows->note, note, sizeof(note));
    gw_log(GW_LOG_WARNING, "%s", windows->note);
}

/* ---- the volumes of a round ---- */

/* Says of RAM why it is copied, where it is. */
static void note_copied(struct gw_windows *windows)
{
    struct gw_source_volume *volume;
    bool is_first_pass;
    uint16_t index;

    for (unsigned i = 0; gw_round_member(windows->round, i, &index, &volume, &is_first_pass); i++) {
        if (volume->kind != GW_VOLUME_RAM)
            continue;
        if (volume->is_punched)
            snprintf(windows->note, sizeof(windows->note),
                     "memory %s goes through slots: the VM's balloon or virtio-mem takes pages out "
                     "of it",
                     volume->name);
        else if (volume->needs_copy)
            snprintf(windows->note, sizeof(windows->note),
                     "memory %s goes through slots: its tracker compares what is sent",
                     volume->name);
    }
}

/* The next volume from member on that windows are for; false when there is none. */
static bool find_member(struct gw_windows *windows, uint16_t *index,
                        struct gw_source_volume **volume)
{
    bool is_first_pass;

    for (; gw_round_member(windows->round, windows->member, index, volume, &is_first_pass);
         windows->member++)
        if ((*volume)->kind == GW_VOLUME_RAM && !(*volume)->needs_copy && !(*volume)->is_punched)
            return true;
    return false;
}

static void choose_size(struct gw_windows *windows, uint64_t ram_bytes)
{
    uint64_t size = gw_max(GW_WINDOW_USUAL, ram_bytes / WINDOWS_GOAL);

    windows->window_bytes = gw_min(gw_align_up(size, GW_WINDOW_MIN), GW_WINDOW_MAX);
}

void gw_windows_begin(struct gw_windows *windows, struct gw_round *round)
{
    struct gw_source_volume *volume;
    uint64_t ram_bytes = 0;
    uint16_t index;

    windows->round = round;
    windows->member = 0;
    windows->is_walking = false;
    windows->begun_ns = gw_clock_ns();
    if (gw_sender_window_use(windows->options.sender) == GW_WINDOWS_NONE)
        return;
    note_copied(windows);
    if (gw_round_is_still(round))
        return;
    for (; find_member(windows, &index, &volume); windows->member++) {
        gw_round_set_horizon(round, index, 0);
        ram_bytes += volume->size;
        windows->is_walking = true;
    }
    /* What the limits made of it stays. */
    if (windows->window_bytes == 0)
        choose_size(windows, ram_bytes);
    windows->member = 0;
    windows->position = windows->horizon = 0;
    windows->is_target_full = false;
}

void gw_windows_end(struct gw_windows *windows)
{
    windows->round = NULL;
    windows->is_walking = false;
}

/* Lanes may claim all there is. */
static void lift(struct gw_windows *windows)
{
    struct gw_source_volume *volume;
    uint16_t index;

    for (; find_member(windows, &index, &volume); windows->member++)
        gw_sender_set_horizon(windows->options.sender, index, UINT64_MAX);
    windows->is_walking = false;
}

/* ---- items ---- */

static unsigned count_in(const struct gw_windows *windows, enum state state)
{
    unsigned count = 0;

    for (unsigned i = 0; i < windows->count; i++)
        count += windows->items[i].state == state;
    return count;
}

static unsigned count_passed(const struct gw_windows *windows)
{
    unsigned count = 0;

    for (unsigned i = 0; i < windows->count; i++)
        count += windows->items[i].is_passed;
    return count;
}

static void set_state(struct item *item, enum state state)
{
    item->state = state;
    item->since_ns = gw_clock_ns();
    item->is_passed = false;
}

static void remove_item(struct gw_windows *windows, unsigned place)
{
    windows->count--;
    memmove(&windows->items[place], &windows->items[place + 1],
            (windows->count - place) * sizeof(windows->items[0]));
}

static struct item *find_item(struct gw_windows *windows, uint32_t number)
{
    for (unsigned i = 0; i < windows->count; i++)
        if (windows->items[i].window.number == number)
            return &windows->items[i];
    return NULL;
}

static void close_item(struct gw_windows *windows, struct item *item)
{
    gw_sender_window_close(windows->options.sender, item->window.number);
    set_state(item, STATE_CLOSING);
}

/* Moves one item on. True: it is gone. */
static bool advance(struct gw_windows *windows, struct item *item)
{
    struct gw_sender *sender = windows->options.sender;
    uint32_t number = item->window.number;

    item->is_passed |= item->state == STATE_ASKED && gw_clock_ns() - item->since_ns > PATIENCE_NS;
    if (item->state == STATE_TELLING &&
        (gw_sender_window_is_told(sender, number) || gw_clock_ns() - item->since_ns > PATIENCE_NS))
        set_state(item, STATE_OPEN);
    if (item->state == STATE_CLOSING && !item->is_left &&
        gw_sender_window_is_left(sender, number)) {
        gw_sender_window_drop(sender, number);
        item->is_left = true;
    }
    if (item->state == STATE_CLOSING)
        return item->is_left && item->is_ended;
    /* The last channel of its rail took it along, at the target too. */
    return item->state != STATE_ASKED && !gw_sender_window_is_known(sender, number);
}

int gw_windows_answer(struct gw_windows *windows, uint32_t number, bool is_open, bool is_full,
                      const char *reason)
{
    struct item *item = find_item(windows, number);
    bool was_passed = item && item->is_passed;

    if (!item || item->state != STATE_ASKED)
        return gw_fail(-EPROTO, "the target answers about window %u, which nobody asked for",
                       number);
    if (is_open) {
        gw_log(GW_LOG_DEBUG, "window %u: %llu bytes of memory are registered on both sides", number,
               (unsigned long long)item->window.length);
        windows->failures = 0;
        set_state(item, STATE_TELLING);
        return 0;
    }
    item->is_ended = true;
    close_item(windows, item);
    windows->is_target_full |= is_full;
    if (is_full && windows->is_walking && !was_passed)
        windows->position = gw_min(windows->position, item->window.offset);
    snprintf(windows->reason, sizeof(windows->reason), "the target: %s", reason);
    return 0;
}

void gw_windows_closed(struct gw_windows *windows, uint32_t number)
{
    struct item *item = find_item(windows, number);

    windows->is_target_full = false;
    if (item)
        item->is_ended = true;
}

void gw_windows_lost(struct gw_windows *windows)
{
    for (unsigned i = 0; i < windows->count; i++) {
        struct item *item = &windows->items[i];

        /* Asked for and never answered: asked again. */
        if (item->state == STATE_ASKED && windows->is_walking && !item->is_passed)
            windows->position = gw_min(windows->position, item->window.offset);
        if (item->state != STATE_CLOSING)
            gw_sender_window_close(windows->options.sender, item->window.number);
        if (!item->is_left)
            gw_sender_window_drop(windows->options.sender, item->window.number);
    }
    windows->count = 0;
    windows->is_target_full = false;
    windows->begun_ns = gw_clock_ns();
}

bool gw_windows_is_settled(const struct gw_windows *windows)
{
    for (unsigned i = 0; i < windows->count; i++)
        if (windows->items[i].state != STATE_OPEN && !windows->items[i].is_passed &&
            gw_clock_ns() - windows->items[i].since_ns < SETTLE_NS)
            return false;
    return true;
}

/* ---- the walk ---- */

/* Those that the copy will come to before it comes to the walk. */
static unsigned count_ahead(const struct gw_windows *windows, uint16_t volume)
{
    uint64_t position = gw_round_position(windows->round, volume);
    unsigned count = 0;

    for (unsigned i = 0; i < windows->count; i++) {
        const struct item *item = &windows->items[i];

        count += item->state != STATE_CLOSING && item->window.volume == volume &&
                 item->window.offset >= position && item->window.offset < windows->position;
    }
    return count;
}

static bool is_behind(const struct gw_windows *windows, const struct gw_window *window)
{
    return gw_round_position(windows->round, window->volume) >= window->offset + window->length;
}

/* Where a window comes in the walk, from now on. */
static bool is_later(const struct gw_window *a, const struct gw_window *b)
{
    return a->volume != b->volume ? a->volume > b->volume : a->offset > b->offset;
}

/* Closes a window to make room: the oldest that the copy has left behind; when there is none, and none
 * that the copy is about to leave, one of an earlier round that the copy comes to last. Answers
 * whether there is something to wait for. */
static bool make_room(struct gw_windows *windows, uint16_t volume)
{
    struct item *last = NULL;

    if (count_in(windows, STATE_CLOSING) > 0)
        return true;
    for (unsigned i = 0; i < windows->count; i++) {
        struct item *item = &windows->items[i];

        if (item->state != STATE_OPEN)
            continue;
        if (is_behind(windows, &item->window)) {
            close_item(windows, item);
            return true;
        }
        if (!last || is_later(&item->window, &last->window))
            last = item;
    }
    if (last && count_ahead(windows, volume) == 0)
        close_item(windows, last);
    return windows->count > count_passed(windows);
}

/* Does the walk stand in a window? It steps over one; one that is being closed is waited for, because
 * no range is registered twice. */
static enum step step_over(struct gw_windows *windows, uint16_t index)
{
    for (unsigned i = 0; i < windows->count; i++) {
        const struct item *item = &windows->items[i];

        if (item->window.volume != index ||
            windows->position - item->window.offset >= item->window.length)
            continue;
        if (item->state == STATE_CLOSING && gw_clock_ns() - item->since_ns < PATIENCE_NS)
            return STEP_WAIT;
        windows->position = item->window.offset + item->window.length;
        return STEP_ON;
    }
    return STEP_NONE;
}

/* The next range from position on that is worth a window (STEP_NONE), or where the walk stands: at a
 * place that needs none, which is behind it then (STEP_ON), or at one that it has to wait for. */
static int next_run(struct gw_windows *windows, uint16_t index, struct gw_source_volume *volume,
                    struct gw_window *out)
{
    enum step step = step_over(windows, index);
    struct gw_extent extent;
    uint64_t end, length;
    int error;

    if (step != STEP_NONE)
        return (int)step;
    error = volume->ops->next_extent(
        volume, windows->position, gw_min(windows->position + windows->window_bytes, volume->size),
        &extent);
    if (error)
        return error;
    end = extent.offset + extent.length;
    for (unsigned i = 0; i < windows->count; i++)
        if (windows->items[i].window.volume == index &&
            windows->items[i].window.offset > windows->position)
            end = gw_min(end, windows->items[i].window.offset);
    if (extent.kind != GW_EXTENT_DATA || end - windows->position < GW_WINDOW_MIN) {
        windows->position = end;
        return STEP_ON;
    }
    length = gw_min(end - windows->position, windows->window_bytes);
    if (gw_round_covers(windows->round, index, windows->position, length) < length / WORTH_PART) {
        windows->position += length;
        return STEP_ON;
    }
    *out = (struct gw_window){.volume = index, .offset = windows->position, .length = length};
    return STEP_NONE;
}

/* This piece goes through slots, and after a few of them all the rest. */
static void pass_by(struct gw_windows *windows, const char *name, const struct gw_window *window)
{
    windows->position += window->length;
    if (++windows->failures < FAILURES_MAX)
        return;
    set_note(windows, name, gw_error_message());
    lift(windows);
}

/* There is no room, and nothing that will make any: smaller windows, or none. */
static void go_without(struct gw_windows *windows, const char *name, const struct gw_window *window)
{
    windows->is_target_full = false;
    if (windows->window_bytes > GW_WINDOW_MIN) {
        windows->window_bytes =
            gw_max(gw_align_down(windows->window_bytes / 2, GW_WINDOW_MIN), GW_WINDOW_MIN);
        return;
    }
    pass_by(windows, name, window);
}

/* Opens one window. 1 when the walk may go on, 0 when it has to wait, or -errno. */
static int open_one(struct gw_windows *windows, const char *name, struct gw_window *window)
{
    struct item *item = &windows->items[windows->count];
    int error =
        windows->is_target_full || windows->count == GW_WINDOWS_MAX
            ? gw_fail(-ENOMEM, "%s", windows->is_target_full ? windows->reason : "too many windows")
            : gw_sender_window_open(windows->options.sender, window);

    if (error == -ENOMEM) {
        if (make_room(windows, window->volume))
            return 0;
        go_without(windows, name, window);
        return 1;
    }
    if (error) {
        pass_by(windows, name, window);
        return 1;
    }
    *item = (struct item){.window = *window, .since_ns = gw_clock_ns()};
    windows->count++;
    windows->position = window->offset + window->length;
    return windows->options.ask(windows->options.context, window) ? -EIO : 1;
}

/* What lies before the first window that is not settled may be claimed. */
static void raise_horizon(struct gw_windows *windows, uint16_t index, uint64_t size)
{
    uint64_t horizon = windows->position;

    for (unsigned i = 0; i < windows->count; i++) {
        const struct item *item = &windows->items[i];

        if (item->window.volume == index && !item->is_passed &&
            (item->state == STATE_ASKED || item->state == STATE_TELLING))
            horizon = gw_min(horizon, item->window.offset);
    }
    if (horizon == size) {
        gw_sender_set_horizon(windows->options.sender, index, UINT64_MAX);
        windows->member++;
        windows->position = windows->horizon = 0;
    } else if (horizon > windows->horizon) {
        gw_sender_set_horizon(windows->options.sender, index, horizon);
        windows->horizon = horizon;
    }
}

static int walk(struct gw_windows *windows)
{
    struct gw_source_volume *volume;
    uint16_t index;
    int result = 1;

    if (!find_member(windows, &index, &volume)) {
        windows->is_walking = false;
        return 0;
    }
    while (result > 0 && windows->is_walking && windows->position < volume->size &&
           count_in(windows, STATE_ASKED) - count_passed(windows) < ASKED_MAX &&
           count_ahead(windows, index) < AHEAD_MAX) {
        struct gw_window window;

        result = next_run(windows, index, volume, &window);
        if (result == STEP_NONE)
            result = open_one(windows, volume->name, &window);
        else if (result == STEP_WAIT)
            result = 0;
    }
    if (result >= 0 && windows->is_walking)
        raise_horizon(windows, index, volume->size);
    return result < 0 ? result : 0;
}

/* The target answers about nothing: the rest of the round goes through slots. */
static void give_up(struct gw_windows *windows)
{
    struct gw_source_volume *volume;
    uint16_t index;

    if (find_member(windows, &index, &volume))
        set_note(windows, volume->name, "the target does not answer about windows");
    lift(windows);
}

int gw_windows_step(struct gw_windows *windows)
{
    enum gw_window_use use;

    if (!windows->round)
        return 0;
    for (unsigned i = 0; i < windows->count;)
        if (advance(windows, &windows->items[i]))
            remove_item(windows, i);
        else
            i++;
    if (windows->is_walking && count_passed(windows) >= PASSED_MAX)
        give_up(windows);
    if (!windows->is_walking)
        return 0;
    use = gw_sender_window_use(windows->options.sender);
    if (use == GW_WINDOWS_NONE)
        lift(windows);
    else if (use == GW_WINDOWS_READY ||
             (use == GW_WINDOWS_PARTLY && gw_clock_ns() - windows->begun_ns > PATIENCE_NS))
        return walk(windows);
    return 0;
}
