/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the agent have in common that are only in the profile with systemd. Some functions of the agent are
 * wrapped when it is linked for that profile (Makefile: WRAPPED): __real_x is the agent's own, __wrap_x is called instead.
 */
#ifndef CLEARPOD_UNITS_H
#define CLEARPOD_UNITS_H

#include "task.h"

#define UNITS "/run/clearpod/units"      /* a socket for each unit that is starting */
#define ENDINGS "/run/clearpod/endings"  /* where units tell the agent that a container has ended */
#define GUEST "_guest"                   /* names the guest's own root where a container is named; no app can have it */

enum { NAME_ROOM = 100 };

/* What a unit has to know to start its container; its descriptors follow in the order of `given`. */
struct order {
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
    char id[NAME_ROOM];
    pid_t pid;
    int status; /* as wait(2) has it */
    bool oom_killed;
};

/* unit.c, the programs of app@.service: its main process, and what runs when it is over. */
void unit_run(const char *id) __attribute__((noreturn));
void unit_over(const char *id) __attribute__((noreturn));
/* status.c: as wait(2) would have it, from what systemd tells a unit's last command (systemd.exec(5), $EXIT_STATUS). */
int unit_status(const char *code, const char *status);
/* The agent's service is over: say so, and end the VM. */
void agent_over(void) __attribute__((noreturn));

/* message.c: one message with at most 3 descriptors, those that are -1 left out; false when the other end is gone. */
bool message_send(int socket, const void *from, size_t size, const int fds[3]);
bool message_receive(int socket, void *to, size_t size, int fds[3]);
/* A socket with this path: -1 with errno. */
int message_listen(const char *path, int type);
int message_connect(const char *path, int type);

/* journal.c: a stream into the journal, -1 without one. */
int journal_stream(const char *id);
/* The container's ends of two new pipes instead of `stdio`, from where a process of ours moves on what comes, until `leash`
 * is closed or nobody can write any more. Its pid, 0 when there is nothing to copy. */
pid_t journal_copy(const struct order *order, const char *id, int stdio[3], int *leash);
/* Let journald write down what it has, and end. */
void journal_end(void);
/* Bind the journal's directory in the share to where journald looks for it. */
int journal_mount(struct fault *why);

/* endings.c */
int endings_listen(struct fault *why);

#endif
