# SPDX-License-Identifier: Apache-2.0
"""In-place resize as the kubelet does it: up to the VM's ceiling and down again, in force in the guest, or refused with
what would give room. For a real guest see tests/vm/test_crictl_update.py.
"""

import logging
import os
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.guest.messages import Tune
from stage1.linux import podcgroup

from .conftest import Client, World

MIB = 1 << 20
PERIOD = 100_000
HAS_TWO = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a VM has no more vCPUs than the host has processors")
NO_LIMIT = [-1, -1 - 128 * MIB, 2**63 - 4096, 2**63 - 4096 - 128 * MIB]
"""What the kubelet reads from a pod's cgroup without a limit, in both versions, and what it says with an overhead."""


def tuned(world: World) -> list[tuple[str, str]]:
    """The Tune requests that the guests got, in order."""
    return [(op.file, op.text) for guest in world.vmm.guests.values() for op in guest.asked if isinstance(op, Tune)]


async def started(cri: Client, **resources: int) -> str:
    """A pod with these sums."""
    config = cri.sandbox()
    config.linux.resources.CopyFrom(pb.LinuxContainerResources(**resources))
    return str((await cri("RunPodSandbox", config=config)).pod_sandbox_id)


def sums(cri: Client, pod: str) -> Any:
    record = cri.node.pods.get(pod).record
    return pb.PodSandboxConfig.FromString(record.config).linux.resources


async def test_a_pod_grows_to_its_ceiling_and_shrinks_and_no_further(world: World) -> None:
    async with world.daemon() as cri:
        pod = await started(cri, memory_limit_in_bytes=64 * MIB)
        for mib in (128, 32, 96):
            resources = {"memory_limit_in_bytes": mib * MIB, "cpu_shares": 100}
            await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=resources)
        assert tuned(world) == [("memory.max", str(mib * MIB)) for mib in (128, 32, 96)]
        output = set()
        for _ in range(2):
            code, sentence = await cri.refused(
                "UpdatePodSandboxResources", pod_sandbox_id=pod, resources={"memory_limit_in_bytes": 200 * MIB}
            )
            assert code == "RESOURCE_EXHAUSTED"
            output.add(sentence)
        (sentence,) = output
        for word in (
            "has at most 258 MiB and 1 vCPUs",
            "can't grow to 328 MiB",
            "vm.ceiling",
            "clearpod.io/memory-mib",
        ):
            assert word in sentence
        assert len(tuned(world)) == 3 and sums(cri, pod).memory_limit_in_bytes == 96 * MIB
    async with world.daemon() as cri:
        assert cri.node.pods.get(pod).record.pod.limit_bytes == 96 * MIB
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert (await cri.refused("UpdatePodSandboxResources", pod_sandbox_id=pod))[0] == "FAILED_PRECONDITION"
        assert (await cri.refused("UpdatePodSandboxResources", pod_sandbox_id="x"))[0] == "NOT_FOUND"


@HAS_TWO
async def test_vcpus_come_online_when_the_quota_needs_them_and_go_again(world: World) -> None:
    async with world.daemon() as cri:
        pod = await started(cri, cpu_quota=PERIOD, cpu_period=PERIOD)
        model = cri.node.pods.get(pod).record.pod
        assert (model.vcpus, model.online_vcpus) == (2, 1)
        for quota in (3 * PERIOD // 2, PERIOD, -1):
            await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources={"cpu_quota": quota})
        output = [("150000 100000", "2"), ("100000 100000", "1"), ("max 100000", "2")]
        assert tuned(world) == [one for cpu, vcpus in output for one in (("cpu.max", cpu), ("cpus", vcpus))]
    async with world.daemon() as cri:
        assert cri.node.pods.get(pod).record.pod.online_vcpus == 2
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources={"cpu_quota": PERIOD // 2})
        assert tuned(world)[-1] == ("cpus", "1")


@HAS_TWO
async def test_a_containers_quota_brings_vcpus_too(world: World) -> None:
    async with world.daemon() as cri:
        pod = await started(cri, cpu_quota=PERIOD, cpu_period=PERIOD)
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
        await cri("UpdateContainerResources", container_id=c, linux={"cpu_quota": PERIOD, "cpu_period": PERIOD})
        assert tuned(world) == []
        for _ in range(2):
            await cri("UpdateContainerResources", container_id=c, linux={"cpu_quota": 2 * PERIOD})
        assert tuned(world) == [("cpus", "2")]


@HAS_TWO
async def test_more_vcpus_than_the_ceiling_are_refused(world: World) -> None:
    async with world.daemon() as cri:
        pod = await started(cri, cpu_quota=PERIOD // 2, cpu_period=PERIOD)
        c = await cri.container(pod, "sleep", "1000")
        for name, fields in (
            ("UpdatePodSandboxResources", {"pod_sandbox_id": pod, "resources": {"cpu_quota": 2 * PERIOD}}),
            ("UpdateContainerResources", {"container_id": c, "linux": {"cpu_quota": 2 * PERIOD}}),
        ):
            code, sentence = await cri.refused(name, **fields)
            assert code == "RESOURCE_EXHAUSTED" and "and 1 vCPUs" in sentence and "clearpod.io/vcpus" in sentence


@pytest.mark.parametrize("none", NO_LIMIT)
async def test_each_form_in_which_the_kubelet_gives_no_limit_is_no_limit(world: World, none: int) -> None:
    async with world.daemon() as cri:
        pod = await started(cri, memory_limit_in_bytes=64 * MIB, cpu_quota=50_000, cpu_period=PERIOD)
        new = {"memory_limit_in_bytes": none, "cpu_quota": -1 - 10_000, "cpu_period": PERIOD}
        for _ in range(2):
            await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=new)
        assert tuned(world) == [("memory.max", "max"), ("cpu.max", f"max {PERIOD}")]
        limits = {"memory_limit_in_bytes": 100 * MIB}
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=limits)
        assert tuned(world)[2:] == [("memory.max", str(100 * MIB))]


async def test_a_pod_without_a_limit_can_get_one(world: World) -> None:
    async with world.daemon() as cri:
        pod = await started(cri)
        c = await cri.container(pod, "sleep", "1000")
        new = {"memory_limit_in_bytes": 100 * MIB}
        code, _ = await cri.refused("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=new)
        assert code == "RESOURCE_EXHAUSTED", "beside 128 MiB for the guest itself there is no room for it"
        await cri("UpdateContainerResources", container_id=c, linux=new)


async def test_what_is_refused_again_and_again_is_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clearpod.rpc")
    async with world.daemon() as cri:
        pod = await started(cri)
        for _ in range(3):
            new = {"memory_limit_in_bytes": 4096 * MIB}
            await cri.refused("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=new)
    lines = [one for one in caplog.records if getattr(one, "rpc", "") == "UpdatePodSandboxResources"]
    assert len(lines) == 1


async def test_the_guest_holds_the_containers_to_a_limit_that_the_host_enforces(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podcgroup, "allowed", lambda _: podcgroup.Allowed(192 * MIB))
    async with world.daemon() as cri:
        await started(cri, memory_limit_in_bytes=64 * MIB)
        assert tuned(world) == [("memory.max", str(64 * MIB))]
