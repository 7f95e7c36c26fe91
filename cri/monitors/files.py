# SPDX-License-Identifier: Apache-2.0
"""Keeps the guests' copies of config maps, secrets and similar files current, and gives their emptyDirs in memory the
size that the kubelet's have. One task of the node.

inotify(7) reports when the kubelet has changed a file, and the guest copies the change. New containers are looked for
periodically, and their copies compared once then, so no change is missed from before they were watched, or while no
daemon ran. Sizes are compared then, too, and when the host's mounts have changed. A guest that does not answer delays
its own containers only.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Set

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.log_dedup import LogDedup
from stage1 import engine
from stage1.errors import PodError
from stage1.guest import messages
from stage1.linux import mount
from stage1.linux.inotify import Watches
from stage1.pod import states
from stage1.pod.model import Container, Mount
from stage1.rootfs import bundle

CHECK_S = 10.0
"""Delay between checks for new containers, and between retries with a guest that could not copy."""
MOST_LOGGED = 4096
"""Containers whose failures are logged once in that time."""

log = logging.getLogger("clearpod.volumes")

Pair = tuple[LivePod, LiveContainer]


class Refresher:
    """`pods` gives the pods that there are now."""

    def __init__(self, pods: Callable[[], Iterable[LivePod]], *, check_s: float = CHECK_S) -> None:
        self._pods, self._check_s = pods, check_s
        self._watches: Watches | None = None
        self._numbers: dict[str, int] = {}
        self._stale: set[str] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._known: set[str] = set()
        self._failed_at: dict[str, float] = {}
        self._logged = LogDedup(check_s, MOST_LOGGED)

    def open(self) -> None:
        """Begin to watch. Undo: `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="files")

    def mounts_changed(self) -> None:
        """Compare sizes now, since a mount of the host has changed."""
        if any(_in_memory(one.record.container) for _, one in self._pairs().values()):
            self._changed.set()

    async def close(self) -> None:
        """End. Idempotent."""
        tasks = [task for task in (self._task, *self._busy.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._task = None
        if self._watches is not None:
            asyncio.get_running_loop().remove_reader(self._watches.fd)
            self._watches.close()
            self._watches = None

    def _take_changes(self) -> None:
        assert self._watches is not None
        numbers = self._watches.changed()
        paths = {path for path, number in self._numbers.items() if number in numbers or -1 in numbers}
        for _, container in self._pairs().values():
            if paths.intersection(_sources(container)):
                self._stale.add(container.id)
                self._failed_at.pop(container.id, None)
        self._changed.set()

    def _pairs(self) -> dict[str, Pair]:
        return {one.id: (pod, one) for pod in self._pods() for one in pod.containers.values() if _is_kept(pod, one)}

    async def _run(self) -> None:
        while True:
            pairs = self._pairs()
            new = {name for name in pairs.keys() - self._known if _has_copies(*pairs[name])}
            self._known = set(pairs)
            await self._watch({path for _, one in pairs.values() for path in _sources(one)})
            containers = {name: one.record.container for name, (_, one) in pairs.items()}
            self._stale = (self._stale | new | await _with_other_sizes(containers)) & pairs.keys()
            for container_id in self._stale - self._busy.keys() - self._resting(pairs.keys()):
                self._begin(*pairs[container_id])
            try:
                async with asyncio.timeout(self._check_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

    def _resting(self, there: Set[str]) -> set[str]:
        """Return those that have failed a short while ago; changes elsewhere wake the task, and are none of theirs."""
        since = time.monotonic() - self._check_s
        self._failed_at = {name: at for name, at in self._failed_at.items() if name in there and at > since}
        return set(self._failed_at)

    async def _watch(self, paths: set[str]) -> None:
        """These and no others. What can't be watched now is tried again at the next look, and compared then."""
        try:
            watches = self._watches or (self._begin_to_watch() if paths else None)
        except PodError as error:
            log.warning("volume.watch", extra={"error": str(error)})
            return
        for path in self._numbers.keys() - paths:
            if watches is not None and self._numbers[path] not in self._others(path):
                watches.remove(self._numbers[path])
            del self._numbers[path]
        for path in paths - self._numbers.keys():
            assert watches is not None
            try:
                self._numbers[path] = await asyncio.to_thread(watches.add, path)
            except PodError as error:
                log.warning("volume.watch", extra={"path": path, "error": str(error)})

    def _others(self, path: str) -> set[int]:
        """The numbers of all other paths: two names of one place have the same one."""
        return {number for other, number in self._numbers.items() if other != path}

    def _begin_to_watch(self) -> Watches:
        self._watches = Watches()
        asyncio.get_running_loop().add_reader(self._watches.fd, self._take_changes)
        return self._watches

    def _begin(self, pod: LivePod, container: LiveContainer) -> None:
        task = asyncio.get_running_loop().create_task(self._refresh(pod, container))
        self._busy[container.id] = task
        task.add_done_callback(lambda _: self._busy.pop(container.id, None))

    async def _refresh(self, pod: LivePod, container: LiveContainer) -> None:
        """Copy the files to the guest again; a change meanwhile makes the container stale again."""
        self._stale.discard(container.id)
        try:
            async with container.lock:
                if container.status.state == states.CREATED or pod.is_suspended:
                    self._stale.add(container.id)  # at the next look it may run
                    return
                if pod.is_ready and container.is_running:
                    await _update(pod, container)
        except PodError as error:
            self._stale.add(container.id)
            self._failed_at[container.id] = time.monotonic()
            if not self._logged.seen(container.id, time.monotonic()):
                log.warning("volume.copy", extra={**pod.log_fields(container), "error": str(error)})
        else:
            self._changed.set()


async def _update(pod: LivePod, container: LiveContainer) -> None:
    """Have the guest copy files and resize what is in memory. A size that it can't take yet is not recorded."""
    resized = await asyncio.to_thread(_resized, container.record.container)
    if resized != container.record.container:
        place, ids = engine.bundle(container.id), pod.record.pod.ids
        await asyncio.to_thread(bundle.write_guest_volumes, pod.directory, place, container=resized, ids=ids)
    await pod.call(messages.Update(container.id))
    if resized != container.record.container:
        container.record = container.record._replace(container=resized)
        pod.save_soon()


def _is_kept(pod: LivePod, container: LiveContainer) -> bool:
    """Whether it has anything that is to be kept as the host has it."""
    is_kept = _in_memory(container.record.container) or _has_copies(pod, container)
    return container.status.state != states.EXITED and bool(is_kept)


def _has_copies(pod: LivePod, container: LiveContainer) -> bool:
    return pod.record.pod.copies_files and bool(_sources(container))


def _in_memory(container: Container) -> list[Mount]:
    return [one for one in container.mounts if one.empty_dir.in_memory]


def _resized(container: Container) -> Container:
    """The container with the sizes that its volumes in memory have on the host now. Blocks."""
    return container._replace(mounts=tuple(_with_size(one) for one in container.mounts))


def _with_size(one: Mount) -> Mount:
    """Unchanged where the kubelet has unmounted it, as at the end of the pod."""
    try:
        if not one.empty_dir.in_memory or not mount.is_mounted(one.source):
            return one
        return one._replace(empty_dir=one.empty_dir._replace(size_bytes=mount.size_of(one.source)))
    except OSError:
        return one


async def _with_other_sizes(containers: dict[str, Container]) -> set[str]:
    """Return those of the containers that have other sizes on the host than in their records."""
    in_memory = {name: one for name, one in containers.items() if _in_memory(one)}
    if not in_memory:
        return set()
    return await asyncio.to_thread(lambda: {name for name, one in in_memory.items() if _resized(one) != one})


def _sources(container: LiveContainer) -> list[str]:
    mounts = container.record.container.mounts
    return [one.source for one in mounts if one.memory.most_bytes and not one.memory.is_output]
