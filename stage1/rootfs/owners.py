# SPDX-License-Identifier: Apache-2.0
"""The user namespaces by which a pod's images and volumes are mapped. Made by the engine; the numbers are pod.ids'.

A mount that is mapped by the VMM's own namespace shows the guest the numbers that are on its disk. In a pod with a user
namespace, images, and volumes that ask for it, are shifted besides: 0 on the disk is the container's 0, which is
`IdMap.first` in the guest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from stage1.errors import WrongState
from stage1.linux import idmap, mount, namespace
from stage1.linux.idmap import Extent
from stage1.pod import ids as numbers
from stage1.pod.model import IdMap, Mount

Vmm = tuple[int, int, tuple[Extent, ...]]
"""The process's id and start time, and the maps of its user namespace."""
KEPT = "shifted"
"""The file in the pod's directory with the namespace for shifted ids."""
OF_KERNEL = "kernel-owners"
"""The file for one with the mapping of the pod's VMMs, of which each has its own: for images with kernels."""
PLAIN = "owners"
"""The file in the pod's directory, and in the mounts of the process that `keep_plain` was called for, with a
namespace that has the VMM's mapping: of pods that have volumes before they have a VMM.
"""


class Owners:
    """`with Owners(...) as owners:` has descriptors of the namespaces, opened when they are first asked for.

    -1 stands for no mapping: the pod's VMM was started without a user namespace. Methods raise what `find_vmm` does.
    """

    def __init__(self, directory: str, ids: IdMap, find_vmm: Callable[[], Vmm]) -> None:
        """`directory` is the pod's; `find_vmm`, called once if at all, returns the VMM's pid, start time and maps."""
        self._directory, self._ids, self._find_vmm = directory, ids, find_vmm
        self._known: Vmm | None = None
        self._plain = self._shifted = -1

    @property
    def _vmm(self) -> Vmm:
        if self._known is None:
            self._known = self._find_vmm()
        return self._known

    def __enter__(self) -> Owners:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._plain, self._shifted):
            if fd >= 0:
                os.close(fd)

    @property
    def extents(self) -> Sequence[Extent]:
        """The maps of the VMM's user namespace; none where it has none."""
        return self._vmm[2]

    def of(self, volume: Mount) -> int:
        """Return a descriptor of the user namespace that maps the owners of a volume's files. Raises as `shifted` and
        `plain`.
        """
        return self.shifted() if volume.mapped else self.plain()

    def plain(self) -> int:
        """Return a descriptor of the user namespace for files whose numbers on disk are the guest's; -1 without a
        mapping. Raises WrongState as `idmap.of_process`.
        """
        if self._plain < 0 and self._vmm[2]:
            self._plain = self._kept() if os.path.exists(f"{self._directory}/{PLAIN}") else idmap.of_process(*self._vmm)
        return self._plain

    def _kept(self) -> int:
        """Open the user namespace that is kept in the mount namespace of the VMM on record, with which it ends."""
        path = f"{self._directory}/{PLAIN}"
        return namespace.in_mounts_of(self._vmm[0], lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def shifted(self) -> int:
        """Return a descriptor of the user namespace for files whose 0 on disk is the container's; `plain` in a pod
        without a user namespace.

        Raises WrongState when the pod has one and its VMM, of an earlier version, none.
        """
        if not self._ids.length:
            return self.plain()
        if not self._vmm[2]:
            raise WrongState(
                "the pod was started by a version of clearpod with another mapping of owners; create the pod again"
            )
        if self._shifted < 0:
            self._shifted = os.open(f"{self._directory}/{KEPT}", os.O_RDONLY | os.O_CLOEXEC)
        return self._shifted


def keep(directory: str, ids: IdMap, *, vmm: Sequence[Extent]) -> None:
    """Make the namespace for what is shifted, where the pod needs one. Undone by unmounting below `directory`."""
    if ids.length and vmm and not mount.is_mounted(f"{directory}/{KEPT}"):
        idmap.keep(f"{directory}/{KEPT}", numbers.shifted(ids, vmm))


def keep_plain(directory: str, vmm: Sequence[Extent]) -> None:
    """Make a namespace with the VMM's maps before there is a VMM, in the mount namespace that we are in."""
    idmap.keep(f"{directory}/{PLAIN}", vmm)
