# SPDX-License-Identifier: Apache-2.0
"""The kubelet's CPU manager: cpusets are processors of the host, on which the pod's VMM has to stay."""

import json
import os
from contextlib import suppress
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.guest import messages
from stage1.linux import affinity

from .conftest import Client, World

ALL = affinity.present()
pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="one processor is no choice")


def on(cpus: str, **more: Any) -> dict[str, Any]:
    return {"linux": pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(cpuset_cpus=cpus, **more))}


def bound(world: World, cri: Client, pod: str) -> set[int]:
    """The processors of all threads of the VMM."""
    vm = cri.node.pods.get(pod).vm
    assert vm is not None
    result = []
    for thread in os.listdir(f"/proc/{vm.pid}/task"):
        with suppress(ProcessLookupError):  # some of a VMM's threads come and go
            result.append(os.sched_getaffinity(int(thread)))
    assert all(one == result[0] for one in result)
    return result[0]


def asked(world: World) -> int:
    """How many requests about limits the guests got."""
    return sum(isinstance(op, messages.Update) for guest in world.vmm.guests.values() for op in guest.asked)


async def test_a_vm_stays_on_the_processors_of_its_containers(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        first = await cri.container(pod, "sleep", "1000", name="first", **on("1"))
        assert bound(world, cri, pod) == {1}
        await cri("StartContainer", container_id=first)
        second = await cri.container(pod, "true", name="second", **on("0"))
        assert bound(world, cri, pod) == {0, 1}
        await cri("RemoveContainer", container_id=second)
        assert bound(world, cri, pod) == {1}
        await cri("UpdateContainerResources", container_id=first, linux={"cpuset_cpus": "0"})
        assert bound(world, cri, pod) == {0}
        assert (await cri.status(first)).resources.linux.cpuset_cpus == "0"
        info = (await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"]
        assert json.loads(info)["vm"]["cpus"] == [0]
        assert asked(world) == 0, "the guest has nothing to do with it"
        third = await cri.container(pod, "true", name="third")
        assert bound(world, cri, pod) == ALL, "one that may use all"
        await cri("RemoveContainer", container_id=third)
        await cri("RemoveContainer", container_id=first)
        assert bound(world, cri, pod) == ALL


async def test_what_is_known_already_costs_no_round_trip(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000", **on("0", cpu_shares=100))
        await cri("StartContainer", container_id=c)
        await cri("UpdateContainerResources", container_id=c, linux={"cpuset_cpus": "0", "cpu_shares": 100})
        assert asked(world) == 0
        await cri("UpdateContainerResources", container_id=c, linux={"cpuset_cpus": "0", "cpu_shares": 200})
        assert asked(world) == 1
        for guest in world.vmm.guests.values():
            guest.asked.clear()
    async with world.daemon() as cri:
        await cri("UpdateContainerResources", container_id=c, linux={"cpuset_cpus": "0", "cpu_shares": 200})
        assert (asked(world), bound(world, cri, pod)) == (0, {0})
    async with world.daemon() as cri:
        info = (await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"]
        assert json.loads(info)["vm"]["cpus"] == [0]
        await cri("RemoveContainer", container_id=c)
        assert bound(world, cri, pod) == ALL, "though another daemon has bound it"


async def test_a_change_that_the_guest_refuses_leaves_the_processors(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000", **on("0"))
        await cri("StartContainer", container_id=c)
        world.faults.refuse[messages.Update] = messages.Reply(code=messages.FAILED, error="no")
        new = {"cpuset_cpus": "1", "cpu_shares": 100}
        assert (await cri.refused("UpdateContainerResources", container_id=c, linux=new))[0] == "UNKNOWN"
        assert bound(world, cri, pod) == {0}
        world.faults.refuse = {messages.Create: messages.Reply(code=messages.FAILED, error="no")}
        await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true", name="d", **on("1")))
        assert bound(world, cri, pod) == {0}
