/* SPDX-License-Identifier: Apache-2.0 */
/* A tap interface in a bridge, for the target's QEMU. It goes away with its last descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/vmm/qemu/launch.h"

#ifndef SIOCBRADDIF
#define SIOCBRADDIF 0x89a2 /* linux/sockios.h */
#endif

static int into_bridge(const char *bridge, const char *interface)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret = 0;

    if (fd < 0)
        return gw_fail_errno(-errno, "socket");
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
    request.ifr_ifindex = (int)if_nametoindex(interface);
    if (ioctl(fd, SIOCBRADDIF, &request) < 0)
        ret = gw_fail_errno(-errno, "adding the tap %s to the bridge %s", interface, bridge);
    memset(&request, 0, sizeof(request));
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
    if (ret == 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
        request.ifr_flags |= IFF_UP;
        if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
            ret = gw_fail_errno(-errno, "bringing the tap %s up", interface);
    }
    close(fd);
    return ret;
}

int gw_tap_open(const char *bridge, int *fd)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int opened, ret;

    if (if_nametoindex(bridge) == 0)
        return gw_fail(-ENODEV,
                       "this host has no bridge %s; make it, or name another with --net %s=BRIDGE",
                       bridge, bridge);
    opened = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (opened < 0)
        return gw_fail_errno(-errno, "a tap for the bridge %s: /dev/net/tun", bridge);
    memcpy(request.ifr_name, "gwtap%d", sizeof("gwtap%d"));
    if (ioctl(opened, TUNSETIFF, &request) < 0) {
        ret = gw_fail_errno(-errno, "a tap for the bridge %s", bridge);
        close(opened);
        return ret;
    }
    ret = into_bridge(bridge, request.ifr_name);
    if (ret < 0) {
        close(opened);
        return ret;
    }
    *fd = opened;
    return 0;
}
