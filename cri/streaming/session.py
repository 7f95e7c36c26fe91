# SPDX-License-Identifier: Apache-2.0
"""The interface of a client for exec and attach, whichever protocol it speaks, and what moves bytes through it.
Implemented by `spdy_session` and `websocket`, used by `process_streams`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

from cri.output_queue import OutputQueue
from cri.streaming.formats import Sizes
from cri.streaming.wire import InputQueue
from stage1.errors import PodError, TimedOut

SETUP_S = 30.0
"""How long a client may take to open its streams."""
DRAIN_S = 60.0
"""How long a slow client may take to read what is left when the process has ended."""
GOODBYE_S = 2.0
"""How long one that was told everything may take to close."""


class Session(Protocol):
    """`version` is that of the protocol, 1 to 5. `stdin` and `resize` end when the client half-closes them or is
    gone.
    """

    version: int
    stdin: InputQueue
    resize: InputQueue

    async def run(self) -> None:
        """Take what the client sends until it is gone. One task does this all the time."""

    async def ready(self) -> None:
        """Wait until output may be sent. Raises TimedOut."""

    async def write(self, name: str, data: bytes) -> None:
        """Send output of the stream `name`. Raises ConnectionError."""

    async def finish(self, status: bytes) -> None:
        """Send the status, the last message, and end all streams. Raises ConnectionError."""

    def abort(self) -> None:
        """End at once."""


async def end(client: Session, reading: "asyncio.Task[None]", *, status: bytes) -> None:
    """Send the `status`, give the client time to read it, and close. Errors are ignored: the client may be gone."""
    for queue in (client.stdin, client.resize):
        queue.close()
    try:
        async with asyncio.timeout(DRAIN_S):
            await client.finish(status)
        await asyncio.wait({reading}, timeout=GOODBYE_S)
    except (TimeoutError, ConnectionError):
        pass
    finally:
        client.abort()


# -- Moving bytes ------------------------------------------------------------------------------------------------------
# Between a client's streams and a process in a guest.


Resize = Callable[[int, int], Awaitable[None]]


async def output(queue: OutputQueue, client: Session, *, name: str, stall_s: float | None = None) -> None:
    """Write the queue to the client until its end; with an empty `name` discard it. Raises ConnectionError, and
    TimedOut for a client that does not read.
    """
    while data := await queue.read():
        if name:
            try:
                async with asyncio.timeout(stall_s):
                    await client.write(name, data)
            except TimeoutError:
                raise TimedOut(f"the client read no output for {stall_s:g} s, and was detached") from None


async def sizes(queue: InputQueue, resize: Resize) -> None:
    """Pass the client's sizes on until it sends no more. An error of a process that has just ended, and has no
    terminal, is ignored.
    """
    codec = Sizes()
    while data := await queue.read():
        for width, height in codec.receive(data)[-1:]:
            try:
                await resize(width, height)
            except PodError:
                return


@asynccontextmanager
async def run_concurrently(*works: Coroutine[Any, Any, None]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Run `works` as long as the block lasts. What they raise is not raised here."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def first_of(tasks: list["asyncio.Task[None]"]) -> None:
    """Wait for the first that ends, and raise what it raises."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def all_of(tasks: list["asyncio.Task[None]"]) -> None:
    """Wait for the end of all, or raise what the first one raises."""
    if tasks:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
