/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The namespaces that the containers of the pod share. Without a user namespace that is a pid namespace, all else is
 * the guest's own. With one, network, IPC and UTS belong to it too, and the agent goes into these: so what it configures,
 * counts and connects to is the pod's.
 */
#ifndef CLEARPOD_NAMESPACES_H
#define CLEARPOD_NAMESPACES_H

#include "link/message.h"

/* Called once, before the rest of Configure. */
int namespaces_make(const clearpod_agent_Configure *settings, struct fault *why);
/* The body of their first process; never returns. */
void pause_forever(void) __attribute__((noreturn));
/* The guest's user and group id that is root in the containers; 0: there is no user namespace. */
uint32_t pod_root(void);
/* Mount at `to`, an empty directory, the directory `from` with its owners moved into the pod's user namespace. */
int mount_mapped(int from, const char *to, struct fault *why);

#endif
