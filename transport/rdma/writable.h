/* SPDX-License-Identifier: Apache-2.0 */
/*
 * writable: memory that is mapped read-only, for kernels that register none of that.
 *
 * Errors: -errno, without a message.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_RDMA_WRITABLE_H
#define GODWIT_TRANSPORT_RDMA_WRITABLE_H

#include <stdint.h>

/* Maps the pages of a read-only mapping of files once more, writable: memory lies at its own place
 * within its page in *alias. The caller unmaps alias_size bytes. */
int gw_rdma_map_writable(const void *memory, uint64_t length, void **alias, uint64_t *alias_size);

#endif
