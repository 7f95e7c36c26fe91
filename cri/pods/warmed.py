# SPDX-License-Identifier: Apache-2.0
"""Warmed templates: a pod that runs is written to the disk and goes on, and later pods of its namespace begin as copies
of it, also when it has ended. Made by the node, called by RunPodSandbox and the RPCs for `clearpod template`.

A template is a checkpoint (`cri.live.checkpoint`) with a name; where its files are is known to `cri.store.warmed`. None
is removed automatically: it can't be made again without its pod.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from cri.live import checkpoint, copies
from cri.pb.runtime_pb2 import PodSandboxConfig
from cri.pods import forking, restorable
from cri.policy import FORKABLE, TEMPLATE
from cri.store import warmed
from cri.store.checkpoints import Manifest
from cri.threads import run_uncancellable
from stage1.errors import BadRequest, NoSpace, NotFound, PodError, Unsupported, WrongState
from stage1.linux.beneath import NotPlain
from stage1.snapshot import load, machine

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.pods.table import BringUp
    from cri.store.images import ImageStore
    from cri.store.pods import PodRecord
    from stage1.snapshot.format import Manifest as Snapshot

log = logging.getLogger("clearpod.templates")

MIB = 1 << 20


class Described(NamedTuple):
    """A template for people. `blocker` is why no pod can be a copy of it now, empty when one could."""

    namespace: str
    name: str
    path: str
    taken_bytes: int
    manifest: Manifest | None
    blocker: str


class Warmed:
    """The warmed templates below `state_dir`, which may take `most_bytes` together."""

    def __init__(self, state_dir: str, images: "ImageStore", *, most_bytes: int) -> None:
        self._store, self._images, self.most_bytes = warmed.WarmedStore(state_dir), images, most_bytes
        self._lock = asyncio.Lock()
        """Of changes of what is there, none of which takes long."""
        self._making: set[tuple[str, str]] = set()
        self._whole: dict[tuple[str, str], warmed.Facts] = {}
        self._counts = dict.fromkeys(("made", "used", "failed"), 0)
        self.image_ids: frozenset[str] = frozenset()
        """Images that templates need, and which are not to be removed to make room."""

    async def open(self) -> None:
        """Forget what a daemon has left that was killed while it made or used one."""
        try:
            await asyncio.to_thread(self._store.collect_garbage)
        except PodError as error:
            log.warning("template.cleanup_failed", extra={"path": self._store.top, "error": str(error)})
        await self._renew_image_ids()

    def counts(self) -> dict[str, int]:
        """Since the daemon's start: templates made, pods begun as copies of one, pods that could not."""
        return dict(self._counts)

    async def create(self, pod: "LivePod", name: str) -> Described:
        """Make a template of the pod, which continues. Raises BadRequest, AlreadyExists, NoSpace, and WrongState with
        what blocks it; it is rolled back then.
        """
        namespace = pod.record.pod.namespace
        warmed.check_name(name)
        warmed.check_name(namespace, what="namespace of a template")
        forking.require(pod)
        async with self._reserved(namespace, name):
            running = [one.id for one in pod.containers.values() if one.is_running]
            if not running:
                raise WrongState(f"no container runs in {pod.title}, so a template of it would be empty; start one")
            title = f"the template {namespace}/{name}"
            path = await run_uncancellable(self._store.begin)
            try:
                await checkpoint.write(pod, self._images, output=path, container_ids=running, title=title)
                async with self._lock:
                    await run_uncancellable(self._publish, path, (namespace, name))
            except BaseException:
                await run_uncancellable(self._store.discard, path)
                raise
            await self._renew_image_ids()
        self._counts["made"] += 1
        log.info("template.made", extra={**pod.log_fields(), "template": f"{namespace}/{name}"})
        return await asyncio.to_thread(self._described, namespace, name)

    @asynccontextmanager
    async def _reserved(self, namespace: str, name: str) -> AsyncIterator[None]:
        """Reserve the name while the block runs, which may take long: a pod's VMM may not answer. Raises AlreadyExists,
        NoSpace.
        """
        if (namespace, name) in self._making:
            raise warmed.taken(namespace, name)
        self._making.add((namespace, name))
        try:
            await asyncio.to_thread(self._require_space, namespace, name)
            yield
        finally:
            self._making.remove((namespace, name))

    def _require_space(self, namespace: str, name: str) -> None:
        if (namespace, name) in self._store.names():
            raise warmed.taken(namespace, name)
        if (used := self._used()) >= self.most_bytes:
            raise self._no_space(used, 0)

    def _used(self) -> int:
        return sum(warmed.taken_bytes(f"{self._store.top}/{one}/{name}") for one, name in self._store.names())

    def _publish(self, path: str, names: tuple[str, str]) -> None:
        used = self._used()
        if used + (size := warmed.taken_bytes(path)) > self.most_bytes:
            raise self._no_space(used, size)
        self._store.publish(path, names[0], name=names[1])

    def _no_space(self, used: int, size: int) -> NoSpace:
        more = f" and another one {size // MIB} MiB" if size else ""
        return NoSpace(
            f"warmed templates take {used // MIB} MiB{more}, and templates.warmed_mib allows {self.most_bytes // MIB}; "
            "remove one with `clearpod template rm`, or raise that key"
        )

    async def described(self) -> list[Described]:
        """Return all templates, by namespace and name."""
        return await asyncio.to_thread(lambda: [self._described(*one) for one in self._store.names()])

    async def examined(self, namespace: str, name: str) -> Described:
        """One, whose files are compared with their digests. Raises NotFound."""
        return await asyncio.to_thread(self._described, namespace, name, is_whole=False)

    async def remove(self, namespace: str, name: str) -> None:
        """Remove a template. Pods that are copies of it are not affected, even those that are just starting. Raises
        NotFound, KernelError.
        """
        async with self._lock:
            await run_uncancellable(self._store.remove, namespace, name)
            self._whole.pop((namespace, name), None)
            await self._renew_image_ids()
        log.info("template.removed", extra={"templates": f"{namespace}/{name}"})

    def of_request(self, record: "PodRecord") -> "BringUp | None":
        """The function that brings the requested pod up, if it is to be a copy of a template."""
        name = PodSandboxConfig.FromString(record.config).annotations.get(TEMPLATE, "")
        if name in ("", warmed.NONE):
            return None

        async def bring_up(pod: "LivePod") -> None:
            try:
                await self._begin(pod, name)
            except BaseException:
                self._counts["failed"] += 1
                raise
            self._counts["used"] += 1

        return bring_up

    async def _begin(self, pod: "LivePod", name: str) -> None:
        """Raises NotFound for one that is not there, WrongState when the pod can't be a copy of it, and as
        `copies.bring_up`.
        """
        namespace = pod.record.pod.namespace
        await asyncio.to_thread(self._store.path, namespace, name)
        try:
            lent = await run_uncancellable(self._store.lend, namespace, name, borrower=pod.id)
            given = await pod.tools.run_in_bulk(self._given, namespace, name, path=lent)
            await copies.bring_up(pod, lent, given=given)
        except (BadRequest, NotFound, WrongState, Unsupported, NotPlain) as error:
            why = str(error).replace(self._store.lent(pod.id), f"{self._store.top}/{namespace}/{name}")
            raise WrongState(f"the template {namespace}/{name} can't be used: {why}") from None
        finally:
            await run_uncancellable(self._give_back, pod.id)

    def _give_back(self, borrower: str) -> None:
        try:
            self._store.give_back(borrower)
        except PodError as error:
            log.warning("template.cleanup_failed", extra={"path": self._store.top, "error": str(error)})

    def _given(
        self, namespace: str, name: str, *, path: str, is_whole: bool = True
    ) -> "tuple[Snapshot, copies.Original]":
        """What a copy is made from. With `is_whole`, files that were verified and have not changed since are not read
        again. Blocks. Raises PodError.
        """
        manifest = restorable.read(path)
        _require_consent(manifest, namespace)
        title = f"the template {namespace}/{name}, made {_moment(manifest)} of pod {namespace}/{manifest.pod.name}"
        given = restorable.located(manifest, self._images, title=title)
        facts = warmed.facts(path) if is_whole else ()
        if not facts or self._whole.get((namespace, name)) != facts:
            shown = f"{self._store.top}/{namespace}/{name}"
            load.check_files(path, guest=manifest.guest, disk=manifest.disk, title=shown)
            self._whole[namespace, name] = warmed.facts(path)
        return given

    def _described(self, namespace: str, name: str, *, is_whole: bool | None = None) -> Described:
        """Return a template and why it can't be used, if so. With `is_whole` None its files are not compared with their
        digests. Blocks. Raises NotFound.
        """
        path = self._store.path(namespace, name)
        manifest, why = None, ""
        try:
            manifest = restorable.read(path)
            if is_whole is None:
                given, _ = restorable.located(manifest, self._images, title=path)
            else:
                given, _ = self._given(namespace, name, path=path, is_whole=is_whole)
            why = machine.outdated(given)
        except PodError as error:
            why = str(error)
        return Described(namespace, name, path, warmed.taken_bytes(path), manifest, why)

    async def _renew_image_ids(self) -> None:
        """Look up which images the templates need now."""
        try:
            self.image_ids = await asyncio.to_thread(images_of, self._store)
        except PodError as error:
            log.warning("template.failed", extra={"error": str(error)})


def images_of(store: warmed.WarmedStore) -> frozenset[str]:
    """Ids of the images that templates need. Blocks. Raises KernelError."""
    needed: set[str] = set()
    for names in store.names():
        try:
            manifest = restorable.read(store.path(*names))
        except PodError:  # reported when it is used
            continue
        needed.update(one.image_id for one in manifest.containers)
    return frozenset(needed)


def _require_consent(manifest: Manifest, namespace: str) -> None:
    """Raise WrongState unless the pod that the template was made of has consented to be copied in this namespace."""
    try:
        consent = PodSandboxConfig.FromString(manifest.pod.config).annotations.get(FORKABLE)
    except DecodeError:
        consent = ""
    if manifest.pod.namespace != namespace or consent != "true":
        raise WrongState(
            f"it is of pod {manifest.pod.namespace}/{manifest.pod.name}, which has not consented to be copied there"
        )


def _moment(manifest: Manifest) -> str:
    return datetime.fromtimestamp(manifest.made_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_json(one: Described) -> dict[str, Any]:
    """Return the template as an object for --json."""
    manifest = one.manifest
    of_pod = manifest and {
        "made": _moment(manifest),
        "pod": {"name": manifest.pod.name, "uid": manifest.pod.uid, "id": manifest.pod.id},
        "memoryMib": manifest.pod.memory_mib,
        "containers": [{"name": it.name, "imageId": it.image_id} for it in manifest.containers],
        "files": {"guest": manifest.guest._asdict(), "disk": manifest.disk._asdict()},
    }
    return {
        "namespace": one.namespace,
        "name": one.name,
        "path": one.path,
        "takenBytes": one.taken_bytes,
        **(of_pod or {}),
        "blocker": one.blocker,
    }
