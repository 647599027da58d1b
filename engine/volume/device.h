/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device: whether a block device holds what it held, without reading it. A name, and a number, may be another
 * device's later, and what was written to it somebody else's; so a mark says which device it is (its kernel's boot, its
 * sequence number), and how much was ever written to it.
 *
 * Errors: 0 or -errno with a message that names the device.
 * Threads: any.
 * Units: sectors of 512 bytes, within the mark.
 */
#ifndef GODWIT_ENGINE_VOLUME_DEVICE_H
#define GODWIT_ENGINE_VOLUME_DEVICE_H

#define GW_DEVICE_MARK_MAX 128u

/* Tells its mark, which stays the same as long as nobody writes to it. Never the same after the host was started anew.
 * Whoever wrote to it has synced it. -ENOTSUP where the kernel does not tell (before Linux 5.15), or does not count
 * (queue/iostats). */
int gw_device_mark(const char *path, char out[GW_DEVICE_MARK_MAX]);
/* -ESTALE: it is another device, or somebody has written to it since, or may have. */
int gw_device_check(const char *path, const char *mark);

#endif
