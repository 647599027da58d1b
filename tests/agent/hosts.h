/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hosts: two hosts in one process: the far one admits peers as an agent does (its own sessions and
 * jobs), the near one copies an image to it. Two transports lie between them, both wrapped by
 * faulty: loop, which is preferred, and tcp. What fails here aborts the test.
 * Threads: the test's, the copy's, and the far host's.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_AGENT_HOSTS_H
#define GODWIT_TESTS_AGENT_HOSTS_H

#include "agent/sessions.h"
#include "tests/transport/faulty.h"

#define HOSTS_WAIT_MS 60000

struct hosts {
    char folder[64], image[96], storage[96], arrived[128];
    struct gw_credentials *credentials;
    struct gw_transport *loop, *tcp; /* faulty ones */
    struct gw_environment near, far;
    struct gw_history *history;
    struct gw_jobs *jobs;
    struct gw_sessions *sessions;
    struct gw_address address;
    struct gw_copy_request request;
    struct gw_progress progress;
    struct gw_outcome outcome;
    struct gw_error error;
    pthread_t thread;
    int result;
};

/* The image has size bytes that differ from place to place. */
void hosts_open(struct hosts *hosts, uint64_t size);
void hosts_close(struct hosts *hosts);
/* Forgets a copy that has ended, and takes it away, for another. */
void hosts_clear(struct hosts *hosts);
/* The copy, on a thread of its own. */
void hosts_start_copy(struct hosts *hosts);
/* Waits until some of the image has been copied. */
void hosts_wait_half_way(struct hosts *hosts);
int hosts_end_copy(struct hosts *hosts);
/* As hosts_end_copy: it went well, over that transport, and the bytes are the same. Prints why not. */
bool hosts_end_well(struct hosts *hosts, const char *transport);
/* What the result says of the transport that was used, and of why one was passed over; "" for none. */
const char *hosts_transport(const struct hosts *hosts);
const char *hosts_reason(const struct hosts *hosts, const char *name);
void hosts_wait_for_note(struct hosts *hosts, const char *word);
/* The copy on the far host has the bytes of the image, as cmp sees them. */
bool hosts_are_same(const struct hosts *hosts);
/* The far host clears up by itself, after the near one knows how it ended. False: there are files left in the end. */
bool hosts_await_no_files(const struct hosts *hosts);

#endif
