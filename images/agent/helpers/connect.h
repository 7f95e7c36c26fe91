/* SPDX-License-Identifier: Apache-2.0 */
/* Connects to ports of the pod's loopback. The agent is in the network namespace of the pod, so its loopback is the pod's. */
#ifndef CLEARPOD_CONNECT_H
#define CLEARPOD_CONNECT_H

#include "helpers/task.h"

/* 127.0.0.1, and ::1 where that fails. The error is the first one's. */
int connect_port(const struct task *task, struct outcome *outcome, struct fault *why);

#endif
