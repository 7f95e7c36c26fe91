# SPDX-License-Identifier: Apache-2.0
"""What the daemon does periodically as a service; its notifications and signals are in test_service.py."""

import asyncio
import errno

import pytest

from cri.cli import service as service_module
from cri.cli.service import Service, Signals
from cri.notify import Notifier
from stage1.linux import heap

from .conftest import World


class Quiet(Signals):
    """No signal has a meaning."""

    def __init__(self) -> None:
        self.stop, self.reload = asyncio.Event(), asyncio.Event()


class Counted(heap.Trimmer):
    """Always due, but for the first time, when no descriptor is free; trims nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.is_trimmed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._is_first = True

    def is_due(self) -> bool:
        if self._is_first:
            self._is_first = False
            raise OSError(errno.EMFILE, "Too many open files")
        return True

    def trim(self) -> None:
        self._loop.call_soon_threadsafe(self.is_trimmed.set)


async def test_a_daemon_that_serves_gives_freed_memory_back_in_a_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "TRIM_S", 0.01)
    async with world.daemon() as cri:
        assert cri.node is not None
        signals = Quiet()
        service = Service(cri.node, Notifier({}), path=None, set_up_logging=lambda _: None)
        service.trimmer = trimmer = Counted()
        serving = asyncio.create_task(service.run(signals))
        await trimmer.is_trimmed.wait()
        signals.stop.set()
        await serving
