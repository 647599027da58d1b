/* SPDX-License-Identifier: Apache-2.0 */
/*
 * module: back ends that live in shared objects of their own, loaded when they are asked for, so
 * that a host without their libraries neither links nor pays for them.
 *
 * The build writes for each one a maker that calls gw_module_create. The shared object is
 * godwit-NAME.so, looked for in $GODWIT_MODULE_DIR (not in programs with more rights than their
 * caller), in the build tree when the program itself is there, and where it was installed. It
 * links none of godwit's libraries: what it calls of common/ it finds in the program, so that an
 * error's message is the thread's one message. Programs are therefore linked with --export-dynamic
 * (transport_dep says so). What both sides see of each other are the headers of common/ and of this
 * folder; the build makes a number of them, and a module of another number is refused.
 *
 * Errors: -ENODEV with the reason: not found, not loadable, of another version; or what the back
 *   end's own create answers.
 * Order: none. A module that was loaded stays.
 * Threads: any.
 * Units: none.
 */
#ifndef GODWIT_TRANSPORT_MODULE_H
#define GODWIT_TRANSPORT_MODULE_H

#include "transport/transport.h"

/* What a module exports under the name gw_module_NAME. */
struct gw_module {
    unsigned interface;  /* GW_MODULE_INTERFACE of module-interface.h, which the build makes */
    const char *version; /* GODWIT_VERSION; both keep their places for ever */
    const struct gw_transport_maker *maker;
};

/* Loads the module, if it is not yet, and makes its transport. */
int gw_module_create(const char *name, const struct gw_transport_options *options,
                     struct gw_transport **out);

#endif
