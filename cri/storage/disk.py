# SPDX-License-Identifier: Apache-2.0
"""The disk for the pods' writable layers: what is promised to pods, what is used, and what the daemon reserves.

Made by the node; used by the table before a pod is made, and by the RPCs about disks. It reads the state directory in
threads, and knows no guest: a guest's own disk is the meter's subject.
"""

import asyncio
import logging
import os

from cri.config import Config
from cri.storage import filling
from cri.storage.space import MIB, Layers, Space, require_space
from cri.store.reserve import Reserve
from stage1.engine import Host
from stage1.errors import NoSpace, PodError
from stage1.linux import beneath
from stage1.pod.model import Pod

log = logging.getLogger("clearpod.storage")

ROUND_S = 10.0
"""How often the reserve is looked after."""
MOST_LAYERS = 65536


def reserve_of(config: Config) -> Reserve:
    """The space that the daemon reserves on the state disk."""
    return Reserve(f"{config.state_dir}/reserve", config.storage.reserve_mib * MIB)


def measure(state_dir: str) -> Space:
    """The state disk now. Blocks."""
    disk = os.statvfs(state_dir)
    return Space(disk.f_bavail * disk.f_frsize, _layers(state_dir))


def _layers(state_dir: str) -> Layers:
    used = inodes = size = 0
    try:
        with beneath.Root(f"{state_dir}/scratch") as place:
            for name in place.names(most=MOST_LAYERS):
                if (status := place.stat(name)) is not None:
                    used, inodes = used + status.st_blocks * 512, inodes + 1
                    size += status.st_size if name.endswith(".img") else 0
    except FileNotFoundError:
        pass
    return Layers(used, inodes, size)


def _size(disk: os.statvfs_result) -> int:
    return disk.f_blocks * disk.f_frsize


class Storage:
    """`require_space_for` before a pod is made; `open` and `close` with the node."""

    def __init__(self, config: Config, host: Host) -> None:
        self._config, self._host = config.storage, host
        self.reserve = reserve_of(config)
        self._task: asyncio.Task[None] | None = None
        self._is_kept = True

    def open(self) -> None:
        """Begin to keep the reserve. The event loop must run."""
        self._task = asyncio.get_running_loop().create_task(self._rounds(), name="storage")

    async def close(self) -> None:
        """End; the reserve stays for the next daemon."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def size_of(self, pod: Pod) -> int:
        """Bytes that the pod may write into its layers; 0 for one on the host, whose layers have no size."""
        return 0 if pod.host else (pod.scratch_mib or self._host.scratch_mib) * MIB

    @property
    def is_bound(self) -> bool:
        """Whether what pods may write together has a bound."""
        return self._config.overcommit > 0

    async def measure(self) -> Space:
        """The state disk now."""
        return await asyncio.to_thread(measure, self._host.state_dir)

    def require_space_for(self, pod: Pod, space: Space, *, others: list[Pod]) -> None:
        """Raise NoSpace unless the disk has room for the pod and the `others`."""
        promised = sum(map(self.size_of, others))
        require_space(space, promised=promised, needed=self.size_of(pod), overcommit=self._config.overcommit)

    def require_free(self, near: str, needed: int, *, what: str) -> None:
        """Raise NoSpace unless `what` of so many bytes can be written into the directory `near` and leaves what is kept
        for pods. Blocks.
        """
        disk = os.statvfs(near)
        free, kept = disk.f_bavail * disk.f_frsize, filling.kept_free(self._config.keep_free_mib * MIB, _size(disk))
        if free < needed + kept:
            raise NoSpace(
                f"{what} may take {-(-needed // MIB)} MiB in {near}, where {free // MIB} MiB are free and "
                f"{kept // MIB} MiB are reserved for pods (storage.keep_free_mib); free some space"
            )

    async def counts(self, pods: list[Pod]) -> dict[str, float]:
        """The figures for `crictl info`, in bytes. `pods` are those with layers."""
        space = await self.measure()
        return {
            "free_bytes": space.free_bytes,
            "used_bytes": space.layers.used_bytes,
            "promised_bytes": sum(map(self.size_of, pods)),
            "overcommit": self._config.overcommit,
            "reserve_bytes": await asyncio.to_thread(self.reserve.held_bytes),
        }

    async def _rounds(self) -> None:
        while True:
            try:
                is_kept = await asyncio.to_thread(self.reserve.fill)
            except (PodError, OSError):
                is_kept = False
            if is_kept != self._is_kept:
                self._is_kept = is_kept
                what = "is kept again" if is_kept else "can't be allocated: the disk is full or failing"
                log.warning("storage.reserve", extra={"warning": f"the reserve of storage.reserve_mib {what}"})
            await asyncio.sleep(ROUND_S)
