/* SPDX-License-Identifier: Apache-2.0 */
/* The port of the NIC: its queues, buffers, MTU and offloads, as the driver has them. */
#include <errno.h>
#include <net/if.h>
#include <rte_cycles.h>
#include <rte_ip.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "transport/dpdk/dpdk.h"

#define POOL_CACHE      256u
#define POOL_SPARE      4096u /* buffers beyond those that lie in queues: rings, channels */
#define DEVICE_QUEUES   4u    /* of a NIC, where nothing else was said */
#define DEFAULT_MTU     1500u
#define ROOM_FOR_HEADER 128u /* Ethernet, VLAN, and what drivers put beside it */

static_assert(RTE_PKTMBUF_HEADROOM >= 64, "drivers may put their headers in front");
/* What strangers fill is not to leave a port without buffers. */
static_assert(POOL_SPARE >= DPDK_INBOX_SIZE + 4 * DPDK_REQUESTS_SIZE, "room beside full rings");

/* Drivers whose port is an interface of the kernel at the same time. */
static bool shares_with_kernel(const char *driver)
{
    static const char *const drivers[] = {"net_af_packet", "net_af_xdp", "mlx4", "mlx5"};

    for (size_t i = 0; i < GW_ARRAY_LENGTH(drivers); i++)
        if (strncmp(driver, drivers[i], strlen(drivers[i])) == 0)
            return true;
    return false;
}

static unsigned choose_queues(const struct dpdk_settings *settings,
                              const struct rte_eth_dev_info *info)
{
    unsigned most =
        (unsigned)gw_min(gw_min(info->max_rx_queues, info->max_tx_queues), DPDK_QUEUES_MAX);
    unsigned wanted = settings->queues;

    /* A virtual device has what its parameters say, and its other end must say the same. */
    if (!wanted)
        wanted = strncmp(settings->devargs, "net_", 4) == 0 ? 1 : DEVICE_QUEUES;
    return (unsigned)gw_max(gw_min(wanted, most), 1);
}

/* Bytes of a buffer: the MTU and headers. af_packet wants room for a whole frame of its ring. */
static unsigned choose_room(const struct dpdk_settings *settings, const struct dpdk_port *port)
{
    unsigned room = RTE_PKTMBUF_HEADROOM + ROOM_FOR_HEADER + port->mtu;
    char frame[16];

    if (gw_dpdk_devargs_get(settings->devargs, "framesz", frame, sizeof(frame)))
        room = (unsigned)gw_max(room, RTE_PKTMBUF_HEADROOM + strtoul(frame, NULL, 10));
    return (unsigned)gw_align_up(gw_max(room, RTE_MBUF_DEFAULT_BUF_SIZE), 64);
}

static int make_pool(const struct dpdk_settings *settings, struct dpdk_port *port, int socket)
{
    unsigned room = choose_room(settings, port);
    unsigned count = port->queue_count * 2 * DPDK_DESCRIPTORS + POOL_SPARE - 1;
    char name[RTE_MEMPOOL_NAMESIZE];

    snprintf(name, sizeof(name), "godwit-%u", port->id);
    port->pool = rte_pktmbuf_pool_create(name, count, POOL_CACHE, 0, (uint16_t)room, socket);
    if (!port->pool)
        return gw_fail(-ENODEV,
                       "dpdk: no memory for %u buffers of %u bytes: a larger [dpdk] memory, or "
                       "fewer queues",
                       count, room);
    return 0;
}

/* Drivers that read what is sent with the CPU, within the burst: from any memory of the process. Those of
 * NICs read it later and by DMA, af_xdp's cuts what has two parts, and virtio_user's other end can only
 * read what is DPDK's. */
static bool reads_any_memory(const char *driver)
{
    static const char *const drivers[] = {"net_af_packet", "net_vhost", "net_memif", "net_tap",
                                          "net_pcap"};

    for (size_t i = 0; i < GW_ARRAY_LENGTH(drivers); i++)
        if (strcmp(driver, drivers[i]) == 0)
            return true;
    return false;
}

static void choose_offloads(const struct rte_eth_dev_info *info, struct rte_eth_conf *configuration,
                            struct dpdk_port *port)
{
    if (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM) {
        configuration->txmode.offloads |= RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
        port->checksums |= DPDK_CHECKSUM_IPV4_BY_NIC;
    }
    if (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_UDP_CKSUM) {
        configuration->txmode.offloads |= RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
        port->checksums |= DPDK_CHECKSUM_UDP_BY_NIC;
    }
    if (info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_IPV4_CKSUM) {
        configuration->rxmode.offloads |= RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
        port->verifies_ipv4 = true;
    }
    if (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS && reads_any_memory(port->driver)) {
        configuration->txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
        port->sends_in_place = true;
    }
    gw_log(GW_LOG_INFO, "dpdk: %s %s", port->driver,
           port->sends_in_place ? "sends bytes from where they lie"
                                : "gets a copy of what it is to send");
}

static int configure(const struct rte_eth_dev_info *info, struct dpdk_port *port)
{
    uint64_t hash = (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP) & info->flow_type_rss_offloads;
    struct rte_eth_conf configuration = {0};
    int error;

    if (port->queue_count > 1 && hash) {
        configuration.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
        configuration.rx_adv_conf.rss_conf.rss_hf = hash;
    }
    choose_offloads(info, &configuration, port);
    /* The kernel's interface has its MTU; drivers of such would set it once more. memif says 1500
     * and carries whatever its buffers hold. */
    configuration.rxmode.mtu =
        port->is_kernels || strcmp(port->driver, "net_memif") == 0 ? 0 : port->mtu;
    error = rte_eth_dev_configure(port->id, (uint16_t)port->queue_count,
                                  (uint16_t)port->queue_count, &configuration);
    if (error && port->mtu > DEFAULT_MTU)
        return gw_fail(-ENODEV, "dpdk: %s does not take an MTU of %u: %s", port->driver, port->mtu,
                       rte_strerror(-error));
    if (error)
        return gw_fail(-ENODEV, "dpdk: %s cannot be configured: %s", port->driver,
                       rte_strerror(-error));
    return 0;
}

static int start_queues(struct dpdk_port *port, int socket)
{
    uint16_t rx = DPDK_DESCRIPTORS, tx = DPDK_DESCRIPTORS;
    int error = rte_eth_dev_adjust_nb_rx_tx_desc(port->id, &rx, &tx);

    for (uint16_t i = 0; i < port->queue_count && !error; i++) {
        error = rte_eth_rx_queue_setup(port->id, i, rx, (unsigned)socket, NULL, port->pool);
        if (!error)
            error = rte_eth_tx_queue_setup(port->id, i, tx, (unsigned)socket, NULL);
        rte_spinlock_init(&port->queues[i].rx_lock);
        rte_spinlock_init(&port->queues[i].tx_lock);
    }
    if (!error)
        error = rte_eth_dev_start(port->id);
    if (error)
        return gw_fail(-ENODEV, "dpdk: %s does not start: %s", port->driver, rte_strerror(-error));
    return 0;
}

/* IPv6 neighbours ask by multicast; a driver that cannot choose gets all of it. */
static void hear_multicast(const struct dpdk_settings *settings, const struct dpdk_port *port)
{
    struct rte_ether_addr groups[DPDK_LOCALS_MAX];
    unsigned count = 0;

    for (unsigned i = 0; i < settings->local_count; i++) {
        struct dpdk_mac mac;

        if (!settings->locals[i].host.is_ipv6)
            continue;
        gw_dpdk_solicited_mac(&settings->locals[i].host, &mac);
        memcpy(groups[count++].addr_bytes, mac.bytes, DPDK_MAC_SIZE);
    }
    if (count && rte_eth_dev_set_mc_addr_list(port->id, groups, count) != 0 &&
        rte_eth_allmulticast_enable(port->id) != 0 && rte_eth_promiscuous_enable(port->id) != 0)
        gw_log(GW_LOG_WARNING, "dpdk: %s hears no multicast: IPv6 neighbours may not find it",
               port->driver);
}

static int read_mtu(const struct dpdk_settings *settings, struct dpdk_port *port)
{
    unsigned kernels;
    int error;

    port->mtu = settings->mtu ? settings->mtu : DEFAULT_MTU;
    if (!port->interface[0])
        return 0;
    error = gw_dpdk_kernel_mtu(port->interface, &kernels);
    if (error)
        return error;
    if (settings->mtu > kernels)
        return gw_fail(-EINVAL, "dpdk: mtu = %u, and the interface has %u: ip link set %s mtu %u",
                       settings->mtu, kernels, port->interface, settings->mtu);
    if (!settings->mtu)
        port->mtu = (unsigned)gw_min(kernels, 9216);
    return 0;
}

static int take_kernels(struct dpdk_settings *settings, struct dpdk_port *port)
{
    if (!port->is_kernels || !port->interface[0])
        return 0;
    port->interface_index = if_nametoindex(port->interface);
    return gw_dpdk_kernel_addresses(port->interface, settings);
}

static int bring_up(struct dpdk_settings *settings, struct dpdk_port *port)
{
    int socket = rte_eth_dev_socket_id(port->id);
    struct rte_eth_dev_info info;
    struct rte_ether_addr mac;
    int error;

    if (rte_eth_dev_info_get(port->id, &info) != 0 || rte_eth_macaddr_get(port->id, &mac) != 0)
        return gw_fail(-ENODEV, "dpdk: the device says nothing of itself");
    snprintf(port->driver, sizeof(port->driver), "%s", info.driver_name);
    port->is_kernels = shares_with_kernel(port->driver);
    if (port->is_kernels && info.if_index)
        if_indextoname(info.if_index, port->interface);
    memcpy(port->mac.bytes, mac.addr_bytes, DPDK_MAC_SIZE);
    port->queue_count = choose_queues(settings, &info);
    error = read_mtu(settings, port);
    if (!error)
        error = take_kernels(settings, port);
    if (!error && settings->local_count == 0)
        error = gw_fail(-EINVAL, "dpdk: the port has no address: [dpdk] address = 192.0.2.1/24");
    if (!error)
        error = make_pool(settings, port, socket);
    if (!error)
        error = configure(&info, port);
    if (!error)
        error = start_queues(port, socket);
    if (!error)
        hear_multicast(settings, port);
    return error;
}

/* Drivers write to sockets whose other end may have gone (vhost). */
static void block_pipe(sigset_t *before)
{
    sigset_t pipe;

    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, before);
}

static void unblock_pipe(const sigset_t *before)
{
    sigset_t pipe;

    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    if (!sigismember(before, SIGPIPE))
        sigtimedwait(&pipe, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static int open_port(struct dpdk_settings *settings, struct dpdk_port *port)
{
    char interface[64];
    unsigned mtu = settings->mtu;
    int error = 0;

    if (gw_dpdk_devargs_get(settings->devargs, "iface", interface, sizeof(interface)) &&
        strncmp(settings->devargs, "net_af_", 7) == 0) {
        error = gw_dpdk_kernel_mtu(interface, &mtu);
        snprintf(port->interface, sizeof(port->interface), "%s", interface);
    }
    if (!error)
        error = gw_dpdk_settings_complete(settings, mtu);
    if (!error)
        error = gw_dpdk_device_open(settings, &port->id);
    if (error)
        return error;
    error = bring_up(settings, port);
    if (error)
        gw_dpdk_port_close(port);
    return error;
}

int gw_dpdk_port_open(struct dpdk_settings *settings, struct dpdk_port *port)
{
    sigset_t before;
    int error;

    block_pipe(&before);
    error = open_port(settings, port);
    unblock_pipe(&before);
    return error;
}

void gw_dpdk_port_close(struct dpdk_port *port)
{
    struct gw_error kept;
    sigset_t before;

    gw_error_take(0, &kept);
    block_pipe(&before);
    rte_eth_dev_stop(port->id);
    gw_dpdk_device_close(port->id);
    rte_mempool_free(port->pool);
    unblock_pipe(&before);
    gw_error_raise(&kept);
}

static enum dpdk_port_state next_state(const struct dpdk_port *port, enum dpdk_port_state before)
{
    struct rte_eth_link link = {0};
    /* Drivers of packet sockets say that there always is one. */
    bool has_link = rte_eth_link_get_nowait(port->id, &link) == 0 && link.link_status;

    if (port->interface_index && !gw_dpdk_kernel_look(port->interface_index, &has_link))
        return DPDK_PORT_GONE;
    if (has_link)
        return DPDK_PORT_UP;
    /* While the other end starts a link may come and go: virtio_user resets its device when it is
     * configured, after vhost had a link to it already. */
    if (before == DPDK_PORT_NEW || !atomic_load_explicit(&port->has_heard, memory_order_relaxed))
        return DPDK_PORT_NEW;
    return DPDK_PORT_DOWN;
}

/* Two threads may look at the same time: whoever comes second looks again, and each change is made,
 * and told, by one of them. */
enum dpdk_port_state gw_dpdk_port_look(struct dpdk_port *port)
{
    unsigned before = atomic_load(&port->state), now;

    do {
        if (before == DPDK_PORT_GONE)
            return DPDK_PORT_GONE;
        now = next_state(port, before);
    } while (!atomic_compare_exchange_strong(&port->state, &before, now));
    if (now != before && now > DPDK_PORT_UP)
        gw_log(GW_LOG_WARNING, "dpdk: the port %s",
               now == DPDK_PORT_GONE ? "is gone" : "lost its link");
    return now;
}

void gw_dpdk_port_give_up(struct dpdk_port *port)
{
    if (atomic_exchange(&port->state, DPDK_PORT_GONE) != DPDK_PORT_GONE)
        gw_log(GW_LOG_ERROR, "dpdk: %s hangs with what it is to send: the port is given up",
               port->driver);
}

int gw_dpdk_port_error(const struct dpdk_port *port)
{
    switch (atomic_load_explicit(&port->state, memory_order_relaxed)) {
    case DPDK_PORT_NEW:
        return gw_fail(-ENETDOWN,
                       "dpdk: the port has no link: look at its cable and at the other end");
    case DPDK_PORT_DOWN:
        return gw_fail(-ENETDOWN,
                       "dpdk: the port lost its link: look at its cable and at the other "
                       "end");
    case DPDK_PORT_GONE:
        if (!port->interface[0])
            return gw_fail(-ENODEV, "dpdk: the port's driver %s hangs: start the agent anew",
                           port->driver);
        return gw_fail(
            -ENODEV, "dpdk: the port's interface %s is gone: once it is back, start the agent anew",
            port->interface);
    default:
        return 0;
    }
}

unsigned gw_dpdk_port_send(struct dpdk_port *port, unsigned queue, struct rte_mbuf **mbufs,
                           unsigned count)
{
    unsigned sent;

    rte_spinlock_lock(&port->queues[queue].tx_lock);
    sent = rte_eth_tx_burst(port->id, (uint16_t)queue, mbufs, (uint16_t)count);
    rte_spinlock_unlock(&port->queues[queue].tx_lock);
    return sent;
}

void gw_dpdk_port_clean_up(struct dpdk_port *port, unsigned queue)
{
    rte_spinlock_lock(&port->queues[queue].tx_lock);
    rte_eth_tx_done_cleanup(port->id, (uint16_t)queue, 0);
    rte_spinlock_unlock(&port->queues[queue].tx_lock);
}

static void send_one(struct dpdk_port *port, struct rte_mbuf *mbuf)
{
    if (gw_dpdk_port_send(port, 0, &mbuf, 1) != 1)
        rte_pktmbuf_free(mbuf);
}

void gw_dpdk_port_send_frame(struct dpdk_port *port, const uint8_t *frame, uint32_t length)
{
    struct rte_mbuf *mbuf = rte_pktmbuf_alloc(port->pool);

    if (!mbuf)
        return;
    memcpy(rte_pktmbuf_append(mbuf, (uint16_t)length), frame, length);
    send_one(port, mbuf);
}

void gw_dpdk_port_send_datagram(struct dpdk_port *port, const struct dpdk_flow *flow,
                                const uint8_t *datagram, uint32_t length)
{
    uint32_t headers = gw_dpdk_headers_size(flow);
    struct rte_mbuf *mbuf = rte_pktmbuf_alloc(port->pool);
    uint8_t *frame;

    if (!mbuf)
        return;
    /* One at a time: no need to bother the NIC with checksums. */
    frame = (uint8_t *)rte_pktmbuf_append(mbuf, (uint16_t)(headers + length));
    memcpy(frame + headers, datagram, length);
    gw_dpdk_headers_write(flow, length, DPDK_CHECKSUM_UDP, frame);
    gw_dpdk_headers_finish(flow, length, DPDK_CHECKSUM_UDP, frame);
    send_one(port, mbuf);
}

uint16_t gw_dpdk_port_max_length(const struct dpdk_port *port, bool is_ipv6)
{
    unsigned room = port->mtu - (is_ipv6 ? DPDK_IPV6_SIZE : DPDK_IPV4_SIZE) - DPDK_UDP_SIZE;

    return (uint16_t)gw_min(room, DPDK_DATAGRAM_MAX);
}
