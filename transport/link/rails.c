/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses of two hosts lie on the same networks, by what getifaddrs knows of this one. */
#include "transport/link/rails.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#include "common/error.h"

static int list_interfaces(struct ifaddrs **out)
{
    return getifaddrs(out) == 0
               ? 0
               : gw_fail_errno(-errno, "cannot list this host's network interfaces");
}

/* The address bytes and their count; 0 for families without. */
static unsigned address_bytes(const struct sockaddr *address, uint8_t *out)
{
    if (address->sa_family == AF_INET) {
        memcpy(out, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
        return 4;
    }
    if (address->sa_family == AF_INET6) {
        memcpy(out, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
        return 16;
    }
    return 0;
}

static bool is_loopback(const struct sockaddr *address)
{
    uint8_t bytes[16] = {0};

    if (address_bytes(address, bytes) == 4)
        return bytes[0] == 127;
    return memcmp(bytes, &in6addr_loopback, 16) == 0;
}

static bool is_link_local(const struct sockaddr *address)
{
    uint8_t bytes[16] = {0};

    if (address_bytes(address, bytes) == 4)
        return bytes[0] == 169 && bytes[1] == 254;
    return bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80;
}

static bool is_usable(const struct ifaddrs *item)
{
    return item->ifa_addr && (item->ifa_flags & IFF_UP) && (item->ifa_flags & IFF_RUNNING) &&
           (item->ifa_addr->sa_family == AF_INET || item->ifa_addr->sa_family == AF_INET6);
}

static void to_address(const struct sockaddr *from, struct gw_address *out)
{
    memset(out, 0, sizeof(*out));
    out->length =
        from->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    memcpy(&out->storage, from, out->length);
    gw_address_set_port(out, 0);
}

static const struct sockaddr *plain(const struct gw_address *address)
{
    return (const struct sockaddr *)(const void *)&address->storage;
}

/* Both lie in one network by mask. */
static bool same_network(const struct sockaddr *a, const struct sockaddr *b,
                         const struct sockaddr *mask)
{
    uint8_t left[16], right[16], bits[16];
    unsigned count;

    if (a->sa_family != b->sa_family || !mask)
        return false;
    count = address_bytes(a, left);
    address_bytes(b, right);
    /* Some interfaces give a mask without its family. */
    if (mask->sa_family != a->sa_family || address_bytes(mask, bits) != count)
        return false;
    for (unsigned i = 0; i < count; i++)
        if ((left[i] & bits[i]) != (right[i] & bits[i]))
            return false;
    return count > 0;
}

static bool same_host(const struct sockaddr *a, const struct gw_address *b)
{
    struct gw_address address;

    to_address(a, &address);
    return gw_address_same_host(&address, b);
}

int gw_rails_local(const struct gw_address *primary, struct gw_address *out, unsigned max)
{
    bool wants_loopback = is_loopback(plain(primary));
    bool wants_link_local = is_link_local(plain(primary));
    struct ifaddrs *list;
    unsigned count = 0;
    int rc;

    if (max == 0)
        return 0;
    rc = list_interfaces(&list);
    if (rc)
        return rc;
    out[count] = *primary;
    gw_address_set_port(&out[count++], 0);
    for (struct ifaddrs *item = list; item && count < max; item = item->ifa_next) {
        bool known = false;

        if (!is_usable(item) || (is_loopback(item->ifa_addr) && !wants_loopback) ||
            (is_link_local(item->ifa_addr) && !wants_link_local))
            continue;
        for (unsigned i = 0; i < count; i++)
            known |= same_host(item->ifa_addr, &out[i]);
        if (!known)
            to_address(item->ifa_addr, &out[count++]);
    }
    freeifaddrs(list);
    return (int)count;
}

/* An address that this host has too names this host (a bridge that every host numbers alike),
 * unless the control session itself goes to this host. */
static bool is_own(const struct ifaddrs *list, const struct gw_address *address)
{
    for (; list; list = list->ifa_next)
        if (list->ifa_addr && same_host(list->ifa_addr, address))
            return true;
    return false;
}

static bool reaches(const struct ifaddrs *item, const struct gw_address *peer)
{
    if ((item->ifa_flags & IFF_POINTOPOINT) && item->ifa_dstaddr)
        return same_host(item->ifa_dstaddr, peer);
    return same_network(item->ifa_addr, plain(peer), item->ifa_netmask);
}

static bool interface_is_paired(const struct ifaddrs *list, const char *name,
                                const struct gw_rail *rails, unsigned count)
{
    for (; list; list = list->ifa_next)
        if (list->ifa_addr && strcmp(list->ifa_name, name) == 0)
            for (unsigned i = 0; i < count; i++)
                if (same_host(list->ifa_addr, &rails[i].local))
                    return true;
    return false;
}

static bool peer_is_paired(const struct gw_address *peer, const struct gw_rail *rails,
                           unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (gw_address_same_host(peer, &rails[i].peer))
            return true;
    return false;
}

struct search {
    const struct ifaddrs *list;
    const struct gw_address *peers;
    unsigned peer_count;
    bool allows_own;
};

/* The best of the peer's addresses for one local one: an unused one before a used one. */
static const struct gw_address *choose_peer(const struct search *search, const struct ifaddrs *item,
                                            const struct gw_rail *rails, unsigned count)
{
    const struct gw_address *best = NULL;

    for (unsigned i = 0; i < search->peer_count; i++) {
        const struct gw_address *peer = &search->peers[i];

        if (!reaches(item, peer) || (!search->allows_own && is_own(search->list, peer)))
            continue;
        if (!peer_is_paired(peer, rails, count))
            return peer;
        if (!best)
            best = peer;
    }
    return best;
}

int gw_rails_pair(const struct gw_rail *control, const struct gw_address *peers,
                  unsigned peer_count, struct gw_rail *out, unsigned max)
{
    struct search search = {.peers = peers, .peer_count = peer_count};
    unsigned count = 0;
    struct ifaddrs *list;
    int rc;

    if (max == 0)
        return 0;
    rc = list_interfaces(&list);
    if (rc)
        return rc;
    search.list = list;
    search.allows_own = is_own(list, &control->peer);
    out[count] = *control;
    gw_address_set_port(&out[count++].local, 0);
    for (const struct ifaddrs *item = list; item && count < max; item = item->ifa_next) {
        const struct gw_address *peer;

        if (!is_usable(item) || interface_is_paired(list, item->ifa_name, out, count))
            continue;
        peer = choose_peer(&search, item, out, count);
        if (!peer)
            continue;
        to_address(item->ifa_addr, &out[count].local);
        out[count].peer = *peer;
        if (gw_address_port(peer) == 0)
            gw_address_set_port(&out[count].peer, gw_address_port(&control->peer));
        count++;
    }
    freeifaddrs(list);
    return (int)count;
}
