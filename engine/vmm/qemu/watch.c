/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads QEMU's events in their order. What each means is the table at the end; whose `stop` and
 * `cont` it was follows from when it came.
 */
#include "engine/vmm/qemu/watch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "engine/vmm/qemu/migrate.h"

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name)) ?: "";
}

/* ---- what the VM consists of ---- */

/* Names under one QOM folder, as an object, so that their order does not matter. */
static void add_names(json_t *shape, const json_t *properties)
{
    json_t *item;
    size_t index;

    json_array_foreach((json_t *)properties, index, item)
    {
        if (strncmp(text_of(item, "type"), "child<", 6) == 0)
            json_object_set_new(shape, text_of(item, "name"), json_string(text_of(item, "type")));
    }
}

/* Each disk's device with the node and the size that it has. */
static void add_disks(json_t *shape, const json_t *blocks)
{
    json_t *item;
    size_t index;

    json_array_foreach((json_t *)blocks, index, item)
    {
        const json_t *inserted = json_object_get(item, "inserted");
        const json_t *image = json_object_get(inserted, "image");
        char name[256];

        snprintf(name, sizeof(name), "disk %.120s %.120s", text_of(item, "device"),
                 text_of(item, "qdev"));
        json_object_set_new(shape, name,
                            json_pack("{s:s, s:I}", "node", text_of(inserted, "node-name"), "size",
                                      json_integer_value(json_object_get(image, "virtual-size"))));
    }
}

#define SHAPE_CALLS 3u

static void ask_shape(struct gw_qmp_call calls[SHAPE_CALLS])
{
    calls[0] = (struct gw_qmp_call){.command = "qom-list",
                                    .arguments = json_pack("{s:s}", "path", "/machine/peripheral")};
    calls[1] = (struct gw_qmp_call){
        .command = "qom-list", .arguments = json_pack("{s:s}", "path", "/machine/peripheral-anon")};
    calls[2] = (struct gw_qmp_call){.command = "query-block"};
}

/* From the answers, which are dropped. */
static int take_shape(struct gw_qmp_call calls[SHAPE_CALLS], json_t **out)
{
    json_t *shape = json_object();

    if (shape) {
        add_names(shape, calls[0].result);
        add_names(shape, calls[1].result);
        add_disks(shape, calls[2].result);
    }
    gw_qmp_batch_free(calls, SHAPE_CALLS);
    *out = shape;
    return shape ? 0 : gw_fail(-ENOMEM, "no memory for what the VM consists of");
}

static int read_shape(struct gw_qmp *qmp, json_t **out)
{
    struct gw_qmp_call calls[SHAPE_CALLS];
    int ret;

    ask_shape(calls);
    ret = gw_qmp_execute_batch(qmp, calls, SHAPE_CALLS);
    if (ret == 0)
        return take_shape(calls, out);
    gw_qmp_batch_free(calls, SHAPE_CALLS);
    return ret;
}

/* The first thing that is in one and not, or not the same, in the other. */
static const char *first_difference(json_t *in, json_t *other)
{
    const char *name;
    json_t *value;

    json_object_foreach(in, name, value)
    {
        if (!json_equal(value, json_object_get(other, name)))
            return name;
    }
    return NULL;
}

/* ---- events ---- */

__attribute__((format(printf, 2, 3))) static void end_move(struct gw_vm_watch *watch,
                                                           const char *format, ...)
{
    va_list arguments;

    if (watch->end.code)
        return;
    watch->end.code = -EBUSY;
    va_start(arguments, format);
    vsnprintf(watch->end.text, sizeof(watch->end.text), format, arguments);
    va_end(arguments);
}

static void on_stop(struct gw_vm_watch *watch, const json_t *data)
{
    if (!watch->is_held && watch->is_running)
        gw_log(GW_LOG_INFO, "somebody paused the VM; it arrives paused unless it is continued");
    watch->is_running = false;
}

static void on_resume(struct gw_vm_watch *watch, const json_t *data)
{
    if (watch->is_held || watch->is_last)
        end_move(watch, "somebody continued the VM while it was stopped for the move");
    watch->is_running = true;
    watch->was_continued |= watch->is_last;
}

static void on_reset(struct gw_vm_watch *watch, const json_t *data)
{
    if (watch->is_last)
        end_move(watch, "the VM was reset (%s) in the middle of the handover",
                 text_of(data, "reason"));
    watch->resets++;
    gw_log(GW_LOG_INFO, "the VM was reset (%s); the move goes on", text_of(data, "reason"));
}

static void on_balloon(struct gw_vm_watch *watch, const json_t *data)
{
    watch->was_ballooned = true;
}

static void on_shutdown(struct gw_vm_watch *watch, const json_t *data)
{
    const char *reason = text_of(data, "reason");

    watch->is_ending = true;
    if (strcmp(reason, "guest-shutdown") == 0)
        end_move(watch, "the guest powered itself off during the move");
    else if (strcmp(reason, "guest-panic") == 0)
        end_move(watch, "the guest panicked during the move");
    else
        end_move(watch, "the VM was ended during the move (%s)", reason);
}

static void on_panic(struct gw_vm_watch *watch, const json_t *data)
{
    if (strcmp(text_of(data, "action"), "run") != 0)
        end_move(watch, "the guest panicked during the move");
}

static void on_watchdog(struct gw_vm_watch *watch, const json_t *data)
{
    const char *action = text_of(data, "action");

    if (strcmp(action, "pause") == 0 || strcmp(action, "shutdown") == 0 ||
        strcmp(action, "poweroff") == 0)
        end_move(watch, "the guest's watchdog ran out during the move (%s)", action);
}

static void on_suspend(struct gw_vm_watch *watch, const json_t *data)
{
    end_move(watch, "the guest suspended itself during the move; wake it up and move it again");
}

static void on_io_error(struct gw_vm_watch *watch, const json_t *data)
{
    const char *disk = text_of(data, "device");

    if (!*disk)
        disk = text_of(data, "node-name");
    if (strcmp(text_of(data, "action"), "stop") == 0)
        end_move(watch, "the guest stopped on an I/O error of its disk %s (%s) on the source", disk,
                 text_of(data, "reason"));
    else
        gw_log(GW_LOG_WARNING, "the guest had an I/O error of its disk %s (%s)", disk,
               text_of(data, "reason"));
}

static void on_unplug(struct gw_vm_watch *watch, const json_t *data)
{
    const char *device = text_of(data, "device"), *path = text_of(data, "path");

    /* The inner half of a virtio device goes with it, and is told on its own. */
    if (*device || !strstr(path, "/virtio-backend"))
        end_move(watch, "the device %s was unplugged during the move; move the VM again",
                 *device ? device : path);
}

static const struct {
    const char *name;
    void (*take)(struct gw_vm_watch *watch, const json_t *data);
} meanings[] = {
    {"STOP", on_stop},
    {"RESUME", on_resume},
    {"RESET", on_reset},
    {"SHUTDOWN", on_shutdown},
    {"GUEST_PANICKED", on_panic},
    {"WATCHDOG", on_watchdog},
    {"SUSPEND", on_suspend},
    {"BLOCK_IO_ERROR", on_io_error},
    {"DEVICE_DELETED", on_unplug},
    {"BALLOON_CHANGE", on_balloon},
};

static void take(struct gw_vm_watch *watch, const json_t *event)
{
    const char *name = text_of(event, "event");

    for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++) {
        if (strcmp(name, meanings[i].name) == 0)
            meanings[i].take(watch, json_object_get(event, "data"));
    }
}

/* Takes every event that has come; the first of that name is passed over: it is of godwit's own
 * making. */
static int take_all(struct gw_vm_watch *watch, const char *own)
{
    json_t *event;
    int ret;

    while ((ret = gw_qmp_next_event(watch->qmp, &event)) == 0) {
        if (own && strcmp(text_of(event, "event"), own) == 0)
            own = NULL;
        else
            take(watch, event);
        json_decref(event);
    }
    if (watch->end.code)
        return gw_error_raise(&watch->end);
    return ret == -EAGAIN ? 0 : ret;
}

int gw_vm_watch_open(struct gw_qmp *qmp, bool is_running, struct gw_vm_watch *out)
{
    struct gw_vm_watch watch = {.qmp = qmp, .is_running = is_running};
    json_t *event;
    int ret = read_shape(qmp, &watch.shape);

    if (ret < 0)
        return ret;
    while (gw_qmp_next_event(qmp, &event) == 0)
        json_decref(event);
    *out = watch;
    return 0;
}

void gw_vm_watch_close(struct gw_vm_watch *watch)
{
    json_decref(watch->shape);
    watch->shape = NULL;
}

int gw_vm_watch_look(struct gw_vm_watch *watch)
{
    return take_all(watch, NULL);
}

/* now is taken over. */
static int compare(struct gw_vm_watch *watch, json_t *now)
{
    const char *name = first_difference(now, watch->shape);

    if (name)
        end_move(watch,
                 json_object_get(watch->shape, name)
                     ? "%s changed during the move (its image or its size); move the VM again"
                     : "%s was plugged in during the move; move the VM again",
                 name);
    name = first_difference(watch->shape, now);
    if (name)
        end_move(watch, "%s was unplugged during the move; move the VM again", name);
    json_decref(now);
    return take_all(watch, NULL);
}

int gw_vm_watch_compare(struct gw_vm_watch *watch)
{
    json_t *now;
    int ret = read_shape(watch->qmp, &now);

    return ret < 0 ? ret : compare(watch, now);
}

int gw_vm_watch_stop(struct gw_vm_watch *watch, bool is_last)
{
    struct gw_qmp_call calls[SHAPE_CALLS] = {0};
    json_t *now = NULL;
    bool was_running;
    int ret = gw_vm_watch_look(watch);

    if (ret < 0)
        return ret;
    if (is_last)
        ask_shape(calls);
    ret = gw_vm_stop_and_ask(watch->qmp, &was_running, calls, is_last ? SHAPE_CALLS : 0);
    /* A stop that failed may have stopped the guest all the same, or may yet. */
    watch->is_held = was_running;
    watch->is_last = is_last;
    if (ret < 0) {
        gw_qmp_batch_free(calls, SHAPE_CALLS);
        /* An event says more than a state. */
        take_all(watch, was_running ? "STOP" : NULL);
        return watch->end.code ? gw_error_raise(&watch->end) : ret;
    }
    if (is_last)
        ret = take_shape(calls, &now);
    if (ret == 0)
        ret = take_all(watch, was_running ? "STOP" : NULL);
    if (ret == 0 && now)
        return compare(watch, now);
    json_decref(now);
    return ret;
}

int gw_vm_watch_cont(struct gw_vm_watch *watch)
{
    int ret;

    if (!watch->is_held)
        return 0;
    ret = gw_vm_watch_look(watch);
    if (ret < 0)
        return ret;
    ret = gw_vm_cont(watch->qmp);
    if (ret < 0)
        return ret;
    watch->is_held = watch->is_last = false;
    /* gw_vm_cont has taken its own RESUME. */
    return take_all(watch, NULL);
}

int gw_vm_watch_still(struct gw_vm_watch *watch)
{
    char state[32];
    int ret = gw_vm_status(watch->qmp, state, sizeof(state));

    /* Whatever happened before the answer has been told before it. */
    if (ret == 0)
        ret = gw_vm_watch_look(watch);
    if (ret == 0 && strcmp(state, "running") == 0)
        ret = gw_fail(-EBUSY, "somebody continued the VM in the middle of the handover");
    return ret;
}
