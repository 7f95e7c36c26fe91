/* SPDX-License-Identifier: Apache-2.0 */
/* See volumes.h, openat2(2). */
#include "volumes.h"

#include "about.h"
#include "handles.h"
#include "nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum state { FREE, CHANGING, ATTACHED };

static struct {
    enum state state;
    uint32_t users;
    struct agreed agreed;
} volumes[VOLUMES_END];

static int top;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;

void volumes_begin(int root)
{
    top = root;
}

/* No link and no `..` leads out; other file systems may be mounted below. */
static int open_below(const char *path)
{
    struct open_how how = {
        .flags = O_PATH | O_CLOEXEC | O_NOFOLLOW,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    int fd = (int)syscall(SYS_openat2, top, path, &how, sizeof how);
    return fd < 0 ? -errno : fd;
}

/* The mode of the file, or -errno. It may be of any kind: a special file is never opened, but its attributes are the host's. */
static int open_root(uint32_t number, const char *path)
{
    struct about about;
    int fd = open_below(path);
    if (fd < 0)
        return fd;
    int error = about_read(fd, "", &about);
    if (!error && S_ISLNK(about.attr.mode))
        error = -ELOOP;
    if (error) {
        close(fd);
        return error;
    }
    error = nodes_set_root(number, fd);
    return error ? error : (int)about.attr.mode;
}

/* From one state to another that it is not in meanwhile; false if it is not in the first. */
static bool change(uint32_t number, enum state from, enum state to)
{
    pthread_mutex_lock(&lock);
    bool is_there = volumes[number].state == from;
    if (is_there)
        volumes[number].state = to;
    while (is_there && to == CHANGING && volumes[number].users)
        pthread_cond_wait(&left, &lock);
    pthread_mutex_unlock(&lock);
    return is_there;
}

int volumes_attach(uint32_t number, const char *path)
{
    if (number == 0 || number >= VOLUMES_END)
        return -EINVAL;
    if (!change(number, FREE, CHANGING))
        return -EEXIST;
    volumes[number].agreed = (struct agreed){0};
    int mode = open_root(number, path);
    change(number, CHANGING, mode < 0 ? FREE : ATTACHED);
    return mode;
}

int volumes_detach(uint32_t number)
{
    if (number == 0 || number >= VOLUMES_END || !change(number, ATTACHED, CHANGING))
        return -ENOENT;
    handles_drop(number);
    nodes_drop(number);
    change(number, CHANGING, FREE);
    return 0;
}

bool volumes_enter(uint32_t number)
{
    pthread_mutex_lock(&lock);
    bool is_there = number < VOLUMES_END && volumes[number].state == ATTACHED;
    if (is_there)
        volumes[number].users++;
    pthread_mutex_unlock(&lock);
    return is_there;
}

void volumes_leave(uint32_t number)
{
    pthread_mutex_lock(&lock);
    if (--volumes[number].users == 0)
        pthread_cond_broadcast(&left);
    pthread_mutex_unlock(&lock);
}

struct agreed *volumes_agreed(uint32_t number)
{
    return &volumes[number].agreed;
}
