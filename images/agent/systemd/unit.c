/* SPDX-License-Identifier: Apache-2.0 */
/* See unit.h. */
#include "systemd/unit.h"

#include "base/scope.h"
#include "helpers/crun.h"
#include "kernel/cgroup.h"
#include "loop/loop.h"
#include "systemd/journal.h"
#include "systemd/units.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { KILL_LIMIT_MS = 2000 };

static struct arguments arguments;

/* The process that copies output into the journal; pid 0: there is none (any more). */
static struct {
    pid_t pid;
    int stop;
} copier = {.stop = -1};

static void report_end(const struct ending *ending)
{
    scoped_fd int socket = packet_connect(ENDINGS, SOCK_DGRAM);
    if (socket >= 0)
        packet_send(socket, ending, sizeof *ending, NULL);
}

static void notify_ready(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    scoped_fd int socket = path ? packet_connect(path, SOCK_DGRAM) : -1;
    if (socket >= 0)
        packet_send(socket, "READY=1", 7, NULL);
}

/* The descriptors that came, in their places. */
static void place(const struct unit_spec *spec, const int got[3], int stdio[3])
{
    int next = 0;
    for (int i = 0; i < 3; i++)
        stdio[i] = spec->given[i] ? got[next++] : -1;
}

static int start(const char *id, struct answer *answer)
{
    char path[NAME_BYTES + sizeof UNITS];
    int got[3];
    struct unit_spec spec;
    struct outcome outcome = {.fd = -1};
    struct task task = {.kind = TASK_START, .arguments = &arguments, .id = id};
    snprintf(path, sizeof path, UNITS "/%s", id);
    scoped_fd int agent_end = packet_connect(path, SOCK_SEQPACKET);
    if (agent_end < 0 || !packet_receive(agent_end, &spec, sizeof spec, got)) {
        log_line("clearpod-agent: app %s is started by its pod, not by systemctl", id);
        return -1;
    }
    place(&spec, got, task.stdio);
    task.tty = spec.tty;
    task.raw = spec.raw;
    task.width = spec.width;
    task.height = spec.height;
    copier.pid = journal_copy(&spec, id, task.stdio, &copier.stop);
    answer->failed = crun_start(&task, &outcome, &answer->fault) < 0;
    answer->pid = outcome.pid;
    packet_send(agent_end, answer, sizeof *answer, (const int[3]){outcome.fd, -1, -1});
    close_fd(&outcome.fd);
    for (int i = 0; i < 3; i++)
        close_fd(&task.stdio[i]);
    return answer->failed ? -1 : 0;
}

/* True when `pid` is among those that have ended; then `status` has how. */
static bool reap(pid_t pid, int *status)
{
    bool ended = false;
    int how;
    for (pid_t one; (one = waitpid(-1, &how, WNOHANG)) > 0;) {
        if (one == copier.pid)
            copier.pid = 0;
        if (one != pid)
            continue;
        *status = how;
        ended = true;
    }
    return ended;
}

static void pass_on(int signals, pid_t pid)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info)
        if (pid && info.ssi_signo != SIGCHLD)
            kill(pid, (int)info.ssi_signo);
}

static int attend(int signals, pid_t pid)
{
    struct pollfd ready = {.fd = signals, .events = POLLIN};
    int status = 0;
    while (!reap(pid, &status)) {
        poll(&ready, 1, -1);
        pass_on(signals, pid);
    }
    return status;
}

/* What the container has left behind is killed; then all that was written is moved on, however long its reader takes:
 * the agent is notified after that, since it would truncate what it has not read yet. */
static void finish_output(const char *id, int signals)
{
    struct pollfd ready = {.fd = signals, .events = POLLIN};
    int status;
    if (!copier.pid)
        return;
    cgroup_kill(id, 0);
    cgroup_wait_empty(id, KILL_LIMIT_MS);
    close_fd(&copier.stop);
    for (reap(0, &status); copier.pid; reap(0, &status)) {
        poll(&ready, 1, -1);
        pass_on(signals, 0);
    }
}

/* As the container did, so that systemd knows how. */
static void end_as(int status) __attribute__((noreturn));
static void end_as(int status)
{
    sigset_t none;
    if (WIFSIGNALED(status)) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        sigemptyset(&none);
        signal(WTERMSIG(status), SIG_DFL);
        sigprocmask(SIG_SETMASK, &none, NULL);
        raise(WTERMSIG(status));
    }
    _exit(exit_code_of(status));
}

void unit_run(const char *id)
{
    struct answer answer = {0};
    struct ending ending = {0};
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    int signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 || start(id, &answer) < 0)
        _exit(1);
    notify_ready();
    snprintf(ending.id, sizeof ending.id, "%s", id);
    ending.pid = answer.pid;
    ending.status = attend(signals, answer.pid);
    ending.oom_killed = cgroup_oom_killed(id);
    finish_output(id, signals);
    report_end(&ending);
    end_as(ending.status);
}

void unit_over(const char *id)
{
    struct ending ending = {0};
    snprintf(ending.id, sizeof ending.id, "%s", id);
    ending.status = unit_status(getenv("EXIT_CODE"), getenv("EXIT_STATUS"));
    report_end(&ending);
    _exit(0);
}
