/* SPDX-License-Identifier: Apache-2.0 */
/* Domains, and the memory that is registered in them. How a provider names memory is told by bits of
 * its domain (FI_MR_*, fi_mr(3)): who chooses keys, whether offsets count from 0 or are addresses. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "transport/fabric/channel.h"
#include "transport/rdma/writable.h"

#define KEY_ATTEMPTS 8

static int open_fids(struct fabric_domain *domain, const struct fi_info *info)
{
    struct fabric_transport *transport = gw_fabric_transport_of(domain->base.transport);
    uint64_t keeps = info->tx_attr->msg_order & info->rx_attr->msg_order;
    int answer;

    domain->info = transport->library.dupinfo(info);
    if (!domain->info)
        return gw_fail(-ENOMEM, "fabric: no memory for a domain");
    answer = transport->library.fabric(domain->info->fabric_attr, &domain->fabric, NULL);
    if (answer)
        return gw_fabric_fail(transport, answer, "the fabric %s cannot be opened",
                              domain->info->fabric_attr->name);
    answer = fi_domain(domain->fabric, domain->info, &domain->domain, NULL);
    if (answer)
        return gw_fabric_fail(transport, answer, "the device %s cannot be opened",
                              domain->info->domain_attr->name);
    domain->is_fenced = transport->is_rdm || !(keeps & FI_ORDER_SAW);
    domain->has_addresses = (domain->info->domain_attr->mr_mode & FI_MR_VIRT_ADDR) != 0;
    return 0;
}

static void close_fids(struct fabric_domain *domain)
{
    if (domain->domain)
        fi_close(&domain->domain->fid);
    if (domain->fabric)
        fi_close(&domain->fabric->fid);
    if (domain->info)
        gw_fabric_transport_of(domain->base.transport)->library.freeinfo(domain->info);
    domain->domain = NULL;
    domain->fabric = NULL;
    domain->info = NULL;
}

/* A provider in software names no device where it listens on every address: its own name then. */
static bool is_same_device(const struct fi_info *mine, const struct fi_info *theirs)
{
    return strcmp(mine->domain_attr->name, theirs->domain_attr->name) == 0 ||
           strcmp(theirs->domain_attr->name, theirs->fabric_attr->prov_name) == 0;
}

static const char *family_of(const struct fi_info *info)
{
    return info->addr_format == FI_SOCKADDR_IN    ? "IPv4"
           : info->addr_format == FI_SOCKADDR_IN6 ? "IPv6"
                                                  : "its provider's own addresses";
}

/* Endpoints that do not connect name their peers in the form that the domain was opened with. */
static int check_family(const struct fabric_domain *domain, const struct fi_info *info)
{
    if (!gw_fabric_transport_of(domain->base.transport)->is_rdm ||
        domain->info->addr_format == info->addr_format)
        return 0;
    return gw_fail(-EXDEV,
                   "fabric: the domain is over %s, the way to the peer over %s: name both hosts by "
                   "addresses of one family",
                   family_of(domain->info), family_of(info));
}

int gw_fabric_domain_bind(struct fabric_domain *domain, const struct fi_info *info)
{
    int error = 0;

    pthread_mutex_lock(&domain->lock);
    if (!domain->domain) {
        error = open_fids(domain, info);
        if (error)
            close_fids(domain);
    } else if (!is_same_device(domain->info, info)) {
        error = gw_fail(-EXDEV, "fabric: the domain is on %s, the way to the peer is on %s",
                        domain->info->domain_attr->name, info->domain_attr->name);
    } else {
        error = check_family(domain, info);
    }
    pthread_mutex_unlock(&domain->lock);
    return error;
}

int gw_fabric_open_domain(struct gw_transport *base, const struct gw_address *local,
                          struct gw_domain **out)
{
    struct fabric_transport *transport = gw_fabric_transport_of(base);
    struct fabric_domain *domain = calloc(1, sizeof(*domain));
    struct gw_address any_port;
    struct fi_info *info;
    int error = 0;

    if (!domain)
        return gw_fail(-ENOMEM, "fabric: no memory for a domain");
    domain->base.transport = base;
    pthread_mutex_init(&domain->lock, NULL);
    if (local && !gw_address_is_any(local)) {
        any_port = *local;
        gw_address_set_port(&any_port, 0);
        error = gw_fabric_find(transport, &any_port, NULL, &info);
        if (!error) {
            error = gw_fabric_domain_bind(domain, info);
            transport->library.freeinfo(info);
        }
    }
    if (!error && transport->messages)
        error = gw_domain_open(transport->messages, local, &domain->messages);
    if (error) {
        gw_fabric_close_domain(&domain->base);
        return error;
    }
    *out = &domain->base;
    return 0;
}

void gw_fabric_close_domain(struct gw_domain *base)
{
    struct fabric_domain *domain = gw_fabric_domain_of(base);

    gw_domain_close(domain->messages);
    close_fids(domain);
    pthread_mutex_destroy(&domain->lock);
    free(domain);
}

/* ---- memory ---- */

static int explain(const struct fabric_domain *domain, int answer, uint64_t length)
{
    const struct fabric_transport *transport = gw_fabric_transport_of(domain->base.transport);
    double mib = (double)length / (1 << 20);
    struct rlimit limit = {0};

    if (answer == -FI_ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
        limit.rlim_cur != RLIM_INFINITY)
        return gw_fail(-ENOMEM,
                       "fabric %s: %.1f MiB more cannot be registered: the limit on pinned memory "
                       "(RLIMIT_MEMLOCK) is %.1f MiB for the whole process; raise it (ulimit -l, "
                       "LimitMEMLOCK= in the unit)",
                       transport->provider, mib, (double)limit.rlim_cur / (1 << 20));
    return gw_fabric_fail(transport, answer, "%.1f MiB cannot be registered", mib);
}

/* Keys of godwit's choice cannot be guessed, as far as the provider's size of keys lets them. */
static uint64_t choose_key(size_t bytes)
{
    size_t bits = gw_min(bytes, sizeof(uint64_t)) * 8;
    uint64_t key = 0;

    while (key == 0) {
        if (getrandom(&key, sizeof(key), 0) != sizeof(key))
            key = 0;
        if (bits < 64)
            key &= (1ull << bits) - 1;
    }
    return key;
}

static int try_register(struct fabric_domain *domain, const void *memory, uint64_t length,
                        uint64_t access, struct fid_mr **out)
{
    const struct fi_info *info = domain->info;
    bool has_our_key = !(info->domain_attr->mr_mode & FI_MR_PROV_KEY);
    int answer = -FI_ENOKEY;

    *out = NULL;
    if (!(access & FI_REMOTE_WRITE) && !(info->domain_attr->mr_mode & FI_MR_LOCAL))
        return 0;
    for (int i = 0; answer == -FI_ENOKEY && i < KEY_ATTEMPTS; i++)
        answer =
            fi_mr_reg(domain->domain, memory, length, access, 0,
                      has_our_key ? choose_key(info->domain_attr->mr_key_size) : 0, 0, out, NULL);
    return answer;
}

int gw_fabric_register(struct fabric_domain *domain, const void *memory, uint64_t length,
                       uint64_t access, struct fid_mr **out)
{
    int answer = try_register(domain, memory, length, access, out);

    return answer ? explain(domain, answer, length) : 0;
}

static int register_region(struct fabric_domain *domain, struct fabric_region *region)
{
    bool is_remote = region->base.access & GW_ACCESS_REMOTE_WRITE;
    uint64_t access = FI_WRITE | (is_remote ? FI_REMOTE_WRITE : 0);
    uint64_t length = region->base.length;
    int answer = try_register(domain, region->base.memory, length, access, &region->mr);

    region->local = region->base.memory;
    /* Before Linux 6.2 even memory that is only read must be writable. */
    if (answer == -FI_EFAULT && !is_remote &&
        gw_rdma_map_writable(region->base.memory, length, &region->alias, &region->alias_size) ==
            0) {
        region->local = (char *)region->alias + ((uintptr_t)region->base.memory & 4095);
        answer = try_register(domain, region->local, length, access, &region->mr);
    }
    return answer ? explain(domain, answer, length) : 0;
}

/* What the peer names the region by. */
static void enter(struct fabric_domain *domain, struct fabric_region *region)
{
    if (!domain->has_addresses) {
        region->base.key = fi_mr_key(region->mr);
        return;
    }
    region->base.key = choose_key(sizeof(region->base.key));
    region->next = domain->regions;
    if (region->next)
        region->next->previous = region;
    domain->regions = region;
}

static void leave(struct fabric_domain *domain, struct fabric_region *region)
{
    if (region->previous)
        region->previous->next = region->next;
    else if (domain->regions == region)
        domain->regions = region->next;
    if (region->next)
        region->next->previous = region->previous;
}

bool gw_fabric_domain_place(struct fabric_domain *domain, uint64_t key, struct fabric_place *out)
{
    struct fabric_region *region;

    pthread_mutex_lock(&domain->lock);
    for (region = domain->regions; region && region->base.key != key;)
        region = region->next;
    if (region)
        *out = (struct fabric_place){key, (uintptr_t)region->base.memory, fi_mr_key(region->mr)};
    pthread_mutex_unlock(&domain->lock);
    return region != NULL;
}

static void region_free(struct fabric_region *region)
{
    if (region->mr)
        fi_close(&region->mr->fid);
    if (region->alias)
        munmap(region->alias, region->alias_size);
    free(region);
}

/* A key of one channel cannot be had from a provider: the domain, which belongs to one link, is what
 * contains a peer (ops->has_channel_keys). */
int gw_fabric_reg(struct gw_domain *base, void *memory, uint64_t length, unsigned access,
                  uint32_t only_channel, struct gw_region **out)
{
    struct fabric_domain *domain = gw_fabric_domain_of(base);
    struct fabric_region *region = calloc(1, sizeof(*region));
    int error;

    if (!region)
        return gw_fail(-ENOMEM, "fabric: no memory for a region");
    region->base =
        (struct gw_region){.domain = base, .memory = memory, .length = length, .access = access};
    pthread_mutex_lock(&domain->lock);
    if (!domain->domain)
        error = gw_fail(-EINVAL, "fabric: memory of a domain that is on no device yet: open it "
                                 "with a local address, or connect first");
    else
        error = register_region(domain, region);
    if (!error && (access & GW_ACCESS_REMOTE_WRITE))
        enter(domain, region);
    pthread_mutex_unlock(&domain->lock);
    if (error) {
        region_free(region);
        return error;
    }
    *out = &region->base;
    return 0;
}

void gw_fabric_unreg(struct gw_region *base)
{
    struct fabric_domain *domain = gw_fabric_domain_of(base->domain);
    struct fabric_region *region = gw_container_of(base, struct fabric_region, base);

    pthread_mutex_lock(&domain->lock);
    leave(domain, region);
    pthread_mutex_unlock(&domain->lock);
    region_free(region);
}
