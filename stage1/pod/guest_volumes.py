# SPDX-License-Identifier: Apache-2.0
"""Volumes of a container that its guest has itself, as the guest's program wants them (images/volumes/main.c).

Called by `oci` and the engine. Pure.
"""

from stage1.errors import BadRequest
from stage1.pod.model import BOOT_ID, BOOT_ID_SEEN_AT, Container, IdMap, InMemory, Mount

FILE = "guest_volumes"
"""The file in the container's bundle."""
MOST = 64
"""The maximum in one container, which images/agent/helpers/rootfs.c relies on."""
_POD_FILE_BYTES = 1 << 20


def places(container: Container) -> dict[int, int]:
    """The directory in the container's directory where each is bound, after the volumes of its image, by its number
    as a mount.
    """
    numbers = [number for number, mount in enumerate(container.mounts) if mount.is_in_guest]
    return {number: len(container.volumes) + index for index, number in enumerate(numbers)}


def with_pod_files(container: Container, directory: str, *, has_boot_id: bool) -> Container:
    """The volumes of a container of a pod that can be suspended, in the host's `directory`: the pod's own files are
    copies, too, since a VM can't be saved while a container has one over 9p, and so is a boot id, since a copy's kernel
    keeps the original's. Raises BadRequest for too many volumes.
    """
    taken = {mount.target for mount in container.mounts}
    named = {name: f"/etc/{name}" for name in container.pod_files}
    named |= {BOOT_ID: BOOT_ID_SEEN_AT} if has_boot_id else {}
    copied = InMemory(_POD_FILE_BYTES, is_file=True)
    more = tuple(
        Mount(f"{directory}/tree/volumes/pod/{name}", target, read_only=name == BOOT_ID, memory=copied)
        for name, target in named.items()
        if target not in taken
    )
    mounts = (*container.mounts, *more)
    if sum(mount.is_in_guest for mount in mounts) > MOST:
        raise BadRequest(f"a container of a pod that can be suspended can have {MOST - len(more)} volumes in its guest")
    return container._replace(mounts=mounts)


def blocker(container: Container) -> str:
    """Why a VM with this container can't be saved; empty when it can."""
    for mount in container.mounts:
        if not (mount.is_in_guest or mount.inside):
            return (
                f"container {container.name} has {mount.source} of the host at {mount.target}, which its guest reads "
                "through the host; set clearpod.io/files and clearpod.io/emptydir to guest for config maps and "
                "emptyDirs, or leave it out"
            )
    return ""


def listing(container: Container, ids: IdMap) -> bytes:
    """One line for each: `disk INDEX MODE UID GID PATH`, `limited INDEX PARTITION MODE UID GID PATH`,
    `tmpfs INDEX BYTES MODE UID GID PATH`, or `memory INDEX NUMBER BYTES`, or the same with `output`.
    """
    lines = (
        _line(container.mounts[number], index=index, number=number, first_id=ids.first)
        for number, index in _sorted(container)
    )
    return b"".join(lines)


def _sorted(container: Container) -> list[tuple[int, int]]:
    return sorted(places(container).items())


def _line(mount: Mount, *, index: int, number: int, first_id: int) -> bytes:
    if mount.memory.most_bytes:
        kind = "output" if mount.memory.is_output else "memory"
        return f"{kind} {index} {number} {mount.memory.most_bytes}\n".encode()
    one = mount.empty_dir
    kind = f"limited {index} {one.partition}" if one.partition else f"disk {index}"
    if one.in_memory:
        kind = f"tmpfs {index} {one.size_bytes}"
    text = f"{kind} {one.mode:o} {one.uid + first_id} {one.gid + first_id} {one.path}\n"
    return text.encode(errors="surrogateescape")
