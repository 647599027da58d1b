/* SPDX-License-Identifier: Apache-2.0 */
/* The options of [dpdk], checked before DPDK sees any of them: what it does not like ends a process
 * in its own words. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/dpdk/dpdk.h"

#define MTU_MIN 1280u /* IPv6's, and enough for the shortest datagram of the protocol */
#define MTU_MAX 9216u

static int read_number(const struct gw_transport_options *options, const char *name, unsigned min,
                       unsigned max, unsigned *out)
{
    const char *text = gw_transport_option(options, name);
    unsigned long number;
    char *rest;

    if (!text)
        return 0;
    errno = 0;
    number = strtoul(text, &rest, 10);
    if (errno || *rest || *text < '0' || *text > '9' || number < min || number > max)
        return gw_fail(-EINVAL, "dpdk: %s = '%.32s' is not a number from %u to %u", name, text, min,
                       max);
    *out = (unsigned)number;
    return 0;
}

static int add_local(struct dpdk_settings *settings, const char *text)
{
    struct dpdk_local *local = &settings->locals[settings->local_count];
    struct gw_network network;
    struct gw_address address;
    char host[GW_ADDRESS_TEXT_MAX];
    int error;

    if (settings->local_count == DPDK_LOCALS_MAX)
        return gw_fail(-EINVAL, "dpdk: more than %u addresses", DPDK_LOCALS_MAX);
    snprintf(host, sizeof(host), "%s", text);
    if (!strchr(host, '/'))
        return gw_fail(-EINVAL,
                       "dpdk: address = '%.48s' has no prefix: write it as 192.0.2.1/24, with the "
                       "network that is reached without a gateway",
                       text);
    *strchr(host, '/') = '\0';
    /* The network takes no bits beyond its mask; the address is the whole one. */
    error = gw_address_parse(host, 0, &address);
    if (error)
        return error;
    gw_dpdk_host_of(&address, &local->host);
    local->prefix_bits = (unsigned)strtoul(strchr(text, '/') + 1, NULL, 10);
    snprintf(host, sizeof(host), "%s/%u", local->host.is_ipv6 ? "::" : "0.0.0.0",
             local->prefix_bits);
    error = gw_network_parse(host, &network);
    if (error)
        return gw_fail(-EINVAL, "dpdk: address = '%.48s': the prefix makes no sense", text);
    settings->local_count++;
    return 0;
}

static int add_gateway(struct dpdk_settings *settings, const char *text)
{
    struct gw_address address;
    struct dpdk_host host;
    int error = gw_address_parse(text, 0, &address);

    if (error)
        return error;
    gw_dpdk_host_of(&address, &host);
    settings->gateways[host.is_ipv6] = host;
    settings->has_gateway[host.is_ipv6] = true;
    return 0;
}

/* Each of a list with commas. */
static int read_each(const struct gw_transport_options *options, const char *name,
                     int (*take)(struct dpdk_settings *settings, const char *text),
                     struct dpdk_settings *settings)
{
    const char *value = gw_transport_option(options, name);
    char *copy = value ? strdup(value) : NULL, *rest = copy, *word;
    int error = value && !copy ? gw_fail(-ENOMEM, "dpdk: out of memory") : 0;

    while (!error && (word = strsep(&rest, ", ")))
        if (*word)
            error = take(settings, word);
    free(copy);
    return error;
}

int gw_dpdk_settings_read(const struct gw_transport_options *options, struct dpdk_settings *out)
{
    static const char *const known[] = {"devargs", "address", "gateway", "mtu",
                                        "queues",  "memory",  NULL};
    const char *devargs = gw_transport_option(options, "devargs");
    int error = gw_transport_check_options(options, "dpdk", known);

    memset(out, 0, sizeof(*out));
    if (!error && (!devargs || strlen(devargs) >= sizeof(out->devargs) / 2 || strchr(devargs, ' ')))
        error = gw_fail(-EINVAL,
                        "dpdk: devargs = '%.48s' names no device: a PCI address such as "
                        "0000:3b:00.0, or a virtual one such as net_af_packet0,iface=eth1",
                        devargs ? devargs : "");
    if (error)
        return error;
    snprintf(out->devargs, sizeof(out->devargs), "%s", devargs);
    error = read_number(options, "mtu", MTU_MIN, MTU_MAX, &out->mtu);
    if (!error)
        error = read_number(options, "queues", 1, DPDK_QUEUES_MAX, &out->queues);
    if (!error)
        error = read_number(options, "memory", 64, 16384, &out->memory_mib);
    if (!error)
        error = read_each(options, "address", add_local, out);
    if (!error)
        error = read_each(options, "gateway", add_gateway, out);
    return error;
}

bool gw_dpdk_devargs_get(const char *devargs, const char *name, char *out, size_t size)
{
    size_t length = strlen(name);
    const char *at = devargs;

    while ((at = strchr(at, ',')) != NULL) {
        at++;
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            snprintf(out, size, "%.*s", (int)strcspn(at + length + 1, ","), at + length + 1);
            return true;
        }
    }
    return false;
}

int gw_dpdk_settings_complete(struct dpdk_settings *settings, unsigned mtu)
{
    size_t length = strlen(settings->devargs), room = sizeof(settings->devargs) - length;
    char text[32];
    const char *frames;

    /* Its frames must hold the MTU and the kernel's own header: shorter ones are dropped in silence,
     * blocks must be whole pages. */
    if (strncmp(settings->devargs, "net_af_packet", 13) != 0 ||
        gw_dpdk_devargs_get(settings->devargs, "framesz", text, sizeof(text)))
        return 0;
    frames = mtu > 1800 ? ",framesz=10240,blocksz=40960,framecnt=1024"
                        : ",framesz=2048,blocksz=65536,framecnt=4096";
    return snprintf(settings->devargs + length, room, "%s", frames) < (int)room
               ? 0
               : gw_fail(-EINVAL, "dpdk: devargs are too long");
}
