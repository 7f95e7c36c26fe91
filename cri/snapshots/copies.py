# SPDX-License-Identifier: Apache-2.0
"""Snapshots of pods that run, and pods that begin with one. A pod is saved while it goes on (`saved`), for a fork into
a directory that stays as long as its copies are brought up (`being_forked`), and another one begins with what was saved
(`bring_up`). What is done on the host is `stage1.snapshot`.

The containers are frozen from before the guest is saved: the original's go on when that is over, those of a copy when
they are created and started in it (`cri.containers.claim`), after the copy has its own identity.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cri.live import boot
from cri.live.boot import Phases
from cri.policy import FORKABLE
from cri.snapshots import decided, manifest, suspension
from cri.snapshots.manifest import Saved, SavedPod
from cri.store import history
from cri.store.history import Fact
from cri.store.pods import ContainerRecord, SavedContainer
from cri.threads import await_end, run_uncancellable, run_uncancellable_in
from stage1 import engine
from stage1.errors import BadRequest, NotFound, PodError, TimedOut, WrongState
from stage1.guest import messages, settings
from stage1.pod import states
from stage1.snapshot import load as loads
from stage1.snapshot import save as saves
from stage1.snapshot.save import Target

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.store.images import ImageStore
    from stage1.engine import Host, Prepared
    from stage1.pod.network import Interface
    from stage1.snapshot.format import Manifest

log = logging.getLogger("clearpod.pod")

LEAST_PREFIX = 6
"""The shortest prefix of an id that names a pod."""
_SHOWN = 80
"""Characters of an annotation in a sentence."""


class Given(NamedTuple):
    """What a pod begins with: the snapshot, whose images are this host's own, and its origin for people."""

    saved: Saved
    title: str


def blocker(pod: "LivePod", what: str = "copied") -> str:
    """Why the pod can't be copied now, or checkpointed, as a sentence; empty when it can."""
    if pod.is_suspended or pod.held:
        return f"{pod.title} can't be {what}: {pod.held}"
    if not pod.hello.copies and pod.record.pod.suspend:
        return f"{pod.title} can't be {what}: its guest is of an earlier version; delete the pod and create it again"
    return suspension.blocker(pod, what)


def fork_blocker(pod: "LivePod") -> str:
    """Why no other pod can be a copy of this one now, as a sentence; empty when one can."""
    if pod.config.annotations.get(FORKABLE) != "true":
        return f"{pod.title} does not consent to be copied: it was not created with the annotation {FORKABLE}"
    return blocker(pod)


async def require_forkable(pod: "LivePod") -> None:
    """Raise WrongState with the blocker when it can't be copied. Operations that are about to end are waited for."""
    await suspension.settle(pod)
    if why := fork_blocker(pod):
        raise WrongState(why)


def original(pods: "Iterable[LivePod]", word: str, *, namespace: str) -> "LivePod":
    """The pod of that name or id in the namespace. Raises NotFound, BadRequest when there are several."""
    own = [pod for pod in pods if pod.record.pod.namespace == namespace and pod.status.state == states.READY]
    matches = [pod for pod in own if pod.record.pod.name == word]
    if not matches and len(word) >= LEAST_PREFIX:
        matches = [pod for pod in own if pod.id.startswith(word)]
    if not matches:
        raise NotFound(f"no pod {word[:_SHOWN]!r} that could be copied runs in the namespace {namespace!r}")
    if len(matches) > 1:
        raise BadRequest(
            f"{len(matches)} pods of the namespace {namespace!r} are called {word[:_SHOWN]!r}; give the id of one"
        )
    return matches[0]


class Written(NamedTuple):
    """A pod that was saved, when and for how long its containers were frozen, and its VM was stopped."""

    saved: Saved
    paused_ns: int
    stopped_s: float


class Saver(NamedTuple):
    """How `saved` saves: to a directory `near` which the snapshot's will be, by the result of `target` for what its
    manifest will have, in the threads of `run`, if `check` has nothing against it once the pod stands still.
    """

    near: str
    target: Callable[[Saved], Target]
    run: "Callable[..., Any]"
    check: Callable[[], str] = lambda: ""


async def saved(pod: "LivePod", images: "ImageStore", *, by: Saver) -> Written:
    """Save the pod, whose lock is held and that nothing blocks, and continue it. Raises WrongState with what `by.check`
    says, and what `saves.save` raises; then it is rolled back.
    """
    host, of_pod = pod.tools.host, (pod.directory, pod.record.pod)
    with pod.gate.transferring():
        window = await asyncio.to_thread(suspension.files_in_window, pod, images)
        disk = await pod.tools.run_in_bulk(saves.write_back, *of_pod, host=host, near=by.near)
        await suspension.require_space(pod, by.near, disk=disk)
        begun_ns = time.time_ns()
        async with standing_still(pod):
            if why := by.check():  # a container may have ended or begun meanwhile
                raise WrongState(why)
            machine = await asyncio.to_thread(saves.describe, *of_pod, host=host, images=window)
            made = Saved(machine, of(pod, begun_ns))
            stopped_s = await by.run(saves.save, *of_pod, host=host, target=by.target(made))
    return Written(made, time.time_ns() - begun_ns, stopped_s)


class Saving:
    """A pod, with these interfaces, that is being saved into a directory by `task`: what is there can be loaded before
    the pod goes on.
    """

    def __init__(
        self, interfaces: "tuple[Interface, ...]", task: "asyncio.Task[float]", written: asyncio.Event
    ) -> None:
        self.interfaces, self.task, self._written = interfaces, task, written

    async def until_written(self) -> None:
        """Wait until the directory is complete. Raises what `fork` does."""
        waiting = asyncio.ensure_future(self._written.wait())
        try:
            await asyncio.wait({self.task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.task.done():
            self.task.result()


async def fork(pod: "LivePod", images: "ImageStore", *, path: str, written: asyncio.Event) -> float:
    """Save the pod into the new directory `path`, which is complete when `written` is set, and continue it. Return for
    how many seconds its containers were frozen. Raises WrongState with the blocker, and what `saved` raises.
    """
    is_written = partial(asyncio.get_running_loop().call_soon_threadsafe, written.set)
    async with pod.gate.lock:
        pod.require_ready()
        await suspension.settle(pod)
        if why := blocker(pod):
            raise WrongState(why)

        def target(made: Saved) -> Target:
            return Target(path, manifest.dump(made), is_written)

        by = Saver(os.path.dirname(path), target, pod.tools.run_in_bulk)
        done = await saved(pod, images, by=by)
        pod.note(Fact(history.FORKED, took_ns=done.paused_ns))
        pod.save_soon()
    extra = {"paused_ms": done.paused_ns // 1_000_000, "stopped_ms": round(done.stopped_s * 1000)}
    log.info("pod.copied", extra={**pod.log_fields(), **extra})
    return done.paused_ns / 1e9


@asynccontextmanager
async def being_forked(pod: "LivePod", images: "ImageStore", *, name: str) -> "AsyncIterator[Origin]":
    """The pod is saved, from now on, in a directory of that `name`, which is there as long as the block runs; the task
    that does it, which is over then, raises as `fork`.
    """
    path, written = f"{pod.tools.host.state_dir}/{saves.FORKS}/{name}", asyncio.Event()
    work = fork(pod, images, path=path, written=written)
    task = asyncio.get_running_loop().create_task(work, name=f"copy of {pod.title}")
    try:
        yield Origin(path, saving=Saving(pod.network.interfaces if pod.network else (), task, written))
    finally:
        await await_end(task)  # whoever failed before it did not ask for its result
        await run_uncancellable(_remove, path)


def _remove(path: str) -> None:
    try:
        saves.remove(path)
    except PodError as error:
        log.warning("fork.cleanup_failed", extra={"path": path, "error": str(error)})


async def forget_forks(host: "Host") -> None:
    """Remove what a daemon has left that was killed while it copied a pod. No copy may be in progress. The directory
    itself stays: it may be a file system of its own.
    """
    top = f"{host.state_dir}/{saves.FORKS}"
    for name in await asyncio.to_thread(saves.left_in, top):
        await asyncio.to_thread(_remove, f"{top}/{name}")


@asynccontextmanager
async def standing_still(pod: "LivePod") -> AsyncIterator[None]:
    """Freeze the pod for the block: its containers are frozen, the host's directories are unmounted in its guest, and
    requests to its agent wait. Thawed afterwards, also when this raises PodError.
    """
    ask = partial(pod.agent.call, timeout_s=suspension.ANSWER_S)
    with pod.gate.quiescing():
        await suspension.be_quiet(pod, "copied")
        await suspension.unmount_shares(ask)
        try:
            await ask(suspension.FREEZE)
            yield
        finally:
            try:
                await ask(suspension.THAW)
            finally:
                await ask(suspension.MOUNT)


def of(pod: "LivePod", made_ns: int) -> SavedPod:
    """What a copy has to know about the pod."""
    ids, model = guest_ids(pod), pod.record.pod
    containers = tuple(_container(one.record, ids) for one in pod.containers.values() if one.is_running)
    return SavedPod(
        model.id, model.name, model.namespace, model.uid, pod.record.handler, pod.record.config, made_ns,
        pod.status.link_key, max(pod.unused_id, pod.status.ids), containers, decided.of_pod(model),
    )  # fmt: skip


def _container(record: "ContainerRecord", ids: dict[str, str]) -> SavedContainer:
    return SavedContainer(
        ids[record.container.id], record.container.name, record.attempt, record.image_id, record.image_ref,
        record.window_image, tuple(mount.target for mount in record.container.mounts),
        record.stdin, record.stdout, record.stderr, decided.of_container(record, guest_ids=ids),
        (record.container.limits,), record.config,
    )  # fmt: skip


def guest_ids(pod: "LivePod") -> dict[str, str]:
    """How the guest calls the containers of the pod, by their ids."""
    return {one.id: one.record.guest_id or one.id for one in pod.containers.values()}


def _require_same(pod: "LivePod", given: Given) -> None:
    """Raise WrongState where the pod asks for something else than its original has, and its guest keeps."""
    if other := decided.difference(given.saved.pod.decided, decided.of_pod(pod.record.pod)):
        name, was, now = other
        raise WrongState(f"{given.title} has {name} {was}, and {now} is asked for; a copy keeps its original's")


class Origin(NamedTuple):
    """What a pod begins with as a copy: the directory of the snapshot, with what was read of it and checked (`given`),
    or which is still being written by `saving`.
    """

    path: str
    given: Given | None = None
    saving: Saving | None = None


async def bring_up(pod: "LivePod", origin: Origin) -> None:
    """Bring the pod from nothing to READY, as a copy; its containers wait in `status.waiting`. Its VM begins while the
    original is still being saved.

    Raises what `origin.saving` does, WrongState when it can't be a copy, and as `engine.prepare`, `boot.boot` and
    `loads.load`; rolled back then.
    """
    path, given, saving = origin
    async with boot.until_ready(pod) as start:
        start.how = "copied"
        phases = Phases(pod)
        known = given.saved.machine if given else None
        interfaces = known.interfaces if known else saving.interfaces if saving else ()
        async with _vm_begun(pod, phases, machine=known, interfaces=interfaces) as begun:
            if saving is not None:
                await saving.until_written()
            if given is None:
                given = await asyncio.to_thread(_forked, path)
            (machine, former), title = given
            _require_same(pod, given)
            # What comes from elsewhere is not believed, and a fork is ours.
            believed = former.containers if saving else [one._replace(limits=()) for one in former.containers]
            waiting = tuple(one._replace(config=b"") for one in believed)
            pod.unused_id = former.ids + 1
            pod.status = pod.status._replace(ids=former.ids, waiting=waiting, origin=title)
            await pod.tools.run_in_bulk(loads.load, begun.prepared, pod.tools.host, path=path, manifest=machine)
            await pod.meet(pod.tools.boot_timeout_s, former.link_key)
            phases.booted(pod.hello, is_copy=True)
            await _assume_identity(pod, machine, joined=begun.joined)
        if saving is not None:
            await asyncio.shield(saving.task)
        phases.end(history.CONFIGURE)
    pod.note(Fact(history.COPIED, text=title))


def _forked(path: str) -> Given:
    made = manifest.read(path)
    return Given(made, f"pod {made.pod.title}")


class _Begun(NamedTuple):
    """The VM of a copy that waits for its guest, and the task after which the pod has its network."""

    prepared: "Prepared"
    joined: "asyncio.Task[None]"


@asynccontextmanager
async def _vm_begun(
    pod: "LivePod", phases: Phases, *, machine: "Manifest | None", interfaces: "tuple[Interface, ...]"
) -> AsyncIterator[_Begun]:
    """Start the VM of a copy, which then waits for the saved guest, of these interfaces, to be loaded. Its network is
    made meanwhile where that is possible, and no longer than the block runs.
    """
    about, host = pod.record.pod, pod.tools.host
    joins_later = await asyncio.to_thread(loads.can_join_later, about, host, interfaces=interfaces)
    prepared = await pod.run_in_pool(loads.prepare, about, host, manifest=machine, joins_later=joins_later)
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


async def _assume_identity(pod: "LivePod", machine: "Manifest", *, joined: "asyncio.Task[None]") -> None:
    """Give the loaded guest the identity of this pod, while only its agent runs and all containers are frozen. One time
    limit holds for all of it, however many containers the guest claims to have. Raises TimedOut, and what `joined`
    does, by which the pod has its network.
    """
    first = (settings.leave(machine.interfaces), suspension.MOUNT)  # do not need the network yet
    left = asyncio.gather(*(pod.call(op, suspension.ANSWER_S) for op in first))
    try:
        await asyncio.shield(joined)
        async with asyncio.timeout(pod.tools.boot_timeout_s):
            await _tell_who_it_is(pod, machine, left=left)
    except TimeoutError:
        raise TimedOut(f"the guest of {pod.title} was not reconfigured within {pod.tools.boot_timeout_s:g} s") from None
    finally:
        left.cancel()
        await await_end(left)


async def _told(pod: "LivePod", *ops: messages.Op) -> "list[messages.Reply]":
    """The agent does one after the other, so none of the requests waits for the reply to the one before."""
    return await asyncio.gather(*(pod.call(op, suspension.ANSWER_S) for op in ops))


async def _tell_who_it_is(pod: "LivePod", machine: "Manifest", *, left: "asyncio.Future[list[messages.Reply]]") -> None:
    identify = settings.identify(pod.record.pod, pod.network, former=machine.interfaces)
    _, (_, listed) = await asyncio.gather(left, _told(pod, identify, messages.List()))
    expected = {one.guest_id for one in pod.status.waiting}
    waiting = {one.id for one in listed.containers if one.id in expected and one.state == messages.RUNNING}
    await _told(pod, *(messages.Freeze(one) for one in sorted(waiting)))
    for one in listed.containers:
        if one.id not in waiting:
            await pod.call(messages.Delete(one.id), suspension.ANSWER_S)
    await _told(pod, suspension.THAW)
