/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work that may block (mounts, crun, removing trees): plain sequential code, run by a forked helper so that the
 * agent's loop never waits. jobs.c forks and collects.
 */
#ifndef CLEARPOD_TASK_H
#define CLEARPOD_TASK_H

#include "fault.h"
#include "words.h"

#include <sys/types.h>

struct numbers;

enum task_kind { TASK_CREATE, TASK_START, TASK_EXEC, TASK_UPDATE, TASK_DELETE, TASK_STATS, TASK_CONNECT, TASK_TUNE };

struct task {
    enum task_kind kind;
    const struct words *words;
    const char *id;
    uint32_t exec;
    uint16_t port;      /* Connect */
    const char *lower;  /* Create: below the layers share, in the window, or `shared` below the volumes; Tune: the text */
    const char *file;   /* Exec, Update: in the bundle; Tune: in the cgroup */
    bool tmpfs;         /* Create */
    uint32_t first;     /* Stats: the three of the request */
    bool disk, files;
    struct numbers *numbers; /* Stats: filled in, and sent to the agent */
    bool window, shared; /* Create */
    const char (*volumes)[256]; /* Create: directories of the root */
    unsigned volume_count;
    bool was_started;   /* Delete: crun knows it */
    bool tty;
    uint16_t width, height;
    int stdio[3];       /* the process's ends of its pipes; -1: /dev/null */
};

/* What a helper found out: the pid of what it started; its terminal, or the connection (owned by the receiver, -1:
 * none). */
struct outcome {
    pid_t pid;
    int fd;
};

int task_run(const struct task *task, struct outcome *outcome, struct fault *why);

/* The parts of it. */
int rootfs_create(const struct task *task, struct fault *why);
int rootfs_destroy(const char *id, struct fault *why);
int filecaps_apply(const char *root, const char *list, struct fault *why);
int crun_start(const struct task *task, struct outcome *outcome, struct fault *why);
int crun_exec(const struct task *task, struct outcome *outcome, struct fault *why);
int crun_update(const struct task *task, struct fault *why);
int stats_collect(const struct task *task, struct fault *why);
int connect_port(const struct task *task, struct outcome *outcome, struct fault *why);
int tune_write(const struct task *task, struct fault *why);
int crun_delete(const struct task *task, struct fault *why);
/* Remove the files of a helper that was killed. */
void crun_forget(pid_t helper);

#endif
