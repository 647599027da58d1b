/* SPDX-License-Identifier: Apache-2.0 */
/* The account of what a device would see of the registrations of faulty. It decides nothing but the
 * limit. */
#include "tests/transport/faulty-rdma.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "common/checked.h"
#include "common/error.h"

#define PAGE 4096u

/* Pages of the range that nobody has touched. */
static unsigned untouched(const char *memory, uint64_t length)
{
    size_t pages = (length + PAGE - 1) / PAGE;
    unsigned char *map = malloc(pages);
    unsigned count = 0;

    if (map && mincore((void *)memory, length, map) == 0)
        for (size_t i = 0; i < pages; i++)
            count += !(map[i] & 1);
    free(map);
    return count;
}

static bool is_guest(const struct gw_faulty_rdma *rdma, const char *memory, uint64_t length)
{
    for (unsigned i = 0; i < GW_FAULTY_GUESTS_MAX; i++) {
        const char *guest = rdma->guests[i].memory;

        if (guest && memory < guest + rdma->guests[i].length && guest < memory + length)
            return true;
    }
    return false;
}

int gw_faulty_rdma_reg(struct gw_faulty_rdma *rdma, void *memory, uint64_t length)
{
    struct gw_faulty_rdma_report *report = &rdma->report;
    int error = 0;

    pthread_mutex_lock(&rdma->lock);
    if (rdma->is_on && report->pinned + length > rdma->limit) {
        report->refused++;
        error = gw_fail(-ENOMEM, "faulty: %llu bytes more than the %llu that may be pinned",
                        (unsigned long long)(report->pinned + length - rdma->limit),
                        (unsigned long long)rdma->limit);
    } else if (rdma->is_on) {
        report->registrations++;
        report->in_pause += rdma->is_paused;
        if (is_guest(rdma, memory, length)) {
            report->guest_registrations++;
            report->filled += untouched(memory, length);
        }
        report->pinned += length;
        report->pinned_max = gw_max(report->pinned_max, report->pinned);
    }
    pthread_mutex_unlock(&rdma->lock);
    return error;
}

void gw_faulty_rdma_unreg(struct gw_faulty_rdma *rdma, uint64_t length, unsigned ops_out)
{
    pthread_mutex_lock(&rdma->lock);
    if (rdma->is_on) {
        rdma->report.pinned -= length;
        rdma->report.in_pause += rdma->is_paused;
        rdma->report.ended_early += ops_out > 0;
    }
    pthread_mutex_unlock(&rdma->lock);
}
