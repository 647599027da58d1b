/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a request on a thread of its own and ticks until it has ended. */
#include "agent/here.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "agent/options.h"
#include "agent/paths.h"
#include "agent/state.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/topology.h"

struct here {
    struct gw_environment environment;
    char folder[PATH_MAX]; /* environment.state_dir */
    struct gw_topology *topology;
    struct gw_job_request *request;
    struct gw_progress progress;
    struct gw_result result;
    int ended_fds[2]; /* a pipe whose writing end closes when the copy has ended */
};

#define FOLDER_NAME "copies"

static void close_state(struct gw_environment *environment)
{
    gw_attended_free(environment->attended);
    environment->attended = NULL;
    environment->state_dir = NULL;
}

static int open_state(struct gw_environment *environment, char *folder)
{
    char home[PATH_MAX], notes[PATH_MAX];
    int error = gw_path_state_home(home, sizeof(home));

    if (!error)
        error = gw_path_join(home, FOLDER_NAME, folder, PATH_MAX);
    if (!error)
        error = gw_path_join(folder, "partial", notes, sizeof(notes));
    if (!error)
        error = gw_path_make_folder(notes);
    if (!error)
        error = gw_instance_load(folder, environment->instance_id);
    if (!error)
        error = gw_attended_new(&environment->attended);
    if (!error)
        error = gw_attended_share(environment->attended, notes);
    if (error) {
        close_state(environment);
        return error;
    }
    environment->state_dir = folder;
    environment->keep_partial_hours = GW_KEEP_PARTIAL;
    return 0;
}

/* Who only looks makes nothing. */
static int find_state(void)
{
    char home[PATH_MAX], folder[PATH_MAX];
    int error = gw_path_state_home(home, sizeof(home));

    if (!error)
        error = gw_path_join(home, FOLDER_NAME, folder, sizeof(folder));
    if (!error && access(folder, F_OK) != 0)
        error = gw_fail(-ENOENT, "no copy ran here without an agent");
    return error;
}

int gw_here_state_open(struct gw_here_state *out)
{
    const struct gw_transports_wanted any = {.names = NULL};
    int error = find_state();

    memset(out, 0, sizeof(*out));
    if (!error)
        error = gw_transports_open(&any, &out->environment.transports);
    if (error)
        return error;
    error = open_state(&out->environment, out->folder);
    if (error)
        gw_transports_close(&out->environment.transports);
    return error;
}

void gw_here_state_close(struct gw_here_state *state)
{
    close_state(&state->environment);
    gw_transports_close(&state->environment.transports);
}

/* A copy that cannot be noted is made all the same. */
static int prepare(struct here *here, const struct gw_here_options *options)
{
    if (options->keeps && open_state(&here->environment, here->folder) == 0) {
        gw_partials_tidy(&here->environment, true);
        return 0;
    }
    if (options->keeps)
        gw_log(GW_LOG_INFO, "should the copy be lost, it starts over: %s", gw_error_message());
    if (getrandom(here->environment.instance_id, GW_ID_SIZE, 0) != GW_ID_SIZE)
        return gw_fail_errno(-errno, "random number");
    return 0;
}

static void *run_thread(void *argument)
{
    struct here *here = argument;
    sigset_t too_large;

    /* A file that may not grow (ulimit -f) is an error, not the end of whoever embeds this. */
    sigemptyset(&too_large);
    sigaddset(&too_large, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &too_large, NULL);
    gw_request_run(&here->environment, here->request, &here->progress, &here->result);
    close(here->ended_fds[1]);
    return NULL;
}

static void tick_until_end(struct here *here, const struct gw_here_options *options)
{
    struct pollfd item = {.fd = here->ended_fds[0], .events = POLLIN};

    while (!item.revents) {
        struct gw_progress_data data;

        if (poll(&item, 1, GW_HERE_TICK_MS) < 0 && errno != EINTR)
            break;
        gw_progress_get(&here->progress, &data);
        if (!item.revents && options->tick && options->tick(&data, options->context) != 0)
            gw_progress_cancel(&here->progress);
    }
}

static int run(struct here *here, const struct gw_here_options *options)
{
    pthread_t thread;
    int error;

    if (pipe2(here->ended_fds, O_CLOEXEC) != 0)
        return gw_fail_errno(-errno, "pipe");
    error = pthread_create(&thread, NULL, run_thread, here);
    if (error) {
        close(here->ended_fds[0]);
        close(here->ended_fds[1]);
        return gw_fail_errno(-error, "thread for the copy");
    }
    tick_until_end(here, options);
    pthread_join(thread, NULL);
    close(here->ended_fds[0]);
    return 0;
}

int gw_here_run(const struct gw_here_options *options, struct gw_result *out,
                struct gw_progress_data *last)
{
    struct here here = {.ended_fds = {-1, -1}};
    struct gw_transports_wanted transports;
    const char *names;
    int error = gw_job_request_parse(options->request, &here.request);

    if (error)
        return error;
    here.environment.reconnect_s = GW_RECONNECT_DEFAULT_S;
    names = here.request->copy.link.transports;
    transports = (struct gw_transports_wanted){
        .names = &names,
        .name_count = names ? 1 : 0,
        .settings = options->settings,
        .setting_count = options->setting_count,
    };
    error = gw_transports_open(&transports, &here.environment.transports);
    if (!error)
        error = gw_topology_new(NULL, &here.topology);
    here.environment.topology = here.topology;
    if (!error)
        error = prepare(&here, options);
    if (!error)
        error = gw_progress_init(&here.progress);
    if (!error) {
        error = run(&here, options);
        gw_progress_get(&here.progress, last);
        if (!last->ended_ns)
            last->ended_ns = gw_clock_ns();
        gw_progress_free(&here.progress);
    }
    if (!error)
        *out = here.result;
    close_state(&here.environment);
    gw_transports_close(&here.environment.transports);
    gw_topology_free(here.topology);
    gw_job_request_free(here.request);
    return error;
}
