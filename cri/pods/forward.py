# SPDX-License-Identifier: Apache-2.0
"""Connections to ports inside a pod, which its agent makes: also to what listens on the pod's loopback only.

Called by `cri.streaming`. A connection does not outlive the block that made it, unless both of its ends have ended.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from cri.live.gate import Client
from cri.live.pod import LivePod
from cri.output_queue import OutputQueue
from stage1.errors import AgentFailed, PodError, WrongState
from stage1.guest import messages

log = logging.getLogger("clearpod.forward")

CLEAN_UP_S = 5.0
CHUNK_BYTES = 65536


class PortConnection:
    """A TCP connection in the pod."""

    def __init__(self, pod: LivePod, number: int) -> None:
        self.number, self.input, self.output = number, pod.next_id(), pod.next_id()
        self.queue = OutputQueue(partial(pod.agent.consumed, self.output))
        self.has_ended = [False, False]
        self._pod = pod

    async def read(self) -> bytes:
        """Read data of the server; b"" at its end."""
        data = await self.queue.read()
        self.has_ended[0] |= not data
        return data

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send to the server; `end`: nothing follows. Raises PodError."""
        await self._pod.agent.send_all(self.input, data, end=end)
        self.has_ended[1] |= end


class DirectConnection:
    """The same to the pod's address, for a kernel of its own, without an agent to connect to its loopback."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.has_ended = [False, False]
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        """Like `PortConnection.read`."""
        try:
            data = await self._reader.read(CHUNK_BYTES)
        except OSError:  # it was cut
            data = b""
        self.has_ended[0] |= not data
        return data

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Like `PortConnection.send`. Raises AgentFailed."""
        try:
            self._writer.write(data)
            await self._writer.drain()
            if end:
                self._writer.write_eof()
        except OSError as error:
            raise AgentFailed(f"the connection was cut: {error.strerror or error}") from None
        self.has_ended[1] |= end


AnyConnection = PortConnection | DirectConnection


@asynccontextmanager
async def _directly(pod: LivePod, port: int) -> AsyncIterator[DirectConnection]:
    """Raises WrongState for a pod without a network, AgentFailed if the port is closed."""
    if not pod.ips:
        raise WrongState(f"{pod.title} runs a kernel of its own without a network, so its ports can't be reached")
    try:
        async with asyncio.timeout(pod.tools.call_timeout_s):
            reader, writer = await asyncio.open_connection(_first_ipv4(pod.ips), port)
    except (OSError, TimeoutError) as error:
        why = str(error) or "it does not answer"
        raise AgentFailed(f"port {port} of {pod.title} can't be connected to: {why}") from None
    try:
        yield DirectConnection(reader, writer)
    finally:
        writer.close()


def _first_ipv4(ips: tuple[str, ...]) -> str:
    """The address that such a kernel was given; else the first."""
    return next((ip for ip in ips if ":" not in ip), ips[0])


@asynccontextmanager
async def connect(pod: LivePod, port: int) -> AsyncIterator[AnyConnection]:
    """Connect to `port` of the pod's loopback. Raises AgentFailed if the port is closed, WrongState."""
    pod.require_ready()
    if pod.status.is_own:
        async with _directly(pod, port) as direct:
            yield direct
        return
    made = PortConnection(pod, pod.next_id())
    pod.agent.listen(made.output, made.queue)
    pod.agent.open_input(made.input)
    with pod.gate.client() as here:
        over = asyncio.ensure_future(_is_over(pod, here))
        over.add_done_callback(lambda _: made.queue.finish())
        try:
            await _ask(pod, messages.Connect(made.number, port, made.input, made.output))
            try:
                yield made
            finally:
                if not all(made.has_ended):
                    await asyncio.shield(_cut(pod, made.number))
        finally:
            over.cancel()
            pod.forget(made.input)
            pod.forget(made.output)


async def _is_over(pod: LivePod, here: Client) -> None:
    """Wait until the VM has ended, or the pod is about to be suspended."""
    ends = {asyncio.ensure_future(end) for end in (pod.gone.wait(), here.leaving.wait())}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()


async def _ask(pod: LivePod, op: messages.Connect) -> None:
    try:
        await pod.call(op)
    except asyncio.CancelledError:
        await asyncio.shield(_cut(pod, op.connection))
        raise


async def _cut(pod: LivePod, number: int) -> None:
    try:
        await pod.call(messages.Disconnect(number), timeout_s=CLEAN_UP_S)
    except PodError as error:
        log.warning("forward.cut", extra={"pod": pod.id, "connection": number, "error": str(error)})
