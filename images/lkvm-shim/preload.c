/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library's only doors: an ioctl, a mmap64 and a pwritev64 that stand before the C library's. LD_PRELOAD puts them into kvmtool, which has no
 * option for memory that is shared with other VMs. In any other program, and without our variables, they hand everything on.
 */
#include "align.h"
#include "disk.h"
#include "filter.h"
#include "shim.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define PUBLIC __attribute__((visibility("default")))

static struct shim shim = {.fence = filter_install, .is_done = ATOMIC_FLAG_INIT};
static void pause_a_moment(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
}

static void *(*map)(void *, size_t, int, int, int, off_t);
static struct disk disk = {.pause = pause_a_moment};
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare(void)
{
    void *real = dlsym(RTLD_NEXT, "ioctl");
    memcpy(&shim.real, &real, sizeof real); /* ISO C has no cast from an object to a function */
    real = dlsym(RTLD_NEXT, "mmap64");
    memcpy(&map, &real, sizeof real);
    real = dlsym(RTLD_NEXT, "pwritev64");
    memcpy(&disk.real, &real, sizeof real);
    disk_find(&disk, getenv("CLEARPOD_DISK"));
    shim.images = getenv("CLEARPOD_DAX_IMAGES");
    shim.window_place = getenv("CLEARPOD_DAX_WINDOW");
    shim.small_pages = getenv("CLEARPOD_SMALL_PAGES");
    if (getenv("CLEARPOD_FILTERED"))
        shim.fence = filter_close;
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

static void *map_anonymous(size_t bytes, int protection, int flags)
{
    return map(NULL, bytes, protection, flags, -1, 0);
}

PUBLIC void *mmap64(void *address, size_t bytes, int protection, int flags, int fd, off64_t offset)
{
    pthread_once(&once, prepare);
    if ((shim.images || shim.window_place) && align_concerns(address, bytes, flags))
        return align_map(map_anonymous, bytes, protection, flags);
    return map(address, bytes, protection, flags, fd, offset);
}

PUBLIC ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off_t offset)
{
    pthread_once(&once, prepare);
    return disk_write(&disk, fd, pieces, count, offset);
}
