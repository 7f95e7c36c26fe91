# SPDX-License-Identifier: Apache-2.0
"""Propagates later mounts of the host into containers whose volumes follow it. One task of the node.

The kernel reports changes of the host's mounts (proc_pid_mountinfo(5)); if no volume follows, nothing is read. A mount
that hangs delays its own container's volumes only.
"""

import asyncio
import logging
import os
import select
from collections.abc import Callable, Iterable

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from stage1 import following
from stage1.errors import PodError

REST_S, IDLE_S = 0.02, 0.2
"""Delay between updates: mounts change in bursts. The second where no volume follows: each pod's own mounts would wake
the event loop in vain.
"""

CHECK_S = 10.0
"""Without a change: for containers that were not listed yet, or not adopted, when there was one."""

log = logging.getLogger("clearpod.mounts")


class Follower:
    """`pods` gives the pods that there are now; `changed` is called after a change of the host's mounts."""

    def __init__(self, pods: Callable[[], Iterable[LivePod]], *, changed: Callable[[], None] = lambda: None) -> None:
        self._pods, self._tell = pods, changed
        self._poll: select.epoll | None = None
        self._mounts = -1
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._stale: set[str] = set()
        self._reported: dict[str, set[str]] = {}

    def open(self) -> None:
        """Begin to watch. Undo: `close`."""
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.epoll()  # the loop asks for readability, which a file of /proc always has
        self._poll.register(self._mounts, select.EPOLLPRI | select.EPOLLERR)
        self._listen()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="mounts")

    def _listen(self) -> None:
        """Wait for the next change; one since the last call counts."""
        if self._poll is not None:
            asyncio.get_running_loop().add_reader(self._poll.fileno(), self._mounts_changed)

    async def close(self) -> None:
        """End. Idempotent."""
        if self._poll is None or self._task is None:
            return
        asyncio.get_running_loop().remove_reader(self._poll.fileno())
        self._poll.close()
        os.close(self._mounts)
        self._poll = None
        for task in (self._task, *self._busy.values()):
            task.cancel()

    def _mounts_changed(self) -> None:
        """Ignore further changes until `_run` has rested: each of a burst would interrupt the thread that mounts."""
        assert self._poll is not None
        self._poll.poll(0)  # consume the event
        asyncio.get_running_loop().remove_reader(self._poll.fileno())
        self._changed.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            self._tell()
            following = {
                one.id: (pod, one) for pod in self._pods() for one in pod.containers.values() if _follows(pod, one)
            }
            self._reported = {name: reported for name, reported in self._reported.items() if name in following}
            for pod, container in following.values():
                self._update(pod, container)
            await asyncio.sleep(REST_S if following else IDLE_S)
            self._listen()

    def _update(self, pod: LivePod, container: LiveContainer) -> None:
        """Update now, or again after the update in progress."""
        if container.id in self._busy:
            self._stale.add(container.id)
            return
        task = asyncio.get_running_loop().create_task(self._follow(pod, container))
        self._busy[container.id] = task
        task.add_done_callback(lambda _: self._done(container.id))

    def _done(self, container_id: str) -> None:
        del self._busy[container_id]
        if container_id in self._stale:
            self._stale.discard(container_id)
            self._changed.set()

    async def _follow(self, pod: LivePod, container: LiveContainer) -> None:
        spec = container.record.container
        try:
            with pod.gate.using_files():
                refused = await asyncio.to_thread(following.update, pod.directory, pod.record.pod, container=spec)
        except PodError as error:
            refused = {"": error}
        reported = self._reported.setdefault(container.id, set())
        for path in refused.keys() - reported:
            fields = {**pod.log_fields(container), "path": path, "error": str(refused[path])}
            log.warning("container.mount", extra=fields)
        reported |= refused.keys()


def _follows(pod: LivePod, container: LiveContainer) -> bool:
    return not pod.record.pod.host and bool(following.volumes(container.record.container))
