/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that the kernel may not have found yet. Called by boot.c and dax.c. */
#ifndef CLEARPOD_DEVICE_H
#define CLEARPOD_DEVICE_H

/*
 * A descriptor for reading `device`, or -1 and errno. A device that is missing is waited for, 2 s at most: the kernel finds
 * persistent memory in a thread that PID 1 does not wait for, and makes its file some time before it can be opened.
 */
int device_open(const char *device);

#endif
