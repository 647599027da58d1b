/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The port's own thread. It reads the queues that no poller reads at the moment, so that neighbours
 * are answered, listeners hear, and pollers that sleep are woken. Not every driver has interrupts: it
 * looks, often while somebody waits and things happen, seldom otherwise. It also sees whether the port
 * still has its link.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/clock.h"
#include "transport/dpdk/dpdk.h"

#define LOOK_MIN_NS  (50 * 1000ull)     /* while somebody waits and something came lately */
#define LOOK_MAX_NS  (1 * GW_NS_PER_MS) /* while somebody waits */
#define LOOK_IDLE_NS (5 * GW_NS_PER_MS) /* for listeners and neighbours */
#define LINK_NS      (100 * GW_NS_PER_MS)
#define LOOK_BURSTS  32u                /* of one queue at a time: strangers may send for ever */
#define UNREAD_NS    (1 * GW_NS_PER_MS) /* a poller that has not looked that long is away */

static bool is_unread(const struct dpdk_queue *queue, uint64_t now_ns)
{
    uint64_t polled_ns = atomic_load_explicit(&queue->polled_ns, memory_order_relaxed);

    return polled_ns + UNREAD_NS < now_ns;
}

static unsigned look(struct dpdk_transport *transport)
{
    uint64_t now_ns = gw_clock_ns();
    unsigned total = 0;

    for (unsigned i = 0; i < transport->port.queue_count; i++) {
        struct dpdk_arrival none[DPDK_BURST];
        unsigned got = DPDK_BURST, count;

        for (unsigned burst = 0; burst < LOOK_BURSTS && got == DPDK_BURST &&
                                 is_unread(&transport->port.queues[i], now_ns);
             burst++) {
            got = gw_dpdk_receive(transport, i, NULL, none, &count);
            total += got;
        }
    }
    return total;
}

/* Pollers that sleep have channels to end once the port is gone; whoever goes to sleep later sees it
 * before. Returns whether that was done. */
static bool look_at_port(struct dpdk_transport *transport)
{
    if (gw_dpdk_port_look(&transport->port) != DPDK_PORT_GONE)
        return false;
    gw_dpdk_wake_all(transport);
    return true;
}

static void *run(void *argument)
{
    struct dpdk_transport *transport = argument;
    uint64_t wait_ns = LOOK_IDLE_NS, link_ns = 0;
    bool is_gone = false;

    pthread_setname_np(pthread_self(), "gw-dpdk");
    prctl(PR_SET_TIMERSLACK, 1000ul);
    gw_dpdk_thread_enter();
    while (!atomic_load(&transport->is_stopping)) {
        bool is_awaited = atomic_load(&transport->waiting_count) > 0;
        struct timespec wait;

        if (!is_gone && gw_clock_ns() - link_ns > LINK_NS) {
            link_ns = gw_clock_ns();
            is_gone = look_at_port(transport);
        }
        if (look(transport) > 0)
            wait_ns = LOOK_MIN_NS;
        else
            wait_ns = gw_min(wait_ns * 2, is_awaited ? LOOK_MAX_NS : LOOK_IDLE_NS);
        wait = (struct timespec){.tv_nsec = (long)wait_ns};
        nanosleep(&wait, NULL);
    }
    return NULL;
}

int gw_dpdk_service_start(struct dpdk_transport *transport)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&transport->thread, NULL, run, transport);
    pthread_sigmask(SIG_SETMASK, &before, NULL);

    return error ? gw_fail_errno(-error, "dpdk: thread for the port") : 0;
}

void gw_dpdk_service_stop(struct dpdk_transport *transport)
{
    atomic_store(&transport->is_stopping, true);
    pthread_join(transport->thread, NULL);
}
