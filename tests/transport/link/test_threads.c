/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A control session in use by its two threads while others dial and admit data channels of it.
 * Plain, so that the thread sanitizer can watch. Exit status 0: every frame and every channel was
 * right.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "transport/link/control.h"
#include "transport/link/seal.h"

#define FRAMES   400u
#define CHANNELS 12u
#define DIALLERS 2u

struct rig {
    struct gw_transport *transport;
    struct gw_listener *listener;
    struct gw_address address;
    struct gw_credentials *credentials;
    struct gw_control *controls[2];
    atomic_uint admitted, dialled;
    _Atomic uint64_t number_sum;
};

static void must(int rc, const char *what)
{
    if (rc) {
        fprintf(stderr, "%s: %s\n", what, gw_error_message());
        exit(1);
    }
}

static struct gw_control_options options_of(struct rig *rig, int side)
{
    struct gw_control_options options = {.credentials = rig->credentials, .timeout_ms = 10000};

    memset(options.instance_id, side + 1, GW_ID_SIZE);
    return options;
}

static void *accept_control(void *context)
{
    struct rig *rig = context;
    struct gw_control_options options = options_of(rig, 1);
    struct gw_request *request;

    must(gw_next_request(rig->listener, 10000, &request), "request");
    must(gw_control_accept(request, &options, &rig->controls[1]), "accept");
    return NULL;
}

/* One end of the conversation: echoes, or asks and checks the echo. */
static void *echo(void *context)
{
    struct rig *rig = context;
    struct gw_control_frame frame;

    for (unsigned i = 0; i < FRAMES; i++) {
        must(gw_control_receive(rig->controls[1], 10000, &frame), "echo");
        must(gw_control_send_bytes(rig->controls[1], frame.bytes, frame.length), "echo");
    }
    return NULL;
}

static void *ask(void *context)
{
    struct rig *rig = context;
    struct gw_control_frame frame;
    uint32_t text[500];

    for (unsigned i = 0; i < FRAMES; i++) {
        for (unsigned j = 0; j < 500; j++)
            text[j] = i * 500 + j;
        must(gw_control_send_bytes(rig->controls[0], text, sizeof(text)), "ask");
        must(gw_control_receive(rig->controls[0], 10000, &frame), "ask");
        if (frame.length != sizeof(text) || memcmp(frame.bytes, text, sizeof(text)) != 0)
            must(gw_fail(-1, "frame %u came back changed", i), "ask");
    }
    return NULL;
}

static void *admit(void *context)
{
    struct rig *rig = context;

    for (unsigned i = 0; i < CHANNELS * DIALLERS; i++) {
        struct gw_channel_options options = {.timeout_ms = 10000};
        struct gw_request *request;
        struct gw_channel *channel;
        struct gw_seal *seal;

        must(gw_domain_open(rig->transport, NULL, &options.domain), "domain");
        must(gw_poller_open(rig->transport, &options.poller), "poller");
        must(gw_next_request(rig->listener, 10000, &request), "request");
        must(gw_seal_admit(rig->controls[1], request, &options, &channel, &seal), "admit");
        rig->number_sum += gw_seal_number(seal);
        rig->admitted++;
        gw_close(channel);
        gw_seal_free(seal);
        gw_poller_close(options.poller);
        gw_domain_close(options.domain);
    }
    return NULL;
}

static void *dial(void *context)
{
    struct rig *rig = context;

    for (unsigned i = 0; i < CHANNELS; i++) {
        struct gw_connect_options options = {.peer = rig->address};
        struct gw_channel *channel;
        struct gw_seal *seal;

        options.channel.timeout_ms = 10000;
        must(gw_domain_open(rig->transport, NULL, &options.channel.domain), "domain");
        must(gw_poller_open(rig->transport, &options.channel.poller), "poller");
        must(gw_seal_dial(rig->controls[0], &options, &channel, &seal), "dial");
        rig->dialled++;
        gw_close(channel);
        gw_seal_free(seal);
        gw_poller_close(options.channel.poller);
        gw_domain_close(options.channel.domain);
    }
    return NULL;
}

static void load_key(struct rig *rig)
{
    char path[] = "/tmp/godwit-link-threads-XXXXXX";
    struct gw_credentials_options options = {.psk_path = path};
    int fd = mkstemp(path);
    FILE *out = fd < 0 ? NULL : fdopen(fd, "w");

    if (!out)
        must(gw_fail(-1, "cannot make %s", path), "key");
    must(gw_psk_write("lab", out), "key");
    fclose(out);
    must(gw_credentials_load(&options, &rig->credentials), "key");
    unlink(path);
}

int main(void)
{
    static void *(*const bodies[])(void *) = {echo, ask, admit, dial, dial};
    struct rig rig = {0};
    struct gw_control_options options;
    pthread_t threads[5];

    load_key(&rig);
    options = options_of(&rig, 0);
    must(gw_transport_new("tcp", NULL, &rig.transport), "transport");
    must(gw_address_parse("127.0.0.1:0", 0, &rig.address), "address");
    must(gw_listen(rig.transport, &rig.address, &rig.listener), "listen");
    must(gw_listener_address(rig.listener, &rig.address), "address");
    pthread_create(&threads[0], NULL, accept_control, &rig);
    must(gw_control_connect(rig.transport, &rig.address, &options, &rig.controls[0]), "connect");
    pthread_join(threads[0], NULL);
    for (unsigned i = 0; i < 5; i++)
        pthread_create(&threads[i], NULL, bodies[i], &rig);
    for (unsigned i = 0; i < 5; i++)
        pthread_join(threads[i], NULL);
    if (rig.admitted != CHANNELS * DIALLERS || rig.dialled != CHANNELS * DIALLERS ||
        rig.number_sum != CHANNELS * DIALLERS * (CHANNELS * DIALLERS + 1) / 2)
        must(gw_fail(-1, "%u admitted, %u dialled", rig.admitted, rig.dialled), "count");
    gw_control_close(rig.controls[0]);
    gw_control_close(rig.controls[1]);
    gw_unlisten(rig.listener);
    gw_transport_free(rig.transport);
    gw_credentials_free(rig.credentials);
    return 0;
}
