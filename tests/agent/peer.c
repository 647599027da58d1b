/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer for tests of an agent's listeners. Prints one line of what came of it, then holds what it
 * has until its standard input ends. peer KEYFILE ADDRESS session    a control session, proven peer
 * KEYFILE ADDRESS silent     a control channel that never speaks peer KEYFILE ADDRESS stranger   a
 * data channel of a link that does not exist
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/error.h"
#include "transport/link/control.h"
#include "transport/link/private.h"

struct peer {
    struct gw_transport *transport;
    struct gw_address address;
    struct gw_credentials *credentials;
    struct gw_domain *domain;
    struct gw_poller *poller;
    struct gw_channel *channel;
    struct gw_control *control;
};

static int open_session(struct peer *peer)
{
    struct gw_control_options options = {.credentials = peer->credentials, .timeout_ms = 60000};

    if (getrandom(options.instance_id, sizeof(options.instance_id), 0) < 0)
        return -errno;
    return gw_control_connect(peer->transport, &peer->address, &options, &peer->control);
}

static int open_channel(struct peer *peer, enum gw_hello_role role)
{
    struct gw_hello hello = {.role = role, .channel_number = role == GW_HELLO_DATA};
    uint8_t bytes[GW_HELLO_MAX];
    struct gw_connect_options options = {
        .channel.timeout_ms = 60000,
        .peer = peer->address,
        .hello = bytes,
        .hello_length = sizeof(bytes),
    };
    int error = gw_domain_open(peer->transport, NULL, &peer->domain);

    if (!error)
        error = gw_poller_open(peer->transport, &peer->poller);
    if (error || getrandom(hello.link_id, sizeof(hello.link_id), 0) < 0)
        return error;
    gw_hello_write(&hello, bytes);
    options.channel.domain = peer->domain;
    options.channel.poller = peer->poller;
    options.channel.number = hello.channel_number;
    return gw_connect(peer->transport, &options, &peer->channel);
}

static void wait_for_end(void)
{
    char byte;

    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

int main(int argc, char **argv)
{
    struct gw_credentials_options key = {.psk_path = argc > 1 ? argv[1] : NULL};
    struct peer peer = {.transport = NULL};
    int error;

    if (argc != 4)
        return 2;
    error = gw_credentials_load(&key, &peer.credentials);
    if (!error)
        error = gw_transport_new("tcp", NULL, &peer.transport);
    if (!error)
        error = gw_address_parse(argv[2], 0, &peer.address);
    if (!error && strcmp(argv[3], "session") == 0)
        error = open_session(&peer);
    else if (!error)
        error =
            open_channel(&peer, strcmp(argv[3], "silent") == 0 ? GW_HELLO_CONTROL : GW_HELLO_DATA);
    printf("%s\n", error ? gw_error_message() : "open");
    fflush(stdout);
    wait_for_end();
    if (peer.control)
        gw_control_close(peer.control);
    if (peer.channel)
        gw_close(peer.channel);
    if (peer.poller)
        gw_poller_close(peer.poller);
    if (peer.domain)
        gw_domain_close(peer.domain);
    gw_transport_free(peer.transport);
    gw_credentials_free(peer.credentials);
    return error ? 1 : 0;
}
