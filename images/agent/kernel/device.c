/* SPDX-License-Identifier: Apache-2.0 */
/* See device.h. */
#include "kernel/device.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

enum { TRIES = 20000, PAUSE_NS = 100000 };

int device_open(const char *device)
{
    int fd = -1;
    for (int i = 0; i < TRIES && (fd = open(device, O_RDONLY | O_CLOEXEC)) < 0; i++) {
        if (errno != ENOENT && errno != ENXIO) /* no file; a file whose device is not there */
            return -1;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
    return fd;
}
