/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: everything of transport/link that reads bytes of a stranger or a peer. The first
 * byte of the input chooses: frames and the JSON in them, greeting and verdict; the hello of a
 * connection request; a proof and a record; the first bytes of a TLS session. Built with clang and
 * -Dfuzz=true; run by hand: fuzz-link -max_total_time=60 CORPUS.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "transport/link/frame.h"
#include "transport/link/greeting.h"
#include "transport/link/seal-private.h"
#include "transport/link/tls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_message(const void *bytes, size_t length)
{
    struct gw_greeting mine = {0}, theirs;
    json_t *message;

    if (gw_frame_parse(bytes, length, &message))
        return;
    assert(json_is_object(message));
    gw_greeting_check(&mine, message, &theirs);
    gw_verdict_check(message);
    json_decref(message);
}

/* Pieces of changing sizes, as they come out of TLS. */
static void fuzz_frames(const uint8_t *data, size_t size)
{
    struct gw_frame_reader reader = {0};
    size_t room, piece = 1;
    void *into;

    while (size > 0 && gw_frame_want(&reader, &into, &room) == 0) {
        int rc;

        assert(room > 0);
        piece = piece * 5 % 97 + 1;
        room = room < piece ? room : piece;
        room = room < size ? room : size;
        memcpy(into, data, room);
        data += room;
        size -= room;
        rc = gw_frame_add(&reader, room);
        if (rc < 0)
            break;
        if (rc == 0)
            continue;
        assert(reader.length <= GW_CONTROL_FRAME_MAX);
        if (gw_frame_type(&reader) == GW_FRAME_JSON)
            fuzz_message(reader.body, reader.length);
        gw_frame_next(&reader);
    }
    gw_frame_reader_free(&reader);
}

static void fuzz_hello(const uint8_t *data, size_t size)
{
    struct gw_request request = {.hello_length = (uint32_t)(size < 64 ? size : 64)};
    struct gw_hello hello;
    uint8_t again[GW_HELLO_MAX];

    memcpy(request.hello, data, size < GW_HELLO_MAX ? size : GW_HELLO_MAX);
    if (gw_hello_parse(&request, &hello))
        return;
    gw_hello_write(&hello, again);
    assert(memcmp(again, request.hello, GW_HELLO_MAX) == 0);
}

static void fuzz_seal(const uint8_t *data, size_t size)
{
    struct gw_seal *seal = calloc(1, sizeof(*seal));
    uint8_t out[GW_MESSAGE_MAX];
    uint32_t length;

    assert(seal);
    seal->side = GW_SIDE_ACCEPTING;
    if (gw_gcm_init(&seal->record_in, seal->my_proof_key, 1, false))
        abort();
    /* Without the key nobody passes, whatever the bytes. */
    memset(seal->their_proof_key, 0xa5, sizeof(seal->their_proof_key));
    if (gw_seal_check(seal, data, (uint32_t)size) == 0)
        abort();
    seal->is_broken = false;
    seal->is_joined = true;
    gw_seal_open_record(seal, data, (uint32_t)size, out, &length);
    gw_seal_free(seal);
}

static struct gw_credentials *make_credentials(void)
{
    char path[] = "/tmp/godwit-fuzz-link-XXXXXX";
    struct gw_credentials_options options = {.psk_path = path};
    struct gw_credentials *credentials = NULL;
    int fd = mkstemp(path);
    FILE *out = fd < 0 ? NULL : fdopen(fd, "w");

    if (!out || gw_psk_write("lab", out))
        abort();
    fclose(out);
    if (gw_credentials_load(&options, &credentials))
        abort();
    unlink(path);
    return credentials;
}

static void fuzz_tls(const uint8_t *data, size_t size)
{
    static struct gw_credentials *credentials;
    struct gw_tls *tls;

    if (!credentials)
        credentials = make_credentials();
    if (gw_tls_new(credentials, false, &tls))
        abort();
    gw_tls_feed(tls, data, size);
    if (gw_tls_handshake(tls) == 0)
        abort();
    gw_tls_free(tls);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const targets[])(const uint8_t *, size_t) = {fuzz_frames, fuzz_hello, fuzz_seal,
                                                               fuzz_tls};

    if (size > 0)
        targets[data[0] % 4](data + 1, size - 1);
    return 0;
}
