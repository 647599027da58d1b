/* SPDX-License-Identifier: Apache-2.0 */
/* Loads libfabric when somebody wants it, and says what its errors mean. */
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/fabric/fabric.h"

void gw_fabric_keep_handlers(struct sigaction out[NSIG])
{
    for (int number = 1; number < NSIG; number++)
        sigaction(number, NULL, &out[number]);
}

void gw_fabric_restore_handlers(const struct sigaction handlers[NSIG])
{
    struct sigaction now;

    for (int number = 1; number < NSIG; number++)
        if (sigaction(number, NULL, &now) == 0 && now.sa_handler != handlers[number].sa_handler)
            sigaction(number, &handlers[number], NULL);
}

static int find_functions(struct fabric_library *library)
{
    const struct {
        const char *name;
        void *at;
    } functions[] = {
        {"fi_getinfo", &library->getinfo},   {"fi_freeinfo", &library->freeinfo},
        {"fi_dupinfo", &library->dupinfo},   {"fi_fabric", &library->fabric},
        {"fi_strerror", &library->strerror},
    };

    for (size_t i = 0; i < GW_ARRAY_LENGTH(functions); i++) {
        void *found = dlsym(library->handle, functions[i].name);

        if (!found)
            return gw_fail(-ENODEV, "fabric: libfabric.so.1 has no %s", functions[i].name);
        memcpy(functions[i].at, &found, sizeof(found));
    }
    return 0;
}

int gw_fabric_library_load(struct fabric_library *out)
{
    /* Its cache of registrations (fi_mr(3)) keeps what was ended registered, and open for all kinds of
     * access: a key would go on being good. Only the environment turns it off. */
    setenv("FI_MR_CACHE_MAX_COUNT", "0", true);
    /* ofi_rxm sets 80 MiB aside for the messages of an endpoint, of which it carries none here. Both sides
     * must have the same buffers. */
    setenv("FI_OFI_RXM_BUFFER_SIZE", "1024", false);
    setenv("FI_OFI_RXM_MSG_RX_SIZE", "128", false);
    /* It stays: threads of its own outlive what was made of it. */
    out->handle = dlopen("libfabric.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!out->handle)
        return gw_fail(-ENODEV,
                       "fabric: libfabric cannot be loaded (%s): apt-get install libfabric1",
                       dlerror());
    return find_functions(out);
}

int gw_fabric_errno(ssize_t answer)
{
    /* Numbers below FI_ERRNO_OFFSET are errno's own. */
    if (answer <= -FI_ERRNO_OFFSET)
        return -EIO;
    return answer < 0 ? (int)answer : -EIO;
}

int gw_fabric_fail(const struct fabric_transport *transport, ssize_t answer, const char *format,
                   ...)
{
    char what[200];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    return gw_fail(gw_fabric_errno(answer), "fabric %s: %s: %s", transport->provider, what,
                   transport->library.strerror((int)-answer));
}
