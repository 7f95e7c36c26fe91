/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v2 of containers: /clearpod/<id>, and below it exec-<n> for each exec. */
#ifndef CLEARPOD_CGROUP_H
#define CLEARPOD_CGROUP_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Enable every controller for the children of the root and of /clearpod, whose memory ends before that of a guest. */
int cgroup_boot(bool is_guest, struct fault *why);
/* Limit all containers together: a number of bytes, or "max", which is what the guest can spare. -1 and errno. */
int cgroup_limit_memory(const char *limit);
/* Kill all processes of a container (exec 0) or of an exec. Idempotent. */
void cgroup_kill(const char *container, uint32_t exec);
/* Send a signal to each process; -1 when there was none. */
int cgroup_signal(const char *container, uint32_t exec, int signal);
/* Wait until no process is left; false after `limit_ms`. */
bool cgroup_wait_empty(const char *container, int limit_ms);
bool cgroup_oom_killed(const char *container);
int cgroup_add_exec(const char *container, uint32_t exec);
void cgroup_remove_exec(const char *container, uint32_t exec);

#endif
