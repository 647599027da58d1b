/* SPDX-License-Identifier: Apache-2.0 */
/* The thread beside the last copy. What it does is QEMU's part of the pause; it decides nothing. */
#include "engine/session/parting.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

#define STATE_TIMEOUT_MS 10000
/* Room for a whole device state without video RAM, so that QEMU need not wait for its reader. */
#define STATE_ROOM (4 << 20)

static int read_maps(struct gw_parting *parting)
{
    return gw_precopy_last_collect(parting->precopy, GW_VOLUME_DISK);
}

static int swap_disks(struct gw_parting *parting)
{
    int error = 0;

    /* An export holds the node that is to go; the last byte was read through it. */
    for (unsigned i = 0; !error && i < parting->disk_count; i++)
        error = gw_disk_export_close(&parting->exports[i]);
    for (unsigned i = 0; !error && i < parting->disk_count; i++)
        error = gw_disk_swap_out(parting->qmp, &parting->swaps[i]);
    return error;
}

static int save_state(struct gw_parting *parting)
{
    struct gw_state_result result;

    return gw_vm_save_state(parting->qmp, parting->write_fd, STATE_TIMEOUT_MS, &result);
}

static int (*const steps[GW_PARTING_STEPS])(struct gw_parting *parting) = {
    [GW_PARTING_MAPS] = read_maps,
    [GW_PARTING_SWAP] = swap_disks,
    [GW_PARTING_STATE] = save_state,
};

/* May the step begin? Waits for what it needs. */
static bool may_begin(struct gw_parting *parting, unsigned step)
{
    bool may;

    pthread_mutex_lock(&parting->lock);
    while (step == GW_PARTING_SWAP && parting->needs_disks && !parting->is_copied &&
           !parting->is_given_up)
        pthread_cond_wait(&parting->changed, &parting->lock);
    may = !parting->is_given_up;
    pthread_mutex_unlock(&parting->lock);
    return may;
}

static int end_step(struct gw_parting *parting, int error)
{
    struct gw_error kept = {0};

    if (error)
        gw_error_take(error, &kept);
    pthread_mutex_lock(&parting->lock);
    parting->error = kept;
    parting->ended += !error;
    pthread_cond_broadcast(&parting->changed);
    pthread_mutex_unlock(&parting->lock);
    return error;
}

static void *run(void *argument)
{
    struct gw_parting *parting = argument;
    int error = 0;

    for (unsigned step = 0; !error && step < GW_PARTING_STEPS; step++) {
        uint64_t began;

        if (!may_begin(parting, step)) {
            end_step(parting, gw_fail(-ECANCELED, "the handover was given up"));
            break;
        }
        began = gw_clock_ns();
        error = steps[step](parting);
        parting->ns[step] = gw_clock_ns() - began;
        error = end_step(parting, error);
    }
    /* The reader sees the end once QEMU's copy is closed too. */
    close(parting->write_fd);
    return NULL;
}

/* More room than a plain process may have is nice to have only. */
static void make_room(int fd)
{
    int room = STATE_ROOM;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) == 0)
        return;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) != 0)
        return;
}

int gw_parting_start(struct gw_parting *parting)
{
    int sockets[2], error;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
        return gw_fail_errno(-errno, "no socket for the device state");
    make_room(sockets[0]);
    parting->write_fd = sockets[0];
    parting->fd = sockets[1];
    pthread_mutex_init(&parting->lock, NULL);
    pthread_cond_init(&parting->changed, NULL);
    error = -pthread_create(&parting->thread, NULL, run, parting);
    if (error) {
        close(sockets[0]);
        close(sockets[1]);
        parting->fd = -1;
        pthread_cond_destroy(&parting->changed);
        pthread_mutex_destroy(&parting->lock);
        return gw_fail_errno(error, "no thread for the pause");
    }
    parting->is_started = true;
    return 0;
}

int gw_parting_await(struct gw_parting *parting, enum gw_parting_step step)
{
    struct gw_error error = {0};

    pthread_mutex_lock(&parting->lock);
    while (parting->ended <= (unsigned)step && !parting->error.code)
        pthread_cond_wait(&parting->changed, &parting->lock);
    if (parting->ended <= (unsigned)step)
        error = parting->error;
    pthread_mutex_unlock(&parting->lock);
    return error.code ? gw_error_raise(&error) : 0;
}

void gw_parting_copied(struct gw_parting *parting)
{
    pthread_mutex_lock(&parting->lock);
    parting->is_copied = true;
    pthread_cond_broadcast(&parting->changed);
    pthread_mutex_unlock(&parting->lock);
}

void gw_parting_join(struct gw_parting *parting, bool give_up)
{
    if (!parting->is_started)
        return;
    pthread_mutex_lock(&parting->lock);
    parting->is_given_up |= give_up;
    pthread_cond_broadcast(&parting->changed);
    pthread_mutex_unlock(&parting->lock);
    pthread_join(parting->thread, NULL);
    pthread_cond_destroy(&parting->changed);
    pthread_mutex_destroy(&parting->lock);
    parting->is_started = false;
}
