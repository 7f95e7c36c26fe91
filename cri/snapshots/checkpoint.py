# SPDX-License-Identifier: Apache-2.0
"""CheckpointPod: a running pod is written to a directory, as it is in one moment, and goes on. RestorePod reads it.

It is saved as for a fork (`copies.saved`): its containers are frozen before, so that a guest which is loaded runs none
of their instructions until StartContainer. A daemon that is killed in the middle leaves a link in the pod's directory,
by which the next one lets the guest go on and removes the files (`suspension.adopt`). A named snapshot is written and
read by the same functions.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from google.protobuf.message import DecodeError

from cri.pb import runtime_pb2 as pb
from cri.snapshots import copies, manifest, suspension
from cri.snapshots.copies import Given, Saver
from cri.snapshots.manifest import Saved
from cri.store import history
from cri.store.history import Fact
from cri.threads import run_uncancellable
from stage1.errors import BadRequest, NotFound, WrongState
from stage1.pod import states
from stage1.rootfs import checkpoint as place
from stage1.snapshot import load, save
from stage1.snapshot.save import Target

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.store.images import ImageStore

log = logging.getLogger("clearpod.pod")

_SHOWN = 400
"""Characters of names in a sentence."""
_FIELDS = ("command", "args", "envs")
"""What a process has in its memory."""

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
    task = pod.gate.run_in_background(work, f"checkpoint of {pod.title}")
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
    async with pod.gate.lock:
        pod.require_ready()
        await suspension.settle(pod)
        if why := blocker(pod, container_ids):
            raise WrongState(why)
        await pod.images.settle()
        await run_uncancellable(place.begin, pod.directory, output)
        try:
            by = Saver(
                output, lambda _: Target(output, is_awaited=asked.is_awaited), asked.run,
                check=lambda: _others(pod, container_ids),
            )  # fmt: skip
            done = await copies.saved(pod, images, by=by)
            machine = await asked.run(save.measured, done.saved.machine, output, is_awaited=asked.is_awaited)
            data = manifest.dump(done.saved._replace(machine=machine))
            await asked.run(place.seal, pod.directory, output, manifest=data, is_awaited=asked.is_awaited)
        except BaseException:
            await run_uncancellable(place.abandon, pod.directory)
            raise
        pod.note(Fact(history.CHECKPOINTED, took_ns=done.paused_ns, text=title))
        pod.save_soon()
    extra = {"output": title, "paused_ms": done.paused_ns // 1_000_000, "stopped_ms": round(done.stopped_s * 1000)}
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
        name = pod.status.waiting[0].name
        return f"container {name}, which {pod.title} has as a copy, was not created yet; create it first"
    return ""


def of_this_host(saved: Saved, images: "ImageStore", *, path: str) -> Given:
    """What a pod begins with that is restored: the files are verified, and images are this host's own. Blocks. Raises
    BadRequest, NotFound, WrongState, KernelError.
    """
    given = located(saved, images, title=f"pod {saved.pod.title} of {path}")
    load.check_files(path, given.saved.machine, link_key=saved.pod.link_key)
    return given


def located(saved: Saved, images: "ImageStore", *, title: str) -> Given:
    """Like `of_this_host`, without verifying the snapshot's files. `title` names the origin for people."""
    files = {}
    for placed in saved.machine.images:
        image = images.find(f"sha256:{placed.name}")
        if image is None:
            raise NotFound(f"the image sha256:{placed.name} of the snapshot is not in the store; pull it first")
        files[placed.name] = images.usable(image)
    return Given(saved._replace(machine=load.located(saved.machine, files)), title)


def check(saved: Saved, configs: Sequence[pb.ContainerConfig]) -> None:
    """Raise BadRequest unless each container of the checkpoint is there once, by its name; WrongState when one is
    expected to be another process. What else must be the same, for all copies, `cri.containers.claim` compares.
    """
    names = [one.metadata.name for one in configs]
    known = {one.name: one for one in saved.pod.containers}
    if not names or len(set(names)) < len(names) or set(names) != set(known):
        raise BadRequest(
            f"the checkpoint has the containers {', '.join(sorted(known))[:_SHOWN]}, and the configurations are of "
            f"{', '.join(sorted(names))[:_SHOWN] or 'none'}; give one for each"
        )
    for config in configs:
        try:
            former = pb.ContainerConfig.FromString(known[config.metadata.name].config)
        except DecodeError:
            raise BadRequest(
                f"the configuration of container {config.metadata.name} in the checkpoint can't be understood; take "
                "another checkpoint"
            ) from None
        if other := _difference(former, config):
            raise WrongState(
                f"container {config.metadata.name} of the checkpoint has another {other} than is asked for; it goes on "
                "with what it has, so ask for that"
            )


def _difference(former: pb.ContainerConfig, config: pb.ContainerConfig) -> str:
    """The first field in which they are not the same program; empty when they are."""
    return next((name for name in _FIELDS if getattr(former, name) != getattr(config, name)), "")
