/* SPDX-License-Identifier: Apache-2.0 */
/* Joins the two ends; see rig.h. */
#include "tests/engine/path/rig.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/memory.h"

#define WAIT_MS 60000
#define BLOCK   65536u

#define MUST(call)                                                                                 \
    do {                                                                                           \
        int must_ = (call);                                                                        \
        if (must_) {                                                                               \
            fprintf(stderr, "%s: %d %s\n", #call, must_, gw_error_message());                      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void control_options(struct path_rig *rig, uint8_t instance, struct gw_control_options *out)
{
    *out = (struct gw_control_options){
        .credentials = rig->credentials,
        .trusted = &rig->everywhere,
        .trusted_count = rig->is_clear,
        .timeout_ms = WAIT_MS,
    };
    out->instance_id[0] = instance;
}

static void *accept_control(void *argument)
{
    struct path_rig *rig = argument;
    struct gw_control_options options;
    struct gw_request *request;

    control_options(rig, 2, &options);
    MUST(gw_next_request(rig->listener, WAIT_MS, &request));
    MUST(gw_control_accept(request, &options, &rig->far));
    return NULL;
}

static void make_credentials(struct path_rig *rig)
{
    char path[] = "/tmp/path-rig-XXXXXX";
    struct gw_credentials_options options = {.psk_path = path};
    FILE *file = fdopen(mkstemp(path), "w");

    MUST(gw_psk_write("rig", file));
    fclose(file);
    MUST(gw_credentials_load(&options, &rig->credentials));
    unlink(path);
}

static void open_at_target(struct path_rig *rig, struct path_answer *answer)
{
    int error = gw_receiver_window_open(rig->receiver, &answer->window);

    answer->error.code = 0;
    if (error)
        gw_error_take(error, &answer->error);
    answer->is_there = true;
}

static int ask(void *context, const struct gw_window *window)
{
    struct path_rig *rig = context;
    struct path_answer *answer = &rig->answers[rig->answer_count++];

    assert(rig->answer_count < sizeof(rig->answers) / sizeof(*rig->answers));
    *answer = (struct path_answer){.window = *window};
    if (!rig->is_unanswered)
        open_at_target(rig, answer);
    return 0;
}

/* The target's answers travel; here they come with the next turn. */
static void step_windows(struct path_rig *rig)
{
    for (unsigned i = 0; i < rig->answer_count && !rig->is_unanswered; i++) {
        struct path_answer *answer = &rig->answers[i];

        if (!answer->is_there)
            open_at_target(rig, answer);
        MUST(gw_windows_answer(rig->windows, answer->window.number, !answer->error.code,
                               answer->error.code == -ENOMEM, answer->error.text));
    }
    if (!rig->is_unanswered)
        rig->answer_count = 0;
    MUST(gw_windows_step(rig->windows));
}

static void open_rig(struct path_rig *rig, const char *transport, bool is_clear, uint64_t limit)
{
    static const uint8_t migration_id[GW_ID_SIZE] = {7};
    struct gw_control_options options;
    struct gw_transport *inner;
    pthread_t thread;

    memset(rig, 0, sizeof(*rig));
    rig->is_clear = is_clear;
    MUST(gw_network_parse("127.0.0.0/8", &rig->everywhere));
    make_credentials(rig);
    MUST(gw_transport_new(transport, NULL, &inner));
    MUST(gw_faulty_new(inner, &rig->faulty));
    if (limit)
        gw_faulty_be_rdma(rig->faulty, limit);
    MUST(gw_address_parse("127.0.0.1", 0, &rig->address));
    MUST(gw_listen(rig->faulty, &rig->address, &rig->listener));
    MUST(gw_listener_address(rig->listener, &rig->address));
    pthread_create(&thread, NULL, accept_control, rig);
    control_options(rig, 1, &options);
    MUST(gw_control_connect(rig->faulty, &rig->address, &options, &rig->near));
    pthread_join(thread, NULL);
    MUST(gw_domain_open(rig->faulty, &rig->address, &rig->near_domain));
    MUST(gw_domain_open(rig->faulty, &rig->address, &rig->far_domain));
    MUST(gw_worker_new(NULL, -1, &rig->near_worker));
    MUST(gw_worker_new(NULL, -1, &rig->far_worker));
    MUST(gw_sender_new(migration_id, &rig->sender));
    MUST(gw_receiver_new(migration_id, &rig->receiver));
}

void path_rig_open(struct path_rig *rig, const char *transport, bool is_clear)
{
    open_rig(rig, transport, is_clear, 0);
}

void path_rig_open_rdma(struct path_rig *rig, const char *transport, bool is_clear, uint64_t limit,
                        uint64_t target_limit)
{
    struct gw_windows_options options = {.ask = ask, .context = rig};

    open_rig(rig, transport, is_clear, limit);
    options.sender = rig->sender;
    MUST(gw_windows_new(&options, &rig->windows));
    gw_pins_init(&rig->pins, target_limit);
    gw_receiver_set_pins(rig->receiver, &rig->pins);
}

void path_rig_close(struct path_rig *rig)
{
    gw_windows_free(rig->windows);
    gw_sender_free(rig->sender);
    gw_receiver_free(rig->receiver);
    gw_worker_free(rig->near_worker);
    gw_worker_free(rig->far_worker);
    gw_domain_close(rig->near_domain);
    gw_domain_close(rig->far_domain);
    gw_control_close(rig->near);
    gw_control_close(rig->far);
    gw_unlisten(rig->listener);
    gw_transport_free(rig->faulty);
    gw_credentials_free(rig->credentials);
}

void path_rig_add_volume(struct path_rig *rig, uint16_t index, struct gw_source_volume *source,
                         struct gw_target_volume *target)
{
    gw_sender_add_volume(rig->sender, index, source);
    gw_receiver_add_volume(rig->receiver, index, target);
}

static void *admit_channel(void *argument)
{
    struct path_rig *rig = argument;
    struct gw_channel_options options = {
        .domain = rig->far_domain,
        .timeout_ms = WAIT_MS,
    };
    struct gw_request *request;
    struct gw_channel *channel;
    struct gw_lane *lane;
    struct gw_hello hello;
    struct gw_seal *seal;

    MUST(gw_worker_poller(rig->far_worker, rig->faulty, &options.poller));
    MUST(gw_next_request(rig->listener, WAIT_MS, &request));
    MUST(gw_hello_parse(request, &hello));
    MUST(gw_receiver_prepare(rig->receiver, rig->far_worker, rig->far_domain, hello.channel_number,
                             rig->is_clear, &lane));
    options.number = hello.channel_number;
    options.context = lane;
    MUST(gw_seal_admit(rig->far, request, &options, &channel, &seal));
    gw_receiver_start(lane, channel, seal);
    return NULL;
}

void path_rig_add_channel(struct path_rig *rig)
{
    struct gw_connect_options options = {
        .channel = {.domain = rig->near_domain, .timeout_ms = WAIT_MS},
        .peer = rig->address,
    };
    struct gw_channel *channel;
    struct gw_lane *lane;
    struct gw_seal *seal;
    pthread_t thread;

    pthread_create(&thread, NULL, admit_channel, rig);
    MUST(gw_worker_poller(rig->near_worker, rig->faulty, &options.channel.poller));
    MUST(gw_sender_prepare(rig->sender, rig->near_worker, rig->near_domain, &lane));
    options.channel.context = lane;
    MUST(gw_seal_dial(rig->near, &options, &channel, &seal));
    gw_sender_start(lane, channel, seal);
    pthread_join(thread, NULL);
}

void path_rig_dial(struct path_rig *rig, struct gw_poller *poller, struct gw_channel **channel,
                   struct gw_seal **seal)
{
    struct gw_connect_options options = {
        .channel = {.domain = rig->near_domain, .poller = poller, .timeout_ms = WAIT_MS},
        .peer = rig->address,
    };
    pthread_t thread;

    pthread_create(&thread, NULL, admit_channel, rig);
    MUST(gw_seal_dial(rig->near, &options, channel, seal));
    pthread_join(thread, NULL);
}

static void replace(struct path_rig *rig, uint32_t number)
{
    uint64_t applied;

    /* A channel that dies before its peer has looked at it carries nothing: without an end to the dying
     * a slow machine would never be done. */
    if (++rig->deaths == PATH_DEATHS_MAX)
        gw_faulty_drop_after(rig->faulty, UINT64_MAX);
    MUST(gw_receiver_bury(rig->receiver, number, &applied));
    MUST(gw_sender_bury(rig->sender, number, applied));
    path_rig_add_channel(rig);
}

int path_rig_run(struct path_rig *rig, struct gw_round *round)
{
    uint64_t deadline = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;
    int result = 1;

    if (rig->windows)
        gw_windows_begin(rig->windows, round);
    gw_sender_begin(rig->sender, round);
    while (result > 0 || (result == 0 && rig->windows && !gw_windows_is_settled(rig->windows))) {
        struct gw_path_event event;
        struct pollfd fds[] = {{gw_sender_event_fd(rig->sender), POLLIN, 0},
                               {gw_receiver_event_fd(rig->receiver), POLLIN, 0}};

        assert(gw_clock_ns() < deadline);
        poll(fds, 2, rig->look ? 1 : rig->windows ? 5 : 100);
        if (rig->look)
            rig->look(rig->look_context);
        if (rig->windows)
            step_windows(rig);
        while (result >= 0 && gw_receiver_next_event(rig->receiver, &event))
            if (event.kind == GW_PATH_FAILED)
                result = gw_error_raise(&event.error);
            else if (event.kind == GW_PATH_WINDOW_CLOSED)
                gw_windows_closed(rig->windows, event.number);
        while (result > 0 && gw_sender_next_event(rig->sender, &event)) {
            if (event.kind == GW_PATH_ROUND_DONE)
                result = 0;
            else if (event.kind == GW_PATH_FAILED)
                result = gw_error_raise(&event.error);
            else
                replace(rig, event.number);
        }
    }
    if (rig->windows)
        gw_windows_end(rig->windows);
    gw_sender_end(rig->sender);
    return result;
}

/* ---- volumes ---- */

struct source {
    struct gw_source_volume volume;
    uint8_t *bytes;
    atomic_uint tidied;
};

static int next_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t limit,
                       struct gw_extent *out)
{
    uint8_t *bytes = gw_container_of(volume, struct source, volume)->bytes;
    uint64_t end = offset;
    bool is_zero = gw_memory_is_zero(bytes + offset, gw_min(BLOCK, limit - offset));

    while (end < limit && gw_memory_is_zero(bytes + end, gw_min(BLOCK, limit - end)) == is_zero)
        end += gw_min(BLOCK, limit - end);
    *out = (struct gw_extent){
        .offset = offset,
        .length = end - offset,
        .kind = is_zero ? GW_EXTENT_ABSENT : GW_EXTENT_DATA,
    };
    return 0;
}

static int locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA,
        .where = GW_IN_MEMORY,
        .length = length,
        .memory = gw_container_of(volume, struct source, volume)->bytes + offset,
    };
    return 0;
}

static int no_read(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length)
{
    return gw_fail(-ENOTSUP, "in memory");
}

static void no_copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                      uint64_t length)
{
}

static int no_collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    return gw_fail(-ENOTSUP, "at rest");
}

static int unchanged(struct gw_source_volume *volume)
{
    return 0;
}

static void close_source(struct gw_source_volume *volume)
{
    free(gw_container_of(volume, struct source, volume));
}

static bool tidy(struct gw_source_volume *volume)
{
    atomic_fetch_add(&gw_container_of(volume, struct source, volume)->tidied, 1);
    return false;
}

unsigned path_source_tidied(const struct gw_source_volume *volume)
{
    return atomic_load(&gw_container_of(volume, struct source, volume)->tidied);
}

static const struct gw_source_ops source_ops = {
    .next_extent = next_extent,
    .locate = locate,
    .read = no_read,
    .copied = no_copied,
    .tidy = tidy,
    .collect = no_collect,
    .unchanged = unchanged,
    .close = close_source,
};

struct gw_source_volume *path_source_new(enum gw_volume_kind kind, void *bytes, uint64_t size)
{
    struct source *source = calloc(1, sizeof(*source));

    source->bytes = bytes;
    source->volume = (struct gw_source_volume){
        .ops = &source_ops,
        .kind = kind,
        .size = size,
        .granularity = 4096,
        .is_still = kind == GW_VOLUME_DISK,
    };
    snprintf(source->volume.name, sizeof(source->volume.name), "volume");
    return &source->volume;
}

struct target {
    struct gw_target_volume volume;
    uint8_t *bytes;
};

static int target_locate(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                         struct gw_location *out)
{
    struct target *target = gw_container_of(volume, struct target, volume);

    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA,
        .where = volume->memory ? GW_IN_MEMORY : GW_BY_CALL,
        .length = length,
        .memory = target->bytes + offset,
    };
    return 0;
}

static int target_write(struct gw_target_volume *volume, uint64_t offset, const void *from,
                        uint64_t length)
{
    memcpy(gw_container_of(volume, struct target, volume)->bytes + offset, from, length);
    return 0;
}

static int target_zero(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    memset(gw_container_of(volume, struct target, volume)->bytes + offset, 0, length);
    return 0;
}

static int target_nothing(struct gw_target_volume *volume)
{
    return 0;
}

static void target_abort(struct gw_target_volume *volume)
{
}

static void target_close(struct gw_target_volume *volume)
{
    struct target *target = gw_container_of(volume, struct target, volume);

    gw_memory_free(target->bytes, volume->size);
    free(target);
}

static const struct gw_target_ops target_ops = {
    target_locate,  target_write,   target_zero,  target_nothing, gw_target_no_view,
    target_nothing, target_nothing, target_abort, target_close,
};

struct gw_target_volume *path_target_new(enum gw_volume_kind kind, uint64_t size)
{
    struct target *target = calloc(1, sizeof(*target));

    MUST(gw_memory_new(size, (void **)&target->bytes));
    target->volume = (struct gw_target_volume){
        .ops = &target_ops,
        .kind = kind,
        .size = size,
        .memory = kind == GW_VOLUME_RAM ? target->bytes : NULL,
    };
    snprintf(target->volume.name, sizeof(target->volume.name), "volume");
    return &target->volume;
}

const uint8_t *path_target_bytes(struct gw_target_volume *target)
{
    return gw_container_of(target, struct target, volume)->bytes;
}
