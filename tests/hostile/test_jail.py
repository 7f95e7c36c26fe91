# SPDX-License-Identifier: Apache-2.0
"""A compromised hypervisor: a program in its place tries the host, its own pod's files and its neighbours."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from tests.hostile.jail_attacks import ATTACKS
from tests.hostile.rig import Node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

BOMB_S = 12.0
CONSOLE_MIB = 700


async def test_nothing_that_it_tries_succeeds(under_attack: Node) -> None:
    async with under_attack.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under_attack.reference))
        await cri.running("good")
        bad, _ = await cri.running("bad", hostname="compromised")
        report = await under_attack.report(bad)
        assert set(report) == {attack.__name__ for attack in ATTACKS}
        assert {name: result for name, result in report.items() if result[0] != "refused"} == {}
        assert under_attack.canary_is_whole


async def test_what_it_left_is_not_followed_when_the_daemon_comes_back(under_attack: Node) -> None:
    """Even if the tree were its own: the link is put there by us."""
    async with under_attack.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under_attack.reference))
        bad, container = await cri.running("bad")
    under_attack.kill(signal.SIGKILL)
    volumes = Path(under_attack.root, "run/pods", bad, "tree/volumes")
    (volumes / "containers").rename(volumes / "gone")
    (volumes / "containers").symlink_to(under_attack.root / "canary")
    (under_attack.root / "canary" / container).mkdir()
    under_attack.start()
    async with under_attack.client() as cri:
        await cri("ListPodSandbox")
        await asyncio.sleep(1)
        code, sentence = await cri.refused("RemovePodSandbox", pod_sandbox_id=bad)
        assert code == "FAILED_PRECONDITION" and "symbolic link" in sentence
    os.rmdir(under_attack.root / "canary" / container)
    assert under_attack.canary_is_whole


async def test_all_the_memory_it_takes_is_its_own_pods(under_attack: Node) -> None:
    async with under_attack.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under_attack.reference))
        good, _ = await cri.running("good")
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox("bad", hostname="memory-bomb"))
        assert code not in ("INTERNAL", "DEADLINE_EXCEEDED") and "ended" in sentence
        assert await cri.is_ready(good)


async def test_a_console_without_end_takes_no_more_than_the_vm_may(in_memory: Node) -> None:
    """Where the run directory is memory, as `/run` is: what a VMM writes there is charged to it."""
    under_attack = in_memory
    async with under_attack.client() as cri:
        running = asyncio.ensure_future(
            cri.refused("RunPodSandbox", config=cri.sandbox("bad", hostname="console-bomb"))
        )
        await asyncio.sleep(BOMB_S)
        consoles = list(Path(under_attack.root, "run/pods").glob("*/console.log"))
        assert sum(path.stat().st_blocks for path in consoles) * 512 < CONSOLE_MIB << 20
        await running
