/* SPDX-License-Identifier: Apache-2.0 */
/* Finds, loads and checks the shared objects of back ends. */
#include "transport/module.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/memory.h"
#include "transport/module-interface.h"
#include "transport/region-table.h"

/* What modules call of common/. A linker takes from a static library only what somebody names;
 * naming it here keeps it in every program that can load a module. */
extern void (*const gw_module_services[])(void);
void (*const gw_module_services[])(void) = {
    (void (*)(void))gw_fail,
    (void (*)(void))gw_fail_errno,
    (void (*)(void))gw_error_message,
    (void (*)(void))gw_error_take,
    (void (*)(void))gw_error_raise,
    (void (*)(void))gw_log,
    (void (*)(void))gw_clock_ns,
    (void (*)(void))gw_clock_left_ms,
    (void (*)(void))gw_address_format,
    (void (*)(void))gw_address_parse,
    (void (*)(void))gw_address_port,
    (void (*)(void))gw_network_parse,
    (void (*)(void))gw_region_table_init,
    (void (*)(void))gw_region_table_destroy,
    (void (*)(void))gw_region_table_new,
    (void (*)(void))gw_region_table_free,
    (void (*)(void))gw_region_table_hold,
    (void (*)(void))gw_region_table_hold_again,
    (void (*)(void))gw_region_table_release,
    (void (*)(void))gw_region_table_grip,
    (void (*)(void))gw_region_table_let_go,
    (void (*)(void))gw_address_is_any,
    (void (*)(void))gw_address_set_port,
    (void (*)(void))gw_memory_new,
    (void (*)(void))gw_memory_free,
    (void (*)(void))gw_transport_option,
    (void (*)(void))gw_transport_check_options,
    (void (*)(void))gw_transport_needs_nothing,
};

/* True when this program runs from the tree that it was built in. */
static bool is_in_build_tree(void)
{
    static const char root[] = GW_MODULE_BUILD_ROOT "/";
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self));

    return length > (ssize_t)(sizeof(root) - 1) && memcmp(self, root, sizeof(root) - 1) == 0;
}

static void find(const char *name, char *path, size_t size)
{
    const char *asked = secure_getenv("GODWIT_MODULE_DIR");

    if (asked && asked[0])
        snprintf(path, size, "%s/godwit-%s.so", asked, name);
    else if (is_in_build_tree())
        snprintf(path, size, "%s/transport/%s/godwit-%s.so", GW_MODULE_BUILD_ROOT, name, name);
    else
        snprintf(path, size, "%s/godwit-%s.so", GW_MODULE_INSTALL_DIR, name);
}

static int check(const struct gw_module *module, const char *path)
{
    if (!module)
        return gw_fail(-ENODEV, "%s is no module of godwit", path);
    if (module->interface != GW_MODULE_INTERFACE || strcmp(module->version, GODWIT_VERSION) != 0)
        return gw_fail(-ENODEV,
                       "%s is of godwit %.32s (interface %x), this program is %s (interface %x): "
                       "install both from one build",
                       path, module->version, module->interface, GODWIT_VERSION,
                       GW_MODULE_INTERFACE);
    return 0;
}

int gw_module_create(const char *name, const struct gw_transport_options *options,
                     struct gw_transport **out)
{
    const struct gw_module *module;
    char path[PATH_MAX], symbol[64];
    void *handle;
    int error;

    find(name, path, sizeof(path));
    /* A module stays loaded: threads of its libraries may outlive a transport. */
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle)
        return gw_fail(-ENODEV, "transport %s cannot be loaded: %s", name, dlerror());
    snprintf(symbol, sizeof(symbol), "gw_module_%s", name);
    module = dlsym(handle, symbol);
    error = check(module, path);
    if (!error)
        error = module->maker->create(options, out);
    dlclose(handle);
    return error;
}
