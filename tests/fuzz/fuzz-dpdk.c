/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: what the protocol of transport/dpdk reads of strangers and of its peer. The first
 * byte of the input chooses: an OPEN, ACCEPT or REFUSE as it comes; datagrams without the key, which
 * must change nothing; or datagrams of a peer that has the key and breaks every rule. Each datagram
 * of the last two: its length in two bytes, a byte of flags, then so many bytes.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"
#include "transport/dpdk/core.h"
#include "transport/dpdk/tag.h"

#define MEMORY 4096u
#define GUARD  64u
#define TURNS  256u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t secret[GW_SECRET_MAX] = {1, 2, 3};

/* An answering core, the dialling one of which the fuzzer plays, and a region. */
struct scene {
    struct gw_region_table regions;
    struct gw_region region;
    uint8_t memory[GUARD + MEMORY + GUARD];
    struct dpdk_core *dialling, *core;
    struct dpdk_tag_key key; /* of what the dialling end sends */
    uint64_t now_ns;
    unsigned dones, posted;
};

struct op {
    struct gw_send send; /* first */
    struct scene *scene;
    bool is_done;
};

static void done(struct gw_op *op, int status)
{
    struct op *own = (struct op *)(void *)op;

    (void)status;
    assert(!own->is_done);
    own->is_done = true;
    own->scene->dones++;
}

static struct dpdk_core_options options_of(struct scene *scene, uint8_t which)
{
    struct dpdk_core_options options = {.regions = &scene->regions,
                                        .number = 1,
                                        .secret = secret,
                                        .secret_length = sizeof(secret),
                                        .id = 1,
                                        .incarnation = which,
                                        .max_length = 8972,
                                        .now_ns = scene->now_ns};

    memset(options.nonce, which, sizeof(options.nonce));
    return options;
}

/* The next datagram that a core sends, whole; 0 when there is none. */
static uint32_t next_datagram(struct scene *scene, struct dpdk_core *core,
                              uint8_t bytes[DPDK_DATAGRAM_MAX])
{
    struct dpdk_packet packet;

    if (!gw_dpdk_core_output(core, scene->now_ns, bytes, &packet))
        return 0;
    if (packet.length)
        memcpy(bytes + DPDK_HEADER_SIZE, packet.payload, packet.length);
    gw_dpdk_core_seal(core, bytes, bytes + DPDK_HEADER_SIZE, packet.length);
    return DPDK_HEADER_SIZE + packet.length;
}

static bool take(const struct scene *scene, struct dpdk_core *core, const uint8_t *bytes,
                 uint32_t length, unsigned flags)
{
    struct dpdk_input input = {.bytes = bytes, .length = length, .flags = flags};

    gw_dpdk_core_input(core, scene->now_ns, &input, 1);
    return input.is_authentic;
}

static void open_scene(struct scene *scene)
{
    struct dpdk_core_options options;
    uint8_t bytes[DPDK_DATAGRAM_MAX];
    struct dpdk_open open;
    uint32_t length;

    memset(scene, 0, sizeof(*scene));
    scene->now_ns = 1000000000;
    gw_region_table_init(&scene->regions);
    scene->region = (struct gw_region){
        .memory = scene->memory + GUARD, .length = MEMORY, .access = GW_ACCESS_REMOTE_WRITE};
    if (gw_region_table_add(&scene->regions, &scene->region, 1))
        abort();
    options = options_of(scene, 1);
    if (gw_dpdk_core_dial(&options, "hello", 5, &scene->dialling))
        abort();
    length = next_datagram(scene, scene->dialling, bytes);
    options = options_of(scene, 2);
    if (gw_dpdk_open_decode(bytes, length, &open) ||
        gw_dpdk_core_answer(&options, &open, &scene->core))
        abort();
    length = next_datagram(scene, scene->core, bytes);
    if (!take(scene, scene->dialling, bytes, length, 0))
        abort();
    while ((length = next_datagram(scene, scene->dialling, bytes)) > 0)
        if (!take(scene, scene->core, bytes, length, 0))
            abort();
}

static void close_scene(struct scene *scene)
{
    gw_dpdk_core_close(scene->core);
    gw_dpdk_core_reap(scene->core);
    assert(scene->dones == scene->posted);
    for (unsigned i = 0; i < GUARD; i++)
        assert(scene->memory[i] == 0 && scene->memory[GUARD + MEMORY + i] == 0);
    gw_dpdk_core_free(scene->core);
    gw_dpdk_core_free(scene->dialling);
    gw_region_table_remove(&scene->regions, &scene->region);
    gw_region_table_destroy(&scene->regions);
}

/* The tag that the dialling end would give: it seals whatever is put before it. */
static void seal(struct scene *scene, uint8_t *bytes, uint32_t length)
{
    if (length >= DPDK_HEADER_SIZE && bytes[1] > DPDK_KIND_REFUSE)
        gw_dpdk_core_seal(scene->dialling, bytes, bytes + DPDK_HEADER_SIZE,
                          length - DPDK_HEADER_SIZE);
}

/* What the script's keys stand for: the region's real key cannot be known beforehand. */
static void put_names(struct scene *scene, uint8_t *bytes, uint32_t length, uint64_t number)
{
    if (length < DPDK_HEADER_SIZE)
        return;
    bytes[0] = DPDK_VERSION;
    gw_put_le32(bytes + 4, 1);
    gw_put_le32(bytes + 8, 2);
    gw_put_le32(bytes + 12, length - DPDK_HEADER_SIZE);
    if (gw_get_le64(bytes + 16) == 0)
        gw_put_le64(bytes + 16, number);
    if (bytes[1] == DPDK_KIND_WRITE && gw_get_le64(bytes + 32) == 0)
        gw_put_le64(bytes + 32, scene->region.key);
}

static void turn(struct scene *scene, struct op *ops, unsigned index)
{
    uint8_t bytes[DPDK_DATAGRAM_MAX];
    struct gw_message message;

    ops[index] = (struct op){
        .send = {.op = {.done = done}, .message = "answer", .length = index % 7}, .scene = scene};
    if (gw_dpdk_core_send(scene->core, &ops[index].send) == 0)
        scene->posted++;
    for (unsigned i = 0; i < 64 && next_datagram(scene, scene->core, bytes) > 0; i++)
        assert(bytes[0] == DPDK_VERSION);
    gw_dpdk_core_reap(scene->core);
    if (index % 2 && gw_dpdk_core_recv(scene->core, &message) == 0) {
        assert(message.length <= GW_MESSAGE_MAX);
        for (uint32_t i = 0; i < message.length; i++)
            bytes[i % sizeof(bytes)] ^= ((const uint8_t *)message.data)[i];
    }
    assert(gw_dpdk_core_deadline(scene->core, scene->now_ns) >= scene->now_ns);
}

static void fuzz_peer(const uint8_t *data, size_t size, bool has_key)
{
    struct op *ops = calloc(TURNS, sizeof(ops[0]));
    uint8_t bytes[DPDK_DATAGRAM_MAX + 64];
    struct dpdk_counts counts;
    struct scene scene;

    if (!ops)
        abort();
    open_scene(&scene);
    for (unsigned i = 0; i < TURNS && size > 3; i++) {
        uint32_t length = (uint32_t)(data[0] | data[1] << 8), padded;
        uint8_t flags = data[2];

        data += 3;
        size -= 3;
        length = length < size ? length : (uint32_t)size;
        length = length < sizeof(bytes) ? length : (uint32_t)sizeof(bytes);
        memset(bytes, 0, sizeof(bytes));
        memcpy(bytes, data, length);
        data += length;
        size -= length;
        padded = flags & 2 ? length + DPDK_HEADER_SIZE : length;
        padded = padded < DPDK_DATAGRAM_MAX ? padded : DPDK_DATAGRAM_MAX;
        if (has_key) {
            put_names(&scene, bytes, padded, 1000 + i);
            seal(&scene, bytes, padded);
        }
        take(&scene, scene.core, bytes, padded, flags & 1);
        scene.now_ns += (uint64_t)(flags >> 2) * 1000000;
        turn(&scene, ops, i);
    }
    gw_dpdk_core_counts(scene.core, &counts);
    if (!has_key) {
        for (unsigned i = 0; i < MEMORY; i++)
            assert(scene.memory[GUARD + i] == 0);
        assert(counts.bytes_received == 0);
        assert(scene.dones == 0 || gw_dpdk_core_state(scene.core) == DPDK_DEAD);
    }
    close_scene(&scene);
    free(ops);
}

static void fuzz_setup(const uint8_t *data, size_t size)
{
    struct dpdk_core_options options;
    struct dpdk_core *core;
    struct dpdk_open open;
    struct scene scene = {.now_ns = 1};
    uint8_t refusal[DPDK_DATAGRAM_MIN];

    if (gw_dpdk_open_decode(data, (uint32_t)size, &open))
        return;
    assert(open.hello_length <= GW_HELLO_MAX && open.max_length >= DPDK_DATAGRAM_MIN &&
           open.max_length <= DPDK_DATAGRAM_MAX);
    gw_dpdk_refuse_encode(&open, "no", refusal);
    options = options_of(&scene, 1);
    assert(gw_dpdk_core_answer(&options, &open, &core) == -EACCES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 3 == 0)
        fuzz_setup(data + 1, size - 1);
    else
        fuzz_peer(data + 1, size - 1, data[0] % 3 == 2);
    return 0;
}
