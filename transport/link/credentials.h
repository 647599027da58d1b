/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credentials: how this host proves who it is and whom it believes. A pre-shared key file, or a
 * certificate with its key and either a CA or pinned peer fingerprints.
 *
 * Errors: -EINVAL and the errno of the file, with a message that names the file. A key file that
 * others may read is refused (-EACCES). Threads: read-only once loaded. Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_LINK_CREDENTIALS_H
#define GODWIT_TRANSPORT_LINK_CREDENTIALS_H

#include <stdio.h>

struct gw_credentials;

struct gw_credentials_options {
    const char *psk_path; /* alone */
    const char *certificate_path, *key_path;
    const char *ca_path; /* or: */
    const char *const
        *fingerprints; /* SHA-256 of the peer's certificate, hex with or without colons */
    unsigned fingerprint_count;
};

int gw_credentials_load(const struct gw_credentials_options *options, struct gw_credentials **out);
void gw_credentials_free(struct gw_credentials *credentials); /* wipes; takes NULL */

/* Writes a new key file: a line of comment, and "NAME:HEX" with 32 random bytes. */
int gw_psk_write(const char *name, FILE *out);

#endif
