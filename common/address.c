/* SPDX-License-Identifier: Apache-2.0 */
/* Parses, prints and compares IPv4 and IPv6 addresses. IPv4 written as IPv6 (::ffff:a.b.c.d) counts
 * as IPv4, so that a dual-stack listener trusts the same networks. */
#include "common/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

static int split_host_port(const char *text, unsigned default_port, char *host, size_t size,
                           unsigned *port)
{
    const char *colon = strrchr(text, ':');
    const char *end = text + strlen(text);
    const char *begin = text;

    *port = default_port;
    if (text[0] == '[') {
        const char *close = strchr(text, ']');

        if (!close || (close[1] && close[1] != ':'))
            return gw_fail(-EINVAL, "address '%s': expected [ADDRESS]:PORT", text);
        colon = close[1] == ':' ? close + 1 : NULL;
        begin++;
        end = close;
    } else if (colon && strchr(text, ':') != colon) {
        colon = NULL; /* a bare IPv6 address */
    } else if (colon) {
        end = colon;
    }
    if (colon) {
        char *rest;
        unsigned long value = strtoul(colon + 1, &rest, 10);

        if (*rest || rest == colon + 1 || value > 65535)
            return gw_fail(-EINVAL, "address '%s': '%s' is not a port", text, colon + 1);
        *port = (unsigned)value;
    }
    if (end == begin || (size_t)(end - begin) >= size)
        return gw_fail(-EINVAL, "address '%s' has no host or one that is too long", text);
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    return 0;
}

int gw_address_parse(const char *text, unsigned default_port, struct gw_address *out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    char host[256], service[16];
    unsigned port;
    int error = split_host_port(text, default_port, host, sizeof(host), &port);

    if (error)
        return error;
    snprintf(service, sizeof(service), "%u", port);
    error = getaddrinfo(host, service, &hints, &found);
    if (error)
        return gw_fail(-ENOENT, "host '%s': %s", host, gai_strerror(error));
    memset(out, 0, sizeof(*out));
    memcpy(&out->storage, found->ai_addr, found->ai_addrlen);
    out->length = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* The address's family and bytes, with IPv4-mapped IPv6 unwrapped. */
static int raw_bytes(const struct gw_address *address, const unsigned char **bytes)
{
    if (address->storage.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address->storage;

        *bytes = v6->sin6_addr.s6_addr;
        if (!IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
            return AF_INET6;
        *bytes += 12;
        return AF_INET;
    }
    *bytes = (const unsigned char *)&((const struct sockaddr_in *)&address->storage)->sin_addr;
    return address->storage.ss_family;
}

const char *gw_address_format(const struct gw_address *address, char *buffer, size_t size)
{
    const unsigned char *bytes;
    char host[INET6_ADDRSTRLEN] = "?";
    int family = raw_bytes(address, &bytes);

    if (family == AF_INET || family == AF_INET6)
        inet_ntop(family, bytes, host, sizeof(host));
    snprintf(buffer, size, family == AF_INET6 ? "[%s]:%u" : "%s:%u", host,
             gw_address_port(address));
    return buffer;
}

unsigned gw_address_port(const struct gw_address *address)
{
    if (address->storage.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&address->storage)->sin6_port);
    return ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
}

void gw_address_set_port(struct gw_address *address, unsigned port)
{
    if (address->storage.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&address->storage)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)&address->storage)->sin_port = htons((uint16_t)port);
}

void gw_address_unmap(struct gw_address *address)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    const unsigned char *bytes;

    if (address->storage.ss_family != AF_INET6 || raw_bytes(address, &bytes) != AF_INET)
        return;
    memcpy(&v4.sin_addr, bytes, sizeof(v4.sin_addr));
    v4.sin_port = ((const struct sockaddr_in6 *)&address->storage)->sin6_port;
    memset(&address->storage, 0, sizeof(address->storage));
    memcpy(&address->storage, &v4, sizeof(v4));
    address->length = sizeof(v4);
}

bool gw_address_is_any(const struct gw_address *address)
{
    static const unsigned char any[16];
    const unsigned char *bytes;
    int family = raw_bytes(address, &bytes);

    return memcmp(bytes, any, family == AF_INET ? 4 : 16) == 0;
}

bool gw_address_same_host(const struct gw_address *a, const struct gw_address *b)
{
    const unsigned char *a_bytes, *b_bytes;
    int family = raw_bytes(a, &a_bytes);

    return family == raw_bytes(b, &b_bytes) &&
           memcmp(a_bytes, b_bytes, family == AF_INET ? 4 : 16) == 0;
}

int gw_network_parse(const char *text, struct gw_network *out)
{
    char host[64];
    const char *slash = strchr(text, '/');
    size_t length = slash ? (size_t)(slash - text) : strlen(text);
    unsigned long prefix;
    char *rest;

    if (length >= sizeof(host))
        return gw_fail(-EINVAL, "network '%s' is not an address with a mask", text);
    memcpy(host, text, length);
    host[length] = '\0';
    memset(out, 0, sizeof(*out));
    out->family = strchr(host, ':') ? AF_INET6 : AF_INET;
    out->prefix_bits = out->family == AF_INET ? 32 : 128;
    if (inet_pton(out->family, host, out->bytes) != 1)
        return gw_fail(-EINVAL, "network '%s': expected something like 192.0.2.0/24", text);
    if (!slash)
        return 0;
    prefix = strtoul(slash + 1, &rest, 10);
    if (*rest || rest == slash + 1 || prefix > out->prefix_bits)
        return gw_fail(-EINVAL, "network '%s': '%s' is not a prefix length", text, slash + 1);
    out->prefix_bits = (unsigned)prefix;
    return 0;
}

bool gw_network_contains(const struct gw_network *network, const struct gw_address *address)
{
    const unsigned char *bytes;

    if (raw_bytes(address, &bytes) != network->family)
        return false;
    for (unsigned bit = 0; bit < network->prefix_bits; bit++)
        if ((bytes[bit / 8] ^ network->bytes[bit / 8]) >> (7 - bit % 8) & 1)
            return false;
    return true;
}
