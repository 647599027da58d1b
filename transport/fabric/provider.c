/* SPDX-License-Identifier: Apache-2.0 */
/* Which provider is used, and which of its devices reaches an address. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "transport/fabric/channel.h"

static bool is_ip(uint32_t format)
{
    return format == FI_SOCKADDR || format == FI_SOCKADDR_IN || format == FI_SOCKADDR_IN6;
}

/* One kind of endpoint of whom libfabric takes the name for. -ENODATA, without a message, where it has none. */
static int ask(struct fabric_transport *transport, struct fi_info **found)
{
    struct fi_info *hints;
    int answer,
        error = gw_fabric_hints(&transport->library, transport->asked, transport->is_rdm, &hints);

    if (error)
        return error;
    answer = transport->library.getinfo(FABRIC_API, NULL, NULL, 0, hints, found);
    transport->library.freeinfo(hints);
    if (answer == -FI_ENODATA || answer == -FI_ENOSYS)
        return -ENODATA;
    return answer ? gw_fabric_fail(transport, answer, "it cannot be asked what it does") : 0;
}

/* Settles on one of what libfabric answered: on that name alone, or, where it was typed, on what libfabric takes it
 * for, which may be written in another way, or be a layer over it. */
static int settle(struct fabric_transport *transport, const struct fi_info *found, bool is_typed)
{
    char fault[FABRIC_FAULT_MAX];
    const struct fi_info *fit = gw_fabric_pick(found, transport->asked, fault);

    if (!fit && is_typed)
        fit = gw_fabric_pick(found, NULL, fault);
    if (!fit)
        return gw_fail(-ENODEV, "fabric %s cannot be used: %s", transport->asked, fault);
    snprintf(transport->provider, sizeof(transport->provider), "%s", fit->fabric_attr->prov_name);
    for (const struct fi_info *info = found; info; info = info->next)
        if (gw_fabric_is_of(info, transport->provider))
            transport->has_ip_addresses |= is_ip(info->addr_format);
    return 0;
}

static int use(struct fabric_transport *transport, bool is_rdm, bool is_typed)
{
    struct fi_info *found = NULL;
    int error;

    transport->is_rdm = is_rdm;
    error = ask(transport, &found);
    if (error)
        return error;
    error = settle(transport, found, is_typed);
    transport->library.freeinfo(found);
    return error;
}

static void set_name(struct fabric_transport *transport, const char *wanted)
{
    snprintf(transport->asked, sizeof(transport->asked), "%s", wanted);
    snprintf(transport->provider, sizeof(transport->provider), "%s", wanted);
}

static int refuse_none(const struct fabric_transport *transport)
{
    return gw_fail(-ENODEV,
                   "fabric: no provider '%s' on this host that writes into memory (FI_RMA), over "
                   "endpoints of either kind (FI_EP_MSG, FI_EP_RDM): fi_info lists what there is",
                   transport->asked);
}

int gw_fabric_use_provider(struct fabric_transport *transport, const char *wanted)
{
    struct gw_error unfit = {.code = 0};
    int error;

    set_name(transport, wanted);
    error = use(transport, false, true);
    if (error == -ENODEV)
        gw_error_take(error, &unfit);
    if (error != -ENODATA && error != -ENODEV)
        return error;
    error = use(transport, true, true);
    if (error == -ENODATA && unfit.code)
        return gw_error_raise(&unfit);
    return error == -ENODATA ? refuse_none(transport) : error;
}

static void log_choice(const struct fabric_candidates *candidates,
                       const struct fabric_candidate *chosen)
{
    char others[200] = "";

    for (unsigned i = 0; i < candidates->count; i++)
        if (strcmp(candidates->list[i].name, chosen->name) != 0)
            snprintf(others + strlen(others), sizeof(others) - strlen(others), "%s%s",
                     others[0] ? ", " : "", candidates->list[i].name);
    gw_log(GW_LOG_INFO, "fabric: provider %s was chosen%s%s", chosen->name,
           others[0] ? "; this host also has " : "", others);
}

int gw_fabric_find_provider(struct fabric_transport *transport, bool takes_verbs)
{
    const struct fabric_candidate *chosen;
    struct fabric_candidates candidates;
    int error = gw_fabric_survey(&transport->library, FABRIC_SURVEY_MS, &candidates);

    if (!error)
        error = gw_fabric_choose(&candidates, takes_verbs, &chosen);
    if (error)
        return error;
    set_name(transport, chosen->name);
    error = use(transport, !chosen->connects, false);
    if (error == -ENODATA)
        return refuse_none(transport);
    if (!error)
        log_choice(&candidates, chosen);
    return error;
}

/* ---- addresses ---- */

static int split(const struct gw_address *address, char host[NI_MAXHOST], char service[NI_MAXSERV])
{
    unsigned port = gw_address_port(address);

    if (getnameinfo((const struct sockaddr *)&address->storage, address->length, host, NI_MAXHOST,
                    NULL, 0, NI_NUMERICHOST) != 0)
        return gw_fail(-EINVAL, "fabric: an address of another family");
    if (port >= UINT16_MAX)
        return gw_fail(-EINVAL, "fabric: port %u has no port above it for the provider", port);
    snprintf(service, NI_MAXSERV, "%u", port ? port + 1 : 0);
    return 0;
}

static int set_source(struct fi_info *hints, const struct gw_address *local)
{
    struct gw_address any_port = *local;

    gw_address_set_port(&any_port, 0);
    hints->src_addr = malloc(any_port.length);
    if (!hints->src_addr)
        return gw_fail(-ENOMEM, "fabric: no memory");
    memcpy(hints->src_addr, &any_port.storage, any_port.length);
    hints->src_addrlen = any_port.length;
    return 0;
}

/* What libfabric is asked for besides hints. */
struct question {
    char host[NI_MAXHOST], service[NI_MAXSERV];
    const char *named_host, *named_service; /* NULL: anything */
    uint64_t flags;
};

static int make_question(const struct gw_address *local, const struct gw_address *peer,
                         struct fi_info *hints, struct question *out)
{
    const struct gw_address *named = peer ? peer : local;
    int error = split(named, out->host, out->service);

    hints->addr_format = named->storage.ss_family == AF_INET6 ? FI_SOCKADDR_IN6 : FI_SOCKADDR_IN;
    out->named_host = out->host;
    out->named_service = out->service;
    out->flags = peer ? 0 : FI_SOURCE;
    return !error && peer && local ? set_source(hints, local) : error;
}

/* Keeps one of the list and frees the rest. */
static int keep(const struct fabric_transport *transport, struct fi_info **list)
{
    char fault[FABRIC_FAULT_MAX];
    const struct fi_info *fit = gw_fabric_pick(*list, transport->provider, fault);
    struct fi_info *kept = fit ? transport->library.dupinfo(fit) : NULL;

    transport->library.freeinfo(*list);
    *list = kept;
    if (!fit)
        return gw_fail(-ENODEV, "fabric %s cannot be used: %s", transport->provider, fault);
    return kept ? 0 : gw_fail(-ENOMEM, "fabric: no memory");
}

static int look_up(const struct fabric_transport *transport, const struct gw_address *local,
                   const struct gw_address *peer, struct fi_info *hints, struct fi_info **out)
{
    const struct gw_address *named = peer ? peer : local;
    char text[GW_ADDRESS_TEXT_MAX];
    struct question question = {.flags = 0};
    int answer, error = 0;

    /* Where an address of IP means nothing it is the provider's first device. */
    if (!transport->is_rdm || transport->has_ip_addresses)
        error = make_question(local, peer, hints, &question);
    if (error)
        return error;
    answer = transport->library.getinfo(FABRIC_API, question.named_host, question.named_service,
                                        question.flags, hints, out);
    gw_address_format(named, text, sizeof(text));
    if (answer == -FI_ENODATA)
        return peer ? gw_fail(-EHOSTUNREACH, "fabric %s: no device of this host reaches %s",
                              transport->provider, text)
                    : gw_fail(-EADDRNOTAVAIL, "fabric %s: no device has the address %s",
                              transport->provider, text);
    if (answer)
        return gw_fabric_fail(transport, answer, "%s", text);
    return keep(transport, out);
}

int gw_fabric_find(const struct fabric_transport *transport, const struct gw_address *local,
                   const struct gw_address *peer, struct fi_info **out)
{
    struct gw_address from = local ? *local : (struct gw_address){0};
    struct gw_address to = peer ? *peer : (struct gw_address){0};
    struct fi_info *hints, *found = NULL;
    int error = gw_fabric_hints(&transport->library, transport->asked, transport->is_rdm, &hints);

    if (error)
        return error;
    /* Both sides have to name the address in one family, and the peer may not listen at [::]. */
    gw_address_unmap(&from);
    gw_address_unmap(&to);
    error = look_up(transport, local ? &from : NULL, peer ? &to : NULL, hints, &found);
    transport->library.freeinfo(hints);
    if (!error)
        *out = found;
    return error;
}
