# SPDX-License-Identifier: Apache-2.0
"""Which volumes of a pod its guest has itself: emptyDirs in memory or on its disk, copies of config maps and the like.

`of_pod` is called by RunPodSandbox, which decides it once; `placed` by `container`, for each mount. Looks at the
kubelet's files; changes nothing.
"""

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from cri import policy
from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.translate import annotations, kubelet, volume_limits
from stage1.errors import BadRequest, PodError
from stage1.linux import mount
from stage1.machine import LASTING_DISK
from stage1.pod import guest_volumes
from stage1.pod.model import DiskLimit, EmptyDir, InMemory, Mount, Pod
from stage1.rootfs import parted

WHERE = GUEST, HOST = "guest", "host"
MOST_OUTPUT_BYTES = 64 << 10
"""Of a termination log that is written back; the kubelet reads the last 4 KiB."""
MOST_BYTES = 8 << 20
"""Of a volume that is copied; the kubelet's own are of at most 1 MiB, projected ones of several. A larger one stays on
the host.
"""
_MOST_ENTRIES = 1000


class PodVolumes(NamedTuple):
    """The result of looking into the kubelet's directory of the pod, for RunPodSandbox: fields of `Pod`."""

    kubelet_dir: str = ""
    disk_volumes: tuple[str, ...] = ()
    disk_limits: tuple[DiskLimit, ...] = ()
    memory_volumes: tuple[str, ...] = ()
    copies_files: bool = False


def of_pod(sandbox: pb.PodSandboxConfig, config: Config) -> PodVolumes:
    """What the pod's annotations and the configuration ask for, where the kubelet has made the pod's volumes.

    Blocks. Raises BadRequest for an annotation that is neither `guest` nor `host`, and for a limit that can't be kept.
    """
    limits = volume_limits.asked(sandbox)
    where = annotations.choice(sandbox, policy.EMPTY_DIRS, values=WHERE)
    is_saved = annotations.is_saved(sandbox)
    copied = annotations.choice(sandbox, policy.FILES, values=WHERE) or (GUEST if is_saved else config.volumes.files)
    directory = kubelet.pod_directory(config.volumes.kubelet_root, sandbox.metadata.uid)
    # What an earlier VM of the pod has written stays where it is, whatever the pod asks for now.
    has_disk = bool(directory) and os.path.exists(f"{directory}/{LASTING_DISK}")
    is_on_disk = has_disk or (where or (GUEST if is_saved else config.volumes.empty_dirs)) == GUEST
    there = kubelet.empty_dirs(directory) if directory else kubelet.EmptyDirs()
    on_disk = there.plain if is_on_disk else ()
    in_memory = () if where == HOST else there.memory
    if has_disk:
        limits = parted.read(os.path.dirname(f"{directory}/{LASTING_DISK}"))
    else:
        volume_limits.require(limits, on_disk=on_disk)
    if not (on_disk or in_memory or (directory and copied == GUEST)):
        return PodVolumes()
    return PodVolumes(directory, on_disk, limits if on_disk else (), in_memory, copied == GUEST)


def memory_bytes(volumes: PodVolumes, host_bytes: int) -> int:
    """Return the size of all emptyDirs in memory, but those of half the host's memory: the kubelet gives one without a
    limit all memory of the node. Blocks.
    """
    sizes = [mount.size_of(f"{volumes.kubelet_dir}/volumes/{kubelet.EMPTY}/{name}") for name in volumes.memory_volumes]
    return sum(size for size in sizes if size < host_bytes // 2)


def placed(given: Iterable[Mount], pod: Pod) -> tuple[Mount, ...]:
    """The mounts, with those marked that the guest is to have. Blocks. Raises BadRequest for too many."""
    mounts = tuple(given)
    if not pod.kubelet_dir:
        return mounts
    result = tuple(_placed(one, pod) for one in mounts)
    if sum(one.is_in_guest for one in result) > guest_volumes.MOST:
        raise BadRequest(f"a container can have at most {guest_volumes.MOST} volumes that its guest has itself")
    return result


def _placed(one: Mount, pod: Pod) -> Mount:
    volume = None if one.image else kubelet.volume(one.source, pod.kubelet_dir)
    if volume is None:
        return one
    if volume.kind == kubelet.EMPTY and volume.name in (*pod.disk_volumes, *pod.memory_volumes):
        return one._replace(empty_dir=_empty_dir(volume, pod))
    if volume.kind == kubelet.TERMINATION_LOG:  # the host sees it at once, where nothing is against that
        memory = InMemory(MOST_OUTPUT_BYTES, is_file=True, is_output=True)
        return one._replace(memory=memory) if pod.suspend and pod.copies_files else one
    is_copied = pod.copies_files and volume.kind in (*kubelet.FILES, kubelet.HOSTS) and not volume.below
    return one._replace(memory=_in_memory(one.source)) if is_copied else one


def _empty_dir(volume: kubelet.Volume, pod: Pod) -> EmptyDir:
    """Return the volume's place in the guest, with the owner and the mode that the kubelet gave it, as by fsGroup."""
    source = f"{pod.kubelet_dir}/volumes/{volume.kind}/{volume.name}"
    status = os.stat(source)
    path = f"{volume.name}/{volume.below}".rstrip("/")
    if "\n" in path or len(os.fsencode(path)) > 4000:
        raise BadRequest(f"a subPath of the volume {volume.name} is too long, or has a line break in it")
    made = EmptyDir(path, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    if volume.name in pod.memory_volumes:
        return made._replace(in_memory=True, size_bytes=mount.size_of(source))
    numbers = {limit.name: number for number, limit in enumerate(pod.disk_limits, start=parted.FIRST_PARTITION)}
    return made._replace(partition=numbers.get(volume.name, 0))


def _in_memory(source: str) -> InMemory:
    """None of it when it is too large, or no file of the kubelet's."""
    status = os.lstat(source)
    if stat.S_ISREG(status.st_mode):
        return InMemory(MOST_BYTES, is_file=True) if status.st_size <= MOST_BYTES else InMemory()
    return InMemory(MOST_BYTES) if stat.S_ISDIR(status.st_mode) and _is_small(source) else InMemory()


def _is_small(source: str) -> bool:
    try:
        return sum(one.st_size for one in kubelet.files_below(source, most=_MOST_ENTRIES)) <= MOST_BYTES
    except PodError:
        return False
