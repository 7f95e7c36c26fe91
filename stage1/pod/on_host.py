# SPDX-License-Identifier: Apache-2.0
"""Differences in the OCI document of a container that runs on the host. Pure; called by the engine."""

from typing import Any

from stage1.pod import oci
from stage1.pod.capabilities import ALL
from stage1.pod.model import BIDIRECTIONAL, HOST_TO_CONTAINER, Container, Limits, Mount, Pod

FLOWS = {HOST_TO_CONTAINER: ("rslave",), BIDIRECTIONAL: ("rshared",)}
NEEDED = {"memory", "cpu", "pids"}
"""Controllers without which no limit can be kept."""


def config(pod: Pod, container: Container, *, controllers: frozenset[str], target_pid: int = 0) -> dict[str, Any]:
    """Like `oci.config`, for a pod on the host. Limits are left out where the pod's cgroup lacks one of the
    `controllers` that they need; volumes are what they are by the mount itself, read-only or followed by what the host
    mounts below them.
    """
    if not controllers >= NEEDED:
        container = container._replace(limits=Limits())
    document = oci.config(pod, container, target_pid=target_pid)
    volumes = {mount.target: mount for mount in container.mounts if not mount.image}
    is_bidirectional = any(mount.propagation == BIDIRECTIONAL for mount in volumes.values())
    document["linux"]["rootfsPropagation"] = "rshared" if is_bidirectional else "rslave"
    for mount in document["mounts"]:
        if mount["destination"] in volumes:
            mount["options"] = _options(volumes[mount["destination"]])
    return document


def _options(volume: Mount) -> list[str]:
    """The mount options of a volume with its access, which crun applies here; in a guest the host's side decides."""
    access = "rro" if volume.recursive_read_only else "ro" if volume.read_only else "rw"
    return ["rbind", access, *volume.options, *FLOWS.get(volume.propagation, ())]


def within(process: dict[str, Any], *, open_files: int, capabilities: int) -> dict[str, Any]:
    """An OCI process that wants no more than we can give: only a guest's root can always raise its limit of open files,
    and has all capabilities. Those that we have are a mask, as in proc_pid_status(5).
    """
    limits = [
        {**one, "soft": min(one["soft"], open_files), "hard": min(one["hard"], open_files)}
        for one in process["rlimits"]
    ]
    held = {name for number, name in enumerate(ALL) if capabilities >> number & 1}
    sets = {kind: [name for name in names if name in held] for kind, names in process["capabilities"].items()}
    return {**process, "rlimits": limits, "capabilities": sets}
