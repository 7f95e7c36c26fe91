# SPDX-License-Identifier: Apache-2.0
"""CheckpointPod: a running pod is written to a directory, as it is in one moment, and goes on. RestorePod reads it.

It is saved as for a copy (`copies.standing_still`): its containers are frozen before, so that a guest which is loaded
runs none of their instructions until StartContainer. A daemon that is killed in the middle leaves a link in the pod's
directory, by which the next one lets the guest go on and removes the files (`suspension.adopt`).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from cri.live import copies, suspension
from cri.store import checkpoints, history
from cri.store.checkpoints import Device, Manifest, Part, Piece, SavedContainer, SavedPod
from cri.store.history import Fact
from cri.threads import run_uncancellable
from stage1.errors import BadRequest, NotFound, WrongState
from stage1.pod import states
from stage1.rootfs import checkpoint as place
from stage1.snapshot import save

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.store.images import ImageStore
    from cri.store.pods import ContainerRecord
    from stage1.snapshot.save import Written

log = logging.getLogger("clearpod.pod")

P = ParamSpec("P")
T = TypeVar("T")


class _Asked:
    """Whether a checkpoint of the pod is still wanted, which is made by threads of `Tools.bulk`. That of a pod that is
    to be stopped is not.
    """

    def __init__(self, pod: "LivePod") -> None:
        self._pod, self._given_up = pod, threading.Event()

    def is_awaited(self) -> bool:
        """Whether the checkpoint is still wanted; asked by its threads."""
        return not (self._given_up.is_set() or self._pod.is_going)

    def give_up(self) -> None:
        """Let the threads of the checkpoint end soon."""
        self._given_up.set()

    async def run(self, work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
        """Like `run_uncancellable_in`, but on cancellation the work is asked to stop."""
        thread = asyncio.ensure_future(self._pod.tools.run_in_bulk(work, *args, **options))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            self.give_up()
            await asyncio.wait({thread})
            if not thread.cancelled():
                thread.exception()
            raise


async def write(
    pod: "LivePod", images: "ImageStore", *, output: str, container_ids: Sequence[str], title: str = ""
) -> None:
    """Write the pod, with exactly these containers, to the empty directory `output`, which people know as `title`.

    When it is cancelled the checkpoint is given up. Raises BadRequest, NotFound or AlreadyExists for what can't be
    asked for, WrongState with the blocker, NoSpace, VmFailed; nothing is left in `output` then, and the pod goes on.
    """
    asked = _Asked(pod)
    work = _write(pod, images, target=(output, title or output), container_ids=container_ids, asked=asked)
    task = pod.work.run_in_background(work, f"checkpoint of {pod.title}")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        asked.give_up()
        raise


async def _write(
    pod: "LivePod",
    images: "ImageStore",
    *,
    target: tuple[str, str],
    container_ids: Sequence[str],
    asked: _Asked,
) -> None:
    output, title = target
    async with pod.lock:
        pod.require_ready()
        await suspension.settle(pod)
        if why := blocker(pod, container_ids):
            raise WrongState(why)
        await pod.images.settle()
        await run_uncancellable(place.begin, pod.directory, output)
        try:
            with pod.transfer.in_progress():
                await copies.write_back(pod, near=output)
                begun_ns = time.time_ns()
                written, original = await _saved(pod, images, target=(output, container_ids), asked=asked)
            took_ns = time.time_ns() - begun_ns
            written = await asked.run(save.measure, written, output, is_awaited=asked.is_awaited)
            data = checkpoints.dump(_manifest(pod, written, original=original, made_ns=begun_ns))
            await asked.run(place.seal, pod.directory, output, manifest=data, is_awaited=asked.is_awaited)
        except BaseException:
            await run_uncancellable(place.abandon, pod.directory)
            raise
        pod.note(Fact(history.CHECKPOINTED, took_ns=took_ns, text=title))
        pod.save_soon()
    extra = {"output": title, "paused_ms": took_ns // 1_000_000, "stopped_ms": round(written.stopped_s * 1000)}
    log.info("pod.checkpointed", extra={**pod.log_fields(), **extra})


def blocker(pod: "LivePod", container_ids: Sequence[str]) -> str:
    """Why no checkpoint with these containers can be made now, as a sentence; empty when one can. Raises BadRequest,
    NotFound for ids that make no sense.
    """
    if not container_ids or len(set(container_ids)) < len(container_ids):
        raise BadRequest(
            "a checkpoint needs the ids of its containers, each once; name all running containers of the pod"
        )
    for one in container_ids:
        if one not in pod.containers:
            raise NotFound(f"there is no container {one!r} in {pod.title}; `crictl ps` lists the running ones")
    return copies.blocker(pod, "checkpointed") or _others(pod, container_ids)


def _others(pod: "LivePod", container_ids: Sequence[str]) -> str:
    """Why these containers are not those that a checkpoint would have, as a sentence; empty when they are."""
    for container in pod.containers.values():
        name, state = container.record.container.name, container.status.state
        if container.id in container_ids and state != states.RUNNING:
            return f"container {name} of {pod.title} is {state}, and only running ones can be in a checkpoint"
        if container.id not in container_ids and state != states.EXITED:
            return (
                f"container {name} of {pod.title} is {state}, and a checkpoint has all containers of its virtual "
                "machine; name it too, or stop it first"
            )
    if pod.status.waiting:
        name = pod.status.waiting[0].container.name
        return f"container {name}, which {pod.title} has as a copy, was not created yet; create it first"
    return ""


async def _saved(
    pod: "LivePod", images: "ImageStore", *, target: tuple[str, Sequence[str]], asked: _Asked
) -> "tuple[Written, copies.Original]":
    """What was written into the directory, with these containers, and the pod as it was in that moment."""
    output, container_ids = target
    files = await asyncio.to_thread(suspension.files_in_window, pod, images)
    async with copies.standing_still(pod):
        if why := _others(pod, container_ids):  # one may have ended or begun meanwhile
            raise WrongState(why)
        original = copies.of(pod)
        written = await asked.run(
            save.checkpoint, pod.directory, pod.record.pod,
            host=pod.tools.host, images=files, target=(output, asked.is_awaited),
        )  # fmt: skip
    return written, original


def _manifest(pod: "LivePod", written: "Written", *, original: copies.Original, made_ns: int) -> Manifest:
    model, record, saved = pod.record.pod, pod.record, written.manifest
    return Manifest(
        made_ns,
        SavedPod(
            model.id, model.name, model.namespace, model.uid, record.handler, record.config, model.memory_mib,
            original.link_key, original.ids, original.decided,
        ),
        tuple(_container(one) for one in original.containers),
        saved.images,
        tuple(Piece(offset, size, mark) for _, offset, size, mark in saved.pieces),
        tuple(Device(one.name, one.mac, one.mtu, one.addresses) for one in saved.interfaces),
        tuple(Part(name, what) for name, what in sorted(saved.made_of.items())),
        written.guest,
        written.disk,
    )  # fmt: skip


def _container(record: "ContainerRecord") -> SavedContainer:
    return SavedContainer(
        record.guest_id, record.container.name, record.attempt, record.image_id, record.image_ref, record.window_image,
        record.config, tuple(mount.target for mount in record.container.mounts),
        record.stdin, record.stdout, record.stderr, record.decided,
    )  # fmt: skip
