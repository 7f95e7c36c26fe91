/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In a helper of the agent (task.h): containers are started and forgotten as units of systemd, and commands run in the
 * guest's own root. The messages to a unit are in units.h.
 */
#ifndef CLEARPOD_STARTER_H
#define CLEARPOD_STARTER_H

#include "helpers/task.h"

int unit_start(const struct task *task, struct outcome *outcome, struct fault *why);
/* In a container by crun; in the guest's own root, which has the name of GUEST, directly. */
int unit_exec(const struct task *task, struct outcome *outcome, struct fault *why);
int unit_delete(const struct task *task, struct fault *why);

#endif
