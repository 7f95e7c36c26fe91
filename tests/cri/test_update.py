# SPDX-License-Identifier: Apache-2.0
"""New limits: checked, put in force in the guest, recorded. For a real guest see test_real_stats.py."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.guest import messages
from tests.fakes.patience import PATIENCE

from .conftest import World

MIB = 1 << 20
FIRST = pb.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, cpu_shares=256, cpuset_cpus="0")

REFUSED = [
    ({}, "INVALID_ARGUMENT", "no new limits"),
    ({"linux": {"cpu_period": 1}}, "INVALID_ARGUMENT", "cpu_period must be between"),
    ({"linux": {"cpu_quota": -2}}, "INVALID_ARGUMENT", "cpu_quota must be between"),
    ({"linux": {"cpu_shares": 1 << 20}}, "INVALID_ARGUMENT", "cpu_shares"),
    ({"linux": {"memory_limit_in_bytes": -5}}, "INVALID_ARGUMENT", "memory_limit_in_bytes"),
    ({"linux": {"memory_limit_in_bytes": 4096}}, "INVALID_ARGUMENT", "memory_limit_in_bytes"),
    ({"linux": {"oom_score_adj": 1001}}, "INVALID_ARGUMENT", "oom_score_adj"),
    ({"linux": {"cpuset_cpus": "0-"}}, "INVALID_ARGUMENT", "list such as"),
    ({"linux": {"cpuset_cpus": "0,9999"}}, "INVALID_ARGUMENT", "last processor"),
    ({"linux": {"cpuset_mems": "x"}}, "INVALID_ARGUMENT", "list such as"),
    ({"linux": {"unified": {"../memory.max": "1"}}}, "INVALID_ARGUMENT", "a cgroup"),
    ({"linux": {"hugepage_limits": [{"page_size": "2MB", "limit": 1}]}}, "UNIMPLEMENTED", "huge pages"),
    ({"linux": {"memory_limit_in_bytes": 300 * MIB}}, "RESOURCE_EXHAUSTED", "300 MiB"),
    ({"container_id": "f" * 64, "linux": {"cpu_shares": 2}}, "NOT_FOUND", "no container"),
]


@pytest.mark.parametrize(("fields", "code", "sentence"), REFUSED)
async def test_limits_that_can_not_be_change_nothing(
    world: World, fields: dict[str, Any], code: str, sentence: str
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000", linux=pb.LinuxContainerConfig(resources=FIRST))
        await cri("StartContainer", container_id=c)
        result = await cri.refused("UpdateContainerResources", **{"container_id": c, **fields})
        assert result[0] == code
        assert sentence in result[1]
        assert (await cri.status(c)).resources.linux == FIRST
        assert not any(isinstance(op, messages.Update) for guest in world.vmm.guests.values() for op in guest.asked)


async def test_new_limits_are_applied_in_the_guest_and_survive_the_daemon(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000", linux=pb.LinuxContainerConfig(resources=FIRST))
        await cri("StartContainer", container_id=c)
        new = {"memory_limit_in_bytes": 96 * MIB, "cpu_quota": 20000, "unified": {"memory.high": "1000000"}}
        await cri("UpdateContainerResources", container_id=c, linux=new)
        bundle = Path(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers/{c}")
        assert json.loads((bundle / "resources.json").read_text()) == {
            "memory": {"limit": 96 * MIB},
            "cpu": {"shares": 256, "quota": 20000},
            "unified": {"memory.high": "1000000"},
        }
    async with world.daemon() as cri:
        output = (await cri.status(c)).resources.linux
        assert (output.memory_limit_in_bytes, output.cpu_quota, output.cpu_shares) == (96 * MIB, 20000, 256)
        assert output.cpuset_cpus == "0"


async def test_a_created_container_starts_with_the_new_limits(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000", linux=pb.LinuxContainerConfig(resources=FIRST))
        await cri("UpdateContainerResources", container_id=c, linux={"cpu_shares": 512})
        config = Path(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers/{c}/config.json")
        resources = json.loads(config.read_text())["linux"]["resources"]
        assert resources["cpu"] == {"shares": 512}
        assert resources["devices"]
        await cri("StartContainer", container_id=c)
        await cri("StopContainer", container_id=c)
        code, _ = await cri.refused("UpdateContainerResources", container_id=c, linux={"cpu_shares": 2})
        assert code == "FAILED_PRECONDITION"


async def test_a_limit_below_what_is_used_or_refused_by_the_guest_leaves_the_old_ones(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
        async with asyncio.timeout(10 * PATIENCE):  # before its exec it has next to nothing
            while (await cri("ContainerStats", container_id=c)).stats.memory.working_set_bytes.value <= MIB:
                await asyncio.sleep(0.02)
        code, sentence = await cri.refused(
            "UpdateContainerResources", container_id=c, linux={"memory_limit_in_bytes": MIB, "cpu_shares": 100}
        )
        assert code == "FAILED_PRECONDITION"
        assert "nothing was changed" in sentence
        world.faults.refuse[messages.Update] = messages.Reply(code=messages.FAILED, error="cpu.max: Invalid argument")
        result = await cri.refused("UpdateContainerResources", container_id=c, linux={"cpu_shares": 100})
        assert result == ("UNKNOWN", "cpu.max: Invalid argument")
        assert not (await cri.status(c)).resources.linux.cpu_shares
        world.faults.refuse.clear()
        await cri("UpdateContainerResources", container_id=c, linux={"cpu_shares": 100})
