/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated network and clock of sim.h. */
#include "tests/transport/dpdk/sim.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"

/* Every life of an end has the same id: only the incarnation tells them apart. */
#define END_ID 1u

#define NUMBER_OFFSET 16u
#define WINDOW        16384u /* packet numbers behind the largest one that came: older ones are refused */

struct sim_datagram {
    uint64_t at_ns, sequence; /* what arrives at the same time keeps its order */
    struct sim_port *to;
    bool is_marked;
    uint32_t length;
    uint8_t bytes[];
};

uint64_t sim_random(struct sim *sim)
{
    /* splitmix64 (Steele, Lea, Flood, OOPSLA 2014) */
    uint64_t z = sim->random += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t sim_below(struct sim *sim, uint64_t limit)
{
    return limit ? sim_random(sim) % limit : 0;
}

bool sim_chance(struct sim *sim, uint32_t share)
{
    return share && sim_below(sim, 1000000) < share;
}

void sim_init(struct sim *sim, uint64_t seed)
{
    memset(sim, 0, sizeof(*sim));
    sim->random = seed;
    sim->now_ns = SIM_SECOND;
}

void sim_free(struct sim *sim)
{
    for (unsigned i = 0; i < sim->count; i++)
        free(sim->heap[i]);
    free(sim->heap);
    sim->heap = NULL;
    sim->count = 0;
}

void sim_link_init(struct sim_link *link)
{
    *link = (struct sim_link){
        .bytes_per_second = 1250000000, .delay_ns = 20000, .queue_bytes = 1000000, .mtu = 8972};
}

static bool is_before(const struct sim_datagram *a, const struct sim_datagram *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->sequence < b->sequence;
}

static void swap(struct sim *sim, unsigned a, unsigned b)
{
    struct sim_datagram *held = sim->heap[a];

    sim->heap[a] = sim->heap[b];
    sim->heap[b] = held;
}

static void push(struct sim *sim, struct sim_datagram *datagram)
{
    unsigned at = sim->count++;

    if (at == sim->capacity) {
        sim->capacity = sim->capacity ? sim->capacity * 2 : 256;
        sim->heap = realloc(sim->heap, sim->capacity * sizeof(sim->heap[0]));
        assert(sim->heap);
    }
    datagram->sequence = sim->sequence++;
    sim->heap[at] = datagram;
    for (; at && is_before(sim->heap[at], sim->heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(sim, at, (at - 1) / 2);
}

static struct sim_datagram *pop(struct sim *sim)
{
    struct sim_datagram *first = sim->heap[0];
    unsigned at = 0;

    sim->heap[0] = sim->heap[--sim->count];
    for (;;) {
        unsigned least = at, left = 2 * at + 1;

        if (left < sim->count && is_before(sim->heap[left], sim->heap[least]))
            least = left;
        if (left + 1 < sim->count && is_before(sim->heap[left + 1], sim->heap[least]))
            least = left + 1;
        if (least == at)
            return first;
        swap(sim, at, least);
        at = least;
    }
}

static struct sim_datagram *deliver(struct sim *sim, uint64_t at_ns, struct sim_port *to,
                                    const uint8_t *bytes, uint32_t length)
{
    struct sim_datagram *datagram = malloc(sizeof(*datagram) + length);

    assert(datagram);
    *datagram = (struct sim_datagram){.at_ns = at_ns, .to = to, .length = length};
    if (length)
        memcpy(datagram->bytes, bytes, length);
    push(sim, datagram);
    return datagram;
}

void sim_alarm(struct sim *sim, uint64_t at_ns, struct sim_port *port)
{
    deliver(sim, at_ns, port, NULL, 0);
}

static uint64_t wire_ns(const struct sim_link *link, uint64_t bytes)
{
    return (uint64_t)((double)bytes * (double)SIM_SECOND / (double)link->bytes_per_second);
}

static void corrupt(struct sim *sim, struct sim_datagram *datagram)
{
    unsigned bits = 1 + (unsigned)sim_below(sim, 8);

    for (unsigned i = 0; i < bits; i++) {
        uint64_t bit = sim_below(sim, (uint64_t)datagram->length * 8);

        datagram->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

void sim_send(struct sim *sim, struct sim_link *link, struct sim_port *to, const uint8_t *bytes,
              uint32_t length)
{
    uint64_t begin = gw_max(sim->now_ns, link->free_at_ns), waiting_ns = begin - sim->now_ns;
    uint32_t copies = sim_chance(sim, link->duplication) ? 2 : 1;
    /* Ethernet, IP and UDP around it. */
    uint64_t on_wire = (uint64_t)length + 66;

    if (length > link->mtu || sim->now_ns < link->down_until_ns ||
        waiting_ns > wire_ns(link, link->queue_bytes)) {
        link->dropped++;
        return;
    }
    link->free_at_ns = begin + wire_ns(link, on_wire);
    link->carried_bytes += length;
    if (sim_chance(sim, link->loss))
        return;
    for (uint32_t i = 0; i < copies; i++) {
        uint64_t at = link->free_at_ns + link->delay_ns + sim_below(sim, link->jitter_ns);
        struct sim_datagram *datagram = deliver(sim, at, to, bytes, length);

        datagram->is_marked = link->mark_bytes && waiting_ns > wire_ns(link, link->mark_bytes);
        if (sim_chance(sim, link->corruption))
            corrupt(sim, datagram);
    }
}

/* ---- what is to be believed ---- */

static uint64_t hash_of(const uint8_t *bytes, uint32_t length)
{
    uint64_t hash = length;

    for (; length >= 8; bytes += 8, length -= 8)
        hash = (hash ^ gw_get_le64(bytes)) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
    for (; length; bytes++, length--)
        hash = (hash ^ *bytes) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
    return hash;
}

static uint64_t number_of(const uint8_t *datagram)
{
    return gw_get_le64(datagram + NUMBER_OFFSET);
}

static void note_sent(struct sim_end *end, const uint8_t *bytes, uint32_t length)
{
    uint64_t number = number_of(bytes);

    if (end->peer->burst_max == 0)
        return;
    if (number >= end->sent_count) {
        uint64_t count = gw_max(256, number * 2);

        end->sent = realloc(end->sent, count * sizeof(end->sent[0]));
        assert(end->sent);
        memset(end->sent + end->sent_count, 0, (count - end->sent_count) * sizeof(end->sent[0]));
        end->sent_count = count;
    }
    end->sent[number].hash = hash_of(bytes, length);
}

static bool is_for(const struct sim_end *end, const uint8_t *bytes, uint32_t length)
{
    struct dpdk_name name;

    return !gw_dpdk_name_decode(bytes, length, &name) && name.id == end->id &&
           name.incarnation == end->incarnation;
}

/* Whether the core has to take this one for its peer's, after those before it. */
static bool is_to_be_believed(struct sim_end *end, const struct dpdk_input *input)
{
    const uint8_t *bytes = input->bytes;
    uint64_t number = number_of(bytes);
    struct sim_sent *sent;

    if (number >= end->peer->sent_count || !is_for(end, bytes, input->length))
        return false;
    sent = &end->peer->sent[number];
    if (sent->hash == 0 || sent->hash != hash_of(bytes, input->length))
        return false;
    if (bytes[1] == DPDK_KIND_ACCEPT) {
        bool is_first = !end->is_met && gw_dpdk_core_state(end->core) != DPDK_DEAD;

        end->is_met |= is_first;
        return is_first;
    }
    if (!end->is_met || sent->is_taken || number + WINDOW <= end->largest_taken)
        return false;
    sent->is_taken = true;
    end->largest_taken = gw_max(end->largest_taken, number);
    return true;
}

/* ---- ends ---- */

/* The driver leaves out what has other names, and the core does not rely on it. */
static unsigned drop_strangers(struct sim_end *end)
{
    struct sim_burst *burst = &end->burst;
    unsigned kept = 0;

    for (unsigned i = 0; i < burst->count; i++)
        if (is_for(end, burst->inputs[i].bytes, burst->inputs[i].length) || sim_below(end->sim, 2))
            burst->inputs[kept++] = burst->inputs[i];
    return kept;
}

static void hand_over(struct sim_end *end)
{
    bool is_believed[SIM_BURST];
    unsigned count = drop_strangers(end);

    end->burst.count = 0;
    if (count == 0)
        return;
    for (unsigned i = 0; i < count; i++)
        is_believed[i] = is_to_be_believed(end, &end->burst.inputs[i]);
    end->bursts++;
    end->taken += count;
    end->longest_burst = gw_max(end->longest_burst, count);
    if (end->take)
        end->take(end, end->burst.inputs, count);
    else
        gw_dpdk_core_input(end->core, end->sim->now_ns, end->burst.inputs, count);
    for (unsigned i = 0; i < count; i++)
        if (end->burst.inputs[i].is_authentic != is_believed[i])
            end->fault = is_believed[i] ? "a datagram of the peer's was not believed"
                                        : "what the peer did not send, or sent once, was believed";
}

static void wait_in_burst(struct sim_end *end, const struct dpdk_input *input)
{
    struct sim_burst *burst = &end->burst;
    struct sim *sim = end->sim;
    uint8_t *bytes;

    if (!burst->bytes)
        burst->bytes = aligned_alloc(4096, SIM_BURST * sizeof(burst->bytes[0]));
    assert(burst->bytes && input->length <= SIM_ROOM && end->burst_max <= SIM_BURST);
    bytes = burst->bytes[burst->count];
    memcpy(bytes, input->bytes, input->length);
    burst->inputs[burst->count] = *input;
    burst->inputs[burst->count].bytes = bytes;
    if (burst->count++ == 0) {
        burst->wanted = 1 + (unsigned)sim_below(sim, end->burst_max);
        end->next_ns = gw_min(end->next_ns, sim->now_ns + sim_below(sim, end->burst_wait_ns));
    }
    if (burst->count == burst->wanted) {
        hand_over(end);
        end->next_ns = sim->now_ns;
    }
}

static void end_arrive(struct sim_port *port, const uint8_t *bytes, uint32_t length, bool is_marked)
{
    struct sim_end *end = gw_container_of(port, struct sim_end, port);
    struct dpdk_input input = {
        .bytes = bytes, .length = length, .flags = is_marked ? DPDK_INPUT_CE : 0};

    if (end->is_frozen || !end->core || length < DPDK_HEADER_SIZE)
        return;
    if (end->burst_max) {
        wait_in_burst(end, &input);
    } else if (is_for(end, bytes, length)) {
        gw_dpdk_core_input(end->core, end->sim->now_ns, &input, 1);
        end->next_ns = end->sim->now_ns;
    }
}

void sim_end_init(struct sim *sim, struct sim_end *end, struct sim_link *link)
{
    memset(end, 0, sizeof(*end));
    end->port.arrive = end_arrive;
    end->sim = sim;
    end->link = link;
    end->next_ns = UINT64_MAX;
    gw_region_table_init(&end->regions);
    assert(sim->end_count < SIM_ENDS);
    sim->ends[sim->end_count++] = end;
}

void sim_end_free(struct sim_end *end)
{
    sim_disconnect(end);
    gw_region_table_destroy(&end->regions);
    free(end->burst.bytes);
    free(end->sent);
}

static void fill(struct sim *sim, uint8_t *bytes, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)sim_random(sim);
}

static struct dpdk_core_options options_of(struct sim_end *end, const uint8_t *secret,
                                           uint16_t max_length)
{
    struct dpdk_core_options options = {.regions = &end->regions,
                                        .number = 7,
                                        .secret = secret,
                                        .secret_length = GW_SECRET_MAX,
                                        .port = 4791,
                                        .max_length = max_length,
                                        .now_ns = end->sim->now_ns};

    fill(end->sim, options.nonce, sizeof(options.nonce));
    options.incarnation = end->incarnation = (uint32_t)sim_random(end->sim) | 1;
    options.id = end->id = END_ID;
    return options;
}

static void begin_life(struct sim_end *end)
{
    if (end->sent_count)
        memset(end->sent, 0, end->sent_count * sizeof(end->sent[0]));
    end->largest_taken = 0;
    end->is_met = false;
}

void sim_connect(struct sim_end *from, struct sim_end *to, uint16_t max_from, uint16_t max_to)
{
    uint8_t secret[GW_SECRET_MAX], header[DPDK_HEADER_SIZE], datagram[DPDK_DATAGRAM_MIN];
    struct dpdk_core_options options;
    struct dpdk_packet packet;
    struct dpdk_open open;

    from->peer = to;
    to->peer = from;
    begin_life(from);
    begin_life(to);
    to->is_met = true;
    fill(from->sim, secret, sizeof(secret));
    options = options_of(from, secret, max_from);
    if (gw_dpdk_core_dial(&options, "hello", 5, &from->core) ||
        !gw_dpdk_core_output(from->core, from->sim->now_ns, header, &packet))
        abort();
    gw_dpdk_core_seal(from->core, header, packet.payload, packet.length);
    memcpy(datagram, header, sizeof(header));
    memcpy(datagram + sizeof(header), packet.payload, packet.length);
    options = options_of(to, secret, max_to);
    if (gw_dpdk_open_decode(datagram, sizeof(datagram), &open) ||
        gw_dpdk_core_answer(&options, &open, &to->core)) {
        printf("%s\n", gw_error_message());
        abort();
    }
    sim_wake(from);
    sim_wake(to);
}

static void send_all(struct sim_end *end)
{
    uint8_t bytes[DPDK_DATAGRAM_MAX];
    struct dpdk_packet packet;

    while (gw_dpdk_core_output(end->core, end->sim->now_ns, bytes, &packet)) {
        uint32_t length = DPDK_HEADER_SIZE + packet.length;

        if (packet.length)
            memcpy(bytes + DPDK_HEADER_SIZE, packet.payload, packet.length);
        gw_dpdk_core_seal(end->core, bytes, bytes + DPDK_HEADER_SIZE, packet.length);
        note_sent(end, bytes, length);
        if (end->sim->overhear)
            end->sim->overhear(end->sim, end, bytes, length);
        sim_send(end->sim, end->link, &end->peer->port, bytes, length);
    }
}

void sim_disconnect(struct sim_end *end)
{
    if (!end->core)
        return;
    gw_dpdk_core_close(end->core);
    gw_dpdk_core_reap(end->core);
    if (!end->is_frozen)
        send_all(end);
    gw_dpdk_core_free(end->core);
    end->core = NULL;
    end->next_ns = UINT64_MAX;
}

void sim_wake(struct sim_end *end)
{
    end->next_ns = end->sim->now_ns;
}

static void turn(struct sim_end *end)
{
    if (!end->core || end->is_frozen) {
        end->next_ns = UINT64_MAX;
        return;
    }
    end->next_ns = 0;
    if (end->burst.count)
        hand_over(end);
    send_all(end);
    gw_dpdk_core_reap(end->core);
    if (end->turn)
        end->turn(end);
    if (!end->core)
        return;
    /* What the turn posted leaves now. */
    send_all(end);
    gw_dpdk_core_reap(end->core);
    if (end->next_ns == 0)
        end->next_ns = gw_dpdk_core_deadline(end->core, end->sim->now_ns);
}

/* Everything that is to happen at one time. */
static void step(struct sim *sim, uint64_t at_ns)
{
    sim->now_ns = at_ns;
    while (sim->count && sim->heap[0]->at_ns <= at_ns) {
        struct sim_datagram *datagram = pop(sim);

        datagram->to->arrive(datagram->to, datagram->bytes, datagram->length, datagram->is_marked);
        free(datagram);
    }
    for (unsigned i = 0; i < sim->end_count; i++)
        if (sim->ends[i]->next_ns <= at_ns)
            turn(sim->ends[i]);
}

bool sim_run(struct sim *sim, uint64_t until_ns, bool (*is_over)(struct sim *sim))
{
    unsigned stuck = 0;

    while (!is_over(sim)) {
        uint64_t at = sim->count ? sim->heap[0]->at_ns : UINT64_MAX;

        for (unsigned i = 0; i < sim->end_count; i++)
            at = gw_min(at, sim->ends[i]->next_ns);
        if (at > until_ns)
            return false;
        /* A core that wants a turn now, again and again, is a fault of its own. */
        stuck = at <= sim->now_ns ? stuck + 1 : 0;
        if (stuck > 100000)
            return false;
        step(sim, gw_max(at, sim->now_ns));
    }
    return true;
}
