# SPDX-License-Identifier: Apache-2.0
"""A container's volumes in its pod's share: paths of the host, and paths inside of images. Called by the engine.

Read-only and propagation are settled here, on the host's side of the mount: the 9p server just walks the result, and
nothing that runs in the guest can undo it.
"""

import errno
import os
import stat

from stage1.errors import BadRequest, KernelError, NotFound, Unsupported
from stage1.linux import files, idmap, mount, namespace
from stage1.pod.model import HOST_TO_CONTAINER, Mount


def attach(volume: Mount, tree: str, *, target: str, pid: int = 0, ids: int = -1) -> None:
    """Bind the volume's source at `target`, which is made as `tree` on its writable side. Undone by unmounting.

    With `pid` it is mounted in that process's namespace alone: while the host sees a copy of its mounts, it can't
    remove the directories that they are on (EBUSY), even when its own are gone. `ids` is a descriptor of the user
    namespace that maps its owners, -1 for none. The source is opened once, without following a link that is there by
    now and without opening what blocks: a FIFO, a socket or a device is shown as what it is. Raises:
        NotFound: the source does not exist.
        BadRequest: a part of its path has become a symbolic link.
        Unsupported: its owners can't be mapped; or, with the word that kubelet looks for, the kernel can't make a
            mount tree read-only.
    """
    source = _open_source(volume)
    try:
        is_directory = stat.S_ISDIR(os.fstat(source).st_mode)
        fd = mount.open_tree(source, recursive=volume.recursive)
    finally:
        os.close(source)
    try:
        if ids >= 0:
            idmap.set_owners(fd, ids, what=volume.source)
        if is_directory:
            os.mkdir(tree)
        else:
            os.close(os.open(tree, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        namespace.in_mounts_of(pid or os.getpid(), lambda: _place(volume, fd, target=target))
    finally:
        os.close(fd)


def _open_source(volume: Mount) -> int:
    """A descriptor of O_PATH. `volume.source` had no links when it was resolved; a guest may have made one since."""
    try:
        return files.open_straight(volume.source, flags=os.O_PATH)
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            text = f"the volume source {volume.source} for {volume.target} does not exist on the host"
            raise NotFound(text) from None
        if error.errno == errno.ELOOP:
            raise BadRequest(
                f"the volume source {volume.source} for {volume.target} leads through a symbolic link, which was made "
                "while it was looked at; name the place itself"
            ) from None
        raise


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
