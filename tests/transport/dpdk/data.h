/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data: bytes that go from a rig's near end to its far end while a test makes trouble for them. Each
 * round fills one slot of a region with writes of odd lengths and announces it with a message; the far
 * end compares every byte, scribbles over the slot, and answers; then the slot is used again. What
 * fails here fails the test: a wrong byte, a message out of order, an op that is not done exactly once,
 * a round that makes no progress for RIG_WAIT_MS, a byte that was written outside the region or into a
 * slot that was handed over already.
 *
 * Order: data_open → data_round ... → data_finish → data_close.
 * Threads: one, the rig's.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_TRANSPORT_DPDK_DATA_H
#define GODWIT_TESTS_TRANSPORT_DPDK_DATA_H

#include "tests/transport/rig.h"

#define DATA_SLOT_SIZE (256u << 10)

struct data;

/* The rig's ends are joined. */
struct data *data_open(struct rig *rig, unsigned seed);
/* One more round, as soon as there is a slot for it. */
void data_round(struct data *data);
/* Until every round was answered. */
void data_finish(struct data *data);
void data_close(struct data *data);

#endif
