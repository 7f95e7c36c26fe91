/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between the agent, its helpers and the units of its containers where systemd is PID 1: packets on unix
 * sockets, with descriptors.
 */
#ifndef CLEARPOD_UNITS_H
#define CLEARPOD_UNITS_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define UNITS "/run/clearpod/units"     /* a socket for each unit that is starting */
#define ENDINGS "/run/clearpod/endings" /* where units report the ends of containers to the agent */
#define GUEST "_guest"                  /* names the guest's own root where a container is named; no app can have it */

enum { NAME_BYTES = 100 };

/* What a unit has to know to start its container; its descriptors follow in the order of `given`. */
struct unit_spec {
    bool raw;                       /* as in task.h */
    bool tty, given[3], journal[3]; /* given: stdin, stdout, stderr have a descriptor; journal: it goes there as well */
    uint16_t width, height;
    uint32_t owner; /* the user and group that is root in the container */
};

/* And what it answers; a terminal follows. */
struct answer {
    bool failed;
    struct fault fault;
    pid_t pid;
};

/* A container has ended. The unit does not know the pid when its own process was killed: then it is 0. */
struct ending {
    char id[NAME_BYTES];
    pid_t pid;
    int status; /* as wait(2) has it */
    bool oom_killed;
};

/* As wait(2) would have it, from what systemd tells a unit's last command (systemd.exec(5), $EXIT_STATUS). */
int unit_status(const char *code, const char *status);
/* One packet with at most 3 descriptors, those that are -1 left out; false when the other end is gone. */
bool packet_send(int socket, const void *from, size_t size, const int fds[3]);
bool packet_receive(int socket, void *to, size_t size, int fds[3]);
/* A socket with this path: -1 with errno. */
int packet_listen(const char *path, int type);
int packet_connect(const char *path, int type);

#endif
