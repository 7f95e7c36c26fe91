# SPDX-License-Identifier: Apache-2.0
"""Storms: dozens of calls at once on the same few pods and containers, of fake guests and of real ones. Nothing that
stops or removes fails, no answer is a fault of ours, and in the end nothing is left.
"""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from grpc.aio import AioRpcError

from cri.pb import runtime_pb2 as pb
from tests.cri.conftest import Client, World

pytestmark = pytest.mark.timeout(300)

ENDS = ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox")
SEED = 20261127


class Storm:
    """Two pods' worth of calls; `ids` are all that were ever given."""

    def __init__(self, cri: Client, root: str, seed: int) -> None:
        self.cri, self.root, self.random = cri, root, random.Random(seed)
        self.pods: list[str] = []
        self.containers: list[str] = []
        self.codes: dict[tuple[str, str], int] = {}
        self.faults: list[str] = []

    async def pod(self, name: str) -> str:
        """A pod with a container that runs."""
        self.pods.append(await self.cri.pod(name, log_directory=f"{self.root}/logs"))
        container = await self.cri.container(self.pods[-1], "sleep", "1000", name="first")
        await self.cri("StartContainer", container_id=container)
        self.containers.append(container)
        return self.pods[-1]

    def _calls(self) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.cri.config("sleep", "1000", name=f"c{self.random.randrange(10**9)}")
        for pod in self.pods[-2:]:
            yield "CreateContainer", {"pod_sandbox_id": pod, "config": config}
            yield "UpdatePodSandboxResources", {"pod_sandbox_id": pod, "resources": {"cpu_period": 99, "cpu_quota": 50}}
            yield "PodSandboxStatus", {"pod_sandbox_id": pod, "verbose": True}
            yield "PodSandboxStats", {"pod_sandbox_id": pod}
            yield "PortForward", {"pod_sandbox_id": pod, "port": [80]}
        for container in self.containers[-4:]:
            one: dict[str, Any] = {"container_id": container}
            yield "StartContainer", one
            yield "ExecSync", {**one, "cmd": ["true"], "timeout": 30}
            yield "UpdateContainerResources", {**one, "linux": {"cpu_shares": self.random.randrange(2, 1000)}}
            yield "ContainerStatus", {**one, "verbose": True}
            yield "ContainerStats", one
            yield "ReopenContainerLog", one
            yield "StopContainer", {**one, "timeout": self.random.randrange(2)}
            yield "RemoveContainer", one

    async def blow(self, count: int, *more: tuple[str, dict[str, Any]]) -> None:
        """So many calls at once, with `more` among them."""
        chosen = [*self.random.sample(list(self._calls()), count), *more]
        self.random.shuffle(chosen)
        await asyncio.gather(*(self._call(name, fields) for name, fields in chosen))
        assert self.faults == []

    async def _call(self, name: str, fields: dict[str, Any]) -> None:
        await asyncio.sleep(self.random.choice([0, 0, 0.002, 0.02, 0.1]))
        try:
            reply = await self.cri(name, deadline_s=60, **fields)
        except AioRpcError as error:
            code = error.code().name
            is_late = code == "DEADLINE_EXCEEDED" and not name.endswith("Stats")
            if code == "INTERNAL" or name in ENDS or is_late:
                self.faults.append(f"{name}: {code}: {error.details()}")
        else:
            code = "OK"
            if name == "CreateContainer":
                self.containers.append(reply.container_id)
        self.codes[name, code] = self.codes.get((name, code), 0) + 1


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
async def test_calls_at_once_on_the_same_things_end_well(any_world: World, seed: int) -> None:
    rounds = 12 if any_world.vmm.__class__.__name__ == "FakeVmm" else 1
    async with any_world.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=any_world.image))
        storm = Storm(cri, str(any_world.root), seed)
        for number in range(rounds):
            pod = await storm.pod(f"p{number}")
            await storm.blow(12)
            await storm.blow(12, ("StopPodSandbox", {"pod_sandbox_id": pod}))
            await storm.blow(12, *[("RemovePodSandbox", {"pod_sandbox_id": pod})] * 2)
            assert pod not in {one.id for one in (await cri("ListPodSandbox")).items}
            assert [one.id for one in (await cri("ListContainers")).containers if one.pod_sandbox_id == pod] == []
        assert any_world.left_over() == []
    expected = {("StopPodSandbox", "OK"), ("RemovePodSandbox", "OK"), ("RemoveContainer", "OK")}
    assert expected <= set(storm.codes), storm.codes
