/* SPDX-License-Identifier: Apache-2.0 */
/* Registration. The peer's offsets count from 0, and so would the device's addresses (ibv_reg_mr_iova
 * with 0) if all memory began on a page of the largest size. Instead the device's address of the
 * first byte is its place within 2 MiB, so that huge pages stay huge pages for the device, and this
 * place travels in the upper half of the key. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "transport/rdma/writable.h"
#include "transport/verbs/verbs.h"

#define HUGE_PAGE ((uint64_t)2 << 20)

static int explain(int cause, uint64_t length, const char *device)
{
    struct rlimit limit = {0};
    double mib = (double)length / (1 << 20);

    if (cause != ENOMEM)
        return gw_fail_errno(-cause, "verbs: %.1f MiB cannot be registered with %s", mib, device);
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return gw_fail(-ENOMEM, "verbs: no memory to register %.1f MiB with %s", mib, device);
    return gw_fail(-ENOMEM,
                   "verbs: %.1f MiB more cannot be registered with %s: the limit on pinned memory "
                   "(RLIMIT_MEMLOCK) is %.1f MiB for the whole process; raise it (ulimit -l, "
                   "LimitMEMLOCK= in the unit)",
                   mib, device, (double)limit.rlim_cur / (1 << 20));
}

static int register_memory(struct verbs_domain *domain, struct verbs_region *region)
{
    unsigned flags = IBV_ACCESS_RELAXED_ORDERING;
    char *memory = region->base.memory;
    int cause;

    if (region->base.access & GW_ACCESS_REMOTE_WRITE)
        flags |= IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    region->start = (uintptr_t)memory & (HUGE_PAGE - 1);
    region->mr =
        ibv_reg_mr_iova(domain->pd, memory, region->base.length, region->start, (int)flags);
    cause = region->mr ? 0 : errno;
    /* Before Linux 6.2 even memory that is only read must be writable. */
    if (cause == EFAULT && !(region->base.access & GW_ACCESS_REMOTE_WRITE) &&
        gw_rdma_map_writable(memory, region->base.length, &region->alias, &region->alias_size) ==
            0) {
        memory = (char *)region->alias + ((uintptr_t)memory & 4095);
        region->mr =
            ibv_reg_mr_iova(domain->pd, memory, region->base.length, region->start, (int)flags);
    } else if (cause) {
        errno = cause;
    }
    return region->mr ? 0
                      : explain(errno, region->base.length,
                                ibv_get_device_name(domain->device->context->device));
}

static void region_free(struct verbs_region *region)
{
    if (region->mr)
        ibv_dereg_mr(region->mr);
    if (region->alias)
        munmap(region->alias, region->alias_size);
    free(region);
}

/* A key of one channel cannot be had from a device: the domain, which belongs to one link, is what
 * contains a peer (ops->has_channel_keys). */
int gw_verbs_reg(struct gw_domain *base, void *memory, uint64_t length, unsigned access,
                 uint32_t only_channel, struct gw_region **out)
{
    struct verbs_domain *domain = gw_verbs_domain_of(base);
    struct verbs_region *region = calloc(1, sizeof(*region));
    int error;

    if (!region)
        return gw_fail(-ENOMEM, "verbs: no memory for a region");
    region->base =
        (struct gw_region){.domain = base, .memory = memory, .length = length, .access = access};
    pthread_mutex_lock(&domain->lock);
    if (!domain->pd)
        error = gw_fail(-EINVAL, "verbs: memory of a domain that is on no device yet: open it with "
                                 "a local address, or connect first");
    else
        error = register_memory(domain, region);
    pthread_mutex_unlock(&domain->lock);
    if (error) {
        region_free(region);
        return error;
    }
    if (access & GW_ACCESS_REMOTE_WRITE)
        region->base.key = region->start << 32 | region->mr->rkey;
    *out = &region->base;
    return 0;
}

void gw_verbs_unreg(struct gw_region *base)
{
    region_free(gw_container_of(base, struct verbs_region, base));
}
