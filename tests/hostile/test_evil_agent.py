# SPDX-License-Identifier: Apache-2.0
"""A real guest whose agent is an attacker's when it is copied, suspended or resumed; QEMU is honest. test_saves.py has
the attacks that need no VM.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE
from stage1.linux.host import which
from tests.fakes.patience import PATIENCE
from tests.hostile.evil_agent import KINDS, guest_of
from tests.hostile.killed import COUNTER, count, goes_on, small_vms
from tests.hostile.rig import Node
from tests.hostile.test_saves import failure, removed

pytestmark = [pytest.mark.vm, pytest.mark.own_kernel, pytest.mark.timeout(600)]

STALLED_MS = 5000.0 * PATIENCE
GROWTH_MIB = 16
ATTACK_S = 3.0


@pytest.fixture(scope="module")
def vms(guest_dir: Path, reference: str) -> Iterator[Node]:
    """A node whose guests have that agent; it is an honest one for pods that are not called so."""
    if not which("musl-gcc") or not which("nanopb_generator"):
        pytest.skip("needs musl-gcc and nanopb_generator: apt install musl-tools nanopb")
    with (
        tempfile.TemporaryDirectory(prefix="agent") as place,
        small_vms(guest_of(guest_dir, Path(place)), reference) as made,
    ):
        yield made


@pytest.mark.parametrize("kind", KINDS)
async def test_it_harms_its_own_pod_alone(vms: Node, kind: str) -> None:
    async with vms.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=vms.reference))
        good, ticking = await cri.running("good")
        fields = {"hostname": f"evil-{kind}", "annotations": {FORKABLE: "true"}, "log_directory": f"{cri.logs}/bad"}
        bad = await cri.pod("bad", **fields)
        container = await cri.container(bad, "sh", "-c", COUNTER)
        await cri("StartContainer", container_id=container)
        await count(cri, container)
        before = vms.rss_mib()
        config = cri.sandbox("copy", annotations={FORK_OF: "bad"})
        copying = asyncio.ensure_future(failure(cri("RunPodSandbox", config=config, deadline_s=120)))
        assert max(await cri.times(ticking, seconds=ATTACK_S)) < STALLED_MS
        if kind == "claims":  # QEMU does not save a guest that has a share
            assert await copying and await cri.is_ready(bad)
            now = await count(cri, container)
            assert "suspend" in await failure(cri.ours("SuspendPod", bad)) or await cri.is_ready(bad)
            await goes_on(cri, container, now)
        await removed(cri, bad)
        await copying
        assert vms.rss_mib() - before < GROWTH_MIB and await cri.is_ready(good)
    await vms.empty()
