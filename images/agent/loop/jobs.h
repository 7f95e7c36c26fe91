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
    unsigned held;     /* the helper of a process waits for `jobs_go`: so many turns of the loop, 0: it does not */
    bool unwanted;     /* the process is killed as soon as there is anything of it */
    struct fault fault;
    struct outcome outcome;
    struct numbers *numbers; /* Stats: where they come; NULL: none */
};

extern struct job jobs[MAX_JOBS];

/* Room for the numbers of one more job; NULL when all is taken. */
struct numbers *job_numbers(void);
/* Fork a helper. `job` names what it is for; the task's stdio stays the caller's. */
int job_begin(const struct job *job, const struct task *task, struct fault *why);
/* Let helpers run processes, once all is read that the host has sent: it may have given one up, as in a VM that was stopped. */
void jobs_go(bool is_all_read);
/* The host does not want the process any more that a job is starting. */
void job_give_up(const struct process *process);
/* Kill what there is of such processes. */
void jobs_kill_unwanted(void);
/* Milliseconds until `jobs_go` or `jobs_kill_unwanted` has something to do; -1: never. */
int jobs_timeout_ms(void);
/* The helper's socket has something: fill in its result. */
void job_ready(struct job *job);

#endif
