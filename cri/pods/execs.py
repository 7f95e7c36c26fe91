# SPDX-License-Identifier: Apache-2.0
"""A command in a running container, to its end, with its output collected (ExecSync).

Called by the RPC. Streaming execs will share `_spawn`. Whatever happens, the process does not outlive the
call.
"""

import asyncio
import logging
from typing import NamedTuple

from cri.pods.container import LiveContainer
from cri.pods.pod import LivePod
from stage1 import engine
from stage1.errors import BadRequest, PodError, TimedOut, WrongState
from stage1.guest import messages
from stage1.linux import process

log = logging.getLogger("clearpod.exec")

CAP_BYTES = (16 << 20) - (64 << 10)
"""Both streams together: the reply with its frame must stay below 16 MiB; more is dropped silently."""
CLEAN_UP_S = 5.0


class Output(NamedTuple):
    """What the command wrote, and its exit code (128 + n after signal n)."""

    stdout: bytes
    stderr: bytes
    exit_code: int


class Capture:
    """A consumer (`cri.agent.Consumer`) that keeps data in memory while `room` lasts; `room` is shared by two
    streams.
    """

    def __init__(self, room: list[int]) -> None:
        self._room, self._parts = room, bytearray()

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """Keep what fits, drop the rest."""
        kept = data[: self._room[0]]
        self._room[0] -= len(kept)
        self._parts += kept
        return len(data)

    def commit(self) -> None:
        """Nothing to make durable: an exec ends with the daemon."""

    def data(self) -> bytes:
        """Everything kept."""
        return bytes(self._parts)


async def run(pod: LivePod, container: LiveContainer, *, argv: tuple[str, ...], timeout_s: float) -> Output:
    """Run `argv` as the container's own process is run, without terminal and with no input; `timeout_s` 0 is
    no limit.

    Raises NoCommand when it can't be run, TimedOut after killing it, WrongState unless the container runs.
    """
    if not argv:
        raise BadRequest("the command to run in the container is empty")
    if not container.is_running:
        raise WrongState(f"container {container.id} is {container.status.state}; commands run only in a running one")
    number, stdout, stderr = pod.next_id(), pod.next_id(), pod.next_id()
    room = [CAP_BYTES]
    out, err = Capture(room), Capture(room)
    streams = {stdout: out, stderr: err}
    ended = pod.execs[number] = asyncio.get_running_loop().create_future()
    for stream, capture in streams.items():
        pod.agent.listen(stream, capture)
    try:
        await _spawn(pod, container, argv=argv, number=number, stdio=messages.Stdio(stdout=stdout, stderr=stderr))
        async with asyncio.timeout(timeout_s or None):
            event = await asyncio.shield(ended)
        return Output(out.data(), err.data(), event.exit_code)
    except TimeoutError:
        raise TimedOut(f"the command {argv[0]!r} was killed: it did not end within {timeout_s:g} s") from None
    finally:
        if not ended.done():
            await asyncio.shield(_kill(pod, container, number=number, ended=ended))
        for stream in streams:
            pod.forget(stream)
        del pod.execs[number]
        engine.remove_exec(pod.directory, container.id, number=number)


async def _spawn(
    pod: LivePod, container: LiveContainer, *, argv: tuple[str, ...], number: int, stdio: messages.Stdio
) -> None:
    own = container.record.container
    what = own.process._replace(argv=argv, tty=False, stdin=False)
    name = engine.add_exec(pod.directory, pod.record.pod, container=own, what=what, number=number)
    try:
        await pod.call(messages.Exec(container.id, number, name, stdio))
    except PodError:
        pod.execs[number].cancel()  # there is nothing to kill
        raise


async def _kill(
    pod: LivePod, container: LiveContainer, *, number: int, ended: "asyncio.Future[messages.Exited]"
) -> None:
    try:
        await pod.call(messages.Signal(container.id, number, process.SIGKILL, True), timeout_s=CLEAN_UP_S)
        await asyncio.wait({ended}, timeout=CLEAN_UP_S)
    except PodError as error:
        log.warning("exec.kill", extra={"container": container.id, "exec": number, "error": str(error)})
