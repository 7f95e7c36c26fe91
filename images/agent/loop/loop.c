/* SPDX-License-Identifier: Apache-2.0 */
/* See loop.h. */
#include "loop/loop.h"

#include "base/scope.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>

enum { EVENTS = 32 };

struct agent agent;

int loop_begin(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    agent.signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
    agent.epoll = epoll_create1(EPOLL_CLOEXEC);
    return agent.signals < 0 || agent.epoll < 0 ? -1 : watch(agent.signals, EPOLLIN, T_SIGNAL, 0);
}

void loop_wait(int limit_ms, loop_event *on_event)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(agent.epoll, events, EVENTS, limit_ms);
    for (int i = 0; i < count; i++)
        on_event((enum token)(events[i].data.u64 >> 32), (unsigned)events[i].data.u64, events[i].events);
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

int ms_until(uint64_t at_ns)
{
    uint64_t now_ns = monotonic_ns();
    if (!at_ns)
        return -1;
    return at_ns <= now_ns ? 0 : (int)((at_ns - now_ns) / 1000000) + 1;
}

void set_clock(uint64_t unix_ns)
{
    struct timespec now = {.tv_sec = (time_t)(unix_ns / 1000000000), .tv_nsec = (long)(unix_ns % 1000000000)};
    if (unix_ns && !agent.arguments.host.on)
        clock_settime(CLOCK_REALTIME, &now);
}

void log_line(const char *format, ...)
{
    char line[640];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    strcat(line, "\n");
    scoped_fd int console = agent.arguments.host.on ? -1 : open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    int to = console >= 0 ? console : STDERR_FILENO;
    if (write(to, line, strlen(line)) > 0)
        tcdrain(to); /* a reboot may follow */
}
