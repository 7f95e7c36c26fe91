/* SPDX-License-Identifier: Apache-2.0 */
/* See exits.h. */
#include "loop/exits.h"

#include "base/files.h"
#include "base/profile.h"
#include "helpers/task.h"
#include "kernel/cgroup.h"
#include "loop/apps.h"
#include "loop/loop.h"
#include "loop/streams.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* How long another process may hold the pipes of one that is gone, and write nothing: what was in a container's cgroup is
 * being killed; what an exec has left behind in the background may be a service, for which nobody wants to wait. */
static const uint64_t container_grace_ns = 2000000000, exec_grace_ns = 1000000000;

static uint64_t grace_of(const struct process *process)
{
    return monotonic_ns() + (process->exec ? exec_grace_ns : container_grace_ns);
}

static void exited(struct process *process, int status, uint64_t unix_ns)
{
    process->state = P_DRAINING;
    process->exit_code = exit_code_of(status);
    process->oom_killed = profile.oom_killed(process->container);
    process->finished_ns = unix_ns;
    if (process->exec == 0)
        cgroup_kill(process->container, 0);
    process->grace_ns = grace_of(process);
}

void process_started(struct process *process, pid_t pid)
{
    struct early_exit early;
    process->state = P_RUNNING;
    process->pid = pid;
    process->started_ns = unix_now_ns();
    if (early_take(pid, &early)) {
        if (process->started_ns > early.unix_ns)
            process->started_ns = early.unix_ns;
        exited(process, early.status, early.unix_ns);
    }
}

/* Of one that has ended and was not reaped. The kernel keeps it in the process's flags. */
static bool never_executed(pid_t pid)
{
    enum { PF_FORKNOEXEC = 0x40, FLAGS = 7 }; /* so many fields behind the name */
    char path[32], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    const char *field = file_read(path, text, sizeof text) < 0 ? NULL : strrchr(text, ')'); /* a name may have one */
    for (int i = 0; field && i < FLAGS; i++)
        field = strchr(field + 1, ' ');
    return field && atoi(field) & PF_FORKNOEXEC;
}

pid_t exit_reap(int *status)
{
    siginfo_t one;
    one.si_pid = 0;
    waitid(P_ALL, 0, &one, WEXITED | WNOHANG | WNOWAIT);
    if (!one.si_pid)
        return 0;
    bool is_fault = one.si_code == CLD_EXITED && one.si_status == 1 && never_executed(one.si_pid);
    waitpid(one.si_pid, status, 0);
    if (is_fault)
        *status = APP_NO_EXEC << 8;
    return one.si_pid;
}

void exit_reaped(pid_t pid, int status)
{
    struct process *process = process_by_pid(pid);
    if (process)
        exited(process, status, unix_now_ns());
    else
        early_remember(pid, status, unix_now_ns());
}

/* In an autonomous pod apps.c handles a container's end, and there is no client for that of an earlier host's exec. */
static bool report_exit(const struct process *process)
{
    if (agent.arguments.plan && (!process->exec || process->epoch != agent.link.epoch))
        return true;
    uint8_t payload[256];
    clearpod_agent_Exited exited = {.exec = process->exec,
                                    .exit_code = process->exit_code,
                                    .oom_killed = process->oom_killed,
                                    .unix_ns = process->finished_ns};
    memcpy(exited.container, process->container, sizeof exited.container);
    size_t size = message_exited(&exited, payload, sizeof payload);
    return link_send(&agent.link, &(struct frame){.length = (uint32_t)size, .kind = K_EVENT}, payload);
}

void exit_sync(struct process *process)
{
    if (process->state != P_DRAINING)
        return;
    if (process->exec && process->grace_ns && streams_moved(process))
        process->grace_ns = grace_of(process);
    if (process->grace_ns && monotonic_ns() >= process->grace_ns) {
        process->grace_ns = 0;
        streams_drain(process);
    }
    if (!streams_ended(process) || !report_exit(process))
        return;
    process->state = P_EXITED;
    streams_close(process);
    if (agent.arguments.plan && !process->exec)
        apps_exited(process->container, process->exit_code);
    if (process->exec) {
        cgroup_remove_exec(process->container, process->exec);
        process_free(process);
    }
}

int exit_timeout_ms(void)
{
    uint64_t next = 0;
    for (unsigned i = 0; i < process_count(); i++) {
        const struct process *process = &processes[i];
        if (process->state == P_DRAINING && process->grace_ns && (!next || process->grace_ns < next))
            next = process->grace_ns;
    }
    return ms_until(next);
}
