/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm: what a VM is, in godwit's own words. The source reads it from a running QEMU (describe.h),
 * sends it as JSON, and the target builds a command line of its own from it (launch.h). The target
 * never runs, and the source never sends, a command line.
 *
 * Errors: 0 or -errno with a message that names the member. A description from a peer is
 *   untrusted:
 *   gw_vm_from_json bounds every count and string, refuses members that it does not know, and
 * passes only what the allow-lists hold (allow.h).
 * Order: describe or from_json → read, map bridges → free.
 * Threads: one at a time.
 * Units: bytes.
 *
 * Members that only mean something on the host that made the description (paths, QOM paths, node
 * names) are marked "local": they are not in the JSON form, and are empty after gw_vm_from_json.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_VM_H
#define GODWIT_ENGINE_VMM_QEMU_VM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/vmm/qemu/reasons.h"

#define GW_VM_ID_SIZE        64u /* with the terminator */
#define GW_VM_NODE_SIZE      32u /* QEMU's limit on node names */
#define GW_VM_DEVICES_MAX    128u
#define GW_VM_DISKS_MAX      32u
#define GW_VM_MEMORIES_MAX   32u
#define GW_VM_NETS_MAX       32u
#define GW_VM_CHARDEVS_MAX   32u
#define GW_VM_IOTHREADS_MAX  32u
#define GW_VM_NUMA_MAX       256u
#define GW_VM_PROPERTIES_MAX 96u
#define GW_VM_JSON_MAX       (1u << 20) /* bytes of the JSON form */

struct gw_vm_property {
    char name[48];
    char value[256];
};

/* In the order in which they were given; a name occurs once. */
struct gw_vm_properties {
    unsigned count;
    struct gw_vm_property *items;
};

/* A thing with a kind, an id and properties: a device, an iothread, a -numa option. */
struct gw_vm_item {
    char kind[48]; /* the device's model; "random" or "builtin" of an rng; "node" of numa */
    char id[GW_VM_ID_SIZE];
    struct gw_vm_properties properties;
};

struct gw_vm_memory {
    char id[GW_VM_ID_SIZE]; /* of the memory backend, and of QEMU's RAM block */
    uint64_t size;
    uint64_t page_size; /* 4096, or the hugetlbfs page */
    bool prealloc;
    char path[512]; /* local: opens the file (a name, or /proc/PID/map_files/...) */
    dev_t device;   /* local */
    ino_t inode;    /* local */
};

struct gw_vm_disk {
    char name[GW_VM_ID_SIZE]; /* what people call it: the drive's id, else node name or device id */
    char device[GW_VM_ID_SIZE]; /* id of its device, "" when it has none */
    bool is_machine_ide;        /* made by the machine (-hda, -drive if=ide): unit, and no device */
    uint32_t unit;              /* is_machine_ide: 0 to 3 */
    uint32_t device_index;      /* else: in devices */
    char format[16];            /* of the image: "raw", "vhdx", "qcow2", ... */
    char file_name[256];        /* the image's name without its folders */
    uint64_t virtual_size;
    bool is_read_only, is_direct, is_no_flush, is_discard; /* cache.direct, cache.no-flush, unmap */
    bool is_on_iothread;
    char detect_zeroes[8];           /* "off", "on", "unmap" */
    char aio[12];                    /* "threads", "native", "io_uring" */
    char qom_path[256];              /* local: the device whose "drive" is swapped */
    char node[GW_VM_NODE_SIZE];      /* local: the node that the device uses */
    char file_node[GW_VM_NODE_SIZE]; /* local: the protocol node below, or "" */
    char file_driver[20];            /* local: "file", "host_device", ... */
    char path[1024];                 /* local */
    uint32_t cluster_size;           /* local: of the image, 0 where the format has none */
};

enum gw_vm_net_kind { GW_VM_NET_USER, GW_VM_NET_TAP };

struct gw_vm_net {
    char id[GW_VM_ID_SIZE];
    enum gw_vm_net_kind kind;
    char bridge[16]; /* tap: the bridge on this description's host; see gw_vm_map_bridge */
    bool is_vhost;
    struct gw_vm_properties properties;
    bool is_nic;    /* given with -nic: the machine makes the card too */
    char model[20]; /* is_nic */
    char mac[20];   /* is_nic */
};

enum gw_vm_chardev_kind { GW_VM_CHARDEV_NULL, GW_VM_CHARDEV_FILE, GW_VM_CHARDEV_SOCKET };

struct gw_vm_chardev {
    char id[GW_VM_ID_SIZE];
    enum gw_vm_chardev_kind kind;
};

struct gw_vm_port {              /* -serial, -parallel */
    char chardev[GW_VM_ID_SIZE]; /* "" for none */
};

struct gw_vm {
    char name[256];
    char uuid[40];
    char architecture[16]; /* "x86_64" */
    uint32_t version_major, version_minor, version_micro;
    char machine[64]; /* versioned: "pc-i440fx-7.2" */
    struct gw_vm_properties machine_options;
    char accelerator[8]; /* "tcg", "kvm" */
    struct gw_vm_properties accelerator_options;
    char cpu[64];
    struct gw_vm_properties cpu_features;
    uint32_t cpu_count;
    struct gw_vm_properties smp;
    uint64_t ram_size, ram_max; /* -m; ram_max 0 without maxmem */
    uint32_t ram_slots;
    char ram_id[GW_VM_ID_SIZE]; /* -machine memory-backend=, "" with NUMA backends */
    unsigned memory_count;
    struct gw_vm_memory memories[GW_VM_MEMORIES_MAX];
    unsigned numa_count;
    struct gw_vm_item numa[GW_VM_NUMA_MAX];
    unsigned device_count;
    struct gw_vm_item devices[GW_VM_DEVICES_MAX]; /* in the order in which they are made */
    unsigned disk_count;
    struct gw_vm_disk disks[GW_VM_DISKS_MAX];
    unsigned iothread_count;
    struct gw_vm_item iothreads[GW_VM_IOTHREADS_MAX];
    unsigned rng_count;
    struct gw_vm_item rngs[GW_VM_IOTHREADS_MAX];
    unsigned audio_count;
    struct gw_vm_item audios[GW_VM_IOTHREADS_MAX];
    unsigned net_count;
    struct gw_vm_net nets[GW_VM_NETS_MAX];
    unsigned chardev_count;
    struct gw_vm_chardev chardevs[GW_VM_CHARDEVS_MAX];
    unsigned serial_count, parallel_count;
    struct gw_vm_port serials[4], parallels[3];
    unsigned smbios_count;
    struct gw_vm_item smbios[16];
    struct gw_vm_properties globals, boot, rtc, action, overcommit;
    char vga[16]; /* "" for the machine's default */
    bool has_defaults, has_no_net, has_usb, has_no_shutdown, has_no_reboot, has_no_acpi,
        has_no_hpet;
    bool has_sandbox;
    bool is_running; /* false: paused when it was described, and it arrives paused */
    pid_t pid;       /* local */
};

int gw_vm_new(struct gw_vm **out);
void gw_vm_free(struct gw_vm *vm); /* takes NULL */

/* The JSON form, a new object. */
int gw_vm_to_json(const struct gw_vm *vm, json_t **out);
/* Decodes and checks all of it. Every fault is in faults (which may be NULL); the first is the
 * message. */
int gw_vm_from_json(const json_t *json, struct gw_reasons *faults, struct gw_vm **out);
/* Is everything in the description allowed, are references whole, are ids unique? Adds each fault.
 */
void gw_vm_check(const struct gw_vm *vm, struct gw_reasons *faults);

/* Renames the bridge from to to in every net. Returns how many had it. */
unsigned gw_vm_map_bridge(struct gw_vm *vm, const char *from, const char *to);
/* By name, device id or node name (local). NULL when there is none. */
struct gw_vm_disk *gw_vm_find_disk(struct gw_vm *vm, const char *name);
/* Opens the RAM file (of a local description) and proves that it is the one QEMU has mapped. */
int gw_vm_memory_open(const struct gw_vm_memory *memory, int flags, int *fd);

/* Is it a virtio-mem device's? Blocks of it come and go, and QEMU discards all of it when it starts. */
bool gw_vm_memory_is_plugged(const struct gw_vm *vm, const struct gw_vm_memory *memory);

const char *gw_vm_property_get(const struct gw_vm_properties *properties, const char *name);
/* Adds, or replaces the value. -E2BIG, -ENAMETOOLONG. */
int gw_vm_property_set(struct gw_vm_properties *properties, const char *name, const char *value);
void gw_vm_property_drop(struct gw_vm_properties *properties, const char *name);

#endif
