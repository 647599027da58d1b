/* SPDX-License-Identifier: Apache-2.0 */
/* See support.h. */
#include "tests/engine/qemu/support.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/descriptors.h"
#include "common/error.h"

#define WORDS_MAX 96

void folder_make(char *path, size_t size)
{
    snprintf(path, size, "/tmp/godwit-qemu-XXXXXX");
    cr_assert_not_null(mkdtemp(path), "mkdtemp %s: %s", path, strerror(errno));
}

void folder_remove(const char *path)
{
    char command[160];

    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    cr_expect_eq(system(command), 0);
}

/* text with every "@" replaced by dir. */
static char *expand(const char *dir, const char *text)
{
    size_t room = strlen(text) + 1, at = 0;
    char *out;

    for (const char *c = text; *c; c++)
        room += *c == '@' ? strlen(dir) : 0;
    out = calloc(1, room);
    cr_assert_not_null(out);
    for (const char *c = text; *c; c++) {
        if (*c == '@') {
            memcpy(out + at, dir, strlen(dir));
            at += strlen(dir);
        } else {
            out[at++] = *c;
        }
    }
    return out;
}

int shell(const char *dir, const char *command)
{
    char *text = expand(dir, command);
    int status = system(text);

    free(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void qemu_prepare(struct qemu *qemu)
{
    if (access("/usr/bin/qemu-system-x86_64", X_OK) < 0)
        cr_skip_test("qemu-system-x86_64 is not installed");
    *qemu = (struct qemu){.pid = -1};
    folder_make(qemu->dir, sizeof(qemu->dir));
    snprintf(qemu->qmp_path, sizeof(qemu->qmp_path), "%s/qmp", qemu->dir);
}

void qemu_spawn(struct qemu *qemu, const char *line)
{
    char *text, *save = NULL, *words[WORDS_MAX + 1];
    size_t count = 0;

    if (!qemu->dir[0])
        qemu_prepare(qemu);
    text = expand(qemu->dir, line);
    /* Line by line, so that a test can read what QEMU printed while it runs. */
    words[count++] = (char *)"stdbuf";
    words[count++] = (char *)"-oL";
    words[count++] = (char *)"qemu-system-x86_64";
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        cr_assert_lt(count, WORDS_MAX);
        words[count++] = word;
    }
    words[count] = NULL;
    qemu->pid = fork();
    cr_assert_geq(qemu->pid, 0);
    if (qemu->pid == 0) {
        char *log = expand(qemu->dir, "@/log");
        int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fd, 1);
        dup2(fd, 2);
        unsetenv("LD_PRELOAD");
        execvp(words[0], words);
        _exit(127);
    }
    free(text);
}

void qemu_connect(struct qemu *qemu)
{
    for (int i = 0; i < 4500; i++) {
        int status;
        int ret = gw_qmp_open(qemu->qmp_path, &qemu->qmp);

        if (ret == 0)
            return;
        if (waitpid(qemu->pid, &status, WNOHANG) == qemu->pid) {
            char path[96];

            snprintf(path, sizeof(path), "%s/log", qemu->dir);
            qemu->pid = -1;
            cr_assert_fail("QEMU ended: %s", file_text(path));
        }
        cr_assert(ret == -ENOENT || ret == -ECONNREFUSED, "%s", gw_error_message());
        usleep(20000);
    }
    cr_assert_fail("QEMU did not open %s", qemu->qmp_path);
}

void qemu_leave(struct qemu *qemu)
{
    unsigned before = count_descriptors(qemu->pid);

    cr_assert_gt(before, 0);
    gw_qmp_close(qemu->qmp);
    qemu->qmp = NULL;
    for (int i = 0; i < 9000 && count_descriptors(qemu->pid) >= before; i++)
        usleep(10000);
    cr_assert_lt(count_descriptors(qemu->pid), before, "QEMU keeps the connection");
}

void qemu_start(struct qemu *qemu, const char *line)
{
    char whole[4096];

    cr_assert_lt(snprintf(whole, sizeof(whole),
                          "-accel tcg -display none -qmp unix:@/qmp,server=on,wait=off %s", line),
                 (int)sizeof(whole));
    qemu_spawn(qemu, whole);
    qemu_connect(qemu);
}

void qemu_end(struct qemu *qemu)
{
    gw_qmp_close(qemu->qmp);
    if (qemu->pid > 0) {
        kill(qemu->pid, SIGKILL);
        waitpid(qemu->pid, NULL, 0);
    }
    if (qemu->dir[0])
        folder_remove(qemu->dir);
    *qemu = (struct qemu){.pid = -1};
}

json_t *qemu_run(struct qemu *qemu, const char *command, json_t *arguments)
{
    json_t *result = NULL;

    cr_assert_eq(gw_qmp_execute(qemu->qmp, command, arguments, &result), 0, "%s",
                 gw_error_message());
    return result;
}

char *file_text(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = calloc(1, 16 << 20);

    cr_assert_not_null(text);
    if (file) {
        text[fread(text, 1, (16 << 20) - 1, file)] = '\0';
        fclose(file);
    }
    return text;
}
