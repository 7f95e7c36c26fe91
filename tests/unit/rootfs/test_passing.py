# SPDX-License-Identifier: Apache-2.0
"""Bytes that pass by: in order, none before it is approved, and with little memory."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stage1.rootfs import passing
from stage1.rootfs.passing import Passing


@contextmanager
def source(content: bytes, *, piece: int = 1 << 20) -> Iterator[int]:
    """A pipe with that in it, which comes in pieces."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as file:
            for at in range(0, len(content), piece):
                try:
                    file.write(content[at : at + piece])
                except BrokenPipeError:
                    return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield reading
    finally:
        os.close(reading)
        writer.join()


def passed(content: bytes, *, piece: int) -> "Iterator[tuple[Passing, bytearray]]":
    """With what was passed on so far."""
    given = bytearray()
    with source(content, piece=piece) as fd:
        yield Passing(fd, given.extend), given


@pytest.mark.parametrize("piece", [1, 7, 512, 1 << 20])
def test_what_was_not_approved_is_not_passed_on(piece: int) -> None:
    content = os.urandom(3000)
    given = bytearray()
    with source(content, piece=piece) as fd:
        passing = Passing(fd, given.extend)
        assert passing.read(512) == content[:512]
        assert passing.read(100) == content[512:612] and given == b""
        passing.approve()
        assert passing.read(300) == content[612:912]
        assert passing.drain() == len(content) - 912 and content[:612].startswith(given)
        passing.finish()
    assert passing.position == len(content)


@pytest.mark.parametrize("piece", [1, 7, 512, 1 << 20])
def test_what_is_skipped_passes_unseen_and_a_block_may_be_replaced(piece: int) -> None:
    content = os.urandom(5000)
    given = bytearray()
    with source(content, piece=piece) as fd:
        passing = Passing(fd, given.extend)
        passing.read(100)
        passing.read(50)
        passing.replace(b"x" * 50)
        assert passing.skip(2000) == 2000
        passing.read(10)
        passing.replace(b"")
        assert passing.skip(5000) == 5000 - 2160
        assert passing.skip(1) == 0 and passing.read(1) == b""
        passing.finish()
    assert bytes(given) == content[:100] + b"x" * 50 + content[150:]


def test_any_order_of_steps_passes_what_was_approved(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(7)
    for _ in range(100):
        monkeypatch.setattr(passing, "_BUFFER_BYTES", chance.randrange(1, 300))
        content, given, expected = chance.randbytes(2000), bytearray(), 0
        with source(content) as fd:
            one = Passing(fd, given.extend)
            while one.position < len(content):
                before, size = one.position, chance.randrange(200)
                if chance.random() < 0.5:
                    assert one.read(size) == content[before : before + size]
                else:
                    one.skip(size)
                    expected = one.position
                if chance.random() < 0.3:
                    one.approve()
                    expected = one.position
                assert len(given) <= expected
            one.finish()
        assert bytes(given) == content[:expected]


def test_memory_does_not_depend_on_what_passes() -> None:
    pieces: list[int] = []
    with source(bytes(8 << 20)) as fd:
        one = Passing(fd, lambda data: pieces.append(len(data)))
        assert one.skip(8 << 20) == 8 << 20
        one.finish()
        assert sum(pieces) == 8 << 20 and max(pieces) <= 1 << 18 and len(one._buffer) == 1 << 18


@pytest.mark.parametrize("takes", [0, 100_000, 1 << 30])
def test_most_of_what_is_large_is_moved_without_being_read(takes: int) -> None:
    content, given, moved = os.urandom(2_000_000), bytearray(), bytearray()

    def move(fd: int, size: int) -> int:
        before = len(moved)
        while len(moved) - before < min(size, takes) and (data := os.read(fd, min(size, takes) - len(moved) + before)):
            moved.extend(data)
            given.extend(data)
        return len(moved) - before

    with source(content) as fd:
        one = Passing(fd, given.extend, move)
        assert one.read(512) == content[:512]
        assert one.skip(1_900_000) == 1_900_000
        assert one.read(10) == content[1_900_512:1_900_522] and one.position == 1_900_522
        one.approve()
        assert one.skip(1_000_000) == len(content) - 1_900_522
        one.finish()
    assert given == content and (len(moved) > 1_000_000) == (takes > 0)
