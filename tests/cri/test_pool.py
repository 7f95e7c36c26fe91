# SPDX-License-Identifier: Apache-2.0
"""The warm pool over the CRI with instant fake VMs: what is handed out and to whom, and that nothing of it stays."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.pool import fit
from stage1.guest import messages
from stage1.linux import namespace
from stage1.net import pool_slot
from stage1.net.settings import netns_path
from tests.fakes.cni import FakeCni
from tests.fakes.guest import FakeGuest, Faults
from tests.fakes.patience import PATIENCE

from .conftest import Client, World
from .test_network import addresses

UNFIT = {"clearpod.io/memory-mib": "99"}
"""Annotations of a pod that boots a VM of its own."""


@pytest.fixture
def cni(world: World) -> FakeCni:
    """Fake plugins that the world's daemons use; they make one device, as real ones do."""
    made = FakeCni(world.root / "cni")
    made.make_one_device()
    world.host = world.host._replace(network=made.settings)
    return made


def guest_of(world: World, pod: str) -> FakeGuest:
    return world.vmm.guests[f"clearpod-{pod[:13]}"]


def told(world: World, pod: str) -> messages.Configure:
    """What the guest was told to be, after it was warmed up."""
    (result,) = [one for one in guest_of(world, pod).configured if not one.warm_up]
    return result


def waiting(cri: Client) -> list[str]:
    """Ids of the VMs that wait."""
    return [pod.id for pod in cri.node.pods.pool.pods()]


def leases(cni: FakeCni) -> list[str]:
    return os.listdir(cni.root / "leases")


async def test_a_pod_from_the_pool_has_all_that_it_requested(world: World, cni: FakeCni) -> None:
    world.warm(2)
    async with world.daemon() as cri:
        assert (await cri.warmed(2))["booted"] == 2
        assert (await cri("ListPodSandbox")).items == [] and cni.calls() == []
        (first, *_) = waiting(cri)
        asked_ns = time.time_ns()
        config = cri.sandbox("web", hostname="web-0", labels={"app": "web"}, log_directory=f"{world.root}/logs")
        config.linux.sysctls["net.ipv4.ip_forward"] = "1"
        pod = (await cri("RunPodSandbox", config=config)).pod_sandbox_id
        assert pod == first and await addresses(cri, pod) == ("10.9.0.5", "fd09::5")
        assert cni.calls() == ["ADD first", "ADD second"] and set((cni.root / "pods").read_text().split()) == {pod}
        *warm_ups, output = guest_of(world, pod).configured
        assert len(warm_ups) == 2 and all(one.warm_up for one in warm_ups)
        assert len({one.entropy for one in (*warm_ups, output)}) == 3
        (eth0,) = output.interfaces
        assert (eth0.found_mac, eth0.mtu, eth0.addresses) == (pool_slot.MAC, 1450, ("10.9.0.5/24", "fd09::5/64"))
        assert output.hostname == "web-0" and output.sysctls == (messages.Sysctl("net.ipv4.ip_forward", "1"),)
        assert len(output.entropy) == 32 and asked_ns <= output.unix_ns <= time.time_ns()
        hosts = Path(f"{world.config.run_dir}/pods/{pod}/share/volumes/pod/hosts").read_text()
        assert "10.9.0.5\tweb-0\n" in hosts
        status = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status
        assert status.metadata.name == "web" and status.labels == {"app": "web"} and status.created_at >= asked_ns
        assert status.state == pb.SANDBOX_READY
        container = await cri.container(pod, "echo", "hi")
        await cri("StartContainer", container_id=container)
        log = (await cri.ended(container)).log_path
        assert Path(log).read_text().endswith("stdout F hi\n")
        counts = await cri.warmed(2)
        assert (counts["taken"], counts["missed"], counts["booted"]) == (1, 0, 3)
    async with world.daemon() as cri:
        assert await addresses(cri, pod) == ("10.9.0.5", "fd09::5"), "a restart does not see the difference"
        assert (await cri.warmed(2))["booted"] == 2
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == [] and cni.left_over() == []


async def test_no_two_pods_get_the_same_random_bytes(world: World) -> None:
    world.warm(3)
    async with world.daemon() as cri:
        await cri.warmed(3)
        pods = await asyncio.gather(*(cri.pod(f"p{number}") for number in range(3)))
        given = [told(world, pod).entropy for pod in pods]
        assert len(set(given)) == 3 and all(len(one) == 32 for one in given)


async def test_a_pod_that_no_vm_fits_boots_its_own(world: World) -> None:
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1)
        (there,) = waiting(cri)
        pod = await cri.pod(annotations=UNFIT)
        assert pod != there and len(told(world, pod).entropy) == 32
        assert waiting(cri) == [there] and (await cri.pool())["missed"] == 1


async def test_there_are_no_events_of_prewarmed_vms(world: World) -> None:
    world.warm(1)
    async with world.daemon() as cri:
        stream = cri.stream("GetContainerEvents", deadline_s=20)
        heard = asyncio.ensure_future(stream.read())
        await cri.warmed(1)
        world.vmm.guests[f"clearpod-{waiting(cri)[0][:13]}"].stop()
        async with asyncio.timeout(20 * PATIENCE):
            while not (await cri.warmed(1))["died"]:
                await asyncio.sleep(0.01)
        for what in ("ListPodSandbox", "ListPodSandboxStats"):
            reply = await cri(what)
            assert reply == type(reply)()
        pod = await cri.pod()
        event = await heard
        assert event.container_id == pod and event.container_event_type == pb.CONTAINER_CREATED_EVENT
        stream.cancel()


async def test_twenty_at_once_take_what_waits_and_boot_the_rest(world: World) -> None:
    world.warm(5)
    async with world.daemon() as cri:
        await cri.warmed(5)
        pods = await asyncio.gather(*(cri.pod(f"p{number}") for number in range(20)))
        counts = await cri.pool()
        assert len(set(pods)) == 20 and (counts["taken"], counts["missed"]) == (5, 15)
        assert (await cri.warmed(5))["booted"] == 10
        await asyncio.gather(*(cri("RemovePodSandbox", pod_sandbox_id=pod) for pod in pods))
    assert world.left_over() == []


# -- death -------------------------------------------------------------------------------------------------------


async def test_a_vm_that_ends_while_it_waits_is_replaced_and_counted(world: World, cni: FakeCni) -> None:
    world.warm(2)
    async with world.daemon() as cri:
        await cri.warmed(2)
        dead, lives = waiting(cri)
        guest_of(world, dead).stop()
        async with asyncio.timeout(10 * PATIENCE):
            while (await cri.pool())["died"] != 1:
                await asyncio.sleep(0.02)
        assert (await cri.warmed(2))["booted"] == 3 and lives in waiting(cri) and dead not in waiting(cri)
        async with asyncio.timeout(10 * PATIENCE):
            while os.path.exists(f"{world.config.run_dir}/pods/{dead}"):
                await asyncio.sleep(0.02)
    assert world.left_over() == [] and cni.left_over() == [] and cni.calls() == []


@pytest.mark.parametrize("fault", [Faults(die_on=messages.Configure), Faults(ignore=messages.Configure)], ids=repr)
async def test_a_vm_that_is_dead_when_it_is_claimed_makes_space_for_the_next(
    world: World, cni: FakeCni, fault: Faults
) -> None:
    world.warm(2)
    async with world.daemon() as cri:
        await cri.warmed(2)
        dead, lives = waiting(cri)
        guest_of(world, dead).faults = fault
        pod = await cri.pod()
        assert pod == lives and await addresses(cri, pod) == ("10.9.0.5", "fd09::5")
        counts = await cri.pool()
        assert (counts["taken"], counts["died"]) == (2, 1)
        assert cni.calls() == ["ADD first", "ADD second", "DEL second", "DEL first", "ADD first", "ADD second"]
        assert not os.path.exists(f"{world.config.run_dir}/pods/{dead}")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == [] and cni.left_over() == []


async def test_when_all_are_dead_the_pod_boots_a_vm_of_its_own(world: World, cni: FakeCni) -> None:
    world.warm(3)
    async with world.daemon() as cri:
        await cri.warmed(3)
        dead = waiting(cri)
        for pod in dead:
            guest_of(world, pod).faults = Faults(die_on=messages.Configure)
        assert (await cri.pod()) not in dead
        counts = await cri.warmed(3)
        assert counts["died"] == 3 and counts["booted"] == 6


async def test_a_removed_netns_costs_a_vm_and_no_pod(world: World, cni: FakeCni) -> None:
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1)
        (there,) = waiting(cri)
        namespace.remove_net(netns_path(there))
        pod = await cri.pod()
        assert pod != there and await addresses(cri, pod) == ("10.9.0.5", "fd09::5")
        assert (await cri.pool())["died"] == 1 and not os.path.exists(f"{world.config.run_dir}/pods/{there}")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == [] and cni.left_over() == []


# -- failures that are the pod's own --------------------------------------------------------------------------------


async def test_what_the_guest_refuses_is_refused_and_nothing_stays(world: World, cni: FakeCni) -> None:
    world.warm(2)
    async with world.daemon() as cri:
        await cri.warmed(2)
        for pod in waiting(cri):
            refusal = messages.Reply(code=messages.NOT_FOUND, error="set the sysctl a.b: no such file")
            guest_of(world, pod).faults.refuse[messages.Configure] = refusal
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox())
        assert code == "NOT_FOUND" and "set the sysctl a.b" in sentence
        counts = await cri.pool()
        assert (counts["taken"], counts["died"]) == (1, 0), "another VM would refuse it too"
        assert cni.calls()[-1] == "DEL first" and cni.left_over() == [f for f in cni.left_over() if "/cache/" in f]
        world.faults.refuse.clear()
        await cri.pod()


async def test_a_pod_whose_plugin_fails_is_refused_and_can_be_retried(world: World, cni: FakeCni) -> None:
    world.warm(1)
    cni.trouble("second", "ADD", 'echo \'{"code": 9, "msg": "no more"}\'; exit 1')
    async with world.daemon() as cri:
        await cri.warmed(1)
        (there,) = waiting(cri)
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox())
        assert code == "UNKNOWN" and "ADD: no more (code 9)" in sentence
        assert not os.path.exists(f"{world.config.run_dir}/pods/{there}")
        cni.trouble("second", "ADD", "")
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod())
        await cri.warmed(1)
    assert world.left_over() == [] and cni.left_over() == []


async def test_a_network_with_two_devices_turns_the_pool_off(world: World, cni: FakeCni) -> None:
    batch = cni.root / "batch"
    batch.write_text(batch.read_text() + "link add eth7 type bridge\n")
    world.warm(2)
    async with world.daemon() as cri:
        await cri.warmed(2)
        there = waiting(cri)
        pod = await cri.pod()
        assert pod not in there and await addresses(cri, pod) == ("10.9.0.5", "fd09::5")
        counts = await cri.pool()
        assert (counts["waiting"], counts["unfit"], counts["taken"]) == (0, 1, 1)
        assert os.listdir(f"{world.config.run_dir}/pods") == [pod]
        await cri.pod("another")
        assert (await cri.pool())["taken"] == 1
        for one in (await cri("ListPodSandbox")).items:
            await cri("RemovePodSandbox", pod_sandbox_id=one.id)
    assert world.left_over() == [] and cni.left_over() == []


async def test_a_host_port_is_taken_by_a_pod_that_waited(world: World, cni: FakeCni) -> None:
    world.warm(2)
    mappings = [pb.PortMapping(container_port=80, host_port=8080)]
    async with world.daemon() as cri:
        await cri.warmed(2)
        both = [cri("RunPodSandbox", config=cri.sandbox(name, port_mappings=mappings)) for name in ("one", "two")]
        done = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(type(one).__name__ for one in done) == ["AioRpcError", "RunPodSandboxResponse"]


# -- refilling, and the end -----------------------------------------------------------------------------------------


async def test_nothing_is_prewarmed_while_a_pod_starts(world: World) -> None:
    world.warm(1)
    patient = world.config.vm.but(boot_timeout_s=30.0)
    world.config = world.config.but(vm=patient)
    async with world.daemon() as cri:
        await cri.warmed(1)
        world.faults.boot_s = 4 * fit.QUIET_S
        own = asyncio.ensure_future(cri.pod("own", annotations={"clearpod.io/memory-mib": "99"}))
        await asyncio.sleep(0.1)
        await cri.pod("quick")
        before = len(world.vmm.started)
        await asyncio.sleep(2 * fit.QUIET_S)
        assert not own.done() and len(world.vmm.started) == before
        await own
        world.faults.boot_s = 0
        await cri.warmed(1)


async def test_a_vm_that_does_not_boot_is_counted_and_tried_again_later(world: World) -> None:
    world.warm(1)
    world.faults.silent = True
    async with world.daemon() as cri:
        async with asyncio.timeout(20 * PATIENCE):
            while (await cri.pool())["failed"] < 1:
                await asyncio.sleep(0.05)
        assert world.left_over() == []
        world.faults.silent = False
        assert (await cri.warmed(1))["failed"] >= 1
    assert world.left_over() == []


async def test_memory_bounds_what_waits(world: World) -> None:
    world.warm(8, memory_mib=300)
    async with world.daemon() as cri:
        assert (await cri.warmed(2))["size"] == 2
        await asyncio.sleep(0.2)
        assert (await cri.pool())["waiting"] == 2


async def test_a_daemon_that_ends_while_a_vm_boots_leaves_nothing(world: World) -> None:
    world.warm(1)
    world.faults.boot_s = 1.0
    async with world.daemon():
        async with asyncio.timeout(10 * PATIENCE):
            while not world.vmm.started:
                await asyncio.sleep(0.02)
    assert world.left_over() == []


async def test_without_a_size_there_is_no_pool(world: World) -> None:
    async with world.daemon() as cri:
        await cri.pod()
        assert set((await cri.pool()).values()) == {0}


async def test_a_pod_that_waited_has_the_address_that_its_slot_has_reserved(world: World, cni: FakeCni) -> None:
    cni.make_first_reservable()
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1)
        assert cni.calls() == ["ADD bridge"]
        pod = await cri.pod()
        assert cni.calls() == ["ADD second"] and await addresses(cri, pod) == ("10.9.0.5", "fd09::5")
        await cri.warmed(1)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert cni.calls() == ["ADD bridge", "DEL second", "DEL bridge"]
    assert cni.calls() == ["DEL bridge"] and world.left_over() == [] and cni.left_over() == []


async def test_slots_give_up_their_addresses_when_a_pod_gets_none(world: World, cni: FakeCni) -> None:
    cni.make_first_reservable()
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1)
        (former,) = waiting(cri)
        cni.trouble("bridge", "ADD", "exit 1")
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox(annotations=UNFIT))
        assert code == "UNKNOWN" and "plugin 'bridge'" in sentence
        async with asyncio.timeout(20 * PATIENCE):
            while former in waiting(cri) or not waiting(cri):
                await asyncio.sleep(0.01)
        assert leases(cni) == [], "and no slot is filled with another address now"
        (cni.root / "trouble-bridge-ADD").unlink()
        cni.calls()
        assert await cri.pod(annotations=UNFIT)
        assert await cri.pod("second") and cni.calls() == ["ADD bridge", "ADD second"] * 2
    async with world.daemon() as cri:
        for one in (await cri("ListPodSandbox")).items:
            await cri("RemovePodSandbox", pod_sandbox_id=one.id)
    assert world.left_over() == [] and cni.left_over() == []


async def test_a_slot_whose_plugin_fails_waits_without_a_network(world: World, cni: FakeCni) -> None:
    cni.make_first_reservable()
    cni.trouble("bridge", "ADD", "exit 1")
    world.warm(1)
    async with world.daemon() as cri:
        counts = await cri.warmed(1)
        assert (counts["booted"], counts["failed"]) == (1, 0) and leases(cni) == []
        (cni.root / "trouble-bridge-ADD").unlink()
        (there,) = waiting(cri)
        assert await cri.pod() == there
        await cri("RemovePodSandbox", pod_sandbox_id=there)
