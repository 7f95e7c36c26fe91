# SPDX-License-Identifier: Apache-2.0
"""Keeps the guests' copies of config maps, secrets and similar files current. One task of the node.

inotify(7) reports when the kubelet has changed one, and the guest copies the change. New containers are looked for
periodically, and their copies compared once then, so no change is missed from before they were watched, or while no
daemon ran. A guest that does not answer delays its own containers only.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from stage1.errors import PodError
from stage1.guest import messages
from stage1.linux.inotify import Watches
from stage1.pod import states

CHECK_S = 10.0
"""Delay between checks for new containers, and between retries with a guest that could not copy."""

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

    def open(self) -> None:
        """Begin to watch. Undo: `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="files")

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
        self._changed.set()

    def _pairs(self) -> dict[str, Pair]:
        return {one.id: (pod, one) for pod in self._pods() for one in pod.containers.values() if _has_copies(pod, one)}

    async def _run(self) -> None:
        while True:
            pairs = self._pairs()
            new = pairs.keys() - self._known
            self._known = set(pairs)
            await self._watch({path for _, one in pairs.values() for path in _sources(one)})
            self._stale = (self._stale | new) & pairs.keys()
            for container_id in self._stale - self._busy.keys():
                self._begin(*pairs[container_id])
            try:
                async with asyncio.timeout(self._check_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

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
                    await pod.call(messages.Update(container.id))
        except PodError as error:
            self._stale.add(container.id)
            log.warning("volume.copy", extra={**pod.log_fields(container), "error": str(error)})
        else:
            self._changed.set()


def _has_copies(pod: LivePod, container: LiveContainer) -> bool:
    return pod.record.pod.copies_files and container.status.state != states.EXITED and bool(_sources(container))


def _sources(container: LiveContainer) -> list[str]:
    mounts = container.record.container.mounts
    return [one.source for one in mounts if one.memory.most_bytes and not one.memory.is_output]
