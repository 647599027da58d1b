/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real QEMU processes for tests: each in a private folder, which is removed with it. Everything
 * asserts (Criterion): a test that cannot start its QEMU has failed, unless there is no QEMU at all,
 * then it is skipped.
 */
#ifndef GODWIT_TESTS_ENGINE_QEMU_SUPPORT_H
#define GODWIT_TESTS_ENGINE_QEMU_SUPPORT_H

#include <jansson.h>
#include <sys/types.h>

#include "engine/vmm/qemu/qmp.h"

struct qemu {
    pid_t pid;
    char dir[64];
    char qmp_path[96];
    struct gw_qmp *qmp;
};

/* A new private folder; remove it with folder_remove. */
void folder_make(char *path, size_t size);
void folder_remove(const char *path);

/* Makes the private folder only, so that files can be put there first. */
void qemu_prepare(struct qemu *qemu);
/* Starts qemu-system-x86_64 with the words of line, "@" in it standing for the private folder, a
 * QMP socket @/qmp, tcg and no display; waits for QMP and connects. */
void qemu_start(struct qemu *qemu, const char *line);
/* Starts only, adds nothing to the line and does not wait. */
void qemu_spawn(struct qemu *qemu, const char *line);
void qemu_connect(struct qemu *qemu);
/* Closes the connection, and waits until QEMU has closed its end. */
void qemu_leave(struct qemu *qemu);
void qemu_end(struct qemu *qemu);

/* Runs one command; the answer's return value or a failed assertion. */
json_t *qemu_run(struct qemu *qemu, const char *command, json_t *arguments);
/* Runs a shell command with "@" replaced; returns its exit status. */
int shell(const char *dir, const char *command);
/* The whole of a file, terminated; freed by the caller. */
char *file_text(const char *path);

#endif
