# SPDX-License-Identifier: Apache-2.0
"""All live pods, by id and by name; made once per node. The RPCs find pods and containers here.

Lists come from memory alone: kubelet asks each second.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cri import events
from cri.containers import stop as stops
from cri.live import boot, shutdown
from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.live.tools import Tools
from cri.logs import place
from cri.loop_budget import LoopBudget
from cri.pb import runtime_pb2 as pb
from cri.pods import ports
from cri.pods.names import Names
from cri.pods.recovery import Recovery
from cri.policy import AT_ITS_END, DETACHED
from cri.pool.fit import Bounds
from cri.pool.pool import Pool
from cri.recorder import POD_STARTS
from cri.store import history
from cri.store import pods as store
from cri.tasks import Tasks
from cri.vsock import VsockPort
from stage1.errors import BadRequest, NoSpace, NotFound, TimedOut, Unsupported, VmFailed, WrongState
from stage1.pod import states
from stage1.pod.model import KERNEL_OF_IMAGE, Pod

log = logging.getLogger("clearpod.pod")

Thing = TypeVar("Thing")
BringUp = Callable[[LivePod], Coroutine[Any, Any, None]]
"""Makes a pod READY that is nothing yet, or leaves nothing of it."""


CONSOLE_LINES = 100
"""Of the console of a pod that is removed."""
MOST_REMOVED = 64


def _ignore(pod: LivePod) -> None:
    """Do nothing: the callback where none is given."""


class PodTable:
    """`is_abandoned` tells whether a call's client went away before its answer (see `names`). `warm` bounds the pool of
    prewarmed VMs, which is filled once it is opened. `max_pods` may be changed at any time; 0 is no limit.
    `container_names` are the names of all containers, each with its pod's id; `loop_budget` is of all links.
    """

    def __init__(
        self,
        tools: Tools,
        *,
        is_abandoned: Callable[[Any], bool],
        max_pods: int = 0,
        warm: Bounds = Bounds(),  # noqa: B008 - a constant
    ) -> None:
        self.loop_budget = tools.loop_budget or LoopBudget()
        self._tools, self.max_pods = tools._replace(loop_budget=self.loop_budget), max_pods
        self._pods: dict[str, LivePod] = {}
        self._booting: dict[str, LivePod] = {}
        self._starting = 0
        self.removed: deque[history.Removed] = deque(maxlen=MOST_REMOVED)
        """Those that were removed last, so that they can still be explained; this daemon's alone."""
        self.copying: set[tuple[str, str]] = set()
        """Namespace and name of the copies that ForkPod is making."""
        self._pod_names = Names("sandbox", is_abandoned)
        self.container_names = Names("container", is_abandoned)
        self._port = VsockPort(tools.host.vsock_port)
        self.pool = Pool(warm, self._new_slot)
        self.recovery = Recovery(self._tools, make=self._new, admit=self._admit, name_of=_pod_name)
        self._tools = self._tools._replace(
            clean_up_later=self.recovery.clean_up_later, container_ended=self._container_ended
        )
        self._endings = Tasks(log, "pod.detached")

    # -- finding ---------------------------------------------------------------------------------------------

    def pods(self) -> list[LivePod]:
        """All pods, oldest first."""
        return list(self._pods.values())

    def count_vms(self) -> int:
        """Virtual machines that run: of pods, and those that wait for one."""
        return self.pool.waiting + sum(_has_vm(pod) for pod in self._pods.values())

    @property
    def booting(self) -> int:
        """How many pods are starting that are not listed yet."""
        return len(self._booting)

    def find(self, pod_id: str) -> LivePod | None:
        """Find a pod by its id or a unique prefix. Raises BadRequest if the prefix is ambiguous."""
        return _pick("sandbox", self._pods, prefix=pod_id)

    def get(self, pod_id: str) -> LivePod:
        """Like `find`, but raises NotFound."""
        if pod := self.find(pod_id):
            return pod
        raise NotFound(f"there is no sandbox {pod_id!r}; `crictl pods` lists those that exist")

    def about(self, request: Any) -> LivePod | None:
        """The pod that a request names, or the container of which it names, or that it is made for."""
        try:
            pair = self.find_container(getattr(request, "container_id", ""))
            pod = pair[0] if pair else self.find(getattr(request, "pod_sandbox_id", ""))
        except BadRequest:
            return None
        return pod or (self.named(request.sandbox_config.metadata) if hasattr(request, "sandbox_config") else None)

    def named(self, names: pb.PodSandboxMetadata) -> LivePod | None:
        """The pod that was asked for by this name; None also for an empty one."""
        made = self._pod_names.made((names.namespace, names.name, names.uid, names.attempt))
        return self._pods.get(made)

    def find_container(self, container_id: str) -> tuple[LivePod, LiveContainer] | None:
        """The container and its pod, by id or unique beginning of one."""
        for pod in self._pods.values():
            if container := pod.containers.get(container_id):  # nearly always: clients but crictl have whole ids
                return pod, container
        everything = {c.id: (pod, c) for pod in self._pods.values() for c in pod.containers.values()}
        return _pick("container", everything, prefix=container_id)

    def get_container(self, container_id: str) -> tuple[LivePod, LiveContainer]:
        """Like `find_container`, but raises NotFound."""
        if pair := self.find_container(container_id):
            return pair
        raise NotFound(f"there is no container {container_id!r}; `crictl ps -a` lists those that exist")

    # -- changing --------------------------------------------------------------------------------------------

    async def run(
        self,
        record: store.PodRecord,
        request: bytes,
        *,
        failed: Callable[[LivePod], None] = _ignore,
        bring_up: BringUp | None = None,
    ) -> str:
        """Boot a pod, or `bring_up` one, and list it. `failed` gets one that had begun and was removed again.

        Raises AlreadyExists for a name (see `names`) or a host port that is taken, NoSpace at the limit.
        """
        name = _pod_name(record)
        await self.recovery.freed(name)
        if made := await self._pod_names.repeated(name, request):
            return made
        with self._pod_names.reserved(name, request) as reservation:
            await self._require_resources(record.pod)
            with self._place(), self.pool.starting(), self._failure_counted():
                pod = await self._start(record, failed, bring_up=bring_up)
            pod.tell(events.CREATED)
            pod.tell(events.STARTED)
            reservation.keep(pod.id)
        return pod.id

    async def _require_resources(self, pod: Pod) -> None:
        """Raise AlreadyExists when a host port of the pod is taken, NoSpace when its disk does not fit, WrongState
        while another pod has that. After the last await nothing may be waited for until the pod is booting: it counts
        for others from then on.
        """
        if self._tools.host.network:
            ports.require_free(pod, self._publishing())
        if (storage := self._tools.storage) and storage.is_bound:
            space = await storage.measure()
            storage.require_space_for(pod, space, others=self.with_disks())
        self._require_disk(pod)

    def _require_disk(self, pod: Pod) -> None:
        """The disk with a pod's volumes is that of all pods of the same uid, one after the other."""
        for other in (*self._pods.values(), *self._booting.values()) if pod.disk_volumes else ():
            one = other.record.pod
            if one.disk_volumes and one.kubelet_dir == pod.kubelet_dir and other.status.state != states.DEAD:
                raise WrongState(
                    f"{other.title} ({other.id}) still uses the disk with this pod's volumes; stop it first"
                )

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places that the node has for pods, until the pod is listed."""
        living = self._starting + sum(pod.status.state != states.DEAD for pod in self._pods.values())
        if self.max_pods and living >= self.max_pods:
            raise NoSpace(
                f"this node runs or starts {living} sandboxes, and limits.max_pods in clearpod's configuration allows"
                f" {self.max_pods}; remove some, or schedule this one on another node"
            )
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    @contextmanager
    def _failure_counted(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._tools.recorder.count(POD_STARTS, "failed")
            raise

    async def _start(
        self, record: store.PodRecord, failed: Callable[[LivePod], None], *, bring_up: BringUp | None
    ) -> LivePod:
        """Claim a VM of the pool, or another if that one turns out to be dead; else boot one, or none for a pod whose
        kernel is in an image.
        """
        if bring_up:
            copy = self._new(record)
            return await self._listed(copy, bring_up(copy), failed=failed)
        if record.pod.kernel == KERNEL_OF_IMAGE and not record.pod.host:
            plain = self._new(record)
            return await self._listed(plain, boot.without_guest(plain), failed=failed)
        while pod := self.pool.claim(record.pod):
            mine = record._replace(pod=record.pod._replace(id=pod.id))
            try:
                return await self._listed(pod, boot.claim(pod, mine, tools=self._tools), failed=failed)
            except Unsupported as error:
                await self.pool.disable(error)
            except (VmFailed, TimedOut) as error:
                self.pool.report_dead(error)
        try:
            pod = self._new(record)
            return await self._listed(pod, boot.boot(pod), failed=failed)
        except boot.CopyFailed:
            pod = self._new(record)
            return await self._listed(pod, boot.boot(pod, as_copy=False), failed=failed)

    async def _listed(
        self, pod: LivePod, start: Coroutine[Any, Any, None], *, failed: Callable[[LivePod], None]
    ) -> LivePod:
        self._booting[pod.id] = pod
        try:
            await start
            try:
                async with self._tools.hooks.running(pod):
                    self._pods[pod.id] = pod
            except BaseException:
                await boot.discard(pod)
                raise
        except boot.CopyFailed:
            raise
        except BaseException:
            failed(pod)
            raise
        finally:
            del self._booting[pod.id]
        return pod

    def _new(self, record: store.PodRecord) -> LivePod:
        return LivePod(record, self._tools, self._port)

    def _new_slot(self, record: store.PodRecord) -> LivePod:
        """A pod for the pool: no events are published while it is in its slot."""
        return LivePod(record, self._tools._replace(events=None), self._port)

    def with_disks(self) -> list[Pod]:
        """All that have a disk or are about to: dead ones too, until they are removed, and those that wait."""
        return [pod.record.pod for pod in (*self._pods.values(), *self._booting.values(), *self.pool.pods())]

    def _publishing(self) -> list[Pod]:
        """Pods that have host ports or are about to."""
        attached = [pod for pod in self._pods.values() if pod.network is not None]
        return [pod.record.pod for pod in (*self._booting.values(), *attached)]

    async def remove(self, pod: LivePod) -> None:
        """Stop and forget it; another call may have done so already."""
        async with pod.gate.removal:
            if self._pods.get(pod.id) is not pod:
                return
            console = await asyncio.to_thread(pod.vm.console_tail, CONSOLE_LINES) if pod.vm else ""
            await shutdown.remove(pod)
            del self._pods[pod.id]
            self._note_removed(pod, console)
        for container in pod.containers.values():
            self.container_names.release(container_name(pod, container.record))
            pod.tell(events.DELETED, container.id)
        pod.containers.clear()
        self._pod_names.release(_pod_name(pod.record))
        pod.tell(events.DELETED)

    def _note_removed(self, pod: LivePod, console: str) -> None:
        about, host = pod.record.pod, pod.tools.host
        name = "host" if about.host else host.choice.hypervisor.name
        why, facts = pod.status.why, pod.status.history
        self.removed.append(
            history.Removed(about.id, about.namespace, about.name, about.uid, time.time_ns(), why, facts, console, name)
        )

    async def remove_container(self, pod: LivePod, container: LiveContainer) -> None:
        """Kill, remove and forget it."""
        await stops.remove(pod, container)
        self.container_names.release(container_name(pod, container.record))

    # -- pods of `clearpod run --detach` ---------------------------------------------------------------------

    def _container_ended(self, pod: LivePod) -> None:
        if pod.config.labels.get(DETACHED) and not _is_kubelets(pod):
            self._endings.own(self._end_detached(pod))

    async def _end_detached(self, pod: LivePod) -> None:
        """End the VM of a detached pod whose container has ended, since nobody will start another one in it. Its
        record, exit code and log stay until it is removed, which is now with `run --rm`.
        """
        await pod.adopted.wait()
        if any(one.status.state != states.EXITED for one in pod.containers.values()):
            return
        if pod.config.labels[DETACHED] == AT_ITS_END:
            await self.remove(pod)
            await asyncio.to_thread(
                place.remove_orphans, self._tools.host.state_dir, {one.record.pod.uid for one in self.pods()}
            )
        else:
            await shutdown.stop(pod)

    # -- recovery --------------------------------------------------------------------------------------------

    def _admit(self, pod: LivePod) -> None:
        """List a pod of the previous daemon; from now on its names are taken."""
        self._pods[pod.id] = pod
        self._pod_names.take(_pod_name(pod.record), pod.id)
        for container in pod.containers.values():
            self.container_names.take(container_name(pod, container.record), container.id)
        if pod.containers:
            self._container_ended(pod)  # the daemon may have ended before it could end the VM

    async def adopted(self, pod_id: str, container_id: str, *, ends: bool = False) -> None:
        """Wait until the pod that is named so, or whose container is, has been adopted from the previous daemon, for
        a call that `ends` it not longer than its guest may take for that.

        Raises Unavailable when that takes long, BadRequest as `find`.
        """
        pair = self.find_container(container_id)
        pod = pair[0] if pair else self.find(pod_id)
        if pod is not None:
            await self.recovery.adopted(pod, ends=ends)

    async def close(self) -> None:
        """Detach from all pods, whose VMs keep running, and drain the pool."""
        await self._endings.close()
        await self.recovery.close()
        await self.pool.close()
        await asyncio.gather(*(pod.detach() for pod in self._pods.values()))
        self._port.close()


def _has_vm(pod: LivePod) -> bool:
    return pod.is_ready and not pod.is_suspended and not pod.record.pod.host


def _is_kubelets(pod: LivePod) -> bool:
    """Whether the kubelet asked for it, which alone decides when its pods end, whatever their labels are."""
    return "io.kubernetes.pod.uid" in pod.config.labels


def _pod_name(record: store.PodRecord) -> tuple[str, str, str, int]:
    pod = record.pod
    return pod.namespace, pod.name, pod.uid, pod.attempt


def container_name(pod: LivePod, record: store.ContainerRecord) -> tuple[str, str, int]:
    """The key of a container's name, which is unique."""
    return pod.id, record.container.name, record.attempt


def _pick(what: str, things: dict[str, Thing], *, prefix: str) -> Thing | None:
    if prefix in things or not prefix:
        return things.get(prefix)
    matches = [key for key in things if key.startswith(prefix)]
    if len(matches) > 1:
        raise BadRequest(f"{len(matches)} {what} ids begin with {prefix!r}; give more of it")
    return things[matches[0]] if matches else None
