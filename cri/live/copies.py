# SPDX-License-Identifier: Apache-2.0
"""Copies of pods that run: a pod is saved while it goes on (`save`), and another one begins as what was saved
(`bring_up`). What is done on the host is `stage1.snapshot`.

The containers are frozen from before the guest is saved: the original's go on when that is over, those of a copy when
they are created and started in it (`cri.containers.claim`), after the copy has its own identity.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from cri.live import boot, decided, save_space, suspension
from cri.live.phases import Phases
from cri.store import codec, history
from cri.store.history import Fact
from cri.store.pods import ContainerRecord, Decided
from cri.threads import await_end, run_uncancellable_in
from stage1 import engine
from stage1.errors import TimedOut, VmFailed, WrongState
from stage1.guest import messages, settings
from stage1.guest.messages import Tune
from stage1.snapshot import load as loads
from stage1.snapshot import save as saves
from stage1.snapshot.save import Target

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.store.images import ImageStore
    from stage1.engine import Prepared
    from stage1.pod.network import Interface
    from stage1.snapshot.format import Manifest

log = logging.getLogger("clearpod.pod")


class Original(NamedTuple):
    """The daemon's part of a `Manifest`, in the form of `codec.dump`: the secret of the guest's link, the highest id
    that was used there, the running containers, the pod's title, and what was decided of the pod.
    """

    link_key: bytes
    ids: int
    containers: tuple[ContainerRecord, ...]
    title: str
    decided: tuple[Decided, ...] = ()


def blocker(pod: "LivePod", what: str = "copied") -> str:
    """Why the pod can't be copied now, or checkpointed, as a sentence; empty when it can."""
    if pod.is_suspended or pod.held:
        return f"{pod.title} can't be {what}: {pod.held}"
    if not pod.hello.copies and pod.record.pod.suspend:
        return f"{pod.title} can't be {what}: its guest is of an earlier version; delete the pod and create it again"
    return suspension.blocker(pod, what)


class Saving:
    """A pod, with these interfaces, that is being saved into a directory by `task`: what is there can be loaded before
    the pod goes on.
    """

    def __init__(
        self, interfaces: "tuple[Interface, ...]", task: "asyncio.Task[float]", written: asyncio.Event
    ) -> None:
        self.interfaces, self.task, self._written = interfaces, task, written

    async def until_written(self) -> None:
        """Wait until the directory is complete. Raises what `save` does."""
        waiting = asyncio.ensure_future(self._written.wait())
        try:
            await asyncio.wait({self.task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.task.done():
            self.task.result()


async def save(pod: "LivePod", images: "ImageStore", *, path: str, written: asyncio.Event) -> float:
    """Save the pod into the new directory `path`, which is complete when `written` is set, and continue it. Return for
    how many seconds its containers were frozen. Raises WrongState with the blocker, and what `saves.fork` raises; then
    it is rolled back.
    """
    async with pod.lock:
        pod.require_ready()
        await suspension.settle(pod)
        if why := blocker(pod):
            raise WrongState(why)
        with pod.transfer.in_progress():
            files = await asyncio.to_thread(suspension.files_in_window, pod, images)
            await write_back(pod, near=os.path.dirname(path))
            begun_s = time.monotonic()
            async with standing_still(pod):
                is_written = partial(asyncio.get_running_loop().call_soon_threadsafe, written.set)
                stopped_s = await pod.tools.run_in_bulk(
                    saves.fork, pod.directory, pod.record.pod,
                    host=pod.tools.host, images=files, target=Target(path, codec.dump(of(pod)), is_written),
                )  # fmt: skip
        paused_s = time.monotonic() - begun_s
        pod.note(Fact(history.FORKED, took_ns=round(paused_s * 1e9)))
        pod.save_soon()
    extra = {"paused_ms": round(paused_s * 1000), "stopped_ms": round(stopped_s * 1000)}
    log.info("pod.copied", extra={**pod.log_fields(), **extra})
    return paused_s


async def write_back(pod: "LivePod", *, near: str) -> None:
    """Write back the disk before `standing_still`, to make the pause shorter, for a copy in `near` or a directory in
    it. Raises NoSpace, KernelError.
    """
    of_pod = (pod.directory, pod.record.pod)
    disk = await pod.tools.run_in_bulk(saves.write_back, *of_pod, host=pod.tools.host, near=near)
    await save_space.require(pod, near, disk=disk)


@asynccontextmanager
async def standing_still(pod: "LivePod") -> AsyncIterator[None]:
    """Freeze the pod for the block: its containers are frozen, the host's directories are unmounted in its guest, and
    requests to its agent wait. Thawed afterwards, also when this raises PodError.
    """
    with pod.pause.holding():
        await suspension.be_quiet(pod, "copied")
        await suspension.unmount_shares(partial(_ask, pod))
        try:
            await _ask(pod, Tune(suspension.FREEZE, "1"))
            yield
        finally:
            try:
                await _ask(pod, Tune(suspension.FREEZE, "0"))
            finally:
                await _ask(pod, Tune(suspension.SHARES, "mount"))


async def _ask(pod: "LivePod", op: Tune) -> None:
    await pod.agent.call(op, timeout_s=suspension.ANSWER_S)


def of(pod: "LivePod") -> Original:
    """What a copy has to know about the original."""
    ids = guest_ids(pod)
    named = tuple(
        one.record._replace(guest_id=ids[one.id], decided=decided.of_container(one.record, guest_ids=ids))
        for one in pod.containers.values()
        if one.is_running
    )
    last = max(pod.unused_id, pod.status.ids)
    return Original(pod.status.link_key, last, named, pod.title, decided.of_pod(pod.record.pod))


def guest_ids(pod: "LivePod") -> dict[str, str]:
    """How the guest calls the containers of the pod, by their ids."""
    return {one.id: one.record.guest_id or one.id for one in pod.containers.values()}


def _require_same(pod: "LivePod", former: Original) -> None:
    """Raise WrongState where the pod asks for something else than its original has, and its guest keeps."""
    if other := decided.difference(former.decided, decided.of_pod(pod.record.pod)):
        name, was, now = other
        raise WrongState(f"{former.title} has {name} {was}, and {now} is asked for; a copy keeps its original's")


def original(manifest: "Manifest") -> Original:
    """Raises VmFailed when it is damaged."""
    try:
        return codec.load(Original, manifest.more)
    except ValueError as error:
        raise VmFailed(f"the record of a saved guest is damaged: {error}") from None


async def bring_up(
    pod: "LivePod",
    path: str,
    *,
    given: "tuple[Manifest, Original] | None" = None,
    saving: "Saving | None" = None,
) -> None:
    """Bring the pod from nothing to READY, as a copy of what is saved in `path`, by what is written there or `given`;
    its containers wait in `status.waiting`. It may still be being saved (`saving`): the VM waits for it then.

    Raises what `saving` does, WrongState when it can't be a copy, and as `engine.prepare`, `boot.boot` and
    `loads.load`; rolled back then.
    """
    async with boot.until_ready(pod) as start:
        start.how = "copied"
        phases = Phases(pod)
        if given is None and saving is None:
            given = await asyncio.to_thread(_read, path)
        interfaces = given[0].interfaces if given else saving.interfaces if saving else ()
        async with _vm_begun(pod, phases, manifest=given[0] if given else None, interfaces=interfaces) as begun:
            if saving is not None:
                await saving.until_written()
            manifest, former = given if given is not None else await asyncio.to_thread(_read, path)
            _require_same(pod, former)
            pod.unused_id = former.ids + 1
            pod.status = pod.status._replace(ids=former.ids, waiting=former.containers, origin=former.title)
            await pod.tools.run_in_bulk(loads.load, begun.prepared, pod.tools.host, path=path, manifest=manifest)
            await pod.meet(pod.tools.boot_timeout_s, former.link_key)
            phases.booted(pod.hello, is_copy=True)
            await _assume_identity(pod, manifest, joined=begun.joined)
        if saving is not None:
            await asyncio.shield(saving.task)
        phases.end(history.CONFIGURE)
    pod.note(Fact(history.COPIED, text=former.title))


class _Begun(NamedTuple):
    """The VM of a copy that waits for its guest, and the task after which the pod has its network."""

    prepared: "Prepared"
    joined: "asyncio.Task[None]"


@asynccontextmanager
async def _vm_begun(
    pod: "LivePod", phases: Phases, *, manifest: "Manifest | None", interfaces: "tuple[Interface, ...]"
) -> AsyncIterator[_Begun]:
    """Start the VM of a copy, which then waits for the saved guest, of these interfaces, to be loaded. Its network is
    made meanwhile where that is possible, and no longer than the block runs.
    """
    about, host = pod.record.pod, pod.tools.host
    joins_later = await asyncio.to_thread(loads.can_join_later, about, host, interfaces=interfaces)
    prepared = await pod.run_in_pool(loads.prepare, about, host, manifest=manifest, joins_later=joins_later)
    if joins_later:
        phases.end(history.FILES)
    else:
        phases.prepared(prepared.network_ns)
    boot.note_cgroup(pod, prepared.cgroup_note)
    pod.move("boot", link_key=prepared.link_key)
    joining = asyncio.ensure_future(_join(pod, prepared, joins_later=joins_later))
    try:
        vm, _ = await run_uncancellable_in(pod.tools.pool_of(about), engine.boot, prepared, pod.tools.vmm)
        pod.watch(vm)
        yield _Begun(prepared, joining)
    finally:
        await await_end(joining)  # it would go on in what is removed now


async def _join(pod: "LivePod", prepared: "Prepared", *, joins_later: bool) -> None:
    pod.network = prepared.network
    if joins_later:
        begun_ns = time.monotonic_ns()
        pod.network = await pod.run_in_pool(loads.join_network, prepared, pod.tools.host)
        pod.note(Fact(history.NETWORK, took_ns=time.monotonic_ns() - begun_ns))  # beside the other phases
    await pod.loopback.open(pod.record.pod, pod.ips)


def _read(path: str) -> "tuple[Manifest, Original]":
    manifest = loads.read(path)
    return manifest, original(manifest)


async def _assume_identity(pod: "LivePod", manifest: "Manifest", *, joined: "asyncio.Task[None]") -> None:
    """Give the loaded guest the identity of this pod, while only its agent runs and all containers are frozen. One time
    limit holds for all of it, however many containers the guest claims to have. Raises TimedOut, and what `joined`
    does, by which the pod has its network.
    """
    first = (settings.leave(manifest.interfaces), Tune(suspension.SHARES, "mount"))  # do not need the network yet
    left = asyncio.gather(*(pod.call(op, suspension.ANSWER_S) for op in first))
    try:
        await asyncio.shield(joined)
        async with asyncio.timeout(pod.tools.boot_timeout_s):
            await _tell_who_it_is(pod, manifest, left=left)
    except TimeoutError:
        raise TimedOut(f"the guest of {pod.title} was not reconfigured within {pod.tools.boot_timeout_s:g} s") from None
    finally:
        left.cancel()
        await await_end(left)


async def _told(pod: "LivePod", *ops: messages.Op) -> "list[messages.Reply]":
    """The agent does one after the other, so none of the requests waits for the reply to the one before."""
    return await asyncio.gather(*(pod.call(op, suspension.ANSWER_S) for op in ops))


async def _tell_who_it_is(
    pod: "LivePod", manifest: "Manifest", *, left: "asyncio.Future[list[messages.Reply]]"
) -> None:
    identify = settings.identify(pod.record.pod, pod.network, former=manifest.interfaces)
    _, (_, listed) = await asyncio.gather(left, _told(pod, identify, messages.List()))
    expected = {one.guest_id for one in pod.status.waiting}
    waiting = {one.id for one in listed.containers if one.id in expected and one.state == messages.RUNNING}
    await _told(pod, *(Tune(suspension.FREEZE, "1", one) for one in sorted(waiting)))
    for one in listed.containers:
        if one.id not in waiting:
            await pod.call(messages.Delete(one.id), suspension.ANSWER_S)
    await _told(pod, Tune(suspension.FREEZE, "0"))
