/* SPDX-License-Identifier: Apache-2.0 */
/* See jobs.h. */
#include "loop/jobs.h"

#include "base/files.h"
#include "base/scope.h"
#include "helpers/crun.h"
#include "helpers/run.h"
#include "kernel/cgroup.h"
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { MAX_NUMBERS = 4, MOST_TURNS = 3, KILL_EACH_MS = 2 };

struct job jobs[MAX_JOBS];
static struct numbers numbers_pool[MAX_NUMBERS]; /* memory only once it is used */

/* One packet from the helper; the terminal or connection travels as SCM_RIGHTS. */
struct packet {
    bool failed;
    struct fault fault;
    pid_t pid;
};

union control {
    struct cmsghdr header;
    char buffer[CMSG_SPACE(sizeof(int))];
};

static void send_packet(int socket, const struct packet *packet, const struct numbers *numbers, int fd)
{
    union control control = {0};
    struct iovec pieces[2] = {{(void *)(uintptr_t)packet, sizeof *packet},
                              {(void *)(uintptr_t)numbers, sizeof *numbers}};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = numbers ? 2 : 1};
    if (numbers) /* zeros at the end would take pages */
        pieces[1].iov_len -= (STATS_AT_ONCE - numbers->count) * sizeof *numbers->containers;
    if (fd >= 0) {
        message.msg_control = control.buffer;
        message.msg_controllen = sizeof control.buffer;
        control.header.cmsg_len = CMSG_LEN(sizeof fd);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    }
    sendmsg(socket, &message, MSG_NOSIGNAL);
}

static bool runs_process(enum task_kind kind)
{
    return kind == TASK_START || kind == TASK_EXEC;
}

static void help(const struct task *task, int socket)
{
    struct packet packet = {0};
    struct outcome outcome = {.fd = -1};
    char go;
    close_all_but((int[]){socket, task->stdio[0], task->stdio[1], task->stdio[2]}, 4);
    if (runs_process(task->kind) && recv(socket, &go, sizeof go, 0) != sizeof go)
        _exit(1);
    packet.failed = task_run(task, &outcome, &packet.fault) < 0;
    packet.pid = outcome.pid;
    send_packet(socket, &packet, packet.failed ? NULL : task->numbers, packet.failed ? -1 : outcome.fd);
    _exit(0);
}

struct numbers *job_numbers(void)
{
    for (struct numbers *slot = numbers_pool; slot < numbers_pool + MAX_NUMBERS; slot++) {
        const struct job *job = jobs;
        while (job < jobs + MAX_JOBS && !(job->used && job->numbers == slot))
            job++;
        if (job == jobs + MAX_JOBS)
            return slot;
    }
    return NULL;
}

int job_begin(const struct job *new, const struct task *task, struct fault *why)
{
    struct job *job = jobs;
    int pair[2];
    while (job < jobs + MAX_JOBS && job->used)
        job++;
    if (job == jobs + MAX_JOBS)
        return fault_set(why, FAULT_FAILED, "%d requests are being worked on already", MAX_JOBS);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return fault_errno(why, "socketpair for a helper");
    scoped_fd int mine = pair[0], theirs = pair[1];
    pid_t pid = fork();
    if (pid == 0)
        help(task, theirs);
    if (pid < 0 || watch(mine, EPOLLIN, T_JOB, (unsigned)(job - jobs)) < 0)
        return fault_errno(why, "start a helper");
    *job = *new;
    job->used = true;
    job->helper = pid;
    job->socket = steal_fd(&mine);
    job->held = runs_process(task->kind);
    return 0;
}

void jobs_go(bool is_all_read)
{
    for (struct job *job = jobs; job < jobs + MAX_JOBS; job++)
        if (job->used && !job->done && job->held && (is_all_read || job->held++ >= MOST_TURNS)) {
            job->held = 0;
            send(job->socket, "", 1, MSG_NOSIGNAL);
        }
}

void job_give_up(const struct process *process)
{
    for (struct job *job = jobs; job < jobs + MAX_JOBS; job++)
        if (job->used && !job->done && job->process == process && runs_process(job->kind)) {
            job->unwanted = true;
            if (job->held)
                kill(job->helper, SIGKILL);
        }
}

void jobs_kill_unwanted(void)
{
    for (const struct job *job = jobs; job < jobs + MAX_JOBS; job++)
        if (job->used && job->unwanted && !job->held)
            cgroup_kill(job->process->container, job->process->exec);
}

int jobs_timeout_ms(void)
{
    int result = -1;
    for (const struct job *job = jobs; job < jobs + MAX_JOBS; job++) {
        if (!job->used || job->done)
            continue;
        if (job->held) /* it began after this turn's `jobs_go`: a plan's do */
            return 0;
        if (job->unwanted)
            result = KILL_EACH_MS;
    }
    return result;
}

void job_ready(struct job *job)
{
    struct packet packet = {.failed = true};
    union control control = {0};
    struct iovec pieces[2] = {{&packet, sizeof packet}, {job->numbers, sizeof *job->numbers}};
    struct msghdr message = {.msg_iov = pieces,
                             .msg_iovlen = job->numbers ? 2 : 1,
                             .msg_control = control.buffer,
                             .msg_controllen = sizeof control.buffer};
    if (!job->used || job->done)
        return;
    if (recvmsg(job->socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < (ssize_t)sizeof packet) {
        packet.failed = job->died = true;
        crun_forget(job->helper);
        fault_set(&packet.fault, FAULT_FAILED,
                  job->unwanted ? "it was given up before it ran" : "the agent's helper was killed");
    }
    struct cmsghdr *got = CMSG_FIRSTHDR(&message);
    job->outcome = (struct outcome){.pid = packet.pid, .fd = -1};
    if (got && got->cmsg_type == SCM_RIGHTS)
        memcpy(&job->outcome.fd, CMSG_DATA(got), sizeof(int));
    job->failed = packet.failed;
    job->fault = packet.fault;
    job->done = true;
    unwatch(job->socket);
    close(job->socket);
}
