/* SPDX-License-Identifier: Apache-2.0 */
/* See shares.h. */
#include "kernel/shares.h"

#include "base/files.h"
#include "base/scope.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>

#define VOLUMES "/run/clearpod/volumes"
#define HOSTS "/run/clearpod/hosts" /* volumes of the host (images/volumes/host.c) */

/* A pod without such a share is possible, so a missing tag is none of our errors; nor is one that is mounted already. */
static int mount_share(const char *tag, unsigned long flags, const char *cache, struct fault *why)
{
    char target[64], options[128];
    snprintf(target, sizeof target, "/run/clearpod/%s", tag);
    /* QEMU counts a file system's size in blocks of a message without its header: of 256 KiB, that is exact for whole MiB. */
    snprintf(options, sizeof options, "trans=virtio,version=9p2000.L,msize=262168,access=client,cache=%s", cache);
    if (mount(tag, target, "9p", flags, options) < 0 && errno != EBUSY && errno != ENOENT)
        return fault_errno(why, "mount the share %s", tag);
    return 0;
}

void shares_read_less_ahead(void)
{
    file_write("/sys/class/bdi/9p-1/read_ahead_kb", "4"); /* of the first mount */
}

int shares_mount(const struct arguments *arguments, struct fault *why)
{
    /* Apps' roots lie there too, which the host does not change while they run. */
    const char *cache = arguments->alike ? "mmap" : "loose";
    if (mount_share("layers", arguments->plan ? 0 : MS_RDONLY | MS_NODEV, cache, why) < 0)
        return -1;
    return shares_mount_volumes(arguments, why);
}

int shares_mount_volumes(const struct arguments *arguments, struct fault *why)
{
    return mount_share("volumes", 0, arguments->plan ? "mmap" : "none", why); /* apps, and journald, may map files */
}

int shares_unmount(struct fault *why)
{
    char place[512];
    scoped_dir DIR *hosts = opendir(HOSTS);
    if (umount2(VOLUMES, 0) < 0)
        return fault_set(why, FAULT_STATE, "the pod's volumes are in use");
    for (struct dirent *entry; hosts && (entry = readdir(hosts));) { /* of containers that have ended */
        snprintf(place, sizeof place, HOSTS "/%s", entry->d_name);
        if (entry->d_name[0] != '.')
            umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW);
    }
    return 0;
}
