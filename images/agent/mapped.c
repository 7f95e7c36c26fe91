/* SPDX-License-Identifier: Apache-2.0 */
/* Part of namespaces.h; apart, since linux/mount.h and sys/mount.h do not go together. See mount_setattr(2). */
#include "namespaces.h"

#include "scope.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

int mount_mapped(int from, const char *to, struct fault *why)
{
    scoped_fd int ids = open("/run/clearpod/pause.user-ns", O_RDONLY | O_CLOEXEC);
    scoped_fd int tree = (int)syscall(SYS_open_tree, from, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)ids};
    if (ids < 0 || tree < 0)
        return fault_errno(why, "open the pod's user namespace and the image");
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0)
        return fault_errno(why, "map the owners of the image");
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return fault_errno(why, "mount the image on %s", to);
    return 0;
}
