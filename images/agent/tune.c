/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the cgroup of all containers together: limits of the pod, and memory that the host wants back (cgroup.h). */
#include "agent.h"
#include "cgroup.h"
#include "files.h"
#include "jobs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int cgroup_tune(const char *file, const char *text, uint32_t request, struct fault *why)
{
    struct task task = {.kind = TASK_TUNE, .file = file, .lower = text, .words = &agent.words, .stdio = {-1, -1, -1}};
    struct job job = {.kind = TASK_TUNE, .request = request, .epoch = agent.link.epoch};
    if ((strncmp(file, "memory.", 7) && strncmp(file, "cpu.", 4)) || !is_file_name(file) || !*text)
        return fault_set(why, FAULT_INVALID, "'%s' can't be set for the whole pod", file);
    return job_begin(&job, &task, why);
}

int tune_write(const struct task *task, struct fault *why)
{
    char path[256];
    cgroup_path(path, sizeof path, "");
    snprintf(path + strlen(path), sizeof path - strlen(path), "/%s", task->file);
    /* EAGAIN: memory.reclaim has found less than was asked for. */
    return file_write(path, task->lower) < 0 && errno != EAGAIN ? fault_errno(why, "write '%s' to %s", task->lower, path) : 0;
}
