# SPDX-License-Identifier: Apache-2.0
"""Which volumes of a container follow the host's mounts, and where they are. Called by the daemon, in threads."""

from stage1 import engine
from stage1.errors import PodError
from stage1.pod.model import HOST_TO_CONTAINER, Container, Mount, Pod
from stage1.rootfs import following


def volumes(container: Container) -> "list[tuple[int, Mount]]":
    """Return the volumes into which later mounts of the host propagate, with their places in the container's list."""
    return [one for one in enumerate(container.mounts) if one[1].propagation == HOST_TO_CONTAINER and not one[1].image]


def update(directory: str, pod: Pod, *, container: Container) -> dict[str, PodError]:
    """Show the container of the pod in `directory` what the host has mounted since, and no more what it has unmounted.

    Returns what can't be shown, by path, with the reason. Nothing happens when the VM or the container is gone.
    """
    pid = engine.living_pid(directory)
    refused: dict[str, PodError] = {}
    if not pid:
        return refused
    try:
        with engine.owners_of(directory, pod) as owners:
            for number, volume in volumes(container):
                at = f"volumes/containers/{container.id}/mounts/{number}"
                ids = owners.shifted() if volume.mapped else owners.plain()
                refused |= following.update(volume, following.View(directory, at, pid, ids))
    except FileNotFoundError:
        pass  # it is being removed
    return refused
