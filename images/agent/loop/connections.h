/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that the host makes to ports of the pod's loopback. Each has a slot in the table of processes, for its
 * streams; it has no pid, and process_find does not see it.
 */
#ifndef CLEARPOD_CONNECTIONS_H
#define CLEARPOD_CONNECTIONS_H

#include "loop/jobs.h"

/* Start a helper that connects, for `asker`. */
int connection_open(const clearpod_agent_Connect *connect, const struct asker *asker, struct fault *why);
/* The helper is done. */
void connection_opened(struct job *job);
/* Cut it; idempotent. */
void connection_close(uint32_t number);
/* The host process that asked is gone, and so is its client. */
void connections_new_epoch(void);
/* Both directions have ended: forget it. Called once per iteration of the loop. */
void connection_sync(struct process *connection);

#endif
