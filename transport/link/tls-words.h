/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls-words: what an error of OpenSSL means to a person who set up godwit, and what to look at.
 * Threads: any.
 * Errors: -EACCES (somebody was refused) or -EPROTO, with the message set.
 */
#ifndef GODWIT_TRANSPORT_LINK_TLS_WORDS_H
#define GODWIT_TRANSPORT_LINK_TLS_WORDS_H

#include <stdbool.h>

struct gw_words_context {
    bool is_psk;      /* this side uses a pre-shared key */
    bool is_dialling; /* this side dialled */
    const char *psk_name;
    const char *own_fingerprint;
};

/* error is from OpenSSL's queue. The messages begin "the peer". */
int gw_words_explain(unsigned long error, const struct gw_words_context *context);

#endif
