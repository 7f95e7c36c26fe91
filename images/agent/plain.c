/* SPDX-License-Identifier: Apache-2.0 */
/* The ordinary profile (base/profile.h): the agent is PID 1 of its guest or, as any other process, serves a pod on a host. */
#include "base/profile.h"
#include "boot/boot.h"
#include "boot/host.h"
#include "helpers/crun.h"
#include "kernel/cgroup.h"
#include "loop/autonomous.h"
#include "loop/loop.h"

#include <stdio.h>
#include <unistd.h>

static int boot(struct fault *why)
{
    if (boot_early(&agent.arguments, why) < 0 || boot_mounts(&agent.arguments, why) < 0)
        return -1;
    return agent.arguments.plan ? autonomous_begin(why) : 0;
}

/* Only PID 1 may do what PID 1 does: everybody else is on a host. */
/* Cold: placed next to main, on pages that are touched once. */
static int begin(const char *const *argv, struct fault *why) __attribute__((cold));
static int begin(const char *const *argv, struct fault *why)
{
    char bad[64];
    if (getpid() == 1)
        return boot(why);
    if (host_arguments_parse(argv, &agent.arguments.host, bad))
        return host_enter(&agent.arguments, why);
    agent.arguments.host.on = true;
    return fault_set(why, FAULT_INVALID, "not PID 1, and the argument '%s' is invalid or missing", bad);
}

static void cgroup_path(char *to, size_t capacity, const char *container)
{
    snprintf(to, capacity, "/sys/fs/cgroup/clearpod%s%s", *container ? "/" : "", container);
}

const struct profile profile = {
    .begin = begin,
    .oom_killed = cgroup_oom_killed,
    .cgroup_path = cgroup_path,
    .start = crun_start,
    .exec = crun_exec,
    .remove = crun_delete,
};
