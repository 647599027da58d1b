/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dpdk-core: what the protocol of transport/dpdk costs a datagram, without any NIC: one thread, both
 * ends, each datagram copied once as a driver does. Prints, for some datagram lengths, the CPU time of
 * the sender and of the receiver in ns and in cycles of the time stamp counter, the tag's share of
 * both, and AES-128-GMAC over as many bytes for comparison.
 *
 *   dpdk-core [SECONDS-PER-LINE]
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "transport/dpdk/core.h"
#include "transport/dpdk/tag.h"

#if defined(__x86_64__)
#include <x86intrin.h>
#define CYCLES() __rdtsc()
#else
#define CYCLES() gw_clock_ns()
#endif

#define WRITE_SIZE (256u << 10)
#define WRITES     16u
#define BURST      32u

struct side {
    struct dpdk_core *core;
    uint64_t cpu_ns, datagrams;
};

struct burst {
    uint8_t bytes[BURST][DPDK_DATAGRAM_MAX];
    uint32_t lengths[BURST];
    unsigned count;
};

struct slot {
    struct gw_write write; /* first */
    bool is_posted;
};

static uint8_t source[WRITE_SIZE], target[WRITE_SIZE];
static struct burst there, back;

static void must(int rc)
{
    if (rc) {
        fprintf(stderr, "dpdk-core: %s\n", gw_error_message());
        exit(1);
    }
}

static void done(struct gw_op *op, int status)
{
    must(status);
    ((struct slot *)(void *)op)->is_posted = false;
}

static void take_out(struct side *side, uint64_t now_ns, struct burst *burst)
{
    struct dpdk_packet packet;
    uint64_t from = gw_clock_thread_ns();

    for (burst->count = 0; burst->count < BURST; burst->count++) {
        uint8_t *bytes = burst->bytes[burst->count];

        if (!gw_dpdk_core_output(side->core, now_ns, bytes, &packet))
            break;
        if (packet.length)
            memcpy(bytes + DPDK_HEADER_SIZE, packet.payload, packet.length);
        gw_dpdk_core_seal(side->core, bytes, bytes + DPDK_HEADER_SIZE, packet.length);
        burst->lengths[burst->count] = DPDK_HEADER_SIZE + packet.length;
    }
    side->cpu_ns += gw_clock_thread_ns() - from;
    side->datagrams += burst->count;
}

static void put_in(struct side *side, uint64_t now_ns, const struct burst *burst)
{
    struct dpdk_input inputs[BURST];
    uint64_t from = gw_clock_thread_ns();

    for (unsigned i = 0; i < burst->count; i++)
        inputs[i] = (struct dpdk_input){.bytes = burst->bytes[i], .length = burst->lengths[i]};
    gw_dpdk_core_input(side->core, now_ns, inputs, burst->count);
    gw_dpdk_core_reap(side->core);
    side->cpu_ns += gw_clock_thread_ns() - from;
}

static void open_both(struct side sides[2], struct gw_region_table *regions, uint16_t length)
{
    static const uint8_t secret[GW_SECRET_MAX] = {1};
    struct dpdk_core_options options = {.regions = regions,
                                        .secret = secret,
                                        .secret_length = sizeof(secret),
                                        .id = 1,
                                        .incarnation = 1,
                                        .max_length = length,
                                        .now_ns = gw_clock_ns()};
    struct dpdk_open open;

    must(gw_dpdk_core_dial(&options, "", 0, &sides[0].core));
    take_out(&sides[0], options.now_ns, &there);
    must(gw_dpdk_open_decode(there.bytes[0], there.lengths[0], &open));
    options.nonce[0] = 1;
    must(gw_dpdk_core_answer(&options, &open, &sides[1].core));
}

static double gmac_ns(uint32_t length)
{
    static const uint8_t key[16], nonce[12];
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    uint64_t from, rounds = 20000;
    uint8_t tag[16];
    int out;

    EVP_CipherInit_ex2(context, cipher, key, nonce, 1, NULL);
    from = gw_clock_thread_ns();
    for (uint64_t i = 0; i < rounds; i++) {
        EVP_CipherInit_ex2(context, NULL, NULL, nonce, -1, NULL);
        EVP_CipherUpdate(context, NULL, &out, source, (int)length);
        EVP_CipherFinal_ex(context, tag, &out);
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, sizeof(tag), tag);
    }
    from = gw_clock_thread_ns() - from;
    EVP_CIPHER_CTX_free(context);
    EVP_CIPHER_free(cipher);
    return (double)from / (double)rounds;
}

static double tag_ns(uint32_t length)
{
    static const uint8_t secret[GW_SECRET_MAX] = {1};
    static struct dpdk_tag_key key;
    struct dpdk_tag_secret options = {
        .secret = secret, .secret_length = sizeof(secret), .context = "x", .context_length = 1};
    uint64_t from, rounds = 200000;
    uint8_t header[DPDK_HEADER_SIZE] = {0};

    must(gw_dpdk_tag_derive(&options, &key));
    from = gw_clock_thread_ns();
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t tag = gw_dpdk_tag(&key, header, source, length - DPDK_HEADER_SIZE);

        memcpy(header, &tag, sizeof(tag));
    }
    return (double)(gw_clock_thread_ns() - from) / (double)rounds;
}

static void run(uint16_t length, double seconds)
{
    static struct slot slots[WRITES];
    struct side sides[2] = {0};
    struct gw_region_table regions;
    struct gw_region region = {
        .memory = target, .length = sizeof(target), .access = GW_ACCESS_REMOTE_WRITE};
    uint64_t began, from = CYCLES(), now, end;
    double per_ns;

    gw_region_table_init(&regions);
    must(gw_region_table_add(&regions, &region, 0));
    open_both(sides, &regions, length);
    memset(slots, 0, sizeof(slots));
    began = now = gw_clock_ns();
    end = began + (uint64_t)(seconds * (double)GW_NS_PER_S);
    for (; now < end; now = gw_clock_ns()) {
        for (unsigned i = 0; i < WRITES; i++) {
            if (slots[i].is_posted)
                continue;
            slots[i] = (struct slot){.write = {.op = {.done = done},
                                               .local = source,
                                               .length = WRITE_SIZE,
                                               .remote_key = region.key},
                                     .is_posted = true};
            must(gw_dpdk_core_write(sides[0].core, &slots[i].write));
        }
        take_out(&sides[0], now, &there);
        put_in(&sides[1], now, &there);
        take_out(&sides[1], now, &back);
        put_in(&sides[0], now, &back);
    }
    per_ns = (double)(CYCLES() - from) / (double)(now - began);
    printf("datagrams of %u: ", length);
    for (unsigned i = 0; i < 2; i++) {
        double ns = (double)sides[i].cpu_ns / (double)sides[0].datagrams;

        printf("%s %.0f ns (%.0f cycles), ", i ? "receiver" : "sender", ns, ns * per_ns);
    }
    printf(
        "each with one copy and its share of the acknowledgements; the tag %.0f ns, GMAC would be "
        "%.0f ns\n",
        tag_ns(length), gmac_ns(length));
    for (unsigned i = 0; i < 2; i++)
        gw_dpdk_core_free(sides[i].core);
    gw_region_table_remove(&regions, &region);
    gw_region_table_destroy(&regions);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1.0;

    run(1472, seconds);
    run(8972, seconds);
    return 0;
}
