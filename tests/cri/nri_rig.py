# SPDX-License-Identifier: Apache-2.0
"""A daemon with NRI, and plugins for it. Used by the tests of NRI."""

import asyncio
from typing import Any

import pytest

from cri.config_tables import Nri
from tests.fakes.nri_plugin import FakePlugin, No
from tests.fakes.patience import PATIENCE

from .conftest import Client, World

MIB = 1 << 20
FOREVER = 30 * PATIENCE
LIVES = "RunPodSandbox CreateContainer PostCreateContainer StartContainer PostStartContainer StopContainer".split()


@pytest.fixture
def nri_world(world: World) -> World:
    """NRI is on."""
    return limited(world, request_timeout_s=5 * PATIENCE)


class Held:
    """An answer that a plugin gives once `go` is set; `reached` is set when it was asked."""

    def __init__(self, answer: Any) -> None:
        self._answer, self.reached, self.go = answer, asyncio.Event(), asyncio.Event()

    async def __call__(self, text: Any) -> Any:
        self.reached.set()
        await self.go.wait()
        return self._answer


def limited(world: World, **limits: float) -> World:
    """The world, whose daemons have NRI with these time limits."""
    table = Nri(enabled=True, socket=f"{world.root}/nri/nri.sock", **limits)
    world.config = world.config.but(nri=table)
    return world


def plugin(world: World, name: str = "test", index: str = "00", **more: Any) -> FakePlugin:
    """A plugin for the world's daemon."""
    return FakePlugin(world.config.nri.socket, name, index, **more)


async def created(cri: Client, pod: str, name: str = "c", **fields: Any) -> str:
    """A container that would run for long."""
    return await cri.container(pod, "sleep", "1000", name=name, **fields)


def no(text: str, code: int = 2) -> Any:
    """What a plugin answers that refuses."""
    raise No(text, code)
