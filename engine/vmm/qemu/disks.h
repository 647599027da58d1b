/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disks: what godwit does to the disks of a running QEMU. A swap puts a null-co node of the same
 * size in the place of a disk's image while the guest is stopped (QEMU refuses to migrate VHDX
 * nodes, and two hosts must not hold one image), and an image in the place of a null-co node on
 * the other side. A tracker tells which granules of a disk were written since the last look.
 *
 * Errors: 0 or -errno with a message that names the disk. After a failed swap the disk may be half
 *   way: run the undo list, which is right in every state.
 * Order: gw_disk_swap_prepare, and its undo list told to whoever must act when this process dies,
 *   before the guest is stopped → gw_disk_swap_out → (gw_disk_undo_run). trackers: open → collect,
 *   any number → close.
 * Threads: one at a time per QMP connection.
 * Units: bytes; a granule is GW_DISK_GRANULE.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_DISKS_H
#define GODWIT_ENGINE_VMM_QEMU_DISKS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/bitmap.h"
#include "engine/vmm/qemu/qmp.h"
#include "engine/vmm/qemu/vm.h"

#define GW_DISK_GRANULE 65536u
#define GW_HOLD_PREFIX  "godwit-hold-" /* node names of the null-co nodes of a swap */
#define GW_READ_PREFIX  "godwit-read-" /* names of the exports of disks */

/* An image that a device is to read and write. */
struct gw_disk_image {
    const char *path;
    const char *format;    /* "raw", "vhdx", ... */
    bool is_block_device;  /* path is a block device */
    const char *node;      /* name of the node to make */
    const char *file_node; /* name of the node of the file below, or NULL */
};

/* Node names tell what QMP cannot: "godwit-un-vda" is the disk vda with discard=unmap and
 * aio=native. A later move reads them back: parse sets these three of disk, false when it is
 * another kind of name. */
void gw_disk_node_name(const struct gw_vm_disk *disk, unsigned index, char name[GW_VM_NODE_SIZE]);
bool gw_disk_node_name_parse(const char *name, struct gw_vm_disk *disk);
void gw_disk_hold_name(unsigned index, char name[GW_VM_NODE_SIZE]);

/* blockdev-add arguments for an image, with the cache, aio, discard and detect-zeroes of disk. */
int gw_disk_node_options(const struct gw_vm_disk *disk, const struct gw_disk_image *image,
                         json_t **out);
/* blockdev-add arguments of a null-co node of disk's size. */
json_t *gw_disk_hold_options(const struct gw_vm_disk *disk, const char *node);

/* Everything that a swap out and back needs, known before it begins. */
struct gw_disk_swap {
    char name[GW_VM_ID_SIZE];
    char qom_path[256];
    char node[GW_VM_NODE_SIZE], file_node[GW_VM_NODE_SIZE]; /* as they are now */
    char hold[GW_VM_NODE_SIZE];
    char restored[GW_VM_NODE_SIZE]; /* the node that a swap back makes */
    json_t *hold_options, *restore_options;
};

/* index tells the disks of one VM apart. -ENOTSUP when the disk's options are not known well enough
 * to bring it back. The caller frees with gw_disk_swap_free. */
int gw_disk_swap_prepare(const struct gw_vm_disk *disk, unsigned index, struct gw_disk_swap *out);
void gw_disk_swap_free(struct gw_disk_swap *swap); /* takes zeroed memory too */
/* The QMP commands that bring the disk back, from any state in between: an array of {"execute",
 * "arguments"} objects to append to. */
int gw_disk_swap_undo(const struct gw_disk_swap *swap, json_t *commands);
/* The guest is stopped (-EBUSY when it is not). Afterwards no node of QEMU has the image open. */
int gw_disk_swap_out(struct gw_qmp *qmp, const struct gw_disk_swap *swap);
/* Runs an undo list. Single commands may fail (the step was not taken yet, or is undone already);
 * what counts is the end: -EIO when a device is left on a hold node, and then the guest must stay
 * stopped. */
int gw_disk_undo_run(struct gw_qmp *qmp, const json_t *commands);

/* Where a disk of the target's QEMU is: the QOM path of its device, and the node under it (a null-co
 * node, when gw_vm_launch made it). */
struct gw_disk_place {
    char path[256];
    char node[GW_VM_NODE_SIZE];
};

/* The place of vm->disks[index]; known before the pause, it saves the pause a question. */
int gw_disk_place_find(struct gw_qmp *qmp, const struct gw_vm *vm, unsigned index,
                       struct gw_disk_place *out);
/* On the target: the image replaces what is at place. The VM is paused, its state loaded, the image
 * complete. */
int gw_disk_swap_in(struct gw_qmp *qmp, const struct gw_vm_disk *disk,
                    const struct gw_disk_place *place, const struct gw_disk_image *image);
/* The QOM path of the device that uses a node of that name. -ENOENT. */
int gw_disk_find_device(struct gw_qmp *qmp, const char *node, char *path, size_t size);

/* Dirty granules of one disk in use. */
struct gw_disk_tracker;
struct gw_disk_tracker_options {
    unsigned index;         /* tells the trackers of one QEMU apart */
    const char *socket_dir; /* private to the caller: for the UNIX socket of QEMU's NBD server */
};

/* Adds a bitmap to disk's node: what is written after it returned is reported. QEMU's NBD server is
 * started by the first tracker of that QEMU and stopped by the last one's close. */
int gw_disk_tracker_open(struct gw_qmp *qmp, const struct gw_vm_disk *disk,
                         const struct gw_disk_tracker_options *options,
                         struct gw_disk_tracker **out);
/* Adds the granules written since the last collect (or open) to dirty, one bit per GW_DISK_GRANULE,
 * and starts the next period, atomically. dirty has gw_disk_granules bits. After an error the
 * granules of this period are kept and come with the next collect. */
int gw_disk_tracker_collect(struct gw_disk_tracker *tracker, struct gw_bitmap *dirty);
void gw_disk_tracker_close(
    struct gw_disk_tracker *tracker); /* takes NULL, and a QEMU that is gone */
uint64_t gw_disk_granules(uint64_t size);
/* Removes what trackers and exports of a process that died left behind in QEMU (bitmaps, exports, nodes,
 * server). socket_dir is that process's: a server whose socket is not there is somebody else's, and stays. */
int gw_disk_tracker_clean(struct gw_qmp *qmp, const char *socket_dir);

/* The bytes of a disk in use, for formats that only QEMU reads: its node, exported read-only on the
 * tracker's NBD server. */
struct gw_disk_export {
    struct gw_qmp *qmp;       /* lent; NULL: not open */
    char id[GW_VM_NODE_SIZE]; /* and the export's name */
    char socket[108];
};

/* The disk's tracker is open, with the same socket_dir. -ENOTSUP for a disk on an iothread: QEMU
 * 7.2 aborts when the client of such an export disconnects while the guest runs. */
int gw_disk_export_open(struct gw_qmp *qmp, const struct gw_vm_disk *disk, unsigned index,
                        const char *socket_dir, struct gw_disk_export *out);
/* Cuts the clients off; before the disk is swapped out, and before its tracker is closed. Takes one
 * that is not open, and a QEMU that is gone. */
int gw_disk_export_close(struct gw_disk_export *disk_export);
/* Deletes an export of that id, and returns when QEMU has let go of its node. */
int gw_disk_export_delete(struct gw_qmp *qmp, const char *id);

#endif
