/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data path by itself: "path serve ADDRESS PSK FOLDER [TRUSTED]" receives sessions until it is
 * killed, "path copy ADDRESS PSK FILE NAME [TRUSTED]" sends one image. With PATH_NULL set the
 * serving side drops what it has checked. The whole of a session runs as in an agent; only queue
 * and policy are missing.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/migration.h"

static struct gw_environment environment;

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, gw_error_message());
    exit(1);
}

static void set_up(char **argv, int argc, int trusted_at)
{
    struct gw_credentials_options options = {.psk_path = argv[3]};
    struct gw_credentials *credentials;

    if (gw_credentials_load(&options, &credentials) ||
        gw_transports_open(
            &(struct gw_transports_wanted){.names = &(const char *){"tcp"}, .name_count = 1},
            &environment.transports))
        die("set up");
    environment.credentials = credentials;
    environment.instance_id[0] = (uint8_t)argv[1][0];
    environment.worker_count = 1;
    if (argc > trusted_at) {
        if (gw_network_parse(argv[trusted_at], &environment.trusted[0]))
            die("network");
        environment.trusted_count = 1;
    }
}

static void *run_session(void *argument)
{
    struct gw_serve *serve = argument;
    struct gw_progress progress;
    struct gw_outcome outcome;
    char *text;

    gw_progress_init(&progress);
    if (gw_serve_run(serve, &progress, &outcome))
        fprintf(stderr, "session: %s\n", gw_error_message());
    text = json_dumps(outcome.detail, 0);
    printf("%s\n", text);
    fflush(stdout);
    free(text);
    return NULL;
}

static void serve_one(struct gw_listener *listener, struct gw_serve **current)
{
    struct gw_control_options options = {
        .credentials = environment.credentials,
        .trusted = environment.trusted,
        .trusted_count = environment.trusted_count,
        .timeout_ms = 5000,
    };
    struct gw_request *request;
    struct gw_control *control;
    struct gw_hello hello;
    pthread_t thread;

    memcpy(options.instance_id, environment.instance_id, GW_ID_SIZE);
    if (gw_next_request(listener, 1000, &request))
        return;
    if (gw_hello_parse(request, &hello)) {
        gw_reject(request, gw_error_message());
    } else if (hello.role == GW_HELLO_DATA && *current) {
        gw_serve_offer(*current, request);
    } else if (gw_control_accept(request, &options, &control) ||
               gw_serve_new(&environment, control, current)) {
        fprintf(stderr, "control: %s\n", gw_error_message());
    } else {
        pthread_create(&thread, NULL, run_session, *current);
        pthread_detach(thread);
    }
}

static void serve(char **argv)
{
    struct gw_serve *current = NULL;
    struct gw_listener *listener;
    struct gw_address address;

    if (gw_address_parse(argv[2], GW_DEFAULT_PORT, &address) ||
        gw_listen(environment.transports.list[0], &address, &listener))
        die("listen");
    environment.storage[0] = argv[4];
    environment.storage_count = 1;
    environment.drop_disks = getenv("PATH_NULL") != NULL;
    for (;;)
        serve_one(listener, &current);
}

static int copy(char **argv)
{
    struct gw_copy_request request = {
        .source_path = argv[4], .is_remote = true, .target_path = argv[5]};
    struct gw_progress progress;
    struct gw_outcome outcome;
    char *text;
    int error;

    if (getenv("PATH_CHANNELS"))
        request.link.channels = (unsigned)atoi(getenv("PATH_CHANNELS"));
    if (gw_address_parse(argv[2], GW_DEFAULT_PORT, &request.peer))
        die("address");
    gw_progress_init(&progress);
    error = gw_copy_run(&environment, &request, &progress, &outcome);
    if (error)
        fprintf(stderr, "copy: %s\n", gw_error_message());
    text = json_dumps(outcome.detail, 0);
    printf("%s\n", text);
    free(text);
    return (int)outcome.exit_code;
}

int main(int argc, char **argv)
{
    if (argc >= 5 && strcmp(argv[1], "serve") == 0) {
        set_up(argv, argc, 5);
        serve(argv);
    }
    if (argc >= 6 && strcmp(argv[1], "copy") == 0) {
        set_up(argv, argc, 6);
        return copy(argv);
    }
    fprintf(stderr, "usage: path serve ADDRESS PSK FOLDER [TRUSTED]\n"
                    "       path copy ADDRESS PSK FILE NAME [TRUSTED]\n");
    return 2;
}
