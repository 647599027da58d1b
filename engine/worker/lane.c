/* SPDX-License-Identifier: Apache-2.0 */
/* Proofs, digests and counters of a lane. It knows nothing of volumes. */
#include "engine/worker/lane.h"

#include <errno.h>

#include "common/clock.h"
#include "common/hash.h"

static void proof_done(struct gw_op *op, int status)
{
    /* The bytes lie in the lane itself; there is nothing to give back. */
}

int gw_lane_send_proof(struct gw_lane_talk *talk)
{
    int error;

    if (talk->is_proof_sent)
        return 0;
    gw_seal_proof(talk->seal, talk->proof_bytes);
    talk->proof = (struct gw_send){
        .op.done = proof_done,
        .message = talk->proof_bytes,
        .length = GW_SEAL_PROOF_SIZE,
    };
    error = gw_send(talk->lane.channel, &talk->proof);
    if (!error)
        talk->is_proof_sent = true;
    return error;
}

int gw_lane_check_proof(struct gw_lane_talk *talk, const void *data, uint32_t length)
{
    int error = gw_seal_check(talk->seal, data, length);

    if (!error)
        talk->is_joined = true;
    return error;
}

void gw_lane_digest(const void *bytes, uint64_t length, uint8_t *out)
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
    _Static_assert(sizeof(canonical) == GW_DIGEST_SIZE, "a digest is an XXH3-128");
    __builtin_memcpy(out, &canonical, GW_DIGEST_SIZE);
}

void gw_lane_account(struct gw_lane_counters *counters, enum gw_stage stage, uint64_t since_ns)
{
    atomic_fetch_add_explicit(&counters->stage_ns[stage], gw_clock_ns() - since_ns,
                              memory_order_relaxed);
}

void gw_lane_add_path(const struct gw_lane_counters *counters, struct gw_path_stats *out)
{
    for (int stage = 0; stage < GW_STAGE_COUNT; stage++)
        out->stage_ns[stage] +=
            atomic_load_explicit(&counters->stage_ns[stage], memory_order_relaxed);
    out->data_bytes += atomic_load_explicit(&counters->data_bytes, memory_order_relaxed);
    out->zero_bytes += atomic_load_explicit(&counters->zero_bytes, memory_order_relaxed);
    out->wire_bytes += atomic_load_explicit(&counters->wire_bytes, memory_order_relaxed);
    for (unsigned i = 0; i < GW_VOLUMES_MAX; i++) {
        struct gw_volume_stats *volume = &out->volumes[i];

        volume->direct += atomic_load_explicit(&counters->volumes[i].direct, memory_order_relaxed);
        volume->slots += atomic_load_explicit(&counters->volumes[i].slots, memory_order_relaxed);
        volume->sealed += atomic_load_explicit(&counters->volumes[i].sealed, memory_order_relaxed);
        volume->copied += atomic_load_explicit(&counters->volumes[i].copied, memory_order_relaxed);
    }
    out->entries += atomic_load_explicit(&counters->entries, memory_order_relaxed);
    out->records += atomic_load_explicit(&counters->records, memory_order_relaxed);
}
