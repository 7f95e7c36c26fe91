/* SPDX-License-Identifier: Apache-2.0 */
/* What the whole pod has (cgroup.h): files of the cgroup of all containers together, which are limits and memory that the
 * host wants back; and how many processors are online. */
#include "agent.h"
#include "cgroup.h"
#include "files.h"
#include "jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cgroup_tune(const char *file, const char *text, uint32_t request, struct fault *why)
{
    struct task task = {.kind = TASK_TUNE, .file = file, .lower = text, .words = &agent.words, .stdio = {-1, -1, -1}};
    struct job job = {.kind = TASK_TUNE, .request = request, .epoch = agent.link.epoch};
    if ((strncmp(file, "memory.", 7) && strncmp(file, "cpu", 3)) || !is_file_name(file) || !*text)
        return fault_set(why, FAULT_INVALID, "'%s' can't be set for the whole pod", file);
    return job_begin(&job, &task, why);
}

int tune_write(const struct task *task, struct fault *why)
{
    char path[256];
    int fine = EAGAIN; /* memory.reclaim has found less than was asked for. */
    int put;
    if (!strcmp(task->file, "cpus")) {
        int wanted = atoi(task->lower), number = 0; /* The first is always online. */
        do
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", ++number);
        while ((put = file_write(path, number < wanted ? "1" : "0")) == 0);
        fine = ENOENT;
    } else {
        cgroup_path(path, sizeof path, "");
        snprintf(path + strlen(path), sizeof path - strlen(path), "/%s", task->file);
        put = file_write(path, task->lower);
    }
    return put < 0 && errno != fine ? fault_errno(why, "write '%s' to %s", task->lower, path) : 0;
}
