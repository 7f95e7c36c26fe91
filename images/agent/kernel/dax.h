/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images that the host has put into the guest's window: mounted from a range of the window's device, in place (DAX) if that
 * is memory and no disk. Called by requests.c. It decides nothing about ranges: the host does, and the kernel refuses what overlaps.
 */
#ifndef CLEARPOD_DAX_H
#define CLEARPOD_DAX_H

#include "agent.pb.h"
#include "base/fault.h"

#define DAX_DIR "/run/clearpod/window"

/* The option by which an erofs on this device is read in place; empty on a disk. */
const char *dax_option(const char *device);
/* `device` is the window's, empty when this guest has none. On failure nothing of the image stays. */
int dax_mount(const char *device, const clearpod_agent_MountImage *image, struct fault *why);
/* FAULT_STATE when a container still uses it; it is then mounted as before. */
int dax_unmount(const char *device, const char *name, struct fault *why);

#endif
