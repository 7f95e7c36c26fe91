# SPDX-License-Identifier: Apache-2.0
"""Many containers in one pod: each call over all of them, in one real virtual machine.

CLEARPOD_CONTAINERS is how many (default 40; the guest's agent takes 128). The numbers are printed.
"""

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld
from .test_real_vm import machine

__all__ = ["machine"]

CONTAINERS = int(os.environ.get("CLEARPOD_CONTAINERS", "40"))
AT_ONCE = 8
SLOW_S = 300
MEMORY_MIB = 128
"""A guest's usual size; a hundred sleeping containers take 45 of it."""

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300 + 10 * CONTAINERS)]


class Watch:
    """How long each step took, for people."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self._since = time.monotonic()

    def step(self, name: str) -> None:
        """`name` is done."""
        now = time.monotonic()
        self.steps.append(f"{name} {now - self._since:.1f} s")
        self._since = now


async def each(calls: Iterable[Any]) -> list[Any]:
    """The answers, some calls at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(call: Any) -> Any:
        async with gate:
            return await call

    return await asyncio.gather(*map(one, calls))


async def make(cri: Client, pod: str) -> list[str]:
    """Created, the first one first."""

    async def create(number: int) -> str:
        config = cri.config("sh", "-c", f"echo this is {number}; exec sleep 10000", name=f"c{number}")
        reply = await cri("CreateContainer", pod_sandbox_id=pod, config=config, deadline_s=SLOW_S)
        return str(reply.container_id)

    return await each(create(number) for number in range(CONTAINERS))


async def logged(logs: Path) -> None:
    """Each has written its own line, once."""
    async with asyncio.timeout(30 * PATIENCE):
        while any(not (logs / f"c{number}.log").read_text() for number in range(CONTAINERS)):
            await asyncio.sleep(0.05)
    for number in range(CONTAINERS):
        assert (logs / f"c{number}.log").read_text().split(" ", 3)[3] == f"this is {number}\n"


async def check(cri: Client, containers: list[str], watch: Watch, *, logs: Path) -> str:
    """All run, have numbers and said their own line; the last one runs a command, which tells of the guest's memory."""
    listed = (await cri("ListContainers", deadline_s=SLOW_S)).containers
    assert {one.id: one.state for one in listed} == dict.fromkeys(containers, pb.CONTAINER_RUNNING)
    watch.step("list")
    # A guest that is slow to answer is left out of a list, and not waited for.
    async with asyncio.timeout(30 * PATIENCE):
        while not (stats := (await cri("ListContainerStats", deadline_s=SLOW_S)).stats):
            await asyncio.sleep(0.1)
    assert {one.attributes.id for one in stats} == set(containers)
    assert all(one.memory.working_set_bytes.value > 0 and one.cpu.usage_core_nano_seconds.value > 0 for one in stats)
    watch.step("stats")
    await logged(logs)
    script = ["sh", "-c", "grep -E 'MemTotal|MemAvailable' /proc/meminfo"]
    ran = await cri("ExecSync", container_id=containers[-1], cmd=script, timeout=60, deadline_s=SLOW_S)
    assert ran.exit_code == 0
    watch.step("exec in the last")
    return ", ".join(ran.stdout.decode().split("\n"))


async def test_many_containers_share_one_pod(machine: VmWorld, capsys: pytest.CaptureFixture[str]) -> None:
    watch, logs = Watch(), machine.root / "logs"
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        memory = {"clearpod.io/memory-mib": str(MEMORY_MIB)}
        pod = await cri.pod(log_directory=str(logs), annotations=memory)
        watch.step("pod")
        containers = await make(cri, pod)
        watch.step("create")
        await each(cri("StartContainer", container_id=one, deadline_s=SLOW_S) for one in containers)
        watch.step("start")
        memory_left = await check(cri, containers, watch, logs=logs)
        await each(cri("StopContainer", container_id=one, timeout=0, deadline_s=SLOW_S) for one in containers)
        watch.step("stop")
        states = {(one.id, one.state) for one in (await cri("ListContainers")).containers}
        assert states == {(one, pb.CONTAINER_EXITED) for one in containers}
        await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=SLOW_S)
        watch.step("remove the pod")
        assert machine.left_over() == []
    with capsys.disabled():
        print(f"\n{CONTAINERS} containers in a pod of {MEMORY_MIB} MiB: {'; '.join(watch.steps)}; {memory_left}")
