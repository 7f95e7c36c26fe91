# SPDX-License-Identifier: Apache-2.0
"""The fork server is there while images are pulled and a while longer, and never ended under a pull."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from cri.image import registry
from cri.image.registry import Processes
from stage1.rootfs.limits import Limits
from stage1.rootfs.worker import Asker, ForkServer, Question, Worker
from tests.fakes.patience import PATIENCE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can confine a process by itself")
QUESTION = Question("cri.image.manifest", ("names", "x", "amd64", json.dumps(Limits()), ""), "a document", 60.0)


def ask(server: ForkServer) -> int:
    """Let it be used; the server's pid."""
    worker = Worker(QUESTION._replace(arguments=()), Asker(Limits(), server=server))
    assert worker.ask(QUESTION, b'{"manifests": []}') == {}
    worker.close()
    assert server._process is not None
    return server._process.pid


async def gone(pid: int) -> None:
    async with asyncio.timeout(10 * PATIENCE):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)


async def test_pulls_one_after_the_other_and_side_by_side_have_one_server() -> None:
    kept = Processes()
    with kept.used() as first, kept.used() as second:
        pid = ask(first)
        assert ask(second) == pid
    with kept.used() as third:
        assert ask(third) == pid
    kept.close()
    await gone(pid)


async def test_it_ends_a_while_after_the_last_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KEEP_S", 0.05)
    kept = Processes()
    with kept.used():
        with kept.used() as server:
            pid = ask(server)
        await asyncio.sleep(0.2)
        assert ask(server) == pid
    await gone(pid)
    with kept.used() as server:
        assert ask(server) != pid
    kept.close()


async def test_without_a_use_there_is_no_process() -> None:
    kept = Processes()
    with kept.used() as server:
        assert server._process is None
    kept.close()
