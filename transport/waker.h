/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waker: what a thread sleeps on, an epoll set, and the means by which others wake it.
 *
 * Errors: -errno, without a message.
 * Order: open → watch, wake, any number → close. Close takes one whose open has failed.
 * Threads: wake and tell by any; the rest belongs to the sleeper and to who made it.
 * Units: none.
 */
#ifndef GODWIT_TRANSPORT_WAKER_H
#define GODWIT_TRANSPORT_WAKER_H

#include <stdatomic.h>
#include <stdbool.h>

struct gw_waker {
    int epoll_fd; /* readable when there is something to do */
    int wake_fd;  /* in the set, with the address NULL */
    atomic_bool has_news;
};

int gw_waker_open(struct gw_waker *waker);
void gw_waker_close(struct gw_waker *waker);
/* The set reports the address when fd is readable. */
int gw_waker_watch(struct gw_waker *waker, int fd, void *address);
void gw_waker_ignore(struct gw_waker *waker, int fd);
void gw_waker_wake(struct gw_waker *waker);
/* Wakes, and notes that there is news, for a sleeper that looks for it without sleeping. */
void gw_waker_tell(struct gw_waker *waker);
/* Makes a set that was woken quiet again. */
void gw_waker_calm(struct gw_waker *waker);
/* Whether there was news since the last call. Cheap while there is none. */
bool gw_waker_take_news(struct gw_waker *waker);
/* Wakes the sleeper if there is news that it has not taken: to be called before it sleeps. */
void gw_waker_rouse(struct gw_waker *waker);

#endif
