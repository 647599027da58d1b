/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy: copies a disk image that nobody uses (raw, block device, VHDX), on this host or to one
 * where a godwit agent listens. What godwit copy does, for other programs. Link with libgodwit.
 *
 * Errors: 0, or a negative errno; gw_error_message() (godwit/error.h) says why. An existing target
 *   is never overwritten; what fails leaves nothing behind.
 * Order: any number of copies, also at once.
 * Threads: blocks the caller; progress is called on the caller's thread.
 * Units: bytes, seconds.
 */
#ifndef GODWIT_COPY_H
#define GODWIT_COPY_H

#include <stdbool.h>
#include <stdint.h>

#include <godwit/error.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gw_copy_status {
    uint64_t bytes_total, bytes_done; /* data that is there, and what of it was copied */
    uint64_t bytes_sent, bytes_zero;  /* over the network; known to be zero */
    uint64_t rate;                    /* bytes per second */
    double elapsed_seconds;
};

/* Set all of it to zero first, then what is wanted. Everything is lent for the call. */
struct gw_copy_options {
    const char *source; /* path of the image */
    const char *host;   /* HOST or HOST:PORT with an agent; NULL copies on this host */
    const char *target; /* path; with a host, beneath its agent's storage (NULL keeps the name) */
    const char *format; /* "raw" or "vhdx"; NULL: as the source */
    bool is_fixed;      /* all of the target is allocated beforehand */
    bool verify;
    const char *psk; /* key file; needed with a host */
    const char *const
        *trusted_networks; /* where data may travel clear: "192.0.2.0/24", ...; NULL-ended */
    unsigned channels;     /* 0: godwit's choice */
    /* About five times a second; not 0 cancels. May be NULL. */
    int (*progress)(const struct gw_copy_status *status, void *context);
    void *context;
};

/* -ECANCELED when progress said so. */
int gw_copy(const struct gw_copy_options *options);

#ifdef __cplusplus
}
#endif

#endif
