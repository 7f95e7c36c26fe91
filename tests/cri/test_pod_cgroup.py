# SPDX-License-Identifier: Apache-2.0
"""A real VM in the cgroup that the kubelet has made for its pod: counted and bounded there."""

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
from tests.fakes.patience import PATIENCE

from .conftest import Client, Registered, VmWorld, vm_world

MIB = 1 << 20
LIMIT_MIB = 64
PARENT = "/clearpod-test-kube/pod-5f1e"
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

    def limit(self, mib: int) -> None:
        """Of the pod's memory."""
        for place in self.places:
            for name in ("memory.max", "memory.limit_in_bytes"):
                if (place / name).exists():
                    (place / name).write_text(str(mib * MIB))

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


def cost_mib(machine: VmWorld) -> int:
    """What the pod's VM takes beside its containers."""
    pod = Pod("0" * 64, "web", memory_mib=128 + LIMIT_MIB)
    return limits.cost_mib(machines.vm_spec(pod, machine.host, directory="/nowhere"))


async def run(cri: Client, machine: VmWorld, name: str = "web") -> str:
    config = cri.sandbox(name, log_directory=f"{machine.root}/logs")
    config.linux.cgroup_parent = PARENT
    config.linux.resources.memory_limit_in_bytes = LIMIT_MIB * MIB
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


async def test_a_pod_without_space_runs_elsewhere_and_reports_why(machine: VmWorld, kubelet: Kubelet) -> None:
    kubelet.limit(LIMIT_MIB)
    async with machine.daemon() as cri:
        pod = await run(cri, machine)
    async with machine.daemon() as cri:
        output = await shown(cri, pod)
        assert "overhead.podFixed.memory" in output["vm"]["cgroupNote"] and of_process(output["pid"]) == 0
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
