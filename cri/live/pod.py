# SPDX-License-Identifier: Apache-2.0
"""One live pod: its VM, the link to its agent, its containers, and its file.

Made by the table and the pool. One task of its own waits for the VM's end, which may come at any moment; everything
else happens in the calls that ask for it, ordered by locks. Not here: its start (`boot`) and its orderly end
(`shutdown`), what is done with single containers (`cri.containers`), and what a restarted daemon does (`cri.pods`).
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import TypeVar

from cri import events
from cri.agent import Agent, Identity
from cri.consumers import Discarded
from cri.live import changes, vm_end
from cri.live.activation import Activation
from cri.live.changes import StateSaver
from cri.live.container import LiveContainer
from cri.live.cpus import Cpus
from cri.live.gate import Gate
from cri.live.guest import GuestNames, first_hello
from cri.live.images import PodImages
from cri.live.loopback import LoopbackPorts
from cri.live.own_kernel import OwnKernel
from cri.live.tools import Tools
from cri.pb import runtime_pb2 as pb
from cri.pending import Pending
from cri.recorder import EXITS, LINK_CUTS, POD_DEATHS
from cri.statistics.meter import Meter
from cri.store import history
from cri.store import pods as store
from cri.store.pods import Parsed
from cri.threads import retry_while_exhausted, run_uncancellable_in
from cri.vsock import VsockPort
from stage1 import engine
from stage1.errors import PodError, VmFailed, WrongState
from stage1.guest import messages
from stage1.guest.frame import START
from stage1.pod import states
from stage1.pod.network import PodNetwork
from stage1.vm.spec import Link
from stage1.vm.vmm import VmProcess

log = logging.getLogger("clearpod.pod")


Result = TypeVar("Result")

IDS_AT_ONCE = 1024
"""Ids are claimed in the file in portions, so that most calls do not write it."""
DRAIN_S = 1.0
"""How long data that a VMM had sent before its end is processed."""


class Leaving:
    """Containers that a client has removed and whose remains are still in the guest and on the host, by id. `due` is
    set while somebody waits for the end of `tasks`, which clear them away (`cri.containers.leaving`).
    """

    def __init__(self) -> None:
        self.containers: dict[str, LiveContainer] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.due = asyncio.Event()


class LivePod:
    """`gone` is set once the VM has ended and all waiters were woken; `adopted` is not set while a restarted daemon is
    adopting the pod. `held` is why its VM is stopped, or saved and ended (`is_suspended`); empty when it runs.
    `console_tail` is the console of a VM whose pod could not be started. `gate` knows who uses the pod. `is_going` is
    true from the beginning of a stop or removal on.
    """

    def __init__(self, record: store.PodRecord, tools: Tools, port: VsockPort) -> None:
        self.record, self.tools, self.status = record, tools, store.PodState(ids=IDS_AT_ONCE)
        self.containers: dict[str, LiveContainer] = {}
        self.leaving = Leaving()
        self.names, self.gate = GuestNames(self.containers, self.leaving.containers), Gate()
        self.execs = Pending[messages.Exited]()
        self.cpus, self.is_going = Cpus(), False
        self.directory = engine.pod_directory(tools.host, record.pod.id)
        self.files = store.PodFiles(self.directory)
        self.gone, self.adopted = asyncio.Event(), asyncio.Event()
        self.adopted.set()
        self.adopting: asyncio.Timeout | None = None
        self.boot_ms, self.held, self.console_tail, self.is_suspended = 0, "", "", False
        self.hello, self._config = messages.Hello(), Parsed(pb.PodSandboxConfig.FromString)
        self.vm: VmProcess | None = None
        self.network: PodNetwork | None = None
        self.meter = Meter(self.call, self.containers, self._note_disk)
        self.images, self.loopback, self.activation = self._images(), LoopbackPorts(self.title), Activation(self.title)
        self._agent: Agent | OwnKernel | None = None
        self._port, self._saver, self._unknown_ends, self.unused_id = port, StateSaver(self.save, self.title), 0, 1
        self.epoch = secrets.randbits(63) | 1  # of this process, and never 0: docs/dev/link.md
        self._task: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The pod's id, 64 hexadecimal digits."""
        return self.record.pod.id

    @property
    def config(self) -> pb.PodSandboxConfig:
        """The request by which the pod was created; not to be changed."""
        return self._config.get(self.record.config)

    @property
    def ips(self) -> tuple[str, ...]:
        """The pod's IP addresses, the primary one first."""
        return self.network.ips if self.network else ()

    @property
    def is_ready(self) -> bool:
        """Whether containers can be made in it."""
        return self.status.state == states.READY and not self.status.why and not self.is_going

    @property
    def title(self) -> str:
        """The pod's display name."""
        return f"pod {self.record.pod.namespace}/{self.record.pod.name}"

    def log_fields(self, container: LiveContainer | None = None) -> dict[str, str]:
        """The fields of each log line about the pod, or about this container of it."""
        fields = {"pod": self.id, "title": self.title}
        names = {"container": container.id, "container_name": container.record.container.name} if container else {}
        return fields | names

    # -- life ------------------------------------------------------------------------------------------------

    def rebind(self, record: store.PodRecord, tools: Tools) -> None:
        """A prewarmed VM was claimed: it is the pod of `record`, whose id is this one's, from now on."""
        self.record, self.tools = record, tools
        self.images, self.loopback = self._images(), LoopbackPorts(self.title)
        self.agent.rename(self.title)
        self.status = self.status._replace(history=())

    async def detach(self, dead: str = "") -> None:
        """Close the link, logs and tasks, and leave the VM as it is; `dead` is why it has ended, if it has."""
        await self.meter.close()
        await self.gate.cancel_background()
        self.loopback.close()
        self.activation.close()
        self._saver.close()
        if self._agent is not None:
            await self._agent.close()
        for task in (self._serving, self._task):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if dead:
            self.mark_dead(dead)
        for container in (*self.containers.values(), *self.leaving.containers.values()):
            container.log.close()

    # -- for the operations on containers --------------------------------------------------------------------

    async def call(
        self, op: messages.Op, timeout_s: float = 0, *, is_awaited: Callable[[], bool] = lambda: True
    ) -> messages.Reply:
        """Ask the pod's agent. Raises as `Agent.call` does, and WrongState when the pod has no VM."""
        limit_s = timeout_s or self.tools.call_timeout_s
        async with self.gate.asking(op):
            reply = await self.agent.call(self.names.to_guest(op), timeout_s=limit_s, is_awaited=is_awaited)
        return self.names.from_guest(reply)

    @property
    def agent(self) -> "Agent | OwnKernel":
        """The link's client; only for a pod that was booted."""
        if self._agent is None:
            raise WrongState(self.held or f"{self.title} has no running VM")
        return self._agent

    async def part_from_guest(self, successor: OwnKernel) -> None:
        """The guest is about to be ended and the pod stays: `successor` answers from now on."""
        await self.part()
        self._agent, self.vm = successor, None

    def begin_suspension(self, why: str) -> None:
        """Mark the pod suspended: requests for it are refused with `why`. Undo: `end_suspension`."""
        self.is_suspended, self.held = True, why

    def end_suspension(self) -> None:
        """Mark the pod not suspended: it is about to run again, or has ended."""
        self.activation.close()
        self.is_suspended, self.held = False, ""

    async def part(self) -> None:
        """Neither talk to the guest nor wait for its end from now on."""
        former, watching = self._agent, self._task
        self._agent, self._task = None, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})
        if former is not None:
            await former.close()

    def forget(self, stream: int) -> None:
        """Drop the stream: what still comes on it is discarded."""
        if self._agent is not None:
            self._agent.forget(stream)

    def note(self, what: history.Fact) -> None:
        """Remember that it happened; it is in the file with what is saved next."""
        self.status = self.status._replace(history=history.added(self.status.history, what))

    def tell(self, kind: int, subject: str = "") -> None:
        """Publish an event of the container `subject`, or of the pod itself."""
        if container := self.containers.get(subject):
            self._take_state(container, kind)
            fields, is_ending = self.log_fields(container), self.status.state == states.STOPPING
            changes.log_change(container, kind, fields=fields, is_ending=is_ending)
        elif subject and kind == events.DELETED:
            log.info("container.removed", extra={**self.log_fields(), "container": subject})
        if self.tools.events is not None:
            self.tools.events.publish(events.Event(kind, self, subject or self.id))
        self.tools.hooks.notify(kind, self, subject=subject or self.id)

    def _take_state(self, container: LiveContainer, kind: int) -> None:
        if fact := changes.container_fact(container, kind):
            self.note(fact)
        if kind == events.STARTED:
            self.meter.begin()
        elif kind == events.STOPPED:
            self.tools.recorder.count(EXITS, container.status.reason)
            self.tools.container_ended(self)
            if container.status.exit_code and self.is_ready:
                self.meter.current()  # its disk may be full, which is noted

    def _note_disk(self, numbers: messages.PodStats) -> None:
        if new := changes.disk_fact(self.status.history, numbers):
            self.note(new)
            self.save_soon()
            level = logging.WARNING if new.what == history.FULL else logging.INFO
            log.log(level, "pod.disk", extra={**self.log_fields(), "error": new.text})

    def require_ready(self) -> None:
        """Raise WrongState unless the pod is READY."""
        if not self.is_ready:
            state = "it is being stopped" if self.is_going and self.status.state == states.READY else self.status.state
            why = f": {self.status.why}" if self.status.why else ""
            raise WrongState(f"{self.title} is not ready ({state}){why}; make a new sandbox")
        if self.is_suspended:
            raise WrongState(self.held)

    async def bind_cpus(self, *more: store.ContainerRecord, anew: bool = False) -> None:
        """Bind the VM to the processors of its containers, with `more` that are about to be made or changed. Raises as
        `Cpus.bind`.
        """
        living = (one.record for one in self.containers.values() if one.status.state != states.EXITED)
        if self.vm is not None and not self.record.pod.host:
            records = {one.container.id: one for one in (*living, *more)}
            await self.cpus.bind(self.vm, records.values(), anew=anew)

    def next_id(self) -> int:
        """A stream or exec id that the guest has never seen."""
        number = self.unused_id
        self.unused_id += 1
        if number > self.status.ids:
            self.status = self.status._replace(ids=number + IDS_AT_ONCE)
            self.save()
        return number

    def save_soon(self) -> None:
        """Save what has happened: now, or as soon as that is possible."""
        self._saver.save_soon()

    def save(self) -> None:
        """Write the pod's file. Raises NoSpace, KernelError: for what can still be given up."""
        containers = tuple(container.stored() for container in self.containers.values())
        self.files.save(store.Stored(self.record, self.status, containers))

    # -- inside ----------------------------------------------------------------------------------------------

    def _images(self) -> PodImages:
        def is_ready() -> bool:
            return self.is_ready

        def records() -> list[store.ContainerRecord | store.SavedContainer]:
            ours = (*self.containers.values(), *self.leaving.containers.values())
            return [*(one.record for one in ours), *self.status.waiting]

        return PodImages(self.record.pod, self.directory, call=self.call, records=records, is_ready=is_ready)

    def move(self, event: str, **changes: bytes) -> None:
        """Take the step that `event` means, and write it down."""
        state = states.move(states.POD_MOVES, self.status.state, event=event)
        self.status = self.status._replace(state=state, **changes)  # type: ignore[arg-type]
        if state in (states.BOOTING, states.READY):
            self.save()
        else:
            self.save_soon()

    async def run_in_pool(self, function: Callable[..., Result], *args: object, **options: object) -> Result:
        """Run what may wait for CNI plugins in the pool that is for it."""
        return await run_uncancellable_in(self.tools.pool, function, *args, **options)

    def watch(self, vm: VmProcess) -> None:
        """Begin to wait for the end of the pod's VM."""
        self.vm = vm._replace(server=())
        self._task = asyncio.get_running_loop().create_task(self._live(vm), name=self.title)
        self._watch_server(vm)

    async def find_server(self) -> None:
        """A container with volumes was made, or could not be: the VM may have a server for them since."""
        if self.vm is not None and not self.vm.server:
            try:
                self._watch_server(await asyncio.to_thread(engine.recorded_vm, self.directory))
            except PodError as error:
                log.error("pod.volumes", extra={"pod": self.id, "title": self.title, "error": str(error)})

    def _watch_server(self, vm: VmProcess | None) -> None:
        """Begin to wait for the end of what serves the VM's volumes, if that runs."""
        if self.vm is None or self.vm.server or vm is None or not vm.server or vm[:2] != self.vm[:2]:
            return
        self.vm = vm
        self._serving = asyncio.get_running_loop().create_task(vm_end.see_server(vm), name=f"volumes of {self.title}")

    async def _live(self, vm: VmProcess) -> None:
        """The pod's own task: wait for the VM's end, then let everybody know."""
        handle = await vm_end.opened(vm)
        if handle is not None:
            with handle, self.tools.consoles.kept_short(vm):
                await vm_end.seen(handle)
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=2 * vm_end.SERVER_S)
        await self.end_rest()
        why = await vm_end.sentence(vm, handle, title=self.title)
        if self._agent is not None:
            await self._agent.drain(DRAIN_S)
            self._agent.lose(why)
        await asyncio.gather(*(container.logged(DRAIN_S) for container in self.containers.values()))
        self.mark_dead(why)

    async def end_rest(self) -> None:
        """Release what a VM that has ended still holds on the host."""
        await self._or_log("pod.rest", engine.end_rest, self.directory)

    async def _or_log(self, event: str, function: Callable[..., None], *args: object) -> None:
        """Run it in a thread, and log a failure as `event`."""
        try:
            await asyncio.to_thread(function, *args)
        except PodError as error:
            log.error(event, extra={"pod": self.id, "title": self.title, "error": str(error)})

    def mark_dead(self, why: str) -> None:
        """Record that the VM has ended and wake all waiters; a failing step does not prevent the others."""
        try:
            self.status = self.status._replace(why=self.status.why or why)
            self.execs.fail(lambda: VmFailed(why))
            for container in self.containers.values():
                self._whatever_happens(container.vm_gone, self.status.why)
            if (was := self.status.state) in (states.READY, states.STOPPING, states.BOOTING):
                self._log_death(was=was)
                self.note(history.Fact(history.ENDED, reason=was, text=self.status.why))
                self._whatever_happens(self.move, "vm_exit")
                if was != states.BOOTING:  # else no client has heard of it
                    self._whatever_happens(self.tell, events.STOPPED)
        finally:
            self.gone.set()

    def _log_death(self, was: str) -> None:
        """An unexpected end is a warning, with the reason."""
        if was == states.STOPPING:
            log.info("pod.dead", extra={**self.log_fields(), "was": was})
            return
        self.tools.recorder.count(POD_DEATHS)
        log.warning("pod.dead", extra={**self.log_fields(), "was": was, "error": self.status.why})

    def _whatever_happens(self, function: Callable[..., None], *args: object) -> None:
        """Run one step of the end of a pod; if it fails, log the error and continue with the other steps."""
        try:
            function(*args)
        except Exception:
            log.exception("pod.dead", extra={"pod": self.id, "title": self.title})

    def expect_end(self, why: str) -> None:
        """The VM is about to be ended for that reason: the pod is not ready from now on."""
        self.status = self.status._replace(why=self.status.why or why)
        log.error("pod.ended", extra={"pod": self.id, "title": self.title, "error": why})
        self.save_soon()

    def _cut_off(self, why: str) -> None:
        """End the VM of a guest that violated the link's protocol: its messages are not trusted any more."""
        self.tools.recorder.count(LINK_CUTS)
        self.expect_end(f"{self.title} was cut off: {why}")
        if self.vm is not None:
            ending = self._or_log("pod.cut", self.vm.kill)
            self._ending = asyncio.get_running_loop().create_task(ending, name=f"end of {self.title}")

    async def meet(self, limit_s: float, first: bytes = START, *, link: Link | None = None) -> None:
        """Wait for the agent's hello, not longer than the VM lives; `first` and `link` are as of `Identity`. Raises
        VmFailed, NotFound.
        """
        known = link if link else await retry_while_exhausted(engine.find_link, self.directory, self.tools.host)
        who = Identity(self.title, known, self.status.link_key, self.epoch, first)
        loop_budget = self.tools.loop_budget
        agent = self._agent = Agent(who, self._exited, port=self._port, loop_budget=loop_budget, broken=self._cut_off)
        for container in self.containers.values():
            for stream, consumer in container.consumers(agent.consumed).items():
                agent.listen(stream, consumer)
        for stream in self.status.unwanted:
            agent.listen(stream, Discarded())
        self.hello = await first_hello(agent, self.gone, vm=self.vm, limit_s=limit_s, title=self.title)

    def _exited(self, event: messages.Exited) -> bool:
        """Take in the end of a process; return whether it is known and had not exited."""
        if event.exec:
            is_known = self.execs.settle(event.exec, event)
        else:
            container = self.names.container(event.container)
            is_known = container is not None and container.exited(event, self.save_soon)
        if is_known:
            return True
        self._unknown_ends += 1
        if self._unknown_ends & (self._unknown_ends - 1) == 0:  # 1, 2, 4, 8, ...: the guest can't fill our log
            log.debug("pod.unknown_end", extra={"pod": self.id, "count": self._unknown_ends})
        return False
