/* SPDX-License-Identifier: Apache-2.0 */
/* See connect.h. The agent is in the network namespace of the pod, so its loopback is the pod's. */
#include "connect.h"

#include "agent.h"
#include "scope.h"
#include "streams.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { CONNECT_LIMIT_S = 5 };

static int connect_to(const struct sockaddr *address, socklen_t size)
{
    const struct timeval limit = {.tv_sec = CONNECT_LIMIT_S};
    int on = 1;
    scoped_fd int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return connect(fd, address, size) < 0 ? -1 : steal_fd(&fd);
}

/* The helper's part: 127.0.0.1, and ::1 where that fails. The error is the first one's. */
int connect_port(const struct task *task, struct outcome *outcome, struct fault *why)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(task->port),
                               .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(task->port), .sin6_addr = in6addr_loopback};
    int error;
    outcome->fd = connect_to((struct sockaddr *)&four, sizeof four);
    error = errno == EINPROGRESS ? ETIMEDOUT : errno;
    if (outcome->fd < 0)
        outcome->fd = connect_to((struct sockaddr *)&six, sizeof six);
    if (outcome->fd >= 0)
        return 0;
    errno = error;
    return fault_errno(why, "connect to port %u of the pod's loopback", task->port);
}

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

int connection_open(const clearpod_agent_Connect *wanted, uint32_t request, struct fault *why)
{
    char name[32];
    struct task task = {.kind = TASK_CONNECT, .port = (uint16_t)wanted->port, .words = &agent.words,
                        .stdio = {-1, -1, -1}};
    const clearpod_agent_Stdio streams = {.stdin = wanted->input, .stdout = wanted->output};
    if (!wanted->connection || !wanted->port || wanted->port > UINT16_MAX || !wanted->input || !wanted->output)
        return fault_set(why, FAULT_INVALID, "connection %u to port %u makes no sense", wanted->connection,
                         wanted->port);
    if (find(wanted->connection))
        return fault_set(why, FAULT_EXISTS, "connection %u exists", wanted->connection);
    snprintf(name, sizeof name, "port %u", wanted->port);
    struct process *connection = process_add(name, wanted->connection);
    if (!connection)
        return fault_set(why, FAULT_FAILED, "too many processes and connections in this pod");
    connection->connection = true;
    connection->epoch = agent.link.epoch;
    connection->state = P_STARTING;
    struct job job = {.kind = TASK_CONNECT, .request = request, .epoch = agent.link.epoch, .process = connection};
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
        connection->epoch = 0; /* nobody's: its helper still needs the slot */
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
