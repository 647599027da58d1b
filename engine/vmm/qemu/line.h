/* SPDX-License-Identifier: Apache-2.0 */
/*
 * line: the command line of a running QEMU, turned into a description as far as words alone can
 * tell (describe.h adds what QMP knows). Private to this folder, and to tests that have no QEMU at
 * hand.
 *
 * Errors: 0 or -errno with a message for what makes reading impossible; what is understood and not
 *   moved, or not known, is added to refused by name, all of it.
 * Threads: one at a time.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_LINE_H
#define GODWIT_ENGINE_VMM_QEMU_LINE_H

#include "engine/vmm/qemu/options.h"
#include "engine/vmm/qemu/vm.h"

#define GW_LINE_WORDS_MAX 4096u
#define GW_LINE_NODES_MAX 128u

/* One -drive, or one -blockdev. */
struct gw_line_drive {
    char id[GW_VM_ID_SIZE]; /* the drive's id, or the node's name */
    bool is_node;           /* -blockdev */
    char driver[20];
    char child[GW_VM_ID_SIZE]; /* is_node: the name of the node below it, "" when given in line */
    bool is_cdrom, is_discard, is_ide, is_virtio;
    char aio[12];
    uint32_t unit; /* is_ide */
};

struct gw_line {
    struct gw_vm *vm;           /* lent */
    struct gw_reasons *refused; /* lent */
    unsigned drive_count;
    struct gw_line_drive drives[GW_LINE_NODES_MAX];
    char device_drive[GW_VM_DEVICES_MAX][GW_VM_ID_SIZE]; /* drive= of vm->devices[i] */
    unsigned late_count; /* -device in JSON: made after the others */
    struct gw_vm_item late[GW_VM_DEVICES_MAX];
    char late_drive[GW_VM_DEVICES_MAX][GW_VM_ID_SIZE];
    unsigned monitor_count;
    char monitors[8][GW_VM_ID_SIZE]; /* chardevs that -mon uses */
    bool is_nographic, has_serial, has_backend_ram;
};

/* Reads /proc/PID/cmdline. The words and the list are freed with gw_line_words_free. */
int gw_line_words(pid_t pid, char ***words, unsigned *count);
void gw_line_words_free(char **words);

/* words[0] is the program. vm is empty at first. The caller frees line with gw_line_free (not vm).
 */
int gw_line_parse(char *const *words, unsigned count, struct gw_vm *vm, struct gw_reasons *refused,
                  struct gw_line **out);
void gw_line_free(struct gw_line *line);
const struct gw_line_drive *gw_line_find_drive(const struct gw_line *line, const char *id);

/* Parsers of single options (line_device.c); text is the option's argument. */
int gw_line_device(struct gw_line *line, const char *text);
int gw_line_drive(struct gw_line *line, const char *text);
int gw_line_blockdev(struct gw_line *line, const char *text);
int gw_line_ide_file(struct gw_line *line, uint32_t unit);
int gw_line_netdev(struct gw_line *line, const char *text);
int gw_line_nic(struct gw_line *line, const char *text);
int gw_line_chardev(struct gw_line *line, const char *text);
int gw_line_object(struct gw_line *line, const char *text);
/* After the last option: if=virtio drives become devices, late devices are appended. */
int gw_line_finish_devices(struct gw_line *line);

/* Moves what is left of options into properties; faults are refused under that name. */
int gw_line_keep(struct gw_line *line, struct gw_options *options, const char *owner,
                 struct gw_vm_properties *properties);
/* Refuses every option that was not used, by name. */
void gw_line_refuse_rest(struct gw_line *line, const struct gw_options *options, const char *owner);
/* Copies text when it fits; else refuses it. */
void gw_line_copy(struct gw_line *line, char *to, size_t size, const char *text, const char *what);

#endif
