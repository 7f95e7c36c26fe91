/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The numbers that Stats asks for, as the kernel counts them. What is missing, as when a container just ended, is 0.
 */
#ifndef CLEARPOD_STATS_H
#define CLEARPOD_STATS_H

#include "helpers/task.h"

/* Fill in the numbers of the pod, and those of the containers whose ids `task->numbers` has. */
void stats_collect(const struct task *task);

#endif
