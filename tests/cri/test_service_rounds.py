# SPDX-License-Identifier: Apache-2.0
"""What the daemon does periodically as a service; its notifications and signals are in test_service.py."""

import asyncio

from cri.cli.service import Service, Signals
from cri.notify import Notifier
from stage1.linux import heap

from .conftest import World


class Quiet(Signals):
    """No signal has a meaning."""

    def __init__(self) -> None:
        self.stop, self.reload = asyncio.Event(), asyncio.Event()


class Counted(heap.Trimmer):
    """Always due; trims nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.is_trimmed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def is_due(self) -> bool:
        return True

    def trim(self) -> None:
        self._loop.call_soon_threadsafe(self.is_trimmed.set)


async def test_a_daemon_that_serves_gives_freed_memory_back_in_a_thread(world: World) -> None:
    async with world.daemon() as cri:
        assert cri.node is not None
        signals = Quiet()
        service = Service(cri.node, Notifier({}), path=None, set_up_logging=lambda _: None)
        service.trimmer = trimmer = Counted()
        serving = asyncio.create_task(service.run(signals))
        await trimmer.is_trimmed.wait()
        signals.stop.set()
        await serving
