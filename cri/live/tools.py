# SPDX-License-Identifier: Apache-2.0
"""The pod's dependencies as one value, so that tests can pass fakes."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from cri.recorder import Recorder
from cri.threads import run_uncancellable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from cri.events import Bus
    from cri.live.consoles import Consoles
    from cri.live.container import LiveContainer
    from cri.live.pod import LivePod
    from cri.loop_budget import LoopBudget
    from cri.pb import runtime_pb2 as pb
    from cri.snapshots.templates import Templates
    from cri.storage.disk import Storage
    from cri.store.pods import ContainerRecord
    from cri.threads import Bulk
    from stage1.engine import Host
    from stage1.pod.model import Pod
    from stage1.vm.vmm import Vmm

log = logging.getLogger("clearpod.network")

# -- Hooks -------------------------------------------------------------------------------------------------------------
# In the life of pods and their containers. A hook that raises makes the operation fail, which its caller rolls back.


class Hooks:
    """Hooks without effect; each method is one."""

    @asynccontextmanager
    async def running(self, pod: "LivePod") -> AsyncIterator[None]:
        """Runs around the moment at which a booted pod is listed."""
        yield

    async def stopped(self, pod: "LivePod") -> None:
        """The pod's containers have ended; its network has not been released. Never raises."""

    def creating(self, pod: "LivePod", record: "ContainerRecord") -> "AbstractAsyncContextManager[ContainerRecord]":
        """Runs around the creation of a container; yields the record with the adjustments."""
        return nullcontext(record)

    async def starting(self, pod: "LivePod", container: "LiveContainer") -> None:
        """Runs before the container's process is started."""

    async def updating(
        self, pod: "LivePod", container: "LiveContainer", *, given: "pb.LinuxContainerResources"
    ) -> "pb.LinuxContainerResources":
        """Runs before new limits are applied; returns the limits to apply."""
        return given

    def updated(self, pod: "LivePod", container: "LiveContainer") -> None:
        """Called after new limits were applied."""

    async def updating_pod(self, pod: "LivePod", request: "pb.UpdatePodSandboxResourcesRequest") -> None:
        """Like `updating`, for the whole pod."""

    def updated_pod(self, pod: "LivePod") -> None:
        """The pod's limits have been applied."""

    def notify(self, kind: int, pod: "LivePod", *, subject: str) -> None:
        """An event of the kind `kind` (`cri.events`) of the pod or of its container `subject`. Never raises."""


P = ParamSpec("P")
T = TypeVar("T")


REACT_S, CALL_S, SLOWNESS = 4.0, 60.0, 4
"""What a guest has to carry out a stop, and to answer a call; and how many times that if it is emulated."""


def slowness(host: "Host") -> int:
    """How many times the time of others a guest of this host gets."""
    return SLOWNESS if host.choice.is_emulated else 1


def log_deferred_del(sentence: str) -> None:
    """Log why a DEL of a pod's network was deferred; an empty sentence is nothing to log."""
    if sentence:
        log.warning("network.deferred", extra={"error": sentence})


def _leave(directory: str) -> None:
    """Do nothing about what could not be removed: the next daemon cleans it up."""


def _stay(pod: "LivePod") -> None:
    """Do nothing about a pod whose container has ended: who made it decides."""


class Tools(NamedTuple):
    """The host, the starter of VMs, and how long a guest may take to boot and to answer a call.

    `pool` runs what waits for CNI plugins or for systemd (None: the loop's own), so that those that hang delay only
    other pods that wait for them; and since it is small, concurrent pods queue instead of contending for the lock of
    the packet filter's rules. `bulk` runs work that moves as much as a guest or a disk has, or waits for a VMM that
    does: few at a time, and all other threads stay free for other pods. `events` gets the events (None: no
    subscriber). `loop_budget` is shared by the links of all pods. A guest that another daemon has left gets
    `adopt_timeout_s` to answer the next one, and any guest `react_s` to carry out a stop. `storage` limits how much
    pods may write (None: no limit). `hooks` may adjust or refuse operations. `clean_up_later` takes the directory of
    a pod that failed and could not be removed at once. `consoles` keeps the VMs' consoles short. `recorder` counts
    for metrics. `templates` are what VMs can be copies of (None: all boot). `container_ended` gets the pod of each
    container that ended.
    """

    host: "Host"
    vmm: "Vmm"
    consoles: "Consoles"
    boot_timeout_s: float = 60.0
    call_timeout_s: float = CALL_S
    pool: "Executor | None" = None
    bulk: "Bulk | None" = None
    events: "Bus | None" = None
    loop_budget: "LoopBudget | None" = None
    adopt_timeout_s: float = 10.0
    storage: "Storage | None" = None
    hooks: Hooks = Hooks()
    react_s: float = REACT_S
    clean_up_later: "Callable[[str], None]" = _leave
    recorder: Recorder = Recorder()
    templates: "Templates | None" = None
    container_ended: "Callable[[LivePod], None]" = _stay

    async def run_in_bulk(self, work: "Callable[P, T]", /, *args: "P.args", **options: "P.kwargs") -> "T":
        """Like `run_uncancellable`, by `bulk`."""
        return await (self.bulk.run if self.bulk else run_uncancellable)(work, *args, **options)

    def pool_of(self, pod: "Pod") -> "Executor | None":
        """The executor in which the pod's VM is moved to its cgroups: for a scope, systemd is waited for."""
        return self.pool if self.host.has_scopes and pod.cgroup_parent else None
