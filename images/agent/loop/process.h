/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of processes: containers (exec 0; they stay until Delete), execs (they are removed once their exit was sent) and
 * connections, and the exits that were reaped before anybody knew the pid.
 */
#ifndef CLEARPOD_PROCESS_H
#define CLEARPOD_PROCESS_H

#include "link/message.h"

#include <sys/types.h>

enum { MAX_PROCESSES = 256, MAX_CONTAINERS = 128, INPUT_BYTES = 2 * INITIAL_CREDIT };
enum process_state { P_FREE, P_CREATED, P_STARTING, P_RUNNING, P_DRAINING, P_EXITED };

/* stdout, stderr or a tty's output. `left` counts what is still to be read when another process holds the pipe. */
struct output {
    uint32_t id, credit, left;
    int fd;
    bool polled, draining, end_due;
    bool moved; /* something was read, or may be once the host takes more: see streams_moved */
};

/* stdin, or a tty's input: what the host sent and the process has not read. */
struct input {
    uint32_t id, at, size;
    uint32_t consumed, foreign; /* credit to give back; how much of it an earlier host process had given */
    int fd;
    uint8_t *buffer;
    bool polled, ended;
};

/* Who waits for a reply. */
struct asker {
    uint32_t request;
    uint64_t epoch;
};

struct process {
    enum process_state state;
    bool busy;       /* a job is at work on it */
    bool connection; /* none of a process but its streams: see connect.h */
    bool oom_killed;
    bool tried; /* a start failed, of which crun may have left something */
    bool raw;   /* of Create */
    char container[100];
    uint32_t exec;
    clearpod_agent_Stdio stdio;
    pid_t pid;
    uint64_t epoch; /* whose exec this is */
    struct output out[2];
    struct input in;
    int exit_code;
    uint64_t started_ns, finished_ns; /* unix time */
    uint64_t grace_ns; /* monotonic: until when another process may hold its pipes; 0: no limit is running */
};

struct early_exit {
    pid_t pid;
    int status;
    uint64_t unix_ns;
};

extern struct process processes[MAX_PROCESSES];

/* Number of slots that were ever used: the table is only walked (and touched) so far. */
unsigned process_count(void);
struct process *process_find(const char *container, uint32_t exec);
struct process *process_by_pid(pid_t pid);
/* NULL when the table, or the containers' share of it, is full. */
struct process *process_add(const char *container, uint32_t exec);
void process_free(struct process *process);
/* Container number `index` of those in the table; false behind the last one. */
bool process_list(unsigned index, clearpod_agent_Container *to);

void early_remember(pid_t pid, int status, uint64_t unix_ns);
bool early_take(pid_t pid, struct early_exit *exit);

#endif
