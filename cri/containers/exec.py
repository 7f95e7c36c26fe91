# SPDX-License-Identifier: Apache-2.0
"""A command in a running container: to its end with its output collected (ExecSync), or joined to a client (Exec).

Called by the RPC and by `cri.streaming`. Whatever happens, the process does not outlive the call.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple

from cri.consumers import Consumer
from cri.containers import order
from cri.live.container import LiveContainer
from cri.live.deadlines import limit
from cri.live.pod import LivePod
from cri.output_queue import OutputQueue
from cri.threads import UNDO_S, is_set_within, run_uncancellable
from stage1 import engine
from stage1.errors import AgentFailed, BadRequest, NoCommand, PodError, TimedOut, WrongState
from stage1.guest import messages
from stage1.linux import process

log = logging.getLogger("clearpod.exec")

CAP_BYTES = (16 << 20) - (64 << 10)
"""Both streams together: the reply with its frame must stay below 16 MiB; more is dropped silently."""
CLEAN_UP_S = 5.0
ENDED_S = 0.5
"""How long after crun's error the word of the container's end may come."""


class Output(NamedTuple):
    """The command's output and its exit code (128 + n after signal n)."""

    stdout: bytes
    stderr: bytes
    exit_code: int


class Options(NamedTuple):
    """Options of a command; with a terminal, its errors are part of the output."""

    argv: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


class Capture:
    """A consumer (`cri.consumers.Consumer`) that keeps data in memory, as long as it does not exceed `left`, the bytes
    that both streams of a command may still keep.
    """

    def __init__(self, left: list[int]) -> None:
        self._left, self._parts = left, bytearray()

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """Keep what fits, drop the rest."""
        kept = data[: self._left[0]]
        self._left[0] -= len(kept)
        self._parts += kept
        return len(data)

    def writing(self) -> None:
        """Return None: nothing is written in the background."""

    def commit(self) -> None:
        """Do nothing: an exec ends with the daemon, so its output is not durable."""

    def data(self) -> bytes:
        """Everything kept."""
        return bytes(self._parts)


class Command:
    """A running command. `outputs` has its output by name; `ended` its end, which follows all output; `answer` is the
    guest's reply to the request; once `is_over` nobody waits for it any more.
    """

    def __init__(self, pod: LivePod, container: LiveContainer, *, number: int, stdin: int) -> None:
        self.ended: asyncio.Future[messages.Exited] = asyncio.get_running_loop().create_future()
        self.outputs: dict[str, OutputQueue] = {}
        self.answer: asyncio.Future[messages.Reply] | None = None
        self.pod, self.container, self.number, self._stdin = pod, container, number, stdin
        self.is_over = False

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Give it input. Raises PodError."""
        await self.pod.agent.send_all(self._stdin, data, end=end)

    async def resize(self, width: int, height: int) -> None:
        """Set the size of its terminal, in characters. Raises PodError."""
        await self.pod.call(messages.Resize(self.container.id, self.number, width, height))

    async def exit_code(self) -> int:
        """Wait for its end. Raises VmFailed."""
        return (await asyncio.shield(self.ended)).exit_code


async def run(pod: LivePod, container: LiveContainer, *, argv: tuple[str, ...], timeout_s: float) -> Output:
    """Run `argv` as the container's own process is run, without terminal and with no input; `timeout_s` 0 is
    no limit.

    Raises NoCommand when it can't be run, TimedOut after killing it, WrongState unless the container runs.
    """
    require_running(container, argv)
    left = [CAP_BYTES]
    out, err = Capture(left), Capture(left)
    streams: dict[int, Consumer] = {pod.next_id(): out, pod.next_id(): err}
    stdout, stderr = streams
    stdio = messages.Stdio(stdout=stdout, stderr=stderr)
    try:
        async with asyncio.timeout(timeout_s or None):
            async with _running(pod, container, what=Options(argv), stdio=stdio, consumers=streams) as command:
                code = await command.exit_code()
    except TimeoutError:
        raise TimedOut(f"the command {argv[0]!r} was killed: it did not end within {timeout_s:g} s") from None
    return Output(out.data(), err.data(), code)


@asynccontextmanager
async def start(pod: LivePod, container: LiveContainer, *, what: Options) -> AsyncIterator[Command]:
    """Run a command for a client; it is killed when the block ends before it does.

    Raises NoCommand when it can't be run, WrongState unless the container runs.
    """
    require_running(container, what.argv)
    queues = {}
    for name, is_asked in (("stdout", what.stdout or what.tty), ("stderr", what.stderr and not what.tty)):
        if is_asked:
            number = pod.next_id()
            queues[name] = number, OutputQueue(partial(pod.agent.consumed, number))
    out, err = (queues[name][0] if name in queues else 0 for name in ("stdout", "stderr"))
    stdio = messages.Stdio(pod.next_id() if what.stdin else 0, out, err, what.tty)
    consumers: dict[int, Consumer] = dict(queues.values())
    async with _running(pod, container, what=what, stdio=stdio, consumers=consumers) as command:
        command.outputs = {name: queue for name, (_, queue) in queues.items()}
        for queue in command.outputs.values():
            command.ended.add_done_callback(lambda _, queue=queue: queue.finish())  # type: ignore[misc]
        yield command


def require_running(container: LiveContainer, argv: tuple[str, ...]) -> None:
    """Raise BadRequest for an empty command, WrongState unless the container runs."""
    if not argv:
        raise BadRequest("the command to run in the container is empty; give a program and its arguments")
    if not argv[0]:
        raise NoCommand("the program to run in the container has an empty name; give one that its image has")
    order.require_agent(container, "exec")
    order.require(container, "exec")


@asynccontextmanager
async def _running(
    pod: LivePod,
    container: LiveContainer,
    *,
    what: Options,
    stdio: messages.Stdio,
    consumers: dict[int, Consumer],
) -> AsyncIterator[Command]:
    number = pod.next_id()
    command = Command(pod, container, number=number, stdin=stdio.stdin)
    pod.execs.add(number, command.ended)
    for stream, consumer in consumers.items():
        pod.agent.listen(stream, consumer)
    if stdio.stdin:
        pod.agent.open_input(stdio.stdin)
    try:
        with pod.gate.using_files():
            await _spawn(command, what=what, stdio=stdio)
            yield command
    finally:
        ending = pod.gate.run_in_background(_clean_up(command, (*consumers, stdio.stdin)), f"end of exec {number}")
        await asyncio.shield(asyncio.wait({ending}, timeout=2 * UNDO_S))


async def _spawn(command: Command, *, what: Options, stdio: messages.Stdio) -> None:
    """Ask the agent. Its answer is waited for in any case, if need be by `_clean_up`."""
    pod, container, number = command.pod, command.container, command.number
    own = container.record.container
    process_ = own.process._replace(argv=what.argv, tty=what.tty, stdin=what.stdin)
    try:
        name = await run_uncancellable(
            engine.add_exec, pod.directory, pod.record.pod, container=own, what=process_, number=number
        )
    except FileNotFoundError:
        raise WrongState(f"container {container.id} is being removed; nothing can be run in it any more") from None
    request = messages.Exec(container.id, number, name, stdio)
    command.answer = asyncio.ensure_future(pod.call(request, math.inf, is_awaited=lambda: not command.is_over))
    try:
        async with limit(pod, "Exec"):
            await asyncio.shield(command.answer)
    except AgentFailed as error:  # whatever crun says of a container that ends at that moment
        if await is_set_within(ENDED_S, container.ended):
            raise WrongState(f"container {container.id} has ended before {what.argv[0]!r} ran: {error}") from None
        raise


async def _clean_up(command: Command, streams: tuple[int, ...]) -> None:
    """Kill the process: at once, so that a guest need not run what it has not run yet, and as soon as it has reported
    that the process exists, however late that is.
    """
    pod, container, number = command.pod, command.container, command.number
    command.is_over = True
    try:
        if command.answer is not None and not command.ended.done():
            if not command.answer.done():
                with suppress(PodError):
                    await pod.call(_sigkill(command), timeout_s=CLEAN_UP_S)
            await asyncio.wait({command.answer})
            if command.answer.exception() is None:
                await _kill(command)
    finally:
        if command.answer is not None:
            command.answer.cancel()
        if not command.ended.cancel() and not command.ended.cancelled():
            command.ended.exception()  # mark it as retrieved: there may be no waiter
        for stream in streams:
            pod.forget(stream)
        pod.execs.remove(number)
        pod.gate.execs.discard(number)
        await run_uncancellable(engine.remove_exec, pod.directory, container.id, number=number)


async def _kill(command: Command) -> None:
    pod, container, number = command.pod, command.container, command.number
    try:
        await pod.call(_sigkill(command), timeout_s=CLEAN_UP_S)
        await asyncio.wait({command.ended}, timeout=CLEAN_UP_S)
    except PodError as error:
        log.warning("exec.kill", extra={**pod.log_fields(container), "exec": number, "error": str(error)})


def _sigkill(command: Command) -> messages.Signal:
    return messages.Signal(command.container.id, command.number, process.SIGKILL, True)
