/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies a disk image with libgodwit:
 *   copy-image SOURCE TARGET                 on this host
 *   copy-image SOURCE TARGET HOST KEYFILE    to a host where a godwit agent listens
 */
#include <godwit/copy.h>

#include <stdio.h>
#include <stdlib.h>

static int show(const struct gw_copy_status *status, void *context)
{
    fprintf(stderr, "%llu of %llu bytes\n", (unsigned long long)status->bytes_done,
            (unsigned long long)status->bytes_total);
    return 0; /* anything else would cancel the copy */
}

int main(int argc, char **argv)
{
    struct gw_copy_options options = {.progress = show};

    if (argc != 3 && argc != 5) {
        fprintf(stderr, "usage: copy-image SOURCE TARGET [HOST KEYFILE]\n");
        return EXIT_FAILURE;
    }
    options.source = argv[1];
    options.target = argv[2];
    if (argc == 5) {
        options.host = argv[3];
        options.psk = argv[4];
    }
    if (gw_copy(&options) != 0) {
        fprintf(stderr, "copy-image: %s\n", gw_error_message());
        return EXIT_FAILURE;
    }
    printf("%s: copied\n", argv[1]);
    return EXIT_SUCCESS;
}
