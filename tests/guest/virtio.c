/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver for the part that all virtio devices share: VIRTIO 1.2, 4.1 (PCI) and 2.7 (split virtqueues). Requests
 * go one by one and are waited for; the device is told to send no interrupts.
 */
#include "guest.h"

#define VENDOR          0x1af4u
#define CONFIG_ADDRESS  0xcf8
#define CONFIG_DATA     0xcfc
#define QUEUE_SIZE      4u
#define COMMAND         0x04u
#define COMMAND_BITS    0x406u /* memory, bus master, no interrupt line */
#define CAPABILITIES    0x34u
#define VENDOR_SPECIFIC 9u
#define KIND_COMMON     1u
#define KIND_NOTIFY     2u
#define KIND_DEVICE     4u
#define ACKNOWLEDGE     1u
#define DRIVER          2u
#define DRIVER_OK       4u
#define FEATURES_OK     8u
#define VERSION_1       1u /* feature 32 */
#define NEXT            1u
#define WRITE           2u
#define NO_INTERRUPT    1u

struct virtio_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct virtio_ring {
    uint16_t flags, index, entries[QUEUE_SIZE];
};

struct virtio_used {
    uint16_t flags, index;
    struct {
        uint32_t id, length;
    } entries[QUEUE_SIZE];
};

/* Two devices' queues. */
#define QUEUE_LIMIT (2 * VIRTIO_QUEUES)
static struct virtio_descriptor descriptors[QUEUE_LIMIT][QUEUE_SIZE] __attribute__((aligned(16)));
static volatile struct virtio_ring available[QUEUE_LIMIT] __attribute__((aligned(4)));
static volatile struct virtio_used used[QUEUE_LIMIT] __attribute__((aligned(4)));
static unsigned queues_taken;

static uint32_t read_pci(uint32_t slot, uint32_t offset)
{
    uint32_t value;

    __asm__ volatile("outl %0, %1"
                     :
                     : "a"(0x80000000u | slot << 11 | (offset & 0xfc)),
                       "Nd"((uint16_t)CONFIG_ADDRESS));
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"((uint16_t)CONFIG_DATA));
    return value >> 8 * (offset & 3);
}

static void write_pci(uint32_t slot, uint32_t offset, uint32_t value)
{
    __asm__ volatile("outl %0, %1"
                     :
                     : "a"(0x80000000u | slot << 11 | offset), "Nd"((uint16_t)CONFIG_ADDRESS));
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"((uint16_t)CONFIG_DATA));
}

/* Where the structure lies that this capability speaks of. */
static volatile uint8_t *structure_at(uint32_t slot, uint32_t capability)
{
    uint32_t register_at = 0x10 + 4 * (read_pci(slot, capability + 4) & 0xff);
    uint32_t low = read_pci(slot, register_at);
    uint64_t address = low & ~15u;

    if ((low & 6) == 4)
        address |= (uint64_t)read_pci(slot, register_at + 4) << 32;
    address += read_pci(slot, capability + 8);
    if (low & 1 || address >= HIGHEST_ADDRESS)
        stop("a virtio device is out of reach");
    return (volatile uint8_t *)address;
}

/* The capability of that kind, 0 when there is none. */
static uint32_t find_capability(uint32_t slot, uint32_t kind)
{
    uint32_t at = read_pci(slot, CAPABILITIES) & 0xfc;

    while (at && ((read_pci(slot, at) & 0xff) != VENDOR_SPECIFIC ||
                  (read_pci(slot, at + 3) & 0xff) != kind))
        at = read_pci(slot, at + 1) & 0xfc;
    return at;
}

static void write_common(const struct virtio *device, unsigned offset, uint32_t value)
{
    *(volatile uint32_t *)(device->common + offset) = value;
}

static void write_status(const struct virtio *device, uint8_t value)
{
    device->common[20] = value;
}

static void open_queue(struct virtio *device, unsigned index, volatile uint8_t *notify,
                       uint32_t multiplier)
{
    struct virtio_queue *queue = &device->queues[index];
    unsigned place = queues_taken++;
    uint64_t addresses[3];

    if (place >= QUEUE_LIMIT)
        stop("no room for a virtio queue");
    queue->descriptors = descriptors[place];
    queue->available = &available[place];
    queue->used = &used[place];
    queue->seen = 0;
    queue->available->flags = NO_INTERRUPT;
    addresses[0] = (uint64_t)queue->descriptors;
    addresses[1] = (uint64_t)queue->available;
    addresses[2] = (uint64_t)queue->used;
    *(volatile uint16_t *)(device->common + 22) = (uint16_t)index;
    *(volatile uint16_t *)(device->common + 24) = QUEUE_SIZE;
    for (unsigned i = 0; i < 3; i++) {
        write_common(device, 32 + 8 * i, (uint32_t)addresses[i]);
        write_common(device, 36 + 8 * i, 0);
    }
    queue->notify =
        (volatile uint16_t *)(notify + *(volatile uint16_t *)(device->common + 30) * multiplier);
    *(volatile uint16_t *)(device->common + 28) = 1;
}

static void negotiate(const struct virtio *device, uint32_t features)
{
    write_status(device, 0);
    write_status(device, ACKNOWLEDGE | DRIVER);
    write_common(device, 8, 0);
    write_common(device, 12, features);
    write_common(device, 8, 1);
    write_common(device, 12, VERSION_1);
    write_status(device, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (!(device->common[20] & FEATURES_OK))
        stop("a virtio device wants other features");
}

int virtio_open(struct virtio *device, uint16_t number, uint16_t old_number, uint32_t features,
                unsigned queue_count)
{
    uint32_t slot, common, notify, config, found = 0;

    for (slot = 0; slot < 32; slot++) {
        found = read_pci(slot, 0);
        if (found == (VENDOR | (uint32_t)number << 16) ||
            found == (VENDOR | (uint32_t)old_number << 16))
            break;
    }
    if (slot == 32)
        return 0;
    common = find_capability(slot, KIND_COMMON);
    notify = find_capability(slot, KIND_NOTIFY);
    config = find_capability(slot, KIND_DEVICE);
    if (!common || !notify || !config)
        stop("a virtio device is of the old kind");
    write_pci(slot, COMMAND, read_pci(slot, COMMAND) | COMMAND_BITS);
    device->common = structure_at(slot, common);
    device->config = structure_at(slot, config);
    negotiate(device, features);
    for (unsigned i = 0; i < queue_count; i++)
        open_queue(device, i, structure_at(slot, notify), read_pci(slot, notify + 16));
    write_status(device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    return 1;
}

uint32_t virtio_read(const struct virtio *device, unsigned offset)
{
    return *(volatile uint32_t *)(device->config + offset);
}

uint64_t virtio_read_long(const struct virtio *device, unsigned offset)
{
    return virtio_read(device, offset) | (uint64_t)virtio_read(device, offset + 4) << 32;
}

void virtio_write(const struct virtio *device, unsigned offset, uint32_t value)
{
    *(volatile uint32_t *)(device->config + offset) = value;
}

void virtio_ask(struct virtio_queue *queue, const void *out, uint32_t out_size, void *in,
                uint32_t in_size)
{
    uint16_t index = queue->available->index;

    queue->descriptors[0] =
        (struct virtio_descriptor){(uint64_t)out, out_size, in_size ? NEXT : 0, 1};
    queue->descriptors[1] = (struct virtio_descriptor){(uint64_t)in, in_size, WRITE, 0};
    queue->available->entries[index % QUEUE_SIZE] = 0;
    __asm__ volatile("mfence" ::: "memory");
    queue->available->index = (uint16_t)(index + 1);
    __asm__ volatile("mfence" ::: "memory");
    *queue->notify = 0;
    while (queue->used->index == queue->seen)
        __asm__ volatile("pause" ::: "memory");
    queue->seen++;
}
