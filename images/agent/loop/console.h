/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an autonomous pod's apps write, and what is typed for them: records between helpers here and the launcher on the
 * host (docs/dev/link.md, "The console of an autonomous pod"). Helpers block, so that the agent's loop never does.
 */
#ifndef CLEARPOD_CONSOLE_H
#define CLEARPOD_CONSOLE_H

#include "base/fault.h"
#include "loop/process.h"

enum { LOG_OUT = 256 };

/* In a template: watch the device (T_CONSOLE), on which the launcher signals a copy that it has its pod. */
int console_watch(void);
/* Whether it has; not watched any more then. */
bool console_said_go(void);
/* Open the device and write the mark for the launcher. */
int console_open(struct fault *why);
/* The process's ends of its pipes, where it has no streams: output and error, and with `stdio.console` its input. With
 * `stdio.log` the ends that it has lead past the log. */
int console_lend(const struct process *process, int ends[3], struct fault *why);
/* The process's terminal is the launcher's; owned from here on. */
void console_terminal(int tty);
/* Flush all output, and write the pod's exit code. The launcher then ends the VM. */
void console_end(int code, const char *why);

#endif
