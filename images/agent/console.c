/* SPDX-License-Identifier: Apache-2.0 */
/* See console.h. */
#include "console.h"

#include "namespaces.h"
#include "scope.h"
#include "transport.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#define MARK "\nclearpod-console\n"

/* What one helper moves: from `sources` to the launcher, and from there to `sink`; -1: nothing. With a `log` it is for
 * that one, and goes on to `next` too. */
struct flow {
    int sources[2], sink, next[2];
    uint8_t log; /* 0: none, and then there is no `next` */
};

static int port = -1;         /* blocking */
static int pipes[2] = {-1, -1}; /* where all apps write */
static pid_t writer, terminal;

/* All of it, or false. */
static bool transfer(ssize_t (*call)(int, void *, size_t), int fd, uint8_t *at, size_t size)
{
    while (size) {
        ssize_t done = call(fd, at, size);
        if (done == 0 || (done < 0 && errno != EINTR))
            return false;
        at += done > 0 ? done : 0;
        size -= done > 0 ? (size_t)done : 0;
    }
    return true;
}

static ssize_t put_some(int fd, void *from, size_t size)
{
    return write(fd, from, size);
}

/* False: this source is at its end, of which a log is told. A record is one write, so that those of two helpers never
 * mix. */
static bool forward(const struct flow *flow, int i)
{
    uint8_t record[RECORD_HEADER + RECORD_MAX];
    ssize_t got = read(flow->sources[i], record + RECORD_HEADER, RECORD_MAX);
    if (got < 0 || (!got && !flow->log))
        return got < 0 && errno == EINTR;
    record_pack(record, i ? R_ERR : R_OUT, (size_t)got);
    record[1] = flow->log;
    bool sent = transfer(put_some, port, record, RECORD_HEADER + (size_t)got);
    if (flow->log)
        transfer(put_some, flow->next[i], record + RECORD_HEADER, (size_t)got);
    return sent && got;
}

/* One record of the launcher's. False: there are no more. */
static bool receive(int *sink)
{
    uint8_t header[RECORD_HEADER], payload[RECORD_MAX];
    enum record_kind kind;
    int size;
    if (!transfer(read, port, header, sizeof header) || (size = record_unpack(header, &kind)) < 0 ||
        !transfer(read, port, payload, (size_t)size))
        return false;
    if (kind == R_IN && *sink >= 0 && !transfer(put_some, *sink, payload, (size_t)size))
        close_fd(sink); /* nobody reads it; go on, so that the launcher is never stuck */
    if (kind == R_EOF)
        close_fd(sink);
    if (kind == R_SIZE && size == 4) {
        struct winsize window = {0}; /* rows and columns, as in the record */
        memcpy(&window, payload, 4);
        ioctl(*sink, TIOCSWINSZ, &window);
    }
    return true;
}

static void move(struct flow flow, bool is_tty)
{
    bool listens = flow.sink >= 0;
    while (flow.sources[0] >= 0 || flow.sources[1] >= 0 || (listens && !is_tty)) {
        struct pollfd ready[3] = {{.fd = flow.sources[0], .events = POLLIN}, {.fd = flow.sources[1], .events = POLLIN},
                                  {.fd = listens ? port : -1, .events = POLLIN}};
        if (poll(ready, 3, -1) < 0)
            continue;
        for (int i = 0; i < 2; i++)
            if (ready[i].revents && !forward(&flow, i)) {
                close_fd(&flow.sources[i]);
                if (flow.log)
                    close_fd(&flow.next[i]);
            }
        if (ready[2].revents)
            listens = receive(&flow.sink);
    }
}

/* Without a helper there is no output, and the app is told so: the pipe is broken. */
static pid_t start(struct flow flow, bool is_tty)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    for (int fd = 3; fd < 1024; fd++) {
        /* As long as a log is written, the writer's end does not come. */
        bool logs = flow.log && (fd == flow.next[0] || fd == flow.next[1] || fd == pipes[0]);
        if (fd != port && fd != flow.sources[0] && fd != flow.sources[1] && fd != flow.sink && !logs)
            close(fd);
    }
    move(flow, is_tty);
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

int console_open(struct fault *why)
{
    int out[2], err[2];
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
    struct flow flow = {{-1, -1}, -1, {-1, -1}, (uint8_t)log};
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
    transfer(put_some, port, record, RECORD_HEADER + 1 + size);
}
