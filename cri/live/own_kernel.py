# SPDX-License-Identifier: Apache-2.0
"""Stands in for the agent of a pod whose VM boots a kernel out of an image: answers what the pod asks its agent.

Made when such a container is created (`take_over`), and when a restarted daemon adopts such a pod. Starts and ends the
VM of the pod's only container, and copies its serial port to the log. Requests that need an agent are refused.
docs/design/own-kernels.md has the reasons.
"""

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cri.live import vm_end
from cri.loop_budget import LoopBudget
from cri.threads import is_set_within, obtained, run_uncancellable, run_uncancellable_in
from stage1 import engine, own
from stage1.errors import KernelError, NotFound, PodError, Unsupported, WrongState
from stage1.guest import messages
from stage1.linux import beneath, files, process
from stage1.linux.inotify import Watch
from stage1.linux.process import PidHandle
from stage1.own import GUEST_PANIC, REASONS
from stage1.pod import own_command_line, own_kernel
from stage1.pod.own_values import Asked
from stage1.rootfs import export
from stage1.vm.own_machine import BEGIN, TRACE

if TYPE_CHECKING:
    from cri.consumers import Consumer
    from cri.live.container import LiveContainer
    from cri.live.pod import LivePod
    from stage1.vm.vmm import VmProcess

log = logging.getLogger("clearpod.pod")

KILLED = 128 + process.SIGKILL
"""Exit code of a VM that was killed."""
UNSEEN = "its kernel ended while no daemon was running, so its exit code is unknown"
LAST_WORD_S = 1.0
"""How long to wait for the reason of QEMU's end, after it has ended."""
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Asking for the end, beside the container's own stop signal. Others mean nothing to a kernel."""
_SENTENCES = {
    own_kernel.RESET_CODE: "its kernel reset the machine instead of powering it off, as after a panic",
    own_kernel.PANIC_CODE: "its kernel has panicked; see its log",
}
NO_AGENT = "runs a kernel of its own, without an agent"


class OwnKernel:
    """The interface of `cri.agent.Agent`, as far as a pod uses it. `pod` is the one that it is for."""

    def __init__(self, pod: "LivePod") -> None:
        self._pod = pod
        self._consumers: dict[int, Consumer] = {}
        self._run: Run | None = None
        self._containers: dict[str, messages.Container] = {}
        self._answers: dict[type, Callable[[Any], Awaitable[messages.Reply]]] = {
            messages.List: self._list,
            messages.Create: self._create,
            messages.Start: self._start,
            messages.Signal: self._signal,
            messages.Delete: self._delete,
            messages.Shutdown: self._shutdown,
            messages.Stats: self._stats,
        }

    # -- as an agent ---------------------------------------------------------------------------------------------

    async def call(
        self, op: messages.Op, *, timeout_s: float, is_awaited: Callable[[], bool] = lambda: True
    ) -> messages.Reply:
        """Carry out a request without an agent; one that has begun is always wanted. Raises Unsupported for what only
        an agent can do, and what starting a VM does.
        """
        if isinstance(op, messages.Exec | messages.Connect | messages.Update):
            raise Unsupported(f"{self._pod.title} {NO_AGENT}: {type(op).__name__.lower()} is not possible")
        answer = self._answers.get(type(op))
        return await answer(op) if answer else messages.Reply()

    def listen(self, stream: int, consumer: "Consumer") -> None:
        """Like `Agent.listen`."""
        self._consumers[stream] = consumer

    def forget(self, stream: int) -> None:
        """Like `Agent.forget`."""
        self._consumers.pop(stream, None)

    def open_input(self, stream: int) -> None:
        """Does nothing: such a kernel has no input."""

    def consumed(self, stream: int, count: int) -> None:
        """Like `Agent.consumed`."""
        if self._run is not None and self._run.follower is not None:
            self._run.follower.consumed(count)

    def send(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """Discard input: such a kernel has none."""
        return len(data)

    async def send_all(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Like `send`."""

    def rename(self, name: str) -> None:
        """Ignored: the pod's name is set already."""

    def lose(self, why: str) -> None:
        """Do nothing: there are no pending answers."""

    async def drain(self, timeout_s: float) -> None:
        """The end of the kernel has done that."""

    async def close(self) -> None:
        """Detach from the VM, which keeps running for the next daemon."""
        if self._run is not None:
            await self._run.close()

    # -- what is asked -------------------------------------------------------------------------------------------

    async def _list(self, op: messages.List) -> messages.Reply:
        running = self._run.container.id if self._run else ""
        listed = (
            one._replace(state=messages.RUNNING if one.id == running else messages.CREATED)
            for one in self._containers.values()
        )
        return messages.Reply(containers=tuple(listed))

    async def _create(self, op: messages.Create) -> messages.Reply:
        self._containers[op.id] = messages.Container(op.id, messages.CREATED, op.stdio)
        return messages.Reply()

    async def _start(self, op: messages.Start) -> messages.Reply:
        container = self._known(op.id)
        if self._run is not None:
            raise WrongState(f"{self._pod.title} runs a kernel of its own already")
        pod, record = self._pod, container.record
        process = record.container.process
        boot = own.Boot(record.kernel, export.image_name(record.image_id), Asked(process.argv, process.env))
        run = pod.tools.run_in_bulk if record.kernel.block else run_uncancellable  # since that is copied
        left_out = len(process.env) - len(own_command_line.without_services(process.env))
        log.info("container.own_kernel", extra={**pod.log_fields(container), "variables_left_out": left_out})
        prepared = await run(own.prepare, pod.record.pod, pod.tools.host, boot=boot, network=pod.network)
        vm, _ = await run_uncancellable_in(pod.tools.pool_of(prepared.pod), engine.boot, prepared, pod.tools.vmm)
        await self._watch(vm, container, is_new=True)
        with suppress(PodError):  # where its processors are does not keep it from running
            await pod.bind_cpus(anew=True)
        return messages.Reply(pid=vm.pid)

    async def _signal(self, op: messages.Signal) -> messages.Reply:
        run = self._run
        if run is None or run.container.id != op.container:
            raise WrongState(f"container {op.container} has ended")
        asks = (run.container.record.container.stop_signal, *_ENDING)
        if op.signal == process.SIGKILL or (op.signal in asks and not (run.has_button and not run.monitor.is_cut)):
            await run.kill()
        elif op.signal in asks:
            run.monitor.power_down()
        return messages.Reply()

    async def _delete(self, op: messages.Delete) -> messages.Reply:
        if self._run is not None and self._run.container.id == op.id:
            await self._run.kill()
            await self._run.over.wait()
        if self._containers.pop(op.id, None) is None:
            raise NotFound(f"there is no container {op.id}")
        return messages.Reply()

    async def _shutdown(self, op: messages.Shutdown) -> messages.Reply:
        if self._run is not None:
            await self._run.kill()
            await self._run.over.wait()
        self._pod.mark_dead(f"{self._pod.title} was stopped")
        return messages.Reply()

    async def _stats(self, op: messages.Stats) -> messages.Reply:
        run, pod = self._run, self._pod
        if run is None:
            return messages.Reply(pod=messages.PodStats(time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
        taps = tuple(one.tap for one in pod.network.interfaces) if pod.network else ()
        counted = await asyncio.to_thread(own.numbers, pod.directory, run.vm.pid, devices=taps)
        one = messages.ContainerStats(
            run.container.id, counted.at_ns, counted.cpu, counted.memory, counted.threads, processes=1
        )
        return messages.Reply(stats=(one,), pod=counted)

    # -- the VM --------------------------------------------------------------------------------------------------

    def _known(self, container_id: str) -> "LiveContainer":
        container = self._pod.containers.get(container_id)
        if container is None or container_id not in self._containers:
            raise NotFound(f"there is no container {container_id}")
        return container

    async def _watch(self, vm: "VmProcess", container: "LiveContainer", *, is_new: bool) -> None:
        run = self._run = Run(self._pod, vm, container)
        self._pod.vm = vm
        await run.begin(self._consumers.get(container.record.stdout), self._ended, is_new=is_new)

    def _ended(self, run: "Run", code: int | None) -> None:
        """The VM has ended, and its log has all of it; how is not known without a code."""
        pod, self._run = self._pod, None
        pod.vm = None
        for stream in filter(None, (run.container.record.stderr,)):  # it has no such output: report its end
            if consumer := self._consumers.get(stream):
                consumer.feed(b"", seq=run.container.log.seq + 1, end=True)
                consumer.commit()
        if code is None:
            run.container.lost(UNSEEN)
            pod.save_soon()
        else:
            exited = messages.Exited(run.container.id, 0, code, unix_ns=time.time_ns())
            run.container.exited(exited, pod.save_soon)
        if not pod.is_ready:
            pod.mark_dead(f"the virtual machine of {pod.title} has ended")

    # -- adoption ------------------------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Adopt from the previous daemon: the VM, running or not, belongs to the one container that was running. If
        the container was just being started, or the guest just being shut down, the VM is ended.
        """
        pod = self._pod
        vm = await asyncio.to_thread(engine.find_vm, pod.directory)
        for one in pod.containers.values():
            stdio = messages.Stdio(stdout=one.record.stdout)
            self._containers[one.id] = messages.Container(one.id, messages.CREATED, stdio)
            for stream, consumer in one.consumers(self.consumed).items():
                self.listen(stream, consumer)
        running = [one for one in pod.containers.values() if one.is_running]
        if vm is not None and running:
            await self._watch(vm, running[0], is_new=False)
        elif vm is not None:
            await asyncio.to_thread(vm.kill)
            await pod.end_rest()


class Run:
    """One VM with a kernel of its own, from its start to its end. `over` is set at the end."""

    def __init__(self, pod: "LivePod", vm: "VmProcess", container: "LiveContainer") -> None:
        self.vm, self.container, self.over = vm, container, asyncio.Event()
        self.has_button = own.has_power_off(container.record.kernel, pod.tools.host.choice.hypervisor)
        self.monitor = Monitor(f"{pod.directory}/{own.MONITOR}")
        self.follower: Follower | None = None
        self._pod, self._was_killed, self._is_held = pod, False, False
        self._has_monitor = pod.tools.host.choice.hypervisor.boots_all_kernels
        self._task: asyncio.Task[None] | None = None

    async def begin(
        self, consumer: "Consumer | None", ended: "Callable[[Run, int | None], None]", *, is_new: bool
    ) -> None:
        """Follow it; at its end call `ended` with the container's exit code. One that `is_new` begins here."""
        pod = self._pod
        budget = pod.tools.loop_budget or LoopBudget()
        if consumer is not None:
            offset = self.container.log.seq
            self.follower = Follower(pod.directory, own.SERIAL, offset=offset, consumer=consumer, budget=budget)
            try:
                await self.follower.begin()
            except (FileNotFoundError, KernelError) as error:
                log.warning("container.log", extra={**pod.log_fields(self.container), "error": str(error)})
                self.follower = None
        is_connected = await self._connect()
        self._is_held = is_new and self._has_monitor and not is_connected
        self.has_button = is_connected and self.has_button
        self._task = asyncio.get_running_loop().create_task(self._live(ended), name=f"kernel of {pod.title}")

    async def _connect(self) -> bool:
        """Whether there is a monitor to press the button."""
        return self._has_monitor and await self.monitor.open()

    async def kill(self) -> None:
        """End it at once. Raises VmFailed."""
        self._was_killed = True
        await asyncio.to_thread(self.vm.kill)

    async def close(self) -> None:
        """Stop following the VM, which continues to run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self.follower is not None:
            await self.follower.close()
        await self.monitor.close()

    async def _live(self, ended: "Callable[[Run, int | None], None]") -> None:
        handle = await vm_end.opened(self.vm)
        if handle is not None:
            if self._is_held:  # otherwise it would never start
                handle.kill()
            serial = self.vm._replace(console=f"{self._pod.directory}/{own.SERIAL}")
            with handle, self._pod.tools.consoles.kept_short(self.vm), self._pod.tools.consoles.kept_short(serial):
                await vm_end.seen(handle)
        await self._pod.end_rest()
        await self.monitor.ended(LAST_WORD_S)
        await self.monitor.close()
        if self.follower is not None:
            await self.follower.finish()
            await self.container.logged(LAST_WORD_S)
        code = await self._code(handle)
        try:
            ended(self, code)
        finally:
            self.over.set()

    async def _code(self, handle: PidHandle | None) -> int | None:
        """The container's exit code; why, if that is no guest's doing, is logged."""
        if self._was_killed:
            return KILLED
        kernel, reason = self.container.record.kernel, await self._reason()
        has_power_off = own.has_power_off(kernel, self._pod.tools.host.choice.hypervisor)
        status = handle.exit_code if handle else None
        code = own.exit_code(kernel, status, reason=reason, has_power_off=has_power_off)
        if code in _SENTENCES and not status:
            self.container.end_message = _SENTENCES[code]
        elif code and code == status:
            await self._explain(code, handle)
        return code

    async def _reason(self) -> str:
        """The reason that QEMU has reported for its end. A reset that follows powering off at once does not count."""
        reason = self.monitor.reason
        if reason == own.GUEST_RESET and TRACE in await asyncio.to_thread(self.vm.console_tail, vm_end.CONSOLE_LINES):
            return own.GUEST_SHUTDOWN
        return reason

    async def _explain(self, code: int, handle: PidHandle | None) -> None:
        """Log what the hypervisor has reported, and keep it for the container's status."""
        await vm_end.sentence(self.vm, handle, title=self._pod.title)
        last = await asyncio.to_thread(self.vm.console_tail, vm_end.CONSOLE_LINES)
        log.warning("container.kernel", extra={**self._pod.log_fields(self.container), "code": code, "error": last})
        why = last.strip() or "it gave no reason"
        self.container.end_message = f"its virtual machine ended with {code}: {why}"


async def take_over(pod: "LivePod") -> None:
    """End the pod's guest, if it still has one: from now on its VM is the container's. Raises VmFailed, KernelError."""
    if pod.status.is_own:
        return
    pod.status = pod.status._replace(is_own=True)
    pod.save()
    await pod.part_from_guest(OwnKernel(pod))
    await run_uncancellable(own.end_guest, pod.directory)
    log.info("pod.own_kernel", extra=pod.log_fields())


# -- The serial port ---------------------------------------------------------------------------------------------------
# A file that the VMM appends to; it is copied into the container's log. The offset behind the copied part is the
# sequence number of the log's commit record, so the next daemon continues there. The copied part is freed (a hole);
# output that arrives faster than the log takes it is kept up to the limit in `live.consoles`.


CHUNK_BYTES = 65536
UNTAKEN_BYTES = 1 << 18
"""Of what was fed and the log, or who is attached, has not taken."""
GATHER_S = 0.01
"""A serial port is written a byte at a time: so long several make one chunk."""
POLL_S = 0.2
"""The poll interval if the host has no inotify watches left."""
REST_S = 5.0
"""How long the end of a kernel waits for a log that does not accept its last output."""


class Follower:
    """Follows the file `name` in the pod's `directory` from `offset` on, until `finish` or `close`."""

    def __init__(self, directory: str, name: str, *, offset: int, consumer: "Consumer", budget: "LoopBudget") -> None:
        self._directory, self._name, self._offset = directory, name, offset
        self._consumer, self._budget = consumer, budget
        self._untaken = 0
        self._taken, self._written, self._is_over = asyncio.Event(), asyncio.Event(), False
        self._fd = -1
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Open the file, and follow it in a task. Raises FileNotFoundError, KernelError."""
        self._fd = await obtained(self._open, os.close)
        with suppress(PodError):
            self._watch = await obtained(lambda: Watch(self._fd), Watch.close)
        if self._watch is not None:
            asyncio.get_running_loop().add_reader(self._watch.fileno(), self._notice, self._watch)
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"serial port of {self._directory}")

    def _open(self) -> int:
        with beneath.Root(self._directory) as own:
            return own.open(self._name, os.O_RDWR)

    def _notice(self, watch: Watch) -> None:
        watch.clear()
        self._written.set()

    def consumed(self, count: int) -> None:
        """Note that this many bytes were processed."""
        self._untaken -= count
        self._taken.set()

    async def finish(self) -> None:
        """The writer has ended: read the rest, and close the log. Never raises."""
        self._is_over = True
        self._written.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=REST_S)
        await self.close()
        self._consumer.feed(b"", seq=self._offset + 1, end=True)
        self._consumer.commit()

    async def close(self) -> None:
        """End; what was not fed is for the next daemon. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _follow(self) -> None:
        while True:
            self._written.clear()
            is_last = self._is_over
            has_more = await self._feed_some()
            if is_last and not has_more:
                return
            if not has_more:
                await is_set_within(None if self._watch else POLL_S, self._written)
            await asyncio.sleep(0 if self._is_over else GATHER_S)

    async def _feed_some(self) -> bool:
        """One chunk; false when there is none."""
        while self._untaken >= UNTAKEN_BYTES:
            self._taken.clear()
            await self._taken.wait()
        await self._budget.begin()
        begun_s = asyncio.get_running_loop().time()
        try:
            data = self._read()
            if data:
                self._offset += len(data)
                self._untaken += len(data)
                self._untaken -= self._consumer.feed(data, seq=self._offset, end=False)
                self._consumer.commit()
                if self._offset // CHUNK_BYTES != (self._offset - len(data)) // CHUNK_BYTES:
                    files.forget_before(self._fd, self._offset)
        finally:
            self._budget.spend(asyncio.get_running_loop().time() - begun_s)
        return bool(data)

    def _read(self) -> bytes:
        """The next bytes; those that were truncated meanwhile are skipped."""
        try:
            self._offset = max(self._offset, os.lseek(self._fd, self._offset, os.SEEK_DATA))
        except OSError:  # ENXIO: nothing is there yet
            return b""
        return os.pread(self._fd, CHUNK_BYTES, self._offset)


# -- QEMU's own socket -------------------------------------------------------------------------------------------------
# By QMP the daemon presses the guest's power button, and reads why the guest ended. QEMU may be under the control of
# its guest, and even an intact QEMU can be made to send some events endlessly, such as for a removed processor: lines
# are limited, unknown events are ignored, and a monitor that sends too much is disconnected.


LINE_BYTES = 65536
CONNECT_S = 10.0
BURST_BYTES, BYTES_PER_S = 65536, 1024
"""How many bytes of events are accepted, and in what time: an event has some 150 bytes, and most guests cause a few
in their life.
"""


class Monitor:
    """One connection, made by `open`. `reason` is why the VM ended, one of `own.REASONS`, once the guest has ended it;
    `is_cut` when it has sent too much, and the guest's power button can't be pressed any more.
    """

    def __init__(self, path: str) -> None:
        self._path, self.reason, self.is_cut = path, "", False
        self._event_bytes, self._counted_s = 0.0, 0.0
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> bool:
        """Connect, best-effort, and start the VM if it waits; return whether that succeeded. Without a connection there
        are no commands, and only exit codes tell how the VM ended.
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                with await obtained(beneath.Socket, beneath.Socket.close, self._path) as address:
                    reader, self._writer = await asyncio.open_unix_connection(address, limit=LINE_BYTES)
        except (OSError, PodError, TimeoutError) as error:
            log.warning("pod.monitor", extra={"socket": self._path, "error": str(error)})
            return False
        for command in BEGIN:
            self._send(command)
        self._task = asyncio.get_running_loop().create_task(self._listen(reader), name=f"monitor {self._path}")
        return True

    def power_down(self) -> None:
        """Press the power button; what the guest does then is its own choice."""
        self._send("system_powerdown")

    async def ended(self, limit_s: float) -> None:
        """Read QEMU's events until it closes the connection, at most so long."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=limit_s)

    async def close(self) -> None:
        """Hang up. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _send(self, command: str) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps({"execute": command}).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while line := await self._line(reader):
                self._take(line)
                if self._is_over(len(line)):
                    self._cut()
                    return

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readline()
        except ValueError:  # it is beyond the limit
            self._cut()
            return b""

    def _is_over(self, event_bytes: int) -> bool:
        now_s = asyncio.get_running_loop().time()
        forgiven = (now_s - self._counted_s) * BYTES_PER_S
        self._event_bytes = max(self._event_bytes - forgiven, 0) + event_bytes
        self._counted_s = now_s
        return self._event_bytes > BURST_BYTES

    def _cut(self) -> None:
        """QEMU keeps nothing for a client that is gone; for a slow one it would, without end."""
        log.warning("pod.monitor", extra={"socket": self._path, "error": "it was disconnected, since it sent too much"})
        self.is_cut = True
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _take(self, line: bytes) -> None:
        try:
            message: Any = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return
        if message.get("event") == "GUEST_PANICKED":  # which may reset as well
            self.reason = GUEST_PANIC
        elif message.get("event") == "SHUTDOWN" and isinstance(data := message.get("data"), dict):
            reason = data.get("reason")
            self.reason = self.reason or (reason if reason in REASONS else "")
