/* SPDX-License-Identifier: Apache-2.0 */
/* Somebody on the wire hears everything that two ports of af_packet say to each other, and sends what
 * they like to both: what was said again, with other bytes, numbers, kinds and senders, to the end that
 * said it, and invented requests. Data goes on meanwhile, a new channel can be made, nothing is written
 * that the peer did not write, and no memory is taken. GODWIT_TEST_WIRE names the two interfaces. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <malloc.h>
#include <net/if.h>
#include <pthread.h>
#include <rte_ethdev.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/transport/dpdk/data.h"
#include "transport/dpdk/headers.h"
#include "transport/dpdk/wire.h"

#define FRAME_MAX  2048u
#define HEARD_MAX  256u
#define FORGED_MIN 200000u
#define FLOOD_NS   (120 * GW_NS_PER_S) /* in which so many come, however slow the machine is */
#define ROUNDS_MIN 40u                 /* 10 MiB */
#define GROWTH_MAX                                                                                 \
    (1u << 20) /* bytes of heap, of a transport that holds 4000 datagrams at the most */
#define UDP_AT      (DPDK_ETHERNET_SIZE + DPDK_IPV4_SIZE)
#define DATAGRAM_AT (UDP_AT + DPDK_UDP_SIZE)

struct frame {
    uint8_t bytes[FRAME_MAX];
    uint32_t length;
    bool is_outgoing; /* from the near end to the far one */
};

struct forger {
    int wire
        [2]; /* sockets of the near interface, whose frames arrive at the far one, and of the far */
    pthread_t thread;
    _Atomic bool is_stopping;
    _Atomic uint64_t sent;
    uint64_t random;
    struct frame heard[HEARD_MAX]; /* the last ones, forged ones among them */
    struct frame open;             /* the first request, which nobody forged */
    unsigned heard_count;
};

static uint64_t next_random(struct forger *forger)
{
    uint64_t z = forger->random += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- the wire ---- */

static int open_wire(const char *name)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(0x0003)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(0x0003));

    address.sll_ifindex = (int)if_nametoindex(name);
    cr_assert(fd >= 0 && address.sll_ifindex, "%s: %s", name, strerror(errno));
    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* What arrives at one of the interfaces. */
static void listen_in(struct forger *forger, int end)
{
    struct frame *frame = &forger->heard[forger->heard_count % HEARD_MAX];
    struct sockaddr_ll from;
    socklen_t size = sizeof(from);
    ssize_t got = recvfrom(forger->wire[end], frame->bytes, sizeof(frame->bytes), 0,
                           (struct sockaddr *)&from, &size);

    if (got <= (ssize_t)(DATAGRAM_AT + DPDK_HEADER_SIZE) ||
        frame->bytes[DPDK_ETHERNET_SIZE] != 0x45 || from.sll_pkttype == PACKET_OUTGOING)
        return;
    frame->length = (uint32_t)got;
    frame->is_outgoing = end == 1;
    if (forger->open.length == 0 && frame->bytes[DATAGRAM_AT + 1] == DPDK_KIND_OPEN &&
        frame->is_outgoing)
        forger->open = *frame;
    forger->heard_count++;
}

/* ---- forgeries ---- */

static void fix_lengths(struct frame *frame)
{
    uint8_t *ip = frame->bytes + DPDK_ETHERNET_SIZE;
    uint32_t sum = 0;

    gw_put_be16(ip + 2, (uint16_t)(frame->length - DPDK_ETHERNET_SIZE));
    gw_put_be16(ip + DPDK_IPV4_SIZE + 4, (uint16_t)(frame->length - UDP_AT));
    gw_put_be16(ip + DPDK_IPV4_SIZE + 6, 0);
    gw_put_be16(ip + 10, 0);
    for (unsigned i = 0; i < DPDK_IPV4_SIZE; i += 2)
        sum += gw_get_be16(ip + i);
    sum = (sum & 0xffff) + (sum >> 16);
    gw_put_be16(ip + 10, (uint16_t) ~((sum & 0xffff) + (sum >> 16)));
}

static void fill(struct forger *forger, uint8_t *bytes, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)next_random(forger);
}

/* Back to its sender. */
static void reflect(struct frame *frame)
{
    uint8_t kept[DPDK_MAC_SIZE], *bytes = frame->bytes;

    memcpy(kept, bytes, DPDK_MAC_SIZE);
    memcpy(bytes, bytes + DPDK_MAC_SIZE, DPDK_MAC_SIZE);
    memcpy(bytes + DPDK_MAC_SIZE, kept, DPDK_MAC_SIZE);
    memcpy(kept, bytes + DPDK_ETHERNET_SIZE + 12, 4);
    memcpy(bytes + DPDK_ETHERNET_SIZE + 12, bytes + DPDK_ETHERNET_SIZE + 16, 4);
    memcpy(bytes + DPDK_ETHERNET_SIZE + 16, kept, 4);
    memcpy(kept, bytes + UDP_AT, 2);
    memcpy(bytes + UDP_AT, bytes + UDP_AT + 2, 2);
    memcpy(bytes + UDP_AT + 2, kept, 2);
    frame->is_outgoing = !frame->is_outgoing;
}

/* One of a kind that ends or answers a channel, with the names that were heard. */
static void forge_ending(struct forger *forger, struct frame *frame)
{
    static const uint8_t kinds[] = {DPDK_KIND_CLOSE, DPDK_KIND_REFUSE, DPDK_KIND_ACCEPT,
                                    DPDK_KIND_ACK};
    uint8_t *datagram = frame->bytes + DATAGRAM_AT;

    datagram[1] = kinds[next_random(forger) % sizeof(kinds)];
    gw_put_le64(datagram + 16, gw_get_le64(datagram + 16) + next_random(forger) % 64);
    if (datagram[1] == DPDK_KIND_CLOSE) {
        gw_put_le32(datagram + 12, 0);
        frame->length = DATAGRAM_AT + DPDK_HEADER_SIZE;
    }
}

/* A write elsewhere, or of something else, whose tag was that of another one. */
static void forge_write(struct forger *forger, struct frame *frame)
{
    uint8_t *datagram = frame->bytes + DATAGRAM_AT;

    gw_put_le64(datagram + 16, gw_get_le64(datagram + 16) + 1 + next_random(forger) % 4096);
    gw_put_le64(datagram + 24, gw_get_le64(datagram + 24) + next_random(forger) % 64);
    if (next_random(forger) % 2)
        gw_put_le64(datagram + 40, gw_get_le64(datagram + 40) ^ next_random(forger) % 4096);
    fill(forger, datagram + DPDK_HEADER_SIZE, frame->length - DATAGRAM_AT - DPDK_HEADER_SIZE);
}

static void forge(struct forger *forger, struct frame *frame)
{
    uint8_t *datagram = frame->bytes + DATAGRAM_AT;
    uint64_t bit;

    switch (next_random(forger) % 8) {
    case 0: /* the same again */
        break;
    case 1:
        bit = next_random(forger) % ((frame->length - DATAGRAM_AT) * 8ull);
        datagram[bit / 8] ^= (uint8_t)(1u << bit % 8);
        break;
    case 2:
        forge_write(forger, frame);
        break;
    case 3:
        forge_ending(forger, frame);
        break;
    case 4:
        reflect(frame);
        break;
    case 5: /* noise */
        fill(forger, datagram, frame->length - DATAGRAM_AT);
        break;
    case 6: /* from elsewhere, cut off */
        fill(forger, frame->bytes + DPDK_ETHERNET_SIZE + 14, 2);
        fill(forger, frame->bytes + UDP_AT, 2);
        frame->length =
            DATAGRAM_AT + (uint32_t)(next_random(forger) % (frame->length - DATAGRAM_AT));
        break;
    default: /* a request that was never made */
        if (forger->open.length)
            *frame = forger->open;
        fill(forger, frame->bytes + DATAGRAM_AT + 32, DPDK_NONCE_SIZE);
        break;
    }
    fix_lengths(frame);
}

static void *run_forger(void *argument)
{
    struct forger *forger = argument;
    struct frame frame;

    while (!atomic_load(&forger->is_stopping)) {
        listen_in(forger, 0);
        listen_in(forger, 1);
        if (forger->heard_count == 0)
            continue;
        frame = forger->heard[next_random(forger) % gw_min(forger->heard_count, HEARD_MAX)];
        forge(forger, &frame);
        if (send(forger->wire[frame.is_outgoing ? 0 : 1], frame.bytes, frame.length, 0) > 0)
            atomic_fetch_add(&forger->sent, 1);
    }
    return NULL;
}

static struct forger *start_forger(void)
{
    struct forger *forger = calloc(1, sizeof(*forger));
    char names[64], *far;

    cr_assert(getenv("GODWIT_TEST_WIRE"), "run this through contract");
    snprintf(names, sizeof(names), "%s", getenv("GODWIT_TEST_WIRE"));
    far = strchr(names, ' ');
    *far++ = '\0';
    forger->random = 7;
    forger->wire[0] = open_wire(names);
    forger->wire[1] = open_wire(far);
    cr_assert_eq(pthread_create(&forger->thread, NULL, run_forger, forger), 0);
    return forger;
}

static void stop_forger(struct forger *forger)
{
    atomic_store(&forger->is_stopping, true);
    pthread_join(forger->thread, NULL);
    close(forger->wire[0]);
    close(forger->wire[1]);
    free(forger);
}

/* ---- the tests ---- */

/* Forged frames that the ports took in, at the least: those that arrived, less those that they sent. */
static int64_t forged_arrived(void)
{
    struct rte_eth_stats stats;
    int64_t total = 0;

    for (uint16_t port = 0; port < RTE_MAX_ETHPORTS; port++)
        if (rte_eth_dev_is_valid_port(port) && rte_eth_stats_get(port, &stats) == 0)
            total += (int64_t)stats.ipackets - (int64_t)stats.opackets;
    return total;
}

static size_t heap_in_use(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

/* Nobody takes the forged requests from the listener meanwhile: they fill it, and nothing else. */
Test(dpdk_flood, changes_nothing)
{
    struct forger *forger;
    struct data *data;
    struct rig rig;
    unsigned rounds = 0;
    uint64_t sent, deadline_ns;
    int64_t arrived;
    size_t heap;

    rig_open(&rig, RIG_DPDK);
    forger = start_forger();
    rig_join(&rig);
    data = data_open(&rig, 1);
    while (rounds++ < ROUNDS_MIN / 4)
        data_round(data);
    heap = heap_in_use();
    arrived = forged_arrived();
    sent = atomic_load(&forger->sent);
    deadline_ns = gw_clock_ns() + FLOOD_NS;
    while (rounds++ < ROUNDS_MIN || atomic_load(&forger->sent) - sent < FORGED_MIN ||
           forged_arrived() - arrived < FORGED_MIN / 4) {
        cr_assert(gw_clock_ns() < deadline_ns, "%llu forged frames were sent, the ports saw %lld",
                  (unsigned long long)(atomic_load(&forger->sent) - sent),
                  (long long)(forged_arrived() - arrived));
        data_round(data);
    }
    data_finish(data);
    cr_assert(heap_in_use() < heap + GROWTH_MAX, "%zu bytes of heap became %zu", heap,
              heap_in_use());
    stop_forger(forger);
    data_close(data);
    rig_close(&rig);
}

struct accepting {
    struct rig *rig;
    struct gw_channel *channel;
    unsigned refused;
};

/* As the link does: what its peer did not ask for is refused. At least one such comes, before the peer's
 * own or after it. */
static void *accept_among_forged(void *argument)
{
    struct accepting *accepting = argument;
    struct gw_channel_options options = {.domain = accepting->rig->far_domain,
                                         .poller = accepting->rig->far_poller,
                                         .context = accepting->rig,
                                         .number = 2,
                                         .timeout_ms = RIG_WAIT_MS};
    struct gw_request *request;

    rig_set_secret(&options);
    while ((!accepting->channel || accepting->refused == 0) &&
           gw_next_request(accepting->rig->listener, RIG_WAIT_MS, &request) == 0) {
        if (request->hello_length == 5 && memcmp(request->hello, "ticks", 5) == 0) {
            if (gw_accept(request, &options, &accepting->channel) != 0)
                accepting->refused++;
        } else {
            gw_reject(request, "nobody knows it");
            accepting->refused++;
        }
    }
    return NULL;
}

Test(dpdk_flood, leaves_room_for_a_new_channel)
{
    struct rig rig;
    struct forger *forger;
    struct gw_connect_options options = {
        .channel = {.context = &rig, .number = 2, .timeout_ms = RIG_WAIT_MS},
        .hello = "ticks",
        .hello_length = 5};
    struct accepting accepting = {.rig = &rig};
    struct gw_channel *channel = NULL;
    struct gw_message message;
    struct rig_send send;
    pthread_t thread;

    rig_open(&rig, RIG_DPDK);
    forger = start_forger();
    rig_join(&rig);
    while (atomic_load(&forger->sent) < FORGED_MIN / 8)
        rig_turn(&rig);
    options.channel.domain = rig.near_domain;
    options.channel.poller = rig.near_poller;
    options.peer = rig.address;
    rig_set_secret(&options.channel);
    cr_assert_eq(pthread_create(&thread, NULL, accept_among_forged, &accepting), 0);
    cr_assert_eq(gw_connect(rig.transport, &options, &channel), 0, "%s", gw_error_message());
    pthread_join(thread, NULL);
    cr_assert(accepting.channel);
    cr_assert(accepting.refused > 0, "no forged request came");
    send = rig_send("heard", 5);
    cr_assert_eq(rig_post_send(channel, &send), 0);
    cr_assert_eq(rig_receive(&rig, accepting.channel, &message), 0, "%s", gw_error_message());
    cr_assert(message.length == 5 && memcmp(message.data, "heard", 5) == 0);
    stop_forger(forger);
    gw_close(channel);
    gw_close(accepting.channel);
    rig_close(&rig);
}
