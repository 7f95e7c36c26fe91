/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VMM's root: a small tmpfs over the pod's directory, in a mount namespace of its own, with the places of the
 * host bound into it, and then nothing else. All mounts here end with the process. See mount(2), open_tree(2),
 * mount_setattr(2), pivot_root(2).
 */
#include "root.h"

#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define ROOT_OPTIONS "mode=0755,size=1m,nr_inodes=4096"

enum { TREE = 0x1 /* OPEN_TREE_CLONE */, EMPTY_FROM = 0x4 /* MOVE_MOUNT_F_EMPTY_PATH */, RECURSIVE = 0x8000 };

static int trees[PLACES_MAX];

/* Copies of the mounts, taken before the new root covers the pod's directory. */
static bool open_trees(const struct description *description)
{
    for (size_t i = 0; i < description->place_count; i++) {
        trees[i] = (int)syscall(SYS_open_tree, AT_FDCWD, description->places[i].path, TREE | O_CLOEXEC | RECURSIVE);
        if (trees[i] < 0)
            return failed("copy the mounts at", description->places[i].path);
    }
    return true;
}

/* Before it is mounted anywhere, and not below: other mounts have owners of their own, mapped or not. */
static bool map_owners(int tree, const struct place *place, int ids)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)ids};
    return !place->mapped || syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr) == 0 ||
           failed("make an idmapped mount (which its file system must support) at", place->path);
}

/* No device opens there and no set-uid bit counts. Read-only goes for what is mounted below too, but not below a mapped place:
 * that was mounted for this VMM, with the rights that it is to have. */
static bool restrict_tree(int tree, const struct place *place)
{
    struct mount_attr inert = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    struct mount_attr fixed = {.attr_set = MOUNT_ATTR_RDONLY};
    unsigned how_deep = AT_EMPTY_PATH | (place->mapped ? 0 : RECURSIVE);
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | RECURSIVE, &inert, sizeof inert) < 0 ||
        (!place->writable && syscall(SYS_mount_setattr, tree, "", how_deep, &fixed, sizeof fixed) < 0))
        return failed("restrict the mounts at", place->path);
    return true;
}

/* Makes the directories above `path`, a path in the new root without a slash in front, and itself one if asked for. */
static bool make_directories(const char *path, bool whole)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return failed("make", path);
    }
    memcpy(part, path, length + 1);
    for (char *at = part; *at; at++) {
        if (*at != '/')
            continue;
        *at = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return failed("make the directory", part);
        *at = '/';
    }
    return !whole || mkdir(part, 0755) == 0 || errno == EEXIST || failed("make the directory", part);
}

static bool make_target(int tree, const char *path)
{
    struct stat about;
    if (fstat(tree, &about) < 0)
        return failed("look at", path);
    if (S_ISDIR(about.st_mode))
        return make_directories(path, true);
    return make_directories(path, false) &&
           (mknod(path, S_IFREG | 0644, 0) == 0 || errno == EEXIST || failed("make the file", path));
}

static bool put_places(const struct description *description, int ids)
{
    for (size_t i = 0; i < description->place_count; i++) {
        const struct place *place = &description->places[i];
        const char *path = place->path + 1;
        if (!map_owners(trees[i], place, ids) || !restrict_tree(trees[i], place))
            return false;
        if (access(path, F_OK) < 0 && !make_target(trees[i], path))
            return false;
        if (syscall(SYS_move_mount, trees[i], "", AT_FDCWD, path, EMPTY_FROM) < 0)
            return failed("mount", place->path);
        close(trees[i]);
    }
    return true;
}

static bool make_links(const struct description *description)
{
    for (size_t i = 0; i < description->link_count; i++)
        if (!make_directories(description->links[i].path + 1, false) ||
            (symlink(description->links[i].target, description->links[i].path + 1) < 0 &&
             failed("make the link", description->links[i].path)))
            return false;
    return true;
}

static bool make_devices(const struct description *description, uint32_t owner)
{
    for (size_t i = 0; i < description->device_count; i++) {
        const struct device *device = &description->devices[i];
        const char *path = device->path + 1;
        if (!make_directories(path, false))
            return false;
        if (mknod(path, S_IFCHR | 0600, makedev(device->major, device->minor)) < 0 || lchown(path, owner, owner) < 0)
            return failed("make the device", device->path);
    }
    return true;
}

/* What the VMM writes for itself is bounded, and ends with it. */
static bool make_homes(const struct description *description, uint32_t owner)
{
    char options[128];
    for (size_t i = 0; i < description->home_count; i++) {
        const struct numbered *home = &description->homes[i];
        snprintf(options, sizeof options, "mode=0700,uid=%u,gid=%u,nr_inodes=64,size=%llu", owner, owner,
                 (unsigned long long)home->number);
        if (!make_directories(home->text + 1, true))
            return false;
        if (mount("clearpod", home->text + 1, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
            return failed("mount a tmpfs on", home->text);
    }
    return true;
}

/* Of its own pid namespace, where it is alone; and nothing but processes. */
static bool mount_proc(void)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (!make_directories("proc", true))
        return false;
    if (mount("proc", "proc", "proc", flags, "subset=pid") < 0 && mount("proc", "proc", "proc", flags, NULL) < 0)
        return failed("mount", "/proc");
    return true;
}

bool root_share(void)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return failed("change the propagation of", "/");
    return mount("proc", "/proc", "proc", flags, NULL) == 0 || failed("mount", "/proc");
}

/* The host's root is its initramfs, which can't be put elsewhere, only covered. */
static bool cover_root(void)
{
    if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
        return failed("make the root", "/");
    return true;
}

static bool turn_root(void)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    if (syscall(SYS_mount_setattr, AT_FDCWD, ".", 0, &attr, sizeof attr) < 0)
        return failed("make read-only", "the new root");
    if (syscall(SYS_pivot_root, ".", ".") == 0) {
        if (umount2(".", MNT_DETACH) < 0)
            return failed("unmount", "the host's root");
    } else if (errno != EINVAL || !cover_root()) {
        return failed("change the root to", "the new one");
    }
    return chdir("/") == 0 || failed("go to", "/");
}

bool root_change(const struct description *description, int ids)
{
    uint32_t owner;
    if (!description_outside(description, 0, &owner))
        return false;
    /* What the host mounts later below a place still comes in, and nothing goes back. */
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return failed("change the propagation of", "/");
    if (!open_trees(description))
        return false;
    if (mount("clearpod", description->root, "tmpfs", MS_NOSUID, ROOT_OPTIONS) < 0 || chdir(description->root) < 0)
        return failed("mount a tmpfs on", description->root);
    umask(0);
    bool made = put_places(description, ids) && make_links(description) && make_devices(description, owner) &&
                make_homes(description, owner) && mount_proc();
    umask(022);
    return made && turn_root();
}
