/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of containers that are units: their processes are not the agent's children, so the units report them. Runs in the
 * agent's loop.
 */
#ifndef CLEARPOD_ENDINGS_H
#define CLEARPOD_ENDINGS_H

#include "base/fault.h"

#include <stdbool.h>

int endings_listen(struct fault *why);
/* Process the units' reports, for containers that run. Called once per iteration of the loop. */
void endings_sync(void);
/* What the unit has read in its cgroup, which is gone when systemd is done with the unit. */
bool endings_oom_killed(const char *container);

#endif
