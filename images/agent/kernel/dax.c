/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See window.h. Each image is a partition of the device, made and removed by ioctl (BLKPG): a block device of its own,
 * so that no buffer of what was there before can be seen, which DAX knows how to reach. Not by a helper: to read the
 * device is to read memory.
 */
#include "kernel/dax.h"

#include "base/files.h"
#include "base/scope.h"
#include "base/texts.h"
#include "kernel/device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

enum { IMAGES_MAX = 128, PAGE_BYTES = 4096, PATH_BYTES = 200 };

/* The index, plus one, is the partition's number. */
static struct image {
    char name[sizeof((clearpod_agent_MountImage *)0)->name];
    uint64_t offset, bytes; /* of no bytes: free */
} images[IMAGES_MAX];

struct places {
    char partition[PATH_BYTES], directory[PATH_BYTES];
};

const char *dax_option(const char *device)
{
    return strncmp(device, "/dev/pmem", 9) ? "" : "dax=always";
}

static int number_of(const struct image *image)
{
    return (int)(image - images) + 1;
}

static void places_of(struct places *at, const char *device, const struct image *image)
{
    /* A name that ends with a digit gets a letter before the number. */
    snprintf(at->partition, PATH_BYTES, *dax_option(device) ? "%sp%d" : "%s%d", device, number_of(image));
    snprintf(at->directory, PATH_BYTES, DAX_DIR "/%s", image->name);
}

static struct image *find(const char *name)
{
    for (int i = 0; i < IMAGES_MAX; i++)
        if (images[i].bytes && !strcmp(images[i].name, name))
            return &images[i];
    return NULL;
}

static struct image *free_place(void)
{
    for (int i = 0; i < IMAGES_MAX; i++)
        if (!images[i].bytes)
            return &images[i];
    return NULL;
}

static const struct image *find_overlap(uint64_t offset, uint64_t bytes)
{
    for (int i = 0; i < IMAGES_MAX; i++)
        if (images[i].bytes && offset < images[i].offset + images[i].bytes && images[i].offset < offset + bytes)
            return &images[i];
    return NULL;
}

static int open_device(const char *device, struct fault *why)
{
    if (!*device)
        return fault_set(why, FAULT_STATE, "this guest has no window for images");
    int fd = device_open(device);
    return fd < 0 ? fault_errno(why, "open the window %s", device) : fd;
}

static int check(int device, const clearpod_agent_MountImage *image, struct fault *why)
{
    uint64_t window_bytes;
    if (!is_id(image->name))
        return fault_set(why, FAULT_INVALID, "'%s' can't be the name of an image", image->name);
    if (image->offset % PAGE_BYTES || image->bytes % PAGE_BYTES || !image->bytes)
        return fault_set(why, FAULT_INVALID, "image %s is not in whole pages of the window", image->name);
    if (ioctl(device, BLKGETSIZE64, &window_bytes) < 0)
        return fault_errno(why, "ask for the window's size");
    if (image->bytes > window_bytes || image->offset > window_bytes - image->bytes)
        return fault_set(why, FAULT_INVALID, "image %s lies beyond the window of %llu bytes", image->name,
                         (unsigned long long)window_bytes);
    if (find(image->name))
        return fault_set(why, FAULT_EXISTS, "image %s is mounted already", image->name);
    const struct image *other = find_overlap(image->offset, image->bytes);
    if (other)
        return fault_set(why, FAULT_EXISTS, "image %s would lie over image %s", image->name, other->name);
    return 0;
}

static int partition(int device, int op, const struct image *image)
{
    struct blkpg_partition what = {
        .start = (long long)image->offset, .length = (long long)image->bytes, .pno = number_of(image)};
    struct blkpg_ioctl_arg argument = {.op = op, .datalen = sizeof what, .data = &what};
    return ioctl(device, BLKPG, &argument);
}

static int mount_at(const struct places *at)
{
    return mount(at->partition, at->directory, "erofs", MS_RDONLY | MS_NODEV, dax_option(at->partition));
}

static int make(int device, const struct places *at, const struct image *image, struct fault *why)
{
    if (partition(device, BLKPG_ADD_PARTITION, image) < 0)
        return fault_errno(why, "make %s for image %s", at->partition, image->name);
    if (make_dir(DAX_DIR, 0711) < 0 || make_dir(at->directory, 0755) < 0 || mount_at(at) < 0) {
        fault_errno(why, "mount image %s from %s", image->name, at->partition);
        rmdir(at->directory);
        partition(device, BLKPG_DEL_PARTITION, image);
        return -1;
    }
    return 0;
}

int dax_mount(const char *device, const clearpod_agent_MountImage *spec, struct fault *why)
{
    struct places at;
    scoped_fd int fd = open_device(device, why);
    if (fd < 0 || check(fd, spec, why) < 0)
        return -1;
    struct image *image = free_place();
    if (!image)
        return fault_set(why, FAULT_FAILED, "more than %d images in the window", IMAGES_MAX);
    *image = (struct image){.offset = spec->offset, .bytes = spec->bytes};
    snprintf(image->name, sizeof image->name, "%s", spec->name);
    places_of(&at, device, image);
    if (make(fd, &at, image, why) == 0)
        return 0;
    image->bytes = 0;
    return -1;
}

int dax_unmount(const char *device, const char *name, struct fault *why)
{
    struct places at;
    struct image *image = find(name);
    if (!image)
        return fault_set(why, FAULT_NOT_FOUND, "no image '%s' in the window", name);
    scoped_fd int fd = open_device(device, why);
    if (fd < 0)
        return -1;
    places_of(&at, device, image);
    if (umount2(at.directory, 0) < 0)
        return errno == EBUSY ? fault_set(why, FAULT_STATE, "image %s is in use", name)
                              : fault_errno(why, "unmount image %s", name);
    /* A container's overlay keeps the file system open: only the device shows that. */
    if (partition(fd, BLKPG_DEL_PARTITION, image) < 0) {
        if (mount_at(&at) < 0)
            return fault_errno(why, "mount image %s again", name);
        return fault_set(why, FAULT_STATE, "image %s is in use", name);
    }
    rmdir(at.directory);
    image->bytes = 0;
    return 0;
}
