/* SPDX-License-Identifier: Apache-2.0 */
/* See replies.h. */
#include "loop/replies.h"

#include "kernel/cgroup.h"
#include "loop/connections.h"
#include "loop/console.h"
#include "loop/exits.h"
#include "loop/jobs.h"
#include "loop/loop.h"
#include "loop/streams.h"

#include <string.h>

static void (*on_plan_answered)(uint32_t request, const struct reply *reply);

void answer_plan_by(void (*plan_answered)(uint32_t request, const struct reply *reply))
{
    on_plan_answered = plan_answered;
}

static void send(uint32_t id, const struct reply *reply)
{
    static uint8_t payload[FRAME_MAX];
    bool fits;
    size_t size = message_reply(reply, payload, sizeof payload, &fits);
    struct frame frame = {.length = (uint32_t)size, .kind = K_REPLY, .stream = id};
    /* Output leaves RING_RESERVE for replies. A host that lets even that fill up has broken the rules. */
    if (!fits || !link_send(&agent.link, &frame, payload))
        link_fault(&agent.link);
}

void answer(const struct asker *asker, const struct reply *reply)
{
    if (asker->epoch == PLAN_EPOCH)
        on_plan_answered(asker->request, reply);
    else if (asker->epoch == agent.link.epoch)
        send(asker->request, reply);
}

static void forget(struct process *process)
{
    streams_close(process);
    process_free(process);
}

static void launched(struct job *job)
{
    struct process *process = job->process;
    const char *name = process->container;
    bool is_app = agent.arguments.plan && !process->exec, is_crun = job->failed && !strncmp(job->fault.text, "crun", 4);
    if (!job->failed && job->outcome.fd >= 0) {
        if (process->stdio.console)
            console_terminal(job->outcome.fd);
        else
            job->failed = streams_attach_tty(process, job->outcome.fd, &job->fault) < 0;
    }
    if (!job->failed) {
        process_started(process, job->outcome.pid);
        if (job->unwanted || (process->exec && process->epoch != agent.link.epoch))
            cgroup_kill(process->container, process->exec);
    } else { /* crun may have come further than a helper that was killed: what did not start does not run */
        cgroup_kill(process->container, process->exec);
        if (process->exec) {
            cgroup_remove_exec(process->container, process->exec);
            forget(process);
        } else {
            streams_retract(process);
            process->state = P_CREATED;
            process->tried = true;
        }
    }
    if (is_app) /* crun has the app's stderr, where that is the launcher's */
        apps_started(name, job->failed ? &job->fault : NULL, is_crun && !process->stdio.tty && !process->out[1].id);
}

/* False: the last output and the exit of the container must be sent first. */
static bool deleted(struct job *job)
{
    struct process *process = job->process;
    if (job->failed)
        return true;
    if (process->state == P_RUNNING || process->state == P_DRAINING) {
        streams_abandon(process);
        return false;
    }
    forget(process);
    return true;
}

static void finish(struct job *job)
{
    if (job->kind == TASK_DELETE && !deleted(job))
        return;
    if (job->process)
        job->process->busy = false;
    if (job->kind == TASK_CREATE && job->failed && !job->died) /* else there is something to delete */
        forget(job->process);
    if (job->kind == TASK_START || job->kind == TASK_EXEC)
        launched(job);
    else if (job->kind == TASK_CONNECT)
        connection_opened(job);
    struct reply reply = {.fault = job->failed ? &job->fault : NULL,
                          .pid = (uint32_t)job->outcome.pid,
                          .numbers = job->failed ? NULL : job->numbers};
    job->used = false;
    answer(&job->asker, &reply);
}

void jobs_sync(void)
{
    jobs_kill_unwanted();
    for (int i = 0; i < MAX_JOBS; i++)
        if (jobs[i].used && jobs[i].done)
            finish(&jobs[i]);
}
