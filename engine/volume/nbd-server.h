/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's tools as children: qemu-img for one task, qemu-nbd to serve an image in a format that
 * godwit does not read or write itself. Private to engine/volume.
 *
 * Errors: -errno with a message; what the tool said last is part of it. -ENOENT when the tool is
 *   not installed.
 * Threads: one at a time per child; the thread that starts a child must outlive it (the kernel
 *   ends the child with that thread, so that no agent that dies leaves one behind).
 */
#ifndef GODWIT_ENGINE_VOLUME_NBD_SERVER_H
#define GODWIT_ENGINE_VOLUME_NBD_SERVER_H

#include <sys/types.h>

#include "engine/volume/nbd-client.h"

/* Runs a tool to its end; status is its exit code. What gw_nbd_wait_on says, and it is killed. */
int gw_tool_run(const char *const *words, struct gw_nbd_wait *wait, int *status);

struct gw_tool {
    pid_t pid;  /* -1 when it has ended and was reaped */
    int pid_fd; /* -1: no child at all */
    int log_fd; /* what it wrote */
};

struct gw_nbd_server {
    struct gw_nbd_client *client;
    struct gw_tool tool;
};

struct gw_nbd_server_options {
    const char *name, *path, *format;
    bool is_read_only;
    bool
        is_shared; /* with is_read_only: somebody else writes the image meanwhile, whose lock is passed over */
};

/* Starts qemu-nbd for one image and connects. It ends by itself with its last connection. */
int gw_nbd_server_start(const struct gw_nbd_server_options *options, struct gw_nbd_server *out);
/* Disconnects and waits until it has closed the image properly; -EIO when it says otherwise; what gw_nbd_wait_on says,
 * and it is killed. wait->what is set here. */
int gw_nbd_server_finish(struct gw_nbd_server *server, struct gw_nbd_wait *wait);
/* Ends it in whatever state. Takes a finished one too. */
void gw_nbd_server_kill(struct gw_nbd_server *server);

#endif
