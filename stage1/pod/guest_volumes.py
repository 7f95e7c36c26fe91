# SPDX-License-Identifier: Apache-2.0
"""Volumes of a container that its guest has itself, as the guest's program wants them (images/volumes/main.c).

Called by `oci` and the engine. Pure.
"""

from stage1.pod.model import Container, IdMap, Mount

FILE = "guest_volumes"
"""In the container's bundle."""
MOST = 64
"""In one container; images/agent/helpers/rootfs.c counts on it."""


def places(container: Container) -> dict[int, int]:
    """Where each is bound in the container's directory, behind the volumes of its image, by its number as a mount."""
    numbers = [number for number, mount in enumerate(container.mounts) if mount.is_in_guest]
    return {number: len(container.volumes) + index for index, number in enumerate(numbers)}


def listing(container: Container, ids: IdMap) -> bytes:
    """One line for each: `disk INDEX MODE UID GID PATH` or `memory INDEX NUMBER BYTES`."""
    lines = (
        _line(container.mounts[number], index=index, number=number, first_id=ids.first)
        for number, index in _sorted(container)
    )
    return b"".join(lines)


def _sorted(container: Container) -> list[tuple[int, int]]:
    return sorted(places(container).items())


def _line(mount: Mount, *, index: int, number: int, first_id: int) -> bytes:
    if mount.memory.most_bytes:
        return f"memory {index} {number} {mount.memory.most_bytes}\n".encode()
    disk = mount.disk
    text = f"disk {index} {disk.mode:o} {disk.uid + first_id} {disk.gid + first_id} {disk.path}\n"
    return text.encode(errors="surrogateescape")
