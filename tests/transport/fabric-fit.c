/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps a provider away, each with a made-up fi_info that has just that fault; and the survey of a host
 * with a libfabric of the test's own, which answers what no device here does. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "transport/fabric/fabric.h"

/* One without a fault, as a fast provider may describe itself. */
static struct fi_info *made_up(const char *name, enum fi_ep_type type)
{
    struct fi_info *info = fi_allocinfo();

    cr_assert(info);
    info->ep_attr->type = type;
    info->ep_attr->max_msg_size = 1u << 30;
    info->tx_attr->size = info->rx_attr->size = 1024;
    info->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
    info->domain_attr->mr_key_size = 8;
    info->fabric_attr->prov_name = strdup(name);
    return info;
}

static void expect_fault(struct fi_info *info, const char *fault)
{
    char text[FABRIC_FAULT_MAX];
    const char *found = gw_fabric_find_fault(info, text);

    if (fault)
        cr_assert_str_eq(found, fault);
    else
        cr_assert_null(found, "%s", found);
    fi_freeinfo(info);
}

Test(fabric_fit, one_without_a_fault_fits)
{
    struct fi_info *info = made_up("efa", FI_EP_RDM), *least = fi_dupinfo(info);

    expect_fault(info, NULL);
    /* No more than is needed. */
    least->domain_attr->mr_mode = 0;
    least->domain_attr->mr_key_size = 4;
    least->ep_attr->max_msg_size = GW_WRITE_MAX;
    least->rx_attr->size = FABRIC_RECEIVE_DEPTH;
    least->tx_attr->size = FABRIC_DEPTH_LEAST;
    expect_fault(least, NULL);
}

Test(fabric_fit, keys_of_a_form_of_its_own)
{
    struct fi_info *info = made_up("gni", FI_EP_RDM);

    info->domain_attr->mr_mode |= FI_MR_RAW;
    info->domain_attr->mr_key_size = 24;
    expect_fault(info, "its memory keys have 24 bytes of a form of its own (FI_MR_RAW)");
}

Test(fabric_fit, memory_for_one_endpoint)
{
    struct fi_info *info = made_up("cxi", FI_EP_RDM);

    info->domain_attr->mr_mode = FI_MR_ENDPOINT | FI_MR_ALLOCATED;
    expect_fault(info, "it registers memory for one channel at a time (FI_MR_ENDPOINT)");
}

Test(fabric_fit, memory_in_an_unknown_way)
{
    struct fi_info *info = made_up("other", FI_EP_MSG);

    info->domain_attr->mr_mode |= FI_MR_COLLECTIVE;
    expect_fault(info, "it wants memory registered in a way that godwit does not know (0x874)");
}

Test(fabric_fit, keys_that_are_too_long)
{
    struct fi_info *info = made_up("other", FI_EP_MSG);

    info->domain_attr->mr_key_size = 9;
    expect_fault(info, "its memory keys have 9 bytes, at most 8 can be told");
}

Test(fabric_fit, writes_that_are_too_short)
{
    struct fi_info *info = made_up("other", FI_EP_MSG);

    info->ep_attr->max_msg_size = GW_WRITE_MAX - 1;
    expect_fault(info, "it writes at most 4194303 bytes at once, 4194304 are needed");
}

Test(fabric_fit, too_few_receives)
{
    struct fi_info *info = made_up("other", FI_EP_MSG);
    char text[FABRIC_FAULT_MAX];

    info->rx_attr->size = FABRIC_RECEIVE_DEPTH - 1;
    snprintf(text, sizeof(text),
             "its queues hold %u receives and 1024 requests, %u and %u are needed",
             FABRIC_RECEIVE_DEPTH - 1, FABRIC_RECEIVE_DEPTH, FABRIC_DEPTH_LEAST);
    expect_fault(info, text);
}

Test(fabric_fit, too_few_requests)
{
    struct fi_info *info = made_up("other", FI_EP_MSG);
    char text[FABRIC_FAULT_MAX];

    info->tx_attr->size = FABRIC_DEPTH_LEAST - 1;
    snprintf(text, sizeof(text),
             "its queues hold 1024 receives and %u requests, %u and %u are needed",
             FABRIC_DEPTH_LEAST - 1, FABRIC_RECEIVE_DEPTH, FABRIC_DEPTH_LEAST);
    expect_fault(info, text);
}

/* ---- a libfabric of our own ---- */

static struct fi_info *having[8]; /* what it has; each with the capabilities that it offers */
static unsigned having_count;
static int answer_of_its_own;
static unsigned fails_from; /* that question and later ones get answer_of_its_own; 0: each */
static atomic_bool is_held;
static atomic_uint question_count;

static void has(const char *name, enum fi_ep_type type, uint64_t caps)
{
    struct fi_info *info = made_up(name, type);

    info->caps = caps;
    having[having_count++] = info;
}

/* libfabric takes names in any case and order, and one for the layers over it. */
static bool is_meant(const char *asked, const char *name)
{
    char *copy = strdup(asked), *rest = copy, *part;
    bool is_all = true;

    while ((part = strsep(&rest, ";")))
        is_all = is_all && strcasestr(name, part);
    free(copy);
    return is_all;
}

/* As fi_getinfo: a list of what has all that is asked for. */
static int getinfo(uint32_t version, const char *node, const char *service, uint64_t flags,
                   const struct fi_info *hints, struct fi_info **out)
{
    struct fi_info *list = NULL;

    while (is_held)
        usleep(1000);
    if (atomic_fetch_add(&question_count, 1) + 1 >= fails_from && answer_of_its_own)
        return answer_of_its_own;
    for (unsigned i = 0; i < having_count; i++) {
        struct fi_info *copy;

        if ((having[i]->caps & hints->caps) != hints->caps ||
            (hints->ep_attr->type && hints->ep_attr->type != having[i]->ep_attr->type) ||
            (hints->fabric_attr->prov_name &&
             !is_meant(hints->fabric_attr->prov_name, having[i]->fabric_attr->prov_name)))
            continue;
        copy = fi_dupinfo(having[i]);
        copy->next = list;
        list = copy;
    }
    *out = list;
    return list ? 0 : -FI_ENODATA;
}

static const struct fabric_library library = {
    .getinfo = getinfo,
    .freeinfo = fi_freeinfo,
    .dupinfo = fi_dupinfo,
    .strerror = fi_strerror,
};

#define WRITES (FI_RMA | FI_WRITE | FI_REMOTE_WRITE | FI_LOCAL_COMM | FI_REMOTE_COMM)
#define ALL    (WRITES | FI_MSG | FI_SEND | FI_RECV)

static void free_all(void)
{
    for (unsigned i = 0; i < having_count; i++)
        fi_freeinfo(having[i]);
}

/* "name kind fault" of each, in one line. */
static void expect_survey(const char *wanted)
{
    struct fabric_candidates found;
    char text[512] = "";

    cr_assert_eq(gw_fabric_survey(&library, 60000, &found), 0, "%s", gw_error_message());
    for (unsigned i = 0; i < found.count; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s %s%s%.12s", i ? ", " : "",
                 found.list[i].name,
                 !found.list[i].writes    ? "none"
                 : found.list[i].connects ? "msg"
                                          : "rdm",
                 found.list[i].fault[0] ? " " : "", found.list[i].fault);
    cr_assert_str_eq(text, wanted);
    free_all();
}

Test(fabric_survey, every_provider_is_found_once_with_each_kind)
{
    has("verbs", FI_EP_MSG, ALL);
    has("verbs", FI_EP_MSG, ALL); /* its second device */
    has("verbs;ofi_rxm", FI_EP_RDM, ALL);
    has("efa", FI_EP_RDM, ALL);
    has("efa", FI_EP_DGRAM, FI_MSG);
    expect_survey("verbs msg, efa rdm, verbs;ofi_rxm rdm");
}

Test(fabric_survey, what_lacks_something_is_found_too)
{
    has("udp", FI_EP_DGRAM, FI_MSG | FI_SEND | FI_RECV);
    has("shm", FI_EP_RDM, ALL & ~FI_REMOTE_COMM);
    has("one_sided", FI_EP_MSG, WRITES);
    expect_survey("one_sided none, shm none, udp none");
}

Test(fabric_survey, faults_are_told)
{
    has("efa", FI_EP_RDM, ALL);
    has("cxi", FI_EP_RDM, ALL);
    having[1]->domain_attr->mr_mode |= FI_MR_ENDPOINT;
    expect_survey("cxi rdm it registers, efa rdm");
}

Test(fabric_survey, a_name_that_is_too_long_is_left_out)
{
    has("a_provider_whose_name_has_32_byte", FI_EP_RDM, ALL);
    has("a_provider_whose_name_is_shorter", FI_EP_MSG, ALL);
    has("efa", FI_EP_RDM, ALL);
    expect_survey("efa rdm");
}

Test(fabric_survey, a_host_with_nothing_is_no_error)
{
    expect_survey("");
}

Test(fabric_survey, a_libfabric_that_fails_is_told)
{
    struct fabric_candidates found;

    answer_of_its_own = -FI_ENOMEM;
    cr_assert_eq(gw_fabric_survey(&library, 60000, &found), -ENODEV);
    cr_assert(strstr(gw_error_message(), "libfabric cannot be asked what this host has: "), "%s",
              gw_error_message());
}

/* The last question is for the names of what does not fit. */
Test(fabric_survey, what_fits_is_found_though_the_rest_cannot_be_asked_for)
{
    has("udp", FI_EP_DGRAM, FI_MSG | FI_SEND | FI_RECV);
    has("efa", FI_EP_RDM, ALL);
    answer_of_its_own = -FI_ENOMEM;
    fails_from = 3;
    expect_survey("efa rdm");
    cr_assert_eq(question_count, 3);
}

static unsigned count_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    const struct dirent *entry;
    unsigned count = 0;

    cr_assert(tasks);
    while ((entry = readdir(tasks)))
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* What is left behind goes on when its device answers after all, with memory of its own, and ends. */
Test(fabric_survey, a_device_that_does_not_answer_holds_up_nobody)
{
    unsigned before = count_threads();
    struct fabric_candidates found;

    has("efa", FI_EP_RDM, ALL);
    is_held = true;
    cr_assert_eq(gw_fabric_survey(&library, 50, &found), -ENODEV);
    cr_assert(strstr(gw_error_message(), "did not say within"), "%s", gw_error_message());
    cr_assert(strstr(gw_error_message(), "FI_PROVIDER"), "%s", gw_error_message());
    cr_assert_eq(question_count, 0);
    cr_assert_eq(count_threads(), before + 1);
    is_held = false;
    for (unsigned i = 0; (question_count < 3 || count_threads() > before) && i < 90000; i++)
        usleep(1000);
    cr_assert_eq(question_count, 3);
    cr_assert_eq(count_threads(), before);
    free_all();
}

Test(fabric_survey, one_that_was_named_holds_up_nobody)
{
    unsigned before = count_threads();

    cr_assert_eq(gw_fabric_rouse(&library, "efa", 60000), 0, "%s", gw_error_message());
    cr_assert_eq(question_count, 1);
    is_held = true;
    cr_assert_eq(gw_fabric_rouse(&library, "efa", 50), -ENODEV);
    is_held = false;
    for (unsigned i = 0; (question_count < 2 || count_threads() > before) && i < 90000; i++)
        usleep(1000);
    cr_assert_eq(question_count, 2);
    cr_assert_eq(count_threads(), before);
}

/* What libfabric's destructor does while a thread has its lock. */
static void wait_for_ever(void)
{
    for (;;)
        pause();
}

static void leave_one_behind_and_exit(void)
{
    struct fabric_candidates found;

    alarm(90);
    atexit(wait_for_ever);
    is_held = true;
    exit(gw_fabric_survey(&library, 50, &found) == -ENODEV ? 7 : 1);
}

Test(fabric_survey, a_process_that_leaves_one_behind_ends)
{
    pid_t pid;
    int status;

    fflush(NULL);
    pid = fork();
    cr_assert(pid >= 0);
    if (pid == 0)
        leave_one_behind_and_exit();
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status), "signal %d", WTERMSIG(status));
    cr_assert_eq(WEXITSTATUS(status), 7);
}

/* ---- the provider that is used ---- */

static void unfit(void)
{
    having[having_count - 1]->domain_attr->mr_mode |= FI_MR_ENDPOINT;
}

static void expect_used(const struct fabric_transport *transport, const char *name, bool is_rdm)
{
    cr_assert_str_eq(transport->provider, name);
    cr_assert_eq(transport->is_rdm, is_rdm);
}

/* What gw_fabric_find hands out for an address. */
static void expect_found(const struct fabric_transport *transport, const char *name)
{
    struct gw_address address;
    struct fi_info *info = NULL;

    cr_assert_eq(gw_address_parse("127.0.0.1", 13560, &address), 0);
    cr_assert_eq(gw_fabric_find(transport, NULL, &address, &info), 0, "%s", gw_error_message());
    cr_assert_str_eq(info->fabric_attr->prov_name, name);
    cr_assert_eq(info->domain_attr->mr_mode & FI_MR_ENDPOINT, 0);
    cr_assert_null(info->next);
    fi_freeinfo(info);
}

/* The made-up libfabric answers the newest first: unfit ones and layers stand before the chosen one. */
Test(fabric_use, what_was_chosen_is_used, .fini = free_all)
{
    struct fabric_transport transport = {.library = library};

    has("opx", FI_EP_RDM, ALL);
    has("opx", FI_EP_RDM, ALL);
    unfit();
    has("opx;ofi_rxd", FI_EP_RDM, ALL);
    /* Of the other kind none fits. */
    has("opx;ofi_mrail", FI_EP_MSG, ALL);
    has("opx", FI_EP_MSG, ALL);
    unfit();
    cr_assert_eq(gw_fabric_find_provider(&transport, true), 0, "%s", gw_error_message());
    expect_used(&transport, "opx", true);
    expect_found(&transport, "opx");
}

Test(fabric_use, a_name_that_was_typed_in_another_way_is_libfabrics, .fini = free_all)
{
    struct fabric_transport transport = {.library = library}, other = {.library = library};

    has("tcp;ofi_rxm", FI_EP_RDM, ALL);
    cr_assert_eq(gw_fabric_use_provider(&transport, "ofi_rxm;tcp"), 0, "%s", gw_error_message());
    expect_used(&transport, "tcp;ofi_rxm", true);
    expect_found(&transport, "tcp;ofi_rxm");
    cr_assert_eq(gw_fabric_use_provider(&other, "TCP;ofi_rxm"), 0, "%s", gw_error_message());
    expect_used(&other, "tcp;ofi_rxm", true);
}

Test(fabric_use, a_typed_name_goes_before_layers_over_it, .fini = free_all)
{
    struct fabric_transport transport = {.library = library};

    has("verbs", FI_EP_MSG, ALL);
    has("verbs;ofi_hook", FI_EP_MSG, ALL);
    cr_assert_eq(gw_fabric_use_provider(&transport, "Verbs"), 0, "%s", gw_error_message());
    expect_used(&transport, "verbs", false);
    expect_found(&transport, "verbs");
}

Test(fabric_use, a_typed_one_whose_connecting_endpoints_are_unfit_uses_the_others, .fini = free_all)
{
    struct fabric_transport transport = {.library = library};

    has("cxi", FI_EP_MSG, ALL);
    unfit();
    has("cxi", FI_EP_RDM, ALL);
    cr_assert_eq(gw_fabric_use_provider(&transport, "cxi"), 0, "%s", gw_error_message());
    expect_used(&transport, "cxi", true);
}

Test(fabric_use, one_that_is_unfit_of_both_kinds_is_refused_with_the_fault, .fini = free_all)
{
    struct fabric_transport transport = {.library = library};

    has("cxi", FI_EP_MSG, ALL);
    unfit();
    cr_assert_eq(gw_fabric_use_provider(&transport, "cxi"), -ENODEV);
    cr_assert(strstr(gw_error_message(), "FI_MR_ENDPOINT"), "%s", gw_error_message());
    cr_assert_eq(gw_fabric_use_provider(&transport, "efa"), -ENODEV);
    cr_assert(strstr(gw_error_message(), "no provider 'efa' on this host"), "%s",
              gw_error_message());
}

/* Between two calls a device may go. */
Test(fabric_use, another_provider_for_an_address_is_not_taken, .fini = free_all)
{
    struct fabric_transport transport = {.library = library};
    struct gw_address address;
    struct fi_info *info = NULL;

    has("verbs", FI_EP_MSG, ALL);
    cr_assert_eq(gw_fabric_use_provider(&transport, "verbs"), 0);
    fi_freeinfo(having[0]);
    having_count = 0;
    has("verbs;ofi_hook", FI_EP_MSG, ALL);
    cr_assert_eq(gw_address_parse("127.0.0.1", 13560, &address), 0);
    cr_assert_eq(gw_fabric_find(&transport, NULL, &address, &info), -ENODEV);
    cr_assert_null(info);
}
