# SPDX-License-Identifier: Apache-2.0
"""Named snapshots: a pod that runs is written to the disk and goes on, and later pods of its namespace begin with what
was written, also when it has ended. Made by the node, called by RunPodSandbox and the RPCs for `clearpod snapshot`.

One is a checkpoint (`cri.snapshots.checkpoint`) with a name, below the state directory. None is removed automatically:
it can't be made again without its pod.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from cri.pb.runtime_pb2 import PodSandboxConfig
from cri.policy import FORKABLE
from cri.snapshots import checkpoint, copies, manifest
from cri.snapshots.copies import Given, Origin
from cri.snapshots.manifest import Saved, SavedPod
from cri.threads import run_uncancellable
from stage1.errors import AlreadyExists, BadRequest, NoSpace, NotFound, PodError, WrongState
from stage1.linux.files import NotPlain
from stage1.snapshot import load, machine, store

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.store.images import ImageStore

log = logging.getLogger("clearpod.snapshots")

DIRECTORY = "snapshots"
"""The directory below the state directory."""
MIB = 1 << 20


class Described(NamedTuple):
    """A snapshot for people. `blocker` is why no pod can begin with it now, empty when one could."""

    namespace: str
    name: str
    path: str
    taken_bytes: int
    saved: Saved | None
    blocker: str


def check_name(name: str, *, what: str = "name of a snapshot") -> None:
    """Raise BadRequest unless it can be one."""
    if not store.is_name(name):
        raise BadRequest(f"{name[:80]!r} can't be the {what}; give up to 63 small letters, digits and dashes")


def of_state(state_dir: str) -> store.Store:
    """The store of named snapshots, by namespace and name."""
    return store.Store(f"{state_dir}/{DIRECTORY}")


class NamedSnapshots:
    """The named snapshots below `state_dir`, which may take `most_bytes` together."""

    def __init__(self, state_dir: str, images: "ImageStore", *, most_bytes: int) -> None:
        self._store, self._images, self.most_bytes = of_state(state_dir), images, most_bytes
        self._lock = asyncio.Lock()
        """Of changes of what is there, none of which takes long."""
        self._making: set[str] = set()
        self._whole: dict[str, store.Seen] = {}
        self._counts = dict.fromkeys(("made", "used", "failed"), 0)
        self.image_ids: frozenset[str] = frozenset()
        """Images that snapshots need, and which are not to be removed to make room."""

    async def open(self) -> None:
        """Forget what a daemon has left that was killed while it made or used one."""
        try:
            await asyncio.to_thread(self._store.collect_garbage)
        except PodError as error:
            log.warning("snapshot.cleanup_failed", extra={"path": self._store.top, "error": str(error)})
        await self._renew_image_ids()

    def counts(self) -> dict[str, int]:
        """Since the daemon's start: snapshots made, pods begun with one, pods that could not."""
        return dict(self._counts)

    async def create(self, pod: "LivePod", name: str) -> Described:
        """Make a snapshot of the pod, which continues. Raises BadRequest, AlreadyExists, NoSpace, and WrongState with
        what blocks it; it is rolled back then.
        """
        namespace = pod.record.pod.namespace
        check_name(name)
        check_name(namespace, what="namespace of a snapshot")
        await copies.require_forkable(pod)
        key = f"{namespace}/{name}"
        async with self._reserved(key):
            running = [one.id for one in pod.containers.values() if one.is_running]
            if not running:
                raise WrongState(f"no container runs in {pod.title}, so a snapshot of it would be empty; start one")
            path = await run_uncancellable(self._store.begin)
            try:
                await checkpoint.write(
                    pod, self._images, output=path, container_ids=running, title=f"the snapshot {key}"
                )
                async with self._lock:
                    await run_uncancellable(self._publish, path, key)
            except BaseException:
                await run_uncancellable(self._store.discard, path)
                raise
            await self._renew_image_ids()
        self._counts["made"] += 1
        log.info("snapshot.made", extra={**pod.log_fields(), "snapshot": key})
        return await asyncio.to_thread(self._described, key)

    @asynccontextmanager
    async def _reserved(self, key: str) -> AsyncIterator[None]:
        """Reserve the name while the block runs, which may take long: a pod's VMM may not answer. Raises AlreadyExists,
        NoSpace.
        """
        if key in self._making:
            raise _taken(key)
        self._making.add(key)
        try:
            await asyncio.to_thread(self._require_space, key)
            yield
        finally:
            self._making.remove(key)

    def _require_space(self, key: str) -> None:
        if key in self._store.names():
            raise _taken(key)
        if (used := self._store.used_bytes()) >= self.most_bytes:
            raise self._no_space(used, 0)

    def _publish(self, path: str, key: str) -> None:
        used = self._store.used_bytes()
        if used + (size := store.taken_bytes(path)) > self.most_bytes:
            raise self._no_space(used, size)
        self._store.publish(path, key)

    def _no_space(self, used: int, size: int) -> NoSpace:
        more = f" and another one {size // MIB} MiB" if size else ""
        return NoSpace(
            f"named snapshots take {used // MIB} MiB{more}, and snapshots.disk_mib allows {self.most_bytes // MIB}; "
            "remove one with `clearpod snapshot rm`, or raise that key"
        )

    async def described(self) -> list[Described]:
        """Return all snapshots, by namespace and name."""
        return await asyncio.to_thread(lambda: [self._described(one) for one in self._store.names()])

    async def examined(self, namespace: str, name: str) -> Described:
        """One, whose files are compared with their digests. Raises NotFound."""
        return await asyncio.to_thread(self._described, f"{namespace}/{name}", is_examined=True)

    async def remove(self, namespace: str, name: str) -> None:
        """Remove a snapshot. Pods that have begun with it are not affected, even those that are just starting. Raises
        NotFound, KernelError.
        """
        key = f"{namespace}/{name}"
        async with self._lock:
            await asyncio.to_thread(self._store.path, key)
            await run_uncancellable(self._store.remove, key)
            self._whole.pop(key, None)
            await self._renew_image_ids()
        log.info("snapshot.removed", extra={"snapshot": key})

    async def bring_up(self, pod: "LivePod", name: str) -> None:
        """Bring the pod from nothing to READY, as a copy of the snapshot of that name in its namespace. Raises as
        `_begin`.
        """
        try:
            await self._begin(pod, f"{pod.record.pod.namespace}/{name}")
        except BaseException:
            self._counts["failed"] += 1
            raise
        self._counts["used"] += 1

    async def _begin(self, pod: "LivePod", key: str) -> None:
        """Raises NotFound for one that is not there, WrongState when the pod can't be a copy of it, and as
        `copies.bring_up`.
        """
        await asyncio.to_thread(self._store.path, key)
        try:
            lent = await run_uncancellable(self._store.lend, key, borrower=pod.id)
            given = await pod.tools.run_in_bulk(self._given, key, path=lent)
            await copies.bring_up(pod, Origin(lent, given=given))
        except (BadRequest, NotFound, WrongState, NotPlain) as error:
            why = str(error).replace(self._store.lent(pod.id), f"{self._store.top}/{key}")
            raise WrongState(f"the snapshot {key} can't be used: {why}") from None
        finally:
            await run_uncancellable(self._give_back, pod.id)

    def _give_back(self, borrower: str) -> None:
        try:
            self._store.give_back(borrower)
        except PodError as error:
            log.warning("snapshot.cleanup_failed", extra={"path": self._store.top, "error": str(error)})

    def _given(self, key: str, *, path: str, is_examined: bool = False) -> Given:
        """What a pod begins with. Files that were verified and have not changed since are read again only for
        `is_examined`. Blocks. Raises PodError.
        """
        saved = manifest.read(path)
        _require_consent(saved.pod, key.partition("/")[0])
        title = f"the snapshot {key}, made {_moment(saved.pod)} of pod {saved.pod.title}"
        given = checkpoint.located(saved, self._images, title=title)
        if is_examined or self._whole.get(key) != store.seen(path):
            load.check_files(path, saved.machine, title=f"{self._store.top}/{key}")
            self._whole[key] = store.seen(path)
        return given

    def _described(self, key: str, *, is_examined: bool = False) -> Described:
        """Return a snapshot and why it can't be used, if so. Its files are compared with their digests only for
        `is_examined`. Blocks. Raises NotFound.
        """
        path = self._store.path(key)
        saved, why = None, ""
        try:
            saved = manifest.read(path)
            if is_examined:
                given = self._given(key, path=path, is_examined=True)
            else:
                given = checkpoint.located(saved, self._images, title=path)
            why = machine.outdated(given.saved.machine)
        except PodError as error:
            why = str(error)
        namespace, _, name = key.partition("/")
        return Described(namespace, name, path, store.taken_bytes(path), saved, why)

    async def _renew_image_ids(self) -> None:
        """Look up which images the snapshots need now."""
        try:
            self.image_ids = await asyncio.to_thread(images_of, self._store)
        except PodError as error:
            log.warning("snapshot.failed", extra={"error": str(error)})


def images_of(top: store.Store) -> frozenset[str]:
    """Ids of the images that snapshots need. Blocks. Raises KernelError."""
    needed: set[str] = set()
    for name in top.names():
        try:
            saved = manifest.read(top.path(name))
        except PodError:  # reported when it is used
            continue
        needed.update(one.image_id for one in saved.pod.containers)
    return frozenset(needed)


def _taken(key: str) -> AlreadyExists:
    """The error of one that is there already."""
    namespace, _, name = key.partition("/")
    return AlreadyExists(
        f"the namespace {namespace!r} has a snapshot {name!r}; choose another name, or remove it with `clearpod "
        f"snapshot rm {key}`"
    )


def _require_consent(pod: SavedPod, namespace: str) -> None:
    """Raise WrongState unless the pod that the snapshot was made of has consented to be copied in this namespace."""
    try:
        consent = PodSandboxConfig.FromString(pod.config).annotations.get(FORKABLE)
    except DecodeError:
        consent = ""
    if pod.namespace != namespace or consent != "true":
        raise WrongState(f"it is of pod {pod.title}, which has not consented to be copied there")


def _moment(pod: SavedPod) -> str:
    return datetime.fromtimestamp(pod.made_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_json(one: Described) -> dict[str, Any]:
    """Return the snapshot as an object for --json."""
    of_pod = {}
    if one.saved:
        machine, pod = one.saved
        of_pod = {
            "made": _moment(pod),
            "pod": {"name": pod.name, "uid": pod.uid, "id": pod.id},
            "memoryMib": machine.memory_mib,
            "containers": [{"name": it.name, "imageId": it.image_id} for it in pod.containers],
            "files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in machine.files.items()},
        }
    return {
        "namespace": one.namespace, "name": one.name, "path": one.path, "takenBytes": one.taken_bytes, **of_pod,
        "blocker": one.blocker,
    }  # fmt: skip
