/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A few connections to one NBD export, which several threads use at once: each request takes a
 * connection of its own for as long as it runs; one connection only, where the server does not say
 * that several see the same bytes (NBD_FLAG_CAN_MULTI_CONN). Private to engine/volume.
 *
 * Errors: -errno with a message that begins with the volume's name; -ETIMEDOUT when the server
 *   does not answer within GW_NBD_TIMEOUT_S; a flush is waited for as long as the connection lives
 *   (a host that is gone is noticed within that time), GW_NBD_WAIT_MAX_S at most. A connection that failed is not used again; with the
 *   last one every request is -EIO. -ENOTSUP when the server's limits do not suit.
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
#define GW_NBD_REQUEST_MAX (256u << 10) /* of a read or a write: what every server must take */
#define GW_NBD_SECTOR_MAX  4096u /* requests are aligned to it, but for the end of the disk */

/* A wait for what takes as long as there is something left to be written, or to be looked at: the log says that one
 * waits. As long as a source waits for its target's answer, and no longer. */
#define GW_NBD_WAIT_MAX_S 3600u
struct gw_nbd_wait {
    const char *name, *what; /* the volume; what is waited for, in words */
    struct gw_wanted wanted;
    unsigned limit_s;  /* 0: GW_NBD_WAIT_MAX_S */
    uint64_t began_ns; /* of gw_nbd_wait_on; zero at first */
    bool is_told;
};

/* To be called each GW_NBD_WAIT_MS. -ETIMEDOUT; or why it is not wanted any more. */
#define GW_NBD_WAIT_MS 500
int gw_nbd_wait_on(struct gw_nbd_wait *wait);

struct gw_nbd_client;

struct gw_nbd_client_options {
    const char *name; /* of the volume, for messages */
    /* Either where somebody's server is (nbd://, nbds://, nbd+unix://; see nbd_connect_uri(3)), or
     * the UNIX socket of one that we started, whose file may go once open has returned. */
    const char *uri;
    const char *socket;
    const char *export;  /* of socket; "" for the default one */
    bool has_allocation; /* base:allocation must be there: -ENOTSUP */
    bool is_writer;      /* -EROFS when the server does not let us */
    /* Waits this long for a server that is only starting; ends early when pid_fd (or -1) says that
     * its process has ended. */
    int start_ms, pid_fd;
};

int gw_nbd_client_open(const struct gw_nbd_client_options *options, struct gw_nbd_client **out);
/* Says goodbye on every connection. Takes NULL. */
void gw_nbd_client_close(struct gw_nbd_client *client);
uint64_t gw_nbd_client_size(const struct gw_nbd_client *client);
/* Can it be asked for the status? */
bool gw_nbd_client_has_allocation(const struct gw_nbd_client *client);

int gw_nbd_client_read(struct gw_nbd_client *client, uint64_t offset, void *into, uint64_t length);
int gw_nbd_client_write(struct gw_nbd_client *client, uint64_t offset, const void *from,
                        uint64_t length);
/* False: what the server holds, its host may still lose after a flush, which does nothing then. */
bool gw_nbd_client_can_flush(const struct gw_nbd_client *client);
/* Writes zeroes where the server has no command for it. */
int gw_nbd_client_zero(struct gw_nbd_client *client, uint64_t offset, uint64_t length);
/* When it is not wanted any more the connection is given up. */
int gw_nbd_client_flush(struct gw_nbd_client *client, struct gw_wanted wanted);
/* Tells each run of the range from offset on, in order, by base:allocation. The server may stop
 * short of length, but tells at least one run. */
int gw_nbd_client_status(struct gw_nbd_client *client, uint64_t offset, uint64_t length,
                         void (*each)(void *context, const struct gw_extent *run), void *context);

#endif
