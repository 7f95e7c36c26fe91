/* SPDX-License-Identifier: Apache-2.0 */
/* Configure: the pod-wide settings, all quick system calls, done at once in the loop. */
#ifndef CLEARPOD_CONFIGURE_H
#define CLEARPOD_CONFIGURE_H

#include "link/message.h"

int configure(const clearpod_agent_Configure *settings, struct fault *why);

#endif
