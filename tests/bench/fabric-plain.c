/* SPDX-License-Identifier: Apache-2.0 */
/* Pushes bytes through a provider of libfabric with nothing of godwit's in between, to measure godwit's
 * transport against: one connected endpoint, writes of one size into a window of the receiver, so many
 * at a time, and a message at the end that the receiver answers once it has it. One process is one side:
 *   fabric-plain listen|send ADDRESS PORT PROVIDER SIZE DEPTH SECONDS
 * The receiver's window is as large as transport-blast's. Both poll. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_rma.h>

#include "tests/bench/plain.h"

#define DEPTH_MAX 1024u

/* What the receiver tells of its window, with its acceptance. */
struct window {
    uint64_t address, key;
};

struct end {
    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_eq *eq;
    struct fid_cq *cq;
    struct fid_ep *ep;
    struct fid_mr *mr;
    char *memory;
    struct fi_context2 contexts[DEPTH_MAX], receive, send;
    char last[256]; /* the last event: the peer's shutdown */
};

static void must(const char *what, ssize_t answer)
{
    if (answer < 0)
        plain_fail("fabric-plain", what, fi_strerror((int)-answer));
}

static struct fi_info *look_up(const char *address, const char *port, const char *provider,
                               uint64_t flags)
{
    struct fi_info *hints = fi_allocinfo(), *info;

    hints->caps = FI_MSG | FI_RMA;
    hints->mode = FI_CONTEXT | FI_CONTEXT2;
    hints->ep_attr->type = FI_EP_MSG;
    hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
    hints->fabric_attr->prov_name = strdup(provider);
    must("fi_getinfo", fi_getinfo(FI_VERSION(1, 17), address, port, flags, hints, &info));
    fi_freeinfo(hints);
    return info;
}

static void open_end(struct end *end, struct fi_info *info)
{
    struct fi_cq_attr completions = {.size = DEPTH_MAX + 16, .format = FI_CQ_FORMAT_MSG};

    must("fi_domain", fi_domain(end->fabric, info, &end->domain, NULL));
    must("fi_cq_open", fi_cq_open(end->domain, &completions, &end->cq, NULL));
    end->memory = new_window(WINDOW + 4096);
    must("mmap", end->memory ? 0 : -FI_ENOMEM);
    must("fi_mr_reg",
         fi_mr_reg(end->domain, end->memory, WINDOW + 4096,
                   FI_SEND | FI_RECV | FI_WRITE | FI_REMOTE_WRITE, 0, 1, 0, &end->mr, NULL));
    must("fi_endpoint", fi_endpoint(end->domain, info, &end->ep, NULL));
    must("fi_ep_bind", fi_ep_bind(end->ep, &end->eq->fid, 0));
    must("fi_ep_bind", fi_ep_bind(end->ep, &end->cq->fid, FI_TRANSMIT | FI_RECV));
    must("fi_enable", fi_enable(end->ep));
    must("fi_recv", fi_recv(end->ep, end->memory + WINDOW, 64, fi_mr_desc(end->mr), FI_ADDR_UNSPEC,
                            &end->receive));
}

static struct fi_info *next_event(struct end *end, uint32_t wanted, struct window *window)
{
    _Alignas(struct fi_eq_cm_entry) char room[sizeof(struct fi_eq_cm_entry) + 256] = {0};
    struct fi_eq_cm_entry *entry = (struct fi_eq_cm_entry *)room;
    uint32_t event;
    ssize_t got = fi_eq_sread(end->eq, &event, entry, sizeof(room), 20000, 0);

    must("fi_eq_sread", got);
    if (event != wanted)
        must("connecting", -FI_ECONNREFUSED);
    if (window)
        memcpy(window, entry->data, sizeof(*window));
    return entry->info;
}

static void open_queue(struct end *end)
{
    struct fi_eq_attr events = {.wait_obj = FI_WAIT_FD};

    must("fi_fabric", fi_fabric(end->info->fabric_attr, &end->fabric, NULL));
    must("fi_eq_open", fi_eq_open(end->fabric, &events, &end->eq, NULL));
}

/* How many requests were completed; receives count into *received. */
static unsigned reap(struct end *end, unsigned *received)
{
    struct fi_cq_msg_entry entries[32];
    ssize_t count = fi_cq_read(end->cq, entries, 32);
    unsigned sent = 0;

    if (count == -FI_EAGAIN)
        return 0;
    must("fi_cq_read", count);
    for (ssize_t i = 0; i < count; i++) {
        if (entries[i].flags & FI_RECV)
            ++*received;
        else
            sent++;
    }
    return sent;
}

static void post_message(struct end *end)
{
    ssize_t answer;

    do {
        unsigned received = 0;

        answer = fi_send(end->ep, end->memory + WINDOW + 64, 8, fi_mr_desc(end->mr), FI_ADDR_UNSPEC,
                         &end->send);
        if (answer == -FI_EAGAIN)
            reap(end, &received);
    } while (answer == -FI_EAGAIN);
    must("fi_send", answer);
}

static void run_receiver(struct end *end)
{
    struct fid_pep *pep;
    struct fi_info *info;
    struct window window;
    unsigned received = 0, sent = 0;

    open_queue(end);
    must("fi_passive_ep", fi_passive_ep(end->fabric, end->info, &pep, NULL));
    must("fi_pep_bind", fi_pep_bind(pep, &end->eq->fid, 0));
    must("fi_listen", fi_listen(pep));
    info = next_event(end, FI_CONNREQ, NULL);
    open_end(end, info);
    window.address = info->domain_attr->mr_mode & FI_MR_VIRT_ADDR ? (uintptr_t)end->memory : 0;
    window.key = fi_mr_key(end->mr);
    must("fi_accept", fi_accept(end->ep, &window, sizeof(window)));
    next_event(end, FI_CONNECTED, NULL);
    while (!received)
        sent += reap(end, &received);
    post_message(end);
    while (!sent)
        sent += reap(end, &received);
    /* So that the answer is out before the endpoint ends. */
    fi_eq_sread(end->eq, &sent, end->last, sizeof(end->last), 5000, 0);
}

static void run_sender(struct end *end, uint32_t size, unsigned depth, double seconds)
{
    struct window window;
    unsigned in_flight = 0, received = 0, sent = 0, next = 0;
    uint64_t at = 0, bytes = 0;
    double start, end_s, cpu;

    open_queue(end);
    open_end(end, end->info);
    must("fi_connect", fi_connect(end->ep, end->info->dest_addr, NULL, 0));
    next_event(end, FI_CONNECTED, &window);
    start = seconds_now();
    cpu = cpu_seconds();
    for (end_s = start + seconds; seconds_now() < end_s;) {
        while (in_flight < depth) {
            ssize_t answer =
                fi_write(end->ep, end->memory + at, size, fi_mr_desc(end->mr), FI_ADDR_UNSPEC,
                         window.address + at, window.key, &end->contexts[next]);

            if (answer == -FI_EAGAIN)
                break;
            must("fi_write", answer);
            next = (next + 1) % DEPTH_MAX;
            at = at + 2 * size <= WINDOW ? at + size : 0;
            bytes += size;
            in_flight++;
        }
        in_flight -= reap(end, &received);
    }
    post_message(end);
    while (!received || sent < in_flight + 1)
        sent += reap(end, &received);
    report("send", bytes, seconds_now() - start, cpu_seconds() - cpu);
}

int main(int argc, char **argv)
{
    static struct end end;
    unsigned depth = argc == 8 ? (unsigned)strtoul(argv[6], NULL, 10) : 0;
    uint32_t size = argc == 8 ? (uint32_t)strtoul(argv[5], NULL, 10) : 0;

    if (argc != 8 || depth == 0 || depth > DEPTH_MAX || size == 0 || size > WINDOW) {
        fprintf(stderr,
                "usage: fabric-plain listen|send ADDRESS PORT PROVIDER SIZE DEPTH SECONDS\n");
        return 2;
    }
    end.info = look_up(argv[2], argv[3], argv[4], strcmp(argv[1], "listen") == 0 ? FI_SOURCE : 0);
    if (strcmp(argv[1], "listen") == 0)
        run_receiver(&end);
    else
        run_sender(&end, size, depth, strtod(argv[7], NULL));
    fi_shutdown(end.ep, 0);
    return 0;
}
