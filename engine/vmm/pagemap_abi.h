/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel interfaces that are newer than the headers of the oldest system godwit is built on.
 * Numbers and layouts are from the kernel's own documentation: admin-guide/mm/pagemap
 * (PAGEMAP_SCAN, pagemap entries) and admin-guide/mm/userfaultfd, ioctl_userfaultfd(2) (features).
 * Names differ from the kernel's so that a newer header does not clash.
 */
#ifndef GODWIT_ENGINE_VMM_PAGEMAP_ABI_H
#define GODWIT_ENGINE_VMM_PAGEMAP_ABI_H

#include <assert.h>
#include <linux/ioctl.h>
#include <stdint.h>

/* PAGEMAP_SCAN, Linux 6.7: an ioctl of /proc/PID/pagemap. */
struct gw_scan_region {
    uint64_t start; /* addresses in the scanned process */
    uint64_t end;
    uint64_t categories;
};

struct gw_scan_request {
    uint64_t size; /* of this struct */
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end; /* out: where the walk stopped */
    uint64_t vec;      /* struct gw_scan_region[], or 0 */
    uint64_t vec_len;
    uint64_t max_pages; /* 0: no limit */
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};

static_assert(sizeof(struct gw_scan_region) == 24, "the kernel's struct page_region");
static_assert(sizeof(struct gw_scan_request) == 96, "the kernel's struct pm_scan_arg");

#define GW_PAGEMAP_SCAN          _IOWR('f', 16, struct gw_scan_request)
#define GW_SCAN_PROTECT_MATCHING (UINT64_C(1) << 0) /* PM_SCAN_WP_MATCHING */
#define GW_SCAN_CHECK_ASYNC      (UINT64_C(1) << 1) /* PM_SCAN_CHECK_WPASYNC */
#define GW_SCAN_PAGE_IS_WRITTEN  (UINT64_C(1) << 1) /* PAGE_IS_WRITTEN */
#define GW_SCAN_PAGE_IS_PRESENT  (UINT64_C(1) << 3) /* PAGE_IS_PRESENT */
#define GW_SCAN_PAGE_IS_SWAPPED  (UINT64_C(1) << 4) /* PAGE_IS_SWAPPED */

/* PROCMAP_QUERY, Linux 6.11: an ioctl of /proc/PID/maps. */
struct gw_map_query {
    uint64_t size; /* of this struct */
    uint64_t flags;
    uint64_t address;
    uint64_t start; /* from here to minor: out */
    uint64_t end;
    uint64_t vma_flags;
    uint64_t page_size;
    uint64_t offset;
    uint64_t inode;
    uint32_t major;
    uint32_t minor;
    uint32_t name_size; /* 0: no name, no build id */
    uint32_t build_id_size;
    uint64_t name;
    uint64_t build_id;
};

static_assert(sizeof(struct gw_map_query) == 104, "the kernel's struct procmap_query");

#define GW_MAP_QUERY    _IOWR('f', 17, struct gw_map_query)
#define GW_MAP_WRITABLE UINT64_C(0x02) /* only such mappings are found */
#define GW_MAP_SHARED   UINT64_C(0x08)
#define GW_MAP_OR_NEXT  UINT64_C(0x10) /* the one at the address, or the next */
#define GW_MAP_FILE     UINT64_C(0x20)

/* userfaultfd(2). WP_HUGETLBFS_SHMEM is 5.19, WP_UNPOPULATED 6.4, WP_ASYNC 6.7. */
#define GW_UFFD_USER_MODE_ONLY     1
#define GW_UFFD_PAGEFAULT_FLAG_WP  (UINT64_C(1) << 0)
#define GW_UFFD_WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12)
#define GW_UFFD_WP_UNPOPULATED     (UINT64_C(1) << 13)
#define GW_UFFD_WP_ASYNC           (UINT64_C(1) << 15)

/* Entries of /proc/PID/pagemap, one uint64_t for each base page. */
#define GW_PAGEMAP_SOFT_DIRTY (UINT64_C(1) << 55)
#define GW_PAGEMAP_SWAPPED    (UINT64_C(1) << 62)
#define GW_PAGEMAP_PRESENT    (UINT64_C(1) << 63)

#endif
