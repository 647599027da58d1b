/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the agents of this host, and prints the moves in doubt with the commands that settle them. */
#include "cli/agents.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "agent/client.h"
#include "agent/left.h"
#include "agent/snapshot.h"

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static bool is_in_doubt(const json_t *item)
{
    return json_is_true(json_object_get(item, "is_in_doubt"));
}

void gw_agents_print_kept(const json_t *item)
{
    bool is_source = strcmp(text_of(item, "side"), "source") == 0;
    bool is_copy = strcmp(text_of(item, "kind"), "copy") == 0;
    bool is_kept = json_is_true(json_object_get(item, "kept"));
    bool is_given_up = json_is_true(json_object_get(item, "given_up"));

    printf("  %s: %s %.12s of %s%s%s (%s), %.1f MiB of its disks%s\n", is_kept ? "kept" : "left",
           is_copy ? "copy" : "move", text_of(item, "epoch"), text_of(item, "vm"),
           *text_of(item, "peer") ? " to " : "", text_of(item, "peer"), text_of(item, "side"),
           (double)json_integer_value(json_object_get(item, "bytes")) / (1 << 20),
           !is_kept    ? ""
           : is_source ? ": godwit resume goes on with it, godwit cancel removes it"
                       : ": its source may go on with it");
    if (*text_of(item, "away"))
        printf("        %s; %s, godwit cancel %s\n", text_of(item, "away"),
               is_kept ? "until then it waits" : "then it is removed",
               is_given_up ? "forgets it" : "gives it up");
}

void gw_agents_print_doubt(const json_t *item)
{
    const json_t *command;
    size_t i;

    printf("  %s %.12s%s%s%s (%s, %s): %s\n", is_in_doubt(item) ? "IN DOUBT" : "waits",
           text_of(item, "epoch"), *text_of(item, "vm") ? " " : "", text_of(item, "vm"),
           json_is_true(json_object_get(item, "contradicted")) ? " CONTRADICTED" : "",
           text_of(item, "side"), text_of(item, "state"), text_of(item, "meaning"));
    if (*text_of(item, "away"))
        printf("        %s; then it is removed, godwit cancel %.12s forgets it\n",
               text_of(item, "away"), text_of(item, "epoch"));
    if (!is_in_doubt(item))
        return;
    puts("           the agents settle it once both run and reach each other; where the other host "
         "is lost for good:");
    json_array_foreach(json_object_get(item, "commands"), i, command)
        printf("             %s\n", json_string_value(command));
}

unsigned gw_agents_doubts(const json_t *agents)
{
    const json_t *answer, *item;
    unsigned count = 0;
    size_t i, j;

    json_array_foreach(agents, i, answer)
        json_array_foreach(json_object_get(answer, "in_doubt"), j, item) count += is_in_doubt(item);
    return count;
}

static int ask(struct gw_client *client, void *context)
{
    json_t *request = json_pack("{s:s}", "request", "status"), *answer;
    int error = gw_client_ask(client, request, &answer);

    json_decref(request);
    if (error)
        return 0; /* an agent that ends while it is asked is gone */
    json_object_set_new(answer, "socket", gw_json_text(gw_client_path(client)));
    json_array_append_new(context, answer);
    return 0;
}

int gw_agents_ask(const char *socket_path, json_t *agents)
{
    struct gw_client *client;
    int error = gw_client_find(socket_path, false, &client);

    if (!error) {
        ask(client, agents);
        gw_client_close(client);
    } else if (error != -ENOENT || socket_path) {
        return error;
    }
    return socket_path ? 0 : gw_client_each_private(ask, agents);
}

static int add_left(const char *folder, void *context)
{
    json_t *answer = gw_left_describe(folder);

    if (answer)
        json_array_append_new(context, answer);
    return 0;
}

void gw_agents_add_left(json_t *agents)
{
    gw_left_each(add_left, agents);
}
