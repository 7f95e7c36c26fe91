# SPDX-License-Identifier: Apache-2.0
"""What a claim of a pool slot costs the daemon, as counts: hops into threads, whole files synced, files made where the
network's record is.
"""

import asyncio
import os
from collections import Counter
from typing import Any

import pytest

from tests.fakes.cni import FakeCni

from .conftest import World

HOPS = 3
"""The node's facts, the claim, and the pod's files while its guest is told the same."""


class Counts:
    """What is done while it `is_counting`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.counts, self.is_counting = Counter[str](), False
        loop = asyncio.base_events.BaseEventLoop
        for name, owner, method in (
            ("hops", loop, "run_in_executor"),
            ("syncs", os, "fsync"),
            ("renames", os, "rename"),
        ):
            patch.setattr(owner, method, self._counted(name, getattr(owner, method)))

    def _counted(self, name: str, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            path = str(args[1]) if name == "renames" else ""
            self.counts[name] += self.is_counting and (not path or "/cache/" in path)
            return real(*args, **options)

        return call


async def test_a_claim_hops_into_threads_three_times_and_syncs_no_whole_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cni = FakeCni(world.root / "cni")
    cni.make_one_device()
    world.host = world.host._replace(network=cni.settings)
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1)
        counts = Counts(monkeypatch)
        counts.is_counting = True
        pod = await cri.pod("web")
        counts.is_counting = False
        assert (await cri.pool())["taken"] == 1
        assert counts.counts == Counter(hops=HOPS)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert cni.left_over() == []
