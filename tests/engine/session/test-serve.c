/* SPDX-License-Identifier: Apache-2.0 */
/* A target against sources that do not keep to the protocol: each session ends with an error at
 * most, what others own stays, and what the session made is gone. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/handover/journal.h"
#include "engine/session/attended.h"
#include "engine/session/parts.h"
#include "engine/session/serve.h"
#include "engine/session/target-steps.h"
#include "engine/volume/ram.h"
#include "transport/transport.h"

#define WAIT_MS 60000
#define EPOCH   "00112233445566778899aabbccddeeff"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        int must_ = (call);                                                                        \
        cr_assert_eq(must_, 0, "%s: %d %s", #call, must_, gw_error_message());                     \
    } while (0)

struct host {
    struct gw_environment environment;
    struct gw_credentials *credentials;
    struct gw_listener *listener;
    struct gw_address address;
    struct gw_control *peer; /* the hostile source's end */
    struct gw_progress progress;
    struct gw_outcome outcome;
    pthread_t thread;
    int result;
    struct gw_serve *waiting; /* a session that the test calls itself */
    char folder[64], storage[96], journal_path[96];
};

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void open_host(struct host *host)
{
    char psk[96];
    struct gw_credentials_options options = {.psk_path = psk};
    FILE *file;

    memset(host, 0, sizeof(*host));
    snprintf(host->folder, sizeof(host->folder), "/tmp/godwit-serve-XXXXXX");
    cr_assert_not_null(mkdtemp(host->folder));
    snprintf(host->storage, sizeof(host->storage), "%s/storage", host->folder);
    cr_assert_eq(mkdir(host->storage, 0700), 0);
    snprintf(host->journal_path, sizeof(host->journal_path), "%s/journal", host->folder);
    snprintf(psk, sizeof(psk), "%s/psk", host->folder);
    file = fopen(psk, "w");
    fchmod(fileno(file), 0600);
    MUST(gw_psk_write("test", file));
    fclose(file);
    MUST(gw_credentials_load(&options, &host->credentials));
    MUST(gw_transports_open(
        &(struct gw_transports_wanted){.names = &(const char *){"loop"}, .name_count = 1},
        &host->environment.transports));
    MUST(gw_address_parse("127.0.0.1", 0, &host->address));
    MUST(gw_listen(host->environment.transports.list[0], &host->address, &host->listener));
    MUST(gw_listener_address(host->listener, &host->address));
    MUST(gw_journal_open(host->journal_path, true, &host->environment.journal));
    MUST(gw_attended_new(&host->environment.attended));
    host->environment.credentials = host->credentials;
    host->environment.instance_id[0] = 2;
    host->environment.storage[0] = host->storage;
    host->environment.storage_count = 1;
    host->environment.state_dir = host->folder;
    MUST(gw_progress_init(&host->progress));
}

static int admit(struct host *host, struct gw_control **out)
{
    struct gw_control_options options = {.credentials = host->credentials, .timeout_ms = WAIT_MS};
    struct gw_request *request;
    int error;

    options.instance_id[0] = 2;
    error = gw_next_request(host->listener, WAIT_MS, &request);
    return error ? error : gw_control_accept(request, &options, out);
}

static void *serve(void *argument)
{
    struct host *host = argument;
    struct gw_control *control;
    struct gw_serve *session;

    if (admit(host, &control) || gw_serve_new(&host->environment, control, &session)) {
        host->result = -EIO;
        return NULL;
    }
    host->result = gw_serve_run(session, &host->progress, &host->outcome);
    gw_serve_free(session);
    return NULL;
}

/* admitted: what the host does with it, on its own thread. */
static void dial(struct host *host, uint8_t instance, void *(*admitted)(void *host))
{
    struct gw_control_options options = {.credentials = host->credentials, .timeout_ms = WAIT_MS};

    options.instance_id[0] = instance;
    cr_assert_eq(pthread_create(&host->thread, NULL, admitted, host), 0);
    MUST(gw_control_connect(host->environment.transports.list[0], &host->address, &options,
                            &host->peer));
}

static void begin_session(struct host *host, uint8_t instance)
{
    dial(host, instance, serve);
}

static void end_session(struct host *host)
{
    gw_control_close(host->peer);
    pthread_join(host->thread, NULL);
    gw_outcome_free(&host->outcome);
    memset(&host->outcome, 0, sizeof(host->outcome));
}

static void close_host(struct host *host)
{
    char command[128];

    gw_progress_free(&host->progress);
    gw_attended_free(host->environment.attended);
    gw_journal_close(host->environment.journal);
    gw_unlisten(host->listener);
    gw_transports_close(&host->environment.transports);
    gw_credentials_free(host->credentials);
    snprintf(command, sizeof(command), "rm -rf %s", host->folder);
    cr_assert_eq(system(command), 0);
}

static void say(struct host *host, json_t *message)
{
    cr_assert_not_null(message);
    /* The session may have ended by now, which the next answer tells. */
    gw_control_send(host->peer, message);
    json_decref(message);
}

/* The type of the next message, "" when the session has ended. */
static const char *answer(struct host *host, char *out, size_t size)
{
    struct gw_control_frame frame;
    int error = gw_control_receive(host->peer, WAIT_MS, &frame);

    cr_assert_neq(error, -ETIMEDOUT, "no answer");
    out[0] = '\0';
    if (!error && frame.message)
        snprintf(out, size, "%s", json_string_value(json_object_get(frame.message, "type")));
    if (!error)
        json_decref(frame.message);
    return out;
}

static json_t *volume(const char *target)
{
    return json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:s,s:b,s:i,s:i,s:i,s:s,s:s}", "kind", "disk",
                     "name", "disk", "file", "disk.raw", "target", target, "size",
                     (json_int_t)1 << 20, "data", (json_int_t)0, "format", "raw", "fixed", 0,
                     "block_size", 0, "logical_sector", 512, "physical_sector", 4096, "disk_id", "",
                     "data_id", "");
}

static json_t *offer(json_t *volumes)
{
    return json_pack("{s:s,s:s,s:s,s:o}", "type", "offer", "kind", "copy", "epoch", EPOCH,
                     "volumes", volumes);
}

static unsigned count_files(const char *folder)
{
    char command[160];
    unsigned count = 0;
    FILE *pipe;

    snprintf(command, sizeof(command), "find %s -type f | wc -l", folder);
    pipe = popen(command, "r");
    cr_assert_eq(fscanf(pipe, "%u", &count), 1);
    pclose(pipe);
    return count;
}

Test(serve, a_second_finish_is_refused)
{
    struct host host;
    char type[32];

    open_host(&host);
    begin_session(&host, 1);
    say(&host, offer(json_pack("[o]", volume("one.raw"))));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "accepted");
    say(&host, json_pack("{s:s}", "type", "finish"));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "finished");
    say(&host, json_pack("{s:s}", "type", "finish"));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "error");
    end_session(&host);
    close_host(&host);
}

Test(serve, a_sync_after_the_finish_is_refused)
{
    struct host host;
    char type[32];

    open_host(&host);
    begin_session(&host, 1);
    say(&host, offer(json_pack("[o]", volume("one.raw"))));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "accepted");
    say(&host, json_pack("{s:s}", "type", "finish"));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "finished");
    say(&host, json_pack("{s:s}", "type", "sync"));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "error");
    end_session(&host);
    /* The copy was finished: it is the user's. */
    cr_assert_eq(count_files(host.storage), 1);
    close_host(&host);
}

Test(serve, a_refusal_in_other_bytes_than_utf8_arrives)
{
    struct host host;
    char type[32], folder[128];

    open_host(&host);
    snprintf(folder, sizeof(folder), "%s/\xff\xfe", host.storage);
    cr_assert_eq(mkdir(folder, 0700), 0);
    host.environment.storage[0] = folder;
    begin_session(&host, 1);
    say(&host, offer(json_pack("[o]", volume("x.raw"))));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "error");
    end_session(&host);
    cr_assert_eq(count_files(host.storage), 0);
    begin_session(&host, 1);
    say(&host, offer(json_pack("[o]", volume("../../../x.raw"))));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "error");
    end_session(&host);
    close_host(&host);
}

Test(serve, two_volumes_of_one_name_leave_nothing)
{
    struct host host;
    char type[32];

    open_host(&host);
    begin_session(&host, 1);
    say(&host, offer(json_pack("[o,o]", volume("same.raw"), volume("./same.raw"))));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "error");
    end_session(&host);
    cr_assert_eq(count_files(host.storage), 0);
    close_host(&host);
}

static json_t *broken(unsigned index)
{
    json_t *item;

    if (index == 0)
        return offer(json_string("x"));
    if (index == 1)
        return offer(json_pack("[n]"));
    item = volume("x.raw");
    switch (index) {
    case 2:
        json_object_set_new(item, "size", json_integer(INT64_MAX));
        break;
    case 3:
        json_object_set_new(item, "size", json_integer(-1));
        break;
    case 4:
        json_object_set_new(item, "target", json_array());
        break;
    case 5:
        json_object_set_new(item, "target", json_string("../x.raw"));
        break;
    case 6:
        json_object_set_new(item, "file", json_string("../x.raw"));
        json_object_set_new(item, "target", json_string(""));
        break;
    case 7:
        json_object_set_new(item, "disk_id", json_string("zz"));
        break;
    case 8:
        json_object_set_new(item, "format", json_integer(1));
        break;
    case 9:
        json_object_set_new(item, "block_size", json_integer(3));
        json_object_set_new(item, "format", json_string("vhdx"));
        break;
    case 10:
        json_object_set_new(item, "kind", json_null());
        break;
    case 11:
        json_decref(item);
        return json_pack("{s:s,s:s,s:i}", "type", "offer", "kind", "copy", "epoch", 5);
    case 12:
        json_decref(item);
        return json_pack("{s:s,s:s,s:s,s:s}", "type", "offer", "kind", "move", "epoch", EPOCH, "vm",
                         "x");
    case 13:
        json_decref(item);
        return json_pack("{s:s,s:s}", "type", "bury", "channel", "x");
    case 14:
        json_decref(item);
        return json_pack("{s:i}", "type", 3);
    case 15:
        json_decref(item);
        return json_pack("{s:s,s:s,s:s}", "type", "handover", "message", "GO", "epoch", "../../x");
    case 16:
        json_decref(item);
        return json_pack("{s:s,s:i}", "type", "handover", "epoch", 1);
    default:
        json_decref(item);
        return NULL;
    }
    return offer(json_pack("[o]", item));
}

Test(serve, broken_messages_end_the_session_alone, .timeout = 120)
{
    struct host host;
    json_t *message;

    open_host(&host);
    for (unsigned i = 0; (message = broken(i)) != NULL; i++) {
        char type[32];

        begin_session(&host, 1);
        say(&host, message);
        answer(&host, type, sizeof(type));
        cr_assert_str_neq(type, "accepted", "message %u", i);
        end_session(&host);
        cr_assert_eq(count_files(host.storage), 0, "message %u", i);
    }
    close_host(&host);
}

static void record(struct host *host, const char *state, uint8_t instance)
{
    struct gw_journal_entry entry = {.side = GW_SIDE_TARGET, .epoch = EPOCH};

    snprintf(entry.state, sizeof(entry.state), "%s", state);
    entry.peer_instance[0] = instance;
    entry.detail = json_object();
    MUST(gw_journal_record(host->environment.journal, &entry));
    json_decref(entry.detail);
}

static void check_state(struct host *host, const char *state, uint8_t instance)
{
    struct gw_journal_entry entry;

    MUST(gw_journal_find(host->environment.journal, EPOCH, GW_SIDE_TARGET, &entry));
    cr_assert_str_eq(entry.state, state);
    cr_assert_eq(entry.peer_instance[0], instance);
    gw_journal_entry_free(&entry);
}

static json_t *handover(const char *name)
{
    return json_pack("{s:s,s:s,s:s}", "type", "handover", "message", name, "epoch", EPOCH);
}

Test(serve, a_move_is_not_taken_from_its_source)
{
    struct host host;
    char type[32];

    open_host(&host);
    record(&host, "PREPARED", 7);
    begin_session(&host, 1);
    say(&host, handover("GO"));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "error");
    /* Not even held: its own source is answered meanwhile. */
    MUST(gw_attend(host.environment.attended, EPOCH, GW_SIDE_TARGET));
    gw_unattend(host.environment.attended, EPOCH, GW_SIDE_TARGET);
    end_session(&host);
    check_state(&host, "PREPARED", 7);
    close_host(&host);
}

Test(serve, an_epoch_of_the_journal_is_not_offered_again)
{
    struct host host;
    char type[32];

    open_host(&host);
    record(&host, "PREPARED", 7);
    begin_session(&host, 1);
    say(&host, json_pack("{s:s,s:s,s:s}", "type", "offer", "kind", "move", "epoch", EPOCH));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "error");
    end_session(&host);
    check_state(&host, "PREPARED", 7);
    close_host(&host);
}

Test(serve, an_offer_in_a_handover_session_is_refused)
{
    struct host host;
    char type[32];

    open_host(&host);
    record(&host, "RUNNING", 1);
    begin_session(&host, 1);
    say(&host, handover("GO"));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "handover");
    say(&host, offer(json_pack("[o]", volume("x.raw"))));
    cr_assert_str_eq(answer(&host, type, sizeof(type)), "error");
    end_session(&host);
    MUST(gw_attend(host.environment.attended, EPOCH, GW_SIDE_TARGET));
    gw_unattend(host.environment.attended, EPOCH, GW_SIDE_TARGET);
    close_host(&host);
}

Test(serve, discard_removes_its_own_images_only)
{
    char folder[] = "/tmp/godwit-discard-XXXXXX", mine[64], part[96], theirs[64];
    struct gw_target_steps steps = {.epoch = EPOCH, .launched.pid_fd = -1};

    cr_assert_not_null(mkdtemp(folder));
    snprintf(mine, sizeof(mine), "%s/mine.raw", folder);
    snprintf(theirs, sizeof(theirs), "%s/theirs.raw", folder);
    snprintf(part, sizeof(part), "%s.godwit-" EPOCH ".part", theirs);
    write_file(mine, "finished by this move");
    write_file(part, "not finished: somebody else took the name first");
    write_file(theirs, "somebody's");
    steps.detail = json_pack("{s:[s,s],s:[o,o],s:[s],s:[]}", "images", mine, theirs, "files",
                             gw_part_identity(mine), gw_part_identity(part), "parts", part, "ram");
    cr_assert_eq(gw_target_steps_act(&steps, GW_ACT_DISCARD), 0);
    cr_assert(exists(theirs));
    cr_assert_not(exists(mine));
    cr_assert_not(exists(part));
    json_decref(steps.detail);
    unlink(theirs);
    rmdir(folder);
}

static json_t *with(json_t *identity, const char *member, json_int_t more)
{
    json_int_t value = json_integer_value(json_object_get(identity, member));

    cr_assert(json_is_object(identity));
    json_object_set_new(identity, member, json_integer(value + more));
    return identity;
}

/* A host that was started again may have given the device another number. */
Test(serve, discard_finds_its_image_on_a_device_with_another_number)
{
    char folder[] = "/tmp/godwit-discard-XXXXXX", mine[64], later[64];
    struct gw_target_steps steps = {.epoch = EPOCH, .launched.pid_fd = -1};

    cr_assert_not_null(mkdtemp(folder));
    snprintf(mine, sizeof(mine), "%s/mine.raw", folder);
    snprintf(later, sizeof(later), "%s/later.raw", folder);
    write_file(mine, "finished by this move");
    write_file(later, "made by somebody since, with the inode of what was removed");
    steps.detail = json_pack("{s:[s,s],s:[o,o],s:[],s:[]}", "images", mine, later, "files",
                             with(gw_part_identity(mine), "device", 1),
                             with(gw_part_identity(later), "born", -1), "parts", "ram");
    cr_assert_eq(gw_target_steps_act(&steps, GW_ACT_DISCARD), 0);
    cr_assert_not(exists(mine), "it is nobody's, and there");
    cr_assert(exists(later), "it was somebody's");
    json_decref(steps.detail);
    unlink(later);
    rmdir(folder);
}

Test(serve, file_is_the_same_only_when_nothing_else_can_be)
{
    static const struct {
        json_int_t device, inode, born;
        bool is_same;
    } cases[] = {
        {1, 5, 1000, true},  {2, 5, 1000, true}, /* another number of the same device */
        {1, 6, 1000, false}, {1, 5, 1001, false}, {1, 5, 0, false},
    };
    json_t *recorded = json_pack("{s:i,s:i,s:i}", "device", 1, "inode", 5, "born", 1000);
    json_t *unborn = json_pack("{s:i,s:i,s:i}", "device", 1, "inode", 5, "born", 0);
    json_t *null = json_null();

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_t *found = json_pack("{s:I,s:I,s:I}", "device", cases[i].device, "inode",
                                  cases[i].inode, "born", cases[i].born);

        cr_assert_eq(gw_part_is_same(found, recorded), cases[i].is_same, "case %zu", i);
        /* A file system without times of birth: an inode alone says nothing on another device. */
        cr_assert_eq(gw_part_is_same(found, unborn), cases[i].born == 0, "case %zu", i);
        json_object_set_new(found, "device", json_integer(7));
        cr_assert_not(gw_part_is_same(found, unborn), "case %zu", i);
        cr_assert_not(gw_part_is_same(null, found), "case %zu", i);
        cr_assert_not(gw_part_is_same(found, null), "case %zu", i);
        json_decref(found);
    }
    cr_assert_not(gw_part_is_same(null, null), "no regular file is no file of ours");
    json_decref(recorded);
    json_decref(unborn);
}

Test(serve, memory_of_a_waiting_vmm_begins_as_zeroes)
{
    char path[] = "/dev/shm/godwit-used-XXXXXX", bytes[65536];
    struct gw_target_volume *ram;
    int fd = mkstemp(path);

    memset(bytes, 0xa5, sizeof(bytes));
    cr_assert_eq(write(fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    close(fd);
    MUST(gw_ram_target_make("ram", path, sizeof(bytes), GW_RAM_FOREIGN, &ram));
    for (size_t i = 0; i < sizeof(bytes); i++)
        cr_assert_eq(((uint8_t *)ram->memory)[i], 0, "byte %zu", i);
    ram->ops->close(ram);
    unlink(path);
}

/* ---- a session in a long wait, on the test's own thread ---- */

#define RECONNECT_S 1

static void *open_waiting(void *argument)
{
    struct host *host = argument;
    struct gw_control *control;

    host->result = admit(host, &control);
    if (!host->result)
        host->result = gw_serve_new(&host->environment, control, &host->waiting);
    return NULL;
}

/* As after an offer that was accepted. */
static struct gw_serve *begin_wait(struct host *host)
{
    struct gw_serve *session;

    open_host(host);
    MUST(gw_rejoins_new(&host->environment.rejoins));
    dial(host, 1, open_waiting);
    pthread_join(host->thread, NULL);
    MUST(host->result);
    session = host->waiting;
    session->progress = &host->progress;
    session->outcome = &host->outcome;
    session->thread = pthread_self();
    session->is_accepted = true;
    session->reconnect_s = RECONNECT_S;
    snprintf(session->epoch, sizeof(session->epoch), EPOCH);
    snprintf(session->peer_name, sizeof(session->peer_name), "%s",
             gw_control_peer(session->control)->name);
    session->peer_instance[0] = 1;
    gw_rejoins_add(host->environment.rejoins, session);
    return session;
}

static void end_wait(struct host *host)
{
    gw_control_close(host->peer);
    gw_rejoins_remove(host->environment.rejoins, host->waiting);
    gw_serve_free(host->waiting);
    gw_rejoins_free(host->environment.rejoins);
    close_host(host);
}

static void lose_link(struct host *host)
{
    gw_fail(-ECONNRESET, "cut");
    gw_control_give_up(host->peer);
    gw_control_close(host->peer);
    host->peer = NULL;
    gw_fail(-ECONNRESET, "cut");
    gw_control_give_up(host->waiting->control);
}

static void *take_back(void *argument)
{
    struct host *host = argument;
    struct gw_control *control;

    host->result = admit(host, &control);
    if (!host->result)
        host->result = gw_rejoins_take(host->environment.rejoins, control);
    return NULL;
}

static void come_back(struct host *host)
{
    dial(host, 1, take_back);
    say(host, json_pack("{s:s,s:s,s:s}", "type", "rejoin", "epoch", EPOCH, "link", EPOCH));
    pthread_join(host->thread, NULL);
    MUST(host->result);
}

static void outlast_patience(void)
{
    nanosleep(&(struct timespec){.tv_sec = RECONNECT_S, .tv_nsec = 200000000l}, NULL);
}

Test(serve, each_loss_in_a_wait_has_the_whole_patience)
{
    struct host host;
    struct gw_serve *session = begin_wait(&host);

    lose_link(&host);
    MUST(gw_serve_check_wanted(session));
    come_back(&host);
    MUST(gw_serve_await_source(session, -ECONNRESET));
    outlast_patience();
    lose_link(&host);
    MUST(gw_serve_check_wanted(session));
    end_wait(&host);
}

Test(serve, source_that_is_back_and_waits_is_not_given_up)
{
    struct host host;
    struct gw_serve *session = begin_wait(&host);

    lose_link(&host);
    MUST(gw_serve_check_wanted(session));
    come_back(&host);
    MUST(gw_serve_check_wanted(session));
    outlast_patience();
    MUST(gw_serve_check_wanted(session));
    end_wait(&host);
}

Test(serve, source_that_was_back_and_is_lost_again_is_not_waited_for)
{
    struct host host;
    struct gw_serve *session = begin_wait(&host);
    int error = 0;

    lose_link(&host);
    come_back(&host);
    MUST(gw_serve_check_wanted(session));
    lose_link(&host);
    for (unsigned i = 0; i < 200 && !error; i++) {
        error = gw_serve_check_wanted(session);
        nanosleep(&(struct timespec){.tv_nsec = 100000000l}, NULL);
    }
    cr_assert_eq(error, -ECONNRESET, "%d", error);
    end_wait(&host);
}

Test(serve, cancel_of_a_source_that_is_back_ends_the_wait)
{
    struct host host;
    struct gw_serve *session = begin_wait(&host);

    lose_link(&host);
    come_back(&host);
    say(&host, json_pack("{s:s}", "type", "bye"));
    cr_assert_eq(gw_serve_check_wanted(session), -ECANCELED);
    /* Nor does the session go on with that source. */
    cr_assert_eq(gw_serve_await_source(session, -ECANCELED), -ECANCELED);
    end_wait(&host);
}

Test(serve, wait_ends_in_the_words_of_the_source)
{
    static const struct {
        const char *cause, *words;
    } cases[] = {{"the guest has another disk now", "the guest has another disk now"},
                 {NULL, "the source gave up"}};

    for (size_t i = 0; i < GW_ARRAY_LENGTH(cases); i++) {
        struct host host;
        struct gw_serve *session = begin_wait(&host);
        struct gw_control_frame frame;
        json_t *message = handover("ABORT");

        if (cases[i].cause)
            json_object_set_new(message, "cause", json_string(cases[i].cause));
        say(&host, message);
        cr_assert_eq(gw_serve_check_wanted(session), -ECANCELED);
        cr_assert(strstr(gw_error_message(), cases[i].words), "%s", gw_error_message());
        cr_assert_eq(gw_serve_next_frame(session, &frame), -ETIMEDOUT, "it is heard once more");
        end_wait(&host);
    }
}
