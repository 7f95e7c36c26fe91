# SPDX-License-Identifier: Apache-2.0
"""The node: everything that an RPC may use, gathered in one object.

Made by `clearpod serve` and by tests (which put fakes in), handed to every RPC by the server. It only holds
things and the calls in progress; what is done with them is in `cri.runtime`, `cri.image`, `cri.pods` and below.
"""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from cri import __version__
from cri.config import Config
from cri.events import Bus
from cri.live.consoles import Consoles
from cri.live.images import KeptAccounts
from cri.live.tools import CALL_S, REACT_S, Hooks, Tools, slowness
from cri.memory.merger import Merger
from cri.monitors.disk_guard import Guard
from cri.monitors.files import Refresher
from cri.monitors.mounts import Follower
from cri.monitors.network import NodeNetwork
from cri.monitors.reclaimer import Reclaimer
from cri.pods.table import PodTable
from cri.pool.fit import Bounds
from cri.readiness import Readiness
from cri.recorder import Counts, Recorder
from cri.snapshots import copies, suspension
from cri.snapshots.named import NamedSnapshots
from cri.storage.disk import Storage, reserve_of
from cri.store import history
from cri.store.failures import Failures
from cri.store.history import Fact
from cri.store.verifier import Verifier
from cri.threads import Bulk, started
from cri.tracing import Exporting, Tracer
from cri.translate import kernel
from stage1.errors import PodError, WrongState
from stage1.pod import states
from stage1.vm import kernels

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.nri.hub import Hub
    from cri.snapshots.templates import Templates
    from cri.store.images import ImageStore
    from stage1.engine import Host
    from stage1.linux.host import HostFacts
    from stage1.pod.model import Pod
    from stage1.vm.vmm import Vmm

NETWORKS_AT_ONCE, BULK_AT_ONCE = 8, 3
"""Pods whose CNI plugins run at the same time; more wait for their turn."""
START_WAIT_S = 1.0
"""How long a call waits for a daemon that is starting; crictl gives up after 2 s."""
VSOCK_PORT = 1024
"""The vsock port to which guests connect."""
NOTED = frozenset(
    "PullImage CreateContainer StartContainer StopContainer RemoveContainer StopPodSandbox RemovePodSandbox"
    " UpdateContainerResources UpdatePodSandboxResources ReopenContainerLog".split()
)
"""RPCs whose failures are in the history of their pod: those that kubelet makes to change something."""

log = logging.getLogger("clearpod.node")


def _crun(config: Config, facts: "HostFacts") -> str:
    """The program for pods on the host; empty if there are none."""
    from stage1.vm import choose

    if not config.host_pods.allow:
        return ""
    try:
        crun = choose.crun(facts)
    except PodError as error:
        log.warning("host_pods", extra={"warning": str(error)})
        return ""
    log.warning("host_pods", extra={"warning": "pods with namespaces of the host run outside of any VM"})
    return crun


class Streams(Protocol):
    """The streaming server, as RPCs see it. `address` is HOST:PORT."""

    address: str

    def offer(self, kind: str, request: Any) -> str:
        """The URL for the client of `request`. Raises NoSpace."""


WAKING = tuple(f"{name}Request" for name in "ExecSync Exec Attach PortForward StopContainer RemoveContainer".split())
"""Requests for which a suspended pod may be resumed."""


class Node:
    """`handlers` are the RuntimeClass handlers that are served; the empty name is the default one."""

    def __init__(self, config: Config, *, host: "Host", vmm: "Vmm", images: "ImageStore") -> None:
        self.config, self.host, self.vmm, self.images = config, host, vmm, images
        self.handlers = kernel.handlers([])
        self._abandoned: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pool = started(NETWORKS_AT_ONCE, "network")
        self.events = Bus()
        self.tracer = Exporting(config.tracing, __version__) if config.tracing.endpoint else Tracer()
        self.recorder = Counts() if config.metrics.enabled else Recorder()
        self.recorder.tracer = self.tracer
        self.storage = Storage(config, host)
        self.hub = self._make_hub()
        self.templates = self._make_templates()
        self.snapshots = NamedSnapshots(config.state_dir, images, most_bytes=config.snapshots.disk_mib << 20)
        self.tools = Tools(
            host=host,
            vmm=vmm,
            boot_timeout_s=config.vm.boot_timeout_s,
            pool=self._pool,
            bulk=Bulk(BULK_AT_ONCE),
            events=self.events,
            adopt_timeout_s=config.vm.adopt_timeout_s,
            storage=self.storage,
            hooks=self.hub or Hooks(),
            react_s=config.vm.react_timeout_s or REACT_S * slowness(host),
            call_timeout_s=CALL_S * slowness(host),
            consoles=Consoles(),
            recorder=self.recorder,
            templates=self.templates,
        )
        warm = Bounds(config.pool.size, config.pool.memory_mib)
        most = config.limits.max_pods
        self.pods = PodTable(self.tools, is_abandoned=self.is_abandoned, max_pods=most, warm=warm)
        self.guard = Guard(config.state_dir, self.pods.pods, keep_bytes=config.storage.keep_free_mib << 20)
        self.network = NodeNetwork(host)
        self.failures = Failures(config.run_dir)
        self.readiness = Readiness(host)
        self.merger = Merger(config.run_dir, config.ksm, guests=self.pods.count_vms)
        self.verifier, self.accounts = Verifier(images), KeptAccounts()
        self.reclaimer = Reclaimer(self.pods.pods) if host.choice.hypervisor.has_balloon else None
        self.refresher = Refresher(self.pods.pods)
        self.follower = Follower(self.pods.pods, changed=self.refresher.mounts_changed)
        self.is_ready, self._opened = False, asyncio.Event()
        self.streaming: Streams | None = None
        self.metrics_url = ""

    def _make_hub(self) -> "Hub | None":
        """NRI's plugins, if they are wanted."""
        if not self.config.nri.enabled:
            return None
        from cri.nri.hub import Hub

        return Hub(self.config.nri, self._living)

    def _make_templates(self) -> "Templates | None":
        """Templates of guests, if they are wanted and this hypervisor can have some."""
        if not self.config.templates.enabled or not self.host.choice.hypervisor.has_templates:
            return None
        from cri.snapshots.templates import Templates

        limit_s = self.config.vm.boot_timeout_s
        return Templates(self.host, self.vmm, disk_mib=self.config.templates.disk_mib, limit_s=limit_s)

    def _living(self) -> "list[LivePod]":
        return self.pods.pods()

    @classmethod
    def of_this_machine(cls, config: Config) -> "Node":
        """The node that `config` describes, on this machine.

        Raises PodError when no hypervisor can run here.
        """
        from cri.store.images import ImageStore
        from stage1.engine import Host
        from stage1.linux import dbus, scope
        from stage1.linux.cgroup import OURS
        from stage1.machine import JAILER
        from stage1.vm import hypervisors, needs
        from stage1.vm.choose import choose
        from stage1.vm.starter import ProcessVmm

        facts = hypervisors.facts()
        choice = choose(config.vm.hypervisor, facts)
        if choice.warning:
            log.warning("hypervisor", extra={"warning": choice.warning})
        if kernels.chosen(config.guest_dir, "", hypervisor=choice.hypervisor) == kernels.STOCK:
            log.warning("kernel", extra={"warning": f"{kernels.SLOW}; {kernels.REMEDY}"})
        has_scopes = scope.are_used(config.cgroup_driver)
        if has_scopes and (why := dbus.why_not()):
            log.warning("cgroup_driver", extra={"warning": f"pods with a cgroup_parent can't be run: {why}"})
        host = Host(
            run_dir=config.run_dir,
            guest_dir=config.guest_dir,
            state_dir=config.state_dir,
            choice=choice,
            scratch_mib=config.vm.scratch_mib,
            vsock_port=VSOCK_PORT,
            network=config.networks,
            crun=_crun(config, facts),
            ids=config.jail.ids,
            cgroup_parent=OURS,
            has_scopes=has_scopes,
            allocates_scratch=config.storage.allocate,
        )
        vmm = ProcessVmm(huge_pages=config.vm.huge_pages)
        lack = needs.find(f"{config.guest_dir}/{JAILER}")
        if lack.missing or lack.weaker:
            log.warning("confinement", extra={"warning": lack.missing or lack.weaker})
        images = reserve_of(config).spend(ImageStore, config.state_dir)
        try:
            return cls(config, host=host, vmm=vmm, images=images)
        except BaseException:
            images.close()
            raise

    @property
    def hypervisor(self) -> str:
        """Which VMM runs the pods, and how, for people."""
        return str(self.host.choice)

    @property
    def lacks_user_namespaces(self) -> str:
        """Why pods can't have user namespaces here, and what to do; empty when they can."""
        from stage1.linux import idmap

        return self.host.choice.hypervisor.user_namespaces_lack or idmap.why_not()

    @property
    def calls(self) -> int:
        """How many calls are being carried out, also for clients that have gone away."""
        return len(self._tasks)

    def config_json(self) -> str:
        """The configuration in force, with `stateDir` as critest wants it, as a JSON object."""
        import json

        return json.dumps({"stateDir": self.config.state_dir, **self.config.values()})

    async def open(self, plain: "Pod | None" = None) -> None:
        """List what the previous daemon left, then answer calls, and prewarm VMs for pods as `plain`.

        The pods are adopted in the background; a call that names one waits for it (`settle`).
        """
        await self.failures.open()
        await copies.forget_forks(self.host)
        await self.snapshots.open()
        await self.pods.recovery.begin()
        await self.find_kernels()
        self.network.open()
        await self.merger.open()
        if self.hub:
            await self.hub.open()
        self.follower.open()
        self.refresher.open()
        self.storage.open()
        self.guard.open()
        if self.reclaimer:
            self.reclaimer.open()
        if self.templates:
            self.templates.open()
        self.is_ready = True
        self._opened.set()
        if plain is not None:
            self.pods.pool.open(plain)

    async def becomes_ready(self) -> bool:
        """Whether calls can be answered. One that comes while the daemon starts is held for a moment: who has just
        seen the socket appear need not try again.
        """
        if not self.is_ready and not self._opened.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), START_WAIT_S)
        return self.is_ready

    async def take(self, config: Config, plain: "Pod") -> None:
        """Apply a new configuration, which differs only in keys that `cri.changes` lists as live."""
        self.config, self.pods.max_pods = config, config.limits.max_pods
        self.snapshots.most_bytes = config.snapshots.disk_mib << 20
        await self.find_kernels()
        await self.pods.pool.replace(plain)

    async def find_kernels(self) -> None:
        """Look which kernels are in the guest's directory, for which there are handlers then."""
        hypervisor = self.host.choice.hypervisor
        self.handlers = kernel.handlers(
            await asyncio.to_thread(kernels.variants, self.host.guest_dir, hypervisor=hypervisor)
        )

    async def close(self) -> None:
        """Let calls in progress finish for a moment, then detach from the pods, whose VMs keep running."""
        self.is_ready = False
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
        for task in list(self._tasks):
            task.cancel()
        if self.hub:
            await self.hub.close()
        await self.follower.close()
        await self.refresher.close()
        await self.storage.close()
        await self.guard.close()
        if self.reclaimer:
            await self.reclaimer.close()
        await self.merger.close()
        await self.verifier.close()
        if self.templates:
            await self.templates.close()  # the pool may be waiting for one
        await self.pods.close()
        self.network.close()
        self.readiness.close()
        await self.tracer.close()
        self._pool.shutdown(wait=False)

    async def settle(self, request: Any) -> None:
        """Wait until the pod that `request` names, if any, has been adopted. Raises Unavailable, BadRequest."""
        pod_id, container_id = (getattr(request, name, "") for name in ("pod_sandbox_id", "container_id"))
        if pod_id or container_id:
            kind = type(request).__name__
            await self.pods.adopted(pod_id, container_id, ends=kind.startswith(("Stop", "Remove")))
            pod = self.pods.about(request) if kind in WAKING else None
            if pod and self._needs_guest(kind, container_id):
                await suspension.wake(pod, is_end=kind.startswith(("Stop", "Remove")))

    def _needs_guest(self, kind: str, container_id: str) -> bool:
        """Whether the guest is needed to answer the request about this container, if it is about one."""
        pair = self.pods.find_container(container_id)
        if pair is None or kind == "RemoveContainerRequest":
            return True
        return pair[1].status.state != states.EXITED if kind == "StopContainerRequest" else pair[1].is_running

    def note_failed(self, name: str, request: Any, *, error: Exception) -> None:
        """An RPC failed: remember that in the history of the pod that it was about, if there is one."""
        if name not in NOTED or not (pod := self.pods.about(request)):
            return
        pair = self.pods.find_container(getattr(request, "container_id", ""))
        asked = request.config.metadata.name if name == "CreateContainer" else ""
        subject = pair[1].record.container.name if pair else asked
        pod.note(Fact(history.FAILED, subject=subject, reason=name, text=str(error)))
        pod.save_soon()

    def url(self, kind: str, request: Any) -> str:
        """The URL for the client of a streaming `request`. Raises WrongState if the daemon is about to end, NoSpace."""
        if self.streaming is None:
            raise WrongState("the streaming server is not running; the daemon is about to end")
        return self.streaming.offer(kind, request)

    def own(self, body: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `body` as a task of the node's, which lives on when the client of the call goes away."""
        task = asyncio.get_running_loop().create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def abandon(self, task: asyncio.Task[Any]) -> None:
        """Remember that this call's answer was not delivered: the same request may ask for it again."""
        self._abandoned.add(task)

    def is_abandoned(self, task: asyncio.Task[Any]) -> bool:
        """Whether the answer of this call was not delivered."""
        return task in self._abandoned

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and task in self._abandoned:
            log.warning("call.abandoned", extra={"error": str(error)})
