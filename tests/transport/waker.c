/* SPDX-License-Identifier: Apache-2.0 */
/* transport/waker.h: no wake is lost between looking for news and going to sleep. */
#include <criterion/criterion.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "transport/waker.h"

static bool is_readable(const struct gw_waker *waker)
{
    struct pollfd item = {.fd = waker->epoll_fd, .events = POLLIN};

    return poll(&item, 1, 0) == 1;
}

Test(waker, a_wake_is_heard_until_it_is_calmed)
{
    struct gw_waker waker;

    cr_assert_eq(gw_waker_open(&waker), 0);
    cr_assert_not(is_readable(&waker));
    gw_waker_wake(&waker);
    gw_waker_wake(&waker);
    cr_assert(is_readable(&waker));
    gw_waker_calm(&waker);
    cr_assert_not(is_readable(&waker));
    cr_assert_not(gw_waker_take_news(&waker), "a wake alone is no news");
    gw_waker_close(&waker);
}

Test(waker, news_is_taken_once_and_rouses_who_did_not_take_it)
{
    struct gw_waker waker;

    cr_assert_eq(gw_waker_open(&waker), 0);
    gw_waker_tell(&waker);
    cr_assert(is_readable(&waker));
    gw_waker_calm(&waker);
    gw_waker_rouse(&waker);
    cr_assert(is_readable(&waker), "it has not taken the news");
    cr_assert(gw_waker_take_news(&waker));
    cr_assert_not(gw_waker_take_news(&waker));
    gw_waker_calm(&waker);
    gw_waker_rouse(&waker);
    cr_assert_not(is_readable(&waker));
    gw_waker_close(&waker);
}

Test(waker, what_is_watched_is_told_by_its_address)
{
    int fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC), here = 0;
    struct epoll_event event;
    struct gw_waker waker;

    cr_assert_eq(gw_waker_open(&waker), 0);
    cr_assert_eq(gw_waker_watch(&waker, fd, &here), 0);
    cr_assert_neq(gw_waker_watch(&waker, fd, &here), 0, "twice");
    cr_assert_eq(epoll_wait(waker.epoll_fd, &event, 1, 0), 1);
    cr_assert_eq(event.data.ptr, &here);
    gw_waker_ignore(&waker, fd);
    cr_assert_not(is_readable(&waker));
    gw_waker_close(&waker);
    gw_waker_close(&waker); /* takes one that is closed */
    close(fd);
}
