/* SPDX-License-Identifier: Apache-2.0 */
/* See task.h: which steps make up a piece of work. */
#include "task.h"

#include "cgroup.h"

enum { KILL_LIMIT_MS = 10000 };

static int delete(const struct task *task, struct fault *why)
{
    if (task->was_started) {
        cgroup_kill(task->id, 0);
        if (!cgroup_wait_empty(task->id, KILL_LIMIT_MS))
            return fault_set(why, FAULT_FAILED, "processes of container %s do not die", task->id);
        if (crun_delete(task, why) < 0)
            return -1;
        cgroup_remove_exec(task->id, 0); /* the container's own, which crun forgets if it was killed early */
    }
    return rootfs_destroy(task->id, why);
}

int task_run(const struct task *task, struct outcome *outcome, struct fault *why)
{
    switch (task->kind) {
    case TASK_CREATE:
        return rootfs_create(task, why);
    case TASK_START:
        return crun_start(task, outcome, why);
    case TASK_EXEC:
        return crun_exec(task, outcome, why);
    case TASK_UPDATE:
        return crun_update(task, why);
    case TASK_DELETE:
        return delete(task, why);
    case TASK_STATS:
        return stats_collect(task, why);
    case TASK_CONNECT:
        return connect_port(task, outcome, why);
    case TASK_TUNE:
        return tune_write(task, why);
    }
    return fault_set(why, FAULT_INVALID, "unknown work");
}
