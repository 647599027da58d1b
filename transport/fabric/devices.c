/* SPDX-License-Identifier: Apache-2.0 */
/* Looks whether this host has a device of a fabric that verbs does not serve. It opens none. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "transport/fabric/choice.h"

static bool has_entry(const char *folder, bool (*fits)(const char *folder, const char *name))
{
    DIR *list = opendir(folder);
    bool answer = false;

    if (!list)
        return false;
    for (struct dirent *entry; !answer && (entry = readdir(list));)
        answer = entry->d_name[0] != '.' && fits(folder, entry->d_name);
    closedir(list);
    return answer;
}

static bool is_any(const char *folder, const char *name)
{
    (void)folder;
    (void)name;
    return true;
}

/* EFA and Omni-Path stand among the devices of InfiniBand; their drivers tell. */
static bool is_other_fabric(const char *folder, const char *name)
{
    char path[PATH_MAX], target[PATH_MAX];
    const char *driver;
    ssize_t length;

    snprintf(path, sizeof(path), "%.512s/%.255s/device/driver", folder, name);
    length = readlink(path, target, sizeof(target) - 1);
    if (length < 0)
        return false;
    target[length] = 0;
    driver = strrchr(target, '/');
    driver = driver ? driver + 1 : target;
    return strcmp(driver, "efa") == 0 || strcmp(driver, "hfi1") == 0;
}

bool gw_fabric_has_device(const char *sys_class)
{
    char slingshot[PATH_MAX], infiniband[PATH_MAX];

    snprintf(slingshot, sizeof(slingshot), "%.512s/cxi", sys_class);
    snprintf(infiniband, sizeof(infiniband), "%.512s/infiniband", sys_class);
    return has_entry(slingshot, is_any) || has_entry(infiniband, is_other_fabric);
}
