# SPDX-License-Identifier: Apache-2.0
"""What is different in the OCI document of a container that runs on the host. Pure; called by the engine."""

from stage1.pod import oci
from stage1.pod.model import HOST_TO_CONTAINER, Container, Limits, Mount, Pod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEEDED = {"memory", "cpu", "pids"}
"""Controllers without which no limit can be kept."""


def config(pod: Pod, container: Container, *, controllers: frozenset[str], target_pid: int = 0) -> dict[str, "Any"]:
    """As `oci.config`. Limits are left out where the pod's cgroup lacks one of the `controllers` that they need;
    volumes are what they are by the mount itself, read-only or followed by what the host mounts below them.
    """
    if not controllers >= NEEDED:
        container = container._replace(limits=Limits())
    document = oci.config(pod, container, target_pid=target_pid)
    document["linux"]["rootfsPropagation"] = "rslave"
    volumes = {mount.target: mount for mount in container.mounts if not mount.image}
    for mount in document["mounts"]:
        if mount["destination"] in volumes:
            mount["options"] = _options(volumes[mount["destination"]])
    return document


def _options(volume: Mount) -> list[str]:
    """In a guest the host's side of the mount decides; here crun would undo that with an `rw`."""
    access = "rro" if volume.recursive_read_only else "ro" if volume.read_only else "rw"
    return ["rbind", access, *(["rslave"] if volume.propagation == HOST_TO_CONTAINER else [])]


def with_open_files(process: dict[str, "Any"], most: int) -> dict[str, "Any"]:
    """An OCI process whose limit of open files is at most `most`: only a guest's root can always raise its own."""
    limits = [{**one, "soft": min(one["soft"], most), "hard": min(one["hard"], most)} for one in process["rlimits"]]
    return {**process, "rlimits": limits}
