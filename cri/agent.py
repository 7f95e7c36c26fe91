# SPDX-License-Identifier: Apache-2.0
"""The daemon's end of the link to one guest: an asyncio client over `stage1.guest.link.HostLink`.

Owned by a pod. It reconnects when the connection is cut, passes frames to those who wait for them, and acknowledges a
frame only after it was passed on and committed. It must not know what a container is: streams have consumers, exits go
to one function.

The guest is not trusted. Its data is processed in short slices, in turn with other guests (`cri.loop_budget`), and not
read while the guest does not read from us, or is over its budget (`stage1.guest.budget`). After a violation of the
protocol nothing more is read from it, and `broken` is called with the reason.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from cri.consumers import Consumer, written
from cri.gathering import Gathering
from cri.loop_budget import SLICE_S, LoopBudget
from cri.pending import Pending
from cri.threads import is_set_within
from cri.vsock import READ_BYTES, Connection, VsockPort
from stage1.errors import AgentFailed, Exhausted, PodError, TimedOut, VmFailed, WrongState
from stage1.guest import messages
from stage1.guest.budget import Budget
from stage1.guest.frame import START
from stage1.guest.link import DataSeen, EventSeen, HelloSeen, HostLink, LinkFault, LinkFull, ReplySeen
from stage1.linux import beneath
from stage1.vm.spec import Link, VsockLink

log = logging.getLogger("clearpod.agent")

Result = TypeVar("Result")

RETRY_S, FAULT_RETRY_S = 0.02, 0.5
"""Delays between attempts to connect, as VMMs make sockets within milliseconds, and after an error, as of a record."""
GREETING_S, MOST_DOUBLINGS = 2.0, 3
"""Delays between greetings. A serial port may lose one while the guest sends more, so it is repeated, with backoff."""
UNTAKEN_BYTES = 1 << 16
"""Of what was written to a guest and it has not taken; more waits in the link, which has limits."""
WORK = 64
"""How many bytes HostLink.receive processes between two looks at the clock: one full frame, or 64 small ones."""
UNKNOWN_EVENT = 8
"""The exit of an unknown process counts as this many events."""
OLD_GREETING_NS = 20_000_000
"""A guest sets its clock by the host's greeting: so much later it is worth another."""
HELPED = (messages.Create, messages.Start, messages.Exec, messages.Delete, messages.Update, messages.Connect)
"""Requests that the agent passes to a helper process, which needs memory of the guest. It refuses more than 32."""
HELPED_AT_ONCE = 8


class Identity(NamedTuple):
    """The other end: the pod's name for errors, its link and its secret; `epoch` is this process. `first` is what the
    guest knows instead of that secret before the first connection, as in `HostLink`.
    """

    name: str
    link: Link
    key: bytes
    epoch: int
    first: bytes = START


class Agent:
    """One guest's agent. `open` once, then `call`; `close` in the end.

    `exited` is called for each Exited event and returns whether the process is known. `broken` is called once, with the
    reason, when the guest has violated the protocol after its hello.
    """

    def __init__(
        self,
        who: Identity,
        exited: Callable[[messages.Exited], bool],
        *,
        port: VsockPort | None = None,
        loop_budget: LoopBudget | None = None,
        broken: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._who, self._exited, self._port = who, exited, port
        self._loop_budget, self._broken = loop_budget or LoopBudget(), broken
        self._link, self._budget = HostLink(who.key, who.epoch, who.first), Budget()
        self._consumers: dict[int, Consumer] = {}
        self._calls, self._helpers = Pending[messages.Reply](), asyncio.Semaphore(HELPED_AT_ONCE)
        self._senders: list[asyncio.Future[None]] = []
        self._hello: asyncio.Future[messages.Hello] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._draining: asyncio.Task[None] | None = None
        self._greeted_ns = self._unanswered = 0
        self._task: asyncio.Task[None] | None = None
        self._lost, self._is_over, self._gathering = "", asyncio.Event(), Gathering()

    async def open(self) -> messages.Hello:
        """Connect and wait for the guest's hello without a limit: the caller sets one and watches the VMM."""
        loop = asyncio.get_running_loop()
        self._hello = loop.create_future()
        self._task = loop.create_task(self._run(), name=f"link of {self._who.name}")
        self._task.add_done_callback(self._ended)
        return await asyncio.shield(self._hello)

    def rename(self, name: str) -> None:
        """Say `name` in errors from now on."""
        self._who = self._who._replace(name=name)

    async def call(
        self, op: messages.Op, *, timeout_s: float, is_awaited: Callable[[], bool] = lambda: True
    ) -> messages.Reply:
        """Ask the agent and wait for its answer. What needs a helper of the agent's waits for its turn first, which
        does not count; if it `is_awaited` no more then, WrongState is raised.

        Raises what the reply's code means (AgentFailed, NoCommand, ...), TimedOut, or VmFailed when the VM is gone.
        """
        sys.audit("clearpod.call", type(op).__name__)  # tests stop the process there
        if not isinstance(op, HELPED):
            return await self._call(op, timeout_s)
        async with self._helpers:
            if not is_awaited():
                raise WrongState(f"{type(op).__name__} was given up before {self._who.name} was asked for it")
            return await self._call(op, timeout_s)

    async def _call(self, op: messages.Op, timeout_s: float) -> messages.Reply:
        if self._lost:
            raise VmFailed(self._lost)
        try:
            number = self._link.request(op)
        except LinkFull as full:
            raise AgentFailed(f"{type(op).__name__} can't be asked of {self._who.name}: {full}") from None
        answer: asyncio.Future[messages.Reply] = asyncio.get_running_loop().create_future()
        self._calls.add(number, answer)
        self._flush()
        try:
            async with asyncio.timeout(timeout_s):
                reply = await answer
        except TimeoutError:
            what = type(op).__name__
            raise TimedOut(f"the agent of {self._who.name} did not answer {what} within {timeout_s:g} s") from None
        finally:
            self._calls.remove(number)
            self._link.forget(number)
        return messages.check_reply(reply, op)

    def listen(self, stream: int, consumer: Consumer) -> None:
        """Deliver the stream's data to `consumer` from now on."""
        self._link.open_stream(stream)
        self._consumers[stream] = consumer

    def forget(self, stream: int) -> None:
        """The stream has no reader any more; what still comes is dropped."""
        self._consumers.pop(stream, None)
        self._link.close_stream(stream)

    def open_input(self, stream: int) -> None:
        """Make `send` possible on the stream: the guest gave its credit when the process was made."""
        self._link.open_stream(stream)

    def consumed(self, stream: int, count: int) -> None:
        """Give the guest credit for `count` bytes that a consumer took later than `feed`."""
        self._link.consumed(stream, count)
        self._flush()

    def send(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """Send to the guest what its credit allows; returns how many bytes were accepted."""
        accepted = self._link.send_data(stream, data, end=end)
        self._flush()
        return accepted

    async def send_all(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send all of it, as fast as the process takes it. Raises VmFailed, AgentFailed."""
        while not self._lost:
            data = data[self.send(stream, data, end=end) :]
            if not data:
                return
            moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._senders.append(moved)
            await moved
        raise VmFailed(self._lost)

    def _wake_senders(self) -> None:
        """A frame of the guest has come: it may have given credit."""
        senders, self._senders = self._senders, []
        for sender in senders:
            if not sender.done():
                sender.set_result(None)

    def lose(self, why: str) -> None:
        """The VM is gone: every waiting and later call fails with this sentence."""
        self._lost = why
        self._is_over.set()
        self._wake_senders()
        self._calls.fail(lambda: VmFailed(why))

    async def drain(self, timeout_s: float) -> None:
        """Process what the VMM had sent before its end, until the connection ends."""
        if self._task is not None:
            self._lost = self._lost or f"the virtual machine of {self._who.name} has ended"
            self._is_over.set()
            self._expect_nothing()
            await asyncio.wait({self._task}, timeout=timeout_s)

    async def close(self) -> None:
        """Cut the connection and end. The guest keeps what we did not acknowledge."""
        self._expect_nothing()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _expect_nothing(self) -> None:
        if isinstance(self._who.link, VsockLink) and self._port is not None:
            self._port.forget(self._who.link.cid)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Pass an error of the link's task to the call that waits for the hello, and cut the link."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("link.ended", extra={"pod": self._who.name}, exc_info=error)
            if self._hello is not None and not self._hello.done():
                self._hello.set_exception(error)
            self._break(f"an internal error of clearpod ended it: {type(error).__name__}")

    def _break(self, why: str) -> None:
        """Cut the link for good, with this reason."""
        assert self._hello is not None
        self.lose(f"the link to {self._who.name} was cut: {why}")
        if not self._hello.done():
            self._hello.set_exception(VmFailed(self._lost))
        elif not self._hello.cancelled() and not self._hello.exception():
            self._broken(why)

    async def _run(self) -> None:
        while not self._lost:
            await self._loop_budget.hold(self._budget.connect(time.monotonic()))
            connection = await self._connect()
            if connection is None:
                return
            pause_s = RETRY_S
            try:
                await self._talk(*connection)
            except ConnectionResetError:
                pass  # the end of a guest with a vsock, and nothing to speak of
            except LinkFault as fault:
                connection[1].transport.abort()
                self._break(str(fault))
                return
            except (OSError, PodError) as error:  # a log's record that can't be written
                log.warning("link.cut", extra={"pod": self._who.name, "error": str(error)})
                pause_s = FAULT_RETRY_S
            finally:
                self._hang_up()
            await is_set_within(pause_s, self._is_over)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end. Raises LinkFault, OSError, PodError."""
        writer.transport.set_write_buffer_limits(UNTAKEN_BYTES)
        self._writer = writer
        self._greet()
        self._flush()
        while data := await self._read(reader):
            if await self._take(data):
                await self._gathering.wait(len(data))
            while self._draining is not None:  # it does not read from us, so we do not read from it
                await asyncio.wait({self._draining})

    def _hang_up(self) -> None:
        writer, self._writer = self._writer, None
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        if writer is not None:
            writer.close()

    def _greet(self) -> None:
        self._greeted_ns = time.time_ns()
        self._link.connect(self._greeted_ns)

    def _met(self, hello: messages.Hello) -> None:
        """The guest's first answer. A guest that was still booting has read the time out of an old greeting."""
        assert self._hello is not None
        if time.time_ns() - self._greeted_ns > OLD_GREETING_NS:
            self._greet()
        self._hello.set_result(hello)

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """The next bytes; empty at the connection's end, or if a greeting on a serial port stays unanswered."""
        is_met = self._link.open or isinstance(self._who.link, VsockLink)
        self._unanswered = 0 if is_met else min(self._unanswered, MOST_DOUBLINGS)
        try:
            async with asyncio.timeout(None if is_met else GREETING_S * 2**self._unanswered):
                return await reader.read(READ_BYTES)
        except TimeoutError:
            self._unanswered += 1
            return b""

    async def _connect(self) -> Connection | None:
        link = self._who.link
        if isinstance(link, VsockLink):
            if self._port is None:
                raise VmFailed("this process has no vsock port for guests")
            return await self._port.accept(link.cid)
        while not self._lost:
            try:
                with beneath.Socket(link.socket) as address:  # two descriptors without content: no wait for a disk
                    return await asyncio.open_unix_connection(address, limit=2 * READ_BYTES)
            except (FileNotFoundError, ConnectionRefusedError):
                await is_set_within(RETRY_S, self._is_over)
            except (Exhausted, OSError) as error:  # no descriptor, no buffer: the guest can't help it
                log.warning("link.cut", extra={"pod": self._who.name, "error": str(error)})
                await is_set_within(FAULT_RETRY_S, self._is_over)
        return None

    async def _take(self, data: bytes) -> bool:
        """Take in what was read, a slice at a time, and wait if that was more than the guest's budget. Return whether
        it was for a log."""
        has_more, is_logged = True, False
        while has_more:
            touched: dict[int, Consumer] = {}
            try:
                last, events = await self._within_budget(partial(self._take_slice, data, touched))
                is_logged |= await written(touched.values())
            finally:
                for consumer in touched.values():
                    consumer.commit()
            data, has_more = b"", self._link.has_more
            await self._loop_budget.hold(self._settle(last, events))
        return is_logged

    async def _within_budget(self, take: Callable[[], Result]) -> Result:
        """Call `take` when the event loop's budget allows it, and account for the time."""
        await self._loop_budget.begin()
        begun_s = time.monotonic()
        try:
            return take()
        finally:
            self._loop_budget.spend(time.monotonic() - begun_s)

    def _take_slice(self, data: bytes, touched: dict[int, Consumer]) -> tuple[int, int]:
        """Hand over what comes within SLICE_S; the last number that is to be acknowledged, and how many events.

        The consumers in `touched` are to be committed, also when it raises.
        """
        last, events, until_s = 0, 0, time.monotonic() + SLICE_S
        while True:
            for seen in self._link.receive(data, WORK):
                last = max(last, getattr(seen, "seq", 0))
                events += self._hand_over(seen, touched)
            data = b""
            if not self._link.has_more or time.monotonic() >= until_s:
                return last, events

    def _settle(self, last: int, events: int) -> float:
        """Acknowledge committed frames, at once if that can't wait. Return the seconds to wait."""
        link = self._link
        if last:
            link.acknowledge(last)
        link.raise_fault()
        self._wake_senders()
        if link.is_due:
            self._flush()
        return self._budget.spend(time.monotonic(), events=events, useless=link.useless, resyncs=link.resyncs)

    def _hand_over(self, seen: Any, touched: dict[int, Consumer]) -> int:
        """Pass what was received to its consumer, call or event handler; return how many events it counts as."""
        if isinstance(seen, DataSeen):
            consumer = self._consumers.get(seen.stream)
            if consumer is not None:
                touched[id(consumer)] = consumer
                self._link.consumed(seen.stream, consumer.feed(seen.data, seq=seen.seq, end=seen.end))
        elif isinstance(seen, ReplySeen):
            self._calls.settle(seen.id, seen.reply)
        elif isinstance(seen, EventSeen):
            return 1 if self._exited(seen.event) else UNKNOWN_EVENT
        elif isinstance(seen, HelloSeen) and self._hello is not None and not self._hello.done():
            self._met(seen.hello)
        return 0

    def _flush(self) -> None:
        """Write what the link has queued, unless the guest has yet to read what was written before.

        A broken link is noticed and logged by the task that reads from it.
        """
        writer = self._writer
        if writer is None or self._draining is not None:
            return
        try:
            data = self._link.outgoing()
        except LinkFault:
            writer.close()
            return
        if data:
            writer.write(data)
            if writer.transport.get_write_buffer_size() > UNTAKEN_BYTES:
                self._draining = asyncio.get_running_loop().create_task(self._drain(writer))

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        try:
            await writer.drain()
        except OSError:
            pass  # the reading side finds out
        self._draining = None
        self._flush()
