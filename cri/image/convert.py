# SPDX-License-Identifier: Apache-2.0
"""The layers of an image, downloaded and converted: one try of a pull, with what it shares with others.

Called by the pull. Concurrent pulls from one registry that share a layer fetch it once; none waits for another
registry: one that sends a well-known layer slowly would delay everybody's images. That is within one process:
`clearpod run` and the daemon may fetch a layer twice, and one of the two is kept.
"""

import asyncio
import contextlib
import json
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from cri.image import manifest
from cri.image.registry import Watch
from cri.image.source import BlobFiles, Names, Resolved, Source
from cri.storage import filling
from cri.store.images import Image, ImageStore, LayersVanished, NewImage
from cri.threads import await_end, started
from stage1.errors import BadRequest, NoSpace, PodError, TimedOut, Unsupported
from stage1.linux import files
from stage1.rootfs import layers, layout
from stage1.rootfs.blob import Blob
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits, refusal
from stage1.rootfs.merge import merge

T = TypeVar("T")
HERE, WAITS, COMES, CONVERTS, DONE = "already here", "waiting", "downloading", "converting", "done"
"""States of a layer."""


class State(NamedTuple):
    """What is known of one layer of a pull that goes on: its blob, and bytes of that, 0 where nobody says."""

    blob: str
    state: str
    have: int = 0
    size: int = 0


Seen = Callable[[State], None]
"""Told of each change of a layer, in the event loop."""


def unseen(state: State) -> None:
    """Nobody looks."""


class _Readers(NamedTuple):
    """How many layers are processed concurrently. Those that wait hold no resources."""

    slots: asyncio.Semaphore
    threads: ThreadPoolExecutor
    """Of their own, so that work of minutes does not keep other calls waiting."""


_readers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Readers]" = weakref.WeakKeyDictionary()


_Busy = dict[tuple[str, str], "asyncio.Future[None]"]
"""By registry and blob."""
_busy: "weakref.WeakKeyDictionary[ImageStore, _Busy]" = weakref.WeakKeyDictionary()


async def bring_all(
    store: ImageStore,
    missing: Callable[[], Collection[str]],
    *,
    origin: str,
    bring: Callable[[Collection[str]], Awaitable[None]],
) -> None:
    """Call `bring` with the `missing` blobs that no other pull from `origin` is bringing, and wait for the others,
    until none is missing.

    One that another pull gave up is then ours to bring. Raises what `bring` raises.
    """
    busy = _busy.setdefault(store, {})
    while blobs := missing():
        others = {busy[origin, blob] for blob in blobs if (origin, blob) in busy}
        if mine := {blob for blob in blobs if (origin, blob) not in busy}:
            await _claimed(busy, origin, mine=mine, bring=bring)
        if others:
            await asyncio.wait(others)


async def _claimed(
    busy: _Busy, origin: str, *, mine: Collection[str], bring: Callable[[Collection[str]], Awaitable[None]]
) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    busy.update(dict.fromkeys(((origin, blob) for blob in mine), done))
    try:
        await bring(mine)
    finally:
        for blob in mine:
            del busy[origin, blob]
        done.set_result(None)


class Run(NamedTuple):
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
    watch: Watch
    seen: Seen

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
        # A registry may send more than it declared, so the space is checked while blobs arrive.
        watch = self.watch._replace(
            check=lambda: self._require_space(0), hear=lambda blob, have: self.show(blob, COMES, have=have)
        )
        fetching = self.source.fetch(self.resolved, blob_files, watch=watch)
        await _together([fetching, *(self._bring(blob_files[blob], blob, diff_ids=of) for blob, of in layers.items())])

    def show(self, blob: str, state: str, *, have: int = 0) -> None:
        """Tell who looks at the pull."""
        self.seen(State(blob, state, have, self.resolved.sizes.get(blob, 0)))

    async def _bring(self, file: "asyncio.Future[str]", blob: str, *, diff_ids: Collection[str]) -> None:
        await asyncio.wait({file})
        self.show(blob, CONVERTS)
        await self.read(lambda: self._convert_all([Blob(file.result(), blob, diff_id) for diff_id in diff_ids]))
        self.show(blob, DONE)

    async def read(self, work: Callable[[], T]) -> T:
        """Run `work` like `read`."""
        return await read(work, self.stop, limits=self.place.limits)

    def _convert_all(self, blobs: Sequence[Blob]) -> None:
        """Convert the layers of one blob and then remove that, if it is ours."""
        for blob in blobs:
            self._convert(blob)
        if blobs[0].path.startswith(f"{self.place.work_dir}/"):
            files.unlink(blobs[0].path)

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


async def read(work: Callable[[], T], stop: threading.Event, *, limits: Limits) -> T:
    """Run `work`, which reads untrusted bytes, in a thread as soon as one of the readers' slots is free; `stop` is set
    when this is cancelled.
    """
    loop = asyncio.get_running_loop()
    if loop not in _readers:
        _readers[loop] = _Readers(asyncio.Semaphore(limits.readers), started(limits.readers, "image"))
    async with _readers[loop].slots:
        return await _in_thread(work, stop, threads=_readers[loop].threads)


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
