/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the running agent share: the link, the epoll, the clock, and how an epoll event is named. */
#ifndef CLEARPOD_AGENT_H
#define CLEARPOD_AGENT_H

#include "link.h"
#include "process.h"
#include "words.h"

enum token { T_SIGNAL, T_LINK, T_LISTENER, T_OUT0, T_OUT1, T_IN, T_JOB };

struct agent {
    struct link link;
    struct words words;
    int epoll;
    uint64_t init_ns, init_tsc; /* when the guest's first program began */
    bool stopping; /* Shutdown was asked for: end when the reply is out */
};

extern struct agent agent;

uint64_t unix_now_ns(void);
uint64_t monotonic_ns(void);
/* Set the guest's wall clock; 0, and on the host: leave it. */
void set_clock(uint64_t unix_ns);
/* Start or stop watching a descriptor; `index` is the slot in its table. */
int watch(int fd, uint32_t events, enum token token, unsigned index);
void unwatch(int fd);
/* Writes a line to the console, which the host puts into its error when the VM ends. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
