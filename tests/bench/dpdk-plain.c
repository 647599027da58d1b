/* SPDX-License-Identifier: Apache-2.0 */
/* Pushes UDP datagrams through a DPDK port with nothing of godwit's in between, to measure godwit's
 * transport against: each datagram carries the place in the receiver's window where its bytes belong, and
 * the receiver copies them there. The sender copies them out of a window of its own, as any program must
 * whose bytes are not in DPDK's memory; with "ready" its buffers are sent as they are, whatever is in them.
 * No acknowledgement, no loss recovery, no tag unless asked for: what is lost is not counted. Burst, buffers,
 * descriptors and windows are those of godwit and transport-blast. One process is one side:
 *   dpdk-plain send|aside|ready|receive DEVARGS MTU SECONDS
 * A sender waits for the link of its port; a receiver ends with the last datagram, and it alone knows how much
 * arrived. Datagrams go from 02:00:00:00:00:01, 10.98.0.1, to 02:00:00:00:00:02, 10.98.0.2, which the
 * kernel may have: then it gets each of them as well (af_packet), and drops it at its socket, as it does for
 * godwit. "aside" names a MAC address that nobody has, so that the kernel drops them sooner: a bound, for who
 * shares no address with it.
 *   dpdk-plain both|back FAR-DEVARGS NEAR-DEVARGS MTU SECONDS
 * The far device is opened first, as vhost's must be; the near one sends, with "back" the far one. One thread
 * is both sides in turn, each timed by its own CPU time (as dpdk-turns does with godwit): for a machine that is
 * shared.
 * "tagged" behind either: each datagram has a header of godwit's size and bears godwit's tag, made and checked
 * by godwit's own code (transport/dpdk/tag.h), a fresh number in it each time; a wrong one is not placed. It is
 * what no sender and receiver of tagged datagrams can do without, and nothing else of the protocol. */
#include <rte_byteorder.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_prefetch.h>
#include <rte_udp.h>
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/error.h"
#include "tests/bench/plain.h"
#include "transport/dpdk/tag.h"

#define BURST       32u
#define DESCRIPTORS 1024u
#define BUFFERS     8191u
#define MAGIC       0x676f64776974u
#define OVER        UINT64_MAX
#define OVER_COUNT  20000u
#define QUIET_S     2.0
#define GONE_S      5.0 /* nothing is taken for so long: nobody is there */
#define PREFETCH    3u
#define SENDER      0x0a620001u /* 10.98.0.1 */
#define RECEIVER    0x0a620002u
#define UDP_PORT    13560u

struct head {
    struct rte_ether_hdr ethernet;
    struct rte_ipv4_hdr ip;
    struct rte_udp_hdr udp;
    uint64_t magic, at;
} __attribute__((packed, aligned(2)));

/* Where the UDP payload begins: what the tag is over. */
#define DATAGRAM_AT offsetof(struct head, magic)
#define PLAIN_SIZE  (sizeof(struct head) - DATAGRAM_AT)
#define NUMBER_AT   16u /* the packet number, behind magic and place, as in wire.h */

static_assert(PLAIN_SIZE == NUMBER_AT, "the number is behind what a plain header has");

struct blast {
    uint16_t port;
    struct rte_mempool *pool;
    char *window;
    uint32_t header, payload;
    double seconds;
    const struct dpdk_tag_key *key; /* NULL: no tags */
    int is_aside;
};

static void must(const char *what, int answer)
{
    if (answer < 0)
        plain_fail("dpdk-plain", what, rte_strerror(-answer));
}

static void open_port(struct blast *blast, const char *devargs, unsigned mtu)
{
    struct rte_eth_conf configuration = {0};
    uint16_t rx = DESCRIPTORS, tx = DESCRIPTORS;
    unsigned room = (mtu > 1800 ? 10240u : 2048u) + RTE_PKTMBUF_HEADROOM;

    char name[64];

    snprintf(name, sizeof(name), "%.*s", (int)strcspn(devargs, ","), devargs);
    must("the device", rte_eth_dev_get_port_by_name(name, &blast->port));
    blast->pool = rte_pktmbuf_pool_create(name, BUFFERS, 256, 0, (uint16_t)room, SOCKET_ID_ANY);
    must("buffers", blast->pool ? 0 : -ENOMEM);
    if (strncmp(devargs, "net_af_packet", 13) != 0)
        configuration.rxmode.mtu = mtu;
    must("configure", rte_eth_dev_configure(blast->port, 1, 1, &configuration));
    must("descriptors", rte_eth_dev_adjust_nb_rx_tx_desc(blast->port, &rx, &tx));
    must("rx queue", rte_eth_rx_queue_setup(blast->port, 0, rx, SOCKET_ID_ANY, NULL, blast->pool));
    must("tx queue", rte_eth_tx_queue_setup(blast->port, 0, tx, SOCKET_ID_ANY, NULL));
    must("start", rte_eth_dev_start(blast->port));
    blast->header = blast->key ? DPDK_HEADER_SIZE : PLAIN_SIZE;
    blast->payload = mtu - 28 - blast->header;
}

static void write_head(const struct blast *blast, struct rte_mbuf *mbuf, uint64_t at)
{
    struct head *head = rte_pktmbuf_mtod(mbuf, struct head *);
    uint16_t length = (uint16_t)(blast->payload + blast->header + 8);

    memset(head, 0, DATAGRAM_AT + blast->header);
    head->ethernet.dst_addr.addr_bytes[0] = head->ethernet.src_addr.addr_bytes[0] = 2;
    head->ethernet.dst_addr.addr_bytes[5] = blast->is_aside ? 3 : 2;
    head->ethernet.src_addr.addr_bytes[5] = 1;
    head->ethernet.ether_type = rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4);
    head->ip.version_ihl = 0x45;
    head->ip.total_length = rte_cpu_to_be_16((uint16_t)(length + 20));
    head->ip.time_to_live = 64;
    head->ip.next_proto_id = 17;
    head->ip.src_addr = rte_cpu_to_be_32(SENDER);
    head->ip.dst_addr = rte_cpu_to_be_32(RECEIVER);
    head->ip.hdr_checksum = rte_ipv4_cksum(&head->ip);
    head->udp.src_port = head->udp.dst_port = rte_cpu_to_be_16(UDP_PORT);
    head->udp.dgram_len = rte_cpu_to_be_16(length);
    head->magic = MAGIC;
    head->at = at;
    mbuf->data_len = (uint16_t)(DATAGRAM_AT + blast->header + blast->payload);
    mbuf->pkt_len = mbuf->data_len;
}

static uint8_t *datagram_of(const struct rte_mbuf *mbuf)
{
    return rte_pktmbuf_mtod_offset(mbuf, uint8_t *, DATAGRAM_AT);
}

/* Once header and payload are there. */
static void seal(const struct blast *blast, const struct rte_mbuf *mbuf, uint64_t number)
{
    uint8_t *datagram = datagram_of(mbuf);

    if (!blast->key)
        return;
    gw_put_le64(datagram + NUMBER_AT, number);
    gw_put_le64(datagram + DPDK_TAG_OFFSET,
                gw_dpdk_tag(blast->key, datagram, datagram + DPDK_HEADER_SIZE, blast->payload));
}

/* False when nothing is taken any more: nobody is there. */
static int send_all(const struct blast *blast, struct rte_mbuf **mbufs, unsigned count)
{
    double since_s = 0;
    unsigned sent = 0;

    while (sent < count) {
        unsigned more = rte_eth_tx_burst(blast->port, 0, mbufs + sent, (uint16_t)(count - sent));

        sent += more;
        if (more)
            since_s = 0;
        else if (since_s == 0)
            since_s = seconds_now();
        else if (seconds_now() - since_s > GONE_S)
            return 0;
    }
    return 1;
}

struct place {
    uint64_t at, number; /* in the window; of the datagram */
};

/* Those of one burst. */
static void fill(const struct blast *blast, struct rte_mbuf **mbufs, int is_ready,
                 struct place *next)
{
    for (unsigned i = 0; i < BURST; i++) {
        write_head(blast, mbufs[i], next->at);
        if (!is_ready)
            memcpy(datagram_of(mbufs[i]) + blast->header, blast->window + next->at, blast->payload);
        seal(blast, mbufs[i], ++next->number);
        next->at = next->at + 2 * blast->payload <= WINDOW ? next->at + blast->payload : 0;
    }
}

static void run_sender(const struct blast *blast, int is_ready)
{
    struct rte_eth_link link = {0};
    struct rte_mbuf *mbufs[BURST];
    struct place next = {0};
    uint64_t bytes = 0;
    double start_s, end_s, cpu;

    for (unsigned i = 0; i < 200 && !link.link_status; i++, usleep(50000))
        rte_eth_link_get_nowait(blast->port, &link);
    usleep(300000); /* the receiver's queues */
    start_s = seconds_now();
    cpu = cpu_seconds();
    for (end_s = start_s + blast->seconds; seconds_now() < end_s;) {
        if (rte_pktmbuf_alloc_bulk(blast->pool, mbufs, BURST) != 0)
            continue;
        fill(blast, mbufs, is_ready, &next);
        must("the receiver", send_all(blast, mbufs, BURST) ? 0 : -ENOTCONN);
        bytes += (uint64_t)BURST * blast->payload;
    }
    report("send", bytes, seconds_now() - start_s, cpu_seconds() - cpu);
    /* Those behind which nothing comes; the receiver stops at the first. */
    for (unsigned i = 0; i < OVER_COUNT / BURST; i++) {
        if (rte_pktmbuf_alloc_bulk(blast->pool, mbufs, BURST) != 0)
            continue;
        for (unsigned k = 0; k < BURST; k++) {
            write_head(blast, mbufs[k], OVER);
            seal(blast, mbufs[k], ++next.number);
        }
        rte_eth_link_get_nowait(blast->port, &link);
        if (!link.link_status || !send_all(blast, mbufs, BURST))
            break;
        usleep(1000);
    }
}

/* Bytes that were placed; 0 with *is_over for the end. */
static uint32_t take(const struct blast *blast, struct rte_mbuf *mbuf, int *is_over)
{
    const struct head *head = rte_pktmbuf_mtod(mbuf, const struct head *);
    const uint8_t *datagram = datagram_of(mbuf);

    if (rte_pktmbuf_data_len(mbuf) < DATAGRAM_AT + blast->header + blast->payload ||
        head->ip.next_proto_id != 17 || head->magic != MAGIC)
        return 0;
    if (blast->key && !gw_dpdk_tag_is_right(blast->key, datagram, blast->header + blast->payload))
        return 0;
    if (head->at == OVER) {
        *is_over = 1;
        return 0;
    }
    if (head->at > WINDOW - blast->payload)
        return 0;
    memcpy(blast->window + head->at, datagram + blast->header, blast->payload);
    return blast->payload;
}

/* Reads and places one burst. */
static unsigned receive_burst(const struct blast *blast, uint64_t *bytes, int *is_over)
{
    struct rte_mbuf *mbufs[BURST];
    unsigned got = rte_eth_rx_burst(blast->port, 0, mbufs, BURST);

    for (unsigned i = 0; i < got && i < PREFETCH; i++)
        rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], void *));
    for (unsigned i = 0; i < got; i++) {
        if (i + PREFETCH < got)
            rte_prefetch0(rte_pktmbuf_mtod(mbufs[i + PREFETCH], void *));
        *bytes += take(blast, mbufs[i], is_over);
    }
    rte_pktmbuf_free_bulk(mbufs, got);
    return got;
}

/* Where the kernel has the receiver's address, it is not to answer that nobody listens there. The socket stays
 * open; it drops what comes. */
static void reserve_port(void)
{
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {.len = 1, .filter = &drop};
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(UDP_PORT), .sin_addr.s_addr = htonl(RECEIVER)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0 ||
        (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 && errno != EADDRNOTAVAIL))
        plain_fail("dpdk-plain", "the UDP port", strerror(errno));
}

static void run_receiver(const struct blast *blast)
{
    double start_s = 0, last_s = 0, cpu = 0;
    uint64_t bytes = 0;
    int is_over = 0;

    reserve_port();
    while (!is_over) {
        uint64_t before = bytes;

        receive_burst(blast, &bytes, &is_over);
        if (bytes == before && bytes == 0)
            continue;
        if (start_s == 0) {
            start_s = seconds_now();
            cpu = cpu_seconds();
        }
        if (bytes != before)
            last_s = seconds_now();
        else if (seconds_now() - last_s > QUIET_S)
            break;
    }
    report("receive", bytes, last_s - start_s, cpu_seconds() - cpu);
}

static double thread_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Both sides by one thread. */
static void run_both(const struct blast *from, const struct blast *to)
{
    double end_s, cpu[2] = {0}, before, between;
    struct rte_eth_link link = {0};
    struct rte_mbuf *mbufs[BURST];
    struct place next = {0};
    uint64_t bytes = 0;
    int is_over = 0;

    for (unsigned i = 0; i < 200 && !link.link_status; i++, usleep(50000))
        rte_eth_link_get_nowait(from->port, &link);
    usleep(300000);
    for (end_s = seconds_now() + from->seconds; seconds_now() < end_s;) {
        before = thread_seconds();
        must("buffers", rte_pktmbuf_alloc_bulk(from->pool, mbufs, BURST));
        fill(from, mbufs, 0, &next);
        must("the receiver", send_all(from, mbufs, BURST) ? 0 : -ENOTCONN);
        between = thread_seconds();
        while (receive_burst(to, &bytes, &is_over) == BURST)
            ;
        cpu[0] += between - before;
        cpu[1] += thread_seconds() - between;
    }
    printf("turns: send %.3f receive %.3f CPU s/GB (%.2f GB)\n", cpu[0] / (double)bytes * 1e9,
           cpu[1] / (double)bytes * 1e9, (double)bytes / 1e9);
}

static void start_dpdk(char *name, char *devargs)
{
    char cpus[32];
    char *arguments[] = {name,
                         (char *)"--lcores",
                         cpus,
                         (char *)"-m",
                         (char *)"256",
                         (char *)"--no-telemetry",
                         (char *)"--no-huge",
                         (char *)"--no-shconf",
                         (char *)"--no-pci",
                         (char *)"--log-level=critical",
                         (char *)"--vdev",
                         devargs};
    cpu_set_t before;

    /* As godwit does it: the threads stay where taskset put them. */
    sched_getaffinity(0, sizeof(before), &before);
    snprintf(cpus, sizeof(cpus), "0@(0-%ld)", sysconf(_SC_NPROCESSORS_CONF) - 1);
    must("rte_eal_init", rte_eal_init(sizeof(arguments) / sizeof(arguments[0]), arguments));
    sched_setaffinity(0, sizeof(before), &before);
}

static void open_blast(struct blast *blast, const char *devargs, unsigned mtu, const char *seconds)
{
    blast->seconds = strtod(seconds, NULL);
    blast->window = new_window(WINDOW);
    must("memory", blast->window ? 0 : -ENOMEM);
    memset(blast->window, 0x5a, WINDOW);
    open_port(blast, devargs, mtu);
}

/* The one key of both sides, whatever it is. */
static const struct dpdk_tag_key *derive_key(void)
{
    static struct dpdk_tag_key key;
    static const uint8_t secret[GW_SECRET_MAX] = {1};
    struct dpdk_tag_secret from = {.secret = secret,
                                   .secret_length = sizeof(secret),
                                   .context = "dpdk-plain",
                                   .context_length = 10};

    if (gw_dpdk_tag_derive(&from, &key))
        plain_fail("dpdk-plain", "the tag's key", gw_error_message());
    return &key;
}

int main(int argc, char **argv)
{
    int is_tagged = argc > 5 && strcmp(argv[argc - 1], "tagged") == 0, words = argc - is_tagged;
    int is_back = words == 6 && strcmp(argv[1], "back") == 0;
    int is_both = is_back || (words == 6 && strcmp(argv[1], "both") == 0);
    unsigned mtu = words == 5 + is_both ? (unsigned)strtoul(argv[3 + is_both], NULL, 10) : 0;
    struct blast blast = {0}, near = {0};

    if (mtu < 576 || mtu > 9216) {
        fprintf(stderr,
                "usage: dpdk-plain send|aside|ready|receive DEVARGS MTU SECONDS [tagged]\n"
                "       dpdk-plain both|back FAR-DEVARGS NEAR-DEVARGS MTU SECONDS [tagged]\n");
        return 2;
    }
    blast.key = near.key = is_tagged ? derive_key() : NULL;
    blast.is_aside = strcmp(argv[1], "aside") == 0;
    start_dpdk(argv[0], argv[2]);
    open_blast(&blast, argv[2], mtu, argv[4 + is_both]);
    if (is_both) {
        must("the second device", rte_dev_probe(argv[3]));
        open_blast(&near, argv[3], mtu, argv[5]);
        run_both(is_back ? &blast : &near, is_back ? &near : &blast);
    } else if (strcmp(argv[1], "receive") == 0)
        run_receiver(&blast);
    else
        run_sender(&blast, strcmp(argv[1], "ready") == 0);
    fflush(stdout);
    _exit(0); /* drivers of pairs wait for each other */
}
