/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent as a process of the host, for a pod that asks for the host's namespaces (docs/admin/kubernetes.md). In a mount and
 * a cgroup namespace of its own it sees the paths of a guest, so that the rest of the agent need not know. What it makes
 * ends with these namespaces; its cgroup is removed by who started it.
 */
#ifndef CLEARPOD_HOST_H
#define CLEARPOD_HOST_H

#include "base/arguments.h"
#include "base/fault.h"

/* Instead of a boot: listen for the daemon, join the cgroup, make namespaces and the guest's paths. */
int host_enter(struct arguments *arguments, struct fault *why);
/* Kill the pod's containers, if it got that far, then end with `code`. Nothing else of the host is touched. */
void host_end(int code) __attribute__((noreturn));

#endif
