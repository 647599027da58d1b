/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest: what the verifiable guest's files know of each other. guest.c has the pattern, the pages of the
 * span, the disks and the serial line; virtio.c drives a virtio device by polling; elastic.c gives memory
 * back to the host and takes it again, as the host asks.
 *
 * Threads: one CPU, and no interrupt handler of its own.
 */
#ifndef GODWIT_TESTS_GUEST_H
#define GODWIT_TESTS_GUEST_H

#include <stdint.h>

#define HIGHEST_ADDRESS (16ull << 30) /* boot.S maps this much */
#define PAGE            4096u

void *memset(void *to, int value, unsigned long size);

/* ---- guest.c ---- */
void put_text(const char *text);
void put_number(const char *name, uint64_t value);
void end_line(void);
_Noreturn void stop(const char *cause);
uint32_t random_below(uint32_t limit);
void fill_pattern(uint64_t *words, uint64_t space, uint64_t number, uint32_t generation);
int has_pattern(const uint64_t *words, uint64_t space, uint64_t number, uint32_t generation);
/* A table of 32-bit generations, all zero, off the front of the usable memory: before pages are filled. */
uint32_t *take_table(uint64_t entry_count);
uint64_t span_pages(void);
/* A page of the span is given away: nothing writes or checks it until it is taken back, which writes it.
 * Its address. */
uint64_t give_page(uint64_t number);
uint64_t take_page(uint64_t number);

/* ---- virtio.c ---- */
#define VIRTIO_QUEUES 2u

struct virtio_queue {
    struct virtio_descriptor *descriptors;
    volatile struct virtio_ring *available;
    volatile struct virtio_used *used;
    volatile uint16_t *notify;
    uint16_t seen;
};

/* A device of the "modern" kind on PCI bus 0. */
struct virtio {
    volatile uint8_t *common, *config;
    struct virtio_queue queues[VIRTIO_QUEUES];
};

/* Finds the first device with one of these PCI device numbers, which takes these of the first 32 features and
 * the first queue_count queues. False when there is none. */
int virtio_open(struct virtio *device, uint16_t number, uint16_t old_number, uint32_t features,
                unsigned queue_count);
uint32_t virtio_read(const struct virtio *device, unsigned offset);
uint64_t virtio_read_long(const struct virtio *device, unsigned offset);
void virtio_write(const struct virtio *device, unsigned offset, uint32_t value);
/* Sends a buffer, waits for the answer in another (its size may be 0). Both are below 4 GiB, as is all of this
 * program. */
void virtio_ask(struct virtio_queue *queue, const void *out, uint32_t out_size, void *in,
                uint32_t in_size);

/* ---- elastic.c ---- */
/* Finds a virtio-mem device and a balloon. */
void elastic_open(void);
/* A step towards what the host wants of them; while the guest is busy, rewrites a page as well. */
void elastic_work(int is_quiet);
/* Checks the memory that is plugged in; how much of it is bad. Adds to *pages what was looked at. */
uint64_t elastic_verify(uint64_t *pages);

#endif
