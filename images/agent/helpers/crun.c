/* SPDX-License-Identifier: Apache-2.0 */
/* See crun.h. */
#include "helpers/crun.h"

#include "base/files.h"
#include "base/scope.h"
#include "base/texts.h"
#include "kernel/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define CRUN "/usr/bin/crun"
#define BUNDLES "/run/clearpod/volumes/containers"
/* Makes crun take strings that are no UTF-8 (images/guest/bytes.c); not for every container, since it takes time. */
#define TAKE_BYTES "LD_PRELOAD=/usr/lib/clearpod/bytes.so"

enum { ARGS = 20 };

/* The files of one run of crun; removed when it is over. */
struct traces {
    char log[64], pid_file[64], console[64];
};

static void traces_name(struct traces *traces, pid_t helper)
{
    snprintf(traces->log, sizeof traces->log, "/run/clearpod/crun-%d.log", helper);
    snprintf(traces->pid_file, sizeof traces->pid_file, "/run/clearpod/crun-%d.pid", helper);
    snprintf(traces->console, sizeof traces->console, "/run/clearpod/crun-%d.sock", helper);
}

static void traces_remove(struct traces *traces)
{
    unlink(traces->log);
    unlink(traces->pid_file);
    unlink(traces->console);
}

void crun_forget(pid_t helper)
{
    struct traces traces;
    traces_name(&traces, helper);
    traces_remove(&traces);
}

static void exec_crun(const struct task *task, const char *const *args)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* its result could not be reported */
    for (int i = 0; i < 3; i++) {
        int fd = task->stdio[i] >= 0 ? task->stdio[i] : open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(fd, i);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    /* The last variable: crun need not execute a copy of itself, since its file system is read-only, which it looks at too. */
    const char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "_LIBCONTAINER_CLONED_BINARY=1",
                                       task->raw ? TAKE_BYTES : NULL, NULL};
    const char *crun = task->arguments->host.on ? task->arguments->host.crun : CRUN;
    execve(crun, (char **)(uintptr_t)args, (char **)(uintptr_t)environment);
    dprintf(2, "exec %s: %s\n", crun, strerror(errno));
    _exit(127);
}

static int listen_console(const struct traces *traces, struct fault *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    scoped_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", traces->console);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1) < 0)
        return fault_errno(why, "listen on %s", traces->console);
    return steal_fd(&fd);
}

static int receive_tty(int listener, const struct task *task)
{
    union {
        struct cmsghdr header;
        char buffer[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char text[256];
    struct iovec piece = {text, sizeof text};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.buffer, .msg_controllen = sizeof control.buffer};
    scoped_fd int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (peer < 0 || recvmsg(peer, &message, MSG_CMSG_CLOEXEC) <= 0)
        return -1;
    struct cmsghdr *got = CMSG_FIRSTHDR(&message);
    if (!got || got->cmsg_type != SCM_RIGHTS)
        return -1;
    int tty;
    memcpy(&tty, CMSG_DATA(got), sizeof tty);
    struct winsize size = {.ws_col = task->width, .ws_row = task->height};
    if (task->width && task->height)
        ioctl(tty, TIOCSWINSZ, &size);
    return tty;
}

/* Until crun ends, take the terminal that it sends. Returns its wait status. */
static int await(pid_t pid, int listener, const struct task *task, struct outcome *outcome)
{
    int status = 0;
    scoped_fd int handle = (int)syscall(SYS_pidfd_open, pid, 0);
    while (listener >= 0 && outcome->fd < 0) {
        struct pollfd ready[2] = {{.fd = listener, .events = POLLIN}, {.fd = handle, .events = POLLIN}};
        if (poll(ready, 2, -1) < 0)
            continue;
        if (ready[0].revents)
            outcome->fd = receive_tty(listener, task);
        else if (ready[1].revents)
            break;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status;
}

static int fault_of(const struct traces *traces, int status, const char *verb, struct fault *why)
{
    char log[4096] = "", line[440];
    file_read(traces->log, log, sizeof log);
    crun_message(log, line, sizeof line);
    if (!*line)
        return fault_set(why, FAULT_FAILED, "crun %s ended with code %d and reported no error", verb,
                         exit_code_of(status));
    return fault_set(why, is_command_error(line) ? FAULT_COMMAND : FAULT_FAILED, "crun %s: %s", verb, line);
}

/* `tail` is what follows the global options, NULL at its end. */
static int run(const struct task *task, const struct traces *traces, const char *const *tail, struct outcome *outcome,
               struct fault *why)
{
    const char *args[ARGS] = {"crun",     "--root", "/run/clearpod/crun", "--cgroup-manager",
                              "cgroupfs", "--log",  traces->log};
    int count = 7;
    for (int i = 0; tail[i] && count < ARGS - 1; i++)
        args[count++] = tail[i];
    scoped_fd int listener = -1;
    if (task->tty && (listener = listen_console(traces, why)) < 0)
        return -1;
    pid_t pid = fork();
    if (pid < 0)
        return fault_errno(why, "fork for crun");
    if (pid == 0)
        exec_crun(task, args);
    int status = await(pid, listener, task, outcome);
    return status ? fault_of(traces, status, tail[0], why) : 0;
}

static int read_pid(const struct traces *traces, struct outcome *outcome, struct fault *why)
{
    char text[32];
    if (file_read(traces->pid_file, text, sizeof text) < 0)
        return fault_errno(why, "read crun's %s", traces->pid_file);
    outcome->pid = (pid_t)atoi(text);
    return outcome->pid > 1 ? 0 : fault_set(why, FAULT_FAILED, "crun wrote no pid");
}

/* Runs crun with the options of a detached process; `tail` has buffer for them at its end. */
static int run_detached(const struct task *task, const char **tail, int count, struct outcome *outcome,
                        struct fault *why)
{
    struct traces traces;
    traces_name(&traces, getpid());
    tail[count++] = "--detach";
    tail[count++] = "--pid-file";
    tail[count++] = traces.pid_file;
    if (task->tty) {
        tail[count++] = "--console-socket";
        tail[count++] = traces.console;
    }
    tail[count++] = task->id;
    tail[count] = NULL;
    int result = run(task, &traces, tail, outcome, why);
    if (result == 0)
        result = read_pid(&traces, outcome, why);
    traces_remove(&traces);
    return result;
}

int crun_start(const struct task *task, struct outcome *outcome, struct fault *why)
{
    char bundle[256];
    const char *tail[ARGS] = {"run", "--bundle", bundle};
    snprintf(bundle, sizeof bundle, BUNDLES "/%s", task->id);
    return run_detached(task, tail, 3, outcome, why);
}

int crun_exec(const struct task *task, struct outcome *outcome, struct fault *why)
{
    char file[400], group[24];
    const char *tail[ARGS] = {"exec", "--process", file, "--cgroup", group};
    snprintf(file, sizeof file, BUNDLES "/%s/%s", task->id, task->file);
    snprintf(group, sizeof group, "exec-%u", task->exec);
    if (cgroup_add_exec(task->id, task->exec) < 0)
        return fault_errno(why, "mkdir the cgroup %s of container %s", group, task->id);
    int result = run_detached(task, tail, 5, outcome, why);
    if (result < 0)
        cgroup_remove_exec(task->id, task->exec);
    return result;
}

int crun_update(const struct task *task, struct fault *why)
{
    char file[400];
    struct traces traces;
    struct outcome nothing = {.fd = -1};
    const char *tail[] = {"update", "--resources", file, task->id, NULL};
    snprintf(file, sizeof file, BUNDLES "/%s/%s", task->id, task->file);
    traces_name(&traces, getpid());
    int result = run(task, &traces, tail, &nothing, why);
    traces_remove(&traces);
    return result;
}

int crun_delete(const struct task *task, struct fault *why)
{
    struct traces traces;
    struct outcome nothing = {.fd = -1};
    const char *tail[] = {"delete", "--force", task->id, NULL};
    traces_name(&traces, getpid());
    int result = run(task, &traces, tail, &nothing, why);
    traces_remove(&traces);
    return result;
}
