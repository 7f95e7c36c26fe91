/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pod without a host that tells it what to do: a plan, made of the requests that a host would send, is in the share,
 * and so are the files that say how each app ended (docs/dev/link.md, "Autonomous pods"). The link works beside that.
 */
#ifndef CLEARPOD_AUTONOMOUS_H
#define CLEARPOD_AUTONOMOUS_H

#include "base/fault.h"

/* Open the plan; in a template that is done later, by autonomous_go. */
int autonomous_begin(struct fault *why);
/* In a template: wait for the launcher's word, once the loop is there. */
int autonomous_wait(void);
/* The console has something to say; when it is that word, mount the shares and begin with the plan. */
int autonomous_go(struct fault *why);
/* Go on with the plan. Called once per turn of the loop; returns milliseconds until there is more to do, -1: never. */
int autonomous_sync(void);
/* Tell the launcher how the pod ended; the VM ends after that. */
void autonomous_end(void);

#endif
