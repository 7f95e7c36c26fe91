/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The root of a container: an overlay whose lower is the image, in the layers share or in the window, and whose upper is on
 * the scratch disk or in a tmpfs.
 */
#ifndef CLEARPOD_ROOTFS_H
#define CLEARPOD_ROOTFS_H

#include "helpers/task.h"

/* Unless it is mounted. */
int scratch_mount(const struct arguments *arguments, struct fault *why);
int rootfs_create(const struct task *task, struct fault *why);
int rootfs_destroy(const char *id, struct fault *why);

#endif
