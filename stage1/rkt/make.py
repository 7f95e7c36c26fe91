# SPDX-License-Identifier: Apache-2.0
"""Files that a pod needs on the host before its VM starts: its empty volumes, and directories in each app. Called by
stage1/entry, and by machine when it shows an app.

Undone by rkt, which removes the pod's directory. Doing it again, as for an app that comes later, changes nothing.
"""

import os

from stage1.errors import KernelError
from stage1.linux import beneath, files, in_root
from stage1.linux.libc import Guard
from stage1.rkt import copying
from stage1.rkt.loader import App, RktPod
from stage1.rkt.volumes import EmptyVolume


def make(pod: RktPod) -> None:
    """Make what is not there yet. Raises KernelError, NoSpace, BadRequest."""
    for volume in pod.empty_volumes:
        empty_volume(volume)
    for app in pod.apps:
        _temporary_directory(app.root)


def empty_volume(volume: EmptyVolume) -> None:
    """Make the volume, unless some app of the pod has it already."""
    place, name = os.path.split(volume.path)
    files.make_dirs(place, 0o755)
    with beneath.Root(place) as volumes:
        if volumes.exists(name):
            return
        temporary = f"{name}.{os.getpid()}~"
        volumes.remove_tree(temporary)
        try:
            volumes.make_directory(temporary, 0o700)
            _make(volume, volumes, name=temporary)
            with Guard("rename", volume.path):
                os.rename(temporary, name, src_dir_fd=volumes.fd, dst_dir_fd=volumes.fd)
        except BaseException:
            volumes.remove_tree(temporary)
            raise


def _make(volume: EmptyVolume, volumes: beneath.Root, *, name: str) -> None:
    fd = volumes.open_directory(name)
    try:
        if volume.root and _fill(volume, fd):
            return
        with Guard("make", volume.path):
            os.fchown(fd, volume.uid, volume.gid)
            os.fchmod(fd, volume.mode)
    finally:
        os.close(fd)


def _fill(volume: EmptyVolume, target: int) -> bool:
    """False when the image has something else than a directory there."""
    try:
        source = in_root.open_path(volume.root, volume.inside, flags=os.O_RDONLY | os.O_DIRECTORY)
    except KernelError:
        return False
    try:
        copying.copy_tree(source, target)
    finally:
        os.close(source)
    return True


def _temporary_directory(root: str) -> None:
    """Create /tmp if an image has none, since programs would fail in unexpected ways."""
    with beneath.Root(root) as app:
        if not app.exists("tmp"):
            app.make_directory("tmp", 0o1777)


def mount_points(app: App) -> None:
    """Make in the app's root what an image may lack of the places where every app has something mounted.

    Else crun makes it in the guest, by some five requests to the share for each, and so it does with what can't be made
    here: what is below a link is not. Not before the pod's files are settled, which depend on those of the image.
    """
    if app.container.root_of:
        return  # made on the guest's own disk
    with beneath.Root(app.root) as root:
        try:
            for name in ("proc", "sys", "dev", "etc"):
                if not root.exists(name):
                    root.make_directory(name, 0o755)
            for name in app.container.pod_files:
                if not root.exists(f"etc/{name}"):
                    os.close(root.make_file(f"etc/{name}", mode=0o644))
        except KernelError:
            return
