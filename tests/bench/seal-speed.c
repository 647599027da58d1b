/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seal-speed: what sealing costs. Prints MB/s of gw_seal_chunk and gw_seal_open_chunk on one core
 * for some chunk sizes, and of a control session's raw frames over loopback tcp (both ends in this
 * process).
 *
 *   seal-speed [SECONDS-PER-LINE]
 *
 * Compare with: openssl speed -seconds 3 -bytes 65536 -evp aes-256-gcm (tests/bench/seal-speed.sh
 * does).
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/memory.h"
#include "transport/link/control.h"
#include "transport/link/seal.h"

#define BUFFER (256u << 10)
#define BIG    (256u << 20) /* bytes through the control session */

struct end {
    struct gw_control *control;
    struct gw_domain *domain;
    struct gw_poller *poller;
    struct gw_channel *channel;
    struct gw_seal *seal;
};

struct bench {
    struct gw_transport *transport;
    struct gw_listener *listener;
    struct gw_address address;
    struct gw_credentials *credentials;
    struct end ends[2];
};

static void must(int rc)
{
    if (rc) {
        fprintf(stderr, "seal-speed: %s\n", gw_error_message());
        exit(1);
    }
}

static struct gw_control_options options_of(struct bench *bench, unsigned which)
{
    struct gw_control_options options = {.credentials = bench->credentials, .timeout_ms = 5000};

    memset(options.instance_id, (int)which + 1, GW_ID_SIZE);
    return options;
}

static void *accept_both(void *context)
{
    struct bench *bench = context;
    struct end *end = &bench->ends[1];
    struct gw_control_options options = options_of(bench, 1);
    struct gw_channel_options channel = {
        .domain = end->domain, .poller = end->poller, .timeout_ms = 5000};
    struct gw_request *request;

    must(gw_next_request(bench->listener, 5000, &request));
    must(gw_control_accept(request, &options, &end->control));
    must(gw_next_request(bench->listener, 5000, &request));
    must(gw_seal_admit(end->control, request, &channel, &end->channel, &end->seal));
    return NULL;
}

static void load_key(struct bench *bench)
{
    char path[] = "/tmp/godwit-seal-speed-XXXXXX";
    struct gw_credentials_options options = {.psk_path = path};
    int fd = mkstemp(path);
    FILE *out = fd < 0 ? NULL : fdopen(fd, "w");

    if (!out)
        must(gw_fail_errno(-1, "cannot make %s", path));
    must(gw_psk_write("bench", out));
    fclose(out);
    must(gw_credentials_load(&options, &bench->credentials));
    unlink(path);
}

static void open_link(struct bench *bench)
{
    struct gw_control_options options = options_of(bench, 0);
    struct gw_connect_options connect = {0};
    struct end *end = &bench->ends[0];
    uint8_t proof[GW_SEAL_PROOF_SIZE];
    pthread_t thread;

    must(gw_transport_new("tcp", NULL, &bench->transport));
    must(gw_address_parse("127.0.0.1:0", 0, &bench->address));
    must(gw_listen(bench->transport, &bench->address, &bench->listener));
    must(gw_listener_address(bench->listener, &bench->address));
    for (unsigned i = 0; i < 2; i++) {
        must(gw_domain_open(bench->transport, NULL, &bench->ends[i].domain));
        must(gw_poller_open(bench->transport, &bench->ends[i].poller));
    }
    pthread_create(&thread, NULL, accept_both, bench);
    must(gw_control_connect(bench->transport, &bench->address, &options, &end->control));
    connect.peer = bench->address;
    connect.channel = (struct gw_channel_options){
        .domain = end->domain, .poller = end->poller, .timeout_ms = 5000};
    must(gw_seal_dial(end->control, &connect, &end->channel, &end->seal));
    pthread_join(thread, NULL);
    for (unsigned i = 0; i < 2; i++) {
        gw_seal_proof(bench->ends[i].seal, proof);
        must(gw_seal_check(bench->ends[1 - i].seal, proof, sizeof(proof)));
    }
}

static void close_link(struct bench *bench)
{
    for (unsigned i = 0; i < 2; i++) {
        gw_close(bench->ends[i].channel);
        gw_seal_free(bench->ends[i].seal);
        gw_poller_close(bench->ends[i].poller);
        gw_domain_close(bench->ends[i].domain);
        gw_control_close(bench->ends[i].control);
    }
    gw_unlisten(bench->listener);
    gw_transport_free(bench->transport);
    gw_credentials_free(bench->credentials);
}

/* Seals batches and opens them, so that the counters agree; only the one asked for is timed, in CPU
 * time of this thread. */
static double rate_of(struct bench *bench, uint32_t length, double seconds, int is_opening)
{
    static uint8_t plain[BUFFER], sealed[BUFFER];
    uint8_t tags[BUFFER / 16384][GW_SEAL_TAG_SIZE];
    struct gw_chunk_name name = {.volume = 1, .length = length};
    unsigned count = BUFFER / length; /* stays in the cache, as openssl speed's buffer does */
    uint64_t spent = 0, bytes = 0;

    while (spent < (uint64_t)(seconds * (double)GW_NS_PER_S)) {
        uint64_t t0 = gw_clock_thread_ns(), t1, t2;

        for (unsigned i = 0; i < count; i++)
            must(gw_seal_chunk(bench->ends[0].seal, &name, plain + i * length, sealed + i * length,
                               tags[i]));
        t1 = gw_clock_thread_ns();
        for (unsigned i = 0; i < count; i++)
            must(gw_seal_open_chunk(bench->ends[1].seal, &name, sealed + i * length,
                                    plain + i * length, tags[i]));
        t2 = gw_clock_thread_ns();
        spent += is_opening ? t2 - t1 : t1 - t0;
        bytes += (uint64_t)count * length;
    }
    return (double)bytes / 1e6 / ((double)spent / 1e9);
}

struct big_send {
    struct gw_control *control;
    uint64_t cpu_ns;
};

static void *send_big(void *context)
{
    struct big_send *send = context;
    struct gw_control *control = send->control;
    uint8_t *bytes = calloc(1, GW_CONTROL_FRAME_MAX);
    uint64_t started = gw_clock_thread_ns();

    for (uint32_t at = 0; at < BIG; at += GW_CONTROL_FRAME_MAX)
        must(gw_control_send_bytes(control, bytes, GW_CONTROL_FRAME_MAX));
    free(bytes);
    send->cpu_ns = gw_clock_thread_ns() - started;
    return NULL;
}

static double mb_per_s(uint64_t nanoseconds)
{
    return (double)BIG / 1e6 / ((double)nanoseconds / 1e9);
}

/* Wall time tells of the machine's other work as well; the busier end's own time is what a core of
 * its own would allow. */
static void print_control_rate(struct bench *bench)
{
    struct big_send send = {.control = bench->ends[0].control};
    struct gw_control_frame frame;
    uint64_t started = gw_clock_ns(), cpu_started = gw_clock_thread_ns(), wall, cpu;
    pthread_t thread;

    pthread_create(&thread, NULL, send_big, &send);
    for (uint32_t at = 0; at < BIG; at += GW_CONTROL_FRAME_MAX)
        must(gw_control_receive(bench->ends[1].control, 10000, &frame));
    wall = gw_clock_ns() - started;
    cpu = gw_clock_thread_ns() - cpu_started;
    pthread_join(thread, NULL);
    printf("control-wall %u %.0f\n", GW_CONTROL_FRAME_MAX, mb_per_s(wall));
    printf("control-send %u %.0f\n", GW_CONTROL_FRAME_MAX, mb_per_s(send.cpu_ns));
    printf("control-receive %u %.0f\n", GW_CONTROL_FRAME_MAX, mb_per_s(cpu));
}

int main(int argc, char **argv)
{
    static const uint32_t lengths[] = {16384, 65536, 262144};
    double seconds = argc > 1 ? atof(argv[1]) : 1.0;
    struct bench bench = {0};

    load_key(&bench);
    open_link(&bench);
    for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        printf("seal %u %.0f\n", lengths[i], rate_of(&bench, lengths[i], seconds, 0));
        printf("open %u %.0f\n", lengths[i], rate_of(&bench, lengths[i], seconds, 1));
    }
    print_control_rate(&bench);
    close_link(&bench);
    return 0;
}
