/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations in which the two programs differ that are linked from the agent's objects: `agent`, PID 1 of its guest
 * (plain.c), and `agent-systemd`, beside systemd (systemd/profile.c). Each program has one such table, which never changes.
 */
#ifndef CLEARPOD_PROFILE_H
#define CLEARPOD_PROFILE_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>

struct task;
struct outcome;

struct profile {
    /* From the program's first instruction up to where the loop can serve. */
    int (*begin)(const char *const *argv, struct fault *why);
    /* Before the VM ends: let the journal take what is still to be written, `all` of it if the apps have ended. NULL: there
     * is none. */
    void (*flush_journal)(bool all);
    /* In each iteration of the loop, after the helpers' results: detect ends of containers that are not our children. NULL: all
     * are. */
    void (*sync_ends)(void);
    bool (*oom_killed)(const char *container);
    /* Where the cgroup of a container is; "" for all containers together. */
    void (*cgroup_path)(char *to, size_t capacity, const char *container);
    /* The steps of a helper that run, enter and remove a container. */
    int (*start)(const struct task *task, struct outcome *outcome, struct fault *why);
    int (*exec)(const struct task *task, struct outcome *outcome, struct fault *why);
    int (*remove)(const struct task *task, struct fault *why);
};

extern const struct profile profile;

#endif
