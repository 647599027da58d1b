/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK's environment: started once in a process, when the first device is asked for, and never
 * again, whatever becomes of it (rte_eal_init cannot be repeated). It pins its caller and starts
 * threads that would take the caller's signals: both are undone here.
 */
#include <errno.h>
#include <pthread.h>
#include <rte_bus_pci.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "transport/dpdk/dpdk.h"

#define ARGUMENTS_MAX 16

/* What became of rte_eal_init: it belongs to the process, as DPDK does. */
static struct {
    pthread_mutex_t lock;
    bool was_started;
    bool has_pci; /* devices on buses are seen */
    char pci[64]; /* the one that was allowed */
    struct gw_error failure;
    pthread_key_t thread_key;
} eal = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* A bus address, in place of the name of a virtual driver. */
static bool is_pci(const char *devargs)
{
    struct rte_pci_addr address;
    char name[64];

    snprintf(name, sizeof(name), "%.*s", (int)strcspn(devargs, ","), devargs);
    return rte_pci_addr_parse(strncmp(name, "pci:", 4) == 0 ? name + 4 : name, &address) == 0;
}

/* MiB of huge pages that nobody uses. */
static unsigned long free_huge_mib(void)
{
    static const char *const sizes[] = {"2048", "1048576"};
    unsigned long total = 0;

    for (size_t i = 0; i < GW_ARRAY_LENGTH(sizes); i++) {
        unsigned long count = 0;
        char path[128];
        FILE *file;

        snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%skB/free_hugepages",
                 sizes[i]);
        file = fopen(path, "re");
        if (!file)
            continue;
        if (fscanf(file, "%lu", &count) == 1)
            total += count * (strtoul(sizes[i], NULL, 10) / 1024);
        fclose(file);
    }
    return total;
}

/* ---- what DPDK says ---- */

static ssize_t log_line(void *unused, const char *text, size_t size)
{
    int length = (int)(size && text[size - 1] == '\n' ? size - 1 : size);

    if (length > 0)
        gw_log(GW_LOG_INFO, "dpdk: %.*s", length, text);
    return (ssize_t)size;
}

/* Its lines are for who asks for detail: what matters is in the errors of this back end. */
static void divert_log(void)
{
    cookie_io_functions_t functions = {.write = log_line};
    FILE *stream = fopencookie(NULL, "w", functions);

    if (!stream)
        return;
    setvbuf(stream, NULL, _IOLBF, 512);
    rte_openlog_stream(stream);
}

static void leave_thread(void *unused)
{
    rte_thread_unregister();
}

/* The words of rte_errno(3) for rte_eal_init. */
static int explain(const struct dpdk_settings *settings, bool is_huge, unsigned memory_mib)
{
    switch (rte_errno) {
    case EACCES:
    case EPERM:
        return gw_fail(-ENODEV,
                       "dpdk: this process may not use the device: run it as root, or give "
                       "it CAP_NET_RAW, CAP_IPC_LOCK and /dev/vfio");
    case ENOMEM:
        return gw_fail(-ENODEV, "dpdk: no %u MiB of %s for DPDK: %s", memory_mib,
                       is_huge ? "huge pages" : "memory",
                       is_huge ? "echo 512 > /proc/sys/vm/nr_hugepages, or a smaller [dpdk] memory"
                               : "a smaller [dpdk] memory");
    case ENODEV:
        return gw_fail(-ENODEV, "dpdk: there is no device '%.64s'", settings->devargs);
    default:
        return gw_fail(-ENODEV, "dpdk: DPDK does not start: %s", rte_strerror(rte_errno));
    }
}

static int run_init(const struct dpdk_settings *settings)
{
    unsigned memory_mib = settings->memory_mib ? settings->memory_mib : DPDK_MEMORY_MIB;
    bool is_huge = free_huge_mib() >= memory_mib, has_pci = is_pci(settings->devargs);
    char memory[16], cpus[32], name[64], *arguments[ARGUMENTS_MAX];
    int count = 0;

    snprintf(memory, sizeof(memory), "%u", memory_mib);
    snprintf(cpus, sizeof(cpus), "0@(0-%ld)", sysconf(_SC_NPROCESSORS_CONF) - 1);
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(settings->devargs, ","), settings->devargs);
    arguments[count++] = (char *)"godwit";
    arguments[count++] = (char *)"--lcores";
    arguments[count++] = cpus;
    arguments[count++] = (char *)"-m";
    arguments[count++] = memory;
    arguments[count++] = (char *)"--no-telemetry";
    if (is_huge) {
        arguments[count++] = (char *)"--in-memory";
    } else {
        arguments[count++] = (char *)"--no-huge";
        arguments[count++] = (char *)"--no-shconf";
    }
    if (has_pci) {
        arguments[count++] = (char *)"-a";
        arguments[count++] = (char *)settings->devargs;
    } else {
        arguments[count++] = (char *)"--no-pci";
    }
    arguments[count] = NULL;
    eal.has_pci = has_pci;
    snprintf(eal.pci, sizeof(eal.pci), "%s", has_pci ? name : "");
    if (has_pci && !is_huge)
        gw_log(GW_LOG_WARNING,
               "dpdk: no %u MiB of huge pages are free: without them a NIC needs an IOMMU "
               "(echo 512 > /proc/sys/vm/nr_hugepages)",
               memory_mib);
    divert_log();
    return rte_eal_init(count, arguments) < 0 ? explain(settings, is_huge, memory_mib) : 0;
}

/* With the caller's CPUs as they were, and threads that take no signal. */
static int start(const struct dpdk_settings *settings)
{
    sigset_t all, before;
    cpu_set_t cpus;
    bool has_cpus = pthread_getaffinity_np(pthread_self(), sizeof(cpus), &cpus) == 0;
    char name[16] = "";
    int error;

    pthread_getname_np(pthread_self(), name, sizeof(name));
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = run_init(settings);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (has_cpus)
        pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
    if (name[0])
        pthread_setname_np(pthread_self(), name);
    if (!error && pthread_key_create(&eal.thread_key, leave_thread) != 0)
        error = gw_fail(-ENOMEM, "dpdk: no key for threads");
    return error;
}

static int start_once(const struct dpdk_settings *settings)
{
    if (!eal.was_started) {
        int error = start(settings);

        eal.was_started = true;
        gw_error_take(error, &eal.failure);
    }
    if (eal.failure.code)
        return gw_error_raise(&eal.failure);
    return 0;
}

static int probe(const struct dpdk_settings *settings, const char *name, uint16_t *port)
{
    if (is_pci(settings->devargs) && (!eal.has_pci || strcmp(name, eal.pci) != 0))
        return gw_fail(-ENODEV,
                       "dpdk: DPDK was started without %s, and starts once in a process: start "
                       "the agent anew",
                       name);
    /* A device on a bus was probed by the start. */
    if (rte_eth_dev_get_port_by_name(name, port) != 0 &&
        (rte_dev_probe(settings->devargs) != 0 || rte_eth_dev_get_port_by_name(name, port) != 0))
        return gw_fail(-ENODEV, "dpdk: the device '%s' cannot be used: %s", settings->devargs,
                       rte_errno ? rte_strerror(rte_errno)
                                 : "is it bound to vfio-pci, and its driver installed?");
    return 0;
}

int gw_dpdk_device_open(const struct dpdk_settings *settings, uint16_t *port)
{
    char name[64];
    int error;

    snprintf(name, sizeof(name), "%.*s", (int)strcspn(settings->devargs, ","), settings->devargs);
    pthread_mutex_lock(&eal.lock);
    error = start_once(settings);
    rte_errno = 0;
    if (!error)
        error = probe(settings, name, port);
    pthread_mutex_unlock(&eal.lock);
    return error;
}

void gw_dpdk_device_close(uint16_t port)
{
    struct rte_eth_dev_info info;
    struct rte_device *device = rte_eth_dev_info_get(port, &info) == 0 ? info.device : NULL;

    pthread_mutex_lock(&eal.lock);
    rte_eth_dev_close(port);
    if (device && !eal.has_pci)
        rte_dev_remove(device);
    pthread_mutex_unlock(&eal.lock);
}

void gw_dpdk_thread_enter(void)
{
    if (rte_lcore_id() != LCORE_ID_ANY)
        return;
    /* More threads than DPDK has numbers for go without. */
    if (rte_thread_register() == 0)
        pthread_setspecific(eal.thread_key, &eal);
}
