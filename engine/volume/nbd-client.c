/* SPDX-License-Identifier: Apache-2.0 */
/* NBD requests, with a deadline (the flush has a longer one), on a small pool of connections. */
#include "engine/volume/nbd-client.h"

#include <errno.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"

#define ZERO_MAX         (256ull << 20) /* bytes of one request */
#define BUSY_PATIENCE_NS (3 * GW_NS_PER_S)
#define BUSY_WAIT_US     50000
#define WAIT_UNTOLD_NS   (10 * GW_NS_PER_S)

struct gw_nbd_client {
    char name[GW_VOLUME_NAME_MAX];
    uint64_t size;
    bool has_allocation, can_zero, can_flush, is_shared;
    /* Protects idle, idle_count and count; held for a few instructions, no lock is taken under it.
     */
    pthread_mutex_t lock;
    pthread_cond_t is_given;
    struct nbd_handle *idle[GW_NBD_CONNECTIONS];
    unsigned idle_count, count; /* count: those that have not failed */
};

int gw_nbd_wait_on(struct gw_nbd_wait *wait)
{
    unsigned limit_s = wait->limit_s ? wait->limit_s : GW_NBD_WAIT_MAX_S;
    uint64_t now = gw_clock_ns();

    if (!wait->began_ns)
        wait->began_ns = now;
    if (now - wait->began_ns > limit_s * GW_NS_PER_S)
        return gw_fail(-ETIMEDOUT, "%s: waited %u s for %s", wait->name, limit_s, wait->what);
    if (!wait->is_told && now - wait->began_ns > WAIT_UNTOLD_NS) {
        wait->is_told = true;
        gw_log(GW_LOG_WARNING, "%s: waiting for %s, for up to %u s", wait->name, wait->what,
               limit_s);
    }
    return wait->wanted.check ? wait->wanted.check(wait->wanted.context) : 0;
}

/* ---- one connection ---- */

static int failed(const char *name, const char *step)
{
    int error = nbd_get_errno();

    return gw_fail(error == ENOSPC ? -ENOSPC : -EIO, "%s: NBD: %s: %s", name, step,
                   nbd_get_error() ? nbd_get_error() : "no reason given");
}

/* Runs the connection until the command, or with cookie 0 the connecting, is done. wait: with a limit of its own. */
static int work_until(const char *name, struct nbd_handle *nbd, int64_t cookie, const char *step,
                      struct gw_nbd_wait *wait)
{
    uint64_t deadline = gw_clock_ns() + GW_NBD_TIMEOUT_S * GW_NS_PER_S;

    for (;;) {
        int done =
            cookie ? nbd_aio_command_completed(nbd, (uint64_t)cookie) : nbd_aio_is_ready(nbd);
        int left = wait ? GW_NBD_WAIT_MS : gw_clock_left_ms(deadline), error;

        if (done == 1)
            return 0;
        if (done < 0 || nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd))
            return failed(name, step);
        if (left == 0)
            return gw_fail(-ETIMEDOUT, "%s: NBD: %s: no answer within %u s", name, step,
                           GW_NBD_TIMEOUT_S);
        error = wait ? gw_nbd_wait_on(wait) : 0;
        if (error)
            return error;
        if (nbd_poll(nbd, left) < 0)
            return failed(name, step);
    }
}

/* A server that is only starting has no socket yet. */
static int connect_socket(const struct gw_nbd_client_options *options, uint64_t deadline, int *out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct pollfd process = {.fd = options->pid_fd, .events = POLLIN};
    int fd, error;

    if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", options->socket) >=
        (int)sizeof(address.sun_path))
        return gw_fail(-ENAMETOOLONG, "%s: the socket's name %s is too long", options->name,
                       options->socket);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return gw_fail_errno(-errno, "%s: no socket", options->name);
    for (;;) {
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
            *out = fd;
            return 0;
        }
        error = -errno;
        if ((error != -ENOENT && error != -ECONNREFUSED) || gw_clock_left_ms(deadline) == 0)
            break;
        if (options->pid_fd < 0)
            usleep(5000);
        else if (poll(&process, 1, 5) == 1)
            break;
    }
    close(fd);
    return gw_fail_errno(error, "%s: NBD server at %s", options->name, options->socket);
}

static int begin_uri(const struct gw_nbd_client_options *options, struct nbd_handle *nbd)
{
    return nbd_aio_connect_uri(nbd, options->uri) < 0 ? failed(options->name, options->uri) : 0;
}

static int begin_socket(const struct gw_nbd_client_options *options, struct nbd_handle *nbd,
                        uint64_t deadline)
{
    int fd, error = connect_socket(options, deadline, &fd);

    if (error)
        return error;
    if (nbd_set_export_name(nbd, options->export) < 0) {
        close(fd);
        return failed(options->name, "preparing");
    }
    return nbd_aio_connect_socket(nbd, fd) < 0 ? failed(options->name, "connecting") : 0;
}

/* A host that is gone answers nothing, nor does one that writes for minutes; the first is found out. (No such
 * options on a UNIX socket, whose server cannot vanish in silence.) */
static void notice_loss(struct nbd_handle *nbd)
{
    int fd = nbd_aio_get_fd(nbd), yes = 1, idle_s = GW_NBD_TIMEOUT_S / 2, every_s = 10,
        count = (GW_NBD_TIMEOUT_S / 2) / 10, timeout_ms = GW_NBD_TIMEOUT_S * 1000;

    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

static int negotiate(const struct gw_nbd_client_options *options, struct nbd_handle *nbd,
                     uint64_t deadline)
{
    int error;

    if (nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0)
        return failed(options->name, "preparing");
    error = options->uri ? begin_uri(options, nbd) : begin_socket(options, nbd, deadline);
    if (!error)
        error = work_until(options->name, nbd, 0, options->uri ? options->uri : "connecting", NULL);
    if (!error && options->uri)
        notice_loss(nbd);
    if (!error && options->has_allocation &&
        nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) != 1)
        error =
            gw_fail(-ENOTSUP, "%s: the NBD server does not tell what is allocated", options->name);
    return error;
}

/* What the export is and can do, from its first connection. */
static int look(struct gw_nbd_client *client, const struct gw_nbd_client_options *options,
                struct nbd_handle *nbd)
{
    int64_t size = nbd_get_size(nbd), sector = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    int64_t most = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);

    if (size < 0)
        return failed(options->name, "size");
    if (sector > GW_NBD_SECTOR_MAX || (most > 0 && most < GW_NBD_REQUEST_MAX))
        return gw_fail(-ENOTSUP,
                       "%s: the NBD server takes requests of %lld to %lld bytes; godwit needs one "
                       "that takes %u to %u",
                       options->name, (long long)sector, (long long)most, GW_NBD_SECTOR_MAX,
                       GW_NBD_REQUEST_MAX);
    if (options->is_writer && nbd_is_read_only(nbd) == 1)
        return gw_fail(-EROFS, "%s: the NBD server lets nobody write", options->name);
    client->size = (uint64_t)size;
    client->has_allocation = nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
    client->can_zero = nbd_can_zero(nbd) == 1;
    client->can_flush = nbd_can_flush(nbd) == 1;
    client->is_shared = nbd_can_multi_conn(nbd) == 1;
    return 0;
}

/* Did the server hang up on us? One that takes a client at a time does so until it is done with the
 * one before, which may be ourselves of a moment ago; libnbd gives that no errno. */
static bool is_busy_server(void)
{
    int error = nbd_get_errno();

    return error == 0 || error == ENOTCONN || error == ECONNRESET || error == EPIPE;
}

static int connect_once(struct gw_nbd_client *client, const struct gw_nbd_client_options *options,
                        uint64_t deadline, bool *is_busy)
{
    struct nbd_handle *nbd = nbd_create();
    struct gw_error kept;
    int error;

    *is_busy = false;
    if (!nbd)
        return failed(options->name, "libnbd");
    error = negotiate(options, nbd, deadline);
    *is_busy = error && options->uri && is_busy_server();
    if (!error && client->count == 0)
        error = look(client, options, nbd);
    else if (!error && nbd_get_size(nbd) != (int64_t)client->size)
        error = gw_fail(-ESTALE, "%s: the NBD export changed its size", options->name);
    if (error) {
        gw_error_take(error, &kept);
        nbd_close(nbd);
        return gw_error_raise(&kept);
    }
    client->idle[client->idle_count++] = nbd;
    client->count++;
    return 0;
}

static int connect_one(struct gw_nbd_client *client, const struct gw_nbd_client_options *options,
                       uint64_t deadline)
{
    uint64_t patience = gw_clock_ns() + BUSY_PATIENCE_NS;
    bool is_busy;
    int error = connect_once(client, options, deadline, &is_busy);

    while (error && is_busy && gw_clock_left_ms(patience) > 0) {
        usleep(BUSY_WAIT_US);
        error = connect_once(client, options, deadline, &is_busy);
    }
    return error;
}

int gw_nbd_client_open(const struct gw_nbd_client_options *options, struct gw_nbd_client **out)
{
    uint64_t deadline = gw_clock_ns() + (uint64_t)options->start_ms * GW_NS_PER_MS;
    struct gw_nbd_client *client = calloc(1, sizeof(*client));
    int error;

    if (!client)
        return gw_fail(-ENOMEM, "no memory for an NBD client");
    snprintf(client->name, sizeof(client->name), "%s", options->name);
    pthread_mutex_init(&client->lock, NULL);
    pthread_cond_init(&client->is_given, NULL);
    do
        error = connect_one(client, options, deadline);
    while (!error && client->is_shared && client->count < GW_NBD_CONNECTIONS);
    if (error) {
        struct gw_error kept;

        gw_error_take(error, &kept);
        gw_nbd_client_close(client);
        return gw_error_raise(&kept);
    }
    *out = client;
    return 0;
}

void gw_nbd_client_close(struct gw_nbd_client *client)
{
    if (!client)
        return;
    for (unsigned i = 0; i < client->idle_count; i++) {
        /* The goodbye is a courtesy: a server that is gone does not hear it. */
        nbd_aio_disconnect(client->idle[i], 0);
        nbd_close(client->idle[i]);
    }
    pthread_cond_destroy(&client->is_given);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

uint64_t gw_nbd_client_size(const struct gw_nbd_client *client)
{
    return client->size;
}

bool gw_nbd_client_has_allocation(const struct gw_nbd_client *client)
{
    return client->has_allocation;
}

/* ---- the pool ---- */

static struct nbd_handle *take(struct gw_nbd_client *client)
{
    struct nbd_handle *nbd = NULL;

    pthread_mutex_lock(&client->lock);
    while (client->idle_count == 0 && client->count > 0)
        pthread_cond_wait(&client->is_given, &client->lock);
    if (client->idle_count > 0)
        nbd = client->idle[--client->idle_count];
    pthread_mutex_unlock(&client->lock);
    if (!nbd)
        gw_fail(-EIO, "%s: NBD: every connection to the server is lost", client->name);
    return nbd;
}

static void give(struct gw_nbd_client *client, struct nbd_handle *nbd, bool is_good)
{
    if (!is_good)
        nbd_close(nbd);
    pthread_mutex_lock(&client->lock);
    if (is_good)
        client->idle[client->idle_count++] = nbd;
    else
        client->count--;
    pthread_mutex_unlock(&client->lock);
    if (is_good)
        pthread_cond_signal(&client->is_given);
    else /* whoever waits may have nothing left to wait for */
        pthread_cond_broadcast(&client->is_given);
}

/* ---- requests ---- */

struct request {
    enum { READ, WRITE, ZERO, FLUSH, STATUS } kind;
    uint64_t offset, length;
    void *into;
    const void *from;
    nbd_extent_callback extent;
    struct gw_nbd_wait *wait; /* NULL: GW_NBD_TIMEOUT_S */
};

static int64_t start(struct nbd_handle *nbd, const struct request *request)
{
    uint64_t offset = request->offset, length = request->length;

    switch (request->kind) {
    case READ:
        return nbd_aio_pread(nbd, request->into, length, offset, NBD_NULL_COMPLETION, 0);
    case WRITE:
        return nbd_aio_pwrite(nbd, request->from, length, offset, NBD_NULL_COMPLETION, 0);
    case ZERO:
        return nbd_aio_zero(nbd, length, offset, NBD_NULL_COMPLETION, 0);
    case FLUSH:
        return nbd_aio_flush(nbd, NBD_NULL_COMPLETION, 0);
    case STATUS:
        return nbd_aio_block_status(nbd, length, offset, request->extent, NBD_NULL_COMPLETION, 0);
    }
    return -1;
}

static int run(struct gw_nbd_client *client, const struct request *request)
{
    static const char *const steps[] = {"read", "write", "zero", "flush", "allocation"};
    struct nbd_handle *nbd = take(client);
    const char *step = steps[request->kind];
    int64_t cookie;
    int error;

    if (!nbd)
        return -EIO;
    cookie = start(nbd, request);
    error = cookie < 0 ? failed(client->name, step)
                       : work_until(client->name, nbd, cookie, step, request->wait);
    give(client, nbd, error == 0);
    return error;
}

int gw_nbd_client_read(struct gw_nbd_client *client, uint64_t offset, void *into, uint64_t length)
{
    struct request request = {.kind = READ, .offset = offset, .length = length, .into = into};

    return run(client, &request);
}

int gw_nbd_client_write(struct gw_nbd_client *client, uint64_t offset, const void *from,
                        uint64_t length)
{
    struct request request = {.kind = WRITE, .offset = offset, .length = length, .from = from};

    return run(client, &request);
}

static int write_zeroes(struct gw_nbd_client *client, uint64_t offset, uint64_t length)
{
    static const uint8_t zeroes[64 << 10];
    int error = 0;

    while (!error && length > 0) {
        uint64_t part = gw_min(length, sizeof(zeroes));

        error = gw_nbd_client_write(client, offset, zeroes, part);
        offset += part;
        length -= part;
    }
    return error;
}

int gw_nbd_client_zero(struct gw_nbd_client *client, uint64_t offset, uint64_t length)
{
    int error = 0;

    if (!client->can_zero)
        return write_zeroes(client, offset, length);
    while (!error && length > 0) {
        struct request request = {
            .kind = ZERO, .offset = offset, .length = gw_min(length, ZERO_MAX)};

        error = run(client, &request);
        offset += request.length;
        length -= request.length;
    }
    return error;
}

bool gw_nbd_client_can_flush(const struct gw_nbd_client *client)
{
    return client->can_flush;
}

int gw_nbd_client_flush(struct gw_nbd_client *client, struct gw_wanted wanted)
{
    struct gw_nbd_wait wait = {.name = client->name,
                               .what = "the NBD server to write out what it holds",
                               .wanted = wanted};
    struct request request = {.kind = FLUSH, .wait = &wait};

    return client->can_flush ? run(client, &request) : 0;
}

struct status {
    void (*each)(void *context, const struct gw_extent *run);
    void *context;
    uint64_t next, end;
    bool is_broken;
};

/* NBD protocol, "base:allocation": bit 0 is a hole, bit 1 reads as zeroes. A hole that need not
 * read as zeroes is data. */
static int take_extents(void *context, const char *metacontext, uint64_t offset, uint32_t *entries,
                        size_t entry_count, int *error)
{
    struct status *status = context;

    status->is_broken |= offset != status->next || *error;
    for (size_t i = 0; i + 1 < entry_count && !status->is_broken && status->next < status->end;
         i += 2) {
        uint32_t flags = entries[i + 1];
        struct gw_extent extent = {
            .offset = status->next,
            .length = gw_min(entries[i], status->end - status->next),
            .kind = !(flags & LIBNBD_STATE_ZERO)  ? GW_EXTENT_DATA
                    : (flags & LIBNBD_STATE_HOLE) ? GW_EXTENT_ABSENT
                                                  : GW_EXTENT_ZERO,
        };

        status->is_broken = extent.length == 0;
        if (!status->is_broken)
            status->each(status->context, &extent);
        status->next += extent.length;
    }
    return 0;
}

int gw_nbd_client_status(struct gw_nbd_client *client, uint64_t offset, uint64_t length,
                         void (*each)(void *context, const struct gw_extent *run), void *context)
{
    struct status status = {.each = each, .context = context, .next = offset};
    struct request request = {
        .kind = STATUS,
        .offset = offset,
        .length = gw_min(length, GW_NBD_STATUS_MAX),
        .extent = {.callback = take_extents, .user_data = &status},
    };
    int error;

    status.end = offset + request.length;
    error = run(client, &request);
    if (!error && (status.is_broken || status.next == offset))
        error = gw_fail(-EPROTO, "%s: the NBD server tells of an allocation that makes no sense",
                        client->name);
    return error;
}
