/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop's own: what it waits for, the clock, the console, and the state that all of the loop's side shares.
 * Nothing on the loop's side blocks; what may block is run by a helper (helpers/task.h).
 */
#ifndef CLEARPOD_LOOP_H
#define CLEARPOD_LOOP_H

#include "base/arguments.h"
#include "base/fault.h"
#include "link/link.h"

enum token { T_SIGNAL, T_LINK, T_LISTENER, T_OUT0, T_OUT1, T_IN, T_JOB, T_CONSOLE };

struct agent {
    struct link link;
    struct arguments arguments;
    int epoll, signals;         /* of loop.c; here, since a page of their own would be one more at each boot */
    uint64_t init_ns, init_tsc; /* when the guest's first program began */
    bool stopping;              /* Shutdown was asked for: end when the reply is out */
};

/* What is ready: the slot `index` in the table of `token`, and its epoll events. */
typedef void loop_event(enum token token, unsigned index, uint32_t events);

extern struct agent agent;

/* Block all signals, and watch for them (T_SIGNAL) as for everything else; -1 with errno. */
int loop_begin(void);
/* Wait until a watched descriptor is ready, at most `limit_ms` (-1: without limit), and report each to `on_event`. */
void loop_wait(int limit_ms, loop_event *on_event);
/* Start or stop watching a descriptor; `index` is the slot in its table. */
int watch(int fd, uint32_t events, enum token token, unsigned index);
void unwatch(int fd);
uint64_t unix_now_ns(void);
uint64_t monotonic_ns(void);
/* Until `at_ns` on the monotonic clock, rounded up: 0 if that has passed, and -1 for 0, which is never. */
int ms_until(uint64_t at_ns);
/* Set the guest's wall clock; 0, and on the host: leave it. */
void set_clock(uint64_t unix_ns);
/* Writes a line to the console, which the host puts into its error when the VM ends. */
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
