# SPDX-License-Identifier: Apache-2.0
"""A container's volumes in its pod's share: paths of the host, and paths inside of images. Called by the engine.

Read-only is settled here, on the host's side of the mount: the 9p server just walks the result, and nothing that runs
in the guest can undo it. What the host mounts below a volume later is shown by `following`; where no owners are mapped,
by the kernel.
"""

import errno
import os
import stat
from collections.abc import Sequence

from stage1.errors import BadRequest, KernelError, NotFound, Unsupported, WrongState
from stage1.linux import beneath, idmap, in_root, mount, namespace
from stage1.pod.model import BIDIRECTIONAL, HOST_TO_CONTAINER, Mount

AT_ONCE = 64
"""Volumes that are open at a time."""


def attach(volume: Mount, directory: str, *, at: str, pid: int = 0, ids: int = -1) -> None:
    """Bind the volume's source at `share/<at>` in the pod's `directory`, which is made as `tree/<at>`. Undone by
    unmounting.

    With `pid` it is mounted in that process's namespace alone: while the host sees a copy of its mounts, it can't
    remove the directories that they are on (EBUSY), even when its own are gone. `ids` is a descriptor of the user
    namespace that maps its owners, -1 for none. The source is opened once, without following a link that is there by
    now and without opening what blocks: a FIFO, a socket or a device is shown as what it is. Raises:
        NotFound: the source does not exist.
        BadRequest: a part of its path has become a symbolic link.
        Unsupported: its owners can't be mapped; or, with the word that kubelet looks for, the kernel can't make a
            mount tree read-only.
    """
    attach_all([(volume, at, ids)], directory, pid=pid)


def attach_all(given: Sequence[tuple[Mount, str, int]], directory: str, *, pid: int = 0) -> None:
    """Bind several volumes, each with its `at` and `ids`, as `attach` does: a thread goes into the namespace of `pid`
    once for each `AT_ONCE` of them. When it raises, some may be there.
    """
    for first in range(0, len(given), AT_ONCE):
        _attach_some(given[first : first + AT_ONCE], directory, pid=pid)


def _attach_some(given: Sequence[tuple[Mount, str, int]], directory: str, *, pid: int) -> None:
    opened: list[tuple[Mount, str, int, int]] = []
    try:
        with beneath.Root(directory, one_mount=True) as own:
            for volume, at, ids in given:
                opened.append((volume, at, *_opened(volume, own, at=at, ids=ids, pid=pid)))
        namespace.in_mounts_of(pid or os.getpid(), lambda: _place_all(opened, directory))
    finally:
        for _, _, fd, _ in opened:
            os.close(fd)


def _opened(volume: Mount, own: beneath.Root, *, at: str, ids: int, pid: int) -> tuple[int, int]:
    """The volume as a tree that is mounted nowhere, and its flow; its place is made."""
    if volume.propagation == BIDIRECTIONAL and not pid:
        raise WrongState(f"there is no process for the volume {volume.target}: the pod has ended")
    source = _open_source(volume)
    try:
        is_directory = stat.S_ISDIR(os.fstat(source).st_mode)
        flow = _flow(volume, source=source, is_mapped=ids >= 0)
        fd = mount.open_tree(source, recursive=volume.recursive)
    finally:
        os.close(source)
    try:
        if ids >= 0:
            idmap.set_owners(fd, ids, what=volume.source)
        _make_place(own, f"tree/{at}", is_directory=is_directory)
    except BaseException:
        os.close(fd)
        raise
    return fd, flow


def _place_all(opened: Sequence[tuple[Mount, str, int, int]], directory: str) -> None:
    with beneath.Root(directory) as own:
        for volume, at, fd, flow in opened:
            _place(volume, fd, own=own, at=f"share/{at}", flow=flow)


def _flow(volume: Mount, *, source: int, is_mapped: bool) -> int:
    """The propagation of the mount; 0 leaves it shared, as the source's. Raises BadRequest."""
    if volume.propagation == BIDIRECTIONAL:
        if is_mapped or not mount.is_shared(source):
            raise BadRequest(
                f"the volume source {volume.source} for {volume.target} can't be BIDIRECTIONAL: it is on a mount that"
                " is not shared; see `mount --make-rshared`"
            )
        return 0
    return mount.MS_SLAVE if volume.propagation == HOST_TO_CONTAINER and not is_mapped else mount.MS_PRIVATE


def _open_source(volume: Mount) -> int:
    """A descriptor of O_PATH. `volume.source` had no links when it was resolved; a guest may have made one since."""
    try:
        return in_root.open_straight(volume.source, flags=os.O_PATH)
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            text = f"the volume source {volume.source} for {volume.target} does not exist on the host"
            raise NotFound(text) from None
        if error.errno == errno.ELOOP:
            raise BadRequest(
                f"the volume source {volume.source} for {volume.target} leads through a symbolic link, which was "
                "created during the check; name the target itself"
            ) from None
        raise


def _make_place(own: beneath.Root, path: str, *, is_directory: bool) -> None:
    if is_directory:
        own.make_directory(path, 0o755)
    else:
        os.close(own.make_file(path, mode=0o644))


def _place(volume: Mount, fd: int, *, own: beneath.Root, at: str, flow: int) -> None:
    """Mount it by descriptors: the VMM may rename the target meanwhile, and a read-only volume is made read-only
    before it is visible.
    """
    if volume.read_only:
        _set_read_only(volume, fd)
    own.attach(fd, at)
    if flow:
        mount.set_propagation(fd, flow | mount.MS_REC)


def _set_read_only(volume: Mount, tree: int) -> None:
    try:
        mount.set_read_only(tree, recursive=volume.recursive_read_only)
    except KernelError as error:
        if volume.recursive_read_only and error.errno == errno.ENOSYS:
            raise Unsupported(f"RROUnsupported: {volume.target} can't be read-only recursively: {error}") from None
        raise


def located(directory: str, volume: Mount) -> Mount:
    """The volume; of one out of an image, with its source below that image, which is in the export of the pod's
    `directory`. Raises NotFound.
    """
    if not volume.image:
        return volume
    with beneath.Root(directory) as own:
        root = own.open_directory(f"share/layers/{volume.image.removeprefix('sha256:')}")
    try:
        return volume._replace(source=path_in_image(root, volume))
    finally:
        os.close(root)


def path_in_image(root: str | int, volume: Mount) -> str:
    """Where the volume's source really is below the mounted image `root`: relative, without links, "" for the root.

    `root` is a path or a descriptor. An image is not trusted, but it does not change: what is found here is what the
    guest will find. Raises NotFound.
    """
    try:
        target, base = (_where(root, path) for path in (volume.source or ".", "."))
    except KernelError as error:
        why = f"{volume.source} is not in the image {volume.image}: {os.strerror(error.errno)}"
        raise NotFound(f"ImageVolumeMountFailed: {volume.target} can't be mounted: {why}") from None
    return os.path.relpath(target, base) if target != base else ""


def _where(root: str | int, path: str) -> str:
    fd = in_root.open_path(root, path, flags=os.O_PATH)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
