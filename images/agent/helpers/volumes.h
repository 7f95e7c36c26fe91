/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volumes of a container: those of the host, and those that the guest has itself, on its disk or in memory. They are made by a
 * program of the system image (images/volumes/main.c): not all pods have them, and the agent is in every guest's memory.
 */
#ifndef CLEARPOD_VOLUMES_H
#define CLEARPOD_VOLUMES_H

#include "base/fault.h"

/* `verb` is "make", once the root is there and its disk is mounted, "refresh", or "drop" after they were unbound. */
int volumes_run(const char *verb, const char *id, struct fault *why);

#endif
