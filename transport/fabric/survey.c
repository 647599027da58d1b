/* SPDX-License-Identifier: Apache-2.0 */
/* Asks libfabric which providers this host has. The first fi_getinfo starts them all, and one whose device
 * does not answer may take for ever; so that is done by a thread of its own, which may be left behind. It may
 * have libfabric's lock then, so that libfabric's destructor would wait for it: the process ends without. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "transport/fabric/fabric.h"

/* Freed by whoever is done last. */
struct survey {
    pthread_mutex_t lock; /* is_done, is_left */
    pthread_cond_t changed;
    bool is_done, is_left;
    struct fabric_library library;
    char provider[FABRIC_PROVIDER_MAX]; /* only this one is asked for; "": all */
    struct fabric_candidates found;
    struct gw_error error;
};

enum kind { CONNECTED, UNCONNECTED, ANY };

static void survey_free(struct survey *survey)
{
    pthread_cond_destroy(&survey->changed);
    pthread_mutex_destroy(&survey->lock);
    free(survey);
}

static bool has_name(const struct fabric_candidates *found, const char *name)
{
    for (unsigned i = 0; i < found->count; i++)
        if (strcmp(found->list[i].name, name) == 0)
            return true;
    return false;
}

static void take(struct survey *survey, enum kind kind, const struct fi_info *info)
{
    struct fabric_candidate one = {.connects = kind == CONNECTED, .writes = kind != ANY};
    const char *name = info->fabric_attr->prov_name;

    if (!name || strlen(name) >= sizeof(one.name) ||
        (kind == ANY && has_name(&survey->found, name)))
        return;
    memcpy(one.name, name, strlen(name));
    if (one.writes)
        gw_fabric_find_fault(info, one.fault);
    gw_fabric_candidates_add(&survey->found, &one);
}

/* Nothing but that, so that those are named, too, which have not what is needed. */
static void ask_for_any(struct fi_info *hints)
{
    hints->caps = 0;
    hints->ep_attr->type = FI_EP_UNSPEC;
    hints->domain_attr->threading = FI_THREAD_UNSPEC;
    hints->tx_attr->size = hints->rx_attr->size = 0;
}

static int ask(struct survey *survey, enum kind kind)
{
    const struct fabric_library *library = &survey->library;
    struct fi_info *hints, *found = NULL;
    const char *provider = survey->provider[0] ? survey->provider : NULL;
    int answer, error = gw_fabric_hints(library, provider, kind == UNCONNECTED, &hints);

    if (error)
        return error;
    if (kind == ANY)
        ask_for_any(hints);
    answer = library->getinfo(FABRIC_API, NULL, NULL, 0, hints, &found);
    library->freeinfo(hints);
    if (answer == -FI_ENODATA || answer == -FI_ENOSYS)
        return 0;
    if (answer)
        return gw_fail(-ENODEV, "fabric: libfabric cannot be asked what this host has: %s",
                       library->strerror(-answer));
    for (const struct fi_info *info = found; info; info = info->next)
        take(survey, kind, info);
    library->freeinfo(found);
    return 0;
}

static void *run(void *argument)
{
    struct survey *survey = argument;
    bool is_left;
    int error = ask(survey, CONNECTED);

    if (!error && !survey->provider[0])
        error = ask(survey, UNCONNECTED);
    if (error)
        gw_error_take(error, &survey->error);
    /* Only for the message where nothing fits. */
    else if (!survey->provider[0])
        ask(survey, ANY);
    pthread_mutex_lock(&survey->lock);
    survey->is_done = true;
    is_left = survey->is_left;
    pthread_cond_signal(&survey->changed);
    pthread_mutex_unlock(&survey->lock);
    if (is_left)
        survey_free(survey);
    return NULL;
}

static int survey_new(const struct fabric_library *library, const char *provider,
                      struct survey **out)
{
    struct survey *survey = calloc(1, sizeof(*survey));
    pthread_condattr_t clock;

    if (!survey)
        return gw_fail(-ENOMEM, "fabric: no memory");
    survey->library = *library;
    snprintf(survey->provider, sizeof(survey->provider), "%s", provider);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&survey->lock, NULL);
    pthread_cond_init(&survey->changed, &clock);
    pthread_condattr_destroy(&clock);
    *out = survey;
    return 0;
}

static int start(struct survey *survey)
{
    pthread_attr_t attributes;
    pthread_t thread;
    int error;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&thread, &attributes, run, survey);
    pthread_attr_destroy(&attributes);
    return error ? gw_fail_errno(-error, "fabric: a thread that asks libfabric") : 0;
}

/* False when it is left to itself. */
static bool await(struct survey *survey, int timeout_ms)
{
    struct timespec until;
    bool is_done;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000l;
    until.tv_sec += until.tv_nsec / 1000000000l;
    until.tv_nsec %= 1000000000l;
    pthread_mutex_lock(&survey->lock);
    while (!survey->is_done &&
           pthread_cond_timedwait(&survey->changed, &survey->lock, &until) != ETIMEDOUT)
        ;
    is_done = survey->is_done;
    survey->is_left = !is_done;
    pthread_mutex_unlock(&survey->lock);
    return is_done;
}

/* Handlers run before destructors. */
static void end_at_once(int status, void *unused)
{
    (void)unused;
    fflush(NULL);
    _exit(status);
}

/* Frees the survey where it fails, or leaves it to itself: -ENODEV. */
static int carry_out(struct survey *survey, int timeout_ms)
{
    int error = start(survey);

    if (error)
        survey_free(survey);
    if (error || await(survey, timeout_ms))
        return error;
    on_exit(end_at_once, NULL);
    return gw_fail(-ENODEV,
                   "fabric: libfabric did not say within %d s what this host has: a device does "
                   "not answer; FI_PROVIDER=NAME in the environment keeps libfabric to that "
                   "provider's devices",
                   timeout_ms / 1000);
}

int gw_fabric_survey(const struct fabric_library *library, int timeout_ms,
                     struct fabric_candidates *out)
{
    struct survey *survey;
    int error = survey_new(library, "", &survey);

    if (!error)
        error = carry_out(survey, timeout_ms);
    if (error)
        return error;
    if (survey->error.code)
        error = gw_error_raise(&survey->error);
    else
        *out = survey->found;
    survey_free(survey);
    return error;
}

int gw_fabric_rouse(const struct fabric_library *library, const char *provider, int timeout_ms)
{
    struct survey *survey;
    int error = survey_new(library, provider, &survey);

    if (!error)
        error = carry_out(survey, timeout_ms);
    if (!error)
        survey_free(survey);
    return error;
}
