/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the launcher does as long as the pod lives: bytes between the VMM and our own standard streams, signals, and the
 * VMM's end. Nothing here blocks but poll: a reader that has stopped must not delay the handling of signals.
 */
#ifndef CLEARPOD_RELAY_H
#define CLEARPOD_RELAY_H

#include "spec.h"
#include "vmm.h"

/* Moves bytes until the VM is over; returns the pod's exit code, or AGAIN after a copy of a template that ended before it
 * had its pod. `stop` starts the program that ends the pod in spec, or with `forcibly` at once, and returns its pid. */
int relay(struct vmm vmm, const struct launch_spec *spec, pid_t (*stop)(bool forcibly));

#endif
