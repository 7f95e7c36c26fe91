/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a helper is asked for, and what comes of it. A helper is a forked child of the agent that may block (mounts, crun,
 * removing trees): plain sequential code, so that the agent's loop never waits. loop/jobs.c forks and collects.
 */
#ifndef CLEARPOD_TASK_H
#define CLEARPOD_TASK_H

#include "base/arguments.h"
#include "base/fault.h"

#include <sys/types.h>
#include <sys/wait.h>

struct numbers;

enum task_kind { TASK_CREATE, TASK_START, TASK_EXEC, TASK_UPDATE, TASK_DELETE, TASK_STATS, TASK_CONNECT, TASK_TUNE };

struct task {
    enum task_kind kind;
    const struct arguments *arguments;
    const char *id;
    uint32_t exec;
    uint16_t port;              /* Connect */
    const char *lower;          /* Create: below the layers or in the window; Tune: the text */
    const char *file;           /* Exec, Update: in the bundle; Tune: in the cgroup */
    bool tmpfs;                 /* Create */
    bool disk, files;           /* Stats: of the request */
    struct numbers *numbers;    /* Stats: has the ids of the containers, is filled in, and sent to the agent */
    bool window, shared;        /* Create; `shared`: `lower` itself is the root */
    const char (*volumes)[256]; /* Create: directories of the root */
    unsigned volume_count;
    bool guest_volumes; /* Create: the bundle has a list of those that are the guest's own */
    bool raw;           /* the container's documents have strings that are no UTF-8 */
    bool apparmor;      /* Create: its bundle has a policy */
    bool was_started;   /* Delete: crun knows it */
    bool tty;
    uint16_t width, height;
    int stdio[3];     /* the process's ends of its pipes; -1: /dev/null */
    bool followed[3]; /* those that lead to streams of the host's */
};

/* The pid of what a helper started; its terminal, or the connection (owned by the receiver, -1: none). */
struct outcome {
    pid_t pid;
    int fd;
};

/* The exit code as shells count: that of the process itself, or 128 + signal. */
static inline int exit_code_of(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

#endif
