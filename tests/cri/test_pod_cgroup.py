# SPDX-License-Identifier: Apache-2.0
"""A real VM in the cgroup that the kubelet has made for its pod: counted and bounded there."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1 import machine as machines
from stage1 import placement
from stage1.linux import cgroup, podcgroup
from stage1.pod.model import Pod
from stage1.vm import limits
from tests.fakes.patience import PACE, PATIENCE

from .conftest import Client, Registered, VmWorld, vm_world

MIB = 1 << 20
LIMIT_MIB = 64
PARENT = "/clearpod-test-kube/pod-5f1e"
LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
HOG = "head -c 100m /dev/zero | tail >/dev/null"
"""Takes more memory than it may."""
pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(200 * PATIENCE),
    pytest.mark.skipif(cgroup.limited() != cgroup.LIMITED, reason="needs cgroups with memory, pids and cpu"),
]


class Kubelet:
    """Its part: a cgroup for the pod in each hierarchy of version 1, or in version 2."""

    def __init__(self) -> None:
        tops = [Path(cgroup.ROOT, name) for name in podcgroup.COUNTED]
        self.places = [top / PARENT[1:] for top in tops if (top / "cgroup.procs").exists()]
        self.places = self.places or [Path(cgroup.tree(), PARENT[1:])]
        for place in self.places:
            place.mkdir(parents=True, exist_ok=True)

    def read(self, *names: str) -> int:
        """The number in the first file of these names, whose first line may have a word before it."""
        for name, place in ((name, place) for place in self.places for name in names):
            if (place / name).exists():
                return int((place / name).read_text().split("\n")[0].split()[-1])
        raise AssertionError(names)

    def limit(self, mib: int, *, above: bool = False) -> None:
        """Of the pod's memory, or of the cgroup `above` it."""
        for place in (one.parent if above else one for one in self.places):
            for name in LIMIT_FILES:
                if (place / name).exists():
                    (place / name).write_text(str(mib * MIB))

    async def has_limit(self, size: int) -> None:
        """Wait until it is so."""
        async with asyncio.timeout(10 * PACE):
            while self.read(*LIMIT_FILES) != size:
                await asyncio.sleep(0.05)

    def remove(self) -> None:
        """As when the pod is gone; they have to be empty."""
        for place in self.places:
            if place.exists():
                os.rmdir(place)
                os.rmdir(place.parent)


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    made = Kubelet()
    yield made
    made.remove()


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    with vm_world(sample, guest_dir) as made:
        yield made


def cost_mib(machine: VmWorld, memory_mib: int = 128 + LIMIT_MIB) -> int:
    """What the pod's VM takes beside its containers."""
    pod = Pod("0" * 64, "web", memory_mib=memory_mib)
    return limits.cost_mib(machines.vm_spec(pod, machine.host, directory="/nowhere"))


async def run(cri: Client, machine: VmWorld, name: str = "web", *, overhead_mib: int = 0) -> str:
    config = cri.sandbox(name, log_directory=f"{machine.root}/logs")
    config.linux.cgroup_parent = PARENT
    config.linux.resources.memory_limit_in_bytes = LIMIT_MIB * MIB
    config.linux.overhead.memory_limit_in_bytes = overhead_mib * MIB
    return str((await cri("RunPodSandbox", config=config, deadline_s=120)).pod_sandbox_id)


async def shown(cri: Client, pod: str) -> dict[str, Any]:
    info = (await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"]
    result: dict[str, Any] = json.loads(info)
    return result


def of_process(pid: int) -> int:
    """In how many hierarchies it is in the pod's cgroup."""
    return Path(f"/proc/{pid}/cgroup").read_text().count(f"{PARENT}/clearpod-")


async def test_a_vm_is_counted_and_bounded_in_its_pods_cgroup(machine: VmWorld, kubelet: Kubelet) -> None:
    kubelet.limit(LIMIT_MIB + cost_mib(machine))
    memory = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=LIMIT_MIB * MIB))
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await run(cri, machine)
        output = await shown(cri, pod)
        assert output["vm"]["cgroupNote"] == "" and sorted(output["vm"]["cgroups"]) == sorted(
            placement.cgroups(output["directory"])
        )
        assert of_process(output["pid"]) == len({os.path.realpath(place) for place in kubelet.places})
        idle = kubelet.read("memory.current", "memory.usage_in_bytes")
        assert 16 * MIB < idle < cost_mib(machine) * MIB
        hog = await cri.container(pod, "sh", "-c", HOG, name="hog", linux=memory)
        await cri("StartContainer", container_id=hog)
        ended = await cri.ended(hog, limit_s=120)
        assert (ended.reason, ended.exit_code) == ("OOMKilled", 137), "in the guest, where it belongs"
        most = kubelet.read("memory.peak", "memory.max_usage_in_bytes")
        assert idle + 40 * MIB < most <= (LIMIT_MIB + cost_mib(machine)) * MIB
        print(f"idle {idle // MIB} MiB, with {LIMIT_MIB} MiB of containers {most // MIB} MiB")
        assert kubelet.read("memory.failcnt", "memory.swap.current") == 0
    async with machine.daemon() as cri:
        output = await shown(cri, pod)
        assert output["state"] == "ready" and of_process(output["pid"]) > 0
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == []
    kubelet.remove()


@pytest.mark.parametrize("overhead_mib", [0, 32], ids=["without overhead", "with too little"])
async def test_a_pod_without_overhead_has_its_vm_in_its_cgroup_with_room_added(
    machine: VmWorld, kubelet: Kubelet, overhead_mib: int
) -> None:
    kubelet.limit(LIMIT_MIB + overhead_mib)
    memory = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=LIMIT_MIB * MIB))
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await run(cri, machine, overhead_mib=overhead_mib)
        output = await shown(cri, pod)
        assert of_process(output["pid"]) == len({os.path.realpath(place) for place in kubelet.places})
        with_room_mib = LIMIT_MIB + cost_mib(machine, output["vm"]["memoryMib"])
        assert kubelet.read(*LIMIT_FILES) == with_room_mib * MIB + placement.MARK_BYTES
        assert f"from {LIMIT_MIB + overhead_mib} to {with_room_mib} MiB" in output["vm"]["cgroupNote"]
        assert [one["text"] for one in output["history"] if one["what"] == "cgroup"] == [output["vm"]["cgroupNote"]]
        assert kubelet.read("memory.current", "memory.usage_in_bytes") > 16 * MIB
        assert kubelet.read("cpuacct.usage" if len(kubelet.places) > 1 else "cpu.stat") > 0
        hog = await cri.container(pod, "sh", "-c", HOG, name="hog", linux=memory)
        await cri("StartContainer", container_id=hog)
        assert (await cri.ended(hog, limit_s=120)).reason == "OOMKilled", "in the guest, where it belongs"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    kubelet.remove()


@pytest.mark.parametrize("asks_first", [True, False])
async def test_a_resize_of_a_pod_without_overhead_keeps_the_room(
    machine: VmWorld, kubelet: Kubelet, asks_first: bool
) -> None:
    """The kubelet writes the pod's limit after it has asked, or before, and hands back what it reads."""
    kubelet.limit(LIMIT_MIB)
    async with machine.daemon() as cri:
        pod = await run(cri, machine)
        raised = kubelet.read(*LIMIT_FILES)
        for mib in (LIMIT_MIB + 64, LIMIT_MIB + 48):
            new = pb.LinuxContainerResources(memory_limit_in_bytes=mib * MIB)
            if not asks_first:
                kubelet.limit(mib)
            await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=new)
            if asks_first:
                kubelet.limit(mib)
            await kubelet.has_limit(raised + (mib - LIMIT_MIB) * MIB)
        only_cpu = pb.LinuxContainerResources(cpu_quota=50_000, memory_limit_in_bytes=kubelet.read(*LIMIT_FILES))
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=only_cpu)
        assert cri.node.pods.get(pod).record.pod.limit_bytes == (LIMIT_MIB + 48) * MIB
        output = await shown(cri, pod)
        assert output["state"] == "ready" and of_process(output["pid"]) > 0
        kubelet.limit(LIMIT_MIB + 48)
    async with machine.daemon() as cri:
        await kubelet.has_limit(raised + 48 * MIB)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_pod_whose_room_the_cgroup_above_does_not_allow_runs_elsewhere_and_reports_why(
    machine: VmWorld, kubelet: Kubelet
) -> None:
    kubelet.limit(LIMIT_MIB)
    kubelet.limit(LIMIT_MIB + 16, above=True)
    async with machine.daemon() as cri:
        pod = await run(cri, machine)
    async with machine.daemon() as cri:
        output = await shown(cri, pod)
        note = output["vm"]["cgroupNote"]
        assert "overhead.podFixed.memory" in note and f"allows {LIMIT_MIB + 16} MiB" in note
        memory = next(place for place in kubelet.places if any((place / name).exists() for name in LIMIT_FILES))
        assert not any(memory.glob("clearpod-*")), "the hierarchy that limits memory"
        assert of_process(output["pid"]) == len({os.path.realpath(place) for place in kubelet.places} - {str(memory)})
        assert kubelet.read(*LIMIT_FILES) == LIMIT_MIB * MIB
        assert [one["text"] for one in output["history"] if one["what"] == "cgroup"] == [note]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_pod_without_limits_or_with_one_of_cpu_alone_is_in_its_cgroup(
    machine: VmWorld, kubelet: Kubelet
) -> None:
    async with machine.daemon() as cri:
        for quota in (0, 100_000):
            config = cri.sandbox(f"quota-{quota}")
            config.linux.cgroup_parent = PARENT
            config.linux.resources.cpu_quota, config.linux.resources.cpu_period = quota, 100_000
            pod = (await cri("RunPodSandbox", config=config, deadline_s=120)).pod_sandbox_id
            output = await shown(cri, pod)
            assert output["vm"]["cgroupNote"] == "" and of_process(output["pid"]) > 0
            await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_vm_of_the_warm_pool_is_moved_there(machine: VmWorld, kubelet: Kubelet) -> None:
    machine.warm(1)
    async with machine.daemon() as cri:
        await cri.warmed(1, limit_s=120)
        config = cri.sandbox("warm")
        config.linux.cgroup_parent = PARENT
        pod = (await cri("RunPodSandbox", config=config)).pod_sandbox_id
        assert (await cri.pool())["taken"] == 1
        output = await shown(cri, pod)
        assert of_process(output["pid"]) == len({os.path.realpath(place) for place in kubelet.places})
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
