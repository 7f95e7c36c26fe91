# SPDX-License-Identifier: Apache-2.0
"""Blocking work in a thread, which can't be cancelled half-way, and waiting with a limit. Used by the pods for all that
the engine makes.

A cancelled `asyncio.to_thread` returns while its thread goes on, which would make things while the caller cleans up.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from stage1.errors import Exhausted, PodError
from stage1.linux import libc

log = logging.getLogger("clearpod.node")

EXHAUSTED_S = 0.3
"""Delay between retries while there is no descriptor, or no process can be started."""
UNDO_S = 0.8
"""Time limit of each step of a rollback for a guest that let an operation time out; two of them fit into the promised
2 s.
"""
LONG_S, MOST_BULK = 10.0, 32
"""The time after which a job of a `Bulk` makes room for others, and the limit of jobs that run then."""
P = ParamSpec("P")
T = TypeVar("T")


def started(count: int, name: str) -> ThreadPoolExecutor:
    """A pool all of whose threads run already, for as long as it is not shut down.

    Where the host allows no more threads, a pool that has to start one raises an error about work which it does a
    moment later nevertheless. Raises Exhausted.
    """
    pool, everybody = ThreadPoolExecutor(count, thread_name_prefix=name), threading.Barrier(count)
    try:
        for ready in [pool.submit(everybody.wait) for _ in range(count)]:
            ready.result()
    except RuntimeError as error:
        everybody.abort()
        pool.shutdown(wait=False)
        raise libc.explained("clone", error) from None
    return pool


async def run_uncancellable(work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
    """Like asyncio.to_thread; when cancelled, however often, raises CancelledError only after `work` has ended."""
    return await run_uncancellable_in(None, work, *args, **options)


async def run_uncancellable_in(pool: Executor | None, work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
    """Like `run_uncancellable`, in a thread of `pool`, or of the loop's own if that is None."""
    thread = asyncio.get_running_loop().run_in_executor(pool, partial(work, *args, **options))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await await_end(thread)
        raise


async def await_end(future: "asyncio.Future[Any]") -> None:
    """Wait until `future` is done, and drop its result or error. However often the waiter is cancelled, CancelledError
    is raised only then.

    A second cancellation is ordinary: who waits for several tasks cancels those that are left when the first has ended.
    """
    error: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as cancelled:
            error = cancelled
    _ = future.cancelled() or future.exception()
    if error:
        raise error


async def obtained(work: Callable[P, T], give_back: Callable[[T], object], /, *args: P.args, **options: P.kwargs) -> T:
    """Like asyncio.to_thread, for results that must be closed: when cancelled, the result of `work` is passed to
    `give_back`, which is called in the event loop, and must not block.
    """
    thread = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **options))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        thread.add_done_callback(lambda done: done.cancelled() or done.exception() or give_back(done.result()))
        raise


@contextmanager
def apart() -> Iterator[ThreadPoolExecutor]:
    """A thread of one's own, for what waits for a VMM: one that does not answer takes no other's place. Raises
    Exhausted.
    """
    pool = started(1, "apart")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


async def run_apart(work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
    """Like `run_uncancellable`, in a thread of its own (`apart`)."""
    with apart() as pool:
        return await run_uncancellable_in(pool, work, *args, **options)


class Bulk:
    """Jobs that move a whole guest or disk, or wait for a VMM that does: `count` at a time, each in a thread of its
    own, first come first served. After `long_s` a job makes room for the next, since its VMM may be under the
    control of its guest, until `most` are running.
    """

    def __init__(self, count: int, *, long_s: float = LONG_S, most: int = MOST_BULK) -> None:
        self._count, self._long_s, self._most = count, long_s, most
        self._begun = self._long = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def run(self, work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
        """Like `run_apart`, once a slot is free."""
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(slot)
        self._next()
        try:
            await slot
            return await self._run(partial(work, *args, **options))
        finally:
            if slot.done() and not slot.cancelled():
                self._begun -= 1
                self._next()

    async def _run(self, work: Callable[[], T]) -> T:
        is_long = False

        def take_long() -> None:
            nonlocal is_long
            is_long = True
            self._long += 1
            self._next()

        timer = asyncio.get_running_loop().call_later(self._long_s, take_long)
        try:
            return await run_apart(work)
        finally:
            timer.cancel()
            self._long -= is_long

    def _next(self) -> None:
        while self._waiting and self._begun - self._long < self._count and self._begun < self._most:
            slot = self._waiting.popleft()
            if not slot.done():
                self._begun += 1
                slot.set_result(None)


async def retry_while_exhausted(work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
    """Like asyncio.to_thread, retried while the host is at its limits, so that no pod is lost because of them."""
    while True:
        try:
            return await asyncio.to_thread(work, *args, **options)
        except Exhausted as error:
            log.warning("host.exhausted", extra={"error": str(error)})
            await asyncio.sleep(EXHAUSTED_S)


async def run_concurrently(answer: Awaitable[T], work: Callable[P, object], /, *args: P.args, **options: P.kwargs) -> T:
    """`answer`, which is begun first, while `work` is done in a thread. It ends when both have, also if one fails."""
    thread = asyncio.ensure_future(run_uncancellable(work, *args, **options))
    try:
        return await answer
    finally:
        await thread


async def is_set_within(limit_s: float | None, event: asyncio.Event) -> bool:
    """Wait for `event`, at most so long (None: without a limit); return whether it is set."""
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def is_readable_within(limit_s: float | None, descriptor: int) -> bool:
    """Wait until `descriptor` is readable, at most so long (None: without a limit); return whether it is."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        return await is_set_within(limit_s, ready)
    finally:
        loop.remove_reader(descriptor)


async def unless_set(event: asyncio.Event, work: Awaitable[T], *, otherwise: PodError) -> T:
    """The result of `work`; if the event is set before, it is cancelled and `otherwise` is raised."""
    task, ended = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise otherwise
        return task.result()
    finally:
        ended.cancel()
        task.cancel()
        await await_end(task)  # else its thread would go on in what the caller now removes


async def is_done_within(limit_s: float, work: Awaitable[object]) -> bool:
    """Wait for `work` at most so long, then cancel it; whether it ended by itself. Its PodError counts as an end."""
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError:
        return False
    except PodError:
        pass
    return True
