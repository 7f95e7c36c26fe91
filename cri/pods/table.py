# SPDX-License-Identifier: Apache-2.0
"""All live pods, by id and by name; made once per node. The RPCs find pods and containers here.

Lists come from memory alone: kubelet asks each second.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
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
from cri.store import history
from cri.store import pods as store
from cri.tasks import Tasks
from cri.vsock import VsockPort
from stage1.errors import BadRequest, NoSpace, NotFound, WrongState
from stage1.pod import states
from stage1.pod.model import Pod

log = logging.getLogger("clearpod.pod")

Thing = TypeVar("Thing")

CONSOLE_LINES = 100
"""Of the console of a pod that is removed."""
MOST_REMOVED = 64


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
        self.tools, self.max_pods = tools._replace(loop_budget=self.loop_budget), max_pods
        self._pods: dict[str, LivePod] = {}
        self._booting: dict[str, LivePod] = {}
        self._starting = 0
        self.removed: deque[history.Removed] = deque(maxlen=MOST_REMOVED)
        """Those that were removed last, so that they can still be explained; this daemon's alone."""
        self.copying: set[tuple[str, str]] = set()
        """Namespace and name of the copies that ForkPod is making."""
        self.names = Names("sandbox", is_abandoned)
        self.container_names = Names("container", is_abandoned)
        self._port = VsockPort(tools.host.vsock_port)
        self.pool = Pool(warm, self._new_slot)
        self.recovery = Recovery(self.tools, make=self.new, admit=self._admit, name_of=pod_name)
        self.tools = self.tools._replace(
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
        made = self.names.made((names.namespace, names.name, names.uid, names.attempt))
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

    def new(self, record: store.PodRecord) -> LivePod:
        """A pod that is nothing yet, and not listed."""
        return LivePod(record, self.tools, self._port)

    def _new_slot(self, record: store.PodRecord) -> LivePod:
        """A pod for the pool: no events are published while it is in its slot."""
        return LivePod(record, self.tools._replace(events=None), self._port)

    async def require_resources(self, pod: Pod) -> None:
        """Raise AlreadyExists when a host port of the pod is taken, NoSpace when its disk does not fit, WrongState
        while another pod has that. After the last await nothing may be waited for until the pod is booting: it counts
        for others from then on.
        """
        if self.tools.host.network:
            ports.require_free(pod, self._publishing())
        if (storage := self.tools.storage) and storage.is_bound:
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
    def place(self) -> Iterator[None]:
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

    @asynccontextmanager
    async def listed(self, pod: LivePod, *, failed: Callable[[LivePod], None]) -> AsyncIterator[None]:
        """Count the pod as one that is booting while the block brings it up, and list it then. `failed` gets it where
        that fails, unless it is to be tried again (CopyFailed).
        """
        self._booting[pod.id] = pod
        try:
            yield
            try:
                async with self.tools.hooks.running(pod):
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
        self.names.release(pod_name(pod.record))
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
                place.remove_orphans, self.tools.host.state_dir, {one.record.pod.uid for one in self.pods()}
            )
        else:
            await shutdown.stop(pod)

    # -- recovery --------------------------------------------------------------------------------------------

    def _admit(self, pod: LivePod) -> None:
        """List a pod of the previous daemon; from now on its names are taken."""
        self._pods[pod.id] = pod
        self.names.take(pod_name(pod.record), pod.id)
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


def pod_name(record: store.PodRecord) -> tuple[str, str, str, int]:
    """The key of a pod's name, which is unique."""
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
