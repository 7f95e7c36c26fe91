/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the launcher share: how the VMM is to be started, as stage1/entry/run.py has written it down. */
#ifndef CLEARPOD_LAUNCHER_H
#define CLEARPOD_LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FAILED = 254 };

/* Each word of the order is a letter and a value: j is the jailer (images/jailer), which starts the VMM from the launch
 * description, written elsewhere; s the unix socket that the VMM is to listen on; i says that the pod's input is ours, c is
 * the file with its kernel's words, l the directory by which logs are found (log.h). t: the VMM reads input from a terminal
 * only, and takes the byte 1 for itself unless it comes twice (kvmtool). */
struct order {
    const char *jailer, *listener, *console, *logs;
    bool interactive, terminal;
};

/* Takes `bytes` (ends with 0) apart in place. False: it makes no sense. Pure. */
bool order_parse(char *bytes, size_t size, struct order *order);

/* A started VMM: its pid, and our ends of its standard input and output. */
struct vmm {
    pid_t pid;
    int in, out;
};

/* Moves bytes until the VM is over; returns the pod's exit code. `stop` starts the program that ends the pod in order,
 * or with `forcibly` at once, and returns its pid. */
int attend(struct vmm vmm, const struct order *order, pid_t (*stop)(bool forcibly));

/* Starts the VMM in its jail, as a child of ours that ends with us; `description` is the file with the launch description,
 * `name` a word by which the jailer is found. `prepare` is called in each child. False: it has complained. */
bool start_vmm(const struct order *order, int description, const char *name, void (*prepare)(void), struct vmm *vmm);

/* One sentence on stderr. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
