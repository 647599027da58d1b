/* SPDX-License-Identifier: Apache-2.0 */
/*
 * headers: Ethernet, IPv4, IPv6, UDP, ARP and neighbour discovery, as far as a port needs them.
 * Pure: bytes in, bytes out; no device.
 *
 * Sources: RFC 791, 8200 (IP), 768 and 6935 (UDP), 826 (ARP), 4861 (neighbour discovery), 3168
 *   (ECN), 1071 (the checksum).
 * Errors: what is not understood is DPDK_FRAME_OTHER; nothing has a message, since anybody can send
 *   anything.
 * Order: none.
 * Threads: any.
 * Units: bytes. Addresses and ports as numbers are in the host's order, address bytes as on the wire.
 */
#ifndef GODWIT_TRANSPORT_DPDK_HEADERS_H
#define GODWIT_TRANSPORT_DPDK_HEADERS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/address.h"

#define DPDK_MAC_SIZE      6u
#define DPDK_ETHERNET_SIZE 14u
#define DPDK_IPV4_SIZE     20u
#define DPDK_IPV6_SIZE     40u
#define DPDK_UDP_SIZE      8u
#define DPDK_HEADERS_MAX   (DPDK_ETHERNET_SIZE + DPDK_IPV6_SIZE + DPDK_UDP_SIZE)
#define DPDK_ARP_SIZE      (DPDK_ETHERNET_SIZE + 28u)
#define DPDK_ND_SIZE       (DPDK_ETHERNET_SIZE + DPDK_IPV6_SIZE + 32u)
#define DPDK_NEIGHBOR_MAX  DPDK_ND_SIZE /* the larger of the two */

struct dpdk_mac {
    uint8_t bytes[DPDK_MAC_SIZE];
};

/* An IP address without its port; unused bytes are 0, so that memcmp compares. */
struct dpdk_host {
    bool is_ipv6;
    uint8_t bytes[16];
};

/* The two ends of a stream of datagrams, as this port sends them. */
struct dpdk_flow {
    struct dpdk_mac local_mac, peer_mac;
    struct dpdk_host local, peer;
    uint16_t local_port, peer_port;
};

enum dpdk_frame_kind {
    DPDK_FRAME_OTHER,
    DPDK_FRAME_UDP,
    DPDK_FRAME_NEIGHBOR_ASKED, /* somebody wants to know the MAC of target */
    DPDK_FRAME_NEIGHBOR_TOLD,  /* source says that it has source_mac */
};

struct dpdk_frame {
    enum dpdk_frame_kind kind;
    struct dpdk_mac source_mac;
    struct dpdk_host source, target;
    uint16_t source_port, target_port; /* UDP */
    uint32_t payload, payload_length;  /* UDP: where its payload lies in the frame */
    bool is_congested;                 /* ECN: congestion experienced */
};

void gw_dpdk_host_of(const struct gw_address *address, struct dpdk_host *out);
void gw_dpdk_host_to_address(const struct dpdk_host *host, uint16_t port, struct gw_address *out);
bool gw_dpdk_host_is_same(const struct dpdk_host *a, const struct dpdk_host *b);

/* Reads a frame that arrived. With verify_ipv4 the checksum of an IPv4 header is looked at; a UDP
 * checksum never is: the datagrams carry their own tag, which says more. Fragments, VLAN tags and
 * IPv6 extension headers are DPDK_FRAME_OTHER. */
void gw_dpdk_frame_read(const uint8_t *frame, uint32_t length, bool verify_ipv4,
                        struct dpdk_frame *out);

/* False when a frame that was read as UDP has a UDP checksum, and a wrong one. For datagrams that are
 * looked at before their tag can be. */
bool gw_dpdk_udp_is_sound(const uint8_t *frame, const struct dpdk_frame *read);

/* What the NIC computes, and what is wanted. */
enum dpdk_checksum {
    DPDK_CHECKSUM_IPV4_BY_NIC = 1,
    DPDK_CHECKSUM_UDP_BY_NIC = 2,
    DPDK_CHECKSUM_UDP = 4, /* of UDP over IPv4 too */
};

/* Size of the headers in front of a UDP payload. */
uint32_t gw_dpdk_headers_size(const struct dpdk_flow *flow);
/* Writes them for a payload of that many bytes, marked "ECN capable". Checksums that the NIC computes
 * are left to it (UDP's with the pseudo header, as NICs want it). A UDP checksum that it does not
 * compute is 0, "none", over IPv4; over IPv6, where there is no "none", and where it is wanted, it is
 * computed here once gw_dpdk_headers_finish is given the payload. */
void gw_dpdk_headers_write(const struct dpdk_flow *flow, uint32_t payload_length,
                           unsigned checksums, uint8_t *out);
/* For a frame whose payload lies behind its headers, and that needs it: see above. */
void gw_dpdk_headers_finish(const struct dpdk_flow *flow, uint32_t payload_length,
                            unsigned checksums, uint8_t *frame);

/* Asks for the MAC of target; to everybody. Returns the size, at most DPDK_NEIGHBOR_MAX. */
uint32_t gw_dpdk_neighbor_ask(const struct dpdk_mac *mac, const struct dpdk_host *local,
                              const struct dpdk_host *target, uint8_t *out);
/* Answers what was asked by that frame. */
uint32_t gw_dpdk_neighbor_tell(const struct dpdk_mac *mac, const struct dpdk_frame *asked,
                               uint8_t *out);
/* The multicast MAC on which an IPv6 address is asked for (RFC 4861, solicited-node). */
void gw_dpdk_solicited_mac(const struct dpdk_host *host, struct dpdk_mac *out);

#endif
