# SPDX-License-Identifier: Apache-2.0
"""What a pod needs on the host before its VM starts: its empty volumes, and /tmp in each app. Called by stage1/entry.

Undone by rkt, which removes the pod's directory. Doing it again, as for an app that comes later, changes nothing.
"""

import os

from stage1.errors import KernelError
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.rkt import copying
from stage1.rkt.plan import RktPod
from stage1.rkt.volumes import EmptyVolume


def make(pod: RktPod) -> None:
    """Make what is not there yet. Raises KernelError, NoSpace, BadRequest."""
    for volume in pod.empty_volumes:
        empty_volume(volume)
    for app in pod.apps:
        _temporary_directory(app.root)


def empty_volume(volume: EmptyVolume) -> None:
    """Make the volume, unless some app of the pod has it already."""
    if os.path.isdir(volume.path):
        return
    files.make_dirs(os.path.dirname(volume.path), 0o755)
    beside = f"{volume.path}.{os.getpid()}~"
    files.remove_tree(beside)
    try:
        with Guard("make", volume.path):
            _make(volume, beside)
            os.rename(beside, volume.path)
    except BaseException:
        files.remove_tree(beside)
        raise


def _make(volume: EmptyVolume, path: str) -> None:
    os.mkdir(path, 0o700)
    if volume.root and _fill(volume, path):
        return
    os.chown(path, volume.uid, volume.gid)
    os.chmod(path, volume.mode)


def _fill(volume: EmptyVolume, path: str) -> bool:
    """False when the image has something else than a directory there."""
    try:
        source = files.open_beneath(volume.root, volume.inside, flags=os.O_RDONLY | os.O_DIRECTORY)
    except KernelError:
        return False
    try:
        target = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            copying.copy_tree(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)
    return True


def _temporary_directory(root: str) -> None:
    """Where an image has no /tmp, programs would fail that nobody would blame."""
    path = f"{root}/tmp"
    if os.path.lexists(path):
        return
    with Guard("mkdir", path):
        os.mkdir(path, 0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o1777)
        finally:
            os.close(fd)
