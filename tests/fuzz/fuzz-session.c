/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: what a peer that has proven itself may say in a control session. The first byte of
 * the input chooses: an offered volume; members of any message; messages of the handover, to either
 * side; a path for an image; digests of what a target has. Built with clang and -Dfuzz=true; run by hand:
 * fuzz-session -max_total_time=60 CORPUS.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/session/compare.h"
#include "engine/session/message.h"
#include "engine/session/offer.h"
#include "engine/session/storage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was accepted is within its bounds and the same after another journey. */
static void fuzz_offer(const json_t *object)
{
    struct gw_offered_volume volume, again;
    json_t *written;

    if (gw_offer_parse_volume(object, &volume))
        return;
    assert(volume.size > 0 && volume.size <= GW_VOLUME_SIZE_MAX);
    assert(volume.data_bytes <= GW_VOLUME_SIZE_MAX);
    assert(strlen(volume.name) < sizeof(volume.name));
    assert(strlen(volume.file_name) < sizeof(volume.file_name));
    assert(strlen(volume.target) < sizeof(volume.target));
    if (volume.kind == GW_VOLUME_DISK) {
        /* (A VHD, which godwit only reads, is refused where it would be made.) */
        assert(volume.format != GW_IMAGE_PROBE || volume.foreign[0]);
        assert(volume.block_size <= 256u << 20);
        assert(volume.logical_sector_size <= 4096 && volume.physical_sector_size <= 4096);
    }
    written = gw_offer_volume(&volume);
    assert(written);
    assert(gw_offer_parse_volume(written, &again) == 0);
    assert(memcmp(&volume, &again, sizeof(volume)) == 0);
    json_decref(written);
}

static void fuzz_members(const json_t *message)
{
    char epoch[2 * GW_ID_SIZE + 1], link[2 * GW_ID_SIZE + 1];
    const char *text;
    uint64_t number;
    uint8_t id[GW_ID_SIZE];
    json_t *list;
    bool is;

    gw_message_is(message, gw_message_type(message));
    assert(gw_message_raise(message) < 0);
    if (gw_message_text(message, "a", &text) == 0)
        gw_id_parse(text, id);
    gw_message_optional_text(message, "a", &text);
    if (gw_message_number(message, "a", 1000, &number) == 0)
        assert(number <= 1000);
    gw_message_bool(message, "a", &is);
    if (gw_message_array(message, "a", 4, &list) == 0)
        assert(json_array_size(list) <= 4);
    if (gw_message_rejoin(message, epoch, link) == 0)
        assert(strlen(epoch) == 2 * GW_ID_SIZE && strlen(link) == 2 * GW_ID_SIZE);
    if (gw_message_lanes(message, &list) == 0)
        assert(gw_message_applied(list, 1) <= INT64_MAX);
}

/* Every message in the list, one after another, with results of the steps in between. Whatever the
 * peer says, a source resumes only before it committed or on the target's promise. */
static void fuzz_handover(const json_t *message, enum gw_journal_side side)
{
    static const uint8_t peer[16] = {1};
    struct gw_handover_actions actions;
    struct gw_handover handover;
    json_t *item, *list;
    bool is_committed = false, is_promised = false;
    size_t index;

    if (gw_message_array(message, "a", 64, &list))
        return;
    gw_handover_begin(&handover, side, peer, &actions);
    json_array_foreach(list, index, item)
    {
        enum gw_handover_event event;
        const char *name = json_string_value(item);

        while (handover.is_busy && index % 3 != 0) {
            gw_handover_step(&handover, GW_EVENT_DONE, &actions);
            is_committed = is_committed || handover.state == GW_HANDOVER_COMMITTED;
        }
        if (name && strcmp(name, "c") == 0)
            gw_handover_step(&handover, GW_EVENT_CONVERGED, &actions);
        if (!name || gw_handover_message_parse(name, &event))
            continue;
        assert(event >= GW_EVENT_FINISH && event < GW_EVENT_COUNT);
        if (gw_handover_hear(&handover, peer, event, &actions) == 0)
            is_promised = is_promised || event == GW_EVENT_ABORTED || event == GW_EVENT_NEVER_RAN;
        assert(handover.state != GW_HANDOVER_UNDOING || !is_committed || is_promised);
        assert(handover.state != GW_HANDOVER_RESUMED || !is_committed || is_promised);
    }
}

/* Digests are of granules within what was asked for, in their order. */
static void fuzz_compared(const json_t *message)
{
    const uint64_t begin = 2 * GW_COMPARE_GRANULE, end = 90 * GW_COMPARE_GRANULE - 512;
    struct gw_compare_piece piece;
    uint64_t least = begin;

    if (gw_compare_decode(message, begin, end, &piece))
        return;
    assert(piece.end > begin && piece.end <= end && piece.count <= GW_COMPARE_MAX);
    for (unsigned i = 0; i < piece.count; i++) {
        uint64_t offset = piece.granules[i].index * GW_COMPARE_GRANULE;

        assert(piece.granules[i].index < 90 && offset >= least && offset < piece.end);
        least = offset + GW_COMPARE_GRANULE;
    }
}

static void fuzz_path(const uint8_t *data, size_t size)
{
    static char folder[] = "/tmp/godwit-fuzz-XXXXXX";
    static bool is_made;
    struct gw_environment environment = {.storage = {folder}, .storage_count = 1};
    char wanted[2 * PATH_MAX], out[PATH_MAX], root[PATH_MAX];

    if (!is_made)
        is_made = mkdtemp(folder) != NULL;
    if (!is_made || !realpath(folder, root) || size >= sizeof(wanted))
        return;
    memcpy(wanted, data, size);
    wanted[size] = '\0';
    if (gw_storage_resolve(&environment, wanted, "disk", out))
        return;
    assert(strncmp(out, root, strlen(root)) == 0 && out[strlen(root)] == '/');
    /* The folder is empty: one name is all that can follow. */
    assert(!strchr(out + strlen(root) + 1, '/'));
    assert(strcmp(out + strlen(root) + 1, "..") != 0 && strcmp(out + strlen(root) + 1, ".") != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *value;

    if (size == 0)
        return 0;
    if (data[0] % 6 == 4) {
        fuzz_path(data + 1, size - 1);
        return 0;
    }
    value = json_loadb((const char *)data + 1, size - 1, JSON_DECODE_ANY, NULL);
    if (!value)
        return 0;
    switch (data[0] % 6) {
    case 0:
        fuzz_offer(value);
        break;
    case 1:
        fuzz_members(value);
        break;
    case 2:
        fuzz_handover(value, GW_SIDE_SOURCE);
        break;
    case 5:
        fuzz_compared(value);
        break;
    default:
        fuzz_handover(value, GW_SIDE_TARGET);
        break;
    }
    json_decref(value);
    return 0;
}
