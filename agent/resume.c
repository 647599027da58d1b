/* SPDX-License-Identifier: Apache-2.0 */
/* Finds what is kept of a lost move or copy. Whether it can be gone on with is the engine's to say. */
#include "agent/resume.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/run.h"
#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/session/attended.h"
#include "engine/session/named.h"
#include "engine/session/partial.h"
#include "engine/session/recover.h"

struct search {
    const struct gw_environment *environment;
    const char *which;
    bool source_only;
    struct gw_partial found;
    unsigned matches;
};

/* Without a word, any. */
static bool is_wanted(const struct search *search, const char *epoch, const json_t *detail)
{
    return !search->which ||
           gw_named_is(epoch, json_string_value(json_object_get(detail, "vm")), search->which);
}

static int look(const struct gw_partial *partial, void *context)
{
    struct search *search = context;

    if (search->source_only ? !partial->is_kept || partial->side != GW_SIDE_SOURCE
                            : !gw_partial_is_of_note(partial))
        return 0;
    /* One that died while it began to go on with another stands for nothing of its own. */
    if (!is_wanted(search, partial->epoch, partial->detail) ||
        gw_partial_is_provisional(search->environment, partial))
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
    struct search search = {.environment = environment, .which = which, .source_only = true};
    json_t *request;
    int error = which ? gw_named_check(which) : 0;

    if (!error)
        error = find(environment, &search);
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

    json_object_set_new(found->detail, GW_TAKES_FINISHED, json_true());
    if (text && gw_job_request_parse(text, &request) == 0) {
        int error = gw_request_call(environment, request, cancel, found);

        gw_job_request_free(request);
        if (!error)
            return;
    }
    gw_partial_cancel(environment, found);
}

/* A move at its target whose note is gone, and whose files are away: the journal knows it still. */
static int look_in_journal(const struct gw_journal_entry *entry, void *context)
{
    struct search *search = context;

    if (!gw_recover_check_here(entry) || !is_wanted(search, entry->epoch, entry->detail))
        return 0;
    snprintf(search->found.epoch, sizeof(search->found.epoch), "%s", entry->epoch);
    search->matches++;
    return 0;
}

static int forget_journalled(const struct gw_environment *environment, const char *which)
{
    struct search search = {.which = which};
    int error = environment->journal
                    ? gw_journal_each_open(environment->journal, look_in_journal, &search)
                    : 0;

    if (error)
        return error;
    if (search.matches > 1)
        return gw_fail(-EINVAL, "more than one fits: say which, see godwit status");
    if (search.matches == 0)
        return gw_fail(-ENOENT, "no migration '%.40s' here: see godwit status", which);
    error = gw_attend(environment->attended, search.found.epoch, GW_SIDE_TARGET);
    if (error)
        return gw_fail(-EBUSY, "%.12s is under way", search.found.epoch);
    error = gw_recover_give_up(environment, search.found.epoch);
    gw_unattend(environment->attended, search.found.epoch, GW_SIDE_TARGET);
    return error;
}

/* Said twice: its files stay wherever they are, and a move is settled without them. */
static int forget_found(const struct gw_environment *environment, const struct gw_partial *found)
{
    int error = found->side == GW_SIDE_TARGET ? gw_recover_give_up(environment, found->epoch) : 0;

    if (error && error != -ENOENT)
        return error;
    gw_partial_forget(environment, found->epoch, found->side);
    return 0;
}

/* found is freed. */
static int cancel_kept(const struct gw_environment *environment, struct gw_partial *found)
{
    enum gw_journal_side side = found->side;
    int error = gw_attend(environment->attended, found->epoch, side);

    if (error) {
        error = gw_fail(-EBUSY, "%.12s is under way", found->epoch);
    } else {
        if (gw_partial_is_given_up(found))
            error = forget_found(environment, found);
        else
            cancel_found(environment, found);
        gw_unattend(environment->attended, found->epoch, side);
    }
    gw_partial_free(found);
    return error;
}

int gw_resume_cancel(const struct gw_environment *environment, const char *which)
{
    struct search search = {.environment = environment, .which = which};
    int error = gw_named_check(which);

    if (error)
        return error;
    error = find(environment, &search);
    if (error == -ENOENT)
        error = gw_partial_forget_damaged(environment, which);
    else if (!error)
        return cancel_kept(environment, &search.found);
    return error == -ENOENT ? forget_journalled(environment, which) : error;
}
