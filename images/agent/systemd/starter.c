/* SPDX-License-Identifier: Apache-2.0 */
/* See starter.h. */
#include "systemd/starter.h"

#include "base/files.h"
#include "base/profile.h"
#include "base/scope.h"
#include "helpers/crun.h"
#include "kernel/cgroup.h"
#include "kernel/namespaces.h"
#include "systemd/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SYSTEMCTL "/usr/bin/systemctl"
#define BUNDLE "/run/clearpod/volumes/containers/" GUEST

enum { ERROR_BYTES = 300, ARGUMENTS = 64, FILE_BYTES = 32768 };

static void unblock_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void exec_systemctl(const char *verb, const char *id, int errors) __attribute__((noreturn));
static void exec_systemctl(const char *verb, const char *id, int errors)
{
    char unit[NAME_BYTES + 16];
    const char *const args[] = {"systemctl", "--no-ask-password", "--quiet", verb, unit, NULL};
    static const char *const environment[] = {"PATH=/usr/bin", "SYSTEMD_COLORS=0", NULL};
    snprintf(unit, sizeof unit, "app@%s.service", id);
    unblock_signals();
    dup2(open("/dev/null", O_RDWR | O_CLOEXEC), 0);
    dup2(0, 1);
    dup2(errors, 2);
    execve(SYSTEMCTL, (char **)(uintptr_t)args, (char **)(uintptr_t)environment);
    dprintf(2, "exec " SYSTEMCTL ": %s", strerror(errno));
    _exit(127);
}

/* Returns the pid, and in `errors` where to read its errors, at most a pipe full. */
static pid_t systemctl(const char *verb, const char *id, int *errors)
{
    int pair[2];
    if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    scoped_fd int writing = pair[1];
    *errors = pair[0];
    pid_t pid = fork();
    if (pid == 0)
        exec_systemctl(verb, id, writing);
    return pid;
}

static int fault_of(const struct task *task, int errors, struct fault *why)
{
    char text[ERROR_BYTES];
    ssize_t got = read(errors, text, sizeof text - 1);
    text[got > 0 ? got : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return fault_set(why, FAULT_FAILED, "systemd can't start the unit app@%s.service: %s", task->id,
                     *text ? text : "its process ended before the container ran");
}

/* What is a log goes into the journal too: of an autonomous pod what its console has, else all but a terminal. */
static bool is_log(const struct task *task, int number)
{
    return number > 0 && !task->tty && !(task->arguments->plan && task->followed[number]);
}

static bool send_spec(int unit, const struct task *task)
{
    struct unit_spec spec = {
        .tty = task->tty, .raw = task->raw, .width = task->width, .height = task->height, .owner = pod_root()};
    for (int i = 0; i < 3; i++) {
        spec.given[i] = task->stdio[i] >= 0;
        spec.journal[i] = is_log(task, i);
    }
    return packet_send(unit, &spec, sizeof spec, task->stdio);
}

/* The unit's main process, once it comes; -1 when systemctl has given up before. */
static int await_unit(int listener, pid_t starter)
{
    scoped_fd int handle = (int)syscall(SYS_pidfd_open, starter, 0);
    struct pollfd ready[2] = {{.fd = listener, .events = POLLIN}, {.fd = handle, .events = POLLIN}};
    while (poll(ready, 2, -1) < 0)
        continue;
    return ready[0].revents ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
}

static int start(const struct task *task, int listener, struct answer *answer, int *tty)
{
    int got[3] = {-1, -1, -1};
    scoped_fd int errors = -1;
    pid_t starter = systemctl("start", task->id, &errors);
    if (starter < 0)
        return fault_errno(&answer->fault, "start " SYSTEMCTL);
    scoped_fd int unit = await_unit(listener, starter);
    bool answered = unit >= 0 && send_spec(unit, task) && packet_receive(unit, answer, sizeof *answer, got);
    *tty = got[0];
    if (!answered)
        waitpid(starter, NULL, 0);
    return answered ? 0 : fault_of(task, errors, &answer->fault);
}

int unit_start(const struct task *task, struct outcome *outcome, struct fault *why)
{
    char path[NAME_BYTES + sizeof UNITS];
    struct answer answer = {0};
    snprintf(path, sizeof path, UNITS "/%s", task->id);
    scoped_fd int listener = packet_listen(path, SOCK_SEQPACKET);
    if (listener < 0)
        return fault_errno(why, "listen on %s", path);
    int result = start(task, listener, &answer, &outcome->fd);
    unlink(path);
    outcome->pid = answer.pid;
    if (result == 0 && !answer.failed)
        return 0;
    *why = answer.fault;
    return -1;
}

int unit_delete(const struct task *task, struct fault *why)
{
    scoped_fd int errors = -1;
    int result = crun_delete(task, why);
    pid_t pid = systemctl("reset-failed", task->id, &errors); /* systemd forgets the unit; idempotent */
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return result;
}

static int open_terminal(const struct task *task, int stdio[3])
{
    char path[32];
    int number, zero = 0;
    struct winsize size = {.ws_col = task->width, .ws_row = task->height};
    scoped_fd int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &zero) < 0 || ioctl(master, TIOCGPTN, &number) < 0)
        return -1;
    snprintf(path, sizeof path, "/dev/pts/%d", number);
    stdio[0] = stdio[1] = stdio[2] = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    ioctl(master, TIOCSWINSZ, &size);
    return stdio[0] < 0 ? -1 : steal_fd(&master);
}

/* The file has strings that end with a zero byte: the variables, an empty one, the command. */
static int read_command(const char *name, char *buffer, char *lists[2][ARGUMENTS], struct fault *why)
{
    char path[300];
    int list = 0, count[2] = {0, 0};
    snprintf(path, sizeof path, BUNDLE "/%s", name);
    ssize_t size = file_read(path, buffer, FILE_BYTES);
    for (char *text = buffer; size > 0 && text < buffer + size; text += strlen(text) + 1) {
        if (list == 0 && !*text)
            list = 1;
        else if (count[list] < ARGUMENTS - 1)
            lists[list][count[list]++] = text;
    }
    lists[0][count[0]] = lists[1][count[1]] = NULL;
    return count[1] ? 0 : fault_set(why, FAULT_INVALID, "%s has no command", path);
}

/* A cgroup of its own, so that all of it can be killed. */
static int join_cgroup(uint32_t exec)
{
    char path[128];
    profile.cgroup_path(path, sizeof path, GUEST);
    if (make_dir(path, 0755) < 0 || cgroup_add_exec(GUEST, exec) < 0)
        return -1;
    snprintf(path + strlen(path), sizeof path - strlen(path), "/exec-%u/cgroup.procs", exec);
    return file_write(path, "0");
}

static void exec_in_guest(const struct task *task, const int stdio[3], char *lists[2][ARGUMENTS], int failed)
    __attribute__((noreturn));
static void exec_in_guest(const struct task *task, const int stdio[3], char *lists[2][ARGUMENTS], int failed)
{
    setsid();
    for (int i = 0; i < 3; i++)
        dup2(stdio[i] >= 0 ? stdio[i] : open("/dev/null", O_RDWR | O_CLOEXEC), i);
    ioctl(0, TIOCSCTTY, 0);
    unblock_signals();
    signal(SIGPIPE, SIG_DFL);
    if (join_cgroup(task->exec) == 0 && chdir("/") == 0)
        execvpe(lists[1][0], lists[1], lists[0]);
    int error = errno;
    if (write(failed, &error, sizeof error) < 0)
        error = 0;
    _exit(127);
}

static int run_in_guest(const struct task *task, struct outcome *outcome, struct fault *why)
{
    static char buffer[FILE_BYTES];
    char *lists[2][ARGUMENTS];
    int stdio[3], pair[2], error = 0;
    memcpy(stdio, task->stdio, sizeof stdio);
    if (read_command(task->file, buffer, lists, why) < 0)
        return -1;
    if (task->tty && (outcome->fd = open_terminal(task, stdio)) < 0)
        return fault_errno(why, "open a terminal");
    if (pipe2(pair, O_CLOEXEC) < 0 || (outcome->pid = fork()) < 0)
        return fault_errno(why, "fork for %s", lists[1][0]);
    if (outcome->pid == 0)
        exec_in_guest(task, stdio, lists, pair[1]);
    close(pair[1]);
    if (read(pair[0], &error, sizeof error) != sizeof error)
        return 0;
    return fault_set(why, FAULT_COMMAND, "the guest can't run %s: %s", lists[1][0], strerror(error));
}

int unit_exec(const struct task *task, struct outcome *outcome, struct fault *why)
{
    return strcmp(task->id, GUEST) ? crun_exec(task, outcome, why) : run_in_guest(task, outcome, why);
}
