/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faulty: a transport for tests that wraps any other one and, on command, delays, drops the link,
 * corrupts and refuses. Without commands it behaves as the one it wraps.
 *
 * Errors: as transport.h. A dropped channel answers -ECONNRESET.
 * Threads: commands may come from any thread; they take effect when the owner of a channel next
 *   posts or polls.
 * Units: milliseconds, ops.
 */
#ifndef GODWIT_TESTS_TRANSPORT_FAULTY_H
#define GODWIT_TESTS_TRANSPORT_FAULTY_H

#include "tests/transport/faulty-rdma.h"
#include "transport/transport.h"

/* Takes over inner; gw_transport_free of the result frees both. */
int gw_faulty_new(struct gw_transport *inner, struct gw_transport **out);

/* Ops posted from now on are handed on delay_ms later, in order. */
void gw_faulty_delay(struct gw_transport *faulty, unsigned delay_ms);
/* Flips one bit in each of the next count writes (or messages) that have bytes. */
void gw_faulty_corrupt_writes(struct gw_transport *faulty, unsigned count);
void gw_faulty_corrupt_messages(struct gw_transport *faulty, unsigned count);
/* gw_connect answers -ECONNREFUSED and asks nobody, while on. */
void gw_faulty_refuse(struct gw_transport *faulty, bool on);
/* gw_transport_probe answers -ENODEV, while on. */
void gw_faulty_absent(struct gw_transport *faulty, bool on);
/* gw_listener_address answers -ENODEV, as of a listener that waits for a device, while on. */
void gw_faulty_deaf(struct gw_transport *faulty, bool on);
/* For data channels alone from now on, as a back end that needs a secret for each channel. */
void gw_faulty_carry_no_control(struct gw_transport *faulty);
/* The link goes down: every channel that exists now dies. */
void gw_faulty_drop_all(struct gw_transport *faulty);
/* Each channel dies once it has handed on that many more ops. UINT64_MAX: never. */
void gw_faulty_drop_after(struct gw_transport *faulty, uint64_t ops);
/* The next control channel (number 0) that is made, by connect or by accept, dies once it has handed
 * on that many ops; those after it do not. */
void gw_faulty_drop_control_once(struct gw_transport *faulty, bool is_accepting, uint64_t ops);
/* This one channel dies. */
void gw_faulty_drop(struct gw_channel *channel);

#endif
