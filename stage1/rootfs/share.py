# SPDX-License-Identifier: Apache-2.0
"""An image as a directory on the host, read-only, for the layers export of a pod. Called by the engine.

Mounted so that nothing of the image can act on the host: no device, no set-uid, no program. The VMM only
reads the files and their attributes; the guest sees them unchanged.
"""

import errno
import os

from stage1.errors import KernelError, Unsupported
from stage1.linux import idmap, mount
from stage1.linux.libc import Guard
from stage1.rootfs.layers import ImageFiles as ImageFiles

_FLAGS = mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC


def mount_image(files: ImageFiles, target: str | int, *, ids: int = -1) -> None:
    """Mount the image's root at the directory `target`, a path or a descriptor. Raises Unsupported (kernel),
    KernelError; rolled back then.

    The files may be removed while they are mounted. `ids` is a descriptor of the user namespace that maps its owners,
    -1 for none.
    """
    fd = _made(files)
    try:
        if ids >= 0:
            idmap.set_owners(fd, ids, what=f"image {files.id}")
        mount.move_tree(fd, target)
    finally:
        os.close(fd)


def _made(files: ImageFiles) -> int:
    """The image as a file system that is mounted nowhere yet: a mount can only be mapped before it is seen."""
    opened: list[int] = []
    try:
        with Guard("open", f"a layer of image {files.id}"):
            for path in (files.merged, *files.layers):
                opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        # An option has at most 255 bytes. The source is what people see as the name of the mount.
        names = [f"/proc/self/fd/{fd}" for fd in opened]
        source = files.merged if len(os.fsencode(files.merged)) < 256 else names[0]
        devices = [("device", name) for name in names[1:]]
        return mount.new("erofs", _FLAGS, [("source", source), *devices, ("ro", "")])
    except KernelError as error:
        raise _explained(error, files.merged or files.layers[0]) from None
    finally:
        for fd in opened:
            os.close(fd)


def _explained(error: KernelError, path: str) -> Exception:
    """ENODEV: the kernel has no erofs. ENOTBLK: its erofs takes block devices only, or no files of this file system."""
    if error.errno == errno.ENODEV:
        return Unsupported("this kernel has no erofs: Linux 6.12 or newer with CONFIG_EROFS_FS is needed")
    if error.errno == errno.ENOTBLK:
        return Unsupported(
            f"erofs can't be mounted from the file {path}: its directory must be on a disk, not on a tmpfs, and "
            "the kernel Linux 6.12 or newer with CONFIG_EROFS_FS_BACKED_BY_FILE"
        )
    return error


def unmount_image(target: str) -> None:
    """Undo `mount_image`, also when a VMM still has files of it open. Idempotent."""
    try:
        mount.umount(target)
    except KernelError as error:
        if error.errno == errno.EBUSY:
            mount.umount(target, lazy=True)
        elif error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
