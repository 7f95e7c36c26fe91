/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library's only door: an ioctl that stands before the C library's. LD_PRELOAD puts it into kvmtool, which has no option for
 * memory that is shared with other VMs. In any other program, and without our variables, it hands everything on.
 */
#include "filter.h"
#include "shim.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define PUBLIC __attribute__((visibility("default")))

static struct shim shim = {.fence = filter_install, .is_done = ATOMIC_FLAG_INIT};
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare(void)
{
    void *real = dlsym(RTLD_NEXT, "ioctl");
    memcpy(&shim.real, &real, sizeof real); /* ISO C has no cast from an object to a function */
    shim.images = getenv("CLEARPOD_DAX_IMAGES");
    shim.window_place = getenv("CLEARPOD_DAX_WINDOW");
    shim.small_pages = getenv("CLEARPOD_SMALL_PAGES");
    shim.listener = getenv("CLEARPOD_DAX_LISTENER");
}

PUBLIC int ioctl(int fd, unsigned long request, ...)
{
    va_list values;
    va_start(values, request);
    void *argument = va_arg(values, void *);
    va_end(values);
    pthread_once(&once, prepare);
    return shim_ioctl(&shim, fd, request, argument);
}
