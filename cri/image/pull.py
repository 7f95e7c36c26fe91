# SPDX-License-Identifier: Apache-2.0
"""Brings an image here: resolve, download what is missing, convert, merge, remember.

Called by PullImage and `clearpod run`. Pulls of one reference with the same credentials share one run; it is cancelled
when no caller waits for it any more (the server lets PullImage finish when only its client went away). If
several pulls need a layer, one of them downloads it. A pull that fails leaves nothing; files of a killed process are in
tmp/, and `ImageStore.clean_up` removes them. docs/design/images.md has the reasons.
"""

import asyncio
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from cri.config import Config
from cri.image import manifest, origins
from cri.image.convert import HERE, WAITS, Run, Seen, bring_all, read, unseen
from cri.image.origins import Auth
from cri.image.registry import Processes, Watch
from cri.image.source import LOCAL, Names, Source, names_of, source_of
from cri.store.images import Image, ImageStore, LayersVanished
from cri.store.reference import parse
from cri.store.workshop import Workshop
from cri.threads import run_uncancellable
from stage1.errors import DiskFailed, Exhausted, NoSpace
from stage1.linux import sandbox
from stage1.rootfs import layers
from stage1.rootfs.worker import ForkServer

log = logging.getLogger("clearpod.pull")

_ATTEMPTS = 3
FIRST_S, LAST_S = 0.3, 30.0
"""Delays between attempts to remove a pull's directory, each twice the one before."""


class Turns:
    """`count` turns at a time, first come first served. Those that wait hold no resources."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._waiting = self._leaving = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator["Turn"]:
        """A turn, as soon as there is one."""
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        turn = Turn(self)
        try:
            yield turn
        finally:
            self._leaving -= turn.is_leaving
            self._free.release()

    def let_leave(self) -> bool:
        """Whether one that offers to leave shall: as many do as wait."""
        is_due = self._waiting > self._leaving
        self._leaving += is_due
        return is_due


class Turn:
    """One of `turns`, for as long as it lasts."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.is_leaving = False

    def yields(self) -> bool:
        """Whether this turn shall end for somebody who waits; who asks ends it then."""
        self.is_leaving = self.is_leaving or self._turns.let_leave()
        return self.is_leaving


_turns: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]" = weakref.WeakKeyDictionary()
_reported: set[str] = set()


def _say_once(lacks: str) -> None:
    if lacks not in _reported:
        _reported.add(lacks)
        log.warning("image.confinement", extra={"error": lacks})


class _Flight:
    """One run of a pull and how many wait for it."""

    def __init__(self, task: "asyncio.Task[Image]") -> None:
        self.task, self.waiters = task, 0


_Key = tuple[str, Auth | None]


_processes: "weakref.WeakKeyDictionary[ImageStore, Processes]" = weakref.WeakKeyDictionary()
_flights: "weakref.WeakKeyDictionary[ImageStore, dict[_Key, _Flight]]" = weakref.WeakKeyDictionary()


class Pull(NamedTuple):
    """What is pulled by whom, with which configuration, and who looks."""

    reference: str
    auth: Auth | None
    config: Config
    seen: Seen = unseen


async def pull(
    store: ImageStore, reference: str, *, config: Config, auth: Auth | None = None, seen: Seen = unseen
) -> Image:
    """The image that `reference` names now: a registry's, or `oci:DIR[:REF]` or `docker-archive:FILE[:REF]`. `seen` is
    told how it goes on, if it is the first to ask for it.

    Raises BadRequest (reference, platform), NotFound, RegistryUnavailable, LoginNeeded, Corrupt,
    Unsupported (media types), NoSpace, TimedOut.
    """
    key = (reference if reference.startswith(LOCAL) else str(parse(reference)), auth)
    flights = _flights.setdefault(store, {})
    flight = flights.get(key)
    if flight is None:
        flight = flights[key] = _Flight(asyncio.create_task(_pull(store, Pull(*key, config, seen))))
        flight.task.add_done_callback(lambda task: _landed(flights, key, task=task))
    flight.waiters += 1
    try:
        return await asyncio.shield(flight.task)
    finally:
        flight.waiters -= 1
        if not flight.waiters and not flight.task.done():
            flight.task.cancel()
            _landed(flights, key, task=flight.task)


def _processes_of(store: ImageStore) -> Processes:
    if store not in _processes:
        _processes[store] = Processes()
        store.at_close = _processes[store].close
    return _processes[store]


def _landed(flights: dict[_Key, _Flight], key: _Key, *, task: "asyncio.Task[Image]") -> None:
    if key in flights and flights[key].task is task:
        del flights[key]
    if task.done() and not task.cancelled():
        # Nobody may be left to look at it.
        task.exception()


async def _pull(store: ImageStore, what: Pull) -> Image:
    loop, limits = asyncio.get_running_loop(), what.config.images.limits
    if lacks := (await asyncio.to_thread(sandbox.means)).lacks:
        _say_once(lacks)
    turns = _turns.setdefault(loop, Turns(limits.pulls))
    for attempt in range(_ATTEMPTS):
        try:
            async with turns.one() as turn:
                with _disk_errors(store), _processes_of(store).used() as server:
                    if there := await _again(store, what):
                        return there
                    return await _in_workshop(store, what, server=server, turn=turn)
        except LayersVanished:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


async def _in_workshop(store: ImageStore, what: Pull, *, server: ForkServer, turn: Turn) -> Image:
    """One try, in a directory of its own. Nothing is at work there any more when it is removed.

    That is done in a thread, with the end of the source's processes: one that a registry keeps busy takes its time.
    """
    workshop = store.workshop()
    try:
        await run_uncancellable(workshop.open)
        place, config = workshop.path, what.config
        source = await run_uncancellable(source_of, what.reference, place, config=config, auth=what.auth, server=server)
        try:
            await run_uncancellable(source.prepare)
            return await _bring(store, source, what=what, at=layers.Place(
                store.layers_dir, place, limits=config.images.limits, server=server
            ), turn=turn)  # fmt: skip
        finally:
            await run_uncancellable(source.close)
    finally:
        await leave(workshop)


async def _again(store: ImageStore, what: Pull) -> Image | None:
    """The stored image of this name, if the registry says that it still has the same."""
    if what.reference.startswith(LOCAL) or store.find(what.reference) is None:
        return None
    parsed, limits = parse(what.reference), what.config.images.limits
    asked = await asyncio.to_thread(origins.question, parsed, registries=what.config.registries, auth=what.auth)
    name, reference = str(parsed), parsed.digest or parsed.tag
    digest = await _processes_of(store).digest(reference, asked, name=name, limits=limits)
    if not digest or parsed.digest not in ("", digest):
        return None
    names = names_of(parsed, digest)
    return await _kept(store, names.digest, names=names, place=layers.Place(store.layers_dir, "", limits=limits))


@contextlib.contextmanager
def _disk_errors(store: ImageStore) -> Iterator[None]:
    try:
        yield
    except NoSpace as error:
        free = os.statvfs(store.state_dir)
        raise NoSpace(f"{error} ({free.f_bavail * free.f_frsize} bytes are free in {store.state_dir})") from None


async def _bring(store: ImageStore, source: Source, *, what: Pull, at: layers.Place, turn: Turn) -> Image:
    stop = threading.Event()
    place = at._replace(stop=stop.is_set)
    names = await source.named()
    if there := await _kept(store, names.digest, names=names, place=place):
        return there
    resolved = await source.resolve()
    if there := await _kept(store, resolved.manifest.config, names=names, place=place):
        return there
    keep_bytes, watch = what.config.storage.keep_free_mib << 20, Watch(yields=turn.yields)
    run = Run(store, source, resolved, names, place, stop, set(), keep_bytes, watch, what.seen)
    try:
        await run.read(lambda: store.drop_damaged(manifest.diff_ids(resolved.config), stop.is_set))
        missing = set(run.missing())
        for blob, _ in run.layers():
            run.show(blob, WAITS if blob in missing else HERE)
        await bring_all(store, run.missing, origin=source.origin, bring=run.bring)
        kept = await run.read(run.keep)
    except BaseException:
        # Only layers that this pull made and no image needs; another pull that relied on one starts again.
        await run_uncancellable(store.discard, run.made)
        raise
    log.info("pull.done", extra={"image": source.name, "id": kept.id, "bytes": kept.size_bytes})
    return kept


async def _kept(store: ImageStore, known: str, *, names: Names, place: layers.Place) -> Image | None:
    """The image that is `known` by this name, if it is here and sound; it has all its `names` then."""
    if not known or (image := store.find(known)) is None:
        return None
    stop = threading.Event()
    if await read(lambda: store.examine(image, whole=True, stop=stop.is_set), stop, limits=place.limits):
        return None
    return await run_uncancellable(store.name, image, tag=names.tag, digest=names.digest)


pending: set["asyncio.Task[None]"] = set()
"""The removals of pulls' directories that are tried again."""


async def leave(workshop: Workshop) -> None:
    """Remove a pull's directory, which may have gigabytes, now, or as soon as that is possible: also where the host has
    no descriptor left for that now, or its disk can't be written to. What is not removed when the daemon ends is
    removed at its next start. Raises KernelError.
    """
    try:
        await run_uncancellable(workshop.close)
    except (Exhausted, DiskFailed) as error:
        log.warning("pull.left", extra={"error": str(error)})
        pending.add(task := asyncio.create_task(_closed(workshop), name="end of a pull"))
        task.add_done_callback(_ended)


async def _closed(workshop: Workshop) -> None:
    pause_s = FIRST_S
    while True:
        await asyncio.sleep(pause_s)
        try:
            return await run_uncancellable(workshop.close)
        except (Exhausted, DiskFailed):
            pause_s = min(2 * pause_s, LAST_S)


def _ended(task: "asyncio.Task[None]") -> None:
    pending.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.warning("pull.left", extra={"error": str(error)})
