/* SPDX-License-Identifier: Apache-2.0 */
/* What comes of requests: helpers that are done change the process's state, and the host gets its reply. Parts of
 * requests.h. */
#include "requests.h"

#include "agent.h"
#include "autonomous.h"
#include "cgroup.h"
#include "connect.h"
#include "console.h"
#include "streams.h"

#include <string.h>

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
        plan_answered(asker->request, reply);
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
    bool is_app = agent.words.plan && !process->exec, is_crun = job->failed && !strncmp(job->fault.text, "crun", 4);
    if (!job->failed && job->outcome.fd >= 0) {
        if (process->stdio.console)
            console_terminal(job->outcome.fd);
        else
            job->failed = streams_attach_tty(process, job->outcome.fd, &job->fault) < 0;
    }
    if (!job->failed) {
        process_started(process, job->outcome.pid);
        if (process->exec && process->epoch != agent.link.epoch)
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

/* False: the last output and the exit of the container must be told first. */
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
    struct reply reply = {.fault = job->failed ? &job->fault : NULL, .pid = (uint32_t)job->outcome.pid,
                          .numbers = job->failed ? NULL : job->numbers};
    job->used = false;
    answer(&(struct asker){job->request, job->epoch}, &reply);
}

void jobs_sync(void)
{
    for (int i = 0; i < MAX_JOBS; i++)
        if (jobs[i].used && jobs[i].done)
            finish(&jobs[i]);
}
