/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the launcher share: how the VMM is to be started, as stage1/entry/run.py has written it down. */
#ifndef CLEARPOD_LAUNCHER_H
#define CLEARPOD_LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FAILED = 254 };

/* How the launcher has to start the VMM, as a list of items, each a letter and a value: j is the jailer (images/jailer), which
 * starts the VMM from the launch description, written elsewhere; s the unix socket that the VMM is to listen on; i: the pod is
 * attached to our input; c is the file for the output of its kernel, l the directory with the links to logs (log.h). t: the VMM
 * reads input from a terminal only, and takes the byte 1 for itself unless it comes twice (kvmtool). */
struct launch_spec {
    const char *jailer, *listener, *console, *logs;
    bool interactive, terminal;
};

/* Takes `bytes` (ends with 0) apart in place. False: it is invalid. Pure. */
bool spec_parse(char *bytes, size_t size, struct launch_spec *spec);

/* A started VMM: its pid, and our ends of its standard input and output. */
struct vmm {
    pid_t pid;
    int in, out;
};

/* Moves bytes until the VM is over; returns the pod's exit code. `stop` starts the program that ends the pod in spec,
 * or with `forcibly` at once, and returns its pid. */
int relay(struct vmm vmm, const struct launch_spec *spec, pid_t (*stop)(bool forcibly));

/* Starts the VMM in its jail, as a child of ours that ends with us; `description` is the file with the launch description,
 * `name` the argument by which people find the jailer. `prepare` is called in each child. False: the error is reported. */
bool start_vmm(const struct launch_spec *spec, int description, const char *name, void (*prepare)(void),
               struct vmm *vmm);

/* One sentence on stderr. */
void report_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
