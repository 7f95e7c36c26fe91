# SPDX-License-Identifier: Apache-2.0
"""A container's stream on a descriptor, whose reader is slow, gone, or a file."""

import asyncio
import os
from pathlib import Path

import pytest

from cri.cli.run.standard_streams import Output
from stage1.errors import KernelError
from tests.fakes.patience import PATIENCE


class Credit:
    """Counts what is given back, and the first byte."""

    def __init__(self) -> None:
        self.bytes = self.firsts = 0

    def consumed(self, stream: int, count: int) -> None:
        assert stream == 7
        self.bytes += count

    def first(self) -> None:
        self.firsts += 1

    def output(self, descriptor: int) -> Output:
        return Output(descriptor, stream=7, consumed=self.consumed, first=self.first)


async def test_a_reader_that_sleeps_holds_back_the_credit_and_not_the_loop() -> None:
    source, target = os.pipe()
    credit, data = Credit(), os.urandom(300_000)
    output = credit.output(target)
    assert output.feed(data[:100], seq=1, end=False) == 0
    assert output.feed(data[100:], seq=2, end=True) == 0
    async with asyncio.timeout(10 * PATIENCE):
        while not credit.bytes:
            await asyncio.sleep(0.005)
    assert credit.bytes < len(data)
    result = b""
    while len(result) < len(data):
        result += await asyncio.to_thread(os.read, source, 10_000)
    await asyncio.wait_for(output.drained(), 5 * PATIENCE)
    assert (result, credit.bytes, credit.firsts) == (data, len(data), 1)
    os.close(source)
    os.close(target)


async def test_a_reader_that_is_gone_is_a_fault_and_later_data_is_dropped() -> None:
    source, target = os.pipe()
    output = Credit().output(target)
    os.close(source)
    output.feed(b"x", seq=1, end=False)
    await asyncio.wait_for(output.drained(), 5 * PATIENCE)
    with pytest.raises(BrokenPipeError):
        output.fault.result()
    assert output.feed(b"more", seq=2, end=False) == 4
    os.close(target)


async def test_a_full_disk_is_a_fault_with_a_sentence() -> None:
    target = os.open("/dev/full", os.O_WRONLY)
    output = Credit().output(target)
    output.feed(b"x", seq=1, end=False)
    await asyncio.wait_for(output.drained(), 5 * PATIENCE)
    with pytest.raises(KernelError, match="No space left"):
        output.fault.result()
    os.close(target)


async def test_a_regular_file_takes_everything(tmp_path: Path) -> None:
    credit = Credit()
    with (tmp_path / "out").open("wb") as file:
        output = credit.output(file.fileno())
        output.feed(b"a" * 10_000, seq=1, end=False)
        output.feed(b"b", seq=2, end=True)
        await asyncio.wait_for(output.drained(), 5 * PATIENCE)
    assert (tmp_path / "out").read_bytes() == b"a" * 10_000 + b"b"
    assert credit.bytes == 10_001
