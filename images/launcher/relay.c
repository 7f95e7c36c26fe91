/* SPDX-License-Identifier: Apache-2.0 */
/* See relay.h. */
#include "relay.h"

#include "death.h"
#include "ending.h"
#include "error.h"
#include "format.h"
#include "log.h"
#include "notice.h"
#include "records.h"
#include "statuses.h"
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { LAST_OUTPUT_MS = 200, ONE_REQUEST_MS = 500 };

/* Bytes to be written to a descriptor. */
struct buffer {
    uint8_t bytes[2 * (RECORD_HEADER + RECORD_MAX)];
    size_t at, end;
    int to;
};

static struct {
    struct vmm vmm;
    struct records records;
    struct buffer out, in;
    struct ending ending;
    pid_t (*stop)(bool);
    pid_t stopper;
    bool interactive, raw, input_over, asked, doubling;
    bool ended, dead; /* the agent reported it; the VMM is gone */
    int signals, code, status;
    int64_t asked_ms;
    struct termios settings; /* of our terminal, before */
} us;

static int outputs[2] = {STDOUT_FILENO, STDERR_FILENO};

static void on_signals(void);

static void restore_terminal(void)
{
    if (us.raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &us.settings);
    us.raw = false;
}

static void queue(enum record_kind kind, size_t size)
{
    struct buffer *in = &us.in;
    record_pack(in->bytes, kind, size);
    in->end = RECORD_HEADER + size;
    for (size_t i = 0; us.doubling && i < in->end; i++)
        if (in->bytes[i] == 1) {
            memmove(in->bytes + i + 1, in->bytes + i, in->end - i);
            in->end++;
            i++;
        }
}

static void queue_size(void)
{
    struct winsize size;
    if (!us.raw || us.in.end || ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
        return;
    memcpy(us.in.bytes + RECORD_HEADER, &size, 4); /* rows and columns */
    queue(R_SIZE, 4);
}

/* A background job stops here, as one of a shell's that reads the terminal; SIGCONT lets it check its signals
 * (EINTR), and then stop again, or end. */
static void take_terminal(void)
{
    struct termios raw;
    sigset_t stops;
    int result = -1;
    if (tcgetattr(STDIN_FILENO, &us.settings) < 0)
        return;
    raw = us.settings;
    cfmakeraw(&raw);
    sigemptyset(&stops);
    sigaddset(&stops, SIGTTOU);
    sigprocmask(SIG_UNBLOCK, &stops, NULL);
    while (!us.asked && (result = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw)) < 0 && errno == EINTR)
        on_signals();
    sigprocmask(SIG_BLOCK, &stops, NULL); /* to give it back from the background is no reason to stop */
    us.raw = result == 0;
}

/* A copy has the pod from now on, and its monitor is closed. */
static void leave_monitor(void)
{
    if (us.vmm.monitor >= 0)
        close(us.vmm.monitor);
    us.vmm.monitor = -1;
}

/* The agent listens from now on. */
static void begin_input(void)
{
    leave_monitor();
    if (!us.interactive || us.raw)
        return;
    take_terminal();
    queue_size();
}

static void on_end(const uint8_t *payload, size_t size)
{
    char why[RECORD_MAX];
    us.ended = true;
    us.code = size ? payload[0] : FAILED;
    restore_terminal();
    if (us.code && size > 1) {
        notice_clean((const char *)payload + 1, size - 1, why);
        report_error("%s", why);
    }
    kill(us.vmm.pid, SIGKILL); /* all is written, in the guest as well */
}

/* A write would block on a terminal with less space, and signals would not be handled meanwhile. A pipe or
 * socket that poll finds ready has room for a record. The terminal's other users keep waiting where they like to. */
static void open_outputs(void)
{
    char path[32];
    for (int i = 0; i < 2; i++) {
        if (outputs[i] > STDERR_FILENO || !isatty(outputs[i]))
            continue;
        format(path, sizeof path, "/proc/self/fd/%d", outputs[i]);
        int own = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        outputs[i] = own >= 0 ? own : outputs[i];
    }
    report_to(outputs[1]);
}

/* Take the next record as soon as the last one is out; those for logs, while there are any. */
static void deliver(void)
{
    const uint8_t *payload;
    size_t size;
    enum record_kind kind;
    do {
        if (us.out.end || (kind = records_next(&us.records, &payload, &size)) == R_NONE)
            return;
        if (us.records.log)
            log_take(us.records.log, kind == R_ERR, payload, size);
    } while (us.records.log);
    if (kind == R_END) {
        on_end(payload, size);
        return;
    }
    memcpy(us.out.bytes, payload, size);
    us.out.at = 0;
    us.out.end = size;
    us.out.to = outputs[kind != R_OUT];
}

/* Without a reader it is thrown away, and the pod goes on. */
static void push(struct buffer *buffer)
{
    ssize_t done = write(buffer->to, buffer->bytes + buffer->at, buffer->end - buffer->at);
    if (done < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    buffer->at = done < 0 ? buffer->end : buffer->at + (size_t)done;
    if (buffer->at == buffer->end)
        buffer->at = buffer->end = 0;
}

static void read_vmm(void)
{
    uint8_t *to;
    bool was_marked = us.records.marked;
    size_t space = records_space(&us.records, &to);
    ssize_t got = space ? read(us.vmm.out, to, space) : -1;
    if (got == 0 || (got < 0 && errno == EIO)) { /* EIO: a terminal that is not open any more */
        close(us.vmm.out);
        us.vmm.out = -1;
    }
    if (got <= 0)
        return;
    records_received(&us.records, (size_t)got);
    if (us.records.marked && !was_marked)
        begin_input();
}

static void read_input(void)
{
    ssize_t got = read(STDIN_FILENO, us.in.bytes + RECORD_HEADER, RECORD_MAX);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    us.input_over = got <= 0;
    queue(got > 0 ? R_IN : R_EOF, got > 0 ? (size_t)got : 0);
}

static void reap(void)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == us.vmm.pid) {
            us.dead = true;
            us.status = status;
        } else if (pid == us.stopper) {
            us.stopper = 0;
        }
    }
}

/* Whether a copy comes to life, or how a kernel of the image ends. */
static void on_monitor(bool is_readable)
{
    if (us.records.plain) {
        if (is_readable && ending_read(&us.ending, us.vmm.monitor) == 0)
            leave_monitor();
    } else if (copy_failed(&us.vmm, is_readable)) {
        kill(us.vmm.pid, SIGKILL);
        leave_monitor();
    }
}

/* The second request kills. But timeout(1) signals its child and then the group, and both the kernel and the shell signal
 * the loss of a terminal: signals that come together count as one request. */
static void on_stop_request(void)
{
    int64_t now = now_ms();
    if (us.asked && now - us.asked_ms < ONE_REQUEST_MS)
        return;
    pid_t stopper = us.stop(us.asked);
    us.stopper = stopper > 0 ? stopper : us.stopper;
    us.asked = true;
    us.asked_ms = now;
}

static void on_signals(void)
{
    struct signalfd_siginfo info;
    while (read(us.signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD) {
            reap();
        } else if (info.ssi_signo == SIGWINCH) {
            queue_size();
        } else {
            on_stop_request();
        }
    }
}

/* A terminal would stop us for reading; what is no terminal has no foreground. */
static bool in_background(void)
{
    pid_t group = tcgetpgrp(STDIN_FILENO);
    return group >= 0 && group != getpgrp();
}

/* False: nothing more will come, and the VMM is gone. */
static bool step(void)
{
    bool listens =
        us.interactive && us.records.marked && !us.input_over && !us.in.end && !(us.asked && in_background());
    struct pollfd ready[] = {
        {.fd = us.signals, .events = POLLIN},
        {.fd = us.vmm.out, .events = POLLIN},
        {.fd = us.out.end ? us.out.to : -1, .events = POLLOUT},
        {.fd = listens ? STDIN_FILENO : -1, .events = POLLIN},
        {.fd = us.in.end ? us.vmm.in : -1, .events = POLLOUT},
        {.fd = us.vmm.monitor, .events = POLLIN},
        {.fd = watch_fd(), .events = POLLIN},
    };
    if (us.records.used == sizeof us.records.bytes)
        ready[1].fd = -1;
    /* All of an agent's records have been read before it reports its end. */
    bool is_last = us.dead && !us.records.plain, is_copy = us.vmm.monitor >= 0 && !us.records.plain;
    int limit_ms = is_last ? LAST_OUTPUT_MS : is_copy ? 1000 : watch_limit_ms();
    int count = poll(ready, sizeof ready / sizeof *ready, limit_ms);
    if (ready[0].revents)
        on_signals();
    if (ready[1].revents)
        read_vmm();
    if (ready[2].revents)
        push(&us.out);
    if (ready[3].revents)
        read_input();
    if (ready[4].revents)
        push(&us.in);
    if (us.vmm.monitor >= 0)
        on_monitor(ready[5].revents);
    watch_step(ready[6].revents);
    deliver();
    return !us.dead || (!us.ended && (us.vmm.out >= 0 || us.out.end) && count != 0);
}

static bool is_ignored(int number)
{
    struct sigaction now;
    return sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

static void wake(int number)
{
    (void)number; /* a read that was stopped for is not begun again, but ends with EINTR */
}

static void take_signals(void)
{
    static const struct sigaction woken = {.sa_handler = wake};
    static const int asking[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGWINCH);
    sigaddset(&set, SIGTTOU);
    sigaction(SIGCONT, &woken, NULL);
    for (size_t i = 0; i < sizeof asking / sizeof *asking; i++)
        if (!is_ignored(asking[i])) /* nohup */
            sigaddset(&set, asking[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigdelset(&set, SIGTTOU);
    us.signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

/* A kernel of the image has ended: by itself, or with its VMM, by whomever. */
static int end_kernel(const struct launch_spec *spec)
{
    while (us.vmm.monitor >= 0 && ending_read(&us.ending, us.vmm.monitor) > 0)
        continue;
    int code = death_of_kernel(spec, us.status, us.ending.output, us.asked);
    status_write(spec->status, code);
    return code;
}

/* A copy that ended before it had its pod. A stop that was requested meanwhile is done. */
static bool is_stillborn(const struct launch_spec *spec)
{
    return spec->template && !us.records.marked && !us.asked;
}

/* As before it: the next VM begins from nothing. */
static int forget_copy(void)
{
    leave_monitor();
    close(us.vmm.in);
    close(us.vmm.out);
    close(us.signals);
    memset(&us, 0, sizeof us); /* not earlier: it would be memory of each launcher */
    return AGAIN;
}

int relay(struct vmm vmm, const struct launch_spec *spec, pid_t (*stop)(bool))
{
    us.vmm = vmm;
    us.stop = stop;
    us.interactive = spec->interactive;
    us.doubling = spec->terminal;
    us.in.to = vmm.in;
    us.code = FAILED;
    us.records.plain = spec->status;
    open_outputs();
    log_begin(spec->logs);
    watch_begin(spec);
    take_signals();
    if (spec->template)
        queue(R_GO, 0); /* it has been loaded when it reads that */
    reap();             /* what ended before we looked */
    while (step())
        continue;
    restore_terminal();
    log_end();
    watch_end();
    if (is_stillborn(spec))
        return forget_copy();
    if (spec->status)
        return end_kernel(spec);
    if (!us.ended)
        us.code = death_explain(spec, &us.records, us.status);
    return us.code;
}
