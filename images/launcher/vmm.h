/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The start of the VMM, which the jailer (images/jailer) makes our child: its standard streams, the socket at which it is
 * reached, and the jailer's answer.
 */
#ifndef CLEARPOD_VMM_H
#define CLEARPOD_VMM_H

#include "spec.h"

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* A started VMM: its pid, and our ends of its standard input and output, and of the monitor of a copy or of a kernel of the image; else that is -1. */
struct vmm {
    pid_t pid;
    int in, out, monitor;
    time_t give_up_s; /* on a copy that does not start */
};

/* Starts the VMM in its jail, as a child of ours that ends with us; `description` is the file with the launch description,
 * `name` the argument by which people find the jailer. `prepare` is called in each child. False: the error is reported. */
bool start_vmm(const struct launch_spec *spec, int description, const char *name, void (*prepare)(void),
               struct vmm *vmm);

/* Whether a copy can't be loaded: its monitor reports an error, or nothing in time. One that refused a command
 * would never start. */
bool copy_failed(const struct vmm *vmm, bool monitor_speaks);

#endif
