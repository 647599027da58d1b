/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair: two ends of a link in one process, for tests. Makes keys and certificates in a folder of
 * its own, dials on the calling thread and admits on another.
 *
 * Errors: what is not under test aborts the test.
 * Threads: one test.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_TRANSPORT_LINK_PAIR_H
#define GODWIT_TESTS_TRANSPORT_LINK_PAIR_H

#include <pthread.h>

#include "common/error.h"
#include "transport/link/control.h"
#include "transport/link/seal.h"
#include "transport/transport.h"

#define PAIR_ALIVE_MS 60 /* between the signs of life of both ends */

enum { DIALLING = 0, ACCEPTING = 1 };

/* One end: what it is given, and how its establishment ended. */
struct end {
    struct gw_credentials *credentials;
    struct gw_network trusted[2];
    unsigned trusted_count;
    uint8_t instance_id[GW_ID_SIZE];
    struct gw_control *control;
    struct gw_error error; /* code 0: established */
};

struct pair {
    char folder[64];
    struct gw_transport *transport;
    struct gw_listener *listener;
    struct gw_address address;
    struct end ends[2];
    int timeout_ms;
};

/* A transport ("faulty" is tcp behind faulty.h), a listener and a folder; no credentials yet. */
void pair_init(struct pair *pair, const char *transport);
void pair_free(struct pair *pair);
/* Establishes both ends; each end's error tells how it went. */
void pair_connect(struct pair *pair);
/* As pair_connect with one fresh key for both, and both must succeed. */
void pair_open(struct pair *pair, const char *transport);

/* The path of a file in the pair's folder; valid until the next call but three. */
const char *pair_path(struct pair *pair, const char *name);
void pair_write_file(struct pair *pair, const char *name, const char *text, unsigned mode);

/* Makes the file NAME.psk with a fresh key called KEY_NAME, and loads it. */
void pair_make_psk(struct pair *pair, const char *file, const char *key_name);
struct gw_credentials *pair_load_psk(struct pair *pair, const char *file);

/* Makes NAME.crt and NAME.key. issuer NULL: self-signed. valid_days may be negative: expired then.
 */
void pair_make_certificate(struct pair *pair, const char *name, const char *issuer, int valid_days);
struct gw_credentials *pair_load_ca(struct pair *pair, const char *name, const char *ca);
struct gw_credentials *pair_load_pinned(struct pair *pair, const char *name,
                                        const char *const *peers, unsigned count);
/* SHA-256 of NAME.crt as hex with colons. */
void pair_fingerprint(struct pair *pair, const char *name, char out[96]);

/* One data channel: both seals and channels, joined unless the caller wants to do that. */
struct lane {
    struct gw_domain *domains[2];
    struct gw_poller *pollers[2];
    struct gw_channel *channels[2];
    struct gw_seal *seals[2];
    struct gw_error errors[2]; /* of dial and admit */
    struct pair *pair;
    pthread_t admission;
};
/* Domains and pollers only. */
void lane_prepare(struct pair *pair, struct lane *lane);
/* Admits the next request on a thread of its own. */
void lane_admit_start(struct lane *lane);
void lane_admit_finish(struct lane *lane);
/* number 0: the next. */
void lane_open(struct pair *pair, struct lane *lane, uint32_t number);
void lane_close(struct lane *lane);
/* Exchanges the proofs by hand. */
void lane_join(struct lane *lane);

/* The next request at the listener, which must come. */
struct gw_request *pair_next_request(struct pair *pair);

#define cr_words_contain(text, part)                                                               \
    cr_assert(strstr((text), (part)) != NULL, "expected \"%s\" in \"%s\"", (part), (text))

/* One body, a test on each back end. */
#define ON_EACH_TRANSPORT(suite, name)                                                             \
    static void suite##_##name(const char *transport);                                             \
    Test(suite, name##_on_loop)                                                                    \
    {                                                                                              \
        suite##_##name("loop");                                                                    \
    }                                                                                              \
    Test(suite, name##_on_tcp)                                                                     \
    {                                                                                              \
        suite##_##name("tcp");                                                                     \
    }                                                                                              \
    static void suite##_##name(const char *transport)

#endif
