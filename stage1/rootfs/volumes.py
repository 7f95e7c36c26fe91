# SPDX-License-Identifier: Apache-2.0
"""A container's volumes in its pod's share: paths of the host, and paths inside of images. Called by the engine.

Read-only and propagation are settled here, on the host's side of the mount: the 9p server just walks the result, and
nothing that runs in the guest can undo it.
"""

import errno
import os
import stat

from stage1.errors import KernelError, NotFound, Unsupported
from stage1.linux import beneath, idmap, in_root, mount, namespace
from stage1.pod.model import HOST_TO_CONTAINER, IdMap, Mount
from stage1.rootfs import owners


def attach(volume: Mount, directory: str, *, at: str, pid: int = 0, ids: IdMap = IdMap()) -> None:  # noqa: B008
    """Bind the volume's source at `share/<at>` in the pod's `directory`, which is made as `tree/<at>`. Undone by
    unmounting.

    With `pid` it is mounted in that process's namespace alone: while the host sees a copy of its mounts, it can't
    remove the directories that they are on (EBUSY), even when its own are gone. Raises NotFound when the source does
    not exist; Unsupported with the word that kubelet looks for when the kernel can't make a mount tree read-only, and
    when the owners of a `mapped` volume can't become those of `ids`.
    """
    try:
        fd = mount.open_tree(volume.source, recursive=volume.recursive)
    except FileNotFoundError:
        raise NotFound(f"the volume source {volume.source} for {volume.target} does not exist on the host") from None
    try:
        _make_place(directory, f"tree/{at}", is_directory=stat.S_ISDIR(os.fstat(fd).st_mode))
        if volume.mapped:
            idmap.set_owners(fd, owners.writable(ids), what=volume.source)
        namespace.in_mounts_of(pid or os.getpid(), lambda: _place(volume, fd, directory=directory, at=at))
    finally:
        os.close(fd)


def _make_place(directory: str, path: str, *, is_directory: bool) -> None:
    with beneath.Root(directory, one_mount=True) as own:
        if is_directory:
            own.make_directory(path, 0o755)
        else:
            os.close(own.make_file(path, mode=0o644))


def _place(volume: Mount, fd: int, *, directory: str, at: str) -> None:
    """By descriptors: the VMM may rename what is at the target meanwhile, and a volume that is to be read-only is so
    before it is seen.
    """
    if volume.read_only:
        _set_read_only(volume, fd)
    with beneath.Root(directory) as own:
        target = own.pin_for_mount(f"share/{at}")
    try:
        mount.move_tree(fd, target)
    finally:
        os.close(target)
    flow = mount.MS_SLAVE if volume.propagation == HOST_TO_CONTAINER else mount.MS_PRIVATE
    mount.set_propagation(fd, flow | mount.MS_REC)


def _set_read_only(volume: Mount, tree: int) -> None:
    try:
        mount.set_read_only(tree, recursive=volume.recursive_read_only)
    except KernelError as error:
        if volume.recursive_read_only and error.errno == errno.ENOSYS:
            raise Unsupported(
                f"RROUnsupported: {volume.target} can't be read-only with all below it: {error}"
            ) from None
        raise


def path_in_image(root: str | int, volume: Mount) -> str:
    """Where the volume's source really is below the mounted image `root`: relative, without links, "" for the root.

    `root` is a path or a descriptor. An image is not trusted, but it does not change: what is found here is what the
    guest will find. Raises NotFound.
    """
    try:
        found, base = (_where(root, path) for path in (volume.source or ".", "."))
    except KernelError as error:
        why = f"{volume.source} is not in the image {volume.image}: {os.strerror(error.errno)}"
        raise NotFound(f"ImageVolumeMountFailed: {volume.target} can't be mounted: {why}") from None
    return os.path.relpath(found, base) if found != base else ""


def _where(root: str | int, path: str) -> str:
    fd = in_root.open_path(root, path, flags=os.O_PATH)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
