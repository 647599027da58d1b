/* SPDX-License-Identifier: Apache-2.0 */
/* Pushes bytes through one of godwit's transports, or through plain sockets for comparison, and prints
 * the throughput and the CPU seconds per GB of its own side. One process is one side:
 *   transport-blast listen ADDRESS:PORT [OPTIONS]
 *   transport-blast send   ADDRESS:PORT [OPTIONS]
 * Both sides must be given the same --channels and --plain. It moves memory to memory: no digests,
 * no files, no engine. Each channel writes over and over into a window of the receiver and sends a
 * record behind every --record writes; all channels of a side are served by one thread. Plain mode
 * sends the same amounts with send() and receives them with recv(MSG_WAITALL) into the same window,
 * one thread per channel. With --latency one message at a time goes there and back instead, and the
 * sender prints the time that this takes. */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/memory.h"
#include "transport/transport.h"

#define CHANNELS_MAX   64u
#define WINDOW         (32u << 20) /* bytes of source and of target per channel */
#define IN_FLIGHT      128u        /* writes posted and not done, per channel */
#define CONNECT_MS     10000
#define LATENCY_ROUNDS 2000u
#define IDLE_TURNS     64u
#define DRAIN_WAIT_MS  2000
#define OPTIONS_MAX    8u

struct settings {
    bool is_sender, is_plain, is_stable, is_scattered, is_latency;
    const char *transport;
    struct gw_transport_option options[OPTIONS_MAX]; /* of the transport */
    unsigned option_count;
    unsigned channels, seconds, record;
    uint32_t size;
    const char *congestion;
    struct gw_address address;
};

struct lane;
struct side;

struct blast_write {
    struct gw_write write;
    struct lane *lane;
    struct blast_write *next;
};

struct blast_record {
    struct gw_send send;
    struct lane *lane;
    struct blast_record *next;
};

struct lane {
    struct side *side;
    struct gw_channel *channel;
    char *window;
    struct gw_region *region;
    uint64_t key, posted_bytes;
    unsigned since_record, outstanding;
    bool is_over;
    struct blast_write writes[IN_FLIGHT], *free_writes;
    struct blast_record records[IN_FLIGHT], *free_records;
};

struct side {
    const struct settings *settings;
    struct gw_transport *transport;
    struct gw_domain *domain;
    struct gw_poller *poller;
    struct lane lanes[CHANNELS_MAX];
    uint64_t progress; /* changes whenever something happened */
};

static void die(const char *what)
{
    fprintf(stderr, "transport-blast: %s: %s\n", what, gw_error_message());
    exit(1);
}

static char *new_window(unsigned seed)
{
    void *memory;

    if (gw_memory_new(WINDOW, &memory) != 0)
        die("memory");
    for (size_t i = 0; i < WINDOW / 8; i++)
        ((uint64_t *)memory)[i] = (i + seed) * 0x9e3779b97f4a7c15ull;
    return memory;
}

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void report(const struct settings *settings, const char *how, uint64_t bytes,
                   uint64_t start_ns, double start_cpu_s)
{
    double gb = (double)bytes / 1e9, elapsed_s = (double)(gw_clock_ns() - start_ns) / 1e9;

    printf("%s: %.2f Gbit/s %.3f CPU s/GB (%.3f GB in %.2f s; %s)\n",
           settings->is_sender ? "send" : "receive", gb * 8 / elapsed_s,
           (cpu_seconds() - start_cpu_s) / gb, gb, elapsed_s, how);
    fflush(stdout);
}

/* ---- over the transport ---- */

static void open_side(struct side *side, const struct settings *settings)
{
    const struct gw_transport_options options = {.items = settings->options,
                                                 .count = settings->option_count};

    side->settings = settings;
    if (gw_transport_new(settings->transport, &options, &side->transport) != 0 ||
        gw_domain_open(side->transport, NULL, &side->domain) != 0 ||
        gw_poller_open(side->transport, &side->poller) != 0)
        die("open");
    for (unsigned i = 0; i < settings->channels; i++)
        side->lanes[i].window = new_window(i);
}

static void close_side(struct side *side)
{
    for (unsigned i = 0; i < side->settings->channels; i++) {
        gw_close(side->lanes[i].channel);
        gw_unreg(side->lanes[i].region);
        gw_memory_free(side->lanes[i].window, WINDOW);
    }
    gw_poller_close(side->poller);
    gw_domain_close(side->domain);
    gw_transport_free(side->transport);
    free(side);
}

static struct gw_channel_options channel_options(struct side *side, unsigned number)
{
    static const uint8_t secret[GW_SECRET_MAX] = {1, 2, 3}; /* some back ends need one */

    return (struct gw_channel_options){.domain = side->domain,
                                       .secret = secret,
                                       .secret_length = sizeof(secret),
                                       .poller = side->poller,
                                       .context = &side->lanes[number],
                                       .number = number + 1,
                                       .timeout_ms = CONNECT_MS,
                                       .congestion = side->settings->congestion};
}

/* Polls, and sleeps when that brought nothing for as long as the engine's workers try. Answers how
 * many channels are ready. */
static int turn(struct side *side, struct gw_channel **ready)
{
    uint64_t before = side->progress;
    struct pollfd wake = {.events = POLLIN};
    int count;

    for (unsigned idle = 0; idle < IDLE_TURNS; idle++) {
        count = gw_poll(side->poller, ready, CHANNELS_MAX);
        if (count > 0 || side->progress != before)
            return count;
    }
    wake.fd = gw_poller_arm(side->poller);
    count = gw_poll(side->poller, ready, CHANNELS_MAX);
    if (count == 0 && side->progress == before)
        poll(&wake, 1, DRAIN_WAIT_MS);
    return count;
}

static void write_done(struct gw_op *op, int status)
{
    struct blast_write *write = gw_container_of(op, struct blast_write, write.op);
    struct lane *lane = write->lane;

    if (status != 0 && status != -ECANCELED)
        die("write");
    write->next = lane->free_writes;
    lane->free_writes = write;
    lane->outstanding--;
    lane->side->progress++;
}

static void record_done(struct gw_op *op, int status)
{
    struct blast_record *record = gw_container_of(op, struct blast_record, send.op);
    struct lane *lane = record->lane;

    if (status != 0 && status != -ECANCELED)
        die("record");
    record->next = lane->free_records;
    lane->free_records = record;
    lane->outstanding--;
    lane->side->progress++;
}

static void prepare_lane(struct side *side, struct lane *lane)
{
    lane->side = side;
    for (unsigned i = 0; i < IN_FLIGHT; i++) {
        lane->writes[i].lane = lane->records[i].lane = lane;
        lane->writes[i].next = lane->free_writes;
        lane->free_writes = &lane->writes[i];
        lane->records[i].next = lane->free_records;
        lane->free_records = &lane->records[i];
    }
}

static bool post_record(struct lane *lane, const char *text)
{
    struct blast_record *record = lane->free_records;

    if (!record)
        return false;
    record->send = (struct gw_send){
        .op = {.done = record_done}, .message = text, .length = (uint32_t)strlen(text)};
    if (gw_send(lane->channel, &record->send) != 0)
        return false;
    lane->free_records = record->next;
    lane->outstanding++;
    lane->since_record = 0;
    return true;
}

static void fill_lane(struct side *side, struct lane *lane)
{
    const struct settings *settings = side->settings;
    static const char text[] = "a record of the size that the engine's records have, more or less";

    for (;;) {
        struct blast_write *write = lane->free_writes;
        uint64_t places = WINDOW / settings->size, place;

        if (lane->since_record == settings->record && !post_record(lane, text))
            return;
        if (!write)
            return;
        place = lane->posted_bytes / settings->size;
        place = settings->is_scattered ? place * 7919 % places : place % places;
        write->write =
            (struct gw_write){.op = {.done = write_done},
                              .local = lane->window + place * settings->size,
                              .length = settings->size,
                              .region = lane->region,
                              .flags = (settings->is_stable ? GW_POST_STABLE : 0u) | GW_POST_MORE,
                              .remote_key = lane->key,
                              .remote_offset = place * settings->size};
        if (gw_write(lane->channel, &write->write) != 0)
            return;
        lane->free_writes = write->next;
        lane->outstanding++;
        lane->posted_bytes += settings->size;
        lane->since_record++;
        side->progress++;
    }
}

static void connect_lanes(struct side *side)
{
    for (unsigned i = 0; i < side->settings->channels; i++) {
        struct gw_connect_options options = {.channel = channel_options(side, i),
                                             .peer = side->settings->address};
        struct gw_channel *ready[CHANNELS_MAX];
        struct gw_message message;
        struct lane *lane = &side->lanes[i];
        uint64_t until_ns = gw_clock_ns() + CONNECT_MS * GW_NS_PER_MS;
        int error;

        /* A port may be there before its listener is. */
        do {
            error = gw_connect(side->transport, &options, &lane->channel);
        } while (error == -ECONNREFUSED && gw_clock_ns() < until_ns && usleep(20000) == 0);

        while (!error && (error = gw_recv(lane->channel, &message)) == -EAGAIN) {
            turn(side, ready);
            error = 0;
        }
        if (error)
            die("connect");
        lane->key = gw_get_le64(message.data);
        if (side->transport->ops->needs_local_region &&
            gw_reg(side->domain, lane->window, WINDOW, GW_ACCESS_LOCAL_READ, 0, &lane->region) != 0)
            die("region");
        prepare_lane(side, lane);
    }
}

/* ---- latency ---- */

static void await_message(struct side *side, struct lane *lane)
{
    struct gw_channel *ready[CHANNELS_MAX];
    struct gw_message message;
    int error;

    /* Polling without a sleep, as those do that this is compared with. */
    while ((error = gw_recv(lane->channel, &message)) == -EAGAIN)
        gw_poll(side->poller, ready, CHANNELS_MAX);
    if (error)
        die("message");
}

static int compare(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;

    return difference < 0 ? -1 : difference > 0;
}

static void ping(struct side *side)
{
    static double took_us[LATENCY_ROUNDS];

    for (unsigned i = 0; i < LATENCY_ROUNDS; i++) {
        uint64_t start_ns = gw_clock_ns();

        if (!post_record(&side->lanes[0], "p"))
            die("message");
        await_message(side, &side->lanes[0]);
        took_us[i] = (double)(gw_clock_ns() - start_ns) / 1e3;
    }
    qsort(took_us, LATENCY_ROUNDS, sizeof(*took_us), compare);
    printf("round trip: median %.2f us, 99 %% %.2f us\n", took_us[LATENCY_ROUNDS / 2],
           took_us[LATENCY_ROUNDS * 99 / 100]);
}

static void pong(struct side *side)
{
    for (unsigned i = 0; i < LATENCY_ROUNDS; i++) {
        await_message(side, &side->lanes[0]);
        if (!post_record(&side->lanes[0], "p"))
            die("message");
    }
    while (side->lanes[0].outstanding) {
        struct gw_channel *ready[CHANNELS_MAX];

        gw_poll(side->poller, ready, CHANNELS_MAX);
    }
}

static void run_sender(const struct settings *settings)
{
    struct side *side = calloc(1, sizeof(*side));
    struct gw_channel *ready[CHANNELS_MAX];
    struct gw_channel_info info;
    uint64_t start_ns, bytes = 0;
    double start_cpu_s;
    unsigned over = 0;

    open_side(side, settings);
    connect_lanes(side);
    if (settings->is_latency) {
        ping(side);
        close_side(side);
        return;
    }
    start_ns = gw_clock_ns();
    start_cpu_s = cpu_seconds();
    while (over < settings->channels) {
        bool is_late = gw_clock_ns() - start_ns > settings->seconds * GW_NS_PER_S;

        for (unsigned i = 0; i < settings->channels; i++) {
            struct lane *lane = &side->lanes[i];

            if (!is_late)
                fill_lane(side, lane);
            else if (!lane->is_over && lane->outstanding == 0) {
                lane->is_over = true;
                over++;
            }
        }
        if (over < settings->channels)
            turn(side, ready);
    }
    gw_channel_info(side->lanes[0].channel, &info);
    for (unsigned i = 0; i < settings->channels; i++)
        bytes += side->lanes[i].posted_bytes;
    report(settings, info.description, bytes, start_ns, start_cpu_s);
    close_side(side);
}

static void accept_lanes(struct side *side, uint8_t keys[CHANNELS_MAX][8])
{
    struct gw_listener *listener;

    if (gw_listen(side->transport, &side->settings->address, &listener) != 0)
        die("listen");
    for (unsigned i = 0; i < side->settings->channels; i++) {
        struct gw_channel_options options = channel_options(side, i);
        struct lane *lane = &side->lanes[i];
        struct gw_request *request;
        struct gw_channel *ready[CHANNELS_MAX];

        if (gw_next_request(listener, CONNECT_MS * 3, &request) != 0 ||
            gw_accept(request, &options, &lane->channel) != 0 ||
            gw_reg(side->domain, lane->window, WINDOW, GW_ACCESS_REMOTE_WRITE, 0, &lane->region) !=
                0)
            die("accept");
        prepare_lane(side, lane);
        gw_put_le64(keys[i], lane->region->key);
        lane->free_records->send = (struct gw_send){
            .op = {.done = record_done}, .message = keys[i], .length = sizeof(keys[i])};
        lane->outstanding++;
        if (gw_send(lane->channel, &lane->free_records->send) != 0)
            die("key");
        lane->free_records = lane->free_records->next;
        gw_poll(side->poller, ready, CHANNELS_MAX);
    }
    gw_unlisten(listener);
}

static void run_receiver(const struct settings *settings)
{
    struct side *side = calloc(1, sizeof(*side));
    uint8_t keys[CHANNELS_MAX][8];
    struct gw_channel *ready[CHANNELS_MAX];
    struct gw_channel_info info;
    uint64_t start_ns, bytes = 0;
    double start_cpu_s;
    unsigned over = 0;

    open_side(side, settings);
    accept_lanes(side, keys);
    if (settings->is_latency) {
        pong(side);
        close_side(side);
        return;
    }
    start_ns = gw_clock_ns();
    start_cpu_s = cpu_seconds();
    while (over < settings->channels) {
        int count = turn(side, ready);

        for (int i = 0; i < count; i++) {
            struct lane *lane = ready[i]->context;
            struct gw_message message;
            int error;

            while ((error = gw_recv(lane->channel, &message)) == 0)
                side->progress++;
            if (error != -EAGAIN && !lane->is_over) {
                lane->is_over = true;
                over++;
            }
        }
    }
    for (unsigned i = 0; i < settings->channels; i++) {
        gw_channel_info(side->lanes[i].channel, &info);
        bytes += info.bytes_received;
    }
    report(settings, info.description, bytes, start_ns, start_cpu_s);
    close_side(side);
}

/* ---- plain sockets ---- */

struct plain {
    const struct settings *settings;
    pthread_t thread;
    int fd;
    char *window;
    uint64_t bytes;
};

static void *plain_send(void *argument)
{
    struct plain *plain = argument;
    uint64_t end_ns = gw_clock_ns() + plain->settings->seconds * GW_NS_PER_S, at = 0;

    while (gw_clock_ns() < end_ns) {
        ssize_t sent = send(plain->fd, plain->window + at, plain->settings->size, MSG_NOSIGNAL);

        if (sent <= 0)
            break;
        plain->bytes += (uint64_t)sent;
        at = (at + plain->settings->size) % (WINDOW - plain->settings->size);
    }
    shutdown(plain->fd, SHUT_WR);
    return NULL;
}

static void *plain_receive(void *argument)
{
    struct plain *plain = argument;
    uint64_t at = 0;
    ssize_t size;

    while ((size = recv(plain->fd, plain->window + at, plain->settings->size, MSG_WAITALL)) > 0) {
        plain->bytes += (uint64_t)size;
        at = (at + plain->settings->size) % (WINDOW - plain->settings->size);
    }
    return NULL;
}

static void plain_meet(const struct settings *settings, struct plain *plains)
{
    const struct sockaddr *address = (const struct sockaddr *)&settings->address.storage;
    const int on = 1;
    int fd = socket(address->sa_family, SOCK_STREAM, 0);

    if (!settings->is_sender) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (bind(fd, address, settings->address.length) != 0 || listen(fd, 64) != 0)
            die("listen");
    }
    for (unsigned i = 0; i < settings->channels; i++) {
        plains[i].settings = settings;
        plains[i].window = new_window(i);
        plains[i].fd = settings->is_sender ? socket(address->sa_family, SOCK_STREAM, 0)
                                           : accept(fd, NULL, NULL);
        if (settings->is_sender && connect(plains[i].fd, address, settings->address.length) != 0)
            die("connect");
    }
    close(fd);
}

static void run_plain(const struct settings *settings)
{
    struct plain plains[CHANNELS_MAX] = {0};
    uint64_t start_ns, bytes = 0;
    double start_cpu_s;

    plain_meet(settings, plains);
    start_ns = gw_clock_ns();
    start_cpu_s = cpu_seconds();
    for (unsigned i = 0; i < settings->channels; i++)
        pthread_create(&plains[i].thread, NULL, settings->is_sender ? plain_send : plain_receive,
                       &plains[i]);
    for (unsigned i = 0; i < settings->channels; i++) {
        pthread_join(plains[i].thread, NULL);
        bytes += plains[i].bytes;
    }
    report(settings, "plain", bytes, start_ns, start_cpu_s);
}

/* ---- arguments ---- */

static int usage(void)
{
    fprintf(
        stderr,
        "usage: transport-blast listen|send ADDRESS:PORT [--channels N] [--size BYTES]\n"
        "       [--seconds N] [--record WRITES] [--copy] [--scattered] [--plain]\n"
        "       [--congestion NAME] [--transport NAME] [--provider NAME] [--option NAME=VALUE]\n"
        "       [--latency]\n");
    return 2;
}

static const struct option long_options[] = {
    {"channels", required_argument, NULL, 'c'},
    {"size", required_argument, NULL, 's'},
    {"seconds", required_argument, NULL, 't'},
    {"record", required_argument, NULL, 'r'},
    {"congestion", required_argument, NULL, 'C'},
    {"copy", no_argument, NULL, 'y'},
    {"scattered", no_argument, NULL, 'x'},
    {"plain", no_argument, NULL, 'p'},
    {"transport", required_argument, NULL, 'T'},
    {"provider", required_argument, NULL, 'P'},
    {"latency", no_argument, NULL, 'l'},
    {"option", required_argument, NULL, 'o'},
    {0},
};

static bool add_option(struct settings *settings, const char *name, const char *value)
{
    if (settings->option_count == OPTIONS_MAX)
        return false;
    settings->options[settings->option_count++] =
        (struct gw_transport_option){.name = name, .value = value};
    return true;
}

/* NAME=VALUE */
static bool split_option(struct settings *settings, char *text)
{
    char *equals = strchr(text, '=');

    if (!equals)
        return false;
    *equals = '\0';
    return add_option(settings, text, equals + 1);
}

static bool parse(int argc, char **argv, struct settings *settings)
{
    int option;

    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        unsigned long value = optarg ? strtoul(optarg, NULL, 10) : 0;

        switch (option) {
        case 'c':
            settings->channels = (unsigned)value;
            break;
        case 's':
            settings->size = (uint32_t)value;
            break;
        case 't':
            settings->seconds = (unsigned)value;
            break;
        case 'r':
            settings->record = (unsigned)value;
            break;
        case 'C':
            settings->congestion = optarg;
            break;
        case 'y':
            settings->is_stable = false;
            break;
        case 'x':
            settings->is_scattered = true;
            break;
        case 'p':
            settings->is_plain = true;
            break;
        case 'T':
            settings->transport = optarg;
            break;
        case 'P':
            if (!add_option(settings, "provider", optarg))
                return false;
            break;
        case 'o':
            if (!split_option(settings, optarg))
                return false;
            break;
        case 'l':
            settings->is_latency = true;
            break;
        default:
            return false;
        }
    }
    return optind + 2 == argc && settings->channels >= 1 && settings->channels <= CHANNELS_MAX &&
           settings->size >= 1 && settings->size <= GW_WRITE_MAX && settings->record >= 1;
}

int main(int argc, char **argv)
{
    struct settings settings = {.transport = "tcp",
                                .channels = 2,
                                .seconds = 3,
                                .record = 4,
                                .size = 256 << 10,
                                .is_stable = true};

    if (!parse(argc, argv, &settings))
        return usage();
    settings.is_sender = strcmp(argv[optind], "send") == 0;
    if (gw_address_parse(argv[optind + 1], GW_DEFAULT_PORT, &settings.address) != 0)
        die("address");
    if (settings.is_plain)
        run_plain(&settings);
    else if (settings.is_sender)
        run_sender(&settings);
    else
        run_receiver(&settings);
    return 0;
}
