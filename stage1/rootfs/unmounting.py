# SPDX-License-Identifier: Apache-2.0
"""Takes off what is mounted in a pod's directory, however a guest or a VMM has moved its places, and removes the
directory. Called by the engine.
"""

import errno
import os
from collections.abc import Callable, Iterable

from stage1.errors import KernelError
from stage1.linux import beneath, files, mount, mount_copies, namespace

_MOUNTED = (errno.EBUSY, errno.EXDEV)
"""Something is mounted on an entry of a directory, or would have to be entered."""


def below(directory: str, path: str = "") -> None:
    """Unmount what is at and below the `path` in the pod's directory, in the calling thread's mount namespace.

    Idempotent.
    """
    targets = mount.mounts_below(directory, below=path)
    if not targets:
        return
    top = os.path.realpath(directory)

    def unmount_all() -> None:
        with beneath.Root(directory) as own:
            for target in targets:
                _unmount(own, os.path.relpath(target, top))

    namespace.with_own_directory(unmount_all)


def alone(directory: str, path: str) -> None:
    """Like `below`, in this namespace only: copies of these mounts stay, of which some may be the host's own
    (BIDIRECTIONAL).
    """
    top = os.path.realpath(directory)
    with beneath.Root(directory) as own:
        for target in mount.mounts_below(directory, below=path):
            fd = own.pin(os.path.relpath(target, top))
            try:
                mount.set_propagation(fd, mount.MS_PRIVATE | mount.MS_REC)
            finally:
                os.close(fd)
    below(directory, path)


def points(directory: str, names: Iterable[str]) -> None:
    """Unmount what is at these points of the pod's directory, with all below it, without reading the table of mounts.
    No guest can replace them. Idempotent.
    """
    for name in names:
        while mount.is_mounted(f"{directory}/{name}"):
            mount.umount(f"{directory}/{name}", lazy=True)


def remove(directory: str) -> None:
    """Remove the pod's directory, in which `points` has unmounted all that is known. What else is mounted there is
    looked for only if that is not possible.
    """
    try:
        freed(directory, lambda: files.remove_unmounted(directory))
    except KernelError as error:
        if error.errno not in _MOUNTED:
            raise
        below(directory)
        files.remove_tree(directory)


def freed(place: str, remove: Callable[[], object]) -> None:
    """Call `remove`, which removes `place`. The kernel refuses that where a program has bound the host's whole tree,
    with all mounts, to another place and something of ours is mounted there: then it is taken off there, too.
    """
    try:
        remove()
    except KernelError as error:
        if error.errno != errno.EBUSY or not mount_copies.detach(place):
            raise
        remove()


def _unmount(own: beneath.Root, path: str) -> None:
    """The last one at `path`, of which nothing but its own mount is followed on the way. Changes the thread's working
    directory.
    """
    above, _, name = path.rpartition("/")
    try:
        parent = own.open_directory(above or ".")
    except FileNotFoundError:
        return  # it went with a mount that it was a copy of
    try:
        os.fchdir(parent)  # umount2 takes no descriptor
        mount.umount(name, lazy=True)
    except KernelError:
        if mount.is_mount_point(own.path, below=path):
            raise
    finally:
        os.close(parent)
