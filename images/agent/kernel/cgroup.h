/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v2 of containers: /clearpod/<id>, and below it exec-<n> for each exec. */
#ifndef CLEARPOD_CGROUP_H
#define CLEARPOD_CGROUP_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef int cgroup_each_process(pid_t pid, int number);

/* Enable every controller for the children of the root and of /clearpod, whose memory ends before that of a guest. */
int cgroup_boot(bool is_guest, struct fault *why);
/* Limit all containers together: a number of bytes, or "max": all but what the guest itself needs. -1 and errno. */
int cgroup_limit_memory(const char *limit);
/* Kill all processes of a container (exec 0) or of an exec. Idempotent. */
void cgroup_kill(const char *container, uint32_t exec);
/* Send a signal to each process; -1 when there was none. */
int cgroup_signal(const char *container, uint32_t exec, int signal);
/* Stop the processes of a container, or of all together (""), or let them go on, and wait until that is so: what sleeps
 * in the kernel and can't be woken up may be late. -1 and errno. */
int cgroup_freeze(const char *container, bool stands);
/* Call `each` for every process of a container, or of all together (""); how often it returned 0. */
int cgroup_each(const char *container, uint32_t exec, cgroup_each_process *each, int number);
/* Wait until no process is left; false after `limit_ms`. */
bool cgroup_wait_empty(const char *container, int limit_ms);
bool cgroup_oom_killed(const char *container);
int cgroup_add_exec(const char *container, uint32_t exec);
void cgroup_remove_exec(const char *container, uint32_t exec);

#endif
