# SPDX-License-Identifier: Apache-2.0
"""What the end of a pod's VM waits for: that its link's connection has ended, and not for a pause after that."""

import asyncio

import pytest

from cri import agent
from cri.live import pod as live_pod
from tests.fakes.patience import PATIENCE

from .conftest import World


@pytest.mark.parametrize("call", ["StopPodSandbox", "RemovePodSandbox"])
async def test_a_pod_that_ends_does_not_wait_until_its_link_would_have_been_tried_again(
    call: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.daemon() as cri:
        monkeypatch.setattr(agent, "RETRY_S", 1000.0)
        pod = await cri.pod()
        monkeypatch.setattr(live_pod, "DRAIN_S", 1000.0)
        async with asyncio.timeout(30 * PATIENCE):
            await cri(call, pod_sandbox_id=pod)
