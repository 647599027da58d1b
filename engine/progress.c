/* SPDX-License-Identifier: Apache-2.0 */
/* The snapshot of a migration that other threads may read, and the request to cancel it. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/migration.h"

int gw_progress_init(struct gw_progress *progress)
{
    memset(progress, 0, sizeof(*progress));
    progress->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (progress->cancel_fd < 0)
        return gw_fail_errno(-errno, "no eventfd for a migration");
    pthread_mutex_init(&progress->lock, NULL);
    progress->data.started_ns = gw_clock_ns();
    return 0;
}

void gw_progress_free(struct gw_progress *progress)
{
    pthread_mutex_destroy(&progress->lock);
    close(progress->cancel_fd);
}

void gw_progress_get(struct gw_progress *progress, struct gw_progress_data *out)
{
    pthread_mutex_lock(&progress->lock);
    *out = progress->data;
    pthread_mutex_unlock(&progress->lock);
}

void gw_progress_note(struct gw_progress *progress, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    pthread_mutex_lock(&progress->lock);
    vsnprintf(progress->data.note, sizeof(progress->data.note), format, arguments);
    pthread_mutex_unlock(&progress->lock);
    va_end(arguments);
}

int gw_progress_cancel(struct gw_progress *progress)
{
    enum gw_handover_state state;
    uint64_t one = 1;
    int error = 0;

    pthread_mutex_lock(&progress->lock);
    if (progress->data.phase == GW_PHASE_ENDED)
        error = gw_fail(-EALREADY, "the migration has ended");
    else if (progress->data.state[0] && !gw_handover_state_parse(progress->data.state, &state) &&
             !gw_handover_may_cancel(state))
        error = gw_fail(-EBUSY, "too late to cancel: the handover is %s", progress->data.state);
    pthread_mutex_unlock(&progress->lock);
    if (!error && write(progress->cancel_fd, &one, sizeof(one)) < 0)
        error = gw_fail_errno(-errno, "cancel");
    return error;
}

const char *gw_phase_name(enum gw_phase phase)
{
    static const char *const names[] = {"plan", "disks", "memory", "handover", "ended"};

    return names[phase];
}

void gw_outcome_free(struct gw_outcome *outcome)
{
    json_decref(outcome->detail);
    outcome->detail = NULL;
}
