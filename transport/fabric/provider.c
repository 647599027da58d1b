/* SPDX-License-Identifier: Apache-2.0 */
/* Which provider is used, whether it fits, and which of its devices reaches an address. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "transport/fabric/channel.h"

/* What godwit can do when a provider asks for it; the rest keeps a provider away (fi_domain(3)). */
#define MR_MODES       (FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY)
#define MR_MODES_ASKED (MR_MODES | FI_MR_ENDPOINT | FI_MR_RAW)
#define CAPABILITIES   (FI_RMA | FI_WRITE | FI_REMOTE_WRITE | FI_LOCAL_COMM | FI_REMOTE_COMM)

static int hints_new(const struct fabric_transport *transport, struct fi_info **out)
{
    struct fi_info *hints = transport->library.dupinfo(NULL);

    if (!hints)
        return gw_fail(-ENOMEM, "fabric: no memory");
    hints->caps = CAPABILITIES | (transport->is_rdm ? 0 : FI_MSG | FI_SEND | FI_RECV);
    hints->mode = FI_CONTEXT | FI_CONTEXT2 | FI_RX_CQ_DATA;
    hints->domain_attr->mr_mode = MR_MODES_ASKED;
    hints->domain_attr->threading = FI_THREAD_SAFE;
    hints->ep_attr->type = transport->is_rdm ? FI_EP_RDM : FI_EP_MSG;
    if (transport->is_rdm) {
        /* Some set memory aside for as many as they could hold, which is more than anybody needs. */
        hints->tx_attr->size = FABRIC_SEND_DEPTH;
        hints->rx_attr->size = FABRIC_RECEIVE_DEPTH;
    }
    hints->fabric_attr->prov_name = strdup(transport->provider);
    if (!hints->fabric_attr->prov_name) {
        transport->library.freeinfo(hints);
        return gw_fail(-ENOMEM, "fabric: no memory");
    }
    *out = hints;
    return 0;
}

/* NULL for one that fits. */
static const char *find_fault(const struct fi_info *info, char text[160])
{
    const struct fi_domain_attr *domain = info->domain_attr;

    if (domain->mr_mode & FI_MR_RAW)
        snprintf(text, 160, "its memory keys have %zu bytes of a form of its own (FI_MR_RAW)",
                 domain->mr_key_size);
    else if (domain->mr_mode & FI_MR_ENDPOINT)
        snprintf(text, 160, "it registers memory for one channel at a time (FI_MR_ENDPOINT)");
    else if (domain->mr_mode & ~MR_MODES)
        snprintf(text, 160, "it wants memory registered in a way that godwit does not know (0x%x)",
                 (unsigned)domain->mr_mode);
    else if (domain->mr_key_size > sizeof(uint64_t))
        snprintf(text, 160, "its memory keys have %zu bytes, at most 8 can be told",
                 domain->mr_key_size);
    else if (info->ep_attr->max_msg_size < GW_WRITE_MAX)
        snprintf(text, 160, "it writes at most %zu bytes at once, %u are needed",
                 info->ep_attr->max_msg_size, GW_WRITE_MAX);
    else if (info->rx_attr->size < FABRIC_RECEIVE_DEPTH || info->tx_attr->size < FABRIC_DEPTH_LEAST)
        snprintf(text, 160, "its queues hold %zu receives and %zu requests, %u and %u are needed",
                 info->rx_attr->size, info->tx_attr->size, FABRIC_RECEIVE_DEPTH,
                 FABRIC_DEPTH_LEAST);
    else
        return NULL;
    return text;
}

/* What libfabric answers, or an error of godwit's own in *error. */
static int ask(struct fabric_transport *transport, struct fi_info **found, int *error)
{
    struct fi_info *hints;
    int answer;

    *error = hints_new(transport, &hints);
    if (*error)
        return 0;
    answer = transport->library.getinfo(FABRIC_API, NULL, NULL, 0, hints, found);
    transport->library.freeinfo(hints);
    return answer == -FI_ENOSYS ? -FI_ENODATA : answer;
}

static bool is_ip(uint32_t format)
{
    return format == FI_SOCKADDR || format == FI_SOCKADDR_IN || format == FI_SOCKADDR_IN6;
}

int gw_fabric_choose_provider(struct fabric_transport *transport, const char *wanted)
{
    struct fi_info *found = NULL;
    char text[160];
    const char *fault;
    int answer, error;

    snprintf(transport->provider, sizeof(transport->provider), "%s", wanted);
    answer = ask(transport, &found, &error);
    if (answer == -FI_ENODATA) {
        transport->is_rdm = true;
        answer = ask(transport, &found, &error);
    }
    if (error)
        return error;
    if (answer == -FI_ENODATA)
        return gw_fail(
            -ENODEV,
            "fabric: no provider '%s' on this host that writes into memory (FI_RMA), over "
            "endpoints of either kind (FI_EP_MSG, FI_EP_RDM): fi_info lists what there is",
            transport->provider);
    if (answer)
        return gw_fabric_fail(transport, answer, "it cannot be asked what it does");
    fault = find_fault(found, text);
    for (const struct fi_info *info = found; info; info = info->next)
        transport->has_ip_addresses |= is_ip(info->addr_format);
    transport->library.freeinfo(found);
    return fault ? gw_fail(-ENODEV, "fabric %s cannot be used: %s", transport->provider, fault) : 0;
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

static int look_up(const struct fabric_transport *transport, const struct gw_address *local,
                   const struct gw_address *peer, struct fi_info *hints, struct fi_info **out)
{
    const struct gw_address *named = peer ? peer : local;
    char text[GW_ADDRESS_TEXT_MAX], reason[160];
    const char *fault;
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
    fault = find_fault(*out, reason);
    if (!fault)
        return 0;
    transport->library.freeinfo(*out);
    return gw_fail(-ENODEV, "fabric %s cannot be used: %s", transport->provider, fault);
}

int gw_fabric_find(const struct fabric_transport *transport, const struct gw_address *local,
                   const struct gw_address *peer, struct fi_info **out)
{
    struct gw_address from = local ? *local : (struct gw_address){0};
    struct gw_address to = peer ? *peer : (struct gw_address){0};
    struct fi_info *hints, *found = NULL;
    int error = hints_new(transport, &hints);

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
