# SPDX-License-Identifier: Apache-2.0
"""Much output in small pieces is read, and written to its log, together, and none of it is lost."""

import asyncio
from pathlib import Path

import pytest

from cri import gathering
from cri.logs.batch import Batch
from tests.fakes.patience import PATIENCE

from .conftest import World

PIECES = 40
TRICKLE = f"""
import os, time
for number in range({PIECES}):
    os.write(1, (b"%03d" % number) * 2000 + b"\\n")
    time.sleep(0.005)
"""


async def test_pieces_that_come_while_a_link_waits_are_written_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def write(batch: Batch, of: object = Batch.write) -> object:
        batches.append(len(batch.frames))
        return of(batch)  # type: ignore[operator]

    monkeypatch.setattr(Batch, "write", write)
    monkeypatch.setattr(gathering, "GATHER_S", 0.2)
    monkeypatch.setattr(gathering, "NEAR_S", 1000.0)
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=str(world.root / "logs"))
        c = await cri.container(pod, "python3", "-c", TRICKLE, log_path="c.log")
        await cri("StartContainer", container_id=c)
        async with asyncio.timeout(60 * PATIENCE):
            await cri.ended(c)
    text = (Path(world.root) / "logs" / "c.log").read_text(encoding="ascii")
    assert [line.split()[-1][:3] for line in text.splitlines()] == [f"{number:03d}" for number in range(PIECES)]
    assert len(batches) < PIECES / 2


async def test_only_output_for_logs_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "GATHER_S", 1000.0)
    monkeypatch.setattr(gathering, "NEAR_S", 1000.0)
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
        async with asyncio.timeout(60 * PATIENCE):
            done = await cri("ExecSync", container_id=c, cmd=["python3", "-c", TRICKLE], timeout=100)
    assert len(done.stdout) == PIECES * 6001
