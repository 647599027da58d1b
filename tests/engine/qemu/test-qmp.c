/* SPDX-License-Identifier: Apache-2.0 */
/* The QMP client against real QEMU processes, and against sockets that are something else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "tests/engine/qemu/support.h"

#define expect_message(text)                                                                       \
    cr_expect_not_null(strstr(gw_error_message(), text), "message: %s", gw_error_message())

TestSuite(qmp, .timeout = 240);

Test(qmp, executes_and_reads_version_and_pid)
{
    struct qemu qemu = {.pid = -1};
    json_t *result;

    qemu_start(&qemu, "-machine none -nodefaults");
    cr_assert_eq(gw_qmp_pid(qemu.qmp), qemu.pid);
    cr_assert_geq(gw_qmp_version(qemu.qmp)->major, 7);
    result = qemu_run(&qemu, "query-status", NULL);
    cr_assert(json_is_object(result));
    json_decref(result);
    qemu_end(&qemu);
}

Test(qmp, quotes_qemu_and_names_the_command)
{
    struct qemu qemu = {.pid = -1};

    qemu_start(&qemu, "-machine none -nodefaults");
    cr_assert_eq(gw_qmp_execute(qemu.qmp, "no-such-thing", NULL, NULL), -ENOTSUP);
    cr_assert_str_eq(gw_qmp_error_class(qemu.qmp), "CommandNotFound");
    expect_message("no-such-thing");
    cr_assert_eq(gw_qmp_execute(qemu.qmp, "qom-get",
                                json_pack("{s:s, s:s}", "path", "/nowhere", "property", "x"), NULL),
                 -ENODEV);
    expect_message("/nowhere");
    cr_assert_eq(
        gw_qmp_execute(qemu.qmp, "blockdev-del", json_pack("{s:s}", "node-name", "n"), NULL),
        -EREMOTEIO);
    expect_message("QEMU refused blockdev-del");
    json_decref(qemu_run(&qemu, "query-status", NULL));
    qemu_end(&qemu);
}

Test(qmp, keeps_events_until_they_are_waited_for)
{
    struct qemu qemu = {.pid = -1};
    json_t *event;

    qemu_start(&qemu, "-machine pc -nodefaults -m 16");
    json_decref(qemu_run(&qemu, "stop", NULL));
    json_decref(qemu_run(&qemu, "cont", NULL));
    json_decref(qemu_run(&qemu, "query-status", NULL));
    cr_assert_eq(gw_qmp_wait_event(qemu.qmp, "RESUME", NULL, NULL, 2000, &event), 0);
    json_decref(event);
    cr_assert_eq(gw_qmp_wait_event(qemu.qmp, "STOP", NULL, NULL, 0, NULL), 0);
    cr_assert_eq(gw_qmp_wait_event(qemu.qmp, "STOP", NULL, NULL, 50, NULL), -ETIMEDOUT);
    json_decref(qemu_run(&qemu, "stop", NULL));
    gw_qmp_drop_events(qemu.qmp, "STOP");
    cr_assert_eq(gw_qmp_next_event(qemu.qmp, &event), -EAGAIN);
    qemu_end(&qemu);
}

Test(qmp, sends_a_descriptor)
{
    struct qemu qemu = {.pid = -1};
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    qemu_start(&qemu, "-machine none -nodefaults");
    cr_assert_eq(
        gw_qmp_execute_fd(qemu.qmp, "getfd", json_pack("{s:s}", "fdname", "one"), fd, NULL), 0,
        "%s", gw_error_message());
    cr_assert_eq(gw_qmp_execute(qemu.qmp, "closefd", json_pack("{s:s}", "fdname", "one"), NULL), 0);
    cr_assert_neq(gw_qmp_execute(qemu.qmp, "getfd", json_pack("{s:s}", "fdname", "two"), NULL), 0);
    close(fd);
    qemu_end(&qemu);
}

Test(qmp, a_second_client_is_told_who_holds_the_socket)
{
    struct qemu qemu = {.pid = -1};
    struct gw_qmp *second;

    qemu_start(&qemu, "-machine none -nodefaults");
    cr_assert_eq(gw_qmp_open(qemu.qmp_path, &second), -EBUSY);
    expect_message("one client per socket");
    qemu_end(&qemu);
}

Test(qmp, a_stopped_process_is_told_apart_from_a_held_socket)
{
    struct qemu qemu = {.pid = -1};
    struct gw_qmp *second;
    int status;

    qemu_start(&qemu, "-machine none -nodefaults");
    qemu_leave(&qemu);
    cr_assert_eq(kill(qemu.pid, SIGSTOP), 0);
    cr_assert_eq(waitpid(qemu.pid, &status, WUNTRACED), qemu.pid);
    cr_assert(WIFSTOPPED(status));
    cr_assert_eq(gw_qmp_open(qemu.qmp_path, &second), -EPROTO);
    expect_message("hangs");
    qemu_end(&qemu);
}

Test(qmp, a_command_that_is_not_answered_times_out)
{
    struct qemu qemu = {.pid = -1};
    uint64_t begin;

    qemu_start(&qemu, "-machine none -nodefaults");
    gw_qmp_set_timeout(qemu.qmp, 200);
    kill(qemu.pid, SIGSTOP);
    begin = gw_clock_ns();
    cr_assert_eq(gw_qmp_execute(qemu.qmp, "query-status", NULL, NULL), -ETIMEDOUT);
    cr_assert_lt(gw_clock_ns() - begin, GW_QMP_TIMEOUT_MS * GW_NS_PER_MS);
    kill(qemu.pid, SIGCONT);
    gw_qmp_set_timeout(qemu.qmp, 50000);
    /* The late answer to the first command must not be taken for the second's. */
    cr_assert_eq(gw_qmp_execute(qemu.qmp, "no-such-thing", NULL, NULL), -ENOTSUP);
    json_decref(qemu_run(&qemu, "query-status", NULL));
    qemu_end(&qemu);
}

Test(qmp, a_killed_qemu_is_an_error)
{
    struct qemu qemu = {.pid = -1};

    qemu_start(&qemu, "-machine none -nodefaults");
    kill(qemu.pid, SIGKILL);
    cr_assert_eq(gw_qmp_execute(qemu.qmp, "query-status", NULL, NULL), -EPIPE);
    cr_assert_eq(gw_qmp_execute(qemu.qmp, "query-status", NULL, NULL), -EPIPE);
    qemu_end(&qemu);
}

Test(qmp, the_human_monitor_is_not_qmp)
{
    struct qemu qemu = {.pid = -1};
    struct gw_qmp *monitor;
    char path[96];

    qemu_start(&qemu, "-machine none -nodefaults -monitor unix:@/hmp,server=on,wait=off");
    snprintf(path, sizeof(path), "%s/hmp", qemu.dir);
    cr_assert_eq(gw_qmp_open(path, &monitor), -EPROTO);
    expect_message("does not speak QMP");
    qemu_end(&qemu);
}

Test(qmp, paths_that_are_no_qmp_sockets)
{
    struct gw_qmp *qmp;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char dir[64], path[96];
    int fd;

    folder_make(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/file", dir);
    cr_assert_eq(gw_qmp_open(path, &qmp), -ENOENT);
    expect_message(path);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    cr_assert_eq(gw_qmp_open(path, &qmp), -ENOTSOCK);
    expect_message("is not a socket");
    unlink(path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    cr_assert_eq(gw_qmp_open(path, &qmp), -ECONNREFUSED);
    expect_message("nobody listens");
    folder_remove(dir);
}

struct talker {
    int fd;
    const char *text;
    size_t repeat;
};

static void *talk(void *context)
{
    struct talker *talker = context;
    size_t length = strlen(talker->text);

    for (size_t i = 0; i < talker->repeat; i++) {
        if (send(talker->fd, talker->text, length, MSG_NOSIGNAL) < 0)
            break;
    }
    shutdown(talker->fd, SHUT_WR);
    return NULL;
}

static int open_against(const char *text, size_t repeat)
{
    struct talker talker = {.text = text, .repeat = repeat};
    struct gw_qmp *qmp;
    pthread_t thread;
    int pair[2], ret;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    talker.fd = pair[1];
    cr_assert_eq(pthread_create(&thread, NULL, talk, &talker), 0);
    ret = gw_qmp_open_fd(pair[0], "pair", &qmp);
    pthread_join(thread, NULL);
    close(pair[1]);
    return ret;
}

Test(qmp, other_speakers_are_refused)
{
    char block[4097];

    cr_assert_eq(open_against("HTTP/1.1 200 OK\r\n", 1), -EPROTO);
    expect_message("HTTP/1.1");
    cr_assert_eq(open_against("[1]\n", 1), -EPROTO);
    cr_assert_eq(open_against("{\"hello\":1}\n", 1), -EPROTO);
    cr_assert_eq(open_against("{\"QMP\":{}}", 1), -EPIPE);
    memset(block, 'x', sizeof(block) - 1);
    block[sizeof(block) - 1] = '\0';
    cr_assert_eq(open_against(block, 8192), -EPROTO);
    expect_message("line longer");
}
