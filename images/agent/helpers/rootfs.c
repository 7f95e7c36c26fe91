/* SPDX-License-Identifier: Apache-2.0 */
/* See rootfs.h. */
#include "helpers/rootfs.h"

#include "base/files.h"
#include "base/scope.h"
#include "helpers/filecaps.h"
#include "helpers/volumes.h"
#include "kernel/dax.h"
#include "kernel/namespaces.h"
#include "kernel/shares.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN "/run/clearpod"
#define SCRATCH RUN "/scratch"

enum { PATH_BYTES = 400, VOLUMES = 32 + 64 }; /* of the image, and those of helpers/volumes.h behind them */

struct places {
    char base[PATH_BYTES], root[PATH_BYTES]; /* of the container, in RUN/containers */
    char lower[PATH_BYTES];                  /* where its image is mounted with mapped owners, meanwhile */
    char layer[PATH_BYTES];                  /* where the tmpfs for its upper goes */
    char store[PATH_BYTES];                  /* its directory on the scratch disk */
};

static void places_of(struct places *at, const char *id)
{
    snprintf(at->base, PATH_BYTES, RUN "/containers/%s", id);
    snprintf(at->root, PATH_BYTES, RUN "/containers/%s/rootfs", id);
    snprintf(at->lower, PATH_BYTES, RUN "/containers/%s/lower", id);
    snprintf(at->layer, PATH_BYTES, RUN "/containers/%s/layer", id);
    snprintf(at->store, PATH_BYTES, SCRATCH "/%s", id);
}

static int make_place(const char *path, mode_t mode, struct fault *why)
{
    return make_dir(path, mode) < 0 ? fault_errno(why, "mkdir %s", path) : 0;
}

/* Mounted when first needed: a pod that only uses tmpfs never pays for it. On a host it is a directory. With both options ext4 has no
 * thread that begins with each mount, reads ahead and ends, in each copy of a guest again. */
int scratch_mount(const struct arguments *arguments, struct fault *why)
{
    struct stat here, above;
    const char *device = arguments->scratch;
    if (arguments->host.on)
        return 0;
    if (stat(SCRATCH, &here) == 0 && stat(RUN, &above) == 0 && here.st_dev != above.st_dev)
        return 0;
    if (mount(device, SCRATCH, "ext4", MS_NOATIME, "noinit_itable,no_prefetch_block_bitmaps") == 0 || errno == EBUSY)
        return 0; /* EBUSY: another helper was faster */
    return fault_errno(why, "mount the scratch disk %s on " SCRATCH, device);
}

/* The directory that holds upper and work. */
static int writable_place(const struct task *task, const struct places *at, const char **place, struct fault *why)
{
    *place = at->layer;
    if (task->tmpfs || !task->arguments->scratch[0]) {
        if (make_dir(at->layer, 0700) < 0 || mount("clearpod", at->layer, "tmpfs", 0, "mode=700") < 0)
            return fault_errno(why, "mount a tmpfs on %s", at->layer);
        return 0;
    }
    if (scratch_mount(task->arguments, why) < 0)
        return -1;
    *place = at->store;
    return mkdir(at->store, 0700) < 0 ? fault_errno(why, "mkdir %s", at->store) : 0;
}

/* The overlay's root looks like the upper directory: give it the image's owner and mode. */
static int make_upper(const char *place, int lower, struct fault *why)
{
    char path[PATH_BYTES + 8];
    struct stat st;
    snprintf(path, sizeof path, "%s/work", place);
    if (mkdir(path, 0700) < 0)
        return fault_errno(why, "mkdir %s", path);
    snprintf(path, sizeof path, "%s/upper", place);
    if (mkdir(path, 0755) < 0)
        return fault_errno(why, "mkdir %s", path);
    if (fstat(lower, &st) < 0 || chown(path, st.st_uid, st.st_gid) < 0 || chmod(path, st.st_mode & 07777) < 0)
        return fault_errno(why, "give %s the mode of the image's root", path);
    return 0;
}

static int open_image(const struct task *task, struct fault *why)
{
    const char *where = task->window ? DAX_DIR : RUN "/layers";
    scoped_fd int images = open(where, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (images < 0)
        return fault_errno(why, "open %s", where);
    /* To open it for reading, which has_nothing() needs, takes 9p three requests more. */
    int flags = (task->arguments->plan ? O_RDONLY : O_PATH) | O_DIRECTORY;
    int fd = open_below(images, task->lower, flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
    if (fd < 0)
        return fault_errno(why, "no image %s in %s", task->lower, where);
    return fd;
}

/* What 9p shows was mapped on the host. The overlay keeps a mount of its own, so that this one need not stay. */
static int open_lower(const struct task *task, const struct places *at, struct fault *why)
{
    int image = open_image(task, why);
    if (image < 0 || !task->window || !pod_root())
        return image;
    scoped_fd int unmapped = image;
    if (make_place(at->lower, 0700, why) < 0 || mount_mapped(unmapped, at->lower, why) < 0)
        return -1;
    int fd = open(at->lower, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? fault_errno(why, "open %s", at->lower) : fd;
}

static int mount_root(const struct places *at, const char *type, unsigned long flags, const char *options,
                      struct fault *why)
{
    if (make_place(at->root, 0755, why) < 0)
        return -1;
    if (mount(type, at->root, type, flags, options) < 0)
        return fault_errno(why, "mount the root %s (%s)", at->root, options);
    return 0;
}

static int mount_overlay(const struct places *at, const char *place, int lower, struct fault *why)
{
    char options[3 * PATH_BYTES];
    /* The descriptor stands in for a path that may have ':' or ',' in it. */
    snprintf(options, sizeof options, "lowerdir=/proc/self/fd/%d,upperdir=%s/upper,workdir=%s/work", lower, place,
             place);
    return mount_root(at, "overlay", 0, options, why);
}

static bool has_nothing(int directory)
{
    enum { DOTS = 2 * 24, NAMES = 512 }; /* bytes of "." and "..", and for a name of any length more */
    struct dirent entries[NAMES / sizeof(struct dirent) + 1];
    return getdents(directory, entries, sizeof entries) <= DOTS;
}

/* A volume of the pod's own that nothing is copied into: no name has to be looked for in what is below it. */
static int bind_upper(const struct places *at, const char *place, struct fault *why)
{
    char upper[PATH_BYTES + 8];
    snprintf(upper, sizeof upper, "%s/upper", place);
    return mount_root(at, upper, MS_BIND, "", why);
}

/* Under rkt the host has made the overlay, and looks for the changes there. */
static int bind_shared(const struct places *at, int root, struct fault *why)
{
    char source[32];
    snprintf(source, sizeof source, "/proc/self/fd/%d", root);
    return mount_root(at, source, MS_BIND, "", why);
}

static int create(const struct task *task, const struct places *at, struct fault *why)
{
    char list[PATH_BYTES];
    const char *place;
    scoped_fd int lower = open_lower(task, at, why);
    if (lower >= 0 && task->shared)
        return bind_shared(at, lower, why);
    if (lower < 0 || writable_place(task, at, &place, why) < 0)
        return -1;
    if (make_upper(place, lower, why) < 0)
        return -1;
    if (task->arguments->plan && has_nothing(lower))
        return bind_upper(at, place, why);
    if (mount_overlay(at, place, lower, why) < 0)
        return -1;
    umount2(at->lower, MNT_DETACH);
    if (task->window || task->arguments->host.on)
        return 0; /* erofs has them, 9p has not */
    snprintf(list, sizeof list, RUN "/layers/%s.filecaps", task->lower);
    return filecaps_apply(at->root, list, why);
}

/* What is missing is made, not followed. */
static int make_directory(int above, const char *name, const void *unused)
{
    (void)unused;
    if (mkdirat(above, name, 0755) < 0)
        return -1;
    int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && (fchmod(fd, 0755) < 0 || fchown(fd, pod_root(), pod_root()) < 0))
        close_fd(&fd);
    return fd;
}

static int bind_volume(const struct places *at, const char *path, unsigned number, struct fault *why)
{
    char place[PATH_BYTES + 32], source[32];
    snprintf(place, sizeof place, "%s/volumes", at->base);
    if (make_place(place, 0711, why) < 0)
        return -1;
    snprintf(place, sizeof place, "%s/volumes/%u", at->base, number);
    if (make_place(place, 0755, why) < 0)
        return -1;
    scoped_fd int root = open(at->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    scoped_fd int fd = root < 0 ? -1 : open_or_make(root, path, O_PATH | O_DIRECTORY, make_directory, NULL);
    if (fd < 0)
        return fault_errno(why, "the image's volume %s can't be made", path);
    snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
    if (mount(source, place, NULL, MS_BIND, NULL) < 0)
        return fault_errno(why, "bind the image's volume %s", path);
    return 0;
}

static int bind_volumes(const struct task *task, const struct places *at, struct fault *why)
{
    for (unsigned i = 0; i < task->volume_count; i++)
        if (bind_volume(at, task->volumes[i], i, why) < 0)
            return -1;
    return 0;
}

static void unbind_volumes(const struct places *at)
{
    char place[PATH_BYTES + 32];
    for (unsigned i = 0; i < VOLUMES; i++) {
        snprintf(place, sizeof place, "%s/volumes/%u", at->base, i);
        if (umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
            return; /* they were bound in this order */
    }
}

int rootfs_create(const struct task *task, struct fault *why)
{
    struct places at;
    struct fault ignored;
    places_of(&at, task->id);
    if (task->arguments->template) /* not while a pod waits for its guest */
        shares_read_less_ahead();
    if (mkdir(at.base, 0711) < 0)
        return fault_errno(why, "mkdir %s", at.base);
    if (create(task, &at, why) == 0 && bind_volumes(task, &at, why) == 0 &&
        (!task->guest_volumes || volumes_run("make", task->id, why) == 0))
        return 0;
    rootfs_destroy(task->id, &ignored);
    return -1;
}

int rootfs_destroy(const char *id, struct fault *why)
{
    char hosts[PATH_BYTES + 8];
    struct places at;
    places_of(&at, id);
    /* Detached, not unmounted: a process in another mount namespace may still use it. Idempotent. */
    unbind_volumes(&at);
    umount2(at.root, MNT_DETACH);
    umount2(at.lower, MNT_DETACH);
    umount2(at.layer, MNT_DETACH);
    snprintf(hosts, sizeof hosts, "%s/hosts", at.base);
    if (access(hosts, F_OK) == 0 && volumes_run("drop", id, why) < 0)
        return -1;
    if (remove_tree(at.store, why) < 0)
        return -1;
    return remove_tree(at.base, why);
}
