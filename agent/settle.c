/* SPDX-License-Identifier: Apache-2.0 */
/* Checks the request and hands it to the engine. Whether the word is taken is the engine's. */
#include "agent/settle.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/paths.h"
#include "agent/snapshot.h"
#include "agent/state.h"
#include "common/error.h"

static int parse(const json_t *request, struct gw_resolve_request *out)
{
    const char *keep = json_string_value(json_object_get(request, "keep"));

    memset(out, 0, sizeof(*out));
    out->move = json_string_value(json_object_get(request, "move"));
    out->is_confirmed = json_is_true(json_object_get(request, "confirmed"));
    if (!out->move || !*out->move)
        return gw_fail(-EINVAL, "request: 'move' is missing");
    if (!keep || (strcmp(keep, "source") != 0 && strcmp(keep, "target") != 0))
        return gw_fail(-EINVAL, "request: 'keep' is neither source nor target");
    out->keeps_target = strcmp(keep, "target") == 0;
    return 0;
}

json_t *gw_settle(const struct gw_environment *environment, const json_t *request)
{
    struct gw_outcome outcome = {.exit_code = GW_EXIT_USAGE};
    struct gw_resolve_request parsed;
    json_t *answer;
    int error = parse(request, &parsed);

    if (!error)
        error = gw_resolve_run(environment, &parsed, &outcome);
    answer = json_pack("{s:b, s:i, s:O?}", "ok", error == 0, "exit_code", (int)outcome.exit_code,
                       "move", outcome.detail);
    if (answer && error)
        json_object_set_new(answer, "error", gw_json_text(gw_error_message()));
    /* Other agents of this host may know the move. */
    if (answer && error == -ENOENT)
        json_object_set_new(answer, "unknown", json_true());
    gw_outcome_free(&outcome);
    return answer;
}

int gw_settle_here(const char *state_folder, const json_t *request, json_t **answer)
{
    struct gw_environment environment = {.state_dir = state_folder};
    struct gw_state state = {.lock_fd = -1};
    char path[PATH_MAX];
    int error = gw_path_join(state_folder, "journal.db", path, sizeof(path));

    if (!error && access(path, F_OK) != 0)
        error = gw_fail_errno(-errno, "no agent runs here, and %s", path);
    if (!error)
        error = gw_state_open(state_folder, true, &state);
    if (error)
        return error;
    error = gw_attended_new(&environment.attended);
    environment.journal = state.journal;
    memcpy(environment.instance_id, state.instance_id, GW_ID_SIZE);
    if (!error) {
        *answer = gw_settle(&environment, request);
        error = *answer ? 0 : gw_fail(-ENOMEM, "out of memory");
    }
    gw_attended_free(environment.attended);
    gw_state_close(&state);
    return error;
}
