/* SPDX-License-Identifier: Apache-2.0 */
/* An epoll set with an eventfd in it. */
#include "transport/waker.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

int gw_waker_open(struct gw_waker *waker)
{
    int error = 0;

    waker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    waker->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    atomic_init(&waker->has_news, false);
    if (waker->epoll_fd < 0 || waker->wake_fd < 0)
        error = -errno;
    else
        error = gw_waker_watch(waker, waker->wake_fd, NULL);
    if (error)
        gw_waker_close(waker);
    return error;
}

void gw_waker_close(struct gw_waker *waker)
{
    if (waker->epoll_fd >= 0)
        close(waker->epoll_fd);
    if (waker->wake_fd >= 0)
        close(waker->wake_fd);
    waker->epoll_fd = waker->wake_fd = -1;
}

int gw_waker_watch(struct gw_waker *waker, int fd, void *address)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = address};

    return epoll_ctl(waker->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

void gw_waker_ignore(struct gw_waker *waker, int fd)
{
    epoll_ctl(waker->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void gw_waker_wake(struct gw_waker *waker)
{
    eventfd_write(waker->wake_fd, 1);
}

void gw_waker_tell(struct gw_waker *waker)
{
    atomic_store(&waker->has_news, true);
    gw_waker_wake(waker);
}

void gw_waker_calm(struct gw_waker *waker)
{
    eventfd_t wakes;

    eventfd_read(waker->wake_fd, &wakes);
}

bool gw_waker_take_news(struct gw_waker *waker)
{
    return atomic_load_explicit(&waker->has_news, memory_order_acquire) &&
           atomic_exchange(&waker->has_news, false);
}

void gw_waker_rouse(struct gw_waker *waker)
{
    if (atomic_load(&waker->has_news))
        gw_waker_wake(waker);
}
