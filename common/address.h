/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network addresses and networks as people write them.
 * Errors: -EINVAL with a message that quotes the text; -ENOENT when a name does not resolve.
 * Threads: any; resolving a name may block.
 * Units: masks in bits.
 */
#ifndef GODWIT_COMMON_ADDRESS_H
#define GODWIT_COMMON_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define GW_DEFAULT_PORT     13560
#define GW_ADDRESS_TEXT_MAX 80

struct gw_address {
    struct sockaddr_storage storage;
    socklen_t length;
};

/* A network such as 192.0.2.0/24 or 2001:db8::/32; without a mask, one address. */
struct gw_network {
    int family;
    unsigned char bytes[16];
    unsigned prefix_bits;
};

/* HOST, HOST:PORT or [IPV6]:PORT; names are resolved (first answer). default_port where none is
 * given. */
int gw_address_parse(const char *text, unsigned default_port, struct gw_address *out);
/* Writes ADDRESS:PORT, always terminated, and returns buffer. */
const char *gw_address_format(const struct gw_address *address, char *buffer, size_t size);
unsigned gw_address_port(const struct gw_address *address);
void gw_address_set_port(struct gw_address *address, unsigned port);
/* IPv4 written as IPv6 (::ffff:a.b.c.d), which is how a listener at [::] names its peers, becomes IPv4. */
void gw_address_unmap(struct gw_address *address);
/* 0.0.0.0 or [::]: every address of the host. */
bool gw_address_is_any(const struct gw_address *address);
bool gw_address_same_host(const struct gw_address *a, const struct gw_address *b);

int gw_network_parse(const char *text, struct gw_network *out);
bool gw_network_contains(const struct gw_network *network, const struct gw_address *address);

#endif
