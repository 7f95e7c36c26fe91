# SPDX-License-Identifier: Apache-2.0
"""Where the roots of a pod's containers come from: the DAX window of its VM, or else the layers export.

Owned by the pod, called by `cri.containers`. An image is in the window as long as a container uses it. Which images are
there is written in the pod's directory (`stage1.vm.mapping`); their users are in the containers' records, so after a
daemon was killed `settle` finds the unused ones.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from cri.retry import retry_while_busy
from cri.threads import UNDO_S, is_done_within, run_apart, run_uncancellable
from stage1 import engine, own
from stage1.errors import NotFound, PodError, Unsupported, WrongState
from stage1.guest import messages
from stage1.machine import SUSPEND
from stage1.rootfs import export
from stage1.rootfs.flat import flatten
from stage1.vm import mapping
from stage1.vm.window import Placed, Window

if TYPE_CHECKING:
    from cri.store.pods import ContainerRecord
    from stage1.pod.model import Pod
    from stage1.rootfs.share import ImageFiles

log = logging.getLogger("clearpod.images")

PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Delay between attempts to unmount: the kernel releases a removed container's mounts a moment after its last
process.
"""


class Accounts(NamedTuple):
    """The image's /etc/passwd and /etc/group, empty where it has none."""

    passwd: str = ""
    group: str = ""


class Root(NamedTuple):
    """The source of a container's root: `lower` for the agent, in the window or not; `source` describes it and the
    reason, for display. `took_ns` is how long the guest took to get the image.
    """

    lower: str
    in_window: bool
    source: str
    accounts: Accounts
    took_ns: int = 0


class PodImages:
    """The images of one pod, whose directory is `directory` and whose agent `call` asks. `records` are of its
    containers, also those of a copied guest that were not created yet.
    """

    def __init__(
        self,
        pod: "Pod",
        directory: str,
        *,
        call: Callable[[messages.Op], Awaitable[messages.Reply]],
        records: "Callable[[], Iterable[ContainerRecord]]",
        is_ready: Callable[[], bool],
    ) -> None:
        self._pod, self._directory, self._call = pod, directory, call
        self._records, self._is_ready = records, is_ready
        self._lock = asyncio.Lock()
        self._held: Counter[str] = Counter()
        self._has_no_window = False  # as far as is known
        self._reported: set[str] = set()

    @asynccontextmanager
    async def held(self, image: "ImageFiles") -> AsyncIterator[Root]:
        """Bring the image into the guest; at the end it stays if a container of the pod's uses it."""
        name = export.image_name(image.id)
        self._held[name] += 1
        begun_ns = time.monotonic_ns()
        try:
            async with self._lock:
                root = await self._bring(image, name)
            yield root._replace(took_ns=time.monotonic_ns() - begun_ns)
        finally:
            self._held[name] -= 1
            await is_done_within(UNDO_S, self.settle())

    async def export(self, image: "ImageFiles") -> None:
        """Bring an image into the guest by 9p, for those who mount a part of it. Raises Unsupported."""
        if self._pod.suspend:
            raise Unsupported(
                f"the image {image.id} can't be a volume of a pod that can be suspended, since it would be on 9p; "
                f"leave out the annotation {SUSPEND}"
            )
        async with self._lock:
            await run_uncancellable(engine.add_image, self._directory, self._pod, image=image)

    async def to_boot(self, image: "ImageFiles") -> str:
        """Mount an image where the VMM sees it, for a kernel in it; its name there."""
        async with self._lock:
            return await run_uncancellable(own.add_image, self._directory, image)

    async def settle(self) -> None:
        """Take images that nothing uses out of the window. What can't be now stays recorded for the next time."""
        if not self._is_ready() or self._has_no_window:
            return
        async with self._lock:
            for name in await self._unused():
                try:
                    await self._release(name)
                except PodError as error:
                    extra = {"pod": self._pod.id, "image": name, "error": str(error)}
                    log.warning("window.unreleased", extra=extra)

    async def _bring(self, image: "ImageFiles", name: str) -> Root:
        was_exported, lower, accounts, window = await run_uncancellable(self._export, image)
        self._has_no_window = window is None
        if window is None:
            why = "this pod is on the host" if self._pod.host else "this pod's VM has no DAX window"
            return Root(lower, False, f"layers export: {why}", accounts)
        try:
            offset = await self._put_in(image, name, placed=window.find(name))
        except PodError as error:
            if window.is_disk:  # such a guest has no layers export
                await run_uncancellable(export.remove_image, self._directory, image)
                raise
            self._say_once(image.id, str(error))
            return Root(lower, False, f"layers export: {error}", accounts)
        if not was_exported:
            await run_uncancellable(export.remove_image, self._directory, image)
        return Root(name, True, f"{'disk' if window.is_disk else 'dax'} window at {offset}", accounts)

    def _export(self, image: "ImageFiles") -> tuple[bool, str, Accounts, Window | None]:
        """Whether it was in the export, which it is now, its name there, its accounts, and the pod's window. Blocks.
        Without a window it counts as having been there: it stays.
        """
        directory = self._directory
        window = mapping.find(directory)
        was_exported = window is None or export.has_image(directory, image)
        lower = engine.add_image(directory, self._pod, image=image)
        files = (export.read_image_file(directory, lower, path=path) for path in ("etc/passwd", "etc/group"))
        return was_exported, lower, Accounts(*files), window

    async def _put_in(self, image: "ImageFiles", name: str, *, placed: Placed | None) -> int:
        """The image's offset in the window. Raises PodError with the reason why it can't be there."""
        if placed and self._is_used(name, besides=1):
            return placed.offset
        if placed:
            try:
                await self._release(name)
            except WrongState:
                return placed.offset  # it is mounted, and stays so
        pieces = await run_uncancellable(flatten, image)
        place = await run_apart(mapping.put_in, self._directory, name, pieces=pieces)
        try:
            await self._call(messages.MountImage(name, place.offset, place.size))
        except (PodError, asyncio.CancelledError):
            # Who waits for the same image must not take it for mounted: if this is too slow, they do it.
            await is_done_within(UNDO_S, self._release(name))
            raise
        return place.offset

    def _say_once(self, image_id: str, why: str) -> None:
        if image_id not in self._reported:
            self._reported.add(image_id)
            log.warning("window.unused", extra={"pod": self._pod.id, "image": image_id, "error": why})

    def _is_used(self, name: str, *, besides: int = 0) -> bool:
        """Whether a container uses it, or more than `besides` are being made that may."""
        return self._held[name] > besides or any(record.window_image == name for record in self._records())

    async def _unused(self) -> list[str]:
        window = await run_uncancellable(mapping.find, self._directory)
        return [image.name for image in window.images if not self._is_used(image.name)] if window else []

    async def _release(self, name: str) -> None:
        with suppress(NotFound):
            await retry_while_busy(lambda: self._call(messages.UnmountImage(name)), PAUSES_S)
        await run_apart(mapping.take_out, self._directory, name)
