/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library's only door: an mmap64 that stands before the C library's. LD_PRELOAD puts it into QEMU, which can begin with a file's
 * content as its guest's memory, but then never gives back what the guest has freed; and which takes a page fault for each page of a guest
 * that it loads. In any other program, and without our variables, it hands everything on.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define VARIABLE "CLEARPOD_RAM"
#define LOADS "CLEARPOD_LOADS"

enum { FAILED = 78, CODE_BYTES = 16 << 20 };

typedef void *mapping(void *, size_t, int, int, int, off_t);

static mapping *real;
static int file = -1;
static size_t bytes;  /* 0: there is nothing to do */
static size_t loaded; /* of a guest that will be loaded; 0: none will */
static atomic_flag is_done = ATOMIC_FLAG_INIT;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static _Noreturn void fail(const char *what)
{
    dprintf(STDERR_FILENO, "qemu-shim: %s\n", what);
    _exit(FAILED);
}

/* Decimal, up to `last`; the next character is at `*end`. 0 is none. */
static size_t number(const char *text, char **end, size_t last)
{
    errno = 0;
    unsigned long long value = strtoull(text, end, 10);
    return errno || *text < '0' || *text > '9' || value > last ? 0 : (size_t)value;
}

static size_t whole_pages(const char *text, const char *wrong)
{
    char *end;
    size_t size = number(text, &end, SIZE_MAX);
    if (!size || *end || size % 4096)
        fail(wrong);
    return size;
}

/* FD:BYTES, or BYTES. */
static void prepare(void)
{
    void *found = dlsym(RTLD_NEXT, "mmap64");
    memcpy(&real, &found, sizeof real); /* ISO C has no cast from an object to a function */
    const char *text = getenv(VARIABLE);
    if (text) {
        char *end;
        file = (int)number(text, &end, 65535);
        if (!file || *end != ':')
            fail(VARIABLE " is not FD:BYTES");
        bytes = whole_pages(end + 1, VARIABLE " is not FD:BYTES");
    }
    if ((text = getenv(LOADS)))
        loaded = whole_pages(text, LOADS " is not BYTES");
}

/* QEMU reserves room, and then puts all of the guest's memory there at once. */
static int is_guest_memory(size_t expected, size_t size, int protection, int flags)
{
    const int needed = MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE;
    return expected && size == expected && (flags & needed) == needed && (protection & PROT_WRITE);
}

static int is_for_code(size_t size, int protection, int flags)
{
    return size >= CODE_BYTES && (flags & MAP_ANONYMOUS) && (protection & PROT_WRITE) && (protection & PROT_EXEC);
}

/*
 * QEMU has time now, and not when the guest is there. It looks at each page that is to be zero, which is no page yet: all are the kernel's
 * page of zeros from here on. And any guest takes so much translated code before it has answered anything. Old kernels can't do it.
 */
static void touch(void *mapped, size_t size, int protection, int flags)
{
    int error = errno;
    if (is_guest_memory(loaded, size, protection, flags))
        madvise(mapped, size, MADV_POPULATE_READ);
    else if (is_for_code(size, protection, flags))
        madvise(mapped, CODE_BYTES, MADV_POPULATE_WRITE);
    errno = error;
}

PUBLIC void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset)
{
    pthread_once(&once, prepare);
    if (!is_guest_memory(bytes, size, protection, flags) || atomic_flag_test_and_set(&is_done)) {
        void *usual = real(address, size, protection, flags, fd, offset);
        if (loaded && usual != MAP_FAILED)
            touch(usual, size, protection, flags);
        return usual;
    }
    void *mapped = real(address, size, protection, flags & ~MAP_ANONYMOUS, file, 0);
    if (mapped == MAP_FAILED)
        fail("the guest's memory can't be mapped");
    return mapped;
}
