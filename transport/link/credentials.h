/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credentials: how this host proves who it is and whom it believes. A pre-shared key file, or a
 * certificate with its key and either a CA or pinned peer fingerprints.
 *
 * A pre-shared key file holds lines of comment (#) and "NAME:KEY" lines, KEY being 64 hex digits.
 * This host dials with the first; a peer that dials may hold any of them, and is then called by
 * its NAME.
 *
 * Errors: -EINVAL and the errno of the file, with a message that names the file. -EACCES: a
 *   private key that everybody may read, or a pre-shared key file that everybody may write. A
 *   pre-shared key file that others may read is logged as a warning and used: a shell's ">" makes
 *   such files.
 * Threads: read-only once loaded.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_LINK_CREDENTIALS_H
#define GODWIT_TRANSPORT_LINK_CREDENTIALS_H

#include <stdio.h>

#define GW_PSK_NAME_MAX    64u /* terminator included */
#define GW_PSK_MAX         64u /* keys in one file */
#define GW_FINGERPRINT_MAX 64u /* pinned peers */

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

/* Writes a new key file: a line of comment, and "NAME:KEY" with 32 random bytes. NAME is letters,
 * digits and "._@-" (-EINVAL). When out is a regular file, what group and others may do with it is
 * taken away first. */
int gw_psk_write(const char *name, FILE *out);

#endif
