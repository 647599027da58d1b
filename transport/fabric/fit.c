/* SPDX-License-Identifier: Apache-2.0 */
/* What godwit asks of a provider, and what keeps one away that has it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "transport/fabric/fabric.h"
#include "transport/rdma/inbox.h"

/* What godwit can do when a provider asks for it; the rest keeps a provider away (fi_domain(3)). */
#define MR_MODES       (FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY)
#define MR_MODES_ASKED (MR_MODES | FI_MR_ENDPOINT | FI_MR_RAW)
#define CAPABILITIES   (FI_RMA | FI_WRITE | FI_REMOTE_WRITE | FI_LOCAL_COMM | FI_REMOTE_COMM)

int gw_fabric_hints(const struct fabric_library *library, const char *provider, bool is_rdm,
                    struct fi_info **out)
{
    struct fi_info *hints = library->dupinfo(NULL);

    if (!hints)
        return gw_fail(-ENOMEM, "fabric: no memory");
    hints->caps = CAPABILITIES | (is_rdm ? 0 : FI_MSG | FI_SEND | FI_RECV);
    hints->mode = FI_CONTEXT | FI_CONTEXT2 | FI_RX_CQ_DATA;
    hints->domain_attr->mr_mode = MR_MODES_ASKED;
    hints->domain_attr->threading = FI_THREAD_SAFE;
    hints->ep_attr->type = is_rdm ? FI_EP_RDM : FI_EP_MSG;
    if (is_rdm) {
        /* Some set memory aside for as many as they could hold, which is more than anybody needs. */
        hints->tx_attr->size = FABRIC_SEND_DEPTH;
        hints->rx_attr->size = FABRIC_RECEIVE_DEPTH;
    }
    if (provider)
        hints->fabric_attr->prov_name = strdup(provider);
    if (provider && !hints->fabric_attr->prov_name) {
        library->freeinfo(hints);
        return gw_fail(-ENOMEM, "fabric: no memory");
    }
    *out = hints;
    return 0;
}

const char *gw_fabric_find_fault(const struct fi_info *info, char text[FABRIC_FAULT_MAX])
{
    const struct fi_domain_attr *domain = info->domain_attr;

    if (domain->mr_mode & FI_MR_RAW)
        snprintf(text, FABRIC_FAULT_MAX,
                 "its memory keys have %zu bytes of a form of its own (FI_MR_RAW)",
                 domain->mr_key_size);
    else if (domain->mr_mode & FI_MR_ENDPOINT)
        snprintf(text, FABRIC_FAULT_MAX,
                 "it registers memory for one channel at a time (FI_MR_ENDPOINT)");
    else if (domain->mr_mode & ~MR_MODES)
        snprintf(text, FABRIC_FAULT_MAX,
                 "it wants memory registered in a way that godwit does not know (0x%x)",
                 (unsigned)domain->mr_mode);
    else if (domain->mr_key_size > sizeof(uint64_t))
        snprintf(text, FABRIC_FAULT_MAX, "its memory keys have %zu bytes, at most 8 can be told",
                 domain->mr_key_size);
    else if (info->ep_attr->max_msg_size < GW_WRITE_MAX)
        snprintf(text, FABRIC_FAULT_MAX, "it writes at most %zu bytes at once, %u are needed",
                 info->ep_attr->max_msg_size, GW_WRITE_MAX);
    else if (info->rx_attr->size < FABRIC_RECEIVE_DEPTH || info->tx_attr->size < FABRIC_DEPTH_LEAST)
        snprintf(text, FABRIC_FAULT_MAX,
                 "its queues hold %zu receives and %zu requests, %u and %u are needed",
                 info->rx_attr->size, info->tx_attr->size, FABRIC_RECEIVE_DEPTH,
                 FABRIC_DEPTH_LEAST);
    else
        return NULL;
    return text;
}

bool gw_fabric_is_of(const struct fi_info *info, const char *provider)
{
    const char *name = info->fabric_attr->prov_name;

    return name && strlen(name) < FABRIC_PROVIDER_MAX &&
           (!provider || strcasecmp(name, provider) == 0);
}

const struct fi_info *gw_fabric_pick(const struct fi_info *list, const char *provider,
                                     char fault[FABRIC_FAULT_MAX])
{
    char text[FABRIC_FAULT_MAX];

    fault[0] = 0;
    for (const struct fi_info *info = list; info; info = info->next) {
        if (!gw_fabric_is_of(info, provider))
            continue;
        if (!gw_fabric_find_fault(info, text))
            return info;
        if (!fault[0])
            memcpy(fault, text, sizeof(text));
    }
    if (!fault[0])
        snprintf(fault, FABRIC_FAULT_MAX, "libfabric has other providers for that name alone");
    return NULL;
}
