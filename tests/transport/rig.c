/* SPDX-License-Identifier: Apache-2.0 */
/* Sets up and drives the two ends of a test. */
#include "tests/transport/rig.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/check.h"
#include "tests/transport/faulty.h"

#define must(call) check((call) == 0)

static const struct {
    const char *name, *back_end;
    bool is_faulty;
    bool is_on_device; /* its domains are opened by an address */
} kinds[] = {
    [RIG_LOOP] = {"loop", "loop", false, false},
    [RIG_TCP] = {"tcp", "tcp", false, false},
    [RIG_FAULTY_LOOP] = {"faulty loop", "loop", true, false},
    [RIG_FAULTY_TCP] = {"faulty tcp", "tcp", true, false},
    [RIG_VERBS] = {"verbs", "verbs", false, true},
    [RIG_FABRIC] = {"fabric", "fabric", false, true},
    [RIG_FAULTY_FABRIC] = {"faulty fabric", "fabric", true, true},
    [RIG_DPDK] = {"dpdk", "dpdk", false, false},
};

const char *rig_name(enum rig_kind kind)
{
    return kinds[kind].name;
}

bool rig_is_faulty(const struct rig *rig)
{
    return kinds[rig->kind].is_faulty;
}

int rig_timers(const struct rig *rig)
{
    const char *provider = getenv("GODWIT_TEST_FABRIC");

    /* Endpoints that do not connect have a channel of tcp beside them; of the providers that are tested
     * those of ofi_rxm. */
    return rig->kind == RIG_FABRIC && provider && strstr(provider, "ofi_rxm") ? 2 : 1;
}

const struct gw_transport_maker *rig_maker(const char *back_end)
{
    for (size_t i = 0; gw_transport_makers[i]; i++)
        if (strcmp(gw_transport_makers[i]->name, back_end) == 0)
            return gw_transport_makers[i];
    return NULL;
}

int rig_kinds(const enum rig_kind **out)
{
    /* What a build may lack comes last. */
    static const enum rig_kind everywhere[] = {RIG_LOOP,       RIG_TCP,    RIG_FAULTY_LOOP,
                                               RIG_FAULTY_TCP, RIG_FABRIC, RIG_FAULTY_FABRIC};
    static const enum rig_kind verbs[] = {RIG_VERBS}, fabric[] = {RIG_FABRIC}, dpdk[] = {RIG_DPDK};
    bool is_verbs = getenv("GODWIT_TEST_VERBS"), is_fabric = getenv("GODWIT_TEST_FABRIC");
    bool is_dpdk = getenv("GODWIT_TEST_DPDK_NEAR");

    *out = is_fabric ? fabric : is_verbs ? verbs : is_dpdk ? dpdk : everywhere;
    if (is_verbs || is_fabric || is_dpdk)
        return 1;
    return (int)GW_ARRAY_LENGTH(everywhere) - (rig_maker("fabric") ? 0 : 2);
}

void rig_free_address(enum rig_kind kind, struct gw_address *out)
{
    const char *device = getenv("GODWIT_TEST_VERBS");

    must(gw_address_parse(kinds[kind].is_on_device && device ? device : "127.0.0.1", 0, out));
}

/* Opens dpdk with the options in an environment variable; see rig.h. */
static void open_dpdk(const char *variable, struct gw_transport **out)
{
    struct gw_transport_option items[8];
    struct gw_transport_options options = {.items = items};
    char text[1024], *rest = text, *word;
    const char *from = getenv(variable);
    size_t length = 0;

    while (*from && length + 16 < sizeof(text)) {
        bool is_pid = strncmp(from, "{pid}", 5) == 0;

        if (is_pid)
            length += (size_t)snprintf(text + length, 16, "%d", (int)getpid());
        else
            text[length++] = *from;
        from += is_pid ? 5 : 1;
    }
    text[length] = '\0';
    while ((word = strsep(&rest, " ")) && options.count < GW_ARRAY_LENGTH(items)) {
        char *equals = strchr(word, '=');

        if (!*word)
            continue;
        assert(equals);
        *equals = '\0';
        items[options.count++] = (struct gw_transport_option){.name = word, .value = equals + 1};
    }
    must(gw_transport_new("dpdk", &options, out));
}

void rig_transport_new(enum rig_kind kind, struct gw_transport **out)
{
    const char *provider = getenv("GODWIT_TEST_FABRIC");
    struct gw_transport_option item = {.name = "provider", .value = provider ? provider : "tcp"};
    bool chooses = provider && strcmp(provider, "auto") == 0;
    struct gw_transport_options options = {.items = &item, .count = chooses ? 0 : 1};
    bool is_fabric = strcmp(kinds[kind].back_end, "fabric") == 0;

    if (kind == RIG_DPDK) {
        open_dpdk("GODWIT_TEST_DPDK", out);
        return;
    }
    must(gw_transport_new(kinds[kind].back_end, is_fabric ? &options : NULL, out));
    if (is_fabric && chooses)
        assert(strcmp((*out)->variant, "verbs") == 0);
    if (kinds[kind].is_faulty)
        must(gw_faulty_new(*out, out));
}

static void open_transports(struct rig *rig)
{
    if (rig->kind == RIG_DPDK) {
        open_dpdk("GODWIT_TEST_DPDK_FAR", &rig->far_transport);
        open_dpdk("GODWIT_TEST_DPDK_NEAR", &rig->transport);
        return;
    }
    rig_transport_new(rig->kind, &rig->transport);
    rig->far_transport = rig->transport;
}

void rig_set_secret(struct gw_channel_options *options)
{
    static const uint8_t secret[GW_SECRET_MAX] = {7, 1, 9};

    options->secret = secret;
    options->secret_length = sizeof(secret);
}

void rig_open(struct rig *rig, enum rig_kind kind)
{
    const struct gw_address *local;

    memset(rig, 0, sizeof(*rig));
    rig->kind = kind;
    open_transports(rig);
    rig_free_address(kind, &rig->address);
    must(gw_listen(rig->far_transport, &rig->address, &rig->listener));
    must(gw_listener_address(rig->listener, &rig->address));
    local = kinds[kind].is_on_device ? &rig->address : NULL;
    must(gw_domain_open(rig->transport, local, &rig->near_domain));
    must(gw_domain_open(rig->far_transport, local, &rig->far_domain));
    must(gw_poller_open(rig->transport, &rig->near_poller));
    must(gw_poller_open(rig->far_transport, &rig->far_poller));
}

static void leave(int status, void *unused)
{
    fflush(NULL);
    _exit(status);
}

void rig_close(struct rig *rig)
{
    gw_close(rig->near);
    gw_close(rig->far);
    gw_unlisten(rig->listener);
    gw_poller_close(rig->near_poller);
    gw_poller_close(rig->far_poller);
    while (rig->sources) {
        struct rig_source *source = rig->sources;

        rig->sources = source->next;
        gw_unreg(source->region);
        free(source);
    }
    gw_domain_close(rig->near_domain);
    gw_domain_close(rig->far_domain);
    /* memif's driver unmaps its rings under whoever reads them when the other end goes: such ports
     * end with the process, at once. */
    if (rig->kind == RIG_DPDK && strstr(getenv("GODWIT_TEST_DPDK_NEAR"), "memif")) {
        on_exit(leave, NULL);
        return;
    }
    if (rig->far_transport != rig->transport)
        gw_transport_free(rig->far_transport);
    gw_transport_free(rig->transport);
}

struct accepting {
    struct rig *rig;
    uint32_t number;
    struct gw_channel *far;
    _Atomic bool is_over; /* the near end has its channel */
};

int rig_accept(struct rig *rig, uint32_t number, struct gw_channel **far)
{
    struct gw_channel_options options = {.domain = rig->far_domain,
                                         .poller = rig->far_poller,
                                         .context = rig,
                                         .number = number,
                                         .timeout_ms = RIG_WAIT_MS};
    struct gw_request *request;
    int error;

    rig_set_secret(&options);
    error = gw_next_request(rig->listener, RIG_WAIT_MS, &request);
    return error ? error : gw_accept(request, &options, far);
}

static void *accept_one(void *argument)
{
    struct accepting *accepting = argument;

    must(rig_accept(accepting->rig, accepting->number, &accepting->far));
    /* Its answer may get lost: the far end gives it again when it is polled. */
    while (accepting->rig->kind == RIG_DPDK && !atomic_load(&accepting->is_over)) {
        struct gw_channel *ready[1];

        gw_poll(accepting->rig->far_poller, ready, 1);
    }
    return NULL;
}

void rig_channel(struct rig *rig, uint32_t number, struct gw_channel **near,
                 struct gw_channel **far)
{
    struct gw_connect_options options = {.channel = {.domain = rig->near_domain,
                                                     .poller = rig->near_poller,
                                                     .context = rig,
                                                     .number = number,
                                                     .timeout_ms = RIG_WAIT_MS},
                                         .peer = rig->address};
    struct accepting accepting = {.rig = rig, .number = number};
    pthread_t thread;

    rig_set_secret(&options.channel);
    must(pthread_create(&thread, NULL, accept_one, &accepting));
    must(gw_connect(rig->transport, &options, near));
    atomic_store(&accepting.is_over, true);
    must(pthread_join(thread, NULL));
    *far = accepting.far;
}

void rig_join(struct rig *rig)
{
    rig_channel(rig, 1, &rig->near, &rig->far);
}

static void write_done(struct gw_op *op, int status)
{
    struct rig_write *write = gw_container_of(op, struct rig_write, write.op);

    write->done_count++;
    write->status = status;
}

static void send_done(struct gw_op *op, int status)
{
    struct rig_send *send = gw_container_of(op, struct rig_send, send.op);

    send->done_count++;
    send->status = status;
}

struct rig_write rig_write(const void *local, uint32_t length, const struct gw_region *remote,
                           uint64_t offset)
{
    return (struct rig_write){.write = {.op = {.done = write_done},
                                        .local = local,
                                        .length = length,
                                        .remote_key = remote->key,
                                        .remote_offset = offset}};
}

struct rig_send rig_send(const void *message, uint32_t length)
{
    return (struct rig_send){
        .send = {.op = {.done = send_done}, .message = message, .length = length}};
}

/* ---- local memory ---- */

static struct gw_region *add_source(struct rig *rig, struct gw_domain *domain, const void *memory,
                                    size_t size, bool is_kept)
{
    struct rig_source *source = calloc(1, sizeof(*source));

    must(gw_reg(domain, (void *)(uintptr_t)memory, size, GW_ACCESS_LOCAL_READ, 0, &source->region));
    source->is_kept = is_kept;
    source->next = rig->sources;
    rig->sources = source;
    return source->region;
}

static struct gw_region *find_source(const struct rig *rig, const struct gw_channel *channel,
                                     const char *memory, size_t size)
{
    for (struct rig_source *at = rig->sources; at; at = at->next) {
        const char *begin = at->region->memory;

        if (at->is_kept && at->region->domain == channel->domain && memory >= begin &&
            memory + size <= begin + at->region->length)
            return at->region;
    }
    return NULL;
}

uint8_t *rig_source_new(struct rig *rig, size_t size, unsigned seed)
{
    uint8_t *source = malloc(size);

    rig_fill(source, size, seed);
    if (rig->transport->ops->needs_local_region)
        add_source(rig, rig->near_domain, source, size, true);
    return source;
}

void rig_source_free(struct rig *rig, uint8_t *memory)
{
    for (struct rig_source **at = &rig->sources; *at; at = &(*at)->next)
        if ((*at)->region->memory == memory) {
            struct rig_source *source = *at;

            *at = source->next;
            gw_unreg(source->region);
            free(source);
            break;
        }
    free(memory);
}

int rig_post_write(struct gw_channel *channel, struct rig_write *write)
{
    struct gw_write *bare = &write->write;

    if (channel->domain->transport->ops->needs_local_region && !bare->region && bare->length &&
        bare->length <= GW_WRITE_MAX) {
        bare->region = find_source(channel->context, channel, bare->local, bare->length);
        if (!bare->region)
            bare->region =
                add_source(channel->context, channel->domain, bare->local, bare->length, false);
    }
    return gw_write(channel, &write->write);
}

int rig_post_send(struct gw_channel *channel, struct rig_send *send)
{
    return gw_send(channel, &send->send);
}

void rig_turn(struct rig *rig)
{
    struct gw_channel *ready[8];

    gw_poll(rig->near_poller, ready, 8);
    gw_poll(rig->far_poller, ready, 8);
}

bool rig_until(struct rig *rig, const int *value, int wanted)
{
    uint64_t deadline_ns = gw_clock_ns() + RIG_WAIT_MS * GW_NS_PER_MS;

    while (*value < wanted && gw_clock_ns() < deadline_ns)
        rig_turn(rig);
    return *value >= wanted;
}

int rig_receive(struct rig *rig, struct gw_channel *channel, struct gw_message *out)
{
    uint64_t deadline_ns = gw_clock_ns() + RIG_WAIT_MS * GW_NS_PER_MS;

    do {
        int error = gw_recv(channel, out);

        if (error != -EAGAIN)
            return error;
        rig_turn(rig);
    } while (gw_clock_ns() < deadline_ns);
    return -ETIMEDOUT;
}

void rig_fill(void *memory, size_t size, unsigned seed)
{
    uint8_t *bytes = memory;
    uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;

    for (size_t i = 0; i < size; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (uint8_t)(state >> 56);
    }
}
