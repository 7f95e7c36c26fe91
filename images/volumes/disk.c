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
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

#define RUN "/run/clearpod"
#define SCRATCH RUN "/scratch"
#define MEMORY RUN "/memory"

enum { PATH_BYTES = 400, LINE = 1024, TRIES = 8 };

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
 * containers may do the same concurrently: the later one uses what exists.
 */
static int open_volume(const char *above, const char *name, const struct how *how)
{
    char new[256];
    scoped_fd int all = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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

/* The disk itself is mounted by its first partition: "/dev/vdb1 /run/clearpod/scratch ext4 ...". */
static int device_of(unsigned partition, char device[64], struct fault *why)
{
    char line[LINE], at[LINE];
    FILE *mounts = fopen("/proc/self/mounts", "re");
    bool is_found = false;
    while (mounts && !is_found && fgets(line, sizeof line, mounts))
        is_found = sscanf(line, "%55s %1023s", device, at) == 2 && !strcmp(at, SCRATCH);
    if (mounts)
        fclose(mounts);
    size_t length = is_found ? strlen(device) : 0;
    if (length == 0 || device[length - 1] != '1')
        return fault_set(why, FAULT_INVALID, "the pod's disk has no partitions");
    snprintf(device + length - 1, 64 - length, "%u", partition);
    return 0;
}

/* The directory `above` of volumes on that partition. Its name is none of a volume. */
static int mount_partition(unsigned partition, char above[PATH_BYTES], struct fault *why)
{
    char device[64];
    struct stat here, there;
    snprintf(above, PATH_BYTES, SCRATCH "/volumes/+%u", partition);
    if (make_dir(above, 0711) < 0)
        return fault_errno(why, "mkdir %s", above);
    if (stat(above, &here) == 0 && stat(SCRATCH, &there) == 0 && here.st_dev != there.st_dev)
        return 0;
    if (device_of(partition, device, why) < 0)
        return -1;
    if (mount(device, above, "ext4", MS_NOATIME, "noinit_itable") == 0 || errno == EBUSY)
        return 0; /* EBUSY: for another container, at the same time */
    return fault_errno(why, "mount the volume's partition %s", device);
}

static int find_above(char **text, bool is_limited, char above[PATH_BYTES], struct fault *why)
{
    unsigned partition;
    int used = 0;
    snprintf(above, PATH_BYTES, SCRATCH "/volumes");
    if (make_dir(above, 0711) < 0)
        return fault_errno(why, "mkdir %s", above);
    if (!is_limited)
        return 0;
    if (sscanf(*text, "%u %n", &partition, &used) != 1)
        return fault_set(why, FAULT_INVALID, "'%s' is no volume on a partition", *text);
    *text += used;
    return mount_partition(partition, above, why);
}

/* NAME[/BELOW] behind owner and mode. Changes `text`. */
struct named {
    struct how how;
    char *name, *below;
};

static int parse(char *text, struct named *to, struct fault *why)
{
    unsigned mode;
    int used = 0;
    if (sscanf(text, "%o %u %u %n", &mode, &to->how.uid, &to->how.gid, &used) != 3)
        return fault_set(why, FAULT_INVALID, "'%s' is no volume that containers share", text);
    to->how.mode = mode;
    to->name = text + used;
    to->below = strchr(to->name, '/');
    if (to->below)
        *to->below++ = 0;
    else
        to->below = to->name + strlen(to->name);
    return 0;
}

static int bind_below(int volume, const struct named *one, const char *place, struct fault *why)
{
    scoped_fd int fd = volume < 0 ? -1 : open_or_make(volume, one->below, O_PATH, make_in, &one->how);
    if (fd < 0)
        return fault_errno(why, "the volume %s%s%s can't be made in the guest", one->name, *one->below ? "/" : "",
                           one->below);
    return bind(fd, place, why);
}

int disk_volume(char *text, const char *place, bool is_limited, struct fault *why)
{
    struct named one;
    char above[PATH_BYTES];
    if (find_above(&text, is_limited, above, why) < 0 || parse(text, &one, why) < 0)
        return -1;
    scoped_fd int volume = open_volume(above, one.name, &one.how);
    return bind_below(volume, &one, place, why);
}

static bool is_mounted(int above, const char *name)
{
    struct stat here, there;
    return fstat(above, &here) == 0 && fstatat(above, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           here.st_dev != there.st_dev;
}

/* The tmpfs of the pod's volume of that name, which the first container mounts that has it. */
static int open_tmpfs(const struct named *one, unsigned long long bytes)
{
    char options[96], path[PATH_BYTES];
    if (make_dir(MEMORY, 0711) < 0)
        return -1;
    scoped_fd int above = open(MEMORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (above < 0 || flock(above, LOCK_EX) < 0)
        return -1;
    if (!is_mounted(above, one->name)) {
        snprintf(options, sizeof options, "size=%llu,mode=%o,uid=%u,gid=%u", bytes, one->how.mode, one->how.uid,
                 one->how.gid);
        snprintf(path, sizeof path, MEMORY "/%.255s", one->name);
        if (make_dir(path, 0700) < 0 || mount("tmpfs", path, "tmpfs", 0, options) < 0)
            return -1;
    }
    return openat(above, one->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int tmpfs_volume(char *text, const char *place, bool is_new, struct fault *why)
{
    struct named one;
    struct statvfs now;
    char options[64];
    unsigned long long bytes;
    int used = 0;
    if (sscanf(text, "%llu %n", &bytes, &used) != 1)
        return fault_set(why, FAULT_INVALID, "'%s' is no volume that is a tmpfs", text);
    if (parse(text + used, &one, why) < 0)
        return -1;
    if (is_new) {
        scoped_fd int volume = open_tmpfs(&one, bytes);
        return bind_below(volume, &one, place, why);
    }
    /* By this place, since in a copied guest the volume may have another name. */
    if (statvfs(place, &now) == 0 && (unsigned long long)now.f_blocks * now.f_frsize == bytes)
        return 0;
    snprintf(options, sizeof options, "size=%llu", bytes);
    if (mount(NULL, place, NULL, MS_REMOUNT, options) < 0)
        return fault_errno(why, "the volume %s can't have a size of %llu bytes", one.name, bytes);
    return 0;
}

/* What containers of an earlier VM have left there: this one's have a directory in memory before they have one on the disk. */
static void clean_disk(void)
{
    char place[PATH_BYTES];
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
