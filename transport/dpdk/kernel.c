/* SPDX-License-Identifier: Apache-2.0 */
/* What is taken from the kernel where it has the same interface: MTU, addresses, gateways, and the
 * UDP ports that it shall leave alone. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/dpdk/dpdk.h"

#define ROUTE_GATEWAY 0x2u /* RTF_GATEWAY */

int gw_dpdk_kernel_mtu(const char *interface, unsigned *out)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};
    int error = 0;

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
    if (fd < 0)
        return gw_fail_errno(-errno, "dpdk: socket");
    if (strlen(interface) >= sizeof(request.ifr_name) || ioctl(fd, SIOCGIFMTU, &request) != 0)
        error = gw_fail(-ENODEV, "dpdk: this host has no interface %s", interface);
    close(fd);
    if (!error)
        *out = (unsigned)request.ifr_mtu;
    return error;
}

bool gw_dpdk_kernel_look(unsigned index, bool *has_link)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};
    bool is_there = true;

    if (fd < 0)
        return true;
    if (!if_indextoname(index, request.ifr_name))
        is_there = errno != ENXIO;
    else if (ioctl(fd, SIOCGIFFLAGS, &request) == 0)
        *has_link = request.ifr_flags & IFF_RUNNING;
    close(fd);
    return is_there;
}

static unsigned count_bits(const struct sockaddr *mask, bool is_ipv6)
{
    const uint8_t *bytes = is_ipv6
                               ? (const uint8_t *)&((const struct sockaddr_in6 *)mask)->sin6_addr
                               : (const uint8_t *)&((const struct sockaddr_in *)mask)->sin_addr;
    unsigned bits = 0;

    for (unsigned i = 0; i < (is_ipv6 ? 16u : 4u); i++)
        bits += (unsigned)__builtin_popcount(bytes[i]);
    return bits;
}

static void add_address(const struct ifaddrs *item, struct dpdk_settings *settings)
{
    struct dpdk_local *local = &settings->locals[settings->local_count];
    bool is_ipv6 = item->ifa_addr->sa_family == AF_INET6;
    struct gw_address address = {0};

    memcpy(&address.storage, item->ifa_addr,
           is_ipv6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
    gw_dpdk_host_of(&address, &local->host);
    local->prefix_bits = count_bits(item->ifa_netmask, is_ipv6);
    /* Link-local addresses need a scope, which no peer can tell. */
    if (!is_ipv6 || local->host.bytes[0] != 0xfe || (local->host.bytes[1] & 0xc0) != 0x80)
        settings->local_count++;
}

/* /proc/net/route: interface, destination, gateway, flags, ..., each a line; hex in memory order. */
static void find_ipv4_gateway(const char *interface, struct dpdk_settings *settings)
{
    FILE *file = fopen("/proc/net/route", "re");
    unsigned target, gateway, flags;
    char line[256], name[IF_NAMESIZE];

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "%15s %x %x %x", name, &target, &gateway, &flags) == 4 && target == 0 &&
            flags & ROUTE_GATEWAY && strcmp(name, interface) == 0) {
            settings->gateways[0] = (struct dpdk_host){.is_ipv6 = false};
            memcpy(settings->gateways[0].bytes, &gateway, 4);
            settings->has_gateway[0] = true;
        }
    if (file)
        fclose(file);
}

/* /proc/net/ipv6_route: destination, its prefix, source, its prefix, next hop, metric, references,
 * uses, flags, interface. */
static void find_ipv6_gateway(const char *interface, struct dpdk_settings *settings)
{
    FILE *file = fopen("/proc/net/ipv6_route", "re");
    char line[256], target[33], hop[33], name[IF_NAMESIZE];
    unsigned bits, flags;

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%32s %x %*s %*x %32s %*x %*x %*x %x %15s", target, &bits, hop, &flags,
                   name) != 5 ||
            bits != 0 || !(flags & ROUTE_GATEWAY) || strcmp(name, interface) != 0)
            continue;
        settings->gateways[1] = (struct dpdk_host){.is_ipv6 = true};
        for (unsigned i = 0; i < 16; i++)
            sscanf(hop + 2 * i, "%2hhx", &settings->gateways[1].bytes[i]);
        settings->has_gateway[1] = true;
    }
    if (file)
        fclose(file);
}

int gw_dpdk_kernel_addresses(const char *interface, struct dpdk_settings *settings)
{
    bool takes_addresses = settings->local_count == 0;
    struct ifaddrs *list;

    if (getifaddrs(&list) != 0)
        return gw_fail_errno(-errno, "dpdk: addresses of %s", interface);
    for (const struct ifaddrs *item = list; item && takes_addresses; item = item->ifa_next)
        if (item->ifa_addr && item->ifa_netmask && strcmp(item->ifa_name, interface) == 0 &&
            settings->local_count < DPDK_LOCALS_MAX &&
            (item->ifa_addr->sa_family == AF_INET || item->ifa_addr->sa_family == AF_INET6))
            add_address(item, settings);
    freeifaddrs(list);
    if (!settings->has_gateway[0])
        find_ipv4_gateway(interface, settings);
    if (!settings->has_gateway[1])
        find_ipv6_gateway(interface, settings);
    return 0;
}

int gw_dpdk_kernel_reserve(const struct dpdk_host *host, uint16_t *port, int *fd)
{
    /* Whatever arrives is dropped at once: NICs that the kernel shares give it a copy. */
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {.len = 1, .filter = &drop};
    struct gw_address address;
    char text[GW_ADDRESS_TEXT_MAX];
    int socket_fd =
        socket(host->is_ipv6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (socket_fd < 0)
        return gw_fail_errno(-errno, "dpdk: socket");
    gw_dpdk_host_to_address(host, *port, &address);
    if (setsockopt(socket_fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0 ||
        bind(socket_fd, (struct sockaddr *)&address.storage, address.length) != 0) {
        int error = -errno;

        close(socket_fd);
        /* An address that it does not have: it hears nothing of it, and answers nothing. */
        if (error == -EADDRNOTAVAIL)
            return 0;
        return gw_fail_errno(error, "dpdk: UDP %s",
                             gw_address_format(&address, text, sizeof(text)));
    }
    getsockname(socket_fd, (struct sockaddr *)&address.storage, &address.length);
    *port = (uint16_t)gw_address_port(&address);
    *fd = socket_fd;
    return 0;
}
