/* SPDX-License-Identifier: Apache-2.0 */
/* See run.h. */
#include "helpers/run.h"

#include "base/files.h"
#include "base/profile.h"
#include "helpers/apparmor.h"
#include "helpers/connect.h"
#include "helpers/crun.h"
#include "helpers/rootfs.h"
#include "helpers/stats.h"
#include "helpers/volumes.h"
#include "kernel/cgroup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KILL_LIMIT_MS = 10000 };

/* Another app may get this one's name and place, and the kernel trusts what it knows of files there. */
static void forget_files(void)
{
    sync();
    file_write("/proc/sys/vm/drop_caches", "3");
}

static int remove_container(const struct task *task, struct fault *why)
{
    if (task->was_started) {
        cgroup_kill(task->id, 0);
        if (!cgroup_wait_empty(task->id, KILL_LIMIT_MS))
            return fault_set(why, FAULT_FAILED, "processes of container %s do not die", task->id);
        if (profile.remove(task, why) < 0)
            return -1;
        cgroup_remove_exec(task->id, 0); /* the container's own, which crun forgets if it was killed early */
    }
    if (rootfs_destroy(task->id, why) < 0)
        return -1;
    if (task->arguments->plan)
        forget_files();
    return 0;
}

/* Processors from number 1 on are online below `count`, the others not; number 0 always is. */
static int set_cpus(int count, char *path, size_t capacity)
{
    int number = 0;
    do
        snprintf(path, capacity, "/sys/devices/system/cpu/cpu%d/online", ++number);
    while (file_write(path, number < count ? "1" : "0") == 0);
    return errno == ENOENT ? 0 : -1;
}

/* What the whole pod has: a file of the cgroup of all containers together, or how many processors are online. */
static int tune(const struct task *task, struct fault *why)
{
    char path[256] = "the memory.max of all containers";
    int result;
    if (!strcmp(task->file, "memory.max")) {
        result = cgroup_limit_memory(task->lower);
    } else if (!strcmp(task->file, "cpus")) {
        result = set_cpus(atoi(task->lower), path, sizeof path);
    } else {
        profile.cgroup_path(path, sizeof path, "");
        snprintf(path + strlen(path), sizeof path - strlen(path), "/%s", task->file);
        result = file_write(path, task->lower);
        if (result < 0 && errno == EAGAIN) /* memory.reclaim has found less than was asked for */
            result = 0;
    }
    return result < 0 ? fault_errno(why, "write '%s' to %s", task->lower, path) : 0;
}

int task_run(const struct task *task, struct outcome *outcome, struct fault *why)
{
    switch (task->kind) {
    case TASK_CREATE:
        return task->apparmor && apparmor_load(task->id, why) < 0 ? -1 : rootfs_create(task, why);
    case TASK_START:
        return profile.start(task, outcome, why);
    case TASK_EXEC:
        return profile.exec(task, outcome, why);
    case TASK_UPDATE:
        return *task->file ? crun_update(task, why) : volumes_run("refresh", task->id, why);
    case TASK_DELETE:
        return remove_container(task, why);
    case TASK_STATS:
        stats_collect(task);
        return 0;
    case TASK_CONNECT:
        return connect_port(task, outcome, why);
    case TASK_TUNE:
        return tune(task, why);
    }
    return fault_set(why, FAULT_INVALID, "unknown work");
}
