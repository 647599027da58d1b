/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A person's word about a move in doubt: finds it, says what it is, and hands the word to the state
 * machine. Whether the word is expected is the machine's rule.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "engine/session/attended.h"
#include "engine/session/named.h"
#include "engine/session/recover.h"

#define ATTEND_LIMIT_NS (40 * GW_NS_PER_S)
#define ATTEND_POLL_MS  10

/* ---- finding it ---- */

struct search {
    const char *wanted;
    unsigned count, undoubted;
    struct gw_journal_entry found; /* the first; owned */
    char state[24];                /* of one that fits and is not in doubt */
};

static int look_at(const struct gw_journal_entry *entry, void *context)
{
    const char *vm = json_string_value(json_object_get(entry->detail, "vm"));
    struct search *search = context;

    if (!gw_named_is(entry->epoch, vm, search->wanted))
        return 0;
    /* Not only what is in doubt: a person may change their mind about a VM that was given away to a
     * host that never answered. */
    if (!gw_resolve_may(entry)) {
        search->undoubted++;
        snprintf(search->state, sizeof(search->state), "%s", entry->state);
        return 0;
    }
    if (search->count++ == 0) {
        search->found = *entry;
        json_incref(search->found.detail);
    }
    return 0;
}

static int find(const struct gw_environment *environment, const char *wanted,
                struct gw_journal_entry *out)
{
    struct search search = {.wanted = wanted};
    int error = gw_journal_each_open(environment->journal, look_at, &search);

    if (!error && search.count == 0 && search.undoubted > 0)
        error = gw_fail(-EPERM, "move %.64s is not in doubt (%s): there is nothing to settle",
                        wanted, search.state);
    else if (!error && search.count == 0)
        error =
            gw_fail(-ENOENT, "no move in doubt is called %.64s here: see godwit status", wanted);
    else if (!error && search.count > 1)
        error = gw_fail(-EPERM,
                        "%u moves in doubt are called %.64s: name one by its number, see godwit "
                        "status",
                        search.count, wanted);
    if (error)
        gw_journal_entry_free(&search.found);
    else
        *out = search.found;
    return error;
}

/* ---- settling it ---- */

/* Recovery has the move in hand for some seconds at a time. */
static int attend(const struct gw_environment *environment, const struct gw_journal_entry *entry)
{
    const uint64_t deadline = gw_clock_ns() + ATTEND_LIMIT_NS;
    int error;

    while ((error = gw_attend(environment->attended, entry->epoch, entry->side)) != 0 &&
           gw_clock_ns() < deadline)
        poll(NULL, 0, ATTEND_POLL_MS);
    return error;
}

static bool is_as_asked(const struct gw_recovered *recovered, enum gw_journal_side side,
                        bool keeps_target)
{
    switch (recovered->state) {
    case GW_HANDOVER_RESUMED:
    case GW_HANDOVER_CLOSED:
    case GW_HANDOVER_GONE:
        return !keeps_target;
    case GW_HANDOVER_HANDED_OVER:
    case GW_HANDOVER_DONE:
    case GW_HANDOVER_RUNNING:
        return keeps_target;
    default:
        return side == GW_SIDE_TARGET && !keeps_target && gw_handover_is_decided(recovered->state);
    }
}

static int judge(const struct gw_recovered *recovered, enum gw_journal_side side, bool keeps_target,
                 struct gw_outcome *out)
{
    struct gw_error cause = recovered->cause;

    if (recovered->state != GW_HANDOVER_NONE && is_as_asked(recovered, side, keeps_target) &&
        !recovered->is_contradicted)
        return 0;
    out->exit_code = GW_EXIT_IN_DOUBT;
    if (recovered->state == GW_HANDOVER_NONE)
        return cause.code ? gw_error_raise(&cause)
                          : gw_fail(-EIO, "the move could not be taken up: see the agent's log");
    if (recovered->is_contradicted)
        return gw_fail(-EUCLEAN, "the other host says the opposite: see godwit status on both");
    if (gw_handover_is_decided(recovered->state)) {
        out->exit_code = GW_EXIT_FAILED;
        return gw_fail(-EPERM, "it was settled otherwise: %s%s%s",
                       gw_handover_state_meaning(recovered->state), cause.code ? ": " : "",
                       cause.code ? cause.text : "");
    }
    return cause.code ? gw_error_raise(&cause)
                      : gw_fail(-EBUSY, "%s", gw_handover_state_meaning(recovered->state));
}

static int settle(const struct gw_environment *environment, const struct gw_journal_entry *found,
                  bool keeps_target, struct gw_outcome *out)
{
    struct gw_recovered recovered;
    int error = attend(environment, found);

    if (error)
        return error;
    error = gw_recover_entry(environment, found->epoch, found->side,
                             keeps_target ? GW_EVENT_RESOLVE_TARGET : GW_EVENT_RESOLVE_SOURCE,
                             &recovered);
    if (!error) {
        json_object_set_new(out->detail, "state",
                            json_string(gw_handover_state_name(recovered.state)));
        json_object_set_new(out->detail, "meaning",
                            json_string(gw_handover_state_meaning(recovered.state)));
        error = judge(&recovered, found->side, keeps_target, out);
    }
    gw_unattend(environment->attended, found->epoch, found->side);
    return error;
}

int gw_resolve_run(const struct gw_environment *environment,
                   const struct gw_resolve_request *request, struct gw_outcome *out)
{
    struct gw_journal_entry found;
    int error;

    out->exit_code = GW_EXIT_FAILED;
    out->detail = NULL;
    if (!environment->journal || !environment->attended)
        return gw_fail(-ENOTSUP, "this agent has no state folder and knows no moves");
    error = gw_named_check(request->move);
    if (!error)
        error = find(environment, request->move, &found);
    if (error)
        return error;
    out->detail = gw_resolve_describe(&found);
    out->exit_code = GW_EXIT_DONE;
    if (!out->detail)
        error = gw_fail(-ENOMEM, "no memory for the description of a move");
    else if (request->is_confirmed)
        error = settle(environment, &found, request->keeps_target, out);
    if (error && out->exit_code == GW_EXIT_DONE)
        out->exit_code = GW_EXIT_IN_DOUBT;
    gw_journal_entry_free(&found);
    return error;
}
