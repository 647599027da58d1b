/* SPDX-License-Identifier: Apache-2.0 */
/* Finds what is kept of a lost move or copy. Whether it can be gone on with is the engine's to say. */
#include "agent/resume.h"

#include <errno.h>
#include <string.h>

#include "agent/run.h"
#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/session/attended.h"
#include "engine/session/partial.h"

struct search {
    const char *which;
    bool source_only;
    struct gw_partial found;
    unsigned matches;
};

static int look(const struct gw_partial *partial, void *context)
{
    struct search *search = context;
    const char *vm = json_string_value(json_object_get(partial->detail, "vm"));
    const char *which = search->which;

    if (!partial->is_kept || (search->source_only && partial->side != GW_SIDE_SOURCE))
        return 0;
    if (which && strncmp(partial->epoch, which, strlen(which)) != 0 &&
        (!vm || strcmp(vm, which) != 0))
        return 0;
    gw_partial_free(&search->found);
    search->found = *partial;
    json_incref(search->found.detail);
    search->matches++;
    return 0;
}

static int find(const struct gw_environment *environment, struct search *search)
{
    gw_partial_each(environment, look, search);
    if (search->matches == 1)
        return 0;
    gw_partial_free(&search->found);
    if (search->matches > 1)
        return gw_fail(-EINVAL, "more than one fits: say which, see godwit resume --list");
    return gw_fail(-ENOENT,
                   "nothing is kept here%s%.64s: see godwit resume --list; start over with godwit "
                   "move or godwit copy",
                   search->which ? " of " : "", search->which ? search->which : "");
}

static int check_settled(const struct gw_environment *environment, const char *epoch)
{
    struct gw_journal_entry entry;
    enum gw_handover_state state = GW_HANDOVER_NONE;
    int error = environment->journal
                    ? gw_journal_find(environment->journal, epoch, GW_SIDE_SOURCE, &entry)
                    : -ENOENT; /* no VM was ever moved from here */

    if (error)
        return error == -ENOENT ? 0 : error;
    error = gw_handover_state_parse(entry.state, &state);
    gw_journal_entry_free(&entry);
    if (!error && !gw_handover_is_decided(state))
        return gw_fail(-EBUSY, "move %.12s is still being settled: try again in a few seconds",
                       epoch);
    return error;
}

int gw_resume_request(const struct gw_environment *environment, const char *which, json_t **out)
{
    struct search search = {.which = which, .source_only = true};
    json_t *request;
    int error = find(environment, &search);

    if (!error)
        error = check_settled(environment, search.found.epoch);
    request = error ? NULL : json_deep_copy(json_object_get(search.found.detail, "request"));
    if (!error && !json_is_object(request))
        error = gw_fail(-ENOENT, "move %.12s cannot be asked again: start over with godwit move",
                        search.found.epoch);
    if (!error) {
        json_object_set_new(request, "resume", json_string(search.found.epoch));
        *out = request;
    } else {
        json_decref(request);
    }
    gw_partial_free(&search.found);
    return error;
}

static void cancel(const struct gw_environment *environment, void *context)
{
    gw_partial_cancel(environment, context);
}

/* The other host is told with the credentials that the request had, if it had its own. */
static void cancel_found(const struct gw_environment *environment, struct gw_partial *found)
{
    json_t *text = json_object_get(found->detail, "request");
    struct gw_job_request *request;

    if (text && gw_job_request_parse(text, &request) == 0) {
        int error = gw_request_call(environment, request, cancel, found);

        gw_job_request_free(request);
        if (!error)
            return;
    }
    gw_partial_cancel(environment, found);
}

int gw_resume_cancel(const struct gw_environment *environment, const char *which)
{
    struct search search = {.which = which};
    enum gw_journal_side side;
    int error = find(environment, &search);

    if (error)
        return error;
    side = search.found.side;
    error = gw_attend(environment->attended, search.found.epoch, side);
    if (error) {
        error = gw_fail(-EBUSY, "%.12s is under way", search.found.epoch);
    } else {
        cancel_found(environment, &search.found);
        gw_unattend(environment->attended, search.found.epoch, side);
    }
    gw_partial_free(&search.found);
    return error;
}
