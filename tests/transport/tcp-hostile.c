/* SPDX-License-Identifier: Apache-2.0 */
/* tcp against peers that do not keep to wire.h: raw sockets that say the wrong thing, too little,
 * too late or nothing. Each must cost its own connection and nothing else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/transport/rig.h"
#include "transport/tcp/wire.h"

static int raw_connect(struct rig *rig)
{
    const struct timeval limit = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(fd, (struct sockaddr *)&rig->address.storage, rig->address.length), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

static void raw_send(int fd, const void *bytes, size_t size)
{
    cr_assert_eq(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

/* A preamble as it should be, written by hand. */
static void raw_preamble(uint8_t preamble[TCP_PREAMBLE_SIZE])
{
    memset(preamble, 0, TCP_PREAMBLE_SIZE);
    memcpy(preamble, "godwit\r\n", 8);
    preamble[8] = GW_WIRE_VERSION;
}

static bool names_versions(const char *text, unsigned other)
{
    char words[64];

    snprintf(words, sizeof(words), "version %u, this side %u", other, GW_WIRE_VERSION);
    return strstr(text, words) != NULL;
}

static void expect_verdict(const uint8_t *answer, uint32_t verdict)
{
    cr_assert_eq(memcmp(answer, "godwit\r\n", 8), 0);
    cr_assert_eq(gw_get_le32(answer + 8), GW_WIRE_VERSION);
    cr_assert_eq(gw_get_le32(answer + 12), verdict);
}

/* A raw peer whose preamble was accepted; far is the channel that it got. */
static int raw_join(struct rig *rig, uint32_t number)
{
    struct gw_channel_options options = {
        .domain = rig->far_domain, .poller = rig->far_poller, .number = number, .timeout_ms = 1000};
    uint8_t preamble[TCP_PREAMBLE_SIZE], answer[TCP_ANSWER_SIZE];
    struct gw_request *request;
    int fd = raw_connect(rig);

    raw_preamble(preamble);
    raw_send(fd, preamble, sizeof(preamble));
    cr_assert_eq(gw_next_request(rig->listener, 5000, &request), 0);
    cr_assert_eq(gw_accept(request, &options, &rig->far), 0);
    cr_assert_eq(recv(fd, answer, sizeof(answer), MSG_WAITALL), (ssize_t)sizeof(answer));
    expect_verdict(answer, TCP_ACCEPTED);
    return fd;
}

struct raw_header {
    uint8_t type;
    uint16_t count;
    uint32_t length;
    uint64_t key, offset;
};

static void put_header(uint8_t to[24], struct raw_header header)
{
    to[0] = header.type;
    to[1] = 0;
    gw_put_le16(to + 2, header.count);
    gw_put_le32(to + 4, header.length);
    gw_put_le64(to + 8, header.key);
    gw_put_le64(to + 16, header.offset);
}

/* Expects that the far channel dies of error with text, and that the raw peer sees the end. */
static void expect_death(struct rig *rig, int fd, int error, const char *text)
{
    struct gw_message message;
    char byte;

    cr_assert_eq(rig_receive(rig, rig->far, &message), error, "%s", gw_error_message());
    cr_assert(strstr(gw_error_message(), text), "%s", gw_error_message());
    cr_assert_leq(recv(fd, &byte, 1, 0), 0);
    close(fd);
    /* The rest of the process works on. */
    gw_close(rig->far);
    rig_join(rig);
    rig_close(rig);
}

static void expect_frame_refused(const uint8_t *frame, size_t size, const char *text)
{
    struct rig rig;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_join(&rig, 1);
    raw_send(fd, frame, size);
    expect_death(&rig, fd, -EPROTO, text);
}

Test(tcp_hostile, frame_of_unknown_type)
{
    uint8_t frame[24];

    put_header(frame, (struct raw_header){9, 1, 0, 0, 0});
    expect_frame_refused(frame, sizeof(frame), "type 9");
}

Test(tcp_hostile, frame_with_flags)
{
    uint8_t frame[24];

    put_header(frame, (struct raw_header){1, 1, 0, 0, 0});
    frame[1] = 0x80;
    expect_frame_refused(frame, sizeof(frame), "flags 0x80");
}

Test(tcp_hostile, batch_of_too_many)
{
    uint8_t frame[24];

    put_header(frame, (struct raw_header){1, 65, 0, 0, 0});
    expect_frame_refused(frame, sizeof(frame), "65 writes");
}

Test(tcp_hostile, batch_of_none)
{
    uint8_t frame[24];

    put_header(frame, (struct raw_header){1, 0, 0, 0, 0});
    expect_frame_refused(frame, sizeof(frame), "0 writes");
}

Test(tcp_hostile, write_longer_than_allowed)
{
    uint8_t frame[24];

    put_header(frame, (struct raw_header){1, 1, GW_WRITE_MAX + 1, 0, 0});
    expect_frame_refused(frame, sizeof(frame), "4194305 bytes");
}

Test(tcp_hostile, message_longer_than_allowed)
{
    uint8_t frame[24];

    put_header(frame, (struct raw_header){2, 0, UINT32_MAX, 0, 0});
    expect_frame_refused(frame, sizeof(frame), "4294967295 bytes");
}

Test(tcp_hostile, message_with_fields_of_a_write)
{
    uint8_t frame[24];

    put_header(frame, (struct raw_header){2, 0, 1, 77, 0});
    expect_frame_refused(frame, sizeof(frame), "fields of a write");
}

Test(tcp_hostile, batch_with_a_message_inside)
{
    struct rig rig;
    uint8_t frame[48], memory[16];
    struct gw_region *region;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_join(&rig, 1);
    cr_assert_eq(gw_reg(rig.far_domain, memory, 16, GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
    put_header(frame, (struct raw_header){1, 2, 1, region->key, 0});
    put_header(frame + 24, (struct raw_header){2, 0, 1, region->key, 0});
    raw_send(fd, frame, sizeof(frame));
    gw_recv(rig.far, &(struct gw_message){0});
    for (int turn = 0; turn < 50; turn++)
        rig_turn(&rig);
    gw_unreg(region);
    expect_death(&rig, fd, -EPROTO, "not writes");
}

Test(tcp_hostile, lengths_that_overflow_the_region)
{
    struct rig rig;
    uint8_t frame[24], memory[16] = {0};
    struct gw_region *region;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_join(&rig, 1);
    cr_assert_eq(gw_reg(rig.far_domain, memory, 16, GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
    put_header(frame, (struct raw_header){1, 1, 32, region->key, UINT64_MAX - 15});
    raw_send(fd, frame, sizeof(frame));
    raw_send(fd, "0123456789abcdef0123456789abcdef", 32);
    for (int turn = 0; turn < 50; turn++)
        rig_turn(&rig);
    cr_assert_eq(memory[0], 0);
    gw_unreg(region);
    expect_death(&rig, fd, -EPROTO, "offset 18446744073709551600");
}

/* Every prefix of a frame, then the end of the stream: never a message, always a reset. */
Test(tcp_hostile, frames_cut_short_at_every_byte)
{
    static const char text[] = "half a message";
    struct rig rig;
    uint8_t frame[24 + sizeof(text)];

    rig_open(&rig, RIG_TCP);
    put_header(frame, (struct raw_header){2, 0, sizeof(text), 0, 0});
    memcpy(frame + 24, text, sizeof(text));
    for (size_t size = 0; size < sizeof(frame); size++) {
        struct gw_message message;
        int fd = raw_join(&rig, 1);

        if (size)
            raw_send(fd, frame, size);
        close(fd);
        cr_assert_eq(rig_receive(&rig, rig.far, &message), -ECONNRESET);
        cr_assert_eq(!!strstr(gw_error_message(), "middle of a frame"), size > 0);
        gw_close(rig.far);
        rig.far = NULL;
    }
    rig_close(&rig);
}

/* The same frames byte by byte give the same result as at once. */
Test(tcp_hostile, frames_that_trickle_are_put_together)
{
    struct rig rig;
    uint8_t frame[24 * 3 + 8 + 24 + 3], memory[64] = {0};
    struct gw_region *region;
    struct gw_message message;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_join(&rig, 1);
    cr_assert_eq(gw_reg(rig.far_domain, memory, 64, GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
    put_header(frame, (struct raw_header){1, 3, 5, region->key, 10});
    put_header(frame + 24, (struct raw_header){1, 0, 0, region->key, 64});
    put_header(frame + 48, (struct raw_header){1, 0, 3, region->key, 0});
    memcpy(frame + 72, "abcdefgh", 8);
    put_header(frame + 80, (struct raw_header){2, 0, 3, 0, 0});
    memcpy(frame + 104, "end", 3);
    for (size_t i = 0; i < sizeof(frame); i++) {
        raw_send(fd, frame + i, 1);
        rig_turn(&rig);
    }
    cr_assert_eq(rig_receive(&rig, rig.far, &message), 0);
    cr_assert_eq(memcmp(message.data, "end", 3), 0);
    cr_assert_eq(memcmp(memory, "fgh\0\0\0\0\0\0\0abcde\0", 16), 0);
    close(fd);
    gw_unreg(region);
    rig_close(&rig);
}

/* A region that ends while a frame into it is half here: the other half is never placed. */
Test(tcp_hostile, region_that_ends_within_a_frame)
{
    struct rig rig;
    uint8_t frame[24], memory[32] = {0};
    struct gw_region *region;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_join(&rig, 1);
    cr_assert_eq(gw_reg(rig.far_domain, memory, 32, GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
    put_header(frame, (struct raw_header){1, 1, 32, region->key, 0});
    raw_send(fd, frame, sizeof(frame));
    raw_send(fd, "0123456789abcdef", 16);
    while (memory[15] == 0)
        rig_turn(&rig);
    gw_unreg(region);
    raw_send(fd, "0123456789abcdef", 16);
    for (int turn = 0; turn < 100; turn++)
        rig_turn(&rig);
    for (int i = 16; i < 32; i++)
        cr_assert_eq(memory[i], 0);
    expect_death(&rig, fd, -EPROTO, "a region ended while");
}

/* A peer that floods with messages that nobody takes fills the ring and its own socket, no more. */
Test(tcp_hostile, flood_of_untaken_messages_stops_at_the_ring)
{
    struct rig rig;
    static uint8_t flood[24 * 4096];
    struct gw_channel_info info;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_join(&rig, 1);
    for (size_t i = 0; i < sizeof(flood); i += 24)
        put_header(flood + i, (struct raw_header){2, 0, 0, 0, 0});
    raw_send(fd, flood, sizeof(flood));
    for (int turn = 0; turn < 2000; turn++)
        rig_turn(&rig);
    gw_channel_info(rig.far, &info);
    cr_assert_eq(info.messages_received, 16);
    for (int i = 0; i < 4096; i++) {
        struct gw_message message;

        cr_assert_eq(rig_receive(&rig, rig.far, &message), 0);
        cr_assert_eq(message.length, 0);
    }
    close(fd);
    rig_close(&rig);
}

/* ---- before the channel ---- */

static void *accept_next(void *argument)
{
    struct rig *rig = argument;
    struct gw_channel_options options = {
        .domain = rig->far_domain, .poller = rig->far_poller, .timeout_ms = 1000};
    struct gw_request *request;

    if (gw_next_request(rig->listener, RIG_WAIT_MS, &request) == 0)
        cr_assert_eq(gw_accept(request, &options, &rig->far), 0);
    return NULL;
}

Test(tcp_hostile, garbage_is_hung_up_on)
{
    struct rig rig;
    struct gw_request *request;
    char byte;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_connect(&rig);
    raw_send(fd, "GET / HTTP/1.1\r\n\r\n", 18);
    cr_assert_eq(gw_next_request(rig.listener, 300, &request), -ETIMEDOUT);
    cr_assert_leq(recv(fd, &byte, 1, 0), 0);
    close(fd);
    rig_join(&rig);
    rig_close(&rig);
}

Test(tcp_hostile, hello_longer_than_allowed_is_hung_up_on)
{
    struct rig rig;
    struct gw_request *request;
    uint8_t preamble[TCP_PREAMBLE_SIZE];
    char byte;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_connect(&rig);
    raw_preamble(preamble);
    gw_put_le32(preamble + 12, GW_HELLO_MAX + 1);
    raw_send(fd, preamble, sizeof(preamble));
    cr_assert_eq(gw_next_request(rig.listener, 300, &request), -ETIMEDOUT);
    cr_assert_leq(recv(fd, &byte, 1, 0), 0);
    close(fd);
    rig_close(&rig);
}

Test(tcp_hostile, silent_strangers_delay_nobody)
{
    enum { STRANGERS = 300 };
    struct rig rig;
    int fds[STRANGERS];
    uint64_t start_ns;

    rig_open(&rig, RIG_TCP);
    for (int i = 0; i < STRANGERS; i++) {
        struct gw_request *request;

        fds[i] = raw_connect(&rig);
        if (i % 2)
            raw_send(fds[i], "godwit\r\n", 8);
        cr_assert_eq(gw_next_request(rig.listener, 0, &request), -ETIMEDOUT);
    }
    start_ns = gw_clock_ns();
    rig_join(&rig);
    cr_assert_lt(gw_clock_ns() - start_ns, 3 * GW_NS_PER_S);
    for (int i = 0; i < STRANGERS; i++)
        close(fds[i]);
    rig_close(&rig);
}

Test(tcp_hostile, oldest_stranger_makes_room)
{
    enum { STRANGERS = 260 };
    struct rig rig;
    struct gw_request *request;
    int fds[STRANGERS];
    char byte;

    rig_open(&rig, RIG_TCP);
    for (int i = 0; i < STRANGERS; i++) {
        fds[i] = raw_connect(&rig);
        gw_next_request(rig.listener, 0, &request);
    }
    gw_next_request(rig.listener, 200, &request);
    cr_assert_eq(recv(fds[0], &byte, 1, MSG_DONTWAIT), 0, "the oldest was dropped");
    cr_assert_eq(recv(fds[STRANGERS - 1], &byte, 1, MSG_DONTWAIT), -1);
    cr_assert_eq(errno, EAGAIN, "the newest was not");
    for (int i = 0; i < STRANGERS; i++)
        close(fds[i]);
    rig_close(&rig);
}

Test(tcp_hostile, stranger_has_five_seconds)
{
    struct rig rig;
    struct gw_request *request;
    uint64_t start_ns = gw_clock_ns();
    char byte;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_connect(&rig);
    cr_assert_eq(gw_next_request(rig.listener, 5500, &request), -ETIMEDOUT);
    cr_assert_eq(recv(fd, &byte, 1, 0), 0);
    cr_assert_geq(gw_clock_ns() - start_ns, 5 * GW_NS_PER_S);
    close(fd);
    rig_close(&rig);
}

Test(tcp_hostile, preamble_that_trickles_is_understood)
{
    struct rig rig;
    uint8_t preamble[TCP_PREAMBLE_SIZE];
    struct gw_request *request;
    int fd;

    rig_open(&rig, RIG_TCP);
    fd = raw_connect(&rig);
    raw_preamble(preamble);
    for (unsigned i = 0; i < sizeof(preamble); i++) {
        raw_send(fd, preamble + i, 1);
        if (i + 1 < sizeof(preamble))
            cr_assert_eq(gw_next_request(rig.listener, 1, &request), -ETIMEDOUT);
    }
    cr_assert_eq(gw_next_request(rig.listener, 1000, &request), 0);
    gw_reject(request, "bye");
    close(fd);
    rig_close(&rig);
}

/* The listener's log line goes to stderr; this catches it. */
Test(tcp_hostile, other_version_is_named_by_the_listener)
{
    struct rig rig;
    uint8_t preamble[TCP_PREAMBLE_SIZE], answer[TCP_ANSWER_SIZE];
    struct gw_request *request;
    char line[512] = "";
    int fd, log[2], saved = dup(STDERR_FILENO);

    rig_open(&rig, RIG_TCP);
    fd = raw_connect(&rig);
    raw_preamble(preamble);
    gw_put_le32(preamble + 8, 4711);
    raw_send(fd, preamble, sizeof(preamble));
    cr_assert_eq(pipe2(log, O_NONBLOCK), 0);
    dup2(log[1], STDERR_FILENO);
    cr_assert_eq(gw_next_request(rig.listener, 300, &request), -ETIMEDOUT);
    dup2(saved, STDERR_FILENO);
    cr_assert_gt(read(log[0], line, sizeof(line) - 1), 0);
    cr_assert(names_versions(line, 4711), "%s", line);
    cr_assert_eq(recv(fd, answer, sizeof(answer), MSG_WAITALL), (ssize_t)sizeof(answer));
    expect_verdict(answer, TCP_OTHER_VERSION);
    close(fd);
    rig_close(&rig);
}

struct impostor {
    int fd;
    const void *says;
    size_t size;
};

/* Listens like a godwit and answers whatever it was given. */
static void *answer_anything(void *argument)
{
    struct impostor *impostor = argument;
    char preamble[TCP_PREAMBLE_SIZE];
    int fd = accept(impostor->fd, NULL, NULL);

    if (impostor->size) {
        recv(fd, preamble, sizeof(preamble), MSG_WAITALL);
        send(fd, impostor->says, impostor->size, MSG_NOSIGNAL);
    }
    usleep(50000);
    close(fd);
    return NULL;
}

static int connect_to_impostor(const void *says, size_t size)
{
    struct rig rig;
    struct impostor impostor = {.says = says, .size = size};
    struct gw_connect_options options;
    struct gw_channel *channel;
    struct sockaddr_in *address;
    pthread_t thread;
    int error;

    rig_open(&rig, RIG_TCP);
    options = (struct gw_connect_options){
        .channel = {.domain = rig.near_domain, .poller = rig.near_poller, .timeout_ms = 3000},
        .peer = rig.address};
    address = (struct sockaddr_in *)&options.peer.storage;
    address->sin_port = 0;
    impostor.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(impostor.fd, (struct sockaddr *)address, sizeof(*address)), 0);
    cr_assert_eq(listen(impostor.fd, 1), 0);
    getsockname(impostor.fd, (struct sockaddr *)&options.peer.storage, &options.peer.length);
    cr_assert_eq(pthread_create(&thread, NULL, answer_anything, &impostor), 0);
    error = gw_connect(rig.transport, &options, &channel);
    pthread_join(thread, NULL);
    close(impostor.fd);
    rig_close(&rig);
    return error;
}

Test(tcp_hostile, another_service_is_recognised)
{
    cr_assert_eq(connect_to_impostor("SSH-2.0-OpenSSH_9.2\r\n", 21), -EPROTO);
    cr_assert(strstr(gw_error_message(), "is not a godwit"), "%s", gw_error_message());
}

Test(tcp_hostile, service_that_hangs_up_is_a_refusal)
{
    cr_assert_eq(connect_to_impostor("", 0), -ECONNREFUSED);
}

Test(tcp_hostile, other_version_is_named_by_the_caller)
{
    uint8_t answer[TCP_ANSWER_SIZE] = "godwit\r\n";

    gw_put_le32(answer + 8, 815);
    gw_put_le32(answer + 12, TCP_OTHER_VERSION);
    cr_assert_eq(connect_to_impostor(answer, sizeof(answer)), -EPROTO);
    cr_assert(names_versions(gw_error_message(), 815), "%s", gw_error_message());
}

Test(tcp_hostile, reason_with_control_characters_is_defused)
{
    uint8_t answer[TCP_ANSWER_SIZE] = "godwit\r\n";

    gw_put_le32(answer + 8, GW_WIRE_VERSION);
    gw_put_le32(answer + 12, TCP_REFUSED);
    memset(answer + 16, 'A', GW_REASON_MAX); /* no end of text either */
    memcpy(answer + 16, "\033[2Jgone", 8);
    cr_assert_eq(connect_to_impostor(answer, sizeof(answer)), -ECONNREFUSED);
    cr_assert(strstr(gw_error_message(), "?[2Jgone"), "%s", gw_error_message());
}

Test(tcp_hostile, verdict_without_meaning_is_refused)
{
    uint8_t answer[TCP_ANSWER_SIZE] = "godwit\r\n";

    gw_put_le32(answer + 8, GW_WIRE_VERSION);
    gw_put_le32(answer + 12, 3);
    cr_assert_eq(connect_to_impostor(answer, sizeof(answer)), -EPROTO);
}

Test(tcp_hostile, refused_congestion_control_is_named)
{
    struct rig rig;
    struct gw_connect_options options;
    struct gw_channel *channel;

    rig_open(&rig, RIG_TCP);
    options = (struct gw_connect_options){.channel = {.domain = rig.near_domain,
                                                      .poller = rig.near_poller,
                                                      .timeout_ms = 1000,
                                                      .congestion = "warp9"},
                                          .peer = rig.address};
    cr_assert_lt(gw_connect(rig.transport, &options, &channel), 0);
    cr_assert(strstr(gw_error_message(), "'warp9' was refused"), "%s", gw_error_message());
    rig_close(&rig);
}

Test(tcp_hostile, chosen_congestion_control_is_shown)
{
    struct rig rig;
    struct gw_connect_options options;
    struct gw_channel_info info;
    pthread_t thread;

    rig_open(&rig, RIG_TCP);
    options = (struct gw_connect_options){.channel = {.domain = rig.near_domain,
                                                      .poller = rig.near_poller,
                                                      .timeout_ms = 5000,
                                                      .congestion = "reno"},
                                          .peer = rig.address};
    cr_assert_eq(pthread_create(&thread, NULL, accept_next, &rig), 0);
    cr_assert_eq(gw_connect(rig.transport, &options, &rig.near), 0);
    pthread_join(thread, NULL);
    gw_channel_info(rig.near, &info);
    cr_assert(strstr(info.description, ", reno, send"), "%s", info.description);
    rig_close(&rig);
}

Test(tcp_hostile, stable_writes_are_spliced)
{
    static uint8_t source[1 << 20], memory[1 << 20];
    struct rig rig;
    struct gw_region *region;
    struct rig_write write;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    struct gw_channel_info info;

    rig_open(&rig, RIG_TCP);
    rig_join(&rig);
    rig_fill(source, sizeof(source), 5);
    cr_assert_eq(gw_reg(rig.far_domain, memory, sizeof(memory), GW_ACCESS_REMOTE_WRITE, 0, &region),
                 0);
    write = rig_write(source, sizeof(source), region, 0);
    write.write.flags = GW_POST_STABLE;
    cr_assert_eq(rig_post_write(rig.near, &write), 0);
    cr_assert_eq(rig_post_send(rig.near, &send), 0);
    cr_assert_eq(rig_receive(&rig, rig.far, &message), 0);
    cr_assert_eq(memcmp(source, memory, sizeof(memory)), 0);
    gw_channel_info(rig.near, &info);
    cr_assert(strstr(info.description, "vmsplice"), "%s", info.description);
    gw_unreg(region);
    rig_close(&rig);
}

/* Back-pressure is no fault, however long: with TCP_USER_TIMEOUT this channel would die. */
Test(tcp_hostile, slow_reader_is_not_taken_for_dead)
{
    enum { MESSAGES = 32, WRITES = 64 };
    static struct rig_send sends[MESSAGES];
    static struct rig_write writes[WRITES];
    static uint8_t source[1 << 20], memory[1 << 20];
    struct rig rig;
    struct gw_region *region;
    struct gw_message message;

    rig_open(&rig, RIG_TCP);
    rig_join(&rig);
    cr_assert_eq(gw_reg(rig.far_domain, memory, sizeof(memory), GW_ACCESS_REMOTE_WRITE, 0, &region),
                 0);
    for (int i = 0; i < MESSAGES; i++) {
        sends[i] = rig_send("x", 1);
        cr_assert_eq(rig_post_send(rig.near, &sends[i]), 0);
    }
    for (int i = 0; i < WRITES; i++) {
        writes[i] = rig_write(source, sizeof(source), region, 0);
        cr_assert_eq(rig_post_write(rig.near, &writes[i]), 0);
    }
    for (int turn = 0; turn < 130; turn++) {
        rig_turn(&rig);
        usleep(100000);
    }
    cr_assert_eq(writes[WRITES - 1].done_count, 0, "the sender is stuck");
    for (int i = 0; i < MESSAGES; i++)
        cr_assert_eq(rig_receive(&rig, rig.far, &message), 0, "%s", gw_error_message());
    cr_assert(rig_until(&rig, &writes[WRITES - 1].done_count, 1));
    cr_assert_eq(writes[WRITES - 1].status, 0);
    gw_unreg(region);
    rig_close(&rig);
}

/* splice(2) has no MSG_NOSIGNAL: a peer that is gone must not end the process with SIGPIPE. */
Test(tcp_hostile, spliced_write_to_a_gone_peer_raises_no_signal)
{
    static uint8_t source[1 << 20];
    struct gw_region region = {.key = 1};
    struct rig rig;
    struct rig_write writes[3];
    struct gw_message message;
    int death, error = 0;

    rig_open(&rig, RIG_TCP);
    rig_join(&rig);
    gw_close(rig.far);
    rig.far = NULL;
    for (int i = 0; i < 3; i++) {
        writes[i] = rig_write(source, sizeof(source), &region, 0);
        writes[i].write.flags = GW_POST_STABLE;
        error = rig_post_write(rig.near, &writes[i]); /* sends at once, before anything is read */
        usleep(50000);
    }
    death = rig_receive(&rig, rig.near, &message);
    cr_assert(death == -EPIPE || death == -ECONNRESET);
    cr_assert(error == 0 || error == death);
    rig_close(&rig);
}

Test(tcp_hostile, ipv6_works_and_is_shown)
{
    struct rig rig;
    struct gw_channel_info info;
    struct gw_address address;

    rig_open(&rig, RIG_TCP);
    cr_assert_eq(gw_address_parse("[::1]:0", 0, &address), 0);
    gw_unlisten(rig.listener);
    if (gw_listen(rig.transport, &address, &rig.listener) != 0)
        cr_skip_test("no IPv6 on this host: %s", gw_error_message());
    cr_assert_eq(gw_listener_address(rig.listener, &rig.address), 0);
    rig_join(&rig);
    gw_channel_info(rig.near, &info);
    cr_assert(strstr(info.description, "> [::1]:"), "%s", info.description);
    rig_close(&rig);
}
