/* SPDX-License-Identifier: Apache-2.0 */
/* Looks into the folders of agents that do not run, with their lock, as an agent that starts would. It settles nothing. */
#include "agent/left.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/paths.h"
#include "agent/snapshot.h"
#include "agent/state.h"
#include "common/error.h"
#include "engine/session/attended.h"
#include "engine/session/partial.h"

static bool is_private(const char *folder)
{
    const char *name = strrchr(folder, '/');

    return name && strncmp(name + 1, GW_PRIVATE_PREFIX, strlen(GW_PRIVATE_PREFIX)) == 0;
}

int gw_left_each(int (*each)(const char *folder, void *context), void *context)
{
    char home[PATH_MAX], folder[PATH_MAX];
    const struct dirent *entry;
    int answer = gw_path_state_home(home, sizeof(home));
    DIR *list;

    if (answer)
        return answer;
    answer = each(home, context);
    list = answer ? NULL : opendir(home);
    while (list && !answer && (entry = readdir(list)) != NULL)
        if (strncmp(entry->d_name, GW_PRIVATE_PREFIX, strlen(GW_PRIVATE_PREFIX)) == 0 &&
            gw_path_join(home, entry->d_name, folder, sizeof(folder)) == 0)
            answer = each(folder, context);
    if (list)
        closedir(list);
    return answer;
}

/* Without the patience of an agent that starts. */
static bool has_agent(const char *folder)
{
    char path[PATH_MAX];
    int fd = gw_path_join(folder, "lock", path, sizeof(path)) ? -1 : open(path, O_RDWR | O_CLOEXEC);
    bool has = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0;

    if (fd >= 0)
        close(fd);
    return has;
}

/* -ENOENT: no agent was there; -EBUSY: one is. */
static int open_left(const char *folder, struct gw_state *out)
{
    char path[PATH_MAX];
    int error = gw_path_join(folder, "journal.db", path, sizeof(path));

    if (!error && access(path, F_OK))
        error = -ENOENT;
    if (!error && has_agent(folder))
        error = -EBUSY;
    return error ? error : gw_state_open(folder, true, out);
}

json_t *gw_left_describe(const char *folder)
{
    struct gw_environment environment = {.state_dir = folder};
    json_t *partials, *in_doubt, *answer = NULL;
    struct gw_state state;

    if (open_left(folder, &state))
        return NULL;
    if (gw_attended_new(&environment.attended) == 0) {
        partials = gw_partials_describe(&environment);
        in_doubt = gw_state_describe(&state, environment.attended, true);
        if (json_array_size(partials) + json_array_size(in_doubt) > 0)
            answer = json_pack("{s:{s:o,s:b,s:b},s:[],s:O,s:O}", "agent", "state",
                               gw_json_text(folder), "private", (int)is_private(folder), "left", 1,
                               "jobs", "partials", partials, "in_doubt", in_doubt);
        json_decref(partials);
        json_decref(in_doubt);
    }
    gw_attended_free(environment.attended);
    gw_state_close(&state);
    return answer;
}

static int stop_at_first(const struct gw_partial *partial, void *context)
{
    return 1;
}

/* Something that an agent which starts there would see to. */
static bool is_unfinished(const char *folder)
{
    struct gw_environment environment = {.state_dir = folder};
    struct gw_state state;
    bool is;

    if (open_left(folder, &state))
        return false;
    is = gw_state_undecided(&state) > 0 || gw_partial_each(&environment, stop_at_first, NULL) != 0;
    gw_state_close(&state);
    return is;
}

struct found {
    char *folder;
    size_t size;
    struct timespec changed;
};

static int look_at(const char *folder, void *context)
{
    struct found *found = context;
    struct stat status;
    char path[PATH_MAX];

    if (!is_private(folder) || gw_path_join(folder, "journal.db", path, sizeof(path)) ||
        stat(path, &status) || !is_unfinished(folder))
        return 0;
    if (found->changed.tv_sec > status.st_mtim.tv_sec ||
        (found->changed.tv_sec == status.st_mtim.tv_sec &&
         found->changed.tv_nsec >= status.st_mtim.tv_nsec))
        return 0;
    found->changed = status.st_mtim;
    snprintf(found->folder, found->size, "%s", folder);
    return 0;
}

int gw_left_find_private(char *folder, size_t size)
{
    struct found found = {.folder = folder, .size = size};
    int error = gw_left_each(look_at, &found);

    return error ? error : found.changed.tv_sec ? 0 : -ENOENT;
}
