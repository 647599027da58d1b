/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The allow-lists. A member gets in when its value cannot name a file, a command, a socket or
 * another part of the host, and when QEMU's migration stream carries the device's state.
 */
#include "engine/vmm/qemu/allow.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/qemu/options.h"

#define PCI_DEVICE "bus:w addr:p multifunction:b rombar:n romfile:e acpi-index:n "
#define VIRTIO                                                                                     \
    "disable-legacy:a disable-modern:b iommu_platform:b ats:b packed:b event_idx:b "               \
    "indirect_desc:b notify_on_empty:b any_layout:b vectors:n modern-pio-notify:b "                \
    "page-per-vq:b queue_reset:b use-started:b use-disabled-flag:b class:n aer:b "
#define BLOCK                                                                                      \
    "drive:d bootindex:n serial:t logical_block_size:n physical_block_size:n min_io_size:n "       \
    "opt_io_size:n discard_granularity:n write-cache:a share-rw:b rerror:w werror:w "
#define NIC "netdev:N mac:m bootindex:n "
#define SCSI                                                                                       \
    "bus:w channel:n scsi-id:n lun:n device_id:t vendor:t product:t ver:t wwn:n port_wwn:n "       \
    "port_index:n rotation_rate:n removable:b dpofua:b "
#define IDE      "bus:w unit:n ver:t model:t wwn:n rotation_rate:n "
#define USB_PORT "bus:w port:w usb_version:n serial:t "
#define USB_HOST PCI_DEVICE "p2:n p3:n masterbus:w firstport:n streams:b msi:a msix:a "
#define ROOT_PORT                                                                                  \
    PCI_DEVICE "port:n chassis:n slot:n hotplug:b bus-reserve:n io-reserve:n mem-reserve:n "       \
               "pref32-reserve:n pref64-reserve:n aer_log_max:n "
#define VGA_CARD                                                                                   \
    PCI_DEVICE "vgamem_mb:n edid:b xres:n yres:n xmax:n ymax:n refresh_rate:n "                    \
               "global-vmstate:b qemu-extended-regs:b mmio:b blitter:b "
#define PORT "bus:w nr:n chardev:c name:t "

static const struct gw_device_model models[] = {
    {"virtio-blk-pci", GW_DEVICE_PCI | GW_DEVICE_DISK,
     PCI_DEVICE VIRTIO BLOCK
     "iothread:i num-queues:n queue-size:n scsi:b config-wce:b request-merging:b discard:b "
     "write-zeroes:b max-discard-sectors:n max-write-zeroes-sectors:n seg-max-adjust:b "
     "report-discard-granularity:b "},
    {"scsi-hd", GW_DEVICE_DISK | GW_DEVICE_SCSI, BLOCK SCSI},
    {"scsi-cd", GW_DEVICE_DISK | GW_DEVICE_CDROM | GW_DEVICE_SCSI, BLOCK SCSI},
    {"ide-hd", GW_DEVICE_DISK | GW_DEVICE_IDE, BLOCK IDE},
    {"ide-cd", GW_DEVICE_DISK | GW_DEVICE_CDROM | GW_DEVICE_IDE, BLOCK IDE},
    {"usb-storage", GW_DEVICE_DISK, BLOCK USB_PORT "removable:b pcap:e "},
    {"virtio-scsi-pci", GW_DEVICE_PCI,
     PCI_DEVICE VIRTIO "iothread:i num_queues:n virtqueue_size:n max_sectors:n cmd_per_lun:n "
                       "hotplug:b param_change:b seg_max_adjust:b "},
    {"lsi53c895a", GW_DEVICE_PCI, PCI_DEVICE},
    {"megasas", GW_DEVICE_PCI, PCI_DEVICE "max_sge:n max_cmds:n hba_serial:t msi:a msix:a "},
    {"ich9-ahci", GW_DEVICE_PCI, PCI_DEVICE},
    {"ahci", GW_DEVICE_PCI, PCI_DEVICE},
    {"virtio-net-pci", GW_DEVICE_PCI | GW_DEVICE_NET,
     PCI_DEVICE VIRTIO NIC
     "csum:b guest_csum:b gso:b guest_tso4:b guest_tso6:b guest_ecn:b guest_ufo:b guest_announce:b "
     "host_tso4:b host_tso6:b host_ecn:b host_ufo:b mrg_rxbuf:b status:b ctrl_vq:b ctrl_rx:b "
     "ctrl_vlan:b ctrl_rx_extra:b ctrl_mac_addr:b ctrl_guest_offloads:b mq:b rss:b hash:b "
     "guest_rsc_ext:b rsc_interval:n host_mtu:n tx:w rx_queue_size:n tx_queue_size:n speed:s "
     "duplex:w "},
    {"e1000", GW_DEVICE_PCI | GW_DEVICE_NET,
     PCI_DEVICE NIC "autonegotiation:b mitigation:b extra_mac_registers:b migrate_tso_props:b "},
    {"e1000e", GW_DEVICE_PCI | GW_DEVICE_NET, PCI_DEVICE NIC "disable_vnet_hdr:b subsys_ven:n "},
    {"rtl8139", GW_DEVICE_PCI | GW_DEVICE_NET, PCI_DEVICE NIC},
    {"vmxnet3", GW_DEVICE_PCI | GW_DEVICE_NET, PCI_DEVICE NIC},
    {"virtio-serial-pci", GW_DEVICE_PCI, PCI_DEVICE VIRTIO "max_ports:n emergency-write:b "},
    {"virtserialport", 0, PORT},
    {"virtconsole", 0, PORT},
    {"isa-serial", 0, "chardev:c index:n iobase:n irq:n wakeup:n "},
    {"isa-debugcon", 0, "chardev:c iobase:n readback:n "},
    {"isa-debug-exit", 0, "iobase:n iosize:n "},
    {"pci-serial", GW_DEVICE_PCI, PCI_DEVICE "chardev:c "},
    {"virtio-rng-pci", GW_DEVICE_PCI, PCI_DEVICE VIRTIO "rng:r max-bytes:n period:n "},
    {"virtio-balloon-pci", GW_DEVICE_PCI | GW_DEVICE_BALLOON,
     PCI_DEVICE VIRTIO "deflate-on-oom:b free-page-reporting:b page-poison:b "},
    {"virtio-mem-pci", GW_DEVICE_PCI | GW_DEVICE_MEMORY,
     PCI_DEVICE VIRTIO "memdev:M node:n block-size:n requested-size:n memaddr:n prealloc:b "
                       "unplugged-inaccessible:a "},
    {"virtio-keyboard-pci", GW_DEVICE_PCI, PCI_DEVICE VIRTIO},
    {"virtio-mouse-pci", GW_DEVICE_PCI, PCI_DEVICE VIRTIO},
    {"virtio-tablet-pci", GW_DEVICE_PCI, PCI_DEVICE VIRTIO},
    {"qemu-xhci", GW_DEVICE_PCI, USB_HOST},
    {"nec-usb-xhci", GW_DEVICE_PCI, USB_HOST},
    {"usb-ehci", GW_DEVICE_PCI, USB_HOST},
    {"ich9-usb-ehci1", GW_DEVICE_PCI, USB_HOST},
    {"ich9-usb-uhci1", GW_DEVICE_PCI, USB_HOST},
    {"ich9-usb-uhci2", GW_DEVICE_PCI, USB_HOST},
    {"ich9-usb-uhci3", GW_DEVICE_PCI, USB_HOST},
    {"piix3-usb-uhci", GW_DEVICE_PCI, USB_HOST},
    {"usb-tablet", 0, USB_PORT},
    {"usb-mouse", 0, USB_PORT},
    {"usb-kbd", 0, USB_PORT},
    {"usb-hub", 0, USB_PORT "ports:n "},
    {"pcie-root-port", GW_DEVICE_PCI, ROOT_PORT},
    {"ioh3420", GW_DEVICE_PCI, ROOT_PORT},
    {"pci-bridge", GW_DEVICE_PCI, PCI_DEVICE "chassis_nr:n msi:a shpc:b "},
    {"pcie-pci-bridge", GW_DEVICE_PCI, PCI_DEVICE "msi:a "},
    {"i82801b11-bridge", GW_DEVICE_PCI, PCI_DEVICE},
    {"VGA", GW_DEVICE_PCI, VGA_CARD},
    {"cirrus-vga", GW_DEVICE_PCI, VGA_CARD},
    {"secondary-vga", GW_DEVICE_PCI, VGA_CARD},
    {"bochs-display", GW_DEVICE_PCI, PCI_DEVICE "vgamem:n edid:b xres:n yres:n xmax:n ymax:n "},
    {"virtio-vga", GW_DEVICE_PCI, VGA_CARD VIRTIO "max_outputs:n max_hostmem:n "},
    {"virtio-gpu-pci", GW_DEVICE_PCI, VGA_CARD VIRTIO "max_outputs:n max_hostmem:n "},
    {"i6300esb", GW_DEVICE_PCI, PCI_DEVICE},
    {"ib700", 0, ""},
    {"pvpanic", 0, "ioport:n events:n "},
    {"pvpanic-pci", GW_DEVICE_PCI, PCI_DEVICE "events:n "},
    {"vmgenid", 0, "guid:g "},
    {"vmcoreinfo", 0, ""},
    {"pc-dimm", 0, "memdev:M node:n slot:n addr:n "},
    {"intel-iommu", 0,
     "intremap:a caching-mode:b device-iotlb:b aw-bits:n eim:a x-scalable-mode:b snoop-control:b "},
    {"intel-hda", GW_DEVICE_PCI, PCI_DEVICE "msi:a "},
    {"ich9-intel-hda", GW_DEVICE_PCI, PCI_DEVICE "msi:a "},
    {"hda-duplex", 0, "bus:w cad:n audiodev:A mixer:b "},
    {"hda-micro", 0, "bus:w cad:n audiodev:A mixer:b "},
    {"hda-output", 0, "bus:w cad:n audiodev:A mixer:b "},
    {"AC97", GW_DEVICE_PCI, PCI_DEVICE "audiodev:A "},
};

/* Prefixes of models that people meet, and why they stay. */
static const struct {
    const char *prefix, *reason;
} reasons[] = {
    {"vfio-",
     "it is a device of this host given to the guest (VFIO): its state cannot be moved and it "
     "writes to RAM unseen; unplug it before the move"},
    {"usb-host", "it is a USB device of this host; unplug it before the move"},
    {"vhost-vdpa", "its hardware writes to RAM unseen (vDPA); unplug it before the move"},
    {"vhost-user", "its state lives in another process; unplug it before the move"},
    {"vhost-vsock", "its guest CID belongs to this host; unplug it before the move"},
    {"vhost-scsi", "its disks belong to this host's kernel; unplug it before the move"},
    {"ivshmem", "it shares memory with other processes of this host; unplug it before the move"},
    {"tpm-", "the state of a virtual TPM is not moved yet; run the VM without it"},
    {"nvdimm", "its memory is a file of its own that is not moved yet"},
    {"virtio-pmem", "its memory is a file of its own that is not moved yet"},
    {"virtio-9p", "its files belong to this host; unmount and unplug it before the move"},
    {"nvme", "QEMU cannot migrate an emulated NVMe disk; use virtio-blk-pci"},
    {"scsi-generic", "it is a SCSI device of this host"},
    {"scsi-block", "it is a SCSI device of this host; use scsi-hd"},
    {"qxl", "SPICE displays are not moved; use -vga std"},
    {"smartcard", "SPICE channels are not moved"},
    {"ccid", "smart cards are not moved"},
};

const char gw_allow_machine[] =
    "usb:b vmport:a smm:a dump-guest-core:b mem-merge:b hpet:b pit:b sata:b smbus:b acpi:b "
    "kernel-irqchip:w graphics:b i8042:b max-ram-below-4g:n suppress-vmdesc:b fd-bootchk:b "
    "default_bus_bypass_iommu:b default-bus-bypass-iommu:b smbios-entry-point-type:w hmat:b ";
const char gw_allow_accel[] = "thread:w tb-size:n split-wx:b kernel-irqchip:w kvm-shadow-mem:n "
                              "dirty-ring-size:n one-insn-per-tb:b ";
const char gw_allow_smp[] = "cpus:n maxcpus:n sockets:n dies:n clusters:n cores:n threads:n "
                            "modules:n drawers:n books:n ";
const char gw_allow_boot[] = "order:w menu:b strict:b reboot-timeout:s ";
const char gw_allow_rtc[] = "base:w clock:w driftfix:w ";
const char gw_allow_smbios[] =
    "type:n vendor:t version:t date:t release:t uefi:b manufacturer:t product:t serial:t uuid:g "
    "sku:t family:t asset:t location:t sock_pfx:t part:t loc_pfx:t bank:t speed:n max-speed:n "
    "current-speed:n processor-id:n value:t ";
const char gw_allow_action[] = "reboot:w shutdown:w panic:w watchdog:w ";
const char gw_allow_global[] =
    "kvm-pit.lost_tick_policy:w mc146818rtc.lost_tick_policy:w PIIX4_PM.disable_s3:n "
    "PIIX4_PM.disable_s4:n PIIX4_PM.acpi-pci-hotplug-with-bridge-support:b ICH9-LPC.disable_s3:n "
    "ICH9-LPC.disable_s4:n ICH9-LPC.noreboot:b ICH9-LPC.acpi-pci-hotplug-with-bridge-support:b "
    "PIIX4_PM.acpi-root-pci-hotplug:b virtio-net-pci.host_mtu:n ";
const char gw_allow_iothread[] = "poll-max-ns:n poll-grow:n poll-shrink:n aio-max-batch:n "
                                 "thread-pool-min:n thread-pool-max:n ";
const char gw_allow_user_net[] =
    "restrict:b net:w host:w dhcpstart:w dns:w hostname:w domainname:w ipv4:b ipv6:b ";
/* The members of one -numa option; "kind" is node, dist or cpu. */
const char gw_allow_numa[] = "nodeid:n cpus:w memdev:M initiator:n src:n dst:n val:n node-id:n "
                             "socket-id:n die-id:n cluster-id:n core-id:n thread-id:n ";
const char gw_allow_overcommit[] = "mem-lock:b cpu-pm:b ";
const char gw_allow_vga[] = "none std cirrus virtio";
const char gw_allow_nic_models[] = "virtio virtio-net-pci e1000 e1000e rtl8139 vmxnet3";

const struct gw_device_model *gw_allow_device(const char *model)
{
    static const struct {
        const char *alias, *name;
    } aliases[] = {{"virtio-blk", "virtio-blk-pci"},   {"virtio-net", "virtio-net-pci"},
                   {"virtio-scsi", "virtio-scsi-pci"}, {"virtio-serial", "virtio-serial-pci"},
                   {"virtio-rng", "virtio-rng-pci"},   {"virtio-balloon", "virtio-balloon-pci"},
                   {"virtio-gpu", "virtio-gpu-pci"},   {"lsi", "lsi53c895a"}};

    for (size_t i = 0; i < GW_ARRAY_LENGTH(aliases); i++) {
        if (strcmp(aliases[i].alias, model) == 0)
            model = aliases[i].name;
    }
    for (size_t i = 0; i < GW_ARRAY_LENGTH(models); i++) {
        if (strcmp(models[i].name, model) == 0)
            return &models[i];
    }
    return NULL;
}

const char *gw_allow_reason(const char *model)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(reasons); i++) {
        if (strncmp(reasons[i].prefix, model, strlen(reasons[i].prefix)) == 0)
            return reasons[i].reason;
    }
    return NULL;
}

enum gw_value_kind gw_allow_kind(const char *table, const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || strpbrk(name, ": "))
        return GW_VALUE_NONE;
    for (const char *at = table; *at; at += strcspn(at, " "), at += *at == ' ') {
        if (strncmp(at, name, length) == 0 && at[length] == ':')
            return (enum gw_value_kind)at[length + 1];
    }
    return GW_VALUE_NONE;
}

bool gw_allow_word(const char *words, const char *word)
{
    size_t length = strlen(word);

    if (length == 0 || strchr(word, ' '))
        return false;
    for (const char *at = words; *at; at += strcspn(at, " "), at += *at == ' ') {
        if (strncmp(at, word, length) == 0 && (at[length] == ' ' || at[length] == '\0'))
            return true;
    }
    return false;
}

bool gw_id_is_valid(const char *id)
{
    if (!isalpha((unsigned char)id[0]) || strlen(id) > GW_ID_MAX)
        return false;
    for (const char *c = id; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("-._", *c))
            return false;
    }
    return true;
}

bool gw_word_is_valid(const char *word)
{
    size_t length = strlen(word);

    if (length == 0 || length > GW_ID_MAX)
        return false;
    for (const char *c = word; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("-._:+/", *c))
            return false;
    }
    /* A slash occurs in networks (10.0.2.0/24) only; nothing that begins or climbs like a path. */
    return word[0] != '/' && !strstr(word, "..") && !strstr(word, "//");
}

static bool is_text(const char *value)
{
    if (strlen(value) > GW_TEXT_MAX)
        return false;
    for (const unsigned char *c = (const unsigned char *)value; *c; c++) {
        if (*c < ' ' || *c == 127)
            return false;
    }
    return true;
}

/* Hexadecimal groups as drawn: "x" is a digit, everything else stands for itself. */
static bool looks_like(const char *value, const char *drawing)
{
    for (; *drawing; drawing++, value++) {
        if (*drawing == 'x' ? !isxdigit((unsigned char)*value) : *value != *drawing)
            return false;
    }
    return *value == '\0';
}

static bool is_pci_address(const char *value)
{
    size_t length = strlen(value);

    return length > 0 && length <= 9 && strspn(value, "0123456789abcdefABCDEFx.") == length;
}

static bool is_signed(const char *value)
{
    uint64_t number;

    return gw_option_number(value[0] == '-' ? value + 1 : value, &number) == 0;
}

int gw_value_check(enum gw_value_kind kind, const char *value, const char *what)
{
    uint64_t number;
    bool flag, fits = false;

    switch (kind) {
    case GW_VALUE_NONE:
        break;
    case GW_VALUE_BOOL:
        fits = gw_option_bool(value, &flag) == 0;
        break;
    case GW_VALUE_AUTO:
        fits = strcmp(value, "auto") == 0 || gw_option_bool(value, &flag) == 0;
        break;
    case GW_VALUE_NUMBER:
        fits = gw_option_size(value, 1, &number) == 0;
        break;
    case GW_VALUE_SIGNED:
        fits = is_signed(value);
        break;
    case GW_VALUE_WORD:
        fits = gw_word_is_valid(value);
        break;
    case GW_VALUE_TEXT:
        fits = is_text(value);
        break;
    case GW_VALUE_MAC:
        fits = looks_like(value, "xx:xx:xx:xx:xx:xx");
        break;
    case GW_VALUE_PCI:
        fits = is_pci_address(value);
        break;
    case GW_VALUE_EMPTY:
        fits = value[0] == '\0';
        break;
    case GW_VALUE_UUID:
        fits = looks_like(value, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
        break;
    case GW_VALUE_IOTHREAD:
    case GW_VALUE_NETDEV:
    case GW_VALUE_CHARDEV:
    case GW_VALUE_RNG:
    case GW_VALUE_MEMORY:
    case GW_VALUE_DRIVE:
    case GW_VALUE_AUDIO:
        fits = gw_id_is_valid(value);
        break;
    }
    return fits ? 0 : gw_fail(-EINVAL, "%s: the value \"%.64s\" is not allowed", what, value);
}
