/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pod's directories on the host, over 9p. Mounted once: at the boot, or by the Configure of a guest that is a copy of a
 * template, since a VM can't be saved while they are mounted; and again at the host's request in a pod that was suspended.
 */
#ifndef CLEARPOD_SHARES_H
#define CLEARPOD_SHARES_H

#include "base/arguments.h"
#include "base/fault.h"

int shares_mount(const struct arguments *arguments, struct fault *why);
/*
 * Of 9p's read-ahead, half a MiB around each fault, a program that is mapped has twice in memory what it touches, and a copy of a template
 * shares none of that: a page is read for each fault. Large reads are as large as they were.
 */
void shares_read_less_ahead(void);
/* The one of them that `shares_unmount` unmounts. */
int shares_mount_volumes(const struct arguments *arguments, struct fault *why);
/* Undo; FAULT_STATE when a container still uses them, and then they stay. Only where images come by the window. */
int shares_unmount(struct fault *why);

#endif
