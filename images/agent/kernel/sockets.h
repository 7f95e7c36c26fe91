/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TCP connections of a guest that has become a copy of another one: their peers talk to the original. The kernel has
 * no INET_DIAG_DESTROY; a descriptor that is got from a process can be disconnected as well as its owner could do it.
 */
#ifndef CLEARPOD_SOCKETS_H
#define CLEARPOD_SOCKETS_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether there are any in this kernel, of whichever network namespace: to look for them takes long. */
bool sockets_exist(void);
/* Reset what the process has connected, or is connecting, with an address that is not the loopback's: it sees ECONNRESET.
 * What listens stays. `unused` makes it one for cgroup_each. */
int sockets_reset(pid_t pid, int unused);

#endif
