/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a helper: which steps make up a task. */
#ifndef CLEARPOD_RUN_H
#define CLEARPOD_RUN_H

#include "helpers/task.h"

int task_run(const struct task *task, struct outcome *outcome, struct fault *why);

#endif
