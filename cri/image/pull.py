# SPDX-License-Identifier: Apache-2.0
"""Brings an image here: resolve, download what is missing, convert, merge, remember.

Called by PullImage and `clearpod run`. Pulls of one reference with the same credentials share one run; it is cancelled
when no caller waits for it any more (the server lets PullImage finish when only its client went away). If
several pulls need a layer, one of them downloads it. A pull that fails leaves nothing; files of a killed process are in
tmp/, and `ImageStore.clean_up` removes them. docs/design/images.md has the reasons.
"""

import asyncio
import contextlib
import json
import logging
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from cri.config import Config
from cri.image import manifest
from cri.image.claims import bring_all
from cri.image.digests import Digests
from cri.image.leaving import leave
from cri.image.readers import Readers
from cri.image.registries import Auth
from cri.image.source import LOCAL, BlobFiles, Names, Resolved, Source, names_of, source_of
from cri.image.turns import Turn, Turns
from cri.storage import filling
from cri.store.images import Image, ImageStore, LayersVanished, NewImage
from cri.store.reference import parse
from cri.threads import await_end, run_uncancellable, started
from stage1.errors import BadRequest, KernelError, NoSpace, PodError, TimedOut, Unsupported
from stage1.linux import files, sandbox
from stage1.rootfs import layers, layout
from stage1.rootfs.blob import Blob
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.forking import ForkServer
from stage1.rootfs.limits import Limits, refusal
from stage1.rootfs.merge import merge

log = logging.getLogger("clearpod.pull")

T = TypeVar("T")
_ATTEMPTS = 3
SPACE_CHECK_S = 1.0
"""How often it is checked that a download leaves the space that is reserved for pods."""


class _Slots(NamedTuple):
    """How many pulls and how many layers are processed concurrently. Those that wait hold no resources."""

    pulls: Turns
    readers: asyncio.Semaphore
    threads: ThreadPoolExecutor
    """Of their own, so that work of minutes does not keep other calls waiting."""


_slots: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Slots]" = weakref.WeakKeyDictionary()


_reported: set[str] = set()


def _say_once(lacks: str) -> None:
    if lacks not in _reported:
        _reported.add(lacks)
        log.warning("image.confinement", extra={"error": lacks})


def _slots_of(limits: Limits) -> _Slots:
    loop = asyncio.get_running_loop()
    if loop not in _slots:
        threads = started(limits.readers, "image")
        _slots[loop] = _Slots(Turns(limits.pulls), asyncio.Semaphore(limits.readers), threads)
    return _slots[loop]


class _Flight:
    """One run of a pull and how many wait for it."""

    def __init__(self, task: "asyncio.Task[Image]") -> None:
        self.task, self.waiters = task, 0


_Key = tuple[str, Auth | None]


class _Helpers(NamedTuple):
    """Processes of a store that outlive a pull."""

    digests: Digests
    readers: Readers

    def close(self) -> None:
        """End them; those of `digests` in threads. Idempotent."""
        self.digests.close()
        self.readers.close()


_helpers: "weakref.WeakKeyDictionary[ImageStore, _Helpers]" = weakref.WeakKeyDictionary()
_flights: "weakref.WeakKeyDictionary[ImageStore, dict[_Key, _Flight]]" = weakref.WeakKeyDictionary()


async def pull(store: ImageStore, reference: str, *, config: Config, auth: Auth | None = None) -> Image:
    """The image that `reference` names now: a registry's, or `oci:DIR[:REF]` or `docker-archive:FILE`.

    Raises BadRequest (reference, platform), NotFound, RegistryUnavailable, LoginNeeded, Corrupt,
    Unsupported (media types), NoSpace, TimedOut.
    """
    key = (reference if reference.startswith(LOCAL) else str(parse(reference)), auth)
    flights = _flights.setdefault(store, {})
    flight = flights.get(key)
    if flight is None:
        flight = flights[key] = _Flight(asyncio.create_task(_pull(store, key, config=config)))
        flight.task.add_done_callback(lambda task: _landed(flights, key, task=task))
    flight.waiters += 1
    try:
        return await asyncio.shield(flight.task)
    finally:
        flight.waiters -= 1
        if not flight.waiters and not flight.task.done():
            flight.task.cancel()
            _landed(flights, key, task=flight.task)


def _helpers_of(store: ImageStore) -> _Helpers:
    if store not in _helpers:
        helpers = _helpers[store] = _Helpers(Digests(), Readers())
        store.at_close = helpers.close
    return _helpers[store]


def _landed(flights: dict[_Key, _Flight], key: _Key, *, task: "asyncio.Task[Image]") -> None:
    if key in flights and flights[key].task is task:
        del flights[key]
    if task.done() and not task.cancelled():
        # Nobody may be left to look at it.
        task.exception()


async def _pull(store: ImageStore, key: _Key, *, config: Config) -> Image:
    reference, auth = key
    limits = config.images.limits
    slots = _slots_of(limits)
    if lacks := (await asyncio.to_thread(sandbox.means)).lacks:
        _say_once(lacks)
    for attempt in range(_ATTEMPTS):
        try:
            async with slots.pulls.one() as turn:
                if there := await _again(store, reference, auth=auth, config=config):
                    return there
                with _disk_errors(store), _helpers_of(store).readers.used() as server:
                    return await _in_workshop(store, key, server=server, config=config, turn=turn)
        except LayersVanished:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


async def _in_workshop(store: ImageStore, key: _Key, *, server: ForkServer, config: Config, turn: Turn) -> Image:
    """One try, in a directory of its own. Nothing is at work there any more when it is removed.

    That is done in a thread, with the end of the source's processes: one that a registry keeps busy takes its time.
    """
    reference, auth = key
    workshop = store.workshop()
    try:
        await run_uncancellable(workshop.open)
        source = await run_uncancellable(source_of, reference, workshop.path, config=config, auth=auth, server=server)
        source.yields = turn.yields
        try:
            if store.find(reference) is None:
                await run_uncancellable(source.prepare)
            return await _bring(store, source, work_dir=workshop.path, server=server, config=config)
        finally:
            await run_uncancellable(source.close)
    finally:
        await leave(workshop)


async def _again(store: ImageStore, reference: str, *, auth: Auth | None, config: Config) -> Image | None:
    """The stored image of this name, if the registry still has the same and that can be determined without skopeo."""
    if reference.startswith(LOCAL) or store.find(reference) is None:
        return None
    parsed = parse(reference)
    digest = await _helpers_of(store).digests.of(parsed, config=config, auth=auth)
    if not digest or parsed.digest not in ("", digest):
        return None
    stop, names = threading.Event(), names_of(parsed, digest)
    place = layers.Place(store.layers_dir, "", stop.is_set, config.images.limits)
    return await _kept(store, names.digest, names=names, place=place, stop=stop)


@contextlib.contextmanager
def _disk_errors(store: ImageStore) -> Iterator[None]:
    try:
        yield
    except NoSpace as error:
        free = os.statvfs(store.state_dir)
        raise NoSpace(f"{error} ({free.f_bavail * free.f_frsize} bytes are free in {store.state_dir})") from None


async def _bring(store: ImageStore, source: Source, *, work_dir: str, server: ForkServer, config: Config) -> Image:
    stop = threading.Event()
    place = layers.Place(store.layers_dir, work_dir, stop.is_set, config.images.limits, server)
    names = await source.named()
    if there := await _kept(store, names.digest, names=names, place=place, stop=stop):
        return there
    resolved = await source.resolve()
    if there := await _kept(store, resolved.manifest.config, names=names, place=place, stop=stop):
        return there
    run = _Run(store, source, resolved, names, place, stop, set(), config.storage.keep_free_mib << 20)
    try:
        await run.read(lambda: store.drop_damaged(manifest.diff_ids(resolved.config), stop.is_set))
        await bring_all(store, run.missing, origin=source.origin, bring=run.bring)
        kept = await run.read(run.keep)
    except BaseException:
        # Only layers that this pull made and no image needs; another pull that relied on one starts again.
        await run_uncancellable(store.discard, run.made)
        raise
    log.info("pull.done", extra={"image": source.name, "id": kept.id, "bytes": kept.size_bytes})
    return kept


async def _kept(
    store: ImageStore, known: str, *, names: Names, place: layers.Place, stop: threading.Event
) -> Image | None:
    """The image that is `known` by this name, if it is here and sound; it has all its `names` then."""
    if not known or (image := store.find(known)) is None:
        return None
    if await _read(lambda: store.examine(image, whole=True, stop=stop.is_set), stop, limits=place.limits):
        return None
    return await run_uncancellable(store.name, image, tag=names.tag, digest=names.digest)


class _Run(NamedTuple):
    """One try at bringing what is `resolved`; `made` are the diff ids of the layers that it converted. `keep_bytes` of
    the disk are for pods.
    """

    store: ImageStore
    source: Source
    resolved: Resolved
    names: Names
    place: layers.Place
    stop: threading.Event
    made: set[str]
    keep_bytes: int

    def layers(self) -> list[tuple[str, str]]:
        """Each layer's blob and diff id, lowest first."""
        return list(zip(self.resolved.manifest.layers, manifest.diff_ids(self.resolved.config), strict=True))

    def missing(self) -> list[str]:
        """The blobs of layers that are not in the store."""
        return [blob for blob, diff_id in self.layers() if not self._has(diff_id)]

    def _has(self, diff_id: str) -> bool:
        return os.path.exists(layout.layer_path(self.place.layers_dir, diff_id))

    async def bring(self, blobs: Collection[str]) -> None:
        """Download these, and convert each as soon as it is there."""
        layers: dict[str, dict[str, None]] = {blob: {} for blob in blobs}
        for blob, diff_id in self.layers():
            if blob in layers:
                layers[blob][diff_id] = None
                self.made.add(diff_id)
        blob_files: BlobFiles = {blob: asyncio.get_running_loop().create_future() for blob in blobs}
        fetching = self._fetch(blob_files)
        await _together([fetching, *(self._bring(blob_files[blob], blob, diff_ids=of) for blob, of in layers.items())])

    async def _fetch(self, blob_files: BlobFiles) -> None:
        """Fetch the blobs. A registry may send more than it declared, so the limits are checked while they arrive."""
        fetching = asyncio.ensure_future(self.source.fetch(self.resolved, blob_files))
        try:
            while not (await asyncio.wait({fetching}, timeout=SPACE_CHECK_S))[0]:
                await asyncio.to_thread(self._require_space, 0)
            fetching.result()
        finally:
            fetching.cancel()
            await await_end(fetching)

    async def _bring(self, file: "asyncio.Future[str]", blob: str, *, diff_ids: Collection[str]) -> None:
        await asyncio.wait({file})
        await self.read(lambda: self._convert_all([Blob(file.result(), blob, diff_id) for diff_id in diff_ids]))

    async def read(self, work: Callable[[], T]) -> T:
        """Run `work`, which reads untrusted bytes, in a thread as soon as one of the readers' slots is free."""
        return await _read(work, self.stop, limits=self.place.limits)

    def _convert_all(self, blobs: Sequence[Blob]) -> None:
        """Convert the layers of one blob and then free its space, if it is ours; the file itself stays, so that skopeo
        does not fetch it again.
        """
        for blob in blobs:
            self._convert(blob)
        if blobs[0].path.startswith(f"{self.place.work_dir}/"):
            with contextlib.suppress(KernelError):  # it goes with the pull
                files.forget_all(blobs[0].path)

    def _convert(self, blob: Blob) -> None:
        self._require_space(os.path.getsize(blob.path))
        with _naming(self.source.name):
            layers.convert(blob, self.place)
        self._require_space(0)
        known = {
            layout.layer_path(self.place.layers_dir, diff_id) for _, diff_id in self.layers() if self._has(diff_id)
        }
        used, cap = sum(map(os.path.getsize, known)), self.place.limits.image_mib
        if used > cap << 20:
            raise refusal(f"the image {self.source.name} has more than {cap << 20} bytes", key="image_mib", cap=cap)

    def _require_space(self, needed: int) -> None:
        """Check that the image leaves the space that is reserved for pods, whose writes would fail on a disk that an
        image has filled.
        """
        disk = os.statvfs(self.store.state_dir)
        keep = filling.kept_free(self.keep_bytes, disk.f_blocks * disk.f_frsize)
        if disk.f_bavail * disk.f_frsize < keep + needed:
            raise NoSpace(
                f"the image {self.source.name} does not leave the {keep >> 20} MiB free that storage.keep_free_mib "
                "keeps for pods; remove images or pods"
            )

    def keep(self) -> Image:
        """Merge the layers, and let the store have the image. Raises LayersVanished, what `merge` raises."""
        out_dir, diff_ids = f"{self.place.work_dir}/image", manifest.diff_ids(self.resolved.config)
        files.make_dirs(out_dir, 0o700)
        files.write_atomic(f"{out_dir}/config.json", self.resolved.config_bytes)
        files.write_atomic(f"{out_dir}/manifest.json", self.resolved.manifest_bytes)
        image_id = self.resolved.manifest.config
        try:
            with _naming(self.source.name):
                answer = merge(image_id, self.place, diff_ids=diff_ids, out_dir=out_dir)
        except PodError:
            if not all(map(self._has, diff_ids)):
                raise LayersVanished(f"a layer of {self.source.name} was removed meanwhile; pull again") from None
            raise
        self.store.seal(out_dir, diff_ids, stop=self.place.stop)
        # Serialised again, so that what the store reads repeatedly has been validated.
        config = manifest.with_file(self.resolved.config, manifest.of_kernel(answer))
        new = NewImage(image_id, out_dir, json.dumps(config).encode(), diff_ids)
        return self.store.add(new, tag=self.names.tag, digest=self.names.digest)


@contextlib.contextmanager
def _naming(image: str) -> Iterator[None]:
    """Say in an error about a layer, which knows only itself, whose it is."""
    try:
        yield
    except (Corrupt, BadRequest, Unsupported, TimedOut) as error:
        raise type(error)(f"can't pull {image}: {error}") from None


async def _read(work: Callable[[], T], stop: threading.Event, *, limits: Limits) -> T:
    slots = _slots_of(limits)
    async with slots.readers:
        return await _in_thread(work, stop, threads=slots.threads)


async def _together(works: Iterable[Awaitable[None]]) -> None:
    """All of them, side by side; when one fails the others are ended, and have ended when its error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await await_end(asyncio.gather(*tasks, return_exceptions=True))


async def _in_thread(work: Callable[[], T], stop: threading.Event, *, threads: ThreadPoolExecutor) -> T:
    """Run `work` in a thread. On cancellation interrupt it and wait: it must not continue in removed directories."""
    future = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        await await_end(future)
        raise
