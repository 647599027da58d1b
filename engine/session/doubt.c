/* SPDX-License-Identifier: Apache-2.0 */
/* Which entries of the journal are for a person to settle, and what people are told of them. It does
 * nothing about them. */
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/migration.h"

#define EPOCH_DIGITS 12u /* as people are shown it */

static const char *text_of(const struct gw_journal_entry *entry, const char *member)
{
    const char *text = json_string_value(json_object_get(entry->detail, member));

    return text ? text : "";
}

/* The machine as it will be once a restart has done its lists. -EINVAL. */
static int restart(const struct gw_journal_entry *entry, struct gw_handover *out)
{
    struct gw_handover_actions actions;
    int error;

    memset(out, 0, sizeof(*out));
    out->is_guest_paused = json_is_true(json_object_get(entry->detail, "paused"));
    out->is_contradicted = json_is_true(json_object_get(entry->detail, GW_CONTRADICTED));
    error = gw_handover_restart(out, entry, &actions);
    while (!error && out->is_busy)
        error = gw_handover_step(out, GW_EVENT_DONE, &actions);
    return error;
}

bool gw_resolve_is_in_doubt(const struct gw_journal_entry *entry)
{
    struct gw_handover machine;

    return restart(entry, &machine) == 0 &&
           (machine.is_contradicted || !gw_handover_is_decided(machine.state));
}

static const char *meaning_of(const struct gw_journal_entry *entry,
                              const struct gw_handover *machine)
{
    if (!machine->is_contradicted)
        return gw_handover_state_meaning(machine->state);
    if (machine->state == GW_HANDOVER_HANDED_OVER || machine->state == GW_HANDOVER_DONE)
        return "nobody runs the VM: this host was told to give it away, and the target says that "
               "it "
               "never will run it";
    if (entry->side == GW_SIDE_TARGET)
        return "two hosts may run the VM: this one does, and the source was told to take it back";
    return "two hosts may run the VM: this one was told to take it back, and the target says that "
           "it "
           "has it";
}

json_t *gw_resolve_describe(const struct gw_journal_entry *entry)
{
    struct gw_handover machine;
    char command[96];
    json_t *commands = json_array(), *object;

    if (restart(entry, &machine)) {
        json_decref(commands);
        return json_pack("{s:s,s:s,s:s}", "epoch", entry->epoch, "state", entry->state, "meaning",
                         gw_error_message());
    }
    for (int keeps_target = 0; keeps_target < 2; keeps_target++) {
        if (!gw_handover_expects(&machine,
                                 keeps_target ? GW_EVENT_RESOLVE_TARGET : GW_EVENT_RESOLVE_SOURCE))
            continue;
        snprintf(command, sizeof(command), "godwit resolve %.*s --keep %s", (int)EPOCH_DIGITS,
                 entry->epoch, keeps_target ? "target" : "source");
        json_array_append_new(commands, json_string(command));
    }
    object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:b,s:o}", "epoch", entry->epoch, "side",
                       entry->side == GW_SIDE_SOURCE ? "source" : "target", "state", entry->state,
                       "vm", text_of(entry, "vm"), "peer", text_of(entry, "peer"), "meaning",
                       meaning_of(entry, &machine), "contradicted", (int)machine.is_contradicted,
                       "commands", commands);
    return object;
}

bool gw_resolve_may(const struct gw_journal_entry *entry)
{
    struct gw_handover machine;

    return restart(entry, &machine) == 0 &&
           (gw_handover_expects(&machine, GW_EVENT_RESOLVE_SOURCE) ||
            gw_handover_expects(&machine, GW_EVENT_RESOLVE_TARGET));
}
