/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library's only door: an mmap64 that stands before the C library's. LD_PRELOAD puts it into QEMU, which can begin with a file's
 * content as its guest's memory, but then never gives back what the guest has freed. In any other program, and without our variable, it
 * hands everything on.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define VARIABLE "CLEARPOD_RAM"

enum { FAILED = 78 };

typedef void *mapping(void *, size_t, int, int, int, off_t);

static mapping *real;
static int file = -1;
static size_t bytes; /* 0: there is nothing to do */
static atomic_flag is_done = ATOMIC_FLAG_INIT;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static _Noreturn void fail(const char *what)
{
    dprintf(STDERR_FILENO, "qemu-shim: %s\n", what);
    _exit(FAILED);
}

/* FD:BYTES, decimal. */
static void prepare(void)
{
    void *found = dlsym(RTLD_NEXT, "mmap64");
    memcpy(&real, &found, sizeof real); /* ISO C has no cast from an object to a function */
    const char *text = getenv(VARIABLE);
    if (!text)
        return;
    char *end;
    errno = 0;
    long fd = strtol(text, &end, 10);
    unsigned long long size = *end == ':' ? strtoull(end + 1, &end, 10) : 0;
    if (errno || *end || *text < '0' || *text > '9' || fd < 0 || fd > 65535 || !size || size % 4096)
        fail(VARIABLE " is not FD:BYTES");
    file = (int)fd;
    bytes = size;
}

/* QEMU reserves room, and then puts all of the guest's memory there at once. */
static int is_guest_memory(size_t size, int protection, int flags)
{
    const int needed = MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE;
    return bytes && size == bytes && (flags & needed) == needed && (protection & PROT_WRITE);
}

PUBLIC void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset)
{
    pthread_once(&once, prepare);
    if (!is_guest_memory(size, protection, flags) || atomic_flag_test_and_set(&is_done))
        return real(address, size, protection, flags, fd, offset);
    void *mapped = real(address, size, protection, flags & ~MAP_ANONYMOUS, file, 0);
    if (mapped == MAP_FAILED)
        fail("the guest's memory can't be mapped");
    return mapped;
}
