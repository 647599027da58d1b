/* SPDX-License-Identifier: Apache-2.0 */
/* The guard with a real QEMU: its agent is killed at every stage of the pause. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../qemu/support.h"
#include "common/error.h"
#include "engine/handover/guard.h"
#include "engine/handover/renames.h"

/* A guest that loops for ever. */
static const unsigned char boot_sector[512] = {0xeb, 0xfe, [510] = 0x55, [511] = 0xaa};

struct scene {
    struct qemu qemu;
    char qmp2[128], log[128], image[128], renamed[160];
    pid_t agent;
};

static void begin(struct scene *scene)
{
    int fd;

    qemu_prepare(&scene->qemu);
    snprintf(scene->qmp2, sizeof(scene->qmp2), "%s/qmp2", scene->qemu.dir);
    snprintf(scene->log, sizeof(scene->log), "%s/guard.log", scene->qemu.dir);
    snprintf(scene->image, sizeof(scene->image), "%s/disk.raw", scene->qemu.dir);
    snprintf(scene->renamed, sizeof(scene->renamed), "%s/disk.raw.godwit-e1", scene->qemu.dir);
    fd = open(scene->image, O_RDWR | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, boot_sector, sizeof(boot_sector)), (ssize_t)sizeof(boot_sector));
    cr_assert_eq(ftruncate(fd, 1 << 20), 0);
    close(fd);
    qemu_start(&scene->qemu,
               "-m 16 -nodefaults -qmp unix:@/qmp2,server=on,wait=off "
               "-blockdev driver=raw,node-name=disk0,file.driver=file,file.filename=@/"
               "disk.raw -device virtio-blk-pci,id=vda,drive=disk0");
}

static const char *status(struct scene *scene)
{
    static char text[32];
    json_t *answer = qemu_run(&scene->qemu, "query-status", NULL);

    snprintf(text, sizeof(text), "%s", json_string_value(json_object_get(answer, "status")));
    json_decref(answer);
    return text;
}

static const char *drive(struct scene *scene)
{
    static char text[64];
    json_t *answer =
        qemu_run(&scene->qemu, "qom-get",
                 json_pack("{s:s, s:s}", "path", "/machine/peripheral/vda", "property", "drive"));

    snprintf(text, sizeof(text), "%s", json_string_value(answer));
    json_decref(answer);
    return text;
}

/* Starts the agent and returns once it has reached the stage. */
static void reach(struct scene *scene, const char *stage, bool is_paused)
{
    char pid[16], line[64] = "";
    int pipe_fds[2];
    ssize_t length;

    snprintf(pid, sizeof(pid), "%d", (int)scene->qemu.pid);
    cr_assert_eq(pipe(pipe_fds), 0);
    scene->agent = fork();
    cr_assert(scene->agent >= 0);
    if (scene->agent == 0) {
        dup2(pipe_fds[1], STDOUT_FILENO);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        execl(GUARD_AGENT, GUARD_AGENT, scene->qmp2, pid, scene->log, scene->image, stage,
              is_paused ? "paused" : NULL, NULL);
        _exit(127);
    }
    close(pipe_fds[1]);
    length = read(pipe_fds[0], line, sizeof(line) - 1);
    close(pipe_fds[0]);
    cr_assert(length > 0, "the agent did not reach %s", stage);
    line[strcspn(line, "\n")] = '\0';
    cr_assert_str_eq(line, stage);
}

static void kill_agent(struct scene *scene)
{
    int fd = open(scene->log, O_RDONLY | O_CLOEXEC);

    kill(scene->agent, SIGKILL);
    cr_assert_eq(waitpid(scene->agent, NULL, 0), scene->agent);
    /* The guard has ended, or pauses between two tries. */
    cr_assert_eq(flock(fd, LOCK_EX), 0);
    close(fd);
}

/* What the guest writes lands in the image under its own name. */
static void write_through(struct scene *scene)
{
    unsigned char byte = 0;
    char *text = NULL;
    int fd;

    cr_assert_eq(
        gw_qmp_human(scene->qemu.qmp,
                     "qemu-io -d /machine/peripheral/vda/virtio-backend \"write -P 7 4096 512\"",
                     &text),
        0);
    fd = open(scene->image, O_RDONLY);
    cr_assert(fd >= 0);
    cr_assert_eq(pread(fd, &byte, 1, 4096), 1);
    close(fd);
    cr_assert_eq(byte, 7, "the write did not reach the real disk: %s", text);
    free(text);
}

static void assert_goes_on(struct scene *scene)
{
    char *log = file_text(scene->log);

    cr_assert_str_eq(drive(scene), "disk0", "log:\n%s", log);
    cr_assert_str_eq(status(scene), "running", "log:\n%s", log);
    cr_assert_eq(access(scene->image, F_OK), 0, "log:\n%s", log);
    cr_assert_neq(access(scene->renamed, F_OK), 0, "log:\n%s", log);
    write_through(scene);
    free(log);
}

struct stage {
    char name[24];
};

ParameterizedTestParameters(guard, killed_agent_leaves_the_guest_running)
{
    static struct stage stages[] = {
        {"armed"},        {"told"},    {"stopped"},          {"swap-announced"}, {"hold-added"},
        {"half-swapped"}, {"swapped"}, {"rename-announced"}, {"renamed"}};

    return cr_make_param_array(struct stage, stages, sizeof(stages) / sizeof(stages[0]));
}

ParameterizedTest(struct stage *stage, guard, killed_agent_leaves_the_guest_running, .timeout = 240)
{
    struct scene scene;

    begin(&scene);
    reach(&scene, stage->name, false);
    kill_agent(&scene);
    assert_goes_on(&scene);
    qemu_end(&scene.qemu);
}

/* The control of the test above: without its guard the guest stays where the agent left it. */
Test(guard, without_a_guard_the_guest_stays_paused, .timeout = 240)
{
    struct scene scene;
    char command[256], *log;
    int guard_pid = 0;

    begin(&scene);
    reach(&scene, "renamed", false);
    log = file_text(scene.log);
    cr_assert_eq(sscanf(strstr(log, "guard ") + 6, "%d", &guard_pid), 1);
    free(log);
    cr_assert_eq(kill(guard_pid, SIGKILL), 0);
    snprintf(command, sizeof(command), "sleep 0.2");
    cr_assert_eq(shell(scene.qemu.dir, command), 0);
    kill_agent(&scene);
    cr_assert_str_eq(status(&scene), "paused");
    cr_assert_str_eq(drive(&scene), "godwit-hold-0");
    cr_assert_eq(access(scene.renamed, F_OK), 0);
    qemu_end(&scene.qemu);
}

Test(guard, does_nothing_after_committing, .timeout = 240)
{
    struct scene scene;

    begin(&scene);
    reach(&scene, "committing", false);
    kill_agent(&scene);
    cr_assert_str_eq(status(&scene), "paused");
    cr_assert_str_eq(drive(&scene), "godwit-hold-0");
    cr_assert_eq(access(scene.renamed, F_OK), 0);
    cr_assert_neq(access(scene.image, F_OK), 0);
    qemu_end(&scene.qemu);
}

Test(guard, leaves_a_vm_paused_that_was_paused, .timeout = 240)
{
    struct scene scene;

    begin(&scene);
    json_decref(qemu_run(&scene.qemu, "stop", NULL));
    reach(&scene, "renamed", true);
    kill_agent(&scene);
    cr_assert_str_eq(status(&scene), "paused");
    cr_assert_str_eq(drive(&scene), "disk0");
    cr_assert_eq(access(scene.image, F_OK), 0);
    qemu_end(&scene.qemu);
}

Test(guard, undoes_when_told, .timeout = 240)
{
    struct scene scene;

    begin(&scene);
    reach(&scene, "undo", false);
    assert_goes_on(&scene);
    kill_agent(&scene);
    qemu_end(&scene.qemu);
}

/* A disk that cannot be put back: continuing would lose the guest's writes. */
static void fail_to_undo(struct scene *scene, char away[200])
{
    char *log;

    begin(scene);
    reach(scene, "renamed", false);
    snprintf(away, 200, "%s.away", scene->renamed);
    cr_assert_eq(rename(scene->renamed, away), 0);
    kill_agent(scene);
    log = file_text(scene->log);
    cr_assert_str_eq(status(scene), "paused", "log:\n%s", log);
    cr_assert_not_null(strstr(log, "not continued"), "log:\n%s", log);
    free(log);
}

Test(guard, does_not_continue_on_a_null_disk_until_it_can, .timeout = 240)
{
    struct scene scene;
    char away[200];

    fail_to_undo(&scene, away);
    cr_assert_eq(rename(away, scene.renamed), 0);
    for (unsigned i = 0; i < 2000 && strcmp(status(&scene), "running") != 0; i++)
        usleep(100000);
    assert_goes_on(&scene);
    qemu_end(&scene.qemu);
}

/* What the guard cannot undo is the agent's that is back: two do not undo side by side. */
Test(guard, gives_way_to_an_agent_that_is_back, .timeout = 240)
{
    struct scene scene;
    char away[200];

    fail_to_undo(&scene, away);
    cr_assert_eq(gw_guard_take_over(scene.log, 60000), 0, "%s", gw_error_message());
    cr_assert_neq(access(scene.log, F_OK), 0);
    cr_assert_eq(rename(away, scene.renamed), 0);
    sleep(3);
    cr_assert_str_eq(status(&scene), "paused");
    cr_assert_eq(access(scene.renamed, F_OK), 0, "its name was given back all the same");
    qemu_end(&scene.qemu);
}

/* A supervisor's new QEMU on the same socket is another VM's life: names are put back, no more. */
Test(guard, leaves_another_qemu_alone, .timeout = 240)
{
    struct scene scene;
    const struct gw_guard_options options = {
        .program = GUARD_AGENT, .qmp_path = scene.qmp2, .vmm_pid = 1, .log_path = scene.log};
    struct gw_guard *guard;

    begin(&scene);
    json_decref(qemu_run(&scene.qemu, "stop", NULL));
    cr_assert_eq(gw_guard_start(&options, &guard), 0, "%s", gw_error_message());
    cr_assert_eq(gw_guard_stopped(guard), 0);
    cr_assert_eq(gw_guard_undo(guard), -EREMOTEIO);
    gw_guard_stop(guard);
    cr_assert_str_eq(status(&scene), "paused");
    qemu_end(&scene.qemu);
}

/* A host under load takes its time to start a process, while nobody stands still. */
Test(guard, slow_start_is_waited_for, .timeout = 240)
{
    struct scene scene;
    char program[160];
    const struct gw_guard_options options = {
        .program = program, .qmp_path = scene.qmp2, .log_path = scene.log, .timeout_ms = 2000};
    struct gw_guard *guard;
    FILE *script;

    begin(&scene);
    snprintf(program, sizeof(program), "%s/slow-guard", scene.qemu.dir);
    script = fopen(program, "w");
    cr_assert_not_null(script);
    fprintf(script, "#!/bin/sh\nsleep 3\nexec %s \"$@\"\n", GUARD_AGENT);
    cr_assert_eq(fchmod(fileno(script), 0700), 0);
    cr_assert_eq(fclose(script), 0);
    cr_assert_eq(gw_guard_start(&options, &guard), 0, "%s", gw_error_message());
    gw_guard_stop(guard);
    qemu_end(&scene.qemu);
}

/* One that says nothing is given up, by the agent that then undoes everything itself: the guard, whatever it
 * had heard, is ended before it could take that for the agent's death. */
Test(guard, silent_one_is_lost_and_does_nothing, .timeout = 240)
{
    struct scene scene;
    const struct gw_guard_options options = {
        .program = GUARD_AGENT, .qmp_path = scene.qmp2, .log_path = scene.log, .timeout_ms = 3000};
    struct gw_guard *guard;
    pid_t pid;
    char *log;

    begin(&scene);
    cr_assert_eq(gw_guard_start(&options, &guard), 0, "%s", gw_error_message());
    pid = gw_guard_pid(guard);
    cr_assert_eq(gw_guard_stopped(guard), 0, "%s", gw_error_message());
    json_decref(qemu_run(&scene.qemu, "stop", NULL));
    cr_assert_eq(kill(pid, SIGSTOP), 0);
    cr_assert_eq(gw_guard_committing(guard), -ETIMEDOUT);
    cr_assert_eq(gw_guard_resumed(guard), -EPIPE, "it is lost for good");
    gw_guard_stop(guard);
    cr_assert_eq(kill(pid, 0), -1, "it is ended");
    cr_assert_str_eq(status(&scene), "paused", "whoever gave it up continues the guest");
    log = file_text(scene.log);
    cr_assert_null(strstr(log, "the agent died"), "log:\n%s", log);
    free(log);
    cr_assert_eq(gw_guard_take_over(scene.log, 0), 0, "%s", gw_error_message());
    qemu_end(&scene.qemu);
}

Test(guard, refuses_messages_out_of_order, .timeout = 240)
{
    const struct gw_guard_options options = {
        .program = GUARD_AGENT, .qmp_path = "/nowhere", .log_path = "/tmp/godwit-guard-order.log"};
    struct gw_guard *guard;
    json_t *undo = json_pack("{s:{s:s, s:s}}", "rename", "from", "/a", "to", "/b");
    unsigned step;

    cr_assert_eq(gw_guard_start(&options, &guard), 0, "%s", gw_error_message());
    cr_assert_eq(gw_guard_committing(guard), -EREMOTEIO);
    cr_assert_eq(gw_guard_announce(guard, undo, &step), -EREMOTEIO);
    cr_assert_eq(gw_guard_stopped(guard), 0);
    cr_assert_eq(gw_guard_announce(guard, undo, &step), 0);
    cr_assert_eq(step, 0);
    cr_assert_eq(gw_guard_resumed(guard), 0);
    cr_assert_eq(gw_guard_take_over(options.log_path, 50), -ETIMEDOUT);
    cr_assert_eq(kill(gw_guard_pid(guard), SIGKILL), 0);
    cr_assert_eq(gw_guard_take_over(options.log_path, 60000), 0);
    cr_assert_eq(gw_guard_stopped(guard), -EPIPE);
    gw_guard_stop(guard);
    json_decref(undo);
    unlink(options.log_path);
}
