# SPDX-License-Identifier: Apache-2.0
"""A registry that hangs or is slow holds up no pull from another one."""

import asyncio
import os

import pytest

from cri.config import Config
from cri.config_tables import Images
from cri.image import registry as registry_module
from cri.image.pull import pull
from cri.image.registry import RegistryUnavailable
from cri.store.images import Image, ImageStore
from tests.fakes import odd_registry
from tests.fakes.oci_layout import Layer, Layout, file, tar
from tests.fakes.odd_registry import OddRegistry
from tests.fakes.patience import PACE, PATIENCE

from .test_registry import orphans

BIG = Layer(tar([file("big", os.urandom(400_000))]))


def small(layout: Layout) -> str:
    """The digest of an image of one large layer."""
    return str(layout.image([BIG])["digest"])


async def stuck(store: ImageStore, registry: OddRegistry, *, config: Config) -> "asyncio.Task[Image]":
    """A pull from a registry that hangs in the middle of the layer."""
    task = asyncio.create_task(pull(store, f"{registry.host}/a:1", config=config))
    await asyncio.to_thread(registry.hangs.wait, 30 * PATIENCE)
    return task


async def test_a_registry_that_hangs_holds_no_pull_up_that_wants_the_same_layer_of_another(
    layout: Layout, store: ImageStore
) -> None:
    top, config = small(layout), Config()
    hanging = OddRegistry(layout, {"1": top}, odd_registry.half_then_hang)
    with hanging as registry, OddRegistry(layout, {"1": top}) as good:
        held = await stuck(store, registry, config=config)
        image = await pull(store, f"{good.host}/a:1", config=config)
        assert image.size_bytes > 400_000 and not held.done()
        held.cancel()
        async with asyncio.timeout(30 * PATIENCE):
            while orphans(store):
                await asyncio.sleep(0.02)


async def test_a_slow_registry_makes_room_for_a_pull_that_waits_for_its_turn(
    monkeypatch: pytest.MonkeyPatch, layout: Layout, store: ImageStore
) -> None:
    monkeypatch.setattr(registry_module, "SLOW_S", 0.3)
    monkeypatch.setattr(registry_module, "CHECK_S", 0.05)
    top, config = small(layout), Config(images=Images(pulls=1))
    hanging = OddRegistry(layout, {"1": top}, odd_registry.half_then_hang)
    with hanging as registry, OddRegistry(layout, {"1": top}) as good:
        held = await stuck(store, registry, config=config)
        await asyncio.sleep(0.5 * PACE)
        assert not held.done(), "nobody waits"
        assert (await pull(store, f"{good.host}/a:1", config=config)).size_bytes > 400_000
        with pytest.raises(RegistryUnavailable, match=r"/a:1 has sent .*images.pulls"):
            await held
    assert orphans(store) == []
