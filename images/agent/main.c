/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clearpod's agent: PID 1 of the guest. It boots the guest, then serves the host's requests until the VM ends. It must
 * never exit: what can't be mended is one line on the console and a reboot, which ends the VM (poweroff would hang).
 * As any other process than PID 1 it serves a pod on the host (host.h), and ends that pod alone.
 */
#include "agent.h"
#include "autonomous.h"
#include "boot.h"
#include "carrier.h"
#include "connect.h"
#include "host.h"
#include "namespaces.h"
#include "requests.h"
#include "scope.h"
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <x86intrin.h>

enum { EVENTS = 32, STOP_LIMIT_MS = 500 };

struct agent agent;
static int signals = -1;

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t unix_now_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

uint64_t monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int watch(int fd, uint32_t events, enum token token, unsigned index)
{
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)token << 32 | index};
    return epoll_ctl(agent.epoll, EPOLL_CTL_ADD, fd, &event);
}

void unwatch(int fd)
{
    epoll_ctl(agent.epoll, EPOLL_CTL_DEL, fd, NULL);
}

void say(const char *format, ...)
{
    char line[640];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    strcat(line, "\n");
    scoped_fd int console = agent.words.host.on ? -1 : open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    int to = console >= 0 ? console : STDERR_FILENO;
    if (write(to, line, strlen(line)) > 0)
        tcdrain(to); /* a reboot may follow */
}

static void end_vm(void) __attribute__((noreturn));
static void end_vm(void)
{
    if (agent.words.host.on)
        host_end(0);
    if (agent.words.plan && agent.stopping)
        autonomous_end();
    boot_end();
}

static void die(const struct fault *why) __attribute__((noreturn));
static void die(const struct fault *why)
{
    say("clearpod-agent: %s", why->text);
    if (agent.words.host.on)
        host_end(1);
    end_vm();
}

static void mark(const char *what, uint64_t at_ns, uint64_t tsc)
{
    if (agent.words.mark)
        say("clearpod.mark %s %llu %llu", what, (unsigned long long)at_ns, (unsigned long long)tsc);
}

void set_clock(uint64_t unix_ns)
{
    struct timespec now = {.tv_sec = (time_t)(unix_ns / 1000000000), .tv_nsec = (long)(unix_ns % 1000000000)};
    if (unix_ns && !agent.words.host.on)
        clock_settime(CLOCK_REALTIME, &now);
}

static void new_epoch(void)
{
    streams_new_epoch();
    requests_new_epoch();
    connections_new_epoch();
}

static const struct link_user link_user = {
    .request = request_arrived,
    .data = streams_on_data,
    .credit = streams_on_credit,
    .epoch = new_epoch,
    .clock = set_clock,
};

static int prepare(struct fault *why)
{
    struct utsname name;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
    agent.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (signals < 0 || agent.epoll < 0 || watch(signals, EPOLLIN, T_SIGNAL, 0) < 0 || carrier_watch_listener() < 0)
        return fault_errno(why, "set up the loop");
    link_init(&agent.link, &link_user);
    uname(&name);
    snprintf(agent.link.facts.kernel, sizeof agent.link.facts.kernel, "%s", name.release);
    if (getrandom(&agent.link.facts.boot_id, sizeof agent.link.facts.boot_id, GRND_NONBLOCK) < 0)
        agent.link.facts.boot_id = __rdtsc(); /* it only has to differ from the last boot's */
    agent.link.facts.init_ns = agent.init_ns;
    return 0;
}

/* Descriptors 0 to 2 must be taken: a pipe that got such a number would be closed by the first dup2. */
static void take_standard_fds(void)
{
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < 2)
        fd = dup(fd);
    if (fd > 2)
        close(fd);
}

static void on_signals(void)
{
    struct signalfd_siginfo info[8];
    int status;
    while (read(signals, info, sizeof info) > 0)
        continue;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        exit_reaped(pid, status);
}

static void on_event(const struct epoll_event *event)
{
    unsigned index = (unsigned)event->data.u64;
    switch ((enum token)(event->data.u64 >> 32)) {
    case T_SIGNAL:
        on_signals();
        break;
    case T_LINK:
        carrier_event(event->events);
        break;
    case T_LISTENER: /* the loop calls carrier_open */
        break;
    case T_OUT0:
        output_ready(&processes[index], 0);
        break;
    case T_OUT1:
        output_ready(&processes[index], 1);
        break;
    case T_IN:
        input_ready(&processes[index]);
        break;
    case T_JOB:
        job_ready(&jobs[index]);
        break;
    }
}

static void sync_all(void)
{
    for (unsigned i = 0; i < process_count(); i++) {
        if (processes[i].state == P_FREE)
            continue;
        streams_sync(&processes[i]);
        exit_sync(&processes[i]);
        connection_sync(&processes[i]);
    }
    jobs_sync();
}

static int sooner(int one_ms, int other_ms)
{
    return one_ms < 0 || (other_ms >= 0 && other_ms < one_ms) ? other_ms : one_ms;
}

static int timeout_ms(void)
{
    int own = agent.words.plan ? autonomous_sync() : -1;
    return sooner(own, sooner(carrier_timeout_ms(), exit_timeout_ms()));
}

static void stop_when_told(void)
{
    static uint64_t since_ns;
    if (!agent.stopping)
        return;
    since_ns = since_ns ? since_ns : monotonic_ns();
    if (carrier_is_idle() || monotonic_ns() - since_ns > STOP_LIMIT_MS * 1000000ull)
        end_vm();
}

static void serve(void) __attribute__((noreturn));
static void serve(void)
{
    struct epoll_event events[EVENTS];
    for (;;) {
        carrier_open();
        carrier_read();
        sync_all();
        sync_all(); /* a helper that is done may end streams, whose end may finish its request */
        carrier_write();
        stop_when_told();
        int count = epoll_wait(agent.epoll, events, EVENTS, agent.stopping ? 10 : timeout_ms());
        for (int i = 0; i < count; i++)
            on_event(&events[i]);
    }
}

static int boot(struct fault *why)
{
    if (boot_early(&agent.words, why) < 0)
        return -1;
    take_standard_fds();
    if (boot_mounts(&agent.words, why) < 0)
        return -1;
    return agent.words.plan ? autonomous_begin(why) : 0;
}

/* Only PID 1 may do what PID 1 does: everybody else is on a host. */
static int begin(char **argv, struct fault *why)
{
    char bad[64];
    if (getpid() == 1)
        return boot(why);
    if (host_words_parse((const char *const *)argv, &agent.words.host, bad))
        return host_enter(&agent.words, why);
    agent.words.host.on = true;
    return fault_set(why, FAULT_INVALID, "not PID 1, and the word '%s' makes no sense or is missing", bad);
}

int main(int argc, char **argv)
{
    struct fault why;
    agent.init_ns = monotonic_ns();
    agent.init_tsc = __rdtsc();
    if (argc > 0 && !strcmp(argv[0], "pause"))
        pause_forever();
    if (begin(argv, &why) < 0 || prepare(&why) < 0)
        die(&why);
    carrier_open();
    agent.link.facts.ready_ns = monotonic_ns();
    uint64_t ready_tsc = __rdtsc();
    mark("pid1", agent.init_ns, agent.init_tsc); /* not earlier: the console is slow */
    mark("ready", agent.link.facts.ready_ns, ready_tsc);
    if (agent.words.bench)
        end_vm();
    serve();
}
