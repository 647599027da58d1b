/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes the headers of frames; see headers.h. */
#include "transport/dpdk/headers.h"

#include <netinet/in.h>
#include <string.h>

#include "common/bytes.h"

#define TYPE_IPV4 0x0800u
#define TYPE_IPV6 0x86ddu
#define TYPE_ARP  0x0806u

#define PROTOCOL_UDP    17u
#define PROTOCOL_ICMPV6 58u

#define IPV4_FIRST    0x45u   /* version, words of the header */
#define IPV4_WHOLE    0x4000u /* not to be fragmented: the path's MTU is found out */
#define ECN_CAPABLE   2u      /* ECT(0) */
#define ECN_CONGESTED 3u
#define TIME_TO_LIVE  64u
#define ND_HOP_LIMIT  255u /* RFC 4861: proves that the sender is on this network */

#define ARP_REQUEST        1u
#define ARP_REPLY          2u
#define ND_SOLICITATION    135u
#define ND_ADVERTISEMENT   136u
#define ND_SIZE            24u
#define ND_OPTION_SIZE     8u
#define ND_SOURCE_OPTION   1u
#define ND_TARGET_OPTION   2u
#define ND_FLAG_SOLICITED  0x40u
#define ND_FLAG_OVERRIDE   0x20u
#define IPV4_FRAGMENT_MASK 0x3fffu /* more fragments, or an offset */

/* ---- addresses ---- */

void gw_dpdk_host_of(const struct gw_address *address, struct dpdk_host *out)
{
    const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)&address->storage;
    const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)&address->storage;

    memset(out, 0, sizeof(*out));
    if (address->storage.ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&ipv6->sin6_addr)) {
        out->is_ipv6 = true;
        memcpy(out->bytes, &ipv6->sin6_addr, 16);
    } else if (address->storage.ss_family == AF_INET6) {
        memcpy(out->bytes, (const uint8_t *)&ipv6->sin6_addr + 12, 4);
    } else {
        memcpy(out->bytes, &ipv4->sin_addr, 4);
    }
}

void gw_dpdk_host_to_address(const struct dpdk_host *host, uint16_t port, struct gw_address *out)
{
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)&out->storage;
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)&out->storage;

    memset(out, 0, sizeof(*out));
    if (host->is_ipv6) {
        ipv6->sin6_family = AF_INET6;
        ipv6->sin6_port = htons(port);
        memcpy(&ipv6->sin6_addr, host->bytes, 16);
        out->length = sizeof(*ipv6);
    } else {
        ipv4->sin_family = AF_INET;
        ipv4->sin_port = htons(port);
        memcpy(&ipv4->sin_addr, host->bytes, 4);
        out->length = sizeof(*ipv4);
    }
}

bool gw_dpdk_host_is_same(const struct dpdk_host *a, const struct dpdk_host *b)
{
    if (a->is_ipv6 != b->is_ipv6)
        return false;
    return a->is_ipv6 ? memcmp(a->bytes, b->bytes, 16) == 0 : memcmp(a->bytes, b->bytes, 4) == 0;
}

static void set_host(struct dpdk_host *out, bool is_ipv6, const uint8_t *bytes)
{
    memset(out, 0, sizeof(*out));
    out->is_ipv6 = is_ipv6;
    memcpy(out->bytes, bytes, is_ipv6 ? 16 : 4);
}

/* ---- checksums (RFC 1071) ---- */

static uint64_t add_words(uint64_t sum, const uint8_t *bytes, uint32_t length)
{
    for (; length >= 4; length -= 4, bytes += 4)
        sum += gw_get_be32(bytes);
    if (length >= 2) {
        sum += (uint64_t)gw_get_be16(bytes) << 16;
        length -= 2;
        bytes += 2;
        return length ? sum + ((uint64_t)bytes[0] << 8) : sum;
    }
    return length ? sum + ((uint64_t)bytes[0] << 24) : sum;
}

static uint16_t fold(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    return (uint16_t)sum;
}

static uint64_t pseudo_header(const struct dpdk_host *source, const struct dpdk_host *target,
                              uint32_t protocol, uint32_t length)
{
    uint32_t size = source->is_ipv6 ? 16 : 4;

    return add_words(add_words(0, source->bytes, size), target->bytes, size) + protocol + length;
}

/* ---- reading ---- */

static void read_udp(const uint8_t *frame, uint32_t at, uint32_t length, struct dpdk_frame *out)
{
    uint32_t told;

    if (length < DPDK_UDP_SIZE)
        return;
    told = gw_get_be16(frame + at + 4);
    if (told < DPDK_UDP_SIZE || told > length)
        return;
    out->source_port = gw_get_be16(frame + at);
    out->target_port = gw_get_be16(frame + at + 2);
    out->payload = at + DPDK_UDP_SIZE;
    out->payload_length = told - DPDK_UDP_SIZE;
    out->kind = DPDK_FRAME_UDP;
}

static void read_ipv4(const uint8_t *frame, uint32_t length, bool verify, struct dpdk_frame *out)
{
    const uint8_t *ip = frame + DPDK_ETHERNET_SIZE;
    uint32_t header, total;

    if (length < DPDK_ETHERNET_SIZE + DPDK_IPV4_SIZE || ip[0] >> 4 != 4)
        return;
    header = (ip[0] & 15u) * 4;
    total = gw_get_be16(ip + 2);
    if (header < DPDK_IPV4_SIZE || total < header || total > length - DPDK_ETHERNET_SIZE)
        return;
    if (gw_get_be16(ip + 6) & IPV4_FRAGMENT_MASK || ip[9] != PROTOCOL_UDP)
        return;
    if (verify && fold(add_words(0, ip, header)) != 0xffff)
        return;
    set_host(&out->source, false, ip + 12);
    set_host(&out->target, false, ip + 16);
    out->is_congested = (ip[1] & 3) == ECN_CONGESTED;
    read_udp(frame, DPDK_ETHERNET_SIZE + header, total - header, out);
}

/* The link-layer address option of that type, if it is there. */
static bool read_nd_option(const uint8_t *option, uint32_t length, uint8_t type,
                           struct dpdk_mac *out)
{
    while (length >= ND_OPTION_SIZE) {
        uint32_t size = option[1] * 8u;

        if (size == 0 || size > length)
            return false;
        if (option[0] == type) {
            memcpy(out->bytes, option + 2, DPDK_MAC_SIZE);
            return true;
        }
        option += size;
        length -= size;
    }
    return false;
}

static void read_nd(const uint8_t *ip, uint32_t length, struct dpdk_frame *out)
{
    const uint8_t *nd = ip + DPDK_IPV6_SIZE;
    uint32_t options = length - ND_SIZE;

    /* Code 0, and a hop limit that no router leaves as it is. */
    if (length < ND_SIZE || nd[1] != 0 || ip[7] != ND_HOP_LIMIT ||
        fold(pseudo_header(&out->source, &out->target, PROTOCOL_ICMPV6, length) +
             add_words(0, nd, length)) != 0xffff)
        return;
    if (nd[0] == ND_SOLICITATION) {
        read_nd_option(nd + ND_SIZE, options, ND_SOURCE_OPTION, &out->source_mac);
        set_host(&out->target, true, nd + 8);
        out->kind = DPDK_FRAME_NEIGHBOR_ASKED;
    } else if (nd[0] == ND_ADVERTISEMENT) {
        read_nd_option(nd + ND_SIZE, options, ND_TARGET_OPTION, &out->source_mac);
        set_host(&out->source, true, nd + 8);
        out->kind = DPDK_FRAME_NEIGHBOR_TOLD;
    }
}

static void read_ipv6(const uint8_t *frame, uint32_t length, struct dpdk_frame *out)
{
    const uint8_t *ip = frame + DPDK_ETHERNET_SIZE;
    uint32_t payload;

    if (length < DPDK_ETHERNET_SIZE + DPDK_IPV6_SIZE || ip[0] >> 4 != 6)
        return;
    payload = gw_get_be16(ip + 4);
    if (payload > length - DPDK_ETHERNET_SIZE - DPDK_IPV6_SIZE)
        return;
    set_host(&out->source, true, ip + 8);
    set_host(&out->target, true, ip + 24);
    out->is_congested = (ip[1] >> 4 & 3) == ECN_CONGESTED;
    if (ip[6] == PROTOCOL_UDP)
        read_udp(frame, DPDK_ETHERNET_SIZE + DPDK_IPV6_SIZE, payload, out);
    else if (ip[6] == PROTOCOL_ICMPV6)
        read_nd(ip, payload, out);
}

static void read_arp(const uint8_t *frame, uint32_t length, struct dpdk_frame *out)
{
    static const uint8_t ethernet_ipv4[] = {0, 1, 8, 0, 6, 4};
    const uint8_t *arp = frame + DPDK_ETHERNET_SIZE;
    uint16_t operation;

    if (length < DPDK_ARP_SIZE || memcmp(arp, ethernet_ipv4, sizeof(ethernet_ipv4)) != 0)
        return;
    operation = gw_get_be16(arp + 6);
    memcpy(out->source_mac.bytes, arp + 8, DPDK_MAC_SIZE);
    set_host(&out->source, false, arp + 14);
    set_host(&out->target, false, arp + 24);
    if (operation == ARP_REQUEST)
        out->kind = DPDK_FRAME_NEIGHBOR_ASKED;
    else if (operation == ARP_REPLY)
        out->kind = DPDK_FRAME_NEIGHBOR_TOLD;
}

void gw_dpdk_frame_read(const uint8_t *frame, uint32_t length, bool verify_ipv4,
                        struct dpdk_frame *out)
{
    memset(out, 0, sizeof(*out));
    if (length < DPDK_ETHERNET_SIZE)
        return;
    memcpy(out->source_mac.bytes, frame + DPDK_MAC_SIZE, DPDK_MAC_SIZE);
    switch (gw_get_be16(frame + 12)) {
    case TYPE_IPV4:
        read_ipv4(frame, length, verify_ipv4, out);
        break;
    case TYPE_IPV6:
        read_ipv6(frame, length, out);
        break;
    case TYPE_ARP:
        read_arp(frame, length, out);
        break;
    default:
        break;
    }
}

bool gw_dpdk_udp_is_sound(const uint8_t *frame, const struct dpdk_frame *read)
{
    const uint8_t *udp = frame + read->payload - DPDK_UDP_SIZE;
    uint32_t length = DPDK_UDP_SIZE + read->payload_length;

    return gw_get_be16(udp + 6) == 0 ||
           fold(pseudo_header(&read->source, &read->target, PROTOCOL_UDP, length) +
                add_words(0, udp, length)) == 0xffff;
}

/* ---- writing ---- */

static void write_ethernet(const struct dpdk_mac *to, const struct dpdk_mac *from, uint16_t type,
                           uint8_t *out)
{
    memcpy(out, to->bytes, DPDK_MAC_SIZE);
    memcpy(out + DPDK_MAC_SIZE, from->bytes, DPDK_MAC_SIZE);
    gw_put_be16(out + 12, type);
}

uint32_t gw_dpdk_headers_size(const struct dpdk_flow *flow)
{
    return DPDK_ETHERNET_SIZE + (flow->local.is_ipv6 ? DPDK_IPV6_SIZE : DPDK_IPV4_SIZE) +
           DPDK_UDP_SIZE;
}

/* Of what write_ipv4 writes, from where it has it: to read the bytes again, just written one by one, would
 * stall the processor. */
static uint16_t ipv4_checksum(const struct dpdk_flow *flow, uint32_t length)
{
    uint64_t words = IPV4_FIRST << 8 | ECN_CAPABLE;

    words += (DPDK_IPV4_SIZE + length) + IPV4_WHOLE + (TIME_TO_LIVE << 8 | PROTOCOL_UDP);
    return (uint16_t)~fold(words + add_words(0, flow->local.bytes, 4) +
                           add_words(0, flow->peer.bytes, 4));
}

static void write_ipv4(const struct dpdk_flow *flow, uint32_t length, bool by_nic, uint8_t *out)
{
    memset(out, 0, DPDK_IPV4_SIZE);
    out[0] = IPV4_FIRST;
    out[1] = ECN_CAPABLE;
    gw_put_be16(out + 2, (uint16_t)(DPDK_IPV4_SIZE + length));
    gw_put_be16(out + 6, IPV4_WHOLE);
    out[8] = TIME_TO_LIVE;
    out[9] = PROTOCOL_UDP;
    memcpy(out + 12, flow->local.bytes, 4);
    memcpy(out + 16, flow->peer.bytes, 4);
    if (!by_nic)
        gw_put_be16(out + 10, ipv4_checksum(flow, length));
}

static void write_ipv6(const struct dpdk_host *from, const struct dpdk_host *to, uint8_t protocol,
                       uint32_t length, uint8_t *out)
{
    memset(out, 0, DPDK_IPV6_SIZE);
    out[0] = 0x60;
    out[1] = ECN_CAPABLE << 4;
    gw_put_be16(out + 4, (uint16_t)length);
    out[6] = protocol;
    out[7] = TIME_TO_LIVE;
    memcpy(out + 8, from->bytes, 16);
    memcpy(out + 24, to->bytes, 16);
}

void gw_dpdk_headers_write(const struct dpdk_flow *flow, uint32_t payload_length,
                           unsigned checksums, uint8_t *out)
{
    uint32_t length = DPDK_UDP_SIZE + payload_length;
    uint8_t *ip = out + DPDK_ETHERNET_SIZE, *udp;

    write_ethernet(&flow->peer_mac, &flow->local_mac, flow->local.is_ipv6 ? TYPE_IPV6 : TYPE_IPV4,
                   out);
    if (flow->local.is_ipv6)
        write_ipv6(&flow->local, &flow->peer, PROTOCOL_UDP, length, ip);
    else
        write_ipv4(flow, length, checksums & DPDK_CHECKSUM_IPV4_BY_NIC, ip);
    udp = ip + (flow->local.is_ipv6 ? DPDK_IPV6_SIZE : DPDK_IPV4_SIZE);
    gw_put_be16(udp, flow->local_port);
    gw_put_be16(udp + 2, flow->peer_port);
    gw_put_be16(udp + 4, (uint16_t)length);
    gw_put_be16(udp + 6, checksums & DPDK_CHECKSUM_UDP_BY_NIC
                             ? fold(pseudo_header(&flow->local, &flow->peer, PROTOCOL_UDP, length))
                             : 0);
}

void gw_dpdk_headers_finish(const struct dpdk_flow *flow, uint32_t payload_length,
                            unsigned checksums, uint8_t *frame)
{
    uint8_t *udp = frame + gw_dpdk_headers_size(flow) - DPDK_UDP_SIZE;
    uint32_t length = DPDK_UDP_SIZE + payload_length;
    uint16_t sum;

    if (checksums & DPDK_CHECKSUM_UDP_BY_NIC ||
        (!flow->local.is_ipv6 && !(checksums & DPDK_CHECKSUM_UDP)))
        return;
    sum = (uint16_t)~fold(pseudo_header(&flow->local, &flow->peer, PROTOCOL_UDP, length) +
                          add_words(0, udp, length));
    gw_put_be16(udp + 6, sum ? sum : 0xffff);
}

/* ---- neighbours ---- */

void gw_dpdk_solicited_mac(const struct dpdk_host *host, struct dpdk_mac *out)
{
    *out = (struct dpdk_mac){{0x33, 0x33, 0xff, host->bytes[13], host->bytes[14], host->bytes[15]}};
}

static uint32_t write_arp(const struct dpdk_mac *mac, const struct dpdk_mac *to, uint16_t operation,
                          const struct dpdk_host *from, const struct dpdk_host *target,
                          uint8_t *out)
{
    static const struct dpdk_mac everybody = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
    static const uint8_t ethernet_ipv4[] = {0, 1, 8, 0, 6, 4};
    uint8_t *arp = out + DPDK_ETHERNET_SIZE;

    write_ethernet(to ? to : &everybody, mac, TYPE_ARP, out);
    memcpy(arp, ethernet_ipv4, sizeof(ethernet_ipv4));
    gw_put_be16(arp + 6, operation);
    memcpy(arp + 8, mac->bytes, DPDK_MAC_SIZE);
    memcpy(arp + 14, from->bytes, 4);
    memset(arp + 18, 0, DPDK_MAC_SIZE);
    if (to)
        memcpy(arp + 18, to->bytes, DPDK_MAC_SIZE);
    memcpy(arp + 24, target->bytes, 4);
    return DPDK_ARP_SIZE;
}

/* about: the address that the message is about. */
static uint32_t write_nd(const struct dpdk_mac *mac, uint8_t type, const struct dpdk_host *from,
                         const struct dpdk_host *to, const struct dpdk_host *about, uint8_t *out)
{
    uint32_t length = ND_SIZE + ND_OPTION_SIZE;
    uint8_t *ip = out + DPDK_ETHERNET_SIZE, *nd = ip + DPDK_IPV6_SIZE;

    write_ipv6(from, to, PROTOCOL_ICMPV6, length, ip);
    ip[1] = 0;
    ip[7] = ND_HOP_LIMIT;
    memset(nd, 0, length);
    nd[0] = type;
    nd[4] = type == ND_ADVERTISEMENT ? ND_FLAG_SOLICITED | ND_FLAG_OVERRIDE : 0;
    memcpy(nd + 8, about->bytes, 16);
    nd[ND_SIZE] = type == ND_ADVERTISEMENT ? ND_TARGET_OPTION : ND_SOURCE_OPTION;
    nd[ND_SIZE + 1] = 1;
    memcpy(nd + ND_SIZE + 2, mac->bytes, DPDK_MAC_SIZE);
    gw_put_be16(nd + 2, (uint16_t)~fold(pseudo_header(from, to, PROTOCOL_ICMPV6, length) +
                                        add_words(0, nd, length)));
    return DPDK_ND_SIZE;
}

uint32_t gw_dpdk_neighbor_ask(const struct dpdk_mac *mac, const struct dpdk_host *local,
                              const struct dpdk_host *target, uint8_t *out)
{
    static const uint8_t solicited_node[13] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
    struct dpdk_host group = {.is_ipv6 = true};
    struct dpdk_mac group_mac;

    if (!target->is_ipv6)
        return write_arp(mac, NULL, ARP_REQUEST, local, target, out);
    memcpy(group.bytes, solicited_node, sizeof(solicited_node));
    memcpy(group.bytes + 13, target->bytes + 13, 3);
    gw_dpdk_solicited_mac(target, &group_mac);
    write_ethernet(&group_mac, mac, TYPE_IPV6, out);
    return write_nd(mac, ND_SOLICITATION, local, &group, target, out);
}

uint32_t gw_dpdk_neighbor_tell(const struct dpdk_mac *mac, const struct dpdk_frame *asked,
                               uint8_t *out)
{
    if (!asked->target.is_ipv6)
        return write_arp(mac, &asked->source_mac, ARP_REPLY, &asked->target, &asked->source, out);
    write_ethernet(&asked->source_mac, mac, TYPE_IPV6, out);
    return write_nd(mac, ND_ADVERTISEMENT, &asked->target, &asked->source, &asked->target, out);
}
