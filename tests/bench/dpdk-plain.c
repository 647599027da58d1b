/* SPDX-License-Identifier: Apache-2.0 */
/* Pushes UDP datagrams through a DPDK port with nothing of godwit's in between, to measure godwit's
 * transport against: each datagram carries the place in the receiver's window where its bytes belong, and
 * the receiver copies them there. The sender copies them out of a window of its own, as any program must
 * whose bytes are not in DPDK's memory; with "ready" its buffers are sent as they are, whatever is in them.
 * No acknowledgement, no loss recovery, no tag: what is lost is not counted. Burst, buffers, descriptors and
 * windows are those of godwit and transport-blast. One process is one side:
 *   dpdk-plain send|ready|receive DEVARGS MTU SECONDS
 * A sender waits for the link of its port; a receiver ends with the last datagram. */
#include <rte_byteorder.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_prefetch.h>
#include <rte_udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define BURST       32u
#define DESCRIPTORS 1024u
#define BUFFERS     8191u
#define WINDOW      (32u << 20)
#define MAGIC       0x676f64776974u
#define OVER        UINT64_MAX
#define OVER_COUNT  20000u
#define QUIET_S     2.0
#define GONE_S      5.0 /* nothing is taken for so long: nobody is there */
#define PREFETCH    3u

struct head {
    struct rte_ether_hdr ethernet;
    struct rte_ipv4_hdr ip;
    struct rte_udp_hdr udp;
    uint64_t magic, at;
} __attribute__((packed, aligned(2)));

struct blast {
    uint16_t port;
    struct rte_mempool *pool;
    char *window;
    uint32_t payload;
    double seconds;
};

static void must(const char *what, int answer)
{
    if (answer >= 0)
        return;
    fprintf(stderr, "dpdk-plain: %s: %s\n", what, rte_strerror(-answer));
    exit(1);
}

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void report(const char *what, uint64_t bytes, double seconds, double cpu)
{
    double gb = (double)bytes / 1e9;

    printf("%s: %.2f Gbit/s %.3f CPU s/GB (%.2f GB in %.2f s)\n", what, gb * 8 / seconds, cpu / gb,
           gb, seconds);
}

static void open_port(struct blast *blast, const char *devargs, unsigned mtu)
{
    struct rte_eth_conf configuration = {0};
    uint16_t rx = DESCRIPTORS, tx = DESCRIPTORS;
    unsigned room = (mtu > 1800 ? 10240u : 2048u) + RTE_PKTMBUF_HEADROOM;

    must("the device", rte_eth_dev_count_avail() == 1 ? 0 : -ENODEV);
    blast->port = (uint16_t)rte_eth_find_next(0);
    blast->pool = rte_pktmbuf_pool_create("plain", BUFFERS, 256, 0, (uint16_t)room, SOCKET_ID_ANY);
    must("buffers", blast->pool ? 0 : -ENOMEM);
    if (strncmp(devargs, "net_af_packet", 13) != 0)
        configuration.rxmode.mtu = mtu;
    must("configure", rte_eth_dev_configure(blast->port, 1, 1, &configuration));
    must("descriptors", rte_eth_dev_adjust_nb_rx_tx_desc(blast->port, &rx, &tx));
    must("rx queue", rte_eth_rx_queue_setup(blast->port, 0, rx, SOCKET_ID_ANY, NULL, blast->pool));
    must("tx queue", rte_eth_tx_queue_setup(blast->port, 0, tx, SOCKET_ID_ANY, NULL));
    must("start", rte_eth_dev_start(blast->port));
    blast->payload = mtu - 28 - 16;
}

static void write_head(const struct blast *blast, struct rte_mbuf *mbuf, uint64_t at)
{
    struct head *head = rte_pktmbuf_mtod(mbuf, struct head *);
    uint16_t length = (uint16_t)(blast->payload + 16 + 8);

    memset(head, 0, sizeof(*head));
    memset(&head->ethernet.dst_addr, 0xff, 6);
    head->ethernet.src_addr.addr_bytes[0] = 2;
    head->ethernet.ether_type = rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4);
    head->ip.version_ihl = 0x45;
    head->ip.total_length = rte_cpu_to_be_16((uint16_t)(length + 20));
    head->ip.time_to_live = 64;
    head->ip.next_proto_id = 17;
    head->ip.src_addr = rte_cpu_to_be_32(0x0a090001);
    head->ip.dst_addr = rte_cpu_to_be_32(0x0a090002);
    head->ip.hdr_checksum = rte_ipv4_cksum(&head->ip);
    head->udp.src_port = head->udp.dst_port = rte_cpu_to_be_16(13560);
    head->udp.dgram_len = rte_cpu_to_be_16(length);
    head->magic = MAGIC;
    head->at = at;
    mbuf->data_len = (uint16_t)(sizeof(*head) + blast->payload);
    mbuf->pkt_len = mbuf->data_len;
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

static void run_sender(const struct blast *blast, int is_ready)
{
    struct rte_eth_link link = {0};
    struct rte_mbuf *mbufs[BURST];
    uint64_t at = 0, bytes = 0;
    double start_s, end_s, cpu;

    for (unsigned i = 0; i < 200 && !link.link_status; i++, usleep(50000))
        rte_eth_link_get_nowait(blast->port, &link);
    usleep(300000); /* the receiver's queues */
    start_s = seconds_now();
    cpu = cpu_seconds();
    for (end_s = start_s + blast->seconds; seconds_now() < end_s;) {
        if (rte_pktmbuf_alloc_bulk(blast->pool, mbufs, BURST) != 0)
            continue;
        for (unsigned i = 0; i < BURST; i++) {
            write_head(blast, mbufs[i], at);
            if (!is_ready)
                memcpy(rte_pktmbuf_mtod(mbufs[i], char *) + sizeof(struct head), blast->window + at,
                       blast->payload);
            at = at + 2 * blast->payload <= WINDOW ? at + blast->payload : 0;
        }
        must("the receiver", send_all(blast, mbufs, BURST) ? 0 : -ENOTCONN);
        bytes += (uint64_t)BURST * blast->payload;
    }
    report("send", bytes, seconds_now() - start_s, cpu_seconds() - cpu);
    /* Those behind which nothing comes; the receiver stops at the first. */
    for (unsigned i = 0; i < OVER_COUNT / BURST; i++) {
        if (rte_pktmbuf_alloc_bulk(blast->pool, mbufs, BURST) != 0)
            continue;
        for (unsigned k = 0; k < BURST; k++)
            write_head(blast, mbufs[k], OVER);
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

    if (rte_pktmbuf_data_len(mbuf) < sizeof(*head) + blast->payload ||
        head->ip.next_proto_id != 17 || head->magic != MAGIC)
        return 0;
    if (head->at == OVER) {
        *is_over = 1;
        return 0;
    }
    if (head->at > WINDOW - blast->payload)
        return 0;
    memcpy(blast->window + head->at, head + 1, blast->payload);
    return blast->payload;
}

static void run_receiver(const struct blast *blast)
{
    double start_s = 0, last_s = 0, cpu = 0;
    uint64_t bytes = 0;
    int is_over = 0;

    while (!is_over) {
        struct rte_mbuf *mbufs[BURST];
        unsigned got = rte_eth_rx_burst(blast->port, 0, mbufs, BURST);
        uint64_t before = bytes;

        for (unsigned i = 0; i < got && i < PREFETCH; i++)
            rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], void *));
        for (unsigned i = 0; i < got; i++) {
            if (i + PREFETCH < got)
                rte_prefetch0(rte_pktmbuf_mtod(mbufs[i + PREFETCH], void *));
            bytes += take(blast, mbufs[i], &is_over);
        }
        rte_pktmbuf_free_bulk(mbufs, got);
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

int main(int argc, char **argv)
{
    struct blast blast = {0};
    unsigned mtu = argc == 5 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;

    if (argc != 5 || mtu < 576 || mtu > 9216) {
        fprintf(stderr, "usage: dpdk-plain send|ready|receive DEVARGS MTU SECONDS\n");
        return 2;
    }
    start_dpdk(argv[0], argv[2]);
    blast.seconds = strtod(argv[4], NULL);
    blast.window = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (blast.window == MAP_FAILED)
        must("memory", -ENOMEM);
    memset(blast.window, 0x5a, WINDOW);
    open_port(&blast, argv[2], mtu);
    if (strcmp(argv[1], "receive") == 0)
        run_receiver(&blast);
    else
        run_sender(&blast, strcmp(argv[1], "ready") == 0);
    fflush(stdout);
    _exit(0); /* drivers of pairs wait for each other */
}
