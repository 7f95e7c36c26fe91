/* SPDX-License-Identifier: Apache-2.0 */
/* See connections.h. */
#include "loop/connections.h"

#include "base/scope.h"
#include "loop/loop.h"
#include "loop/streams.h"

#include <fcntl.h>
#include <stdio.h>

static struct process *find(uint32_t number)
{
    for (unsigned i = 0; i < process_count(); i++)
        if (processes[i].state != P_FREE && processes[i].connection && processes[i].exec == number)
            return &processes[i];
    return NULL;
}

static void forget(struct process *connection)
{
    streams_close(connection);
    process_free(connection);
}

int connection_open(const clearpod_agent_Connect *connect, const struct asker *asker, struct fault *why)
{
    char name[32];
    struct task task = {
        .kind = TASK_CONNECT, .port = (uint16_t)connect->port, .arguments = &agent.arguments, .stdio = {-1, -1, -1}};
    const clearpod_agent_Stdio streams = {.stdin = connect->input, .stdout = connect->output};
    if (!connect->connection || !connect->port || connect->port > UINT16_MAX || !connect->input || !connect->output)
        return fault_set(why, FAULT_INVALID, "connection %u to port %u is invalid", connect->connection, connect->port);
    if (find(connect->connection))
        return fault_set(why, FAULT_EXISTS, "connection %u exists", connect->connection);
    snprintf(name, sizeof name, "port %u", connect->port);
    struct process *connection = process_add(name, connect->connection);
    if (!connection)
        return fault_set(why, FAULT_FAILED, "too many processes and connections in this pod");
    connection->connection = true;
    connection->epoch = asker->epoch;
    connection->state = P_STARTING;
    struct job job = {.kind = TASK_CONNECT, .asker = *asker, .process = connection};
    if (streams_open(connection, &streams, why) == 0 && job_begin(&job, &task, why) == 0)
        return 0;
    forget(connection);
    return -1;
}

void connection_opened(struct job *job)
{
    struct process *connection = job->process;
    scoped_fd int fd = job->outcome.fd;
    int ends[3] = {-1, -1, -1};
    if (!job->failed && (ends[0] = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0) {
        job->failed = true;
        fault_errno(&job->fault, "dup of the connection to %s", connection->container);
    }
    if (job->failed || connection->epoch != agent.link.epoch) {
        close_fd(&ends[0]);
        forget(connection);
        return;
    }
    ends[1] = steal_fd(&fd);
    streams_attach(connection, ends);
    connection->state = P_RUNNING;
}

static void cut(struct process *connection)
{
    if (connection->state == P_STARTING)
        connection->epoch = 0; /* without owner: its helper still needs the slot */
    else
        forget(connection);
}

void connection_close(uint32_t number)
{
    struct process *connection = find(number);
    if (connection)
        cut(connection);
}

void connections_new_epoch(void)
{
    for (unsigned i = 0; i < process_count(); i++)
        if (processes[i].state != P_FREE && processes[i].connection)
            cut(&processes[i]);
}

void connection_sync(struct process *connection)
{
    if (connection->connection && connection->state == P_RUNNING && connection->in.fd < 0 && streams_ended(connection))
        forget(connection);
}
