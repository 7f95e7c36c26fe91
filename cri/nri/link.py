# SPDX-License-Identifier: Apache-2.0
"""The connection of one plugin: calls to it, one answer each, and its own calls. Used by `listener` and `plugin`.

One task reads. A violation of the protocol or of a time limit closes the connection for good, with a sentence about the
reason. It must not know what any call means.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from cri.nri import calls, frames
from cri.nri.frames import PLUGIN, REQUEST, RESPONSE, RUNTIME, FrameFault, Message
from stage1.errors import PodError

log = logging.getLogger("clearpod.nri")

READ_BYTES = 1 << 16
MOST_SERVED = 16
"""Calls of one plugin's at a time."""
REST, UNCOUNTED_S = 4, 0.001
"""A plugin is not read for so many times as long as it took to look at what was read, if that was more than the latter:
one that sends without a pause gets a part of the event loop, and the node the rest.
"""

CLOSED, ENDING = "it closed its connection", "clearpod ends"
"""The ordinary reasons for which a connection ends."""

Serve = Callable[[calls.Asked], Awaitable[Any]]
"""Answers a call of the plugin's with a message. Raises PodError."""


class Lost(Exception):
    """The plugin is disconnected; the text is the reason."""


class Link:
    """`gone` is set when the connection is closed, and `why` is the reason then."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, serve: Serve) -> None:
        self._reader, self._writer, self._serve = reader, writer, serve
        self._frames = frames.Reader()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next = 1
        self._serving: set[asyncio.Task[None]] = set()
        self.gone, self.why = asyncio.Event(), ""
        self._task = asyncio.get_running_loop().create_task(self._read(), name="nri")

    async def call(self, method: str, message: Any, *, timeout_s: float) -> Any:
        """The plugin's answer. Raises Refused when that is an error, Lost when there is none in time."""
        if self.gone.is_set():
            raise Lost(self.why)
        stream, self._next = self._next, self._next + 2
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(Message(PLUGIN, stream, REQUEST, calls.request(method, message, timeout_s=timeout_s)))
                return calls.answer(method, await answer)
        except TimeoutError:
            self.close(f"it did not answer {method} within {timeout_s:g} s")
        except (FrameFault, OSError) as error:
            self.close(str(error))
        raise Lost(self.why)

    def close(self, why: str) -> None:
        """Disconnect the plugin. Idempotent: the first reason counts."""
        if self.gone.is_set():
            return
        self.why = why
        self.gone.set()
        self._task.cancel()
        for task in self._serving:
            task.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Lost(why))
                answer.exception()  # its caller may have gone
        self._writer.transport.abort()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(READ_BYTES):
                begun_s = time.monotonic()
                for message in self._frames.receive(data):
                    self._take(message)
                if (took_s := time.monotonic() - begun_s) > UNCOUNTED_S:
                    await asyncio.sleep(REST * took_s)
            self.close(CLOSED)
        except ConnectionError:
            self.close(CLOSED)
        except (FrameFault, OSError) as error:
            self.close(str(error))

    def _take(self, message: Message) -> None:
        if message.type == RESPONSE:
            answer = self._waiting.pop(message.stream, None)
            if answer is None:
                raise FrameFault(f"it answered on stream {message.stream}, which has no request")
            if not answer.done():
                answer.set_result(message.data)
            return
        if len(self._serving) >= MOST_SERVED:
            raise FrameFault(f"it has more than {MOST_SERVED} calls in progress")
        task = asyncio.get_running_loop().create_task(self._answer(message.stream, calls.asked(message.data)))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _answer(self, stream: int, asked: calls.Asked) -> None:
        if asked.message is None:
            data = calls.reply(None, code=calls.UNIMPLEMENTED, error=f"clearpod does not offer {asked.method}")
        else:
            try:
                data = calls.reply(await self._serve(asked))
            except PodError as error:
                data = calls.reply(None, code=calls.UNKNOWN, error=str(error))
            except Exception:
                log.exception("nri.fault", extra={"method": asked.method})
                data = calls.reply(None, code=calls.UNKNOWN, error="an internal error, a bug in clearpod; see its log")
        try:
            await self._send(Message(RUNTIME, stream, RESPONSE, data))
        except (FrameFault, OSError) as error:
            self.close(str(error))

    async def _send(self, message: Message) -> None:
        self._writer.write(frames.pack(message))
        await self._writer.drain()
