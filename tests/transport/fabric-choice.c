/* SPDX-License-Identifier: Apache-2.0 */
/* Which provider of libfabric is chosen where nobody named one: by name and by what was found out, and on
 * which hosts libfabric is asked at all. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "transport/fabric/choice.h"

enum { MSG = 1, RDM = 0 };

static struct fabric_candidates hosts;

static void has(const char *name, bool connects, const char *fault)
{
    struct fabric_candidate one = {.connects = connects, .writes = true};

    snprintf(one.name, sizeof(one.name), "%s", name);
    snprintf(one.fault, sizeof(one.fault), "%s", fault);
    gw_fabric_candidates_add(&hosts, &one);
}

static void has_without_writes(const char *name)
{
    struct fabric_candidate one = {.connects = false};

    snprintf(one.name, sizeof(one.name), "%s", name);
    gw_fabric_candidates_add(&hosts, &one);
}

/* What a plain host of Debian 12 answers. */
static void has_sockets(void)
{
    has("tcp", MSG, "");
    has("sockets", MSG, "");
    has("net", MSG, "");
    has("tcp;ofi_rxm", RDM, "");
    has("net;ofi_rxm", RDM, "");
    has("udp;ofi_rxd", RDM, "");
    has("sockets", RDM, "");
    has_without_writes("shm");
    has_without_writes("udp");
}

static void expect(const char *name, bool connects)
{
    const struct fabric_candidate *chosen;

    cr_assert_eq(gw_fabric_choose(&hosts, true, &chosen), 0, "%s", gw_error_message());
    cr_assert_str_eq(chosen->name, name);
    cr_assert_eq(chosen->connects, connects);
}

static void expect_none(bool takes_verbs, const char *text)
{
    const struct fabric_candidate *chosen = NULL;

    cr_assert_eq(gw_fabric_choose(&hosts, takes_verbs, &chosen), -ENODEV);
    cr_assert_null(chosen);
    cr_assert(strstr(gw_error_message(), text), "%s", gw_error_message());
}

Test(fabric_choice, fast_ones_are_preferred_in_order)
{
    static const char *const order[] = {"cxi", "efa", "opx", "psm2", "verbs"};

    /* The worst first, in a host that has everything else as well. */
    has_sockets();
    for (unsigned i = 5; i-- > 0;) {
        has(order[i], strcmp(order[i], "verbs") == 0, "");
        expect(order[i], strcmp(order[i], "verbs") == 0);
    }
}

Test(fabric_choice, sockets_alone_are_refused_with_the_reason)
{
    has_sockets();
    expect_none(true, "(tcp, sockets, net, tcp;ofi_rxm, net;ofi_rxm, udp;ofi_rxd, udp: over the "
                      "kernel's sockets; shm: on this host only)");
    expect_none(true, "--provider tcp");
    expect_none(true, "--transport verbs");
}

Test(fabric_choice, a_host_without_providers_is_told_so)
{
    expect_none(true, "libfabric has none");
}

Test(fabric_choice, endpoints_that_do_not_connect_are_taken)
{
    has_sockets();
    has("efa", RDM, "");
    expect("efa", RDM);
}

Test(fabric_choice, of_one_name_endpoints_that_connect_go_first)
{
    has("verbs", RDM, "");
    has("verbs", MSG, "");
    expect("verbs", MSG);
}

Test(fabric_choice, what_is_unfit_is_passed_over_for_the_next)
{
    has("cxi", RDM, "it registers memory for one channel at a time (FI_MR_ENDPOINT)");
    has("efa", RDM, "");
    expect("efa", RDM);
}

Test(fabric_choice, one_unfit_device_does_not_keep_the_others_away)
{
    has("opx", RDM, "it writes at most 8192 bytes at once");
    has("opx", RDM, "");
    expect("opx", RDM);
}

Test(fabric_choice, the_reason_of_an_unfit_one_comes_first)
{
    has_sockets();
    has("cxi", RDM, "it registers memory for one channel at a time (FI_MR_ENDPOINT)");
    expect_none(true, "fits (cxi: it registers memory for one channel at a time "
                      "(FI_MR_ENDPOINT); tcp, ");
}

Test(fabric_choice, layers_over_fast_ones_are_other_names)
{
    has("verbs;ofi_rxm", RDM, "");
    has("efa;ofi_coll", RDM, "");
    has("ofi_hook_hmem;cxi", RDM, "");
    has("off_coll;opx", RDM, "");
    has("shm+cxi:lnx", RDM, "");
    has("ofi_mrail", RDM, "");
    expect_none(true, "(verbs;ofi_rxm, efa;ofi_coll, ofi_hook_hmem;cxi, off_coll;opx, "
                      "shm+cxi:lnx, ofi_mrail: a layer over another one)");
}

Test(fabric_choice, names_that_begin_as_a_fast_one_are_not_it)
{
    has("verbsx", MSG, "");
    has("ef", RDM, "");
    has("EFA", RDM, "");
    expect_none(true, "(verbsx, ef, EFA: not known to be fast)");
}

Test(fabric_choice, what_may_go_over_sockets_unseen_is_not_taken)
{
    has("psm3", RDM, "");
    has("ucx", RDM, "");
    expect_none(true, "(psm3, ucx: over the kernel's sockets or verbs)");
}

Test(fabric_choice, what_writes_into_no_memory_is_not_taken)
{
    has_without_writes("efa");
    expect_none(true, "efa: writes into no memory of a peer");
}

Test(fabric_choice, verbs_is_left_to_the_transport_of_that_name)
{
    has("verbs", MSG, "");
    expect_none(false, "verbs: the transport verbs does the same");
    expect("verbs", MSG);
}

Test(fabric_choice, more_than_there_is_room_for_is_left_out)
{
    char name[FABRIC_PROVIDER_MAX];

    for (unsigned i = 0; i < 2 * FABRIC_CANDIDATES_MAX; i++) {
        snprintf(name, sizeof(name), "a_provider_with_a_long_name_%u", i % 100);
        has(name, RDM, "");
        has(name, RDM, ""); /* known by now */
    }
    cr_assert_eq(hosts.count, FABRIC_CANDIDATES_MAX);
    expect_none(true, "a_provider_with_a_long_name_1, ");
    /* The way out is not cut. */
    expect_none(true, "--transport verbs");
}

/* ---- devices ---- */

static char root[] = "/tmp/godwit-fabric-choice-XXXXXX";

static void make(const char *format, const char *name, const char *driver)
{
    char path[256], folder[256];

    snprintf(path, sizeof(path), format, root, name);
    snprintf(folder, sizeof(folder), "%s", path);
    for (char *at = folder + sizeof(root); (at = strchr(at, '/')); *at++ = '/') {
        *at = 0;
        cr_assert(mkdir(folder, 0700) == 0 || errno == EEXIST, "%s", folder);
    }
    if (driver)
        cr_assert_eq(symlink(driver, path), 0);
}

static void open_root(void)
{
    cr_assert(mkdtemp(root));
}

static void remove_root(void)
{
    char command[256];

    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

Test(fabric_devices, a_host_without_any_has_none, .init = open_root, .fini = remove_root)
{
    cr_assert_not(gw_fabric_has_device(root));
    make("%s/infiniband/%s", "", NULL);
    make("%s/cxi/%s", "", NULL);
    cr_assert_not(gw_fabric_has_device(root));
    cr_assert_not(gw_fabric_has_device("/nowhere"));
}

Test(fabric_devices, what_verbs_serves_is_none, .init = open_root, .fini = remove_root)
{
    make("%s/infiniband/%s/device/driver", "mlx5_0", "../../bus/pci/drivers/mlx5_core");
    make("%s/infiniband/%s/device/driver", "irdma0", "../../bus/pci/drivers/ice");
    make("%s/infiniband/%s/", "rxe0", NULL); /* of no bus */
    cr_assert_not(gw_fabric_has_device(root));
}

Test(fabric_devices, efa_is_one, .init = open_root, .fini = remove_root)
{
    make("%s/infiniband/%s/device/driver", "mlx5_0", "../../bus/pci/drivers/mlx5_core");
    make("%s/infiniband/%s/device/driver", "rdmap0s6", "../../bus/pci/drivers/efa");
    cr_assert(gw_fabric_has_device(root));
}

Test(fabric_devices, omni_path_is_one, .init = open_root, .fini = remove_root)
{
    make("%s/infiniband/%s/device/driver", "hfi1_0", "../../bus/pci/drivers/hfi1");
    cr_assert(gw_fabric_has_device(root));
}

Test(fabric_devices, slingshot_is_one, .init = open_root, .fini = remove_root)
{
    make("%s/cxi/%s/", "cxi0", NULL);
    cr_assert(gw_fabric_has_device(root));
}
