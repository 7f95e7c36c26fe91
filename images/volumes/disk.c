/* SPDX-License-Identifier: Apache-2.0 */
/* See disk.h. */
#include "disk.h"

#include "base/files.h"
#include "base/scope.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

#define RUN "/run/clearpod"
#define SCRATCH RUN "/scratch"

enum { ROOM = 400, TRIES = 8 };

struct how {
    mode_t mode;
    uid_t uid;
    gid_t gid;
};

bool disk_was_used(void)
{
    return access(SCRATCH "/volumes", F_OK) == 0;
}

static int make_in(int above, const char *name, const void *context)
{
    const struct how *how = context;
    if (mkdirat(above, name, 0700) < 0 && errno != EEXIST)
        return -1;
    int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && (fchown(fd, how->uid, how->gid) < 0 || fchmod(fd, how->mode) < 0))
        close_fd(&fd);
    return fd;
}

/* Not in place of one that is there: a container may have bound that. */
static int rename_new(int all, const char *new, const char *name)
{
    return (int)syscall(SYS_renameat2, all, new, all, name, RENAME_NOREPLACE);
}

/*
 * The volume itself has its name only when it is whole, so that one that was begun when a VM died is begun anew. Other
 * containers may do the same at the same time: who is late takes what is there.
 */
static int open_volume(const char *name, const struct how *how)
{
    char new[256];
    if (make_dir(SCRATCH "/volumes", 0711) < 0)
        return -1;
    scoped_fd int all = open(SCRATCH "/volumes", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(new, sizeof new, ".%.253s", name);
    for (int i = 0; all >= 0 && i < TRIES; i++) {
        int fd = openat(all, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 || errno != ENOENT)
            return fd;
        scoped_fd int made = make_in(all, new, how);
        if (made < 0 && errno != ENOENT)
            return -1;
        if (made >= 0 && rename_new(all, new, name) < 0 && errno == EEXIST)
            unlinkat(all, new, AT_REMOVEDIR);
    }
    return -1;
}

static int bind(int fd, const char *place, struct fault *why)
{
    char source[32];
    struct stat st;
    snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
    if (fstat(fd, &st) < 0)
        return fault_errno(why, "look at the volume for %s", place);
    scoped_fd int file = S_ISDIR(st.st_mode) ? -1 : open(place, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (S_ISDIR(st.st_mode) ? make_dir(place, 0755) < 0 : file < 0)
        return fault_errno(why, "make %s", place);
    if (mount(source, place, NULL, MS_BIND, NULL) < 0)
        return fault_errno(why, "bind the volume at %s", place);
    return 0;
}

int disk_volume(char *text, const char *place, struct fault *why)
{
    struct how how;
    unsigned mode;
    int used = 0;
    if (sscanf(text, "%o %u %u %n", &mode, &how.uid, &how.gid, &used) != 3)
        return fault_set(why, FAULT_INVALID, "'%s' is no volume on the disk", text);
    how.mode = mode;
    char *name = text + used, *below = strchr(name, '/');
    if (below)
        *below++ = 0;
    scoped_fd int volume = open_volume(name, &how);
    scoped_fd int fd = volume < 0 ? -1 : open_or_make(volume, below ? below : "", O_PATH, make_in, &how);
    if (fd < 0)
        return fault_errno(why, "the volume %s%s%s can't be made on the pod's disk", name, below ? "/" : "",
                           below ? below : "");
    return bind(fd, place, why);
}

/* What containers of an earlier VM have left there: this one's have a directory in memory before they have one on the disk. */
static void clean_disk(void)
{
    char place[ROOM];
    struct fault ignored;
    scoped_dir DIR *list = opendir(SCRATCH);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        const char *name = entry->d_name;
        if (name[0] == '.' || !strcmp(name, "volumes") || !strcmp(name, "lost+found"))
            continue;
        snprintf(place, sizeof place, RUN "/containers/%.200s", name);
        if (access(place, F_OK) == 0)
            continue;
        snprintf(place, sizeof place, SCRATCH "/%.200s", name);
        remove_tree(place, &ignored);
    }
}

void disk_clean_later(void)
{
    if (fork() != 0)
        return;
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    setsid();
    clean_disk();
    _exit(0);
}
