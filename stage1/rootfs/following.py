# SPDX-License-Identifier: Apache-2.0
"""Volumes that follow the host (CRI PROPAGATION_HOST_TO_CONTAINER): what is mounted below their sources later is shown
too, and what is unmounted no more. Called by `cri.monitors` through the engine's siblings.

The kernel's own propagation would show it with the host's owners, which are unmapped for the VMM. So the two lists of
mounts are compared, and the difference is made, each mount with mapped owners. There is no state: what a killed daemon
has not done the next one does.
"""

import errno
import os
from typing import NamedTuple

from stage1.errors import KernelError, PodError
from stage1.linux import beneath, idmap, in_root, mount, namespace
from stage1.pod.model import Mount
from stage1.rootfs import unmounting


class View(NamedTuple):
    """A volume as the VMM `pid` sees it: at `share/<at>` in the pod's `directory`, with owners mapped by `ids`, a
    descriptor of a user namespace.
    """

    directory: str
    at: str
    pid: int
    ids: int

    @property
    def path(self) -> str:
        """Relative to the pod's directory."""
        return f"share/{self.at}"


def update(volume: Mount, view: View) -> dict[str, PodError]:
    """Make the mounts in the view those that the host has below the volume's source.

    Returns what can't be shown, by its path on the host, with the reason. Idempotent. Raises KernelError, which is a
    FileNotFoundError when the VMM or the volume is gone.
    """
    expected = mount.file_systems_below(volume.source)
    shown = namespace.in_mounts_of(view.pid, lambda: _prune(view, expected))
    refused: dict[str, PodError] = {}
    for path in sorted(expected.keys() - shown.keys()):
        try:
            _show(view, path, source=f"{volume.source}/{path}")
        except PodError as error:
            if not _is_gone(error):
                refused[f"{volume.source}/{path}"] = error
    return refused


def _prune(view: View, expected: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Unmount what the host does not have any more, or has replaced. Return what is left."""
    for name, what in mount.file_systems_below(view.directory, below=view.path).items():
        if expected.get(name) != what:
            unmounting.below(view.directory, f"{view.path}/{name}")
    return mount.file_systems_below(view.directory, below=view.path)


def _show(view: View, path: str, *, source: str) -> None:
    place = in_root.open_straight(source, flags=os.O_PATH)
    try:
        tree = mount.open_tree(place, recursive=False)
    finally:
        os.close(place)
    try:
        idmap.set_owners(tree, view.ids, what=source)

        def attach() -> None:
            with beneath.Root(view.directory) as own:
                own.attach(tree, f"{view.path}/{path}")
            mount.set_propagation(tree, mount.MS_PRIVATE)

        namespace.in_mounts_of(view.pid, attach)
    finally:
        os.close(tree)


def _is_gone(error: PodError) -> bool:
    """Whether the mount was unmounted meanwhile, is hidden by another one, or a guest has replaced its path
    by a link.
    """
    gone = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return isinstance(error, FileNotFoundError) or (isinstance(error, KernelError) and error.errno in gone)
