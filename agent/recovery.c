/* SPDX-License-Identifier: Apache-2.0 */
/* Calls gw_recover in rounds. */
#include "agent/recovery.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "agent/agent.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"

struct gw_recovery {
    const struct gw_environment *environment;
    struct gw_state *state;
    pthread_t thread;
    pthread_mutex_t lock; /* protects is_stopping; leaf */
    pthread_cond_t changed;
    bool is_stopping;
};

/* False once the agent ends. */
static bool pause_round(struct gw_recovery *recovery)
{
    uint64_t until = gw_clock_ns() + GW_RECOVER_EVERY_MS * GW_NS_PER_MS;
    const struct timespec deadline = {
        .tv_sec = (time_t)(until / GW_NS_PER_S),
        .tv_nsec = (long)(until % GW_NS_PER_S),
    };
    bool goes_on;

    pthread_mutex_lock(&recovery->lock);
    while (!recovery->is_stopping &&
           pthread_cond_timedwait(&recovery->changed, &recovery->lock, &deadline) == 0)
        ;
    goes_on = !recovery->is_stopping;
    pthread_mutex_unlock(&recovery->lock);
    return goes_on;
}

static void *recovery_thread(void *argument)
{
    struct gw_recovery *recovery = argument;
    bool has_complained = false;

    do {
        int count = gw_state_undecided(recovery->state);

        gw_partials_tidy(recovery->environment, false);
        gw_arrived_tidy(recovery->environment);
        gw_fences_tidy(recovery->environment->fences);
        if (count == 0) {
            has_complained = false;
            continue;
        }
        if ((count < 0 || gw_recover(recovery->environment) != 0) && !has_complained) {
            gw_log(GW_LOG_WARNING, "in doubt: %s", gw_error_message());
            has_complained = true; /* once, not every few seconds */
        }
    } while (pause_round(recovery));
    return NULL;
}

int gw_recovery_start(const struct gw_environment *environment, struct gw_state *state,
                      struct gw_recovery **out)
{
    struct gw_recovery *recovery = calloc(1, sizeof(*recovery));
    pthread_condattr_t attributes;
    int error;

    if (!recovery)
        return gw_fail(-ENOMEM, "out of memory");
    recovery->environment = environment;
    recovery->state = state;
    pthread_mutex_init(&recovery->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&recovery->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    error = pthread_create(&recovery->thread, NULL, recovery_thread, recovery);
    if (error) {
        free(recovery);
        return gw_fail_errno(-error, "thread for recovery");
    }
    *out = recovery;
    return 0;
}

void gw_recovery_stop(struct gw_recovery *recovery)
{
    if (!recovery)
        return;
    pthread_mutex_lock(&recovery->lock);
    recovery->is_stopping = true;
    pthread_cond_signal(&recovery->changed);
    pthread_mutex_unlock(&recovery->lock);
    pthread_join(recovery->thread, NULL);
    pthread_cond_destroy(&recovery->changed);
    pthread_mutex_destroy(&recovery->lock);
    free(recovery);
}
