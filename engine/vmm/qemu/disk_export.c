/* SPDX-License-Identifier: Apache-2.0 */
/* Read-only NBD exports of disks in use. The server itself is the trackers'. */
#include "engine/vmm/qemu/disks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"

#define DELETE_TIMEOUT_MS 5000

int gw_disk_export_open(struct gw_qmp *qmp, const struct gw_vm_disk *disk, unsigned index,
                        const char *socket_dir, struct gw_disk_export *out)
{
    struct gw_disk_export made = {.qmp = qmp};
    struct gw_error error;
    int ret;

    if (disk->is_on_iothread)
        return gw_fail(-ENOTSUP, "disk %s: QEMU cannot export a disk on an iothread safely",
                       disk->name);
    if (snprintf(made.socket, sizeof(made.socket), "%s/nbd", socket_dir) >=
        (int)sizeof(made.socket))
        return gw_fail(-ENAMETOOLONG, "the folder %s is too long for a socket", socket_dir);
    snprintf(made.id, sizeof(made.id), GW_READ_PREFIX "%u", index % 1000);
    ret = gw_qmp_execute(qmp, "block-export-add",
                         json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id", made.id,
                                   "node-name", disk->node, "name", made.id, "writable", 0),
                         NULL);
    if (ret < 0) {
        gw_error_take(ret, &error);
        return gw_fail(ret, "disk %s: export: %.400s", disk->name, error.text);
    }
    *out = made;
    return 0;
}

static bool is_of_export(const json_t *event, void *context)
{
    const json_t *id = json_object_get(json_object_get(event, "data"), "id");

    return json_is_string(id) && strcmp(json_string_value(id), context) == 0;
}

int gw_disk_export_delete(struct gw_qmp *qmp, const char *id)
{
    int ret;

    gw_qmp_drop_events(qmp, "BLOCK_EXPORT_DELETED");
    ret = gw_qmp_execute(qmp, "block-export-del", json_pack("{s:s, s:s}", "id", id, "mode", "hard"),
                         NULL);
    if (ret < 0)
        return ret;
    return gw_qmp_wait_event(qmp, "BLOCK_EXPORT_DELETED", is_of_export, (void *)id,
                             DELETE_TIMEOUT_MS, NULL);
}

int gw_disk_export_close(struct gw_disk_export *disk_export)
{
    struct gw_qmp *qmp = disk_export->qmp;

    disk_export->qmp = NULL;
    return qmp ? gw_disk_export_delete(qmp, disk_export->id) : 0;
}
