/* SPDX-License-Identifier: Apache-2.0 */
/* The end of processes: from the reaped pid to the Exited event, which follows the last byte of the output. */
#ifndef CLEARPOD_EXITS_H
#define CLEARPOD_EXITS_H

#include "loop/process.h"

/* Reap a process that has ended; its pid, 0 when there is none. When crun could not execute the command, which it
 * says on the command's stderr, `status` is that of 126, and not 1, with which many commands end. */
pid_t exit_reap(int *status);
/* A pid was reaped. */
void exit_reaped(pid_t pid, int status);
/* Exits that are due go to the host. Called once per iteration of the loop. */
void exit_sync(struct process *process);
/* Milliseconds until exit_sync has something to do without any event; -1: never. */
int exit_timeout_ms(void);
void process_started(struct process *process, pid_t pid);

#endif
