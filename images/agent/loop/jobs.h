/* SPDX-License-Identifier: Apache-2.0 */
/* Helpers at work: forked to run a task (helpers/task.h), reaped, their result collected for replies.c. */
#ifndef CLEARPOD_JOBS_H
#define CLEARPOD_JOBS_H

#include "helpers/task.h"
#include "loop/process.h"

enum { MAX_JOBS = 32 };

struct job {
    bool used, done;
    enum task_kind kind;
    struct asker asker;      /* in another epoch the reply is dropped */
    struct process *process; /* NULL: of none */
    int socket;
    pid_t helper;
    bool failed, died; /* died: its helper was killed, and may have left anything */
    struct fault fault;
    struct outcome outcome;
    struct numbers *numbers; /* Stats: where they come; NULL: none */
};

extern struct job jobs[MAX_JOBS];

/* Room for the numbers of one more job; NULL when all is taken. */
struct numbers *job_numbers(void);
/* Fork a helper. `job` names what it is for; the task's stdio stays the caller's. */
int job_begin(const struct job *job, const struct task *task, struct fault *why);
/* The helper's socket has something: fill in its result. */
void job_ready(struct job *job);

#endif
