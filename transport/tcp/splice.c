/* SPDX-License-Identifier: Apache-2.0 */
/* Sends the pages of stable writes without copying them: vmsplice into a pipe of the channel,
 * splice from there into the socket. The kernel reads the pages when the segments leave, which may
 * be after done(); that is why only GW_POST_STABLE writes come here. Memory that vmsplice does not
 * take, or a pipe that cannot be had, turns the method off for the channel and the payload is
 * copied. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "common/checked.h"
#include "transport/tcp/tcp.h"

#define PIPE_SIZE     (1 << 20)
#define PIPE_SIZE_MIN (256 << 10) /* below it the system calls cost more than the copy */

static_assert(PIPE_SIZE <= TCP_SEND_BYTES, "one call hands over at most TCP_SEND_BYTES");

void gw_tcp_splicer_open(struct tcp_splicer *splicer)
{
    int ends[2], size;

    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0)
        return;
    /* Refused beyond fs.pipe-max-size, and beyond the user's share of pipe pages. */
    size = fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE);
    if (size < 0)
        size = fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE_MIN);
    if (size < PIPE_SIZE_MIN) {
        close(ends[0]);
        close(ends[1]);
        return;
    }
    splicer->read_fd = ends[0];
    splicer->write_fd = ends[1];
    splicer->is_usable = splicer->is_open = true;
}

void gw_tcp_splicer_close(struct tcp_splicer *splicer)
{
    if (!splicer->is_open)
        return;
    close(splicer->read_fd);
    close(splicer->write_fd);
    splicer->is_open = false;
    splicer->is_usable = false;
}

/* Puts payload into the empty pipe. */
static void fill_pipe(struct tcp_sender *sender)
{
    struct tcp_splicer *splicer = &sender->splicer;
    struct tcp_burst *burst = &sender->burst;
    struct iovec vectors[TCP_BATCH_MAX];
    unsigned count = 0;
    size_t size = 0;
    ssize_t taken;

    for (unsigned i = burst->at; i < burst->count && size < PIPE_SIZE; i++) {
        struct iovec vector = burst->vectors[i];

        vector.iov_len = gw_min(vector.iov_len, PIPE_SIZE - size);
        size += vector.iov_len;
        vectors[count++] = vector;
    }
    taken = vmsplice(splicer->write_fd, vectors, count, SPLICE_F_NONBLOCK);
    if (taken > 0)
        splicer->in_pipe += (uint32_t)taken;
    else if (taken < 0 && errno != EAGAIN && errno != EINTR)
        splicer->is_usable = false; /* not with this memory; what is in the pipe still goes out */
}

/* Whether more follows what is in the pipe: then the kernel may wait for it to fill a segment, and
 * otherwise it must not. */
static bool has_more(const struct tcp_sender *sender)
{
    const struct tcp_burst *burst = &sender->burst;
    size_t left = 0;

    for (unsigned i = burst->at; i < burst->count && left <= sender->splicer.in_pipe; i++)
        left += burst->vectors[i].iov_len;
    return left > sender->splicer.in_pipe || sender->unframed;
}

/* splice(2) knows no MSG_NOSIGNAL, and a library must not let a peer that is gone end the process:
 * the signal, which goes to the calling thread, is blocked around the call and taken away again. */
static ssize_t splice_without_signal(struct tcp_channel *channel, size_t size, unsigned flags)
{
    const struct timespec now = {0};
    sigset_t broken_pipe, before;
    ssize_t sent;
    int cause;

    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken_pipe, &before);
    sent = splice(channel->sender.splicer.read_fd, NULL, channel->fd, NULL, size, flags);
    cause = errno;
    if (sent < (ssize_t)size && !sigismember(&before, SIGPIPE))
        sigtimedwait(&broken_pipe, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = cause;
    return sent;
}

ssize_t gw_tcp_splicer_send(struct tcp_channel *channel)
{
    struct tcp_sender *sender = &channel->sender;
    struct tcp_splicer *splicer = &sender->splicer;
    ssize_t sent;

    if (splicer->is_usable && splicer->in_pipe == 0)
        fill_pipe(sender);
    if (splicer->in_pipe == 0) {
        sender->burst.special = sender->burst.count; /* the rest is copied */
        return 0;
    }
    sent = splice_without_signal(channel, splicer->in_pipe,
                                 SPLICE_F_MOVE | SPLICE_F_NONBLOCK |
                                     (has_more(sender) ? SPLICE_F_MORE : 0u));
    if (sent < 0 && errno == EINTR)
        return 0;
    if (sent < 0 && errno != EAGAIN)
        return gw_fail_errno(-errno, "sending");
    if (sent <= 0) {
        sender->is_writable = false;
        return 0;
    }
    splicer->in_pipe -= (uint32_t)sent;
    return sent;
}
