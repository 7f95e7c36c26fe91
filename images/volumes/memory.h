/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volumes in the guest's memory: copies of what the host shows by 9p, of which the host alone decides. In them maps, inotify
 * and caches are as in any tmpfs. A directory of the kubelet's changes there as it does on the host, in one step.
 */
#ifndef CLEARPOD_VOLUMES_MEMORY_H
#define CLEARPOD_VOLUMES_MEMORY_H

#include "base/fault.h"

#include <stdbool.h>

/* Copy what has changed in `text`, NUMBER BYTES: mount NUMBER of the bundle. With `is_new` a tmpfs at `place` is mounted
 * for it first. A directory becomes its root, anything else `file` in it. */
int memory_volume(const char *text, const char *bundle, const char *place, bool is_new, struct fault *why);

/* Of one that is a file of the container's: let the host have the last BYTES of it. */
int memory_output(const char *text, const char *bundle, const char *place, struct fault *why);

#endif
