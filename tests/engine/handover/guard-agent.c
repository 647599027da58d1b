/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An agent for the guard's tests: begins a handover of a real QEMU up to a stage, says so, and
 * waits to be killed. As "guard" it is the guard itself, as the godwit command is.
 *
 * usage: guard-agent QMP PID LOG IMAGE STAGE [paused]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/handover/guard.h"
#include "engine/handover/renames.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/vmm/qemu/qmp.h"

static void must(int error)
{
    if (error == 0)
        return;
    fprintf(stderr, "guard-agent: %s\n", gw_error_message());
    exit(1);
}

static void at(const char *stage, const char *wanted)
{
    if (strcmp(stage, wanted) != 0)
        return;
    puts(stage);
    fflush(stdout);
    for (;;)
        pause();
}

static void run(struct gw_qmp *qmp, const char *command, json_t *arguments)
{
    must(gw_qmp_execute(qmp, command, arguments, NULL));
}

#define HOLD GW_HOLD_PREFIX "0"

static json_t *swap_undo(const char *image)
{
    return json_pack("{s:[{s:s, s:{s:s, s:s, s:{s:s, s:s}}}, {s:s, s:{s:s, s:s, s:s}},"
                     " {s:s, s:{s:s}}]}",
                     "disks", "execute", "blockdev-add", "arguments", "driver", "raw", "node-name",
                     "disk0", "file", "driver", "file", "filename", image, "execute", "qom-set",
                     "arguments", "path", "/machine/peripheral/vda", "property", "drive", "value",
                     "disk0", "execute", "blockdev-del", "arguments", "node-name", HOLD);
}

int main(int argc, char **argv)
{
    struct gw_guard_options options = {0};
    struct gw_guard *guard;
    struct gw_qmp *qmp;
    char renamed[4096];
    unsigned step;
    json_t *undo;

    if (argc == 2 && strcmp(argv[1], "guard") == 0)
        return gw_guard_main(GW_GUARD_FD);
    if (argc < 6)
        return 2;
    options.qmp_path = argv[1];
    options.vmm_pid = (pid_t)atoi(argv[2]);
    options.log_path = argv[3];
    options.is_guest_paused = argc > 6;
    must(gw_rename_name(argv[4], "e1", renamed, sizeof(renamed)));
    must(gw_qmp_open(argv[1], &qmp));
    must(gw_guard_start(&options, &guard));
    at("armed", argv[5]);
    must(gw_guard_stopped(guard));
    at("told", argv[5]);
    run(qmp, "stop", NULL);
    at("stopped", argv[5]);
    undo = swap_undo(argv[4]);
    must(gw_guard_announce(guard, undo, &step));
    json_decref(undo);
    at("swap-announced", argv[5]);
    run(qmp, "blockdev-add",
        json_pack("{s:s, s:s, s:i, s:b}", "driver", "null-co", "node-name", HOLD, "size", 1 << 20,
                  "read-zeroes", 1));
    at("hold-added", argv[5]);
    run(qmp, "qom-set",
        json_pack("{s:s, s:s, s:s}", "path", "/machine/peripheral/vda", "property", "drive",
                  "value", HOLD));
    at("half-swapped", argv[5]);
    run(qmp, "blockdev-del", json_pack("{s:s}", "node-name", "disk0"));
    must(gw_guard_done(guard, step));
    at("swapped", argv[5]);
    undo = json_pack("{s:{s:s, s:s}}", "rename", "from", renamed, "to", argv[4]);
    must(gw_guard_announce(guard, undo, &step));
    json_decref(undo);
    at("rename-announced", argv[5]);
    must(gw_rename_file(argv[4], renamed));
    at("renamed", argv[5]);
    if (strcmp(argv[5], "undo") == 0) {
        gw_qmp_close(qmp);
        must(gw_guard_undo(guard));
        at("undo", argv[5]);
    }
    must(gw_guard_committing(guard));
    at("committing", argv[5]);
    return 2;
}
