/* SPDX-License-Identifier: Apache-2.0 */
/* Things that release themselves at the end of their scope, and owned descriptors. No other policy here. */
#ifndef CLEARPOD_SCOPE_H
#define CLEARPOD_SCOPE_H

#include <dirent.h>
#include <unistd.h>

static inline void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static inline int steal_fd(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

static inline void close_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

#define scoped_fd __attribute__((cleanup(close_fd)))
#define scoped_dir __attribute__((cleanup(close_dir)))

#endif
