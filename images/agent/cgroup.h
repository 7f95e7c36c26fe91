/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v2 of containers: /clearpod/<id>, and below it exec-<n> for each exec. */
#ifndef CLEARPOD_CGROUP_H
#define CLEARPOD_CGROUP_H

#include "fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Enable every controller for the children of the root and of /clearpod. */
int cgroup_boot(struct fault *why);
/* Kill all processes of a container (exec 0) or of an exec. Absent is fine. */
void cgroup_kill(const char *container, uint32_t exec);
/* Send a signal to each process; -1 when there was none. */
int cgroup_signal(const char *container, uint32_t exec, int signal);
/* Wait until no process is left; false after `limit_ms`. */
bool cgroup_wait_empty(const char *container, int limit_ms);
bool cgroup_oom_killed(const char *container);
int cgroup_add_exec(const char *container, uint32_t exec);
void cgroup_remove_exec(const char *container, uint32_t exec);
/* place.c: where the cgroup of a container is; "" for all containers together. */
void cgroup_path(char *to, size_t room, const char *container);
/* Write `text` to a file of the cgroup of all containers together, or let so many processors be online if the file is
 * "cpus", in a helper that will answer `request`. */
int cgroup_tune(const char *file, const char *text, uint32_t request, struct fault *why);
/* The number behind `key` in a file of "key number" lines; 0 when absent. Pure. */
unsigned long keyed_number(const char *text, const char *key);

#endif
