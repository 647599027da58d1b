/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A few connections to one NBD export on a UNIX socket, which several threads use at once: each
 * request takes a connection of its own for as long as it runs. Private to engine/volume.
 *
 * Errors: -errno with a message that begins with the volume's name; -ETIMEDOUT when the server
 *   does not answer within GW_NBD_TIMEOUT_S. A connection that failed is not used again; with the
 *   last one every request is -EIO.
 * Threads: open and close by one, while no request runs; requests by any.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_NBD_CLIENT_H
#define GODWIT_ENGINE_VOLUME_NBD_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/volume/extent.h"
#include "engine/volume/volume.h"

#define GW_NBD_CONNECTIONS 4u
#define GW_NBD_TIMEOUT_S   60u
#define GW_NBD_STATUS_MAX  (1ull << 30) /* of one question about allocation */

struct gw_nbd_client;

struct gw_nbd_client_options {
    const char *name;    /* of the volume, for messages */
    const char *socket;  /* its file may go once open has returned */
    const char *export;  /* "" for the default one */
    bool has_allocation; /* asks for base:allocation; -ENOTSUP when the server has none */
    /* Waits this long for a server that is only starting; ends early when pid_fd (or -1) says that
     * its process has ended. */
    int start_ms, pid_fd;
};

int gw_nbd_client_open(const struct gw_nbd_client_options *options, struct gw_nbd_client **out);
/* Says goodbye on every connection. Takes NULL. */
void gw_nbd_client_close(struct gw_nbd_client *client);
uint64_t gw_nbd_client_size(const struct gw_nbd_client *client);

int gw_nbd_client_read(struct gw_nbd_client *client, uint64_t offset, void *into, uint64_t length);
int gw_nbd_client_write(struct gw_nbd_client *client, uint64_t offset, const void *from,
                        uint64_t length);
int gw_nbd_client_zero(struct gw_nbd_client *client, uint64_t offset, uint64_t length);
int gw_nbd_client_flush(struct gw_nbd_client *client);
/* Tells each run of the range from offset on, in order, by base:allocation. The server may stop
 * short of length, but tells at least one run. */
int gw_nbd_client_status(struct gw_nbd_client *client, uint64_t offset, uint64_t length,
                         void (*each)(void *context, const struct gw_extent *run), void *context);

#endif
