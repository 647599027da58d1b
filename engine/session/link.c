/* SPDX-License-Identifier: Apache-2.0 */
/* Which way the bytes take to the target. What travels, and what is done when all of it is lost, is
 * source.c's. */
#include "engine/session/link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/log.h"
#include "engine/session/message.h"

int gw_link_init(struct gw_link *link, const struct gw_environment *environment,
                 struct gw_progress *progress, const char *names)
{
    memset(link, 0, sizeof(*link));
    link->environment = environment;
    link->progress = progress;
    link->timeout_ms = GW_CONNECT_TIMEOUT_MS;
    gw_workers_init(&link->workers, environment->topology, environment->worker_count);
    return gw_transports_choose(&environment->transports, names, &link->transports);
}

void gw_link_free(struct gw_link *link)
{
    gw_workers_free(&link->workers);
    gw_link_drop_ways(link);
}

/* The calling thread's message is why something was passed over. */
static void note_passed_over(struct gw_link *link, const char *what)
{
    gw_log(GW_LOG_WARNING, "%s is passed over: %s", what, gw_error_message());
    gw_progress_note(link->progress, "%s is passed over: %.200s", what, gw_error_message());
}

/* The address that was asked for, then the target's others that a rail leads to. */
static unsigned list_addresses(const struct gw_link *link, const struct gw_address *peer,
                               struct gw_address out[1 + GW_RAILS_MAX])
{
    unsigned count = 0;

    out[count++] = *peer;
    for (unsigned i = 0; i < link->way_count; i++)
        for (unsigned j = 0; j < link->ways[i].rail_count && count <= GW_RAILS_MAX; j++) {
            const struct gw_address *other = &link->ways[i].rails[j].pair.peer;
            bool is_known = false;

            for (unsigned k = 0; k < count; k++)
                is_known |= gw_address_same_host(&out[k], other);
            if (!is_known)
                out[count++] = *other;
        }
    return count;
}

int gw_link_dial(struct gw_link *link, const struct gw_address *peer, struct gw_control **out)
{
    struct gw_address addresses[1 + GW_RAILS_MAX];
    unsigned count = list_addresses(link, peer, addresses);
    const struct gw_environment *environment = link->environment;
    struct gw_control_options options = {
        .credentials = environment->credentials,
        .trusted = environment->trusted,
        .trusted_count = environment->trusted_count,
        .timeout_ms = link->timeout_ms,
        .role = link->is_rejoining ? GW_HELLO_REJOIN : GW_HELLO_CONTROL,
    };

    memcpy(options.instance_id, environment->instance_id, GW_ID_SIZE);
    return gw_transports_dial(&link->transports, addresses, count, &options, out);
}

/* ---- ways ---- */

/* The target's addresses of one transport. */
static int parse_addresses(const json_t *list, struct gw_address *out, unsigned *count)
{
    const json_t *item;
    size_t index;

    *count = 0;
    json_array_foreach((json_t *)list, index, item)
    {
        const char *text = json_string_value(item);
        int error;

        if (*count == GW_RAILS_MAX || !text)
            break;
        error = gw_address_parse(text, GW_DEFAULT_PORT, &out[*count]);
        if (error)
            return error;
        ++*count;
    }
    return 0;
}

/* The pair of the control session, as another transport of the target's has it: the same host, at
 * that transport's port. */
static void first_pair(const struct gw_control *control, bool is_own,
                       const struct gw_address *peers, unsigned count, struct gw_rail *out)
{
    out->local = *gw_control_local(control);
    out->peer = gw_control_peer(control)->address;
    gw_address_set_port(&out->local, 0);
    if (is_own || count == 0)
        return;
    for (unsigned i = 0; i < count; i++)
        if (gw_address_same_host(&peers[i], &out->peer)) {
            out->peer = peers[i];
            return;
        }
    out->peer = peers[0];
}

/* Of a transport whose addresses are not the kernel's: it finds its own end for each of the peer's. */
static int pair_own_addresses(const struct gw_address *peers, unsigned count, struct gw_rail *out)
{
    for (unsigned i = 0; i < count; i++) {
        bool is_ipv6 = peers[i].storage.ss_family == AF_INET6;
        int error = gw_address_parse(is_ipv6 ? "::" : "0.0.0.0", 0, &out[i].local);

        if (error)
            return error;
        out[i].peer = peers[i];
    }
    return (int)count;
}

static int add_way(struct gw_link *link, const struct gw_control *control,
                   struct gw_transport *transport, const json_t *addresses)
{
    bool is_own = transport == gw_control_transport(control);
    struct gw_way *way = &link->ways[link->way_count];
    struct gw_rail first, pairs[GW_RAILS_MAX];
    struct gw_address peers[GW_RAILS_MAX];
    unsigned count;
    int found, error = parse_addresses(addresses, peers, &count);

    if (error || (count == 0 && !is_own))
        return error;
    if (transport->ops->carries_no_control) {
        found = pair_own_addresses(peers, count, pairs);
    } else {
        first_pair(control, is_own, peers, count, &first);
        found = gw_rails_pair(&first, peers, count, pairs, GW_RAILS_MAX);
    }
    if (found < 0)
        return found;
    memset(way, 0, sizeof(*way));
    way->transport = transport;
    way->rail_count = (unsigned)found;
    for (unsigned i = 0; i < way->rail_count; i++)
        way->rails[i].pair = pairs[i];
    link->way_count++;
    return 0;
}

/* What the target says of a transport; NULL when it takes no data with it. */
static const json_t *addresses_of(const json_t *transports, const char *name)
{
    const json_t *item;
    size_t index;

    json_array_foreach((json_t *)transports, index, item)
    {
        const char *text = json_string_value(json_object_get(item, "name"));

        if (text && strcmp(text, name) == 0)
            return json_object_get(item, "addresses");
    }
    return NULL;
}

/* Those that carry data, the best first: what the control session reached the target by goes before
 * what it passed over, but after the better ones that it could not be dialled with at all. */
static unsigned order_ways(const struct gw_link *link, struct gw_transport *own,
                           struct gw_transport **out)
{
    const struct gw_transports *all = &link->transports;
    unsigned count = 0, own_at = 0;

    while (own_at < all->count && all->list[own_at] != own)
        own_at++;
    for (unsigned i = 0; i < own_at; i++)
        if (all->list[i]->ops->carries_no_control)
            out[count++] = all->list[i];
    if (gw_transports_has_data(all, own))
        out[count++] = own;
    for (unsigned i = 0; i < all->count; i++) {
        bool is_placed = i == own_at || (i < own_at && all->list[i]->ops->carries_no_control);

        if (!is_placed && !all->is_for_control[i])
            out[count++] = all->list[i];
    }
    return count;
}

static void note_missing(struct gw_link *link, const struct gw_transport *transport)
{
    gw_fail(-ENODEV, "the target does not listen with it");
    gw_transports_pass_over(&link->transports, transport->ops->name);
    note_passed_over(link, transport->ops->name);
}

int gw_link_find_ways(struct gw_link *link, const struct gw_control *control,
                      const json_t *transports)
{
    struct gw_transport *own = gw_control_transport(control);
    struct gw_transport *order[GW_TRANSPORTS_MAX];
    unsigned count = order_ways(link, own, order);
    int error = 0;

    link->way_count = 0;
    for (unsigned i = 0; !error && i < count; i++) {
        const json_t *addresses = addresses_of(transports, order[i]->ops->name);

        if (json_array_size(addresses) == 0 && order[i]->ops->carries_no_control)
            note_missing(link, order[i]);
        else if (addresses || order[i] != own || !transports)
            error = add_way(link, control, order[i], addresses);
    }
    if (!error && link->way_count == 0)
        error = gw_fail(-ENODEV, "the target takes data over no transport that may be used here");
    return error;
}

void gw_link_drop_ways(struct gw_link *link)
{
    for (unsigned i = 0; i < link->way_count; i++)
        for (unsigned j = 0; j < link->ways[i].rail_count; j++)
            gw_domain_close(link->ways[i].rails[j].domain);
    link->way_count = 0;
}

/* ---- channels ---- */

static int dial_on(struct gw_link *link, struct gw_way *way, struct gw_way_rail *rail,
                   const struct gw_dialled *what, struct gw_worker *worker)
{
    struct gw_connect_options options = {
        .channel = {.timeout_ms = link->timeout_ms, .congestion = link->congestion},
        .peer = rail->pair.peer,
        .local = &rail->pair.local,
    };
    struct gw_channel *channel;
    struct gw_lane *lane;
    struct gw_seal *seal;
    int error = 0;

    if (!rail->domain)
        error = gw_domain_open(way->transport, &rail->pair.local, &rail->domain);
    if (!error)
        error = gw_worker_poller(worker, way->transport, &options.channel.poller);
    if (!error)
        error = what->prepare(what->context, worker, rail->domain, &lane);
    if (error)
        return error;
    options.channel.domain = rail->domain;
    options.channel.context = lane;
    error = gw_seal_dial(what->control, &options, &channel, &seal);
    if (error) {
        what->cancel(lane);
        return error;
    }
    what->start(what->context, lane, channel, seal);
    return 0;
}

/* What the new channel needs comes from the memory near its worker. */
int gw_link_dial_rail(struct gw_link *link, struct gw_way *way, struct gw_way_rail *rail,
                      const struct gw_dialled *what)
{
    struct gw_memory_policy before;
    struct gw_worker *worker;
    int error = gw_workers_for(&link->workers, &rail->pair.local, &worker);

    if (error)
        return error;
    gw_topology_prefer(link->workers.topology, gw_worker_node(worker), &before);
    error = dial_on(link, way, rail, what, worker);
    gw_topology_restore(&before);
    return error;
}

static int prepare_sender(void *sender, struct gw_worker *worker, struct gw_domain *domain,
                          struct gw_lane **out)
{
    return gw_sender_prepare(sender, worker, domain, out);
}

static void start_sender(void *sender, struct gw_lane *lane, struct gw_channel *channel,
                         struct gw_seal *seal)
{
    gw_sender_start(lane, channel, seal);
}

static void pass_over_rail(struct gw_link *link, const struct gw_way *way, struct gw_way_rail *rail)
{
    char peer[GW_ADDRESS_TEXT_MAX], what[GW_ADDRESS_TEXT_MAX + 32];

    rail->is_passed_over = true;
    gw_transports_pass_over(&link->transports, way->transport->ops->name);
    gw_address_format(&rail->pair.peer, peer, sizeof(peer));
    snprintf(what, sizeof(what), "%s to %s", way->transport->ops->name, peer);
    note_passed_over(link, what);
}

/* One channel over the next rail of the first way that has one; *used is that way. */
static int dial_ways(struct gw_link *link, struct gw_control *control, struct gw_sender *sender,
                     const struct gw_way **used)
{
    const struct gw_dialled what = {.control = control,
                                    .prepare = prepare_sender,
                                    .cancel = gw_sender_cancel,
                                    .start = start_sender,
                                    .context = sender};
    int error = gw_fail(-ENOTCONN, "no way to the target is left");

    for (unsigned i = 0; i < link->way_count; i++) {
        struct gw_way *way = &link->ways[i];

        for (unsigned tried = 0; tried < way->rail_count; tried++) {
            struct gw_way_rail *rail = &way->rails[way->next_rail++ % way->rail_count];

            if (rail->is_passed_over)
                continue;
            error = gw_link_dial_rail(link, way, rail, &what);
            if (!error) {
                *used = way;
                return 0;
            }
            pass_over_rail(link, way, rail);
        }
    }
    return error;
}

static bool is_any_passed_over(const struct gw_link *link)
{
    for (unsigned i = 0; i < link->way_count; i++)
        for (unsigned j = 0; j < link->ways[i].rail_count; j++)
            if (link->ways[i].rails[j].is_passed_over)
                return true;
    return false;
}

static int open_channel(struct gw_link *link, struct gw_control *control, struct gw_sender *sender,
                        const struct gw_way **used)
{
    bool was_any = is_any_passed_over(link);
    int error = dial_ways(link, control, sender, used);

    if (!error || !was_any)
        return error;
    /* What could not be used a while ago may be usable again by now. */
    for (unsigned i = 0; i < link->way_count; i++)
        for (unsigned j = 0; j < link->ways[i].rail_count; j++)
            link->ways[i].rails[j].is_passed_over = false;
    return dial_ways(link, control, sender, used);
}

int gw_link_open_channel(struct gw_link *link, struct gw_control *control, struct gw_sender *sender)
{
    const struct gw_way *used;

    return open_channel(link, control, sender, &used);
}

int gw_link_open_channels(struct gw_link *link, struct gw_control *control,
                          struct gw_sender *sender, unsigned *opened)
{
    unsigned per_rail = link->per_rail ? link->per_rail : GW_CHANNELS_DEFAULT, wanted;
    const struct gw_way *used;
    int last = open_channel(link, control, sender, &used);

    *opened = 0;
    if (last)
        return last;
    /* The first one tells which way is good, and with it how many rails there are. */
    wanted = (unsigned)gw_min(per_rail * used->rail_count, GW_LANES_MAX);
    for (*opened = 1; *opened < wanted && !last; *opened += last == 0)
        last = dial_ways(link, control, sender, &used);
    return 0;
}

double gw_link_cpu_seconds(const struct gw_link *link)
{
    return gw_workers_cpu_seconds(&link->workers);
}

json_t *gw_link_passed_over(const struct gw_link *link)
{
    json_t *list = link->transports.passed_count ? json_array() : NULL;

    for (unsigned i = 0; i < link->transports.passed_count; i++)
        json_array_append_new(list,
                              json_pack("{s:s,s:s}", "transport", link->transports.passed[i].name,
                                        "reason", link->transports.passed[i].reason));
    return list;
}
