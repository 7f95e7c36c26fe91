/* SPDX-License-Identifier: Apache-2.0 */
/* See console.h. */
#include "loop/console.h"

#include "base/files.h"
#include "base/scope.h"
#include "helpers/records.h"
#include "kernel/namespaces.h"
#include "loop/endpoint.h"
#include "loop/loop.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <termios.h>

#define MARK "\nclearpod-console\n"

static int port = -1;           /* blocking, once it is for apps */
static int pipes[2] = {-1, -1}; /* where all apps write */
static pid_t writer, terminal;

/* Without a helper there is no output, and the app gets EPIPE. */
static pid_t start(struct flow flow, bool is_tty)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    /* As long as a log is written, the writer's end does not come. */
    const int kept[] = {port, flow.sources[0], flow.sources[1], flow.sink, flow.next[0], flow.next[1], pipes[0]};
    close_all_but(kept, flow.log ? sizeof kept / sizeof *kept : 4);
    flow.port = port;
    records_move(flow, is_tty);
    _exit(0);
}

static void make_raw(int fd)
{
    struct termios settings;
    if (tcgetattr(fd, &settings) < 0)
        return; /* a port is no terminal */
    settings.c_iflag = settings.c_oflag = settings.c_lflag = 0;
    tcsetattr(fd, TCSANOW, &settings);
}

int console_watch(void)
{
    port = open_serial("clearpod.console", O_NONBLOCK);
    return watch(port, EPOLLIN | EPOLLET, T_CONSOLE, 0);
}

/* It is also awake for a host that comes or goes, as that of the guest that was saved. */
bool console_said_go(void)
{
    uint8_t record[RECORD_HEADER];
    if (read(port, record, sizeof record) != sizeof record || record[0] != R_GO)
        return false;
    unwatch(port);
    return fcntl(port, F_SETFL, 0) == 0;
}

int console_open(struct fault *why)
{
    int out[2], err[2];
    if (port < 0)
        port = open_serial("clearpod.console", 0);
    if (port < 0)
        port = open("/dev/hvc0", O_RDWR | O_NOCTTY | O_CLOEXEC);
    make_raw(port);
    if (write(port, MARK, sizeof MARK - 1) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        return fault_errno(why, "open the console");
    pipes[0] = out[1];
    pipes[1] = err[1];
    writer = start((struct flow){.sources = {out[0], err[0]}, .sink = -1}, false);
    close(out[0]);
    close(err[0]);
    return 0;
}

/* Put a helper between the process and its streams, which logs what passes. */
static int lend_log(unsigned log, int ends[3], struct fault *why)
{
    struct flow flow = {.sources = {-1, -1}, .sink = -1, .next = {-1, -1}, .log = (uint8_t)log};
    int result = 0, pair[2];
    for (int i = 0; i < 2 && result == 0; i++) {
        if (!(log & LOG_OUT << i) || ends[i + 1] < 0)
            continue;
        if (pipe2(pair, O_CLOEXEC) < 0 || fchown(pair[1], pod_root(), pod_root()) < 0) {
            result = fault_errno(why, "pipe for a log");
            continue;
        }
        flow.sources[i] = pair[0];
        flow.next[i] = ends[i + 1];
        ends[i + 1] = pair[1];
    }
    if (result == 0)
        start(flow, false);
    for (int i = 0; i < 2; i++) {
        close_fd(&flow.sources[i]);
        close_fd(&flow.next[i]);
    }
    return result;
}

int console_lend(const struct process *process, int ends[3], struct fault *why)
{
    int in[2];
    if (process->stdio.log && lend_log(process->stdio.log, ends, why) < 0)
        return -1;
    for (int i = 0; i < 2; i++)
        if (ends[i + 1] < 0 &&
            (fchown(pipes[i], pod_root(), pod_root()) < 0 || (ends[i + 1] = fcntl(pipes[i], F_DUPFD_CLOEXEC, 0)) < 0))
            return fault_errno(why, "lend the console");
    if (!process->stdio.console)
        return 0;
    if (pipe2(in, O_CLOEXEC) < 0)
        return fault_errno(why, "lend the console");
    ends[0] = in[0];
    start((struct flow){.sources = {-1, -1}, .sink = in[1]}, false);
    close(in[1]);
    return 0;
}

void console_terminal(int tty)
{
    terminal = start((struct flow){.sources = {tty, -1}, .sink = tty}, true);
    close(tty);
}

void console_end(int code, const char *why)
{
    uint8_t record[RECORD_HEADER + RECORD_MAX];
    size_t size = strlen(why);
    close_fd(&pipes[0]);
    close_fd(&pipes[1]);
    waitpid(writer, NULL, 0);
    if (terminal > 0)
        waitpid(terminal, NULL, 0);
    record_pack(record, R_END, size + 1);
    record[RECORD_HEADER] = (uint8_t)code;
    memcpy(record + RECORD_HEADER + 1, why, size);
    record_write(port, record, size + 1);
}
