/* SPDX-License-Identifier: Apache-2.0 */
/* See process.h. */
#include "loop/process.h"

#include <stdio.h>
#include <string.h>

enum { EARLY = 64 };

struct process processes[MAX_PROCESSES];
static unsigned used;
static struct early_exit early[EARLY];
static unsigned early_next;

unsigned process_count(void)
{
    return used;
}

struct process *process_find(const char *container, uint32_t exec)
{
    for (unsigned i = 0; i < used; i++) {
        struct process *process = &processes[i];
        if (process->state != P_FREE && !process->connection && process->exec == exec &&
            !strcmp(process->container, container))
            return process;
    }
    return NULL;
}

struct process *process_by_pid(pid_t pid)
{
    for (unsigned i = 0; i < used; i++)
        if (processes[i].state == P_RUNNING && processes[i].pid == pid)
            return &processes[i];
    return NULL;
}

struct process *process_add(const char *container, uint32_t exec)
{
    unsigned containers = 0, at = MAX_PROCESSES;
    for (unsigned i = 0; i < used; i++) {
        containers += processes[i].state != P_FREE && processes[i].exec == 0;
        if (processes[i].state == P_FREE && at == MAX_PROCESSES)
            at = i;
    }
    if (at == MAX_PROCESSES && used < MAX_PROCESSES)
        at = used++;
    if (at == MAX_PROCESSES || (exec == 0 && containers >= MAX_CONTAINERS))
        return NULL;
    struct process *process = &processes[at];
    memset(process, 0, sizeof *process);
    process->state = P_CREATED;
    process->exec = exec;
    process->in.fd = process->out[0].fd = process->out[1].fd = -1;
    snprintf(process->container, sizeof process->container, "%s", container);
    return process;
}

void process_free(struct process *process)
{
    process->state = P_FREE;
}

void early_remember(pid_t pid, int status, uint64_t unix_ns)
{
    early[early_next++ % EARLY] = (struct early_exit){pid, status, unix_ns};
}

bool early_take(pid_t pid, struct early_exit *exit)
{
    for (unsigned i = 0; i < EARLY; i++)
        if (early[i].pid == pid && pid > 0) {
            *exit = early[i];
            early[i].pid = 0;
            return true;
        }
    return false;
}

static clearpod_agent_State state_of(const struct process *process)
{
    if (process->state == P_EXITED)
        return clearpod_agent_State_EXITED;
    return process->state == P_CREATED || process->state == P_STARTING ? clearpod_agent_State_CREATED
                                                                       : clearpod_agent_State_RUNNING;
}

bool process_list(unsigned index, clearpod_agent_Container *to)
{
    for (unsigned i = 0; i < process_count(); i++) {
        const struct process *process = &processes[i];
        if (process->state == P_FREE || process->exec || index-- > 0)
            continue;
        *to = (clearpod_agent_Container){.state = state_of(process),
                                         .has_stdio = true,
                                         .stdio = process->stdio,
                                         .pid = (uint32_t)process->pid,
                                         .exit_code = process->exit_code,
                                         .oom_killed = process->oom_killed,
                                         .started_ns = process->started_ns,
                                         .finished_ns = process->finished_ns};
        memcpy(to->id, process->container, sizeof to->id);
        return true;
    }
    return false;
}
