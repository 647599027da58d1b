/* SPDX-License-Identifier: Apache-2.0 */
/* Frames as they go on the wire: read, written, refused. Checksums are compared with one that adds
 * 16-bit words as RFC 1071 writes it, and with headers from elsewhere. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "transport/dpdk/headers.h"

#define PAYLOAD    101u /* odd: the checksum has half a word at its end */
#define FRAME_ROOM 256u
#define IP_AT      DPDK_ETHERNET_SIZE

/* "Computing the Internet checksum", RFC 1071 section 4.1, in one's complement of 16 bits. */
static uint16_t rfc1071(const uint8_t *bytes, size_t length, uint32_t sum)
{
    for (size_t i = 0; i + 1 < length; i += 2)
        sum += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
    if (length % 2)
        sum += (uint32_t)bytes[length - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* 0 when the checksum of what follows an IPv6 header is right (RFC 8200 section 8.1). */
static uint16_t check_ipv6(const uint8_t *ip, uint8_t protocol)
{
    uint32_t length = gw_get_be16(ip + 4), sum = protocol + length;

    for (unsigned i = 8; i < 40; i += 2)
        sum += gw_get_be16(ip + i);
    return rfc1071(ip + 40, length, sum);
}

static struct dpdk_host host(const char *text)
{
    struct dpdk_host out = {.is_ipv6 = strchr(text, ':') != NULL};

    cr_assert_eq(inet_pton(out.is_ipv6 ? AF_INET6 : AF_INET, text, out.bytes), 1);
    return out;
}

static struct dpdk_flow flow_between(const char *local, const char *peer)
{
    return (struct dpdk_flow){.local_mac = {{2, 0, 0, 0, 0, 1}},
                              .peer_mac = {{2, 0, 0, 0, 0, 2}},
                              .local = host(local),
                              .peer = host(peer),
                              .local_port = 50001,
                              .peer_port = 13560};
}

static uint32_t write_frame(const struct dpdk_flow *flow, unsigned checksums, uint8_t *frame)
{
    uint32_t size = gw_dpdk_headers_size(flow);

    memset(frame, 0x5a, FRAME_ROOM);
    for (unsigned i = 0; i < PAYLOAD; i++)
        frame[size + i] = (uint8_t)(i * 37);
    gw_dpdk_headers_write(flow, PAYLOAD, checksums, frame);
    gw_dpdk_headers_finish(flow, PAYLOAD, checksums, frame);
    return size + PAYLOAD;
}

/* In memory of its exact size, so that a sanitizer sees what is read behind it. */
static struct dpdk_frame read_frame(const uint8_t *frame, uint32_t length, bool verify)
{
    uint8_t *exact = malloc(length ? length : 1);
    struct dpdk_frame out;

    memcpy(exact, frame, length);
    gw_dpdk_frame_read(exact, length, verify, &out);
    free(exact);
    return out;
}

static void is_as_sent(const struct dpdk_flow *flow, const struct dpdk_frame *got)
{
    cr_assert_eq(got->kind, DPDK_FRAME_UDP);
    cr_assert(gw_dpdk_host_is_same(&got->source, &flow->local));
    cr_assert(gw_dpdk_host_is_same(&got->target, &flow->peer));
    cr_assert_eq(memcmp(&got->source_mac, &flow->local_mac, DPDK_MAC_SIZE), 0);
    cr_assert_eq(got->source_port, flow->local_port);
    cr_assert_eq(got->target_port, flow->peer_port);
    cr_assert_eq(got->payload, gw_dpdk_headers_size(flow));
    cr_assert_eq(got->payload_length, PAYLOAD);
    cr_assert_not(got->is_congested);
}

Test(dpdk_headers, ipv4_is_read_as_it_was_written)
{
    struct dpdk_flow flow = flow_between("192.0.2.1", "192.0.2.200");
    uint8_t frame[FRAME_ROOM];
    uint32_t length = write_frame(&flow, 0, frame);
    struct dpdk_frame got = read_frame(frame, length, true);

    is_as_sent(&flow, &got);
    cr_assert_eq(rfc1071(frame + IP_AT, DPDK_IPV4_SIZE, 0), 0);
    cr_assert_eq(gw_get_be16(frame + IP_AT + DPDK_IPV4_SIZE + 6), 0, "no UDP checksum over IPv4");
    cr_assert_eq(gw_get_be16(frame + IP_AT + 6), 0x4000, "not to be fragmented");
    cr_assert_eq(frame[IP_AT + 1] & 3, 2, "ECN capable");
    cr_assert_eq(frame[length], 0x5a, "nothing is written behind it");
}

Test(dpdk_headers, ipv6_is_read_as_it_was_written)
{
    struct dpdk_flow flow = flow_between("2001:db8::1", "2001:db8:ffff:fffe:fdfc:0:80:7");
    uint8_t frame[FRAME_ROOM];
    uint32_t length = write_frame(&flow, 0, frame);
    struct dpdk_frame got = read_frame(frame, length, true);

    is_as_sent(&flow, &got);
    cr_assert_eq(check_ipv6(frame + IP_AT, 17), 0);
    cr_assert_eq(frame[IP_AT + 1] >> 4 & 3, 2, "ECN capable");
}

/* RFC 768 and 8200: a checksum of 0 would say that there is none. */
Test(dpdk_headers, ipv6_checksum_is_never_zero)
{
    struct dpdk_flow flow = flow_between("2001:db8::1", "2001:db8::2");
    uint32_t size = gw_dpdk_headers_size(&flow);
    uint8_t frame[FRAME_ROOM] = {0};

    for (unsigned value = 0; value <= UINT16_MAX; value++) {
        gw_put_be16(frame + size, (uint16_t)value);
        gw_dpdk_headers_write(&flow, 2, 0, frame);
        gw_dpdk_headers_finish(&flow, 2, 0, frame);
        cr_assert_neq(gw_get_be16(frame + size - 2), 0, "payload %04x", value);
        cr_assert_eq(check_ipv6(frame + IP_AT, 17), 0, "payload %04x", value);
    }
}

Test(dpdk_headers, a_checksum_over_ipv4_is_there_where_it_is_wanted)
{
    struct dpdk_flow flow = flow_between("192.0.2.1", "192.0.2.200");
    uint8_t frame[FRAME_ROOM], pseudo[FRAME_ROOM] = {0};
    uint32_t length = write_frame(&flow, DPDK_CHECKSUM_UDP, frame);
    uint32_t udp_length = length - IP_AT - DPDK_IPV4_SIZE;
    struct dpdk_frame got = read_frame(frame, length, true);

    is_as_sent(&flow, &got);
    memcpy(pseudo, frame + IP_AT + 12, 8);
    gw_put_be16(pseudo + 8, 17);
    gw_put_be16(pseudo + 10, (uint16_t)udp_length);
    memcpy(pseudo + 12, frame + IP_AT + DPDK_IPV4_SIZE, udp_length);
    cr_assert_eq(rfc1071(pseudo, 12 + udp_length, 0), 0);
    cr_assert(gw_dpdk_udp_is_sound(frame, &got));
    frame[length - 1] ^= 0x10;
    cr_assert_not(gw_dpdk_udp_is_sound(frame, &got));
    write_frame(&flow, 0, frame);
    cr_assert(gw_dpdk_udp_is_sound(frame, &got), "who has none cannot have a wrong one");
}

/* What DPDK wants of who lets the NIC finish it: IPv4's field 0, UDP's the sum of the pseudo header. */
Test(dpdk_headers, checksums_are_left_to_a_nic)
{
    unsigned both = DPDK_CHECKSUM_IPV4_BY_NIC | DPDK_CHECKSUM_UDP_BY_NIC;
    struct dpdk_flow flow = flow_between("192.0.2.1", "192.0.2.200");
    uint8_t frame[FRAME_ROOM], pseudo[12];

    write_frame(&flow, both, frame);
    cr_assert_eq(gw_get_be16(frame + IP_AT + 10), 0);
    memcpy(pseudo, frame + IP_AT + 12, 8);
    gw_put_be16(pseudo + 8, 17);
    gw_put_be16(pseudo + 10, DPDK_UDP_SIZE + PAYLOAD);
    cr_assert_eq(gw_get_be16(frame + IP_AT + DPDK_IPV4_SIZE + 6),
                 (uint16_t)~rfc1071(pseudo, sizeof(pseudo), 0));
}

/* The header that textbooks compute by hand: 192.168.0.1 > 192.168.0.199, UDP, 115 bytes. */
Test(dpdk_headers, a_header_from_elsewhere_is_read)
{
    static const uint8_t ip[] = {0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11,
                                 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7};
    uint8_t frame[IP_AT + 115] = {[12] = 0x08, [13] = 0x00};
    struct dpdk_frame got;

    memcpy(frame + IP_AT, ip, sizeof(ip));
    gw_put_be16(frame + IP_AT + 24, 95);
    got = read_frame(frame, sizeof(frame), true);
    cr_assert_eq(got.kind, DPDK_FRAME_UDP);
    cr_assert_eq(got.payload_length, 87);
    frame[IP_AT + 10] ^= 1;
    cr_assert_eq(read_frame(frame, sizeof(frame), true).kind, DPDK_FRAME_OTHER);
    cr_assert_eq(read_frame(frame, sizeof(frame), false).kind, DPDK_FRAME_UDP, "the NIC looked");
}

Test(dpdk_headers, marks_are_seen)
{
    struct dpdk_flow flows[] = {flow_between("192.0.2.1", "192.0.2.2"),
                                flow_between("2001:db8::1", "2001:db8::2")};
    uint8_t frame[FRAME_ROOM];

    for (unsigned i = 0; i < 2; i++) {
        uint32_t length = write_frame(&flows[i], 0, frame);

        frame[IP_AT + 1] |= i == 0 ? 3 : 3 << 4;
        cr_assert(read_frame(frame, length, false).is_congested);
    }
}

/* Ethernet pads short frames: what lies behind the datagram is not its payload. */
Test(dpdk_headers, padding_is_no_payload)
{
    struct dpdk_flow flows[] = {flow_between("192.0.2.1", "192.0.2.2"),
                                flow_between("2001:db8::1", "2001:db8::2")};
    uint8_t frame[FRAME_ROOM];

    for (unsigned i = 0; i < 2; i++) {
        uint32_t length = write_frame(&flows[i], 0, frame);
        struct dpdk_frame got = read_frame(frame, length + 20, true);

        is_as_sent(&flows[i], &got);
    }
}

Test(dpdk_headers, every_shorter_frame_is_refused)
{
    struct dpdk_flow flows[] = {flow_between("192.0.2.1", "192.0.2.2"),
                                flow_between("2001:db8::1", "2001:db8::2")};
    uint8_t frame[FRAME_ROOM];

    for (unsigned i = 0; i < 2; i++) {
        uint32_t length = write_frame(&flows[i], 0, frame);

        for (uint32_t cut = 0; cut < length; cut++)
            cr_assert_eq(read_frame(frame, cut, false).kind, DPDK_FRAME_OTHER, "%u bytes", cut);
    }
}

/* ---- what is refused: a byte of a good IPv4 or IPv6 frame, and what it is changed to ---- */

struct change {
    bool is_ipv6;
    uint32_t at;
    uint8_t to;
    char why[40];
};

ParameterizedTestParameters(dpdk_headers, what_is_not_understood_is_refused)
{
    static struct change changes[] = {
        {false, 12, 0x81, "a VLAN tag"},
        {false, IP_AT, 0x65, "version 6 in an IPv4 frame"},
        {false, IP_AT, 0x44, "a header of 16 bytes"},
        {false, IP_AT, 0x4f, "options where UDP lies"},
        {false, IP_AT + 2, 0xff, "longer than the frame"},
        {false, IP_AT + 3, 19, "shorter than its header"},
        {false, IP_AT + 3, 27, "no room for UDP"},
        {false, IP_AT + 6, 0x20, "a first fragment"},
        {false, IP_AT + 7, 1, "a later fragment"},
        {false, IP_AT + 9, 6, "TCP"},
        {false, IP_AT + 24, 1, "UDP longer than IP"},
        {false, IP_AT + 25, 7, "UDP shorter than its header"},
        {true, IP_AT, 0x40, "version 4 in an IPv6 frame"},
        {true, IP_AT + 4, 1, "longer than the frame"},
        {true, IP_AT + 5, 7, "no room for UDP"},
        {true, IP_AT + 6, 44, "a fragment header"},
        {true, IP_AT + 6, 0, "a hop-by-hop header"},
        {true, IP_AT + 44, 1, "UDP longer than IP"},
    };

    return cr_make_param_array(struct change, changes, GW_ARRAY_LENGTH(changes));
}

ParameterizedTest(struct change *change, dpdk_headers, what_is_not_understood_is_refused)
{
    struct dpdk_flow flow = change->is_ipv6 ? flow_between("2001:db8::1", "2001:db8::2")
                                            : flow_between("192.0.2.1", "192.0.2.2");
    uint8_t frame[FRAME_ROOM];
    uint32_t length = write_frame(&flow, 0, frame);

    cr_assert_eq(read_frame(frame, length, false).kind, DPDK_FRAME_UDP);
    frame[change->at] = change->to;
    cr_assert_eq(read_frame(frame, length, false).kind, DPDK_FRAME_OTHER, "%s", change->why);
}

/* ---- neighbours ---- */

static const struct dpdk_mac asking = {{2, 0, 0, 0, 0, 9}}, answering = {{2, 0, 0, 0, 0, 8}};

static void ask_and_tell(const char *local, const char *target, uint8_t *question, uint8_t *answer)
{
    struct dpdk_host from = host(local), about = host(target);
    struct dpdk_frame got;
    uint32_t length = gw_dpdk_neighbor_ask(&asking, &from, &about, question);

    cr_assert(length <= DPDK_NEIGHBOR_MAX);
    got = read_frame(question, length, true);
    cr_assert_eq(got.kind, DPDK_FRAME_NEIGHBOR_ASKED);
    cr_assert(gw_dpdk_host_is_same(&got.target, &about));
    cr_assert(gw_dpdk_host_is_same(&got.source, &from));
    cr_assert_eq(memcmp(&got.source_mac, &asking, sizeof(asking)), 0);
    length = gw_dpdk_neighbor_tell(&answering, &got, answer);
    cr_assert(length <= DPDK_NEIGHBOR_MAX);
    cr_assert_eq(memcmp(answer, &asking, sizeof(asking)), 0, "the answer goes to who asked");
    got = read_frame(answer, length, true);
    cr_assert_eq(got.kind, DPDK_FRAME_NEIGHBOR_TOLD);
    cr_assert(gw_dpdk_host_is_same(&got.source, &about));
    cr_assert_eq(memcmp(&got.source_mac, &answering, sizeof(answering)), 0);
}

Test(dpdk_headers, arp_is_asked_and_told)
{
    /* RFC 826: Ethernet, IPv4, 6 and 4 bytes, request; to everybody. */
    static const uint8_t head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0,
                                   9,    0x08, 0x06, 0,    1,    8,    0, 6, 4, 0, 1};
    uint8_t question[DPDK_NEIGHBOR_MAX], answer[DPDK_NEIGHBOR_MAX];

    ask_and_tell("192.0.2.1", "192.0.2.2", question, answer);
    cr_assert_eq(memcmp(question, head, sizeof(head)), 0);
    cr_assert_eq(answer[21], 2, "a reply");
}

Test(dpdk_headers, neighbour_discovery_is_asked_and_told)
{
    uint8_t question[DPDK_NEIGHBOR_MAX], answer[DPDK_NEIGHBOR_MAX], group[16];

    ask_and_tell("2001:db8::1", "2001:db8::1234:5678", question, answer);
    /* RFC 4291 section 2.7.1, RFC 2464 section 7. */
    cr_assert_eq(inet_pton(AF_INET6, "ff02::1:ff34:5678", group), 1);
    cr_assert_eq(memcmp(question + IP_AT + 24, group, 16), 0);
    cr_assert_eq(memcmp(question, "\x33\x33\xff\x34\x56\x78", 6), 0);
    cr_assert_eq(question[IP_AT + 7], 255);
    cr_assert_eq(check_ipv6(question + IP_AT, 58), 0);
    cr_assert_eq(check_ipv6(answer + IP_AT, 58), 0);
}

/* RFC 4861 section 7.1: who is not on this network cannot have a hop limit of 255. */
Test(dpdk_headers, neighbour_discovery_from_afar_is_refused)
{
    struct dpdk_host from = host("2001:db8::1"), about = host("2001:db8::2");
    uint8_t frame[DPDK_NEIGHBOR_MAX];
    uint32_t length = gw_dpdk_neighbor_ask(&asking, &from, &about, frame);

    frame[IP_AT + 7] = 254;
    cr_assert_eq(read_frame(frame, length, true).kind, DPDK_FRAME_OTHER);
    frame[IP_AT + 7] = 255;
    cr_assert_eq(read_frame(frame, length, true).kind, DPDK_FRAME_NEIGHBOR_ASKED);
    frame[IP_AT + 41] ^= 1; /* code */
    cr_assert_eq(read_frame(frame, length, true).kind, DPDK_FRAME_OTHER);
    frame[IP_AT + 41] ^= 1;
    frame[length - 1] ^= 1; /* the checksum covers the option */
    cr_assert_eq(read_frame(frame, length, true).kind, DPDK_FRAME_OTHER);
}

/* An option of no length would be read for ever; one that is cut off is not read. */
Test(dpdk_headers, faulty_options_are_not_read)
{
    static const uint8_t lengths[] = {0, 2, 255};
    struct dpdk_host from = host("2001:db8::1"), about = host("2001:db8::2");

    for (unsigned i = 0; i < sizeof(lengths); i++) {
        uint8_t frame[DPDK_NEIGHBOR_MAX], *icmp = frame + IP_AT + 40;
        uint32_t length = gw_dpdk_neighbor_ask(&asking, &from, &about, frame);
        static const struct dpdk_mac ethernet = {{2, 0, 0, 0, 0, 7}};
        struct dpdk_frame got;

        memcpy(frame + DPDK_MAC_SIZE, &ethernet, sizeof(ethernet));
        icmp[25] = lengths[i];
        gw_put_be16(icmp + 2, 0);
        gw_put_be16(icmp + 2, check_ipv6(frame + IP_AT, 58));
        got = read_frame(frame, length, true);
        cr_assert_eq(got.kind, DPDK_FRAME_NEIGHBOR_ASKED);
        cr_assert_eq(memcmp(&got.source_mac, &ethernet, sizeof(ethernet)), 0,
                     "without an option the frame's own sender counts");
    }
}

Test(dpdk_headers, addresses_there_and_back)
{
    static const char *const texts[] = {"192.0.2.1", "2001:db8::1"};

    for (unsigned i = 0; i < GW_ARRAY_LENGTH(texts); i++) {
        struct dpdk_host from = host(texts[i]), to;
        struct gw_address address;

        gw_dpdk_host_to_address(&from, 13560, &address);
        cr_assert_eq(gw_address_port(&address), 13560);
        gw_dpdk_host_of(&address, &to);
        cr_assert(gw_dpdk_host_is_same(&from, &to));
    }
}

Test(dpdk_headers, an_ipv4_address_in_ipv6_is_ipv4)
{
    struct gw_address address = {.length = sizeof(struct sockaddr_in6)};
    struct sockaddr_in6 *mapped = (struct sockaddr_in6 *)&address.storage;
    struct dpdk_host got, wanted = host("192.0.2.1");

    mapped->sin6_family = AF_INET6;
    cr_assert_eq(inet_pton(AF_INET6, "::ffff:192.0.2.1", &mapped->sin6_addr), 1);
    gw_dpdk_host_of(&address, &got);
    cr_assert(gw_dpdk_host_is_same(&got, &wanted));
}
