/* SPDX-License-Identifier: Apache-2.0 */
/* What happens at the VMM's ioctls. preload.c calls it with the C library's ioctl, the tests with a table of their own. */
#ifndef CLEARPOD_SHIM_SHIM_H
#define CLEARPOD_SHIM_SHIM_H

#include "window.h"

#include <stdatomic.h>

enum {
    SHIM_REFUSED = 78,    /* exit code of the VMM; EX_CONFIG of sysexits.h */
    SHIM_FIRST_SLOT = 400 /* kvmtool counts its own from 0 */
};

typedef int ioctl_fn(int fd, unsigned long request, ...);

/* One per process. `images`, `window_place`, `small_pages` and `listener` are the variables' values, NULL when they are absent.
 * `fence` is filter_install, or NULL where the process is to stay as it is. */
struct shim {
    ioctl_fn *real;
    int (*fence)(void);
    const char *images, *window_place, *small_pages, *listener;
    atomic_flag is_done;
    bool has_deadline;
    struct window window;
};

/* Like ioctl(2). Ends the process with SHIM_REFUSED and one line on standard error when a slot can't be had. */
int shim_ioctl(struct shim *shim, int fd, unsigned long request, void *argument);

#endif
