# SPDX-License-Identifier: Apache-2.0
"""A guest that floods its console does not fill the host's memory."""

import asyncio
import os
from pathlib import Path

import pytest

from cri.live import consoles
from stage1.errors import KernelError
from stage1.vm.vmm import CONSOLE_KEEP_BYTES, VmProcess
from tests.fakes.patience import PATIENCE

from .conftest import Client, World


def _append(path: str, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


async def _flood_and_wait(cri: Client, pod: str) -> None:
    """Write 4 MiB to the pod's console, and wait until they take no more room than may be kept."""
    path = f"{cri.node.pods.get(pod).directory}/console.log"
    _append(path, b"x" * (4 << 20) + b"\nlast words\n")
    length = os.stat(path).st_size
    async with asyncio.timeout(10 * PATIENCE):
        while os.stat(path).st_blocks * 512 > CONSOLE_KEEP_BYTES + 65536:
            await asyncio.sleep(0.01)
    assert os.stat(path).st_size == length
    assert Path(path).read_bytes().endswith(b"\nlast words\n")


async def test_a_flooded_console_is_trimmed_as_long_as_the_pod_lives_and_after_a_restart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "TRIM_S", 0.02)
    async with world.daemon() as cri:
        pod = await cri.pod()
        await _flood_and_wait(cri, pod)
        await _flood_and_wait(cri, pod)
    async with world.daemon() as cri:
        await _flood_and_wait(cri, pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_a_console_that_can_not_be_trimmed_is_logged_and_the_pod_stays_watched(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(vm: VmProcess) -> None:
        raise KernelError("fallocate", 95, vm.console)

    monkeypatch.setattr(consoles, "TRIM_S", 0.02)
    monkeypatch.setattr(VmProcess, "trim_console", fail)
    async with world.daemon() as cri:
        pod = await cri.pod()
        async with asyncio.timeout(10 * PATIENCE):
            while "pod.console" not in caplog.messages:
                await asyncio.sleep(0.01)
        world.vmm.stop()
        async with asyncio.timeout(10 * PATIENCE):
            await cri.node.pods.get(pod).gone.wait()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
