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

#define STOP_TIMEOUT_MS 30000u
#define FD_NAME         "godwit-state"

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

int gw_vm_stop(struct gw_qmp *qmp, bool *was_running)
{
    char state[32];
    int ret = gw_vm_status(qmp, state, sizeof(state));

    if (ret < 0)
        return ret;
    *was_running = strcmp(state, "running") == 0;
    if (!*was_running) {
        if (strcmp(state, "paused") == 0 || strcmp(state, "prelaunch") == 0 ||
            strcmp(state, "postmigrate") == 0)
            return 0;
        return gw_fail(
            -EBUSY, "the VM is in the state \"%s\" and cannot be stopped for the handover", state);
    }
    gw_qmp_drop_events(qmp, "STOP");
    gw_qmp_drop_events(qmp, "RESUME");
    /* The answer comes when all I/O in flight has ended. */
    gw_qmp_set_timeout(qmp, STOP_TIMEOUT_MS);
    ret = gw_qmp_execute(qmp, "stop", NULL, NULL);
    gw_qmp_set_timeout(qmp, GW_QMP_TIMEOUT_MS);
    if (ret == 0)
        ret = gw_vm_status(qmp, state, sizeof(state));
    if (ret < 0)
        return ret;
    if (strcmp(state, "paused") != 0)
        return gw_fail(-EIO, "the VM was stopped, but is in the state \"%s\"", state);
    return 0;
}

int gw_vm_cont(struct gw_qmp *qmp)
{
    char state[32];
    int ret;

    gw_qmp_drop_events(qmp, "RESUME");
    ret = gw_qmp_execute(qmp, "cont", NULL, NULL);
    if (ret == 0)
        ret = gw_vm_status(qmp, state, sizeof(state));
    if (ret < 0)
        return ret;
    if (strcmp(state, "running") == 0)
        return 0;
    ret = gw_qmp_wait_event(qmp, "RESUME", NULL, NULL, 2000, NULL);
    return ret < 0 ? gw_fail(-EIO, "QEMU accepted cont, but the VM is in the state \"%s\"", state)
                   : 0;
}

int gw_vm_announce(struct gw_qmp *qmp)
{
    return gw_qmp_execute(
        qmp, "announce-self",
        json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 100),
        NULL);
}

static int set_capabilities(struct gw_qmp *qmp, bool is_target)
{
    json_t *list = json_pack("[{s:s, s:b}]", "capability", "x-ignore-shared", "state", 1);

    if (is_target && list)
        json_array_append_new(
            list, json_pack("{s:s, s:b}", "capability", "late-block-activate", "state", 1));
    return gw_qmp_execute(qmp, "migrate-set-capabilities", json_pack("{s:o}", "capabilities", list),
                          NULL);
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

        if (name && strcmp(name, "x-ignore-shared") == 0)
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

int gw_vm_restore_settings(struct gw_qmp *qmp, const json_t *settings)
{
    json_t *state = json_object_get(settings, "x-ignore-shared");
    json_t *bandwidth = json_object_get(settings, "max-bandwidth");
    int ret = 0;

    if (state)
        ret = gw_qmp_execute(qmp, "migrate-set-capabilities",
                             json_pack("{s:[{s:s, s:O}]}", "capabilities", "capability",
                                       "x-ignore-shared", "state", state),
                             NULL);
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

static int watch_save(struct gw_qmp *qmp, uint64_t deadline, struct gw_state_result *result)
{
    int ret;

    for (unsigned look = 0;; look++) {
        int left = gw_clock_left_ms(deadline);

        if (left == 0)
            return -ETIMEDOUT;
        gw_qmp_set_timeout(qmp, (uint32_t)left);
        ret = look_at_save(qmp, result);
        if (ret <= 0)
            break;
        pause_between(look);
    }
    gw_qmp_set_timeout(qmp, GW_QMP_TIMEOUT_MS);
    return ret;
}

int gw_vm_save_state(struct gw_qmp *qmp, int fd, uint32_t timeout_ms, struct gw_state_result *out)
{
    uint64_t begin = gw_clock_ns(), deadline = begin + timeout_ms * GW_NS_PER_MS;
    struct gw_state_result result = {0};
    char state[32];
    int ret = gw_vm_status(qmp, state, sizeof(state));

    if (ret == 0 && strcmp(state, "running") == 0)
        ret = gw_fail(-EBUSY, "the VM runs; its state is saved only while it is stopped");
    if (ret == 0)
        ret = gw_qmp_execute_fd(qmp, "getfd", json_pack("{s:s}", "fdname", FD_NAME), fd, NULL);
    if (ret == 0) {
        ret = gw_qmp_execute(qmp, "migrate", json_pack("{s:s}", "uri", "fd:" FD_NAME), NULL);
        if (ret < 0) {
            struct gw_error kept;

            gw_error_take(ret, &kept);
            gw_qmp_execute(qmp, "closefd", json_pack("{s:s}", "fdname", FD_NAME), NULL);
            return gw_error_raise(&kept);
        }
    }
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

int gw_vm_load_state(struct gw_qmp *qmp, int fd, uint32_t timeout_ms)
{
    uint64_t deadline = gw_clock_ns() + timeout_ms * GW_NS_PER_MS;
    char state[32];
    int ret = gw_vm_status(qmp, state, sizeof(state));

    if (ret == 0 && strcmp(state, "inmigrate") != 0)
        ret = gw_fail(-EINVAL,
                      "QEMU does not wait for a migration (it is \"%s\"); start it with "
                      "-incoming defer",
                      state);
    if (ret == 0)
        ret = gw_qmp_execute_fd(qmp, "getfd", json_pack("{s:s}", "fdname", FD_NAME), fd, NULL);
    if (ret == 0)
        ret =
            gw_qmp_execute(qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" FD_NAME), NULL);
    for (unsigned look = 0; ret == 0; look++) {
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
        pause_between(look);
    }
    if (ret == 0 && strcmp(state, "paused") != 0 && strcmp(state, "prelaunch") != 0)
        ret = gw_fail(-EIO, "the state of the devices was loaded, but the VM is \"%s\"", state);
    return ret;
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
