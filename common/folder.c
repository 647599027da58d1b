/* SPDX-License-Identifier: Apache-2.0 */
/* Makes names durable (fsync(2): a file's own sync does not write the entry in its folder). */
#include "common/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "common/error.h"

int gw_folder_sync_of(const char *path)
{
    char copy[PATH_MAX];
    int fd, error = 0;

    if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
        return gw_fail(-ENAMETOOLONG, "%.64s...: the name is too long", path);
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        error = gw_fail_errno(-errno, "%s: cannot sync its folder", path);
    if (fd >= 0)
        close(fd);
    return error;
}
