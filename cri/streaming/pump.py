# SPDX-License-Identifier: Apache-2.0
"""Moves bytes between a client's streams and a process in a guest. Used by `execute` and `attach`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from cri.output_queue import OutputQueue
from cri.streaming.input_queue import InputQueue
from cri.streaming.session import Session
from cri.streaming.sizes import Sizes
from stage1.errors import PodError, TimedOut

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
