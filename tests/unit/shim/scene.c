/* SPDX-License-Identifier: Apache-2.0 */
/* See scene.h. */
#include "scene.h"

#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char directory[] = "/tmp/shimXXXXXX";
static char path[128];

static int forget(const char *name, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(name);
}

static void forget_all(void)
{
    nftw(directory, forget, 8, FTW_DEPTH | FTW_PHYS);
}

const char *path_of(const char *name)
{
    if (strchr(directory, 'X') && strcmp(directory + strlen(directory) - 6, "XXXXXX") == 0) {
        CHECK(mkdtemp(directory));
        atexit(forget_all);
    }
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void fill_file(int fd, size_t bytes, int fill)
{
    char *block = malloc(bytes + 1);
    memset(block, fill, bytes);
    CHECK(write(fd, block, bytes) == (ssize_t)bytes);
    free(block);
}

int file_of(size_t bytes, int fill)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    CHECK(fd >= 0);
    fill_file(fd, bytes, fill);
    return fd;
}

const char *file_at(const char *name, size_t bytes, int fill)
{
    int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    fill_file(fd, bytes, fill);
    close(fd);
    return path;
}

int descriptor_count(void)
{
    int count = 0;
    DIR *all = opendir("/proc/self/fd");
    while (all && readdir(all))
        count++;
    closedir(all);
    return count;
}
