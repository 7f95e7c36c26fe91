# SPDX-License-Identifier: Apache-2.0
"""One plugin that has registered: requests to it, one after the other. Made by `listener`, used by `hub`.

Requests are queued, so that a plugin sees things in the order in which they happened. The queue is bounded, and a
plugin that lets it grow too long, or does not answer in time, is disconnected, and calls that waited for it
continue without it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from cri.nri import calls
from cri.nri.calls import Refused
from cri.nri.frames import MESSAGE_BYTES
from cri.nri.link import CLOSED, ENDING, Link, Lost
from cri.pb import nri_pb2 as nri
from stage1.errors import WrongState

log = logging.getLogger("clearpod.nri")

MOST_WAITING = 4096
MOST_WAITING_BYTES = 32 << 20
"""Of one plugin's queue."""


MOST_BYTES = MESSAGE_BYTES - 4096
"""Of one request, without what goes around it."""


class _Request(NamedTuple):
    method: str
    message: Any
    size: int
    answer: "asyncio.Future[Any]"


class Plugin:
    """`title` is its index and name; plugins are called in this order. `events` are the bits of the events that it
    subscribed to. `left` is called once, when it has disconnected.
    """

    def __init__(
        self, title: str, link: Link, *, events: int, timeout_s: float, left: Callable[["Plugin"], None]
    ) -> None:
        self.title, self.link, self.events = title, link, events
        self._timeout_s, self._left = timeout_s, left
        self._queue: deque[_Request] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._by_state_change: set[str] = set()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(one, name=f"nri {title}") for one in (self._work(), self._end())]

    def takes(self, method: str) -> bool:
        """Whether it subscribed to this request or event."""
        event = calls.event_of(method)
        return not event or bool(self.events & 1 << event - 1)

    async def ask(self, method: str, message: Any, *, what: str) -> Any:
        """Return the plugin's answer, None as with `put`. Raises WrongState, which names `what`, when it refuses."""
        try:
            return await self.put(method, message)
        except Refused as error:
            raise WrongState(
                f"the NRI plugin {self.title} refuses {method} of {what}: {calls.shortened(error.message)}"
            ) from None

    def put(self, method: str, message: Any) -> "asyncio.Future[Any]":
        """Queue a request, at once. The answer is None when it does not take such requests, or was disconnected
        meanwhile; Refused is raised for an error of the plugin's.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.link.gone.is_set() or not self.takes(method):
            answer.set_result(None)
            return answer
        size = message.ByteSize()
        if size > MOST_BYTES:
            answer.set_exception(Refused(calls.UNKNOWN, f"{size} bytes are more than fit into one message of NRI"))
            return answer
        self._queue.append(_Request(method, message, size, answer))
        self._bytes += size
        self._arrived.set()
        if len(self._queue) > MOST_WAITING or self._bytes > MOST_WAITING_BYTES:
            self.link.close(f"{len(self._queue)} requests of {self._bytes} bytes are queued for it")
        return answer

    def tell(self, method: str, message: Any) -> None:
        """Like `put`, but without waiting; an error is logged."""
        self.put(method, message).add_done_callback(lambda done: self._answered(method, done))

    def _answered(self, method: str, done: "asyncio.Future[Any]") -> None:
        if not done.cancelled() and (error := done.exception()):
            log.warning(
                "nri.refused", extra={"plugin": self.title, "method": method, "error": calls.shortened(str(error))}
            )

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue and not self.link.gone.is_set():
                one = self._queue[0]
                await self._answer(one)
                if self._queue:
                    self._queue.popleft()
                    self._bytes -= one.size

    async def _answer(self, one: _Request) -> None:
        try:
            answer = await self._call(one.method, one.message)
        except Refused as error:
            if not one.answer.done():
                one.answer.set_exception(error)
        except Lost:
            _settle(one, None)
        else:
            _settle(one, answer)

    async def _call(self, method: str, message: Any) -> Any:
        if method not in self._by_state_change:
            try:
                return await self.link.call(method, message, timeout_s=self._timeout_s)
            except Refused as error:
                if error.code != calls.UNIMPLEMENTED or not calls.is_plain(method):
                    raise
                self._by_state_change.add(method)
        event = nri.StateChangeEvent(event=calls.event_of(method), pod=message.pod)  # type: ignore[arg-type]
        if isinstance(message, nri.ContainerRequest):
            event.container.CopyFrom(message.container)
        return await self.link.call("StateChange", event, timeout_s=self._timeout_s)

    async def _end(self) -> None:
        await self.link.gone.wait()
        self._tasks[0].cancel()
        self._left(self)
        for one in self._queue:
            _settle(one, None)
        self._queue.clear()
        level = logging.INFO if self.link.why in (CLOSED, ENDING) else logging.WARNING
        log.log(level, "nri.gone", extra={"plugin": self.title, "why": self.link.why})


def _settle(one: _Request, answer: Any) -> None:
    if not one.answer.done():
        one.answer.set_result(answer)
