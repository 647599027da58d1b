/* SPDX-License-Identifier: Apache-2.0 */
/* A descriptor with QEMU's locks for each device. */
#include "engine/session/fence.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "engine/image/file.h"

struct fence {
    int fd; /* -1: it has ended */
    dev_t device;
    char path[PATH_MAX];
    char epoch[2 * GW_ID_SIZE + 1];
    uint64_t ends_ns; /* 0: when the move is decided */
    struct fence *next;
};

struct gw_fences {
    pthread_mutex_t lock; /* protects the list; leaf */
    struct fence *first;
};

int gw_fences_new(struct gw_fences **out)
{
    struct gw_fences *fences = calloc(1, sizeof(*fences));

    if (!fences)
        return gw_fail(-ENOMEM, "no memory for fences");
    pthread_mutex_init(&fences->lock, NULL);
    *out = fences;
    return 0;
}

static void end_fence(struct fence *fence)
{
    if (fence->fd >= 0) {
        close(fence->fd);
        gw_log(GW_LOG_INFO, "%s is not kept from being used any more", fence->path);
    }
    fence->fd = -1;
}

/* Those of that move, or all. */
static void remove_fences(struct gw_fences *fences, const char *epoch)
{
    struct fence **link;

    if (!fences)
        return;
    pthread_mutex_lock(&fences->lock);
    link = &fences->first;
    while (*link) {
        struct fence *fence = *link;

        if (epoch && strcmp(fence->epoch, epoch) != 0) {
            link = &fence->next;
            continue;
        }
        *link = fence->next;
        end_fence(fence);
        free(fence);
    }
    pthread_mutex_unlock(&fences->lock);
}

void gw_fences_free(struct gw_fences *fences)
{
    remove_fences(fences, NULL);
    if (fences)
        pthread_mutex_destroy(&fences->lock);
    free(fences);
}

void gw_fence_remove(struct gw_fences *fences, const char *epoch)
{
    remove_fences(fences, epoch);
}

static int make_fence(const char *path, const char *epoch, struct fence **out)
{
    struct fence *fence = calloc(1, sizeof(*fence));
    struct stat status;
    int error;

    if (!fence)
        return gw_fail(-ENOMEM, "no memory for a fence");
    snprintf(fence->epoch, sizeof(fence->epoch), "%s", epoch);
    snprintf(fence->path, sizeof(fence->path), "%s", path);
    fence->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fence->fd < 0 || fstat(fence->fd, &status)) {
        error = gw_fail_errno(-errno, "cannot keep %s from being used", path);
        if (fence->fd >= 0)
            close(fence->fd);
        free(fence);
        return error;
    }
    fence->device = status.st_rdev;
    *out = fence;
    return 0;
}

static bool is_there(const struct gw_fences *fences, const struct fence *wanted)
{
    const struct fence *fence = fences->first;

    while (fence && (fence->device != wanted->device || strcmp(fence->epoch, wanted->epoch) != 0))
        fence = fence->next;
    return fence != NULL;
}

int gw_fence_put(struct gw_fences *fences, const char *path, const char *epoch, bool is_in_use)
{
    struct fence *fence;
    bool is_new;
    int error;

    if (!fences)
        return 0;
    error = make_fence(path, epoch, &fence);
    if (error)
        return error;
    pthread_mutex_lock(&fences->lock);
    is_new = !is_there(fences, fence);
    if (is_new)
        error = gw_image_keep_off(fence->fd, path, is_in_use);
    if (is_new && !error) {
        fence->next = fences->first;
        fences->first = fence;
        fence = NULL;
    }
    pthread_mutex_unlock(&fences->lock);
    if (fence)
        close(fence->fd);
    else
        gw_log(GW_LOG_INFO, "%s is kept from being used: its VM is handed over", path);
    free(fence);
    return error;
}

void gw_fence_expire(struct gw_fences *fences, const char *epoch, unsigned seconds)
{
    if (!fences)
        return;
    pthread_mutex_lock(&fences->lock);
    for (struct fence *fence = fences->first; fence; fence = fence->next)
        if (strcmp(fence->epoch, epoch) == 0 && !fence->ends_ns)
            fence->ends_ns = gw_clock_ns() + seconds * GW_NS_PER_S;
    pthread_mutex_unlock(&fences->lock);
}

int gw_fence_give_up(struct gw_fences *fences, const char *path)
{
    struct stat status;
    int error = 0;

    if (!fences || stat(path, &status) || !S_ISBLK(status.st_mode))
        return 0;
    pthread_mutex_lock(&fences->lock);
    for (struct fence *fence = fences->first; fence && !error; fence = fence->next)
        if (fence->device == status.st_rdev && fence->fd >= 0 && !fence->ends_ns)
            error = gw_fail(-EBUSY,
                            "%s is the disk of a VM whose move %.12s is not decided: see godwit "
                            "status on this host",
                            path, fence->epoch);
    for (struct fence *fence = fences->first; fence && !error; fence = fence->next)
        if (fence->device == status.st_rdev)
            end_fence(fence);
    pthread_mutex_unlock(&fences->lock);
    return error;
}

void gw_fences_tidy(struct gw_fences *fences)
{
    uint64_t now_ns = gw_clock_ns();

    if (!fences)
        return;
    pthread_mutex_lock(&fences->lock);
    for (struct fence *fence = fences->first; fence; fence = fence->next)
        if (fence->ends_ns && fence->ends_ns <= now_ns)
            end_fence(fence);
    pthread_mutex_unlock(&fences->lock);
}
