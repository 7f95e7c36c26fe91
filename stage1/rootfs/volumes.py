# SPDX-License-Identifier: Apache-2.0
"""A container's volumes in its pod's share: paths of the host, and paths inside of images. Called by the engine.

Read-only and propagation are settled here, on the host's side of the mount: the 9p server just walks the result, and
nothing that runs in the guest can undo it.
"""

import errno
import os

from stage1.errors import KernelError, NotFound, Unsupported
from stage1.linux import files, idmap, mount, namespace
from stage1.pod.model import HOST_TO_CONTAINER, IdMap, Mount
from stage1.rootfs import owners


def attach(volume: Mount, tree: str, *, target: str, pid: int = 0, ids: IdMap = IdMap()) -> None:  # noqa: B008
    """Bind the volume's source at `target`, which is made as `tree` on its writable side. Undone by unmounting.

    With `pid` it is mounted in that process's namespace alone: while the host sees a copy of its mounts, it can't
    remove the directories that they are on (EBUSY), even when its own are gone. Raises NotFound when the source does
    not exist; Unsupported with the word that kubelet looks for when the kernel can't make a mount tree read-only, and
    when the owners of a `mapped` volume can't become those of `ids`.
    """
    if not os.path.exists(volume.source):
        raise NotFound(f"the volume source {volume.source} for {volume.target} does not exist on the host")
    if os.path.isdir(volume.source):
        os.mkdir(tree)
    else:
        os.close(os.open(tree, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    fd = mount.open_tree(volume.source, recursive=volume.recursive)
    try:
        if volume.mapped:
            idmap.set_owners(fd, owners.writable(ids), what=volume.source)
        namespace.in_mounts_of(pid or os.getpid(), lambda: _place(volume, fd, target=target))
    finally:
        os.close(fd)


def _place(volume: Mount, fd: int, *, target: str) -> None:
    mount.move_tree(fd, target)
    flow = mount.MS_SLAVE if volume.propagation == HOST_TO_CONTAINER else mount.MS_PRIVATE
    mount.set_propagation(target, flow | mount.MS_REC)
    if volume.read_only:
        _set_read_only(volume, target)


def _set_read_only(volume: Mount, target: str) -> None:
    try:
        mount.set_read_only(target, recursive=volume.recursive_read_only)
    except KernelError as error:
        if volume.recursive_read_only and error.errno == errno.ENOSYS:
            raise Unsupported(
                f"RROUnsupported: {volume.target} can't be read-only with all below it: {error}"
            ) from None
        raise


def path_in_image(root: str, volume: Mount) -> str:
    """Where the volume's source really is below the mounted image `root`: relative, without links, "" for the root.

    An image is not trusted, but it does not change: what is found here is what the guest will find. Raises NotFound.
    """
    try:
        fd = files.open_beneath(root, volume.source or ".", flags=os.O_PATH)
    except KernelError as error:
        why = f"{volume.source} is not in the image {volume.image}: {os.strerror(error.errno)}"
        raise NotFound(f"ImageVolumeMountFailed: {volume.target} can't be mounted: {why}") from None
    try:
        found, base = (os.readlink(f"/proc/self/fd/{fd}"), os.path.realpath(root))
    finally:
        os.close(fd)
    return os.path.relpath(found, base) if found != base else ""
