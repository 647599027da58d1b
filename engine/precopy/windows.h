/* SPDX-License-Identifier: Apache-2.0 */
/*
 * windows: which pieces of guest RAM are registered, and when, where a device places writes. It
 * walks the data that a round covers a little ahead of the copy and has it registered here and at
 * the target; lanes are held back until that is settled. What does not fit the pin limits waits
 * until a window behind the copy is closed; what cannot be had, runs that are too short to be worth
 * it, and in later rounds ranges that are hardly dirty, goes through slots. Windows that fit stay
 * open for the rounds after this one. With the guest stopped for the last round nothing is opened.
 *
 * Errors: 0 or -errno with a message. A window that cannot be had is no error; note says why.
 * Order: new → begin (each round, before the sender's) → step … until is_settled → end → free.
 *   Nothing is opened or closed in a step with the guest stopped.
 * Threads: the migration's control thread.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_PRECOPY_WINDOWS_H
#define GODWIT_ENGINE_PRECOPY_WINDOWS_H

#include "engine/worker/path.h"

#define GW_WINDOW_USUAL (64u << 20)  /* that much at once, if the limits allow */
#define GW_WINDOW_MIN   (256u << 10) /* a shorter run of data is not worth a registration */

struct gw_windows_options {
    struct gw_sender *sender; /* lent */
    /* Asks the target to open the window; it answers later, or never. */
    int (*ask)(void *context, const struct gw_window *window);
    void *context;
};

struct gw_windows;

int gw_windows_new(const struct gw_windows_options *options, struct gw_windows **out);
void gw_windows_free(struct gw_windows *windows); /* the sender keeps what is registered */
/* Holds back the RAM of a round with the guest running. */
void gw_windows_begin(struct gw_windows *windows, struct gw_round *round);
/* Does what can be done now. Called when the sender's events, an answer or time call for it. */
int gw_windows_step(struct gw_windows *windows);
/* Nothing is being opened or closed: the guest may be stopped. */
bool gw_windows_is_settled(const struct gw_windows *windows);
void gw_windows_end(struct gw_windows *windows);
/* The target's answer. reason: why not; is_full: it has no room for now. -EPROTO for a number that
 * nobody asked for. */
int gw_windows_answer(struct gw_windows *windows, uint32_t number, bool is_open, bool is_full,
                      const char *reason);
/* The target has ended the window. */
void gw_windows_closed(struct gw_windows *windows, uint32_t number);
/* Every channel is gone, and the target's windows with them. */
void gw_windows_lost(struct gw_windows *windows);
/* Why some RAM goes through slots; empty when none does. */
const char *gw_windows_note(const struct gw_windows *windows);

#endif
