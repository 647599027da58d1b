/* SPDX-License-Identifier: Apache-2.0 */
/* The device-state stream and the run state. Knows nothing of RAM, disks or the other host. */
#include "engine/vmm/qemu/migrate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"

#define STOP_TIMEOUT_MS 30000u
#define FD_NAME         "godwit-state"
/* How often QEMU is asked while no event comes. */
#define LOOK_INTERVAL_MS    5u
#define CLEANUP_PATIENCE_NS (1 * GW_NS_PER_S)
#define CLEANUP_WAIT_US     2000

int gw_vm_status(struct gw_qmp *qmp, char *state, size_t size)
{
    json_t *value;
    int ret = gw_qmp_execute(qmp, "query-status", NULL, &value);

    if (ret < 0)
        return ret;
    snprintf(state, size, "%s", json_string_value(json_object_get(value, "status")) ?: "unknown");
    json_decref(value);
    return 0;
}

/* The run state in the answer of call. */
static const char *state_of(const struct gw_qmp_call *call)
{
    return json_string_value(json_object_get(call->result, "status")) ?: "unknown";
}

/* States in which a guest stands still and nothing has happened to it. */
static bool is_plainly_stopped(const char *state)
{
    return strcmp(state, "paused") == 0 || strcmp(state, "prelaunch") == 0 ||
           strcmp(state, "postmigrate") == 0;
}

int gw_vm_stop(struct gw_qmp *qmp, bool *was_running)
{
    return gw_vm_stop_and_ask(qmp, was_running, NULL, 0);
}

int gw_vm_stop_and_ask(struct gw_qmp *qmp, bool *was_running, struct gw_qmp_call *questions,
                       unsigned count)
{
    /* The answer to stop comes when all I/O in flight has ended. One that runs not is not changed
     * by it. */
    struct gw_qmp_call calls[GW_QMP_BATCH_MAX] = {
        {.command = "query-status"}, {.command = "stop"}, {.command = "query-status"}};
    bool is_stopped;
    int ret;

    for (unsigned i = 0; i < count; i++)
        calls[3 + i] = questions[i];
    gw_qmp_set_timeout(qmp, STOP_TIMEOUT_MS);
    ret = gw_qmp_execute_batch(qmp, calls, 3 + count);
    gw_qmp_set_timeout(qmp, GW_QMP_TIMEOUT_MS);
    for (unsigned i = 0; i < count; i++)
        questions[i] = calls[3 + i];
    *was_running = strcmp(state_of(&calls[0]), "running") == 0;
    is_stopped = is_plainly_stopped(state_of(&calls[2]));
    if (ret == 0 && !*was_running && !is_stopped)
        ret =
            gw_fail(-EBUSY, "the VM is in the state \"%s\" and cannot be stopped for the handover",
                    state_of(&calls[2]));
    else if (ret == 0 && !is_stopped)
        ret = gw_fail(-EIO, "the VM was stopped, but is in the state \"%s\"", state_of(&calls[2]));
    gw_qmp_batch_free(calls, 3);
    return ret;
}

int gw_vm_cont(struct gw_qmp *qmp)
{
    char state[32];
    int ret;

    gw_qmp_drop_events(qmp, "RESUME");
    ret = gw_qmp_execute(qmp, "cont", NULL, NULL);
    /* QEMU tells RESUME before it answers. The guest may have stopped again by now, which is
     * something else than not to have run. */
    if (ret < 0 || gw_qmp_wait_event(qmp, "RESUME", NULL, NULL, 0, NULL) == 0)
        return ret;
    ret = gw_vm_status(qmp, state, sizeof(state));
    if (ret < 0 || strcmp(state, "running") == 0)
        return ret;
    ret = gw_qmp_wait_event(qmp, "RESUME", NULL, NULL, 2000, NULL);
    return ret < 0 ? gw_fail(-EIO, "QEMU accepted cont, but the VM is in the state \"%s\"", state)
                   : 0;
}

static int migration_status(struct gw_qmp *qmp, json_t **info, const char **status)
{
    int ret = gw_qmp_execute(qmp, "query-migrate", NULL, info);

    if (ret < 0)
        return ret;
    *status = json_string_value(json_object_get(*info, "status")) ?: "none";
    return 0;
}

static bool is_under_way(const char *status)
{
    static const char *const ended[] = {"none", "completed", "failed", "cancelled"};

    for (size_t i = 0; i < sizeof(ended) / sizeof(ended[0]); i++) {
        if (strcmp(status, ended[i]) == 0)
            return false;
    }
    return true;
}

/* Waits a little longer each time: the first looks matter for the pause. */
static void pause_between(unsigned look)
{
    usleep(look < 20 ? 500 : 5000);
}

/* Waits until no migration is under way and the run state has followed. */
static int settle(struct gw_qmp *qmp)
{
    uint64_t deadline = gw_clock_ns() + 5 * GW_NS_PER_S;

    for (unsigned look = 0;; look++) {
        const char *status;
        char state[32];
        bool is_ended;
        json_t *info;
        int ret = migration_status(qmp, &info, &status);

        if (ret < 0)
            return ret;
        is_ended = !is_under_way(status);
        json_decref(info);
        ret = gw_vm_status(qmp, state, sizeof(state));
        if (ret < 0)
            return ret;
        if (is_ended && strcmp(state, "finish-migrate") != 0)
            return 0;
        if (gw_clock_left_ms(deadline) == 0)
            return gw_fail(-ETIMEDOUT, "QEMU did not end its migration within 5 s");
        pause_between(look);
    }
}

int gw_vm_let_go(struct gw_qmp *qmp)
{
    char state[32];
    int ret = gw_vm_status(qmp, state, sizeof(state));

    if (ret < 0 || strcmp(state, "running") == 0)
        return ret;
    if (is_plainly_stopped(state))
        return gw_vm_cont(qmp);
    if (strcmp(state, "finish-migrate") == 0) {
        ret = settle(qmp);
        return ret < 0 ? ret : gw_vm_cont(qmp);
    }
    gw_log(GW_LOG_INFO, "the VM is in the state \"%s\" by its own doing and is left so", state);
    return 0;
}

int gw_vm_announce(struct gw_qmp *qmp)
{
    return gw_qmp_execute(
        qmp, "announce-self",
        json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 100),
        NULL);
}

/* Capabilities that a move changes at the source. "events": QEMU says itself when a migration ends. */
static const char *const changed[] = {"x-ignore-shared", "events"};

static int set_capabilities(struct gw_qmp *qmp, bool is_target)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < sizeof(changed) / sizeof(changed[0]); i++)
        json_array_append_new(list, json_pack("{s:s, s:b}", "capability", changed[i], "state", 1));
    if (is_target && list)
        json_array_append_new(
            list, json_pack("{s:s, s:b}", "capability", "late-block-activate", "state", 1));
    return gw_qmp_execute(qmp, "migrate-set-capabilities", json_pack("{s:o}", "capabilities", list),
                          NULL);
}

int gw_vm_prepare_source(struct gw_qmp *qmp)
{
    const char *status;
    json_t *info;
    int ret = migration_status(qmp, &info, &status);

    if (ret < 0)
        return ret;
    if (is_under_way(status))
        ret = gw_fail(-EBUSY, "QEMU is already migrating (%s); end that first", status);
    json_decref(info);
    if (ret == 0)
        ret = set_capabilities(qmp, false);
    if (ret == 0)
        ret = gw_qmp_execute(qmp, "migrate-set-parameters",
                             json_pack("{s:I}", "max-bandwidth", (json_int_t)10 << 30), NULL);
    return ret;
}

int gw_vm_read_settings(struct gw_qmp *qmp, json_t **out)
{
    json_t *capabilities, *parameters, *item, *settings = json_object();
    size_t index;
    int ret = settings ? gw_qmp_execute(qmp, "query-migrate-capabilities", NULL, &capabilities)
                       : gw_fail(-ENOMEM, "no memory for QEMU's settings");

    if (ret < 0) {
        json_decref(settings);
        return ret;
    }
    json_array_foreach(capabilities, index, item)
    {
        const char *name = json_string_value(json_object_get(item, "capability"));

        for (size_t i = 0; name && i < sizeof(changed) / sizeof(changed[0]); i++)
            if (strcmp(name, changed[i]) == 0)
                json_object_set(settings, name, json_object_get(item, "state"));
    }
    json_decref(capabilities);
    ret = gw_qmp_execute(qmp, "query-migrate-parameters", NULL, &parameters);
    if (ret < 0) {
        json_decref(settings);
        return ret;
    }
    json_object_set(settings, "max-bandwidth", json_object_get(parameters, "max-bandwidth"));
    json_decref(parameters);
    *out = settings;
    return 0;
}

/* Is a migration still among what QEMU could be told to let go of? */
static bool lists_migration(const json_t *instances)
{
    const json_t *instance;
    bool has = false;
    size_t index;

    json_array_foreach(instances, index, instance)
    {
        const char *type = json_string_value(json_object_get(instance, "type"));

        has |= type && strcmp(type, "migration") == 0;
    }
    return has;
}

static int has_migration(struct gw_qmp *qmp)
{
    json_t *instances;
    int ret = gw_qmp_execute(qmp, "query-yank", NULL, &instances);

    if (ret < 0) /* QEMU before 6.0 has no such list */
        return ret == -ENOTSUP ? 0 : ret;
    ret = lists_migration(instances);
    json_decref(instances);
    return ret;
}

/* QEMU tells that a migration has failed before it has done away with it, and one that begins in
 * between is refused, or ends QEMU 7.2. */
static int wait_until_clean(struct gw_qmp *qmp)
{
    uint64_t patience = gw_clock_ns() + CLEANUP_PATIENCE_NS;
    int has = has_migration(qmp);

    while (has > 0 && gw_clock_left_ms(patience) > 0) {
        usleep(CLEANUP_WAIT_US);
        has = has_migration(qmp);
    }
    if (has > 0)
        return gw_fail(-EBUSY, "QEMU does not end its last migration");
    return has;
}

/* An agent that died between getfd and migrate left its descriptor there. */
static int close_state_fd(struct gw_qmp *qmp)
{
    int ret = gw_qmp_execute(qmp, "closefd", json_pack("{s:s}", "fdname", FD_NAME), NULL);

    return ret == -EPIPE || ret == -ETIMEDOUT ? ret : 0; /* as a rule there is none */
}

int gw_vm_restore_settings(struct gw_qmp *qmp, const json_t *settings)
{
    json_t *bandwidth = json_object_get(settings, "max-bandwidth"), *list;
    int ret = close_state_fd(qmp);

    /* QEMU changes no capability while its last migration winds down; what is left of one is told by it. */
    if (ret == 0)
        ret = wait_until_clean(qmp);
    if (ret == -EPIPE || ret == -ETIMEDOUT)
        return ret;
    list = json_array();
    ret = 0;
    for (size_t i = 0; i < sizeof(changed) / sizeof(changed[0]); i++) {
        json_t *state = json_object_get(settings, changed[i]);

        if (state)
            json_array_append_new(
                list, json_pack("{s:s, s:O}", "capability", changed[i], "state", state));
    }
    if (json_array_size(list) > 0)
        ret = gw_qmp_execute(qmp, "migrate-set-capabilities",
                             json_pack("{s:O}", "capabilities", list), NULL);
    json_decref(list);
    if (ret == 0 && bandwidth)
        ret = gw_qmp_execute(qmp, "migrate-set-parameters",
                             json_pack("{s:O}", "max-bandwidth", bandwidth), NULL);
    return ret;
}

int gw_vm_prepare_target(struct gw_qmp *qmp)
{
    int ret = set_capabilities(qmp, true);

    if (ret == 0)
        ret = gw_qmp_execute(qmp, "migrate-set-parameters",
                             json_pack("{s:i}", "announce-rounds", 0), NULL);
    return ret;
}

int gw_vm_cancel_state(struct gw_qmp *qmp)
{
    int ret = gw_qmp_execute(qmp, "migrate_cancel", NULL, NULL);

    return ret < 0 ? ret : settle(qmp);
}

/* Ends a stream that must not go on. QEMU writes it with its main lock held and may not even hear a
 * cancel, so the socket is shut down first. */
static int break_off(struct gw_qmp *qmp, int fd, int error)
{
    struct gw_error kept;

    gw_error_take(error, &kept);
    shutdown(fd, SHUT_RDWR);
    gw_qmp_set_timeout(qmp, GW_QMP_TIMEOUT_MS);
    gw_vm_cancel_state(qmp);
    wait_until_clean(qmp);
    return gw_error_raise(&kept);
}

/* 1 while it goes on, 0 when completed. */
static int look_at_save(struct gw_qmp *qmp, struct gw_state_result *out)
{
    const char *status, *reason;
    json_t *info, *ram;
    int ret = migration_status(qmp, &info, &status);

    if (ret < 0)
        return ret;
    ram = json_object_get(info, "ram");
    out->bytes = (uint64_t)json_integer_value(json_object_get(ram, "transferred"));
    reason = json_string_value(json_object_get(info, "error-desc"));
    if (out->bytes > GW_STATE_MAX)
        ret = gw_fail(-EFBIG,
                      "QEMU put guest RAM into its stream (%llu MiB): its memory is not a shared "
                      "file that it can leave out",
                      (unsigned long long)(out->bytes >> 20));
    else if (strcmp(status, "completed") == 0)
        ret = 0;
    else if (is_under_way(status))
        ret = 1;
    else
        ret = gw_fail(-EIO, "QEMU could not write the state of the devices: %s (%s)", status,
                      reason ? reason : "no reason given");
    json_decref(info);
    return ret;
}

static bool is_end(const json_t *event, void *context)
{
    const char *status =
        json_string_value(json_object_get(json_object_get(event, "data"), "status"));

    return status && (strcmp(status, "completed") == 0 || strcmp(status, "failed") == 0);
}

/* Returns when QEMU says that a migration has ended, or after a while: a QEMU that was not asked for
 * events says nothing, so the caller looks in any case. The connection's own errors only. */
static int await_end(struct gw_qmp *qmp)
{
    int ret = gw_qmp_wait_event(qmp, "MIGRATION", is_end, NULL, LOOK_INTERVAL_MS, NULL);

    return ret == -ETIMEDOUT ? 0 : ret;
}

static int watch_save(struct gw_qmp *qmp, uint64_t deadline, struct gw_state_result *result)
{
    int ret;

    for (;;) {
        int left = gw_clock_left_ms(deadline);

        if (left == 0)
            return -ETIMEDOUT;
        gw_qmp_set_timeout(qmp, (uint32_t)left);
        ret = await_end(qmp);
        if (ret == 0)
            ret = look_at_save(qmp, result);
        if (ret <= 0)
            break;
    }
    gw_qmp_set_timeout(qmp, GW_QMP_TIMEOUT_MS);
    return ret;
}

/* Hands fd to QEMU and starts the migration command on it. */
static int start_migration(struct gw_qmp *qmp, int fd, const char *command)
{
    struct gw_qmp_call calls[] = {
        {.command = "getfd", .arguments = json_pack("{s:s}", "fdname", FD_NAME), .fd = fd + 1},
        {.command = command, .arguments = json_pack("{s:s}", "uri", "fd:" FD_NAME)}};
    struct gw_error kept;
    int ret;

    gw_qmp_drop_events(qmp, "MIGRATION");
    ret = gw_qmp_execute_batch(qmp, calls, 2);
    gw_qmp_batch_free(calls, 2);
    if (ret == 0 || calls[0].error)
        return ret;
    gw_error_take(ret, &kept);
    close_state_fd(qmp);
    return gw_error_raise(&kept);
}

/* The guest stands still, and no migration of before is left: one round trip as a rule. */
static int may_save(struct gw_qmp *qmp)
{
    struct gw_qmp_call calls[] = {{.command = "query-status"},
                                  {.command = "query-yank", .may_fail = true}};
    int ret = gw_qmp_execute_batch(qmp, calls, 2);

    if (ret == 0 && strcmp(state_of(&calls[0]), "running") == 0)
        ret = gw_fail(-EBUSY, "the VM runs; its state is saved only while it is stopped");
    else if (ret == 0 && (calls[1].error || lists_migration(calls[1].result)))
        ret = wait_until_clean(qmp);
    gw_qmp_batch_free(calls, 2);
    return ret;
}

int gw_vm_save_state(struct gw_qmp *qmp, int fd, uint32_t timeout_ms, struct gw_state_result *out)
{
    uint64_t begin = gw_clock_ns(), deadline = begin + timeout_ms * GW_NS_PER_MS;
    struct gw_state_result result = {0};
    int ret = may_save(qmp);

    if (ret == 0)
        ret = start_migration(qmp, fd, "migrate");
    if (ret < 0)
        return ret;
    ret = watch_save(qmp, deadline, &result);
    if (ret == -ETIMEDOUT)
        ret = gw_fail(-ETIMEDOUT,
                      "the state of the devices was not written within %u ms: nobody reads "
                      "it, or the link is down",
                      timeout_ms);
    if (ret < 0)
        return break_off(qmp, fd, ret);
    result.ns = gw_clock_ns() - begin;
    *out = result;
    return 0;
}

int gw_vm_load_begin(struct gw_qmp *qmp, int fd)
{
    char state[32];
    int ret = gw_vm_status(qmp, state, sizeof(state));

    if (ret == 0 && strcmp(state, "inmigrate") != 0)
        ret = gw_fail(-EINVAL,
                      "QEMU does not wait for a migration (it is \"%s\"); start it with "
                      "-incoming defer",
                      state);
    return ret < 0 ? ret : start_migration(qmp, fd, "migrate-incoming");
}

int gw_vm_load_end(struct gw_qmp *qmp, int fd, uint32_t timeout_ms)
{
    uint64_t deadline = gw_clock_ns() + timeout_ms * GW_NS_PER_MS;
    char state[32];
    int ret;

    for (;;) {
        ret = await_end(qmp);
        if (ret == 0)
            ret = gw_vm_status(qmp, state, sizeof(state));
        if (ret == -EPIPE)
            return gw_fail(-EIO,
                           "QEMU ended while it loaded the state of the devices (see its log): the "
                           "stream does not fit this VM, or RAM is incomplete");
        if (ret < 0)
            return ret;
        if (strcmp(state, "inmigrate") != 0)
            break;
        if (gw_clock_left_ms(deadline) == 0) {
            shutdown(fd, SHUT_RDWR);
            return gw_fail(-ETIMEDOUT, "the state of the devices was not loaded within %u ms",
                           timeout_ms);
        }
    }
    if (strcmp(state, "paused") != 0 && strcmp(state, "prelaunch") != 0)
        ret = gw_fail(-EIO, "the state of the devices was loaded, but the VM is \"%s\"", state);
    return ret;
}

int gw_vm_load_state(struct gw_qmp *qmp, int fd, uint32_t timeout_ms)
{
    int ret = gw_vm_load_begin(qmp, fd);

    return ret < 0 ? ret : gw_vm_load_end(qmp, fd, timeout_ms);
}

int gw_vm_blocked_reasons(struct gw_qmp *qmp, json_t **reasons)
{
    const char *status;
    json_t *info, *list;
    int ret = migration_status(qmp, &info, &status);

    if (ret < 0)
        return ret;
    list = json_object_get(info, "blocked-reasons");
    *reasons = list ? json_incref(list) : json_array();
    json_decref(info);
    return *reasons ? 0 : gw_fail(-ENOMEM, "no memory");
}
