# SPDX-License-Identifier: Apache-2.0
"""Brings an image here: resolve, download what is missing, convert, merge, remember.

Called by PullImage and `clearpod run`. Pulls of one reference with the same credentials share one run; it
is given up when nobody waits for it any more (the server lets PullImage finish when only its client went
away). A pull that ends early leaves nothing; what a killed process leaves is in tmp/, and
`ImageStore.sweep` removes it.
"""

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TypeVar

from cri.config import Config
from cri.image import manifest
from cri.image.registries import Auth
from cri.image.source import Resolved, Source, source_of
from cri.store.images import Image, ImageStore, LayersVanished, NewImage
from cri.store.reference import parse
from stage1.errors import NoSpace
from stage1.linux import files
from stage1.rootfs import layers, layout
from stage1.rootfs.blob import Blob
from stage1.rootfs.merge import merge

T = TypeVar("T")
_ATTEMPTS = 3


class _Flight:
    """One run of a pull and how many wait for it."""

    def __init__(self, task: "asyncio.Task[Image]") -> None:
        self.task, self.waiters = task, 0


_Key = tuple[str, Auth | None]
_flights: "weakref.WeakKeyDictionary[ImageStore, dict[_Key, _Flight]]" = weakref.WeakKeyDictionary()


async def pull(store: ImageStore, reference: str, *, config: Config, auth: Auth | None = None) -> Image:
    """The image that `reference` names now: a registry's, or `oci:DIR[:REF]` or `docker-archive:FILE`.

    Raises BadRequest (reference, platform), NotFound, RegistryUnavailable, LoginNeeded, Corrupt,
    Unsupported (media types), NoSpace, TimedOut.
    """
    is_local = reference.startswith(("oci:", "docker-archive:"))
    key = (reference if is_local else str(parse(reference)), auth)
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


def _landed(flights: dict[_Key, _Flight], key: _Key, *, task: "asyncio.Task[Image]") -> None:
    if key in flights and flights[key].task is task:
        del flights[key]
    if task.done() and not task.cancelled():
        # Nobody may be left to look at it.
        task.exception()


def pull_blocking(store: ImageStore, reference: str, *, config: Config) -> Image:
    """`pull`, for programs without an event loop."""
    return asyncio.run(pull(store, reference, config=config))


async def _pull(store: ImageStore, key: _Key, *, config: Config) -> Image:
    reference, auth = key
    for attempt in range(_ATTEMPTS):
        try:
            with _disk_errors(store), store.workshop() as work_dir:
                return await _bring(store, source_of(reference, work_dir, config=config, auth=auth), work_dir=work_dir)
        except LayersVanished:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _disk_errors(store: ImageStore) -> Iterator[None]:
    try:
        yield
    except NoSpace as error:
        free = os.statvfs(store.state_dir)
        raise NoSpace(f"{error} ({free.f_bavail * free.f_frsize} bytes are free in {store.state_dir})") from None


async def _bring(store: ImageStore, source: Source, *, work_dir: str) -> Image:
    resolved = await source.resolve()
    image = store.find(resolved.manifest.config)
    if image and (named := store.name(image, tag=resolved.tag, digest=resolved.digest)):
        return named
    diff_ids = manifest.diff_ids(resolved.config)
    pairs = list(zip(resolved.manifest.layers, diff_ids, strict=True))
    present = _present(store, pairs)
    stop = threading.Event()
    try:
        blobs = await source.fetch(resolved, present)
        place = layers.Place(store.layers_dir, work_dir, stop.is_set)
        todo = [Blob(f"{blobs}/{layout.hex_of(b)}", b, d) for b, d in pairs]
        return await _in_thread(lambda: _keep(store, resolved, place=place, todo=todo), stop)
    except BaseException:
        # Only what this pull made and nobody needs; another pull that had counted on it starts again.
        store.discard(d for b, d in pairs if b not in present)
        raise


def _present(store: ImageStore, pairs: list[tuple[str, str]]) -> set[str]:
    return {b for b, diff_id in pairs if os.path.exists(layout.layer_path(store.layers_dir, diff_id))}


def _keep(store: ImageStore, resolved: Resolved, *, place: layers.Place, todo: list[Blob]) -> Image:
    for blob in todo:
        layers.convert(blob, place)
    image_id, out_dir = resolved.manifest.config, f"{place.work_dir}/image"
    files.make_dirs(out_dir, 0o700)
    files.write_atomic(f"{out_dir}/config.json", resolved.config_bytes)
    files.write_atomic(f"{out_dir}/manifest.json", resolved.manifest_bytes)
    diff_ids = tuple(blob.diff_id for blob in todo)
    merge(image_id, place, diff_ids=diff_ids, out_dir=out_dir)
    new = NewImage(image_id, out_dir, resolved.config_bytes, diff_ids)
    return store.add(new, tag=resolved.tag, digest=resolved.digest)


async def _in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """Run `work` in a thread. When we are cancelled, tell it so and wait: it must not go on in removed
    directories.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([future])
        future.exception()
        raise
