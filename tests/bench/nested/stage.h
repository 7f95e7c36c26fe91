/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the first programs of the nested benchmark's machines share: marks, modules, an end. Included by machine.c (the
 * outer machine) and debian.c (a distribution's guest); both are static and built by build.py with musl-gcc.
 */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

/* Says on the console what could not be done, and ends the machine. */
__attribute__((noreturn)) static inline void fail(const char *what, const char *which)
{
    printf("bench.error %s %s: %s\n", what, which, strerror(errno));
    fflush(stdout);
    sleep(1); /* the serial port is slower than the end */
    reboot(RB_AUTOBOOT);
    _exit(1);
}

static inline void mount_at(const char *type, const char *target)
{
    mkdir(target, 0755);
    if (mount(type, target, type, 0, NULL) < 0 && errno != EBUSY)
        fail("can't mount", target);
}

/* A mark as clearpod's agent writes it. */
static inline void mark(const char *name, uint64_t tsc)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("\nclearpod.mark %s %llu %llu\n", name, now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec,
           (unsigned long long)tsc);
    fflush(stdout);
}

static inline void load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        fail("can't load", path);
    close(fd);
}

/* Calls `each` for the files of a directory, in the order of their names. */
static inline void for_each(const char *directory, void (*each)(const char *path))
{
    struct dirent **names;
    int count = scandir(directory, &names, NULL, alphasort);
    if (count < 0)
        fail("can't read", directory);
    for (int i = 0; i < count; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            each(path);
        free(names[i]);
    }
    free(names);
}
