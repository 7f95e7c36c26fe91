/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volumes of a container that the guest has itself, on its disk or in memory. They are made by a program of the system
 * image (images/guest/volumes.c): few pods have them, and the agent is in every guest's memory.
 */
#ifndef CLEARPOD_VOLUMES_H
#define CLEARPOD_VOLUMES_H

#include "helpers/task.h"

/* `verb` is "make", once the root is there and its disk is mounted, or "refresh". They are unbound with the root. */
int volumes_run(const char *verb, const struct task *task, struct fault *why);

#endif
