/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what rails.h answers on this host, for test_rails.py:
 *   rails-probe local PRIMARY            one address a line
 *   rails-probe pair LOCAL PEER ADDRESS...   LOCAL PEER a line; the first two are the control
 * session's
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "transport/link/rails.h"

static struct gw_address parse(const char *text)
{
    struct gw_address address;

    if (gw_address_parse(text, 0, &address)) {
        fprintf(stderr, "%s\n", gw_error_message());
        exit(2);
    }
    return address;
}

static void show(const struct gw_address *address, char end)
{
    char text[GW_ADDRESS_TEXT_MAX];

    printf("%s%c", gw_address_format(address, text, sizeof(text)), end);
}

static int print_local(const char *primary_text)
{
    struct gw_address primary = parse(primary_text), out[GW_RAILS_MAX];
    int count = gw_rails_local(&primary, out, GW_RAILS_MAX);

    for (int i = 0; i < count; i++)
        show(&out[i], '\n');
    return count < 0;
}

static int print_pairs(int argc, char **argv)
{
    struct gw_rail control = {parse(argv[0]), parse(argv[1])}, out[GW_RAILS_MAX];
    struct gw_address peers[GW_RAILS_MAX];
    unsigned peer_count = 0;
    int count;

    for (int i = 2; i < argc && peer_count < GW_RAILS_MAX; i++)
        peers[peer_count++] = parse(argv[i]);
    count = gw_rails_pair(&control, peers, peer_count, out, GW_RAILS_MAX);
    for (int i = 0; i < count; i++) {
        show(&out[i].local, ' ');
        show(&out[i].peer, '\n');
    }
    return count < 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "local") == 0)
        return print_local(argv[2]);
    if (argc >= 4 && strcmp(argv[1], "pair") == 0)
        return print_pairs(argc - 2, argv + 2);
    return 2;
}
