/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pod without a host that sends requests: a plan, made of the requests that a host would send, is in the share,
 * and so are the files with the apps' exit codes (docs/dev/link.md, "Autonomous pods"). The link works as well.
 */
#ifndef CLEARPOD_AUTONOMOUS_H
#define CLEARPOD_AUTONOMOUS_H

#include "base/fault.h"

/* Open the plan; in a template that is done later, by autonomous_go. */
int autonomous_begin(struct fault *why);
/* In a template: wait for the launcher's signal, once the loop runs. */
int autonomous_wait(void);
/* The console is readable; if it is that signal, mount the shares and begin with the plan. */
int autonomous_go(struct fault *why);
/* Continue with the plan. Called once per iteration of the loop; returns milliseconds until there is more to do, -1: never. */
int autonomous_sync(void);
/* Report the pod's exit code to the launcher; the VM ends after that. */
void autonomous_end(void);

#endif
