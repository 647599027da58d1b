/* SPDX-License-Identifier: Apache-2.0 */
/* A link that is lost and grows again, for ThreadSanitizer: control sessions pass from the thread
 * that let them in to the thread that waits for them, while channels die on workers. */
#include <stdio.h>
#include <unistd.h>

#include "tests/agent/hosts.h"

#define LOSSES 3

int main(void)
{
    struct hosts hosts;
    int result;

    hosts_open(&hosts, 8 << 20);
    gw_faulty_delay(hosts.loop, 30);
    hosts_start_copy(&hosts);
    hosts_wait_half_way(&hosts);
    for (unsigned i = 0; i < LOSSES; i++) {
        gw_faulty_drop_all(hosts.loop);
        usleep(300000);
    }
    gw_faulty_delay(hosts.loop, 0);
    result = hosts_end_copy(&hosts);
    if (result)
        fprintf(stderr, "the copy: %s\n", hosts.error.text);
    else if (!hosts_are_same(&hosts))
        result = 1;
    hosts_close(&hosts);
    return result != 0;
}
