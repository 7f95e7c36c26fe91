# SPDX-License-Identifier: Apache-2.0
"""What waits for a reader: bounded from the client (InputQueue), credited from the guest (OutputQueue)."""

import asyncio
import threading

import pytest

from cri.consumers import written
from cri.logs import feed as log_feed
from cri.logs.feed import LogFeed
from cri.output_queue import OutputQueue
from cri.streaming import wire
from cri.streaming.wire import HIGH_BYTES, InputQueue
from tests.fakes.patience import PATIENCE


class Log:
    """The part of a LogWriter that a LogFeed uses."""

    def __init__(self) -> None:
        self.data, self.is_stuck, self.is_closed, self.lacks_file, self.fault = b"", False, False, False, "no space"

    def feed(self, stream: str, data: bytes, *, seq: int, end: bool = False) -> None:
        self.data += data

    def commit(self) -> None: ...

    def batch(self) -> None:
        """It still can't be written."""


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


async def test_an_input_queue_holds_its_writer_back_until_it_is_read() -> None:
    queue = InputQueue()
    queue.put(b"x" * (HIGH_BYTES + 1))
    waiting = asyncio.ensure_future(queue.wait_for_space(yes))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert len(await queue.read()) == HIGH_BYTES + 1
    await asyncio.wait_for(waiting, 10 * PATIENCE)
    queue.put(b"a")
    queue.finish()
    assert (await queue.read(), await queue.read(), await queue.read()) == (b"a", b"", b"")
    assert queue.total == HIGH_BYTES + 2


async def test_a_writer_that_waits_learns_that_its_client_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CHECK_S", 0.01)
    queue = InputQueue()
    queue.put(b"x" * (HIGH_BYTES + 1))
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(queue.wait_for_space(no), 10 * PATIENCE)


async def test_input_to_a_closed_queue_is_dropped_and_blocks_no_sender() -> None:
    queue = InputQueue()
    queue.put(b"x" * (HIGH_BYTES + 1))
    queue.close()
    queue.put(b"x" * HIGH_BYTES * 2)
    await asyncio.wait_for(queue.wait_for_space(no), 10 * PATIENCE)
    assert await queue.read() == b""


async def test_an_output_queue_gives_credit_when_the_data_is_taken() -> None:
    given: list[int] = []
    queue = OutputQueue(given.append)
    reading = asyncio.ensure_future(queue.read())
    await asyncio.sleep(0)
    assert queue.feed(b"one", seq=1, end=False) == 0
    assert queue.feed(b"two", seq=2, end=True) == 0
    assert given == []
    assert await reading == b"onetwo" and sum(given) == 6
    assert await queue.read() == b""


async def test_a_container_is_as_slow_as_the_slowest_that_is_attached_and_the_log_has_all() -> None:
    given: list[int] = []
    log = Log()
    stream = LogFeed(log, "c").stream("stdout", 7, consumed=lambda _, count: given.append(count))  # type: ignore[arg-type]
    assert stream.feed(b"before", seq=1, end=False) == 6, "nobody is attached: done at once"
    first, second = OutputQueue(given.append), OutputQueue(given.append)
    stream.followers += [first, second]
    assert stream.feed(b"data", seq=2, end=False) == 0
    assert await first.read() == b"data" and given == []
    assert await second.read() == b"data" and given == [4]
    assert stream.feed(b"more", seq=3, end=True) == 0
    stream.followers.remove(second)
    second.drop()
    assert given == [4]
    assert (await first.read(), await first.read()) == (b"more", b"") and given == [4, 4]
    assert log.data == b"beforedatamore"


async def test_credit_waits_for_a_log_that_can_not_be_written_and_for_who_is_attached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_feed, "RETRY_S", 0.01)
    given: list[tuple[int, int]] = []
    log = Log()
    stream = LogFeed(log, "c").stream("stdout", 7, consumed=lambda *gift: given.append(gift))  # type: ignore[arg-type]
    queue = OutputQueue(lambda _: None)
    stream.followers.append(queue)
    log.is_stuck = True
    assert stream.feed(b"data", seq=1, end=False) == 0
    assert await queue.read() == b"data"
    await asyncio.sleep(0.05)
    assert given == [], "the log does not have it"
    log.is_stuck = False
    while not given:
        await asyncio.sleep(0.01)
    assert given == [(7, 4)]


class SlowLog(Log):
    """Its file system takes a batch on request only."""

    def __init__(self) -> None:
        super().__init__()
        self.fault, self.may_write, self.threads = "", threading.Event(), list[int]()

    def feed(self, stream: str, data: bytes, *, seq: int, end: bool = False) -> None:
        self.data += data
        self.is_stuck = True

    def flush(self) -> None: ...

    def batch(self) -> "SlowLog":  # type: ignore[override]
        return self

    def write(self) -> None:
        self.threads.append(threading.get_ident())
        assert self.may_write.wait(30 * PATIENCE)

    def settle(self, done: None) -> None:
        self.is_stuck = False


async def test_what_a_thread_writes_gives_credit_later_and_an_end_waits_for_it() -> None:
    given: list[int] = []
    log, ends = SlowLog(), list[str]()
    feed = LogFeed(log, "c")  # type: ignore[arg-type]
    feed.when_written(lambda: ends.append("before"))
    assert feed.stream("stdout", 7, consumed=lambda _, count: given.append(count)).feed(b"data", seq=1, end=False) == 0
    feed.when_written(lambda: ends.append("after"))
    await feed.written(0.05)
    assert (ends, given) == (["before"], [])
    log.may_write.set()
    await feed.written(30)
    await asyncio.sleep(0)
    assert (ends, given) == (["before", "after"], [4])
    assert log.threads and threading.get_ident() not in log.threads


async def test_output_gets_a_moment_to_be_written_before_it_is_committed_and_no_more() -> None:
    log = SlowLog()
    stream = LogFeed(log, "c").stream("stdout", 7, consumed=lambda _, count: None)  # type: ignore[arg-type]
    stream.feed(b"data", seq=1, end=False)
    await written([stream])
    assert log.is_stuck, "its file system does not answer"
    log.may_write.set()
    while log.is_stuck:
        await written([stream])
    await asyncio.sleep(0)
    assert stream.writing() is None


async def test_the_end_of_a_container_waits_only_so_long_for_a_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_feed, "WRITTEN_S", 0.01)
    log, ended = SlowLog(), asyncio.Event()
    feed = LogFeed(log, "c")  # type: ignore[arg-type]
    feed.stream("stdout", 7, consumed=lambda _, count: None).feed(b"data", seq=1, end=False)
    feed.when_written(ended.set)
    await asyncio.wait_for(ended.wait(), 30 * PATIENCE)
    log.may_write.set()
    await feed.written(30)


def test_many_small_pieces_take_the_memory_of_few() -> None:
    given: list[int] = []
    queue = OutputQueue(given.append)
    for number in range(65536):
        queue.feed(b"x", seq=number, end=False)
    assert len(queue._buffers) == 16
    queue.drop()
    assert sum(given) == 65536
