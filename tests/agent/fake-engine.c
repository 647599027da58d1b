/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scripted engine for tests of the agent and the command line: it implements engine/migration.h
 * and moves nothing. The last part of the source's path is the script: slow*      takes
 * FAKE_SLOW_MS (2000 when unset), and until there is a file FAKE_GATE if that is set, and ends
 * well; cancel ends it fail*      fails at once, blocked*
 * is blocked with two reasons, verify* fails the verification doubt*     ends in doubt commit* as
 * slow, and past the point of no return from the start: cancel is refused other      ends well at
 * once
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/migration.h"
#include "engine/session/recover.h"

#define STEPS        20
#define GATE_TURN_MS 20
#define GATE_TURNS   15000u /* 5 minutes: a test that was killed leaves nobody behind */
#define TOTAL_SIZE   (1ull << 30)

static bool starts(const char *path, const char *word)
{
    const char *slash = strrchr(path, '/');

    return strncmp(slash ? slash + 1 : path, word, strlen(word)) == 0;
}

static void set_step(struct gw_progress *progress, unsigned step, bool is_committed)
{
    struct gw_progress_data *data = &progress->data;

    pthread_mutex_lock(&progress->lock);
    data->phase = step < STEPS / 2 ? GW_PHASE_DISKS : GW_PHASE_MEMORY;
    data->round = step / 5;
    data->bytes_total = TOTAL_SIZE;
    data->bytes_done = data->bytes_sent = TOTAL_SIZE / STEPS * step;
    data->bytes_zero = 4096;
    data->rate = 100 << 20;
    data->dirty_rate = 5 << 20;
    data->predicted_pause_ns = 42 * GW_NS_PER_MS;
    data->channel_count = 2;
    snprintf(data->state, sizeof(data->state), "%s", is_committed ? "COMMITTED" : "COPYING");
    snprintf(data->path, sizeof(data->path), "sealed");
    snprintf(data->transport, sizeof(data->transport), "fake");
    pthread_mutex_unlock(&progress->lock);
}

/* False when it was cancelled. */
static bool take_time(struct gw_progress *progress, bool is_committed)
{
    const char *text = getenv("FAKE_SLOW_MS"), *gate = getenv("FAKE_GATE");
    int step_ms = (text ? atoi(text) : 2000) / STEPS;
    struct pollfd item = {.fd = progress->cancel_fd, .events = POLLIN};

    for (unsigned step = 0; step < STEPS; step++) {
        set_step(progress, step, is_committed);
        if (poll(&item, 1, step_ms) > 0)
            return false;
    }
    for (unsigned turn = 0; gate && access(gate, F_OK) < 0 && turn < GATE_TURNS; turn++) {
        if (poll(&item, 1, GATE_TURN_MS) > 0)
            return false;
    }
    return true;
}

static void end(struct gw_progress *progress)
{
    pthread_mutex_lock(&progress->lock);
    progress->data.phase = GW_PHASE_ENDED;
    progress->data.ended_ns = gw_clock_ns();
    pthread_mutex_unlock(&progress->lock);
}

static int play(const char *path, struct gw_progress *progress, struct gw_outcome *out)
{
    bool is_committed = starts(path, "commit");

    pthread_mutex_lock(&progress->lock);
    progress->data.started_ns = gw_clock_ns();
    pthread_mutex_unlock(&progress->lock);
    set_step(progress, 0, is_committed);
    out->exit_code = GW_EXIT_FAILED;
    if (starts(path, "fail"))
        return gw_fail(-EIO, "fake: the disk broke");
    if (starts(path, "verify")) {
        out->exit_code = GW_EXIT_VERIFY;
        return gw_fail(-EBADMSG, "fake: digests differ");
    }
    if (starts(path, "doubt")) {
        out->exit_code = GW_EXIT_IN_DOUBT;
        return gw_fail(-ECONNRESET, "fake: no answer to GO");
    }
    if (starts(path, "blocked")) {
        out->exit_code = GW_EXIT_BLOCKED;
        out->detail = json_pack("{s:[s,s]}", "blocked", "no bridge br7", "no room");
        return gw_fail(-EPERM, "fake: 2 checks block");
    }
    if ((starts(path, "slow") || is_committed) && !take_time(progress, is_committed)) {
        end(progress);
        return gw_fail(-ECANCELED, "cancelled");
    }
    set_step(progress, STEPS, is_committed);
    pthread_mutex_lock(&progress->lock);
    progress->data.pause_ns = 12 * GW_NS_PER_MS;
    pthread_mutex_unlock(&progress->lock);
    out->exit_code = GW_EXIT_DONE;
    out->detail = json_pack("{s:[{s:s, s:s}], s:{s:f, s:f}}", "volumes", "name", "vda", "path",
                            "/srv/vda.raw", "pause", "stop", 3.5, "state", 8.5);
    end(progress);
    return 0;
}

int gw_move_run(const struct gw_environment *environment, const struct gw_move_request *request,
                struct gw_progress *progress, struct gw_outcome *out)
{
    return play(request->qmp_path, progress, out);
}

int gw_copy_run(const struct gw_environment *environment, const struct gw_copy_request *request,
                struct gw_progress *progress, struct gw_outcome *out)
{
    return play(request->source_path, progress, out);
}

struct gw_serve {
    struct gw_control *control;
};

int gw_serve_new(const struct gw_environment *environment, struct gw_control *control,
                 struct gw_serve **out)
{
    struct gw_serve *serve = calloc(1, sizeof(*serve));

    if (!serve)
        return gw_fail(-ENOMEM, "out of memory");
    serve->control = control;
    *out = serve;
    return 0;
}

bool gw_serve_has_link(struct gw_serve *serve, const uint8_t *link_id)
{
    return memcmp(gw_control_link_id(serve->control), link_id, GW_ID_SIZE) == 0;
}

int gw_rejoins_new(struct gw_rejoins **out)
{
    *out = NULL;
    return 0;
}

void gw_rejoins_free(struct gw_rejoins *rejoins)
{
}

int gw_rejoins_take(struct gw_rejoins *rejoins, struct gw_control *control)
{
    gw_control_close(control);
    return gw_fail(-ENOENT, "fake: nothing is rejoined");
}

int gw_serve_offer(struct gw_serve *serve, struct gw_request *request)
{
    gw_reject(request, "fake: offered to its session");
    return 0;
}

/* Until the peer closes the session or somebody cancels. */
int gw_serve_run(struct gw_serve *serve, struct gw_progress *progress, struct gw_outcome *out)
{
    struct pollfd item = {.fd = progress->cancel_fd, .events = POLLIN};

    out->exit_code = GW_EXIT_DONE;
    while (poll(&item, 1, 0) == 0) {
        struct gw_control_frame frame;
        int error = gw_control_receive(serve->control, 50, &frame);

        if (error == 0)
            json_decref(frame.message);
        else if (error != -ETIMEDOUT)
            return 0;
    }
    return gw_fail(-ECANCELED, "cancelled");
}

int gw_serve_answer(const struct gw_environment *environment, struct gw_control *control)
{
    gw_control_close(control);
    return 0;
}

void gw_serve_free(struct gw_serve *serve)
{
    if (serve)
        gw_control_close(serve->control);
    free(serve);
}

int gw_resolve_run(const struct gw_environment *environment,
                   const struct gw_resolve_request *request, struct gw_outcome *out)
{
    struct gw_journal_entry entry;

    out->exit_code = GW_EXIT_FAILED;
    out->detail = NULL;
    if (gw_journal_find(environment->journal, request->move, GW_SIDE_SOURCE, &entry) != 0)
        return gw_fail(-ENOENT, "no move in doubt is called %s here", request->move);
    out->detail = gw_resolve_describe(&entry);
    out->exit_code = GW_EXIT_DONE;
    if (request->is_confirmed)
        json_object_set_new(out->detail, "state",
                            json_string(request->keeps_target ? "DONE" : "CLOSED"));
    gw_journal_entry_free(&entry);
    return 0;
}

int gw_recover(const struct gw_environment *environment)
{
    char path[4096];
    FILE *file;

    /* A trace for the test that recovery was asked for. */
    snprintf(path, sizeof(path), "%s/recover-was-called", environment->state_dir);
    file = fopen(path, "w");
    if (file)
        fclose(file);
    return 0;
}

int gw_recover_check_here(const struct gw_journal_entry *entry)
{
    return 0;
}

int gw_recover_give_up(const struct gw_environment *environment, const char *epoch)
{
    return -ENOENT;
}
