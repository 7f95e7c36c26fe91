/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs crun and understands its answers: the pid file, the log, and the terminal that comes through the console
 * socket. The helper's pid makes the names of the files unique.
 */
#ifndef CLEARPOD_CRUN_H
#define CLEARPOD_CRUN_H

#include "helpers/task.h"

int crun_start(const struct task *task, struct outcome *outcome, struct fault *why);
int crun_exec(const struct task *task, struct outcome *outcome, struct fault *why);
int crun_update(const struct task *task, struct fault *why);
int crun_delete(const struct task *task, struct fault *why);
/* Remove the files of a helper that was killed. */
void crun_forget(pid_t helper);

#endif
