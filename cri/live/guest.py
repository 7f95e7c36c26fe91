# SPDX-License-Identifier: Apache-2.0
"""What a pod says to its guest's agent as a whole, in addition to what is done with single containers: waiting for its
hello, container ids of a copied guest, limits and vCPUs of the pod, and waking it before it is claimed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from cri.agent import Agent
from cri.live.vm_end import CONSOLE_LINES
from cri.pb import runtime_pb2 as pb
from cri.store.pods import PodRecord
from stage1.errors import PodError, VmFailed
from stage1.guest import messages
from stage1.guest.messages import Hello, Op, Reply, Tune
from stage1.pod.model import DEFAULT_PERIOD_US, Pod
from stage1.vm.vmm import VmProcess

if TYPE_CHECKING:
    from cri.live.container import LiveContainer


# -- The first answer --------------------------------------------------------------------------------------------------


async def first_hello(agent: Agent, gone: asyncio.Event, *, vm: VmProcess | None, limit_s: float, title: str) -> Hello:
    """Open the link; return the agent's hello. Raises VmFailed, with the console's last lines, when the limit is over
    or `gone` is set, which is the end of the VM.
    """
    hello, end = asyncio.ensure_future(agent.open()), asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({hello, end}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not hello.done():
            late = "" if gone.is_set() else f"sent no hello within {round(limit_s, 1):g} s of its start"
            raise VmFailed(await asyncio.to_thread(_silence, vm, late, title=title))
        return hello.result()
    finally:
        hello.cancel()
        end.cancel()


def _silence(vm: VmProcess | None, late: str, *, title: str) -> str:
    """The sentence about a guest without hello; `late` is empty when it has ended. Blocks."""
    console = vm.console_tail(CONSOLE_LINES).strip() if vm else ""
    what = late or "ended before its agent answered"
    return f"the virtual machine of {title} {what}; its console ends with: {console or '(nothing)'}"


# -- Ids of containers -------------------------------------------------------------------------------------------------
# Containers of a copied pod have in its guest the ids of the original, by which mounts, cgroups and crun know them.


_BY_CONTAINER = (messages.Exec, messages.Signal, messages.Resize, messages.Freeze)
_BY_ID = (messages.Create, messages.Start, messages.Delete, messages.Update)


class GuestNames:
    """Translates container ids between us and a copied guest, which knows its containers by the original's ids.
    `containers` are the pod's, `leaving` those that it has no more and its guest still has; both may change.
    """

    def __init__(
        self, containers: "Mapping[str, LiveContainer]", leaving: "Mapping[str, LiveContainer] | None" = None
    ) -> None:
        self._containers, self._leaving = containers, leaving if leaving is not None else {}

    def to_guest(self, op: messages.Op) -> messages.Op:
        """The request as the guest understands it."""
        if isinstance(op, _BY_ID):
            return op._replace(id=self._name(op.id))
        return op._replace(container=self._name(op.container)) if isinstance(op, _BY_CONTAINER) else op

    def from_guest(self, reply: messages.Reply) -> messages.Reply:
        """The reply as we know the containers. An unused name is the name in the guest as well."""
        if not (reply.containers or reply.stats) or not (ours := self._ours()):
            return reply

        def renamed(listed: Any) -> Any:
            return tuple(one._replace(id=ours.get(one.id, one.id)) for one in listed)

        return reply._replace(containers=renamed(reply.containers), stats=renamed(reply.stats))

    def container(self, name: str) -> "LiveContainer | None":
        """The one that the guest calls so."""
        return self._containers.get(self._ours().get(name, name))

    def guests(self) -> set[str]:
        """The guest's names that are not ours."""
        return set(self._ours())

    def _name(self, container_id: str) -> str:
        container = self._containers.get(container_id) or self._leaving.get(container_id)
        return container.record.guest_id or container_id if container else container_id

    def _ours(self) -> dict[str, str]:
        containers = chain(self._containers.values(), self._leaving.values())
        return {one.record.guest_id: one.id for one in containers if one.record.guest_id}


# -- Limits of the whole pod -------------------------------------------------------------------------------------------
# Set at the boot, and when limits change. The values are decided elsewhere.


async def tell_limit(call: Callable[[Op], Awaitable[Reply]], pod: Pod) -> None:
    """Tell a guest that has just booted what the host's cgroup of the pod enforces: else the host's kernel would kill
    the whole VM, whose size is no limit. A sum that may be of only some containers is no limit. Raises as `call`.
    """
    if pod.is_bounded:
        await call(Tune("memory.max", str(pod.limit_bytes)))


def tunes(record: PodRecord) -> tuple[Tune, ...]:
    """All of it, in an order that is the same for every record of the pod. An absent value is no limit."""
    limits = pb.PodSandboxConfig.FromString(record.config).linux.resources
    memory, quota = limits.memory_limit_in_bytes, limits.cpu_quota
    period = limits.cpu_period or DEFAULT_PERIOD_US
    return (
        Tune("memory.max", str(memory) if memory > 0 else "max"),
        Tune("cpu.max", f"{quota} {period}" if quota > 0 else f"max {period}"),
        *((online(record.pod.online_vcpus),) if record.pod.online_vcpus else ()),
    )


def online(vcpus: int) -> Tune:
    """Bring so many vCPUs online."""
    return Tune("cpus", str(vcpus))


# -- A guest of the pool -----------------------------------------------------------------------------------------------
# The first answer of an idle one is slow: its VMM sleeps, and none of its memory is in the processor's caches.


def wakeup_of(call: Callable[[messages.Op], Awaitable[messages.Reply]]) -> Callable[[], None]:
    """A function for any thread that sends the guest a trivial request. It neither waits nor fails: the next real
    request reports an error.
    """
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def ask() -> None:
        try:
            await call(messages.List())
        except PodError:
            pass

    def begin() -> None:
        task = loop.create_task(ask(), name="wake a guest")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def wake() -> None:
        loop.call_soon_threadsafe(begin)

    return wake
