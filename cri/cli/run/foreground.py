# SPDX-License-Identifier: Apache-2.0
"""One pod run in the foreground: booted, its streams and signals passed through, and cleaned up, by this process.

Used by `clearpod run`. The pod is the daemon's own LivePod, in a run directory of its own that no daemon looks at.
Should this process be killed, the kernel kills the VMM with it, and the next `clearpod run` removes the rest.
"""

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from cri.cli.run import claimed_name
from cri.cli.run.standard_streams import Output, Terminal
from cri.containers import create as containers
from cri.containers import start as starts
from cri.live import boot, shutdown
from cri.live.consoles import Consoles
from cri.live.container import LiveContainer
from cri.live.images import Accounts, RootRequest
from cri.live.pod import LivePod
from cri.live.tools import CALL_S, REACT_S, Tools, slowness
from cri.pb import runtime_pb2 as pb
from cri.store.images import Image
from cri.store.pods import ContainerRecord, PodRecord
from cri.translate import container as translated
from cri.translate import own_kernel
from cri.translate.container import Findings
from cri.vsock import VsockPort
from stage1 import engine, garbage
from stage1.errors import PodError, WrongState
from stage1.guest import messages
from stage1.linux.flock import Lock
from stage1.net import neighbours
from stage1.pod import states
from stage1.pod.model import KERNEL_OF_IMAGE
from stage1.pod.own_kernel import OwnKernel
from stage1.rootfs.share import ImageFiles
from stage1.vm.starter import ProcessVmm

CHUNK_BYTES = 16384
CREDIT_RETRY_S = 0.01
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
PATIENCE = 3
"""The third SIGINT or SIGTERM is not passed on: it ends the VM."""
BUTTON_S = 10.0
"""How long a kernel of an image's own may take to power off, as with a stop: it does not choose to go on as a program
may that ignores a signal.
"""

BAR_CHARS = 32


class Timeline:
    """The phases of the pod's start, in milliseconds since the process began; `text` draws them, one line each."""

    def __init__(self, start_s: float) -> None:
        """Marks are relative to `start_s`, of time.monotonic."""
        self._start_s = start_s
        self._marks: list[tuple[float, str]] = []
        self._notes: list[str] = []

    def mark(self, what: str) -> None:
        """Note that `what` was reached now."""
        self._marks.append(((time.monotonic() - self._start_s) * 1000, what))

    def note(self, text: str) -> None:
        """A line below the table, for times of other clocks."""
        self._notes.append(text)

    def text(self) -> str:
        """The table: when, how long since the line before, a bar in proportion, what."""
        total_ms = max((at_ms for at_ms, _ in self._marks), default=1.0)
        lines = [f"{'at ms':>9} {'took ms':>9}  {'':{BAR_CHARS}}  reached"]
        before_ms = 0.0
        for at_ms, what in self._marks:
            left, right = (round(x / total_ms * BAR_CHARS) for x in (before_ms, at_ms))
            bar = " " * min(left, BAR_CHARS - 1) + "#" * max(1, right - left)
            lines.append(f"{at_ms:9.1f} {at_ms - before_ms:9.1f}  {bar:{BAR_CHARS}}  {what}")
            before_ms = at_ms
        return "\n".join([*lines, *self._notes]) + "\n"


class Foreground:
    """Runs one container in a pod of its own."""

    def __init__(self, host: engine.Host, record: PodRecord, timeline: Timeline, *, boot_timeout_s: float) -> None:
        self._port = VsockPort(0)
        port = self._port.listen() if host.choice.hypervisor.uses_vsock else 0
        self._host = _apart(host)._replace(vsock_port=port)
        self._timeline = timeline
        vmm = ProcessVmm(ends_with_us=True)
        slow = slowness(self._host)
        tools = Tools(self._host, vmm, Consoles(), boot_timeout_s, call_timeout_s=CALL_S * slow, react_s=REACT_S * slow)
        self._pod = LivePod(record, tools, self._port)
        self._outputs: list[Output] = []
        self._asked_to_end = 0
        self._left_alone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, image: Image, files: ImageFiles, *, config: pb.ContainerConfig) -> int:
        """Run the container of `config`; its image has the files `files`.

        The container's exit code, 128 + signal when it was killed. Raises AlreadyExists when another pod in the
        foreground has its name, PodError when it can't be run.
        """
        collect_garbage(self._host)
        async with AsyncExitStack() as undo:
            undo.callback(self._port.close)
            if self._host.network:
                undo.callback(neighbours.remove_unused)
            name = self._pod.record.pod.name
            undo.enter_context(claimed_name.claimed(self._host.run_dir, name, pod_id=self._pod.id))
            undo.enter_context(_hold(self._host, self._pod.id))
            undo.callback(_forget_lock, self._host, self._pod.id)
            self._timeline.mark("ready to boot")
            kernel = own_kernel.of(image, self._pod.config.annotations, config.annotations)
            is_own = kernel.path or self._pod.record.pod.kernel == KERNEL_OF_IMAGE
            await (boot.without_guest if is_own else boot.boot)(self._pod)
            undo.push_async_callback(shutdown.remove, self._pod)
            self._say_booted()
            containers.require_alone(self._pod, kernel, image=image.title)
            container = await self._create(image, files, config=config, kernel=kernel)
            self._timeline.mark("container created: its image is mounted in the guest")
            terminal = undo.enter_context(Terminal(container.record.container.process.tty))
            await starts.start(self._pod, container)
            self._pass_signals(
                container
            )  # until now a signal rolls everything back, since no container could handle it
            self._timeline.mark("container started")
            for pump in (self._feed(container), self._resize(container, terminal)):
                undo.callback(asyncio.ensure_future(pump).cancel)
            await self._end_of(container)
            self._timeline.mark("container exited")
        self._timeline.mark("everything is removed")
        _explain(container)
        return container.status.exit_code

    async def _end_of(self, container: LiveContainer) -> None:
        """Wait for it, and until its output is written. Raises what made the output impossible."""

        async def whole() -> None:
            await container.ended.wait()
            for output in self._outputs:
                await output.drained()

        ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(end) for end in (whole(), self._left_alone.wait())]
        faults = [output.fault for output in self._outputs]
        try:
            await asyncio.wait([*ends, *faults], return_when=asyncio.FIRST_COMPLETED)
            for fault in faults:
                if fault.done():
                    fault.result()
        finally:
            for end in ends:
                end.cancel()
            for output in self._outputs:
                output.close()

    async def _create(
        self, image: Image, files: ImageFiles, *, config: pb.ContainerConfig, kernel: OwnKernel
    ) -> LiveContainer:
        images = {config.image.image: image}

        def plan(accounts: Accounts) -> ContainerRecord:
            return translated.record(config, self._pod.record, images=images, findings=Findings(accounts, kernel))

        root_request = RootRequest(image.id, lambda: (files,), plan)
        async with containers.held(self._pod, root_request, kernel=kernel) as root:
            record = root.planned._replace(container=root.planned.container._replace(id="main"))
            container = self._pod.containers[await containers.create(self._pod, record, root=root)]
        streams = {container.record.stdout: 1, container.record.stderr: 2}
        for stream, descriptor in streams.items():
            if stream:
                self._listen(container, stream, descriptor=descriptor)
        return container

    def _listen(self, container: LiveContainer, stream: int, *, descriptor: int) -> None:
        agent = self._pod.agent

        def first() -> None:
            """Forward signals from the first output on: its reader may send one before the answer to the start has been
            recorded.
            """
            self._timeline.mark("first output")
            self._pass_signals(container)

        output = Output(descriptor, stream=stream, consumed=agent.consumed, first=first)
        self._outputs.append(output)
        agent.listen(stream, output)

    def _say_booted(self) -> None:
        hello = self._pod.hello
        if self._pod.status.is_own:
            return
        self._timeline.mark("the guest's agent sent its hello")
        self._timeline.note(
            f"the guest's own clock: kernel to PID 1 {hello.init_ns / 1e6:.1f} ms, PID 1 to agent ready "
            f"{(hello.ready_ns - hello.init_ns) / 1e6:.1f} ms; kernel {hello.kernel}; "
            f"{self._host.choice.hypervisor.name} with {self._host.choice.accel}"
        )

    def _pass_signals(self, container: LiveContainer) -> None:
        loop = asyncio.get_running_loop()

        def passed(number: int) -> None:
            self._asked_to_end += number in (signal.SIGINT, signal.SIGTERM)
            if container.status.state == states.EXITED:
                self._left_alone.set()  # only a reader that does not read delays the end
            if self._asked_to_end == PATIENCE and self._pod.vm is not None:
                sys.stderr.write("clearpod: the container is killed: it was asked to end three times\n")
                self._pod.vm.kill()
                self._left_alone.set()
                return
            if self._asked_to_end == 1 and self._pod.status.is_own:
                loop.call_later(BUTTON_S, self._end_kernel, container)
            task = loop.create_task(self._signal(container, number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        for number in PASSED_ON:
            loop.add_signal_handler(number, passed, number)

    def _end_kernel(self, container: LiveContainer) -> None:
        if container.is_running and self._pod.vm is not None:
            sys.stderr.write(f"clearpod: the kernel is killed: its power button had no effect for {BUTTON_S:g} s\n")
            task = asyncio.get_running_loop().create_task(self._signal(container, signal.SIGKILL))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _signal(self, container: LiveContainer, number: int) -> None:
        try:
            await self._pod.call(messages.Signal(container.id, 0, number, False))
        except PodError as error:
            if container.is_running:
                sys.stderr.write(f"clearpod: signal {number} was not delivered: {error}\n")

    async def _feed(self, container: LiveContainer) -> None:
        """Standard input to the container, until it ends."""
        if not container.record.stdin:
            return
        self._pod.agent.open_input(container.record.stdin)
        while data := await _read_input():
            while data and container.is_running:
                data = data[self._pod.agent.send(container.record.stdin, data) :]
                if data:
                    await asyncio.sleep(CREDIT_RETRY_S)
        self._pod.agent.send(container.record.stdin, b"", end=True)

    async def _resize(self, container: LiveContainer, terminal: Terminal) -> None:
        """The terminal's size now, and each time it changes."""
        async for width, height in terminal.sizes():
            try:
                await self._pod.call(messages.Resize(container.id, 0, width, height))
            except PodError:
                return  # it has ended just now


async def _read_input() -> bytes:
    """The next bytes of standard input; empty at its end. A thread blocked in read could not be ended with us."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(0, ready.set)
    except PermissionError:  # a regular file, which is always ready
        return _read_now()
    try:
        await ready.wait()
    finally:
        loop.remove_reader(0)
    return _read_now()


def _read_now() -> bytes:
    try:
        return os.read(0, CHUNK_BYTES)
    except OSError as error:  # a directory, a terminal that went away: nothing to read there
        sys.stderr.write(f"clearpod: standard input can't be read: {error.strerror}\n")
        return b""


def _explain(container: LiveContainer) -> None:
    """The reason of its end, beyond the exit code."""
    if container.status.reason == "OOMKilled":
        sys.stderr.write("clearpod: the container was killed because its memory was used up; see --memory\n")
    elif container.status.message:
        sys.stderr.write(f"clearpod: {container.status.message}\n")


def _apart(host: engine.Host) -> engine.Host:
    """The same host with our own directories: no daemon takes our pods for its own."""
    network = host.network and host.network._replace(cache_dir=f"{host.network.cache_dir}/run")
    return host._replace(run_dir=f"{host.run_dir}/{engine.FOREGROUND}", network=network)


def _hold(host: engine.Host, pod_id: str) -> Lock:
    """While this is held, the pod is ours; the kernel lets go of it when we die."""
    os.makedirs(f"{host.run_dir}/locks", 0o700, exist_ok=True)
    return Lock(_lock_path(host, pod_id), wait=False)


def _lock_path(host: engine.Host, pod_id: str) -> str:
    return f"{host.run_dir}/locks/{pod_id}"


def _forget_lock(host: engine.Host, pod_id: str) -> None:
    """Remove the lock's file, unless something of the pod stayed: the next run finds it by its lock."""
    if not os.path.exists(engine.pod_directory(host, pod_id)):
        os.unlink(_lock_path(host, pod_id))


def collect_garbage(host: engine.Host) -> None:
    """Remove the pods whose `clearpod run` was killed, remains from before a reboot, and locks that are not held."""
    run_dirs = (host.run_dir, os.path.dirname(host.run_dir))
    for problem in (*garbage.networks(host), *garbage.disks(host, run_dirs=run_dirs)):
        sys.stderr.write(f"clearpod: {problem}\n")
    claimed_name.remove_orphans(host.run_dir)
    try:
        names = os.listdir(f"{host.run_dir}/locks")
    except FileNotFoundError:
        return
    for name in names:
        try:
            with Lock(_lock_path(host, name), wait=False):
                if deferred := engine.clean_up(engine.pod_directory(host, name)):
                    sys.stderr.write(f"clearpod: {deferred}\n")
                os.unlink(_lock_path(host, name))
        except (WrongState, FileNotFoundError):
            continue  # the pod runs, or another process has removed it
        except PodError as error:
            sys.stderr.write(f"clearpod: what an earlier run left could not be removed: {error}\n")
