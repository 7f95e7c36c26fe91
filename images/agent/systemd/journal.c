/* SPDX-License-Identifier: Apache-2.0 */
/* See journal.h. */
#include "systemd/journal.h"

#include "base/files.h"
#include "base/scope.h"
#include "kernel/cgroup.h"
#include "systemd/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define STREAMS "/run/systemd/journal/stdout"
#define JOURNALD "/sys/fs/cgroup/system.slice/systemd-journald.service"
#define POD "/run/clearpod/volumes/pod"
#define SHARED "/run/clearpod/volumes/journal"
#define LOGS "/var/log/journal"

enum { CHUNK = 4096, END_LIMIT_MS = 10000, OUTPUTS = 2 };

int journal_stream(const char *id)
{
    scoped_fd int fd = packet_connect(STREAMS, SOCK_STREAM);
    /* Name, unit (for a journald that looks when our process is gone already), priority (info), "<3>" at a line's start is a
     * priority, and three times: nowhere else. */
    if (fd < 0 || dprintf(fd, "%s\napp@%s.service\n6\n1\n0\n0\n0\n", id, id) < 0)
        return -1;
    return steal_fd(&fd);
}

static void put(int *fd, const char *from, size_t size)
{
    while (size && *fd >= 0) {
        ssize_t done = write(*fd, from, size);
        if (done < 0 && errno != EINTR)
            close_fd(fd);
        from += done > 0 ? done : 0;
        size -= done > 0 ? (size_t)done : 0;
    }
}

/* First into the journal, so that it is complete there once the other one ends. False: `from` is at its end. */
static bool move(int from, int *journal, int *to)
{
    char chunk[CHUNK];
    ssize_t got = read(from, chunk, sizeof chunk);
    if (got > 0) {
        put(journal, chunk, (size_t)got);
        put(to, chunk, (size_t)got);
    }
    return got > 0 || (got < 0 && errno == EINTR);
}

/* Until both are at their end; once the other end of `stop` is closed, only what is there already. */
static void copy(int from[OUTPUTS], int journal[OUTPUTS], int to[OUTPUTS], int stop) __attribute__((noreturn));
static void copy(int from[OUTPUTS], int journal[OUTPUTS], int to[OUTPUTS], int stop)
{
    bool last = false;
    while (from[0] >= 0 || from[1] >= 0) {
        struct pollfd ready[OUTPUTS + 1] = {
            {.fd = from[0], .events = POLLIN}, {.fd = from[1], .events = POLLIN}, {.fd = last ? -1 : stop}};
        int count = poll(ready, OUTPUTS + 1, last ? 0 : -1);
        if (count == 0)
            break;
        last = last || (count > 0 && ready[OUTPUTS].revents);
        for (int i = 0; i < OUTPUTS && count > 0; i++)
            if (ready[i].revents && !move(from[i], &journal[i], &to[i])) {
                close_fd(&from[i]);
                close_fd(&to[i]);
            }
    }
    _exit(0);
}

static void close_all(int fds[OUTPUTS])
{
    for (int i = 0; i < OUTPUTS; i++)
        close_fd(&fds[i]);
}

pid_t journal_copy(const struct unit_spec *spec, const char *id, int stdio[3], int *stop)
{
    int from[OUTPUTS] = {-1, -1}, journal[OUTPUTS] = {-1, -1}, to[OUTPUTS] = {-1, -1}, pair[2];
    for (int i = 0; i < OUTPUTS; i++) {
        if (!spec->journal[i + 1] || stdio[i + 1] < 0 || (journal[i] = journal_stream(id)) < 0)
            continue;
        if (pipe2(pair, O_CLOEXEC) < 0 || fchown(pair[0], spec->owner, spec->owner) < 0)
            continue; /* then it is not in the journal */
        from[i] = pair[0];
        to[i] = stdio[i + 1];
        stdio[i + 1] = pair[1];
    }
    if ((from[0] < 0 && from[1] < 0) || pipe2(pair, O_CLOEXEC) < 0)
        return 0;
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 3; i++)
            close_fd(&stdio[i]);
        close(pair[1]);
        signal(SIGPIPE, SIG_IGN);
        copy(from, journal, to, pair[0]);
    }
    close(pair[0]);
    *stop = pair[1];
    close_all(from);
    close_all(journal);
    close_all(to);
    return pid > 0 ? pid : 0;
}

/* Whether this is journald, and it has come so far that it takes SIGTERM for a wish, behind all that waits in its sockets:
 * then it has the signal blocked. Before, it would just die. */
static bool listens(pid_t pid)
{
    char path[32], text[2048];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    if (pid <= 1 || file_read(path, text, sizeof text) <= 0 || !strstr(text, "Name:\tsystemd-journal\n"))
        return false;
    const char *blocked = strstr(text, "SigBlk:");
    return blocked && strtoull(blocked + strlen("SigBlk:"), NULL, 16) & 1ull << (SIGTERM - 1);
}

/* 0 when nothing was written, so that systemd has not started it. */
static pid_t await_journald(void)
{
    for (int waited = 0; waited < END_LIMIT_MS && access(JOURNALD, F_OK) == 0; waited++) {
        char pids[64];
        pid_t pid = file_read(JOURNALD "/cgroup.procs", pids, sizeof pids) > 0 ? atoi(pids) : 0;
        if (listens(pid))
            return pid;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return 0;
}

void journal_end(void)
{
    pid_t pid = await_journald();
    scoped_fd int handle = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    struct pollfd ended = {.fd = handle, .events = POLLIN};
    if (handle >= 0 && syscall(SYS_pidfd_send_signal, handle, SIGTERM, NULL, 0) == 0)
        poll(&ended, 1, END_LIMIT_MS);
}

/* journald would not report it, and keep the journal in memory. */
static int check_writable(struct fault *why)
{
    char id[64], path[128];
    if (file_read(POD "/machine-id", id, sizeof id) < 0)
        return fault_errno(why, "read " POD "/machine-id");
    id[strcspn(id, "\n")] = 0;
    snprintf(path, sizeof path, LOGS "/%s", id);
    if (make_dir(path, 0755) < 0 || access(path, W_OK) < 0)
        return fault_errno(why, "the journal can't be kept on the host: write to %s", path);
    return 0;
}

int journal_mount(struct fault *why)
{
    if (mount(POD "/machine-id", "/etc/machine-id", NULL, MS_BIND, NULL) < 0)
        return fault_errno(why, "bind " POD "/machine-id");
    if (mount(SHARED, LOGS, NULL, MS_BIND, NULL) < 0)
        return fault_errno(why, "bind " SHARED " on " LOGS);
    if (mount(NULL, LOGS, NULL, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return fault_errno(why, "remount " LOGS);
    return check_writable(why);
}
