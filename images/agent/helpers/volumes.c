/* SPDX-License-Identifier: Apache-2.0 */
/* See volumes.h. */
#include "helpers/volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define PROGRAM "/usr/lib/clearpod/volumes"

int volumes_run(const char *verb, const struct task *task, struct fault *why)
{
    const char *const args[] = {"volumes", verb, task->id, NULL};
    char text[400];
    int pair[2], status = 0;
    size_t used = 0;
    if (pipe2(pair, O_CLOEXEC) < 0)
        return fault_errno(why, "pipe for %s", PROGRAM);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pair[1], 2);
        execve(PROGRAM, (char **)(uintptr_t)args, NULL);
        _exit(127);
    }
    close(pair[1]);
    for (ssize_t got; used < sizeof text - 1 && (got = read(pair[0], text + used, sizeof text - 1 - used)) > 0;)
        used += (size_t)got;
    text[used] = 0;
    close(pair[0]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return pid < 0 || status ? fault_set(why, FAULT_FAILED, "volumes %s: %s", verb, text) : 0;
}
