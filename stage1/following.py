# SPDX-License-Identifier: Apache-2.0
"""Which volumes of a container follow the host's mounts, and where they are. Called by the daemon, in threads."""

from stage1 import engine, served
from stage1.errors import PodError
from stage1.linux import flock
from stage1.pod.model import HOST_TO_CONTAINER, Container, Mount, Pod
from stage1.rootfs import following

_LOCK = "following.lock"


def volumes(container: Container) -> list[Mount]:
    """Return the volumes into which later mounts of the host propagate."""
    return [one for one in container.mounts if one.propagation == HOST_TO_CONTAINER and one.is_of_host]


def update(directory: str, pod: Pod, *, container: Container) -> dict[str, PodError]:
    """Show the container of the pod in `directory` what the host has mounted since, and no more what it has unmounted.

    Returns what can't be shown, by path, with the reason. Nothing happens when the VM or the container is gone.
    """
    pid = served.server_pid(directory)
    refused: dict[str, PodError] = {}
    if not pid:
        return refused
    try:
        # Another container may have the same one.
        with flock.Lock(f"{directory}/{_LOCK}"), engine.owners_of(directory, pod) as owners:
            names = served.names(directory, container.id)
            for volume, name in zip((one for one in container.mounts if one.is_of_host), names, strict=False):
                if volume.propagation != HOST_TO_CONTAINER:
                    continue
                at = f"{served.SOURCES}/{name}"
                ids = owners.shifted() if volume.mapped else owners.plain()
                refused |= following.update(volume, following.View(directory, at, pid, ids))
    except FileNotFoundError:
        pass  # it is being removed
    return refused
