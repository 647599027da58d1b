/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the two hosts; see hosts.h. */
#include "tests/agent/hosts.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        int must_ = (call);                                                                        \
        if (must_) {                                                                               \
            fprintf(stderr, "%s: %d %s\n", #call, must_, gw_error_message());                      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void make_credentials(struct hosts *hosts)
{
    char path[96];
    struct gw_credentials_options options = {.psk_path = path};
    FILE *file;

    snprintf(path, sizeof(path), "%s/psk", hosts->folder);
    file = fdopen(open(path, O_CREAT | O_WRONLY, 0600), "w");
    MUST(gw_psk_write("hosts", file));
    fclose(file);
    MUST(gw_credentials_load(&options, &hosts->credentials));
}

static void make_image(const struct hosts *hosts, uint64_t size)
{
    FILE *file = fopen(hosts->image, "w");
    uint64_t number = 1;

    for (uint64_t i = 0; i < size; i += sizeof(number)) {
        number = number * 6364136223846793005u + 1442695040888963407u;
        MUST(fwrite(&number, sizeof(number), 1, file) != 1);
    }
    fclose(file);
}

static struct gw_transport *make_transport(struct hosts *hosts, const char *name)
{
    struct gw_transport *inner, *faulty;
    struct gw_transports *transports = &hosts->far.transports;

    MUST(gw_transport_new(name, NULL, &inner));
    MUST(gw_faulty_new(inner, &faulty));
    transports->list[transports->count++] = faulty;
    return faulty;
}

static void make_environments(struct hosts *hosts)
{
    struct gw_environment *far = &hosts->far;

    hosts->loop = make_transport(hosts, "loop");
    hosts->tcp = make_transport(hosts, "tcp");
    far->credentials = hosts->credentials;
    far->worker_count = 1;
    far->storage[0] = hosts->storage;
    far->storage_count = 1;
    far->state_dir = hosts->folder;
    MUST(gw_rejoins_new(&far->rejoins));
    far->reconnect_s = 20;
    hosts->near = *far;
    hosts->near.instance_id[0] = 1;
    far->instance_id[0] = 2;
}

static void listen_far(struct hosts *hosts)
{
    struct gw_jobs_options options = {
        .limits = {1, 1, 1, 1}, .environment = &hosts->far, .history = hosts->history};

    MUST(gw_jobs_new(&options, &hosts->jobs));
    MUST(gw_sessions_new(&hosts->far, hosts->jobs, &hosts->sessions));
    MUST(gw_address_parse("127.0.0.1", 0, &hosts->address));
    for (unsigned i = hosts->far.transports.count; i-- > 0;) {
        struct gw_transport *transport = hosts->far.transports.list[i];

        struct gw_listening *listening = &hosts->far.listen[hosts->far.listen_count++];

        MUST(gw_sessions_listen(hosts->sessions, transport, &hosts->address, listening));
        MUST(gw_listener_address(listening->listener, &hosts->address));
    }
    MUST(gw_sessions_start(hosts->sessions));
}

void hosts_open(struct hosts *hosts, uint64_t size)
{
    char path[96];

    memset(hosts, 0, sizeof(*hosts));
    snprintf(hosts->folder, sizeof(hosts->folder), "/tmp/godwit-hosts-XXXXXX");
    MUST(mkdtemp(hosts->folder) == NULL);
    snprintf(hosts->image, sizeof(hosts->image), "%s/disk.raw", hosts->folder);
    snprintf(hosts->storage, sizeof(hosts->storage), "%s/storage", hosts->folder);
    snprintf(hosts->arrived, sizeof(hosts->arrived), "%s/disk.raw", hosts->storage);
    MUST(mkdir(hosts->storage, 0700));
    make_credentials(hosts);
    make_image(hosts, size);
    make_environments(hosts);
    snprintf(path, sizeof(path), "%s/history", hosts->folder);
    MUST(gw_history_open(path, &hosts->history));
    listen_far(hosts);
    MUST(gw_progress_init(&hosts->progress));
    hosts->request = (struct gw_copy_request){.source_path = hosts->image,
                                              .is_remote = true,
                                              .peer = hosts->address,
                                              .target_path = "",
                                              .link.reconnect_s = -1};
}

void hosts_close(struct hosts *hosts)
{
    char command[128];

    MUST(gw_jobs_stop(hosts->jobs, HOSTS_WAIT_MS));
    gw_sessions_stop(hosts->sessions);
    gw_sessions_free(hosts->sessions);
    gw_jobs_free(hosts->jobs);
    gw_history_close(hosts->history);
    gw_rejoins_free(hosts->far.rejoins);
    gw_transports_close(&hosts->far.transports);
    gw_credentials_free(hosts->credentials);
    gw_outcome_free(&hosts->outcome);
    gw_progress_free(&hosts->progress);
    snprintf(command, sizeof(command), "rm -rf %s", hosts->folder);
    MUST(system(command));
}

void hosts_clear(struct hosts *hosts)
{
    MUST(unlink(hosts->arrived));
    gw_outcome_free(&hosts->outcome);
    memset(&hosts->outcome, 0, sizeof(hosts->outcome));
    gw_progress_free(&hosts->progress);
    MUST(gw_progress_init(&hosts->progress));
}

static void *copy(void *argument)
{
    struct hosts *hosts = argument;

    hosts->result = gw_copy_run(&hosts->near, &hosts->request, &hosts->progress, &hosts->outcome);
    if (hosts->result)
        gw_error_take(hosts->result, &hosts->error);
    return NULL;
}

void hosts_start_copy(struct hosts *hosts)
{
    MUST(pthread_create(&hosts->thread, NULL, copy, hosts));
}

void hosts_wait_half_way(struct hosts *hosts)
{
    uint64_t deadline = gw_clock_ns() + HOSTS_WAIT_MS * GW_NS_PER_MS;
    struct gw_progress_data data;

    do {
        usleep(1000);
        gw_progress_get(&hosts->progress, &data);
        MUST(gw_clock_ns() > deadline);
    } while (data.bytes_done == 0 && data.phase != GW_PHASE_ENDED);
}

int hosts_end_copy(struct hosts *hosts)
{
    pthread_join(hosts->thread, NULL);
    return hosts->result;
}

bool hosts_are_same(const struct hosts *hosts)
{
    char command[256];

    snprintf(command, sizeof(command), "cmp %s %s", hosts->image, hosts->arrived);
    return system(command) == 0;
}

static unsigned count_files(const char *folder)
{
    char command[160];
    unsigned count = 0;
    FILE *pipe;

    snprintf(command, sizeof(command), "find %s -type f | wc -l", folder);
    pipe = popen(command, "r");
    MUST(fscanf(pipe, "%u", &count) != 1);
    pclose(pipe);
    return count;
}

bool hosts_await_no_files(const struct hosts *hosts)
{
    uint64_t deadline_ns = gw_clock_ns() + HOSTS_WAIT_MS * GW_NS_PER_MS;

    while (count_files(hosts->storage) > 0) {
        if (gw_clock_ns() > deadline_ns)
            return false;
        usleep(10000);
    }
    return true;
}

const char *hosts_transport(const struct hosts *hosts)
{
    const json_t *stats = json_object_get(hosts->outcome.detail, "stats");
    const char *text = json_string_value(json_object_get(stats, "transport"));

    return text ? text : "";
}

bool hosts_end_well(struct hosts *hosts, const char *transport)
{
    bool is_good = hosts_end_copy(hosts) == 0 && hosts_are_same(hosts) &&
                   strncmp(hosts_transport(hosts), transport, strlen(transport)) == 0;

    if (!is_good)
        fprintf(stderr, "result %d over '%s': %s\n", hosts->result, hosts_transport(hosts),
                hosts->error.text);
    return is_good;
}

const char *hosts_reason(const struct hosts *hosts, const char *name)
{
    const json_t *list = json_object_get(hosts->outcome.detail, "passed_over"), *item;
    size_t index;

    json_array_foreach((json_t *)list, index, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "transport")), name) == 0)
            return json_string_value(json_object_get(item, "reason"));
    }
    return "";
}

void hosts_wait_for_note(struct hosts *hosts, const char *word)
{
    uint64_t deadline = gw_clock_ns() + HOSTS_WAIT_MS * GW_NS_PER_MS;
    struct gw_progress_data data;

    do {
        usleep(1000);
        gw_progress_get(&hosts->progress, &data);
        if (gw_clock_ns() >= deadline) {
            fprintf(stderr, "no note says '%s' but '%s'\n", word, data.note);
            abort();
        }
    } while (!strstr(data.note, word));
}
