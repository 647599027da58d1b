/* SPDX-License-Identifier: Apache-2.0 */
/*
 * allow: what a described VM may consist of. One table of device models with their properties, one
 * of machine options, one of the small options. The source refuses by name what is not in them; the
 * target checks every word of a description from a peer against them before it builds a command
 * line.
 *
 * Errors: the check functions return 0 or -EINVAL/-ENOTSUP with a message that names the member.
 * Threads: any; everything is constant.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_ALLOW_H
#define GODWIT_ENGINE_VMM_QEMU_ALLOW_H

#include <stdbool.h>
#include <stddef.h>

/* What a property's value may be. The letter stands in the tables. */
enum gw_value_kind {
    GW_VALUE_NONE = 0,
    GW_VALUE_BOOL = 'b',   /* on, off, ... */
    GW_VALUE_AUTO = 'a',   /* on, off, auto */
    GW_VALUE_NUMBER = 'n', /* unsigned, decimal or 0x, optionally with a size suffix */
    GW_VALUE_SIGNED = 's', /* decimal, may be negative */
    GW_VALUE_WORD = 'w',   /* letters, digits and . _ : + - */
    GW_VALUE_TEXT = 't',   /* printable, at most GW_TEXT_MAX bytes */
    GW_VALUE_MAC = 'm',
    GW_VALUE_PCI = 'p',   /* 3, 03.0, 0x3.0x1 */
    GW_VALUE_EMPTY = 'e', /* nothing: a path that must not be given */
    GW_VALUE_UUID = 'g',
    /* References to other parts of the description by their id. */
    GW_VALUE_IOTHREAD = 'i',
    GW_VALUE_NETDEV = 'N',
    GW_VALUE_CHARDEV = 'c',
    GW_VALUE_RNG = 'r',
    GW_VALUE_MEMORY = 'M',
    GW_VALUE_DRIVE = 'd',
    GW_VALUE_AUDIO = 'A',
};

/* What a device model is, for the checks that need to know. */
enum gw_device_class {
    GW_DEVICE_OTHER = 0,
    GW_DEVICE_PCI = 1u << 0,   /* has an address on a PCI bus */
    GW_DEVICE_DISK = 1u << 1,  /* has a drive */
    GW_DEVICE_CDROM = 1u << 2, /* its drive may be empty */
    GW_DEVICE_NET = 1u << 3,
    GW_DEVICE_SCSI = 1u << 4, /* scsi-id and lun */
    GW_DEVICE_IDE = 1u << 5,  /* unit */
    GW_DEVICE_BALLOON = 1u << 6,
    GW_DEVICE_MEMORY = 1u << 7, /* the guest plugs and unplugs blocks of its memdev */
};

struct gw_device_model {
    const char *name;
    unsigned classes;
    const char *properties; /* "name:kind name:kind ..." */
};

#define GW_TEXT_MAX 255u
#define GW_ID_MAX   63u

/* NULL when the model is not known. */
const struct gw_device_model *gw_allow_device(const char *model);
/* Why a model that is not known is not moved; NULL when there is no more to say than that. */
const char *gw_allow_reason(const char *model);
/* The kind of that property in a "name:kind" table, GW_VALUE_NONE when it is not in it. */
enum gw_value_kind gw_allow_kind(const char *table, const char *name);

extern const char gw_allow_machine[]; /* -machine */
extern const char gw_allow_accel[];   /* -accel */
extern const char gw_allow_smp[];     /* -smp */
extern const char gw_allow_boot[];
extern const char gw_allow_rtc[];
extern const char gw_allow_smbios[];
extern const char gw_allow_action[];
extern const char gw_allow_global[]; /* "DRIVER.PROPERTY:kind" */
extern const char gw_allow_iothread[];
extern const char gw_allow_user_net[];
extern const char gw_allow_numa[];
extern const char gw_allow_overcommit[];
/* Space-separated words. */
extern const char gw_allow_vga[];
extern const char gw_allow_nic_models[];
bool gw_allow_word(const char *words, const char *word);

/* Is value well formed for kind? References are checked as ids only. what names it in the message.
 */
int gw_value_check(enum gw_value_kind kind, const char *value, const char *what);
bool gw_id_is_valid(const char *id);
bool gw_word_is_valid(const char *word); /* GW_VALUE_WORD */

#endif
