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
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from cri.store.pods import ContainerRecord, SavedContainer
    from stage1.pod.model import Pod
    from stage1.rootfs.share import ImageFiles

log = logging.getLogger("clearpod.images")

PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Delay between attempts to unmount: the kernel releases a removed container's mounts a moment after its last
process.
"""
ACCOUNTS = ("etc/passwd", "etc/group")
NO_WINDOW = "this pod's VM has no DAX window"


# -- Accounts ----------------------------------------------------------------------------------------------------------
# An image's /etc/passwd and /etc/group are read once as long as its files are the same: damaged ones are replaced. No
# I/O here.


MOST, MOST_CHARACTERS = 64, 32 << 10
"""How many are kept, and of what size at most: what a base image has is less than a tenth of that."""


class Accounts(NamedTuple):
    """The image's /etc/passwd and /etc/group, empty where it has none."""

    passwd: str = ""
    group: str = ""


MadeOf = tuple[str, bytes]
"""An image's id, and the identity of its files."""


class KeptAccounts:
    """Accounts by what their image is made of, those that were read first making way for later ones."""

    def __init__(self) -> None:
        self._kept: dict[MadeOf, Accounts] = {}

    def of(self, image: MadeOf, read: Callable[[], Accounts]) -> Accounts:
        """Return the accounts that are kept, or those that `read` finds. Raises what it raises. A missing passwd is
        looked for each time, since it may be a file that could not be read.
        """
        if (known := self._kept.get(image)) is not None:
            return known
        accounts = read()
        if accounts.passwd and len(accounts.passwd) + len(accounts.group) <= MOST_CHARACTERS:
            for oldest in list(self._kept)[: max(len(self._kept) - MOST + 1, 0)]:
                self._kept.pop(oldest, None)
            self._kept[image] = accounts
        return accounts


# -- Roots -------------------------------------------------------------------------------------------------------------


class RootRequest(NamedTuple):
    """A request for the root of a new container. `find_files` returns the image's files, and behind them those of
    images that are its volumes; `plan` makes of its accounts what the caller needs. Both block, and are called in one
    thread. `accounts` are those that were read before.
    """

    image_id: str
    find_files: "Callable[[], tuple[ImageFiles, ...]]"
    plan: Callable[[Accounts], Any] = lambda accounts: accounts
    accounts: KeptAccounts | None = None


class Root(NamedTuple):
    """The source of a container's root: `lower` for the agent, in the window or not; `source` describes it and the
    reason, for display. `planned` is the result of `RootRequest.plan`, `volumes` are the files behind the image's own.
    `took_ns` is how long the guest took to get the image.
    """

    lower: str
    in_window: bool
    source: str
    planned: Any = None
    volumes: "tuple[ImageFiles, ...]" = ()
    took_ns: int = 0


class _Exported(NamedTuple):
    """An image in the layers export, as `lower`; `was_there` before, or stays there since there is no window."""

    files: "tuple[ImageFiles, ...]"
    lower: str
    was_there: bool
    window: Window | None
    planned: Any

    def as_root(self, source: str) -> Root:
        """The root that is made from the export."""
        return Root(self.lower, False, f"layers export: {source}", self.planned, self.files[1:])


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
        records: "Callable[[], Iterable[ContainerRecord | SavedContainer]]",
        is_ready: Callable[[], bool],
    ) -> None:
        self._pod, self._directory, self._call = pod, directory, call
        self._records, self._is_ready = records, is_ready
        self._lock = asyncio.Lock()
        self._held: Counter[str] = Counter()
        self._has_no_window = False  # as far as is known
        self._reported: set[str] = set()

    @asynccontextmanager
    async def held(self, request: RootRequest) -> AsyncIterator[Root]:
        """Bring the image into the guest; at the end it stays if a container of the pod's uses it."""
        name = export.image_name(request.image_id)
        self._held[name] += 1
        begun_ns = time.monotonic_ns()
        try:
            async with self._lock:
                root = await self._bring(request, name)
            yield root._replace(took_ns=time.monotonic_ns() - begun_ns)
        finally:
            self._held[name] -= 1
            if self.has_window:
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

    async def to_boot(self, request: RootRequest) -> Root:
        """Mount an image where the VMM sees it, for a kernel in it. It has no accounts."""

        def add() -> Root:
            image = request.find_files()[0]
            planned = request.plan(Accounts())
            return Root(own.add_image(self._directory, image), False, "the image's kernel is booted", planned)

        async with self._lock:
            return await run_uncancellable(add)

    @property
    def has_window(self) -> bool:
        """Whether there is anything for `settle`, as far as is known."""
        return not self._has_no_window

    async def settle(self) -> None:
        """Take images that nothing uses out of the window. What can't be now stays recorded for the next time."""
        if not self._is_ready() or not self.has_window:
            return
        async with self._lock:
            for name in await self._unused():
                try:
                    await self._release(name)
                except PodError as error:
                    extra = {"pod": self._pod.id, "image": name, "error": str(error)}
                    log.warning("window.unreleased", extra=extra)

    async def _bring(self, request: RootRequest, name: str) -> Root:
        exported = await run_uncancellable(self._export, request)
        window, image = exported.window, exported.files[0]
        self._has_no_window = window is None
        if window is None:
            return exported.as_root("this pod is on the host" if self._pod.host else NO_WINDOW)
        try:
            offset = await self._put_in(image, name, placed=window.find(name))
        except PodError as error:
            if window.is_disk:  # such a guest has no layers export
                await run_uncancellable(export.remove_image, self._directory, image)
                raise
            self._say_once(image.id, str(error))
            return exported.as_root(str(error))
        if not exported.was_there:
            await run_uncancellable(export.remove_image, self._directory, image)
        source = f"{'disk' if window.is_disk else 'dax'} window at {offset}"
        return Root(name, True, source, exported.planned, exported.files[1:])

    def _export(self, request: RootRequest) -> _Exported:
        """Mount the image in the export, and call the request's `plan` with its accounts. Blocks."""
        directory, files = self._directory, request.find_files()
        window = None if self._has_no_window else mapping.find(directory)
        was_there = window is None or export.has_image(directory, files[0])
        lower = engine.add_image(directory, self._pod, image=files[0])
        try:
            kept = request.accounts or KeptAccounts()
            made_of = (request.image_id, export.identity(files[0]))
            planned = request.plan(kept.of(made_of, lambda: _accounts(directory, lower)))
        except BaseException:
            if not was_there:
                export.remove_image(directory, files[0])
            raise
        return _Exported(files, lower, was_there, window, planned)

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


def _accounts(directory: str, lower: str) -> Accounts:
    """Read them in the export. Blocks. Raises Exhausted."""
    return Accounts(*export.read_image_files(directory, lower, paths=ACCOUNTS))
