/* SPDX-License-Identifier: Apache-2.0 */
/*
 * message: the JSON objects of a control session (docs/protocol.md lists them). Each has a "type".
 *
 * Errors: -EPROTO with a message that names the member for what is missing or of the wrong kind;
 *   -EREMOTEIO with the peer's own words for a message of type "error". Threads: one per object.
 * Units: milliseconds; members name their own.
 */
#ifndef GODWIT_ENGINE_SESSION_MESSAGE_H
#define GODWIT_ENGINE_SESSION_MESSAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/link/control.h"

/* Sends and frees message; NULL (no memory) is -ENOMEM. */
int gw_message_send(struct gw_control *control, json_t *message);
/* Sends {"type": type}. */
int gw_message_send_type(struct gw_control *control, const char *type);
/* Sends {"type": "error", ...} with the calling thread's message and returns code. */
int gw_message_send_error(struct gw_control *control, int code);

/* As above, with "blocked": every reason (an array of texts, lent); and "older": "gone" where this host has
 * nothing (any more) of the attempt that was to be gone on with. No code says that: any call may fail with it. */
int gw_message_send_blocked(struct gw_control *control, int code, json_t *reasons,
                            bool is_older_gone);

const char *gw_message_type(const json_t *message); /* never NULL */
bool gw_message_is(const json_t *message, const char *type);
/* The error of a message of type "error", as the calling thread's own. */
int gw_message_raise(const json_t *message);
/* The "cause" of a "handover" by which the peer gives up: -ECANCELED in its words, or 0 when there is none. */
int gw_message_raise_cause(const json_t *message);

/* Members. Text is lent with the message. */
int gw_message_text(const json_t *message, const char *member, const char **out);
/* As above, NULL when the member is missing or null. */
int gw_message_optional_text(const json_t *message, const char *member, const char **out);
int gw_message_number(const json_t *message, const char *member, uint64_t max, uint64_t *out);
int gw_message_bool(const json_t *message, const char *member, bool *out); /* missing: false */
int gw_message_array(const json_t *message, const char *member, size_t max, json_t **out);

/* A message "rejoin": the migration, and the session whose channels its source still has. */
int gw_message_rejoin(const json_t *message, char epoch[2 * GW_ID_SIZE + 1],
                      char link[2 * GW_ID_SIZE + 1]);
/* The reports of a message "rejoined", and what they say of one channel: 0 when nothing. */
int gw_message_lanes(const json_t *message, json_t **out);
uint64_t gw_message_applied(const json_t *lanes, uint32_t number);

/* 16 bytes as 32 hex digits and back. */
void gw_id_format(const uint8_t *id, char *out /* 33 bytes */);
int gw_id_parse(const char *text, uint8_t *out);
int gw_id_random(uint8_t *out);

#endif
