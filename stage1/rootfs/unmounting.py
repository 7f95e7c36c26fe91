# SPDX-License-Identifier: Apache-2.0
"""Takes off what is mounted in a pod's directory, however a guest or a VMM has moved its places, and removes the
directory. Called by the engine.
"""

import errno
import os

from stage1.errors import KernelError
from stage1.linux import beneath, files, mount, namespace


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


def remove(directory: str) -> None:
    """Remove the pod's directory, in which nothing is mounted any more. Raises as `files.remove_tree`.

    The kernel keeps it where somebody has bound the host's whole tree, with all mounts, to another place: what is the
    pod's is taken off there, too.
    """
    try:
        return files.remove_tree(directory)
    except KernelError as error:
        copies = mount.bound_from(f"{os.path.realpath(directory)}/tree")
        if error.errno != errno.EBUSY or not copies:
            raise
    for copy in copies:
        mount.umount(copy, lazy=True)
    return files.remove_tree(directory)


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
