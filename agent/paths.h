/* SPDX-License-Identifier: Apache-2.0 */
/*
 * paths: where agents keep their sockets and their state, and in which network they live.
 *
 * Errors: -errno with a message that names the path; -ENAMETOOLONG.
 * Threads: any.
 * Units: bytes. The places (docs/configuration.md): admin socket $GODWIT_SOCKET, else
 *   /run/godwit/agent.sock for root and $XDG_RUNTIME_DIR/godwit/agent.sock for others. State home
 *   $GODWIT_STATE_HOME, else /var/lib/godwit for root and $XDG_STATE_HOME/godwit or
 *   ~/.local/state/godwit for others.
 */
#ifndef GODWIT_AGENT_PATHS_H
#define GODWIT_AGENT_PATHS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define GW_SOCKET_NAME    "agent.sock"
#define GW_PRIVATE_PREFIX "private-"

/* Agents of several network namespaces may share one file system: the second one takes a socket
 * that has its namespace's number in its name. which is 0 for the usual name, 1 for that one. */
int gw_path_socket(unsigned which, char *out, size_t size);
int gw_path_state_home(char *out, size_t size);
/* folder/name. */
int gw_path_join(const char *folder, const char *name, char *out, size_t size);
/* Makes the path absolute from the working folder; it need not exist, no link is followed. */
int gw_path_absolute(const char *path, char *out, size_t size);
/* Creates the folder, and those above it, with mode 0700 where they are missing. */
int gw_path_make_folder(const char *path);

/* The identity of a process's network namespace; 0 when it cannot be read. */
ino_t gw_network_namespace(pid_t pid);

#endif
