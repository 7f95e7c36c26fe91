# SPDX-License-Identifier: Apache-2.0
"""Many pods with real CNI plugins: one after the other with instant fake VMs, and at once with real ones."""

import asyncio
import os
import socket
import statistics
import time
from collections.abc import Iterator

import pytest

from stage1.linux import process
from tests.fakes import processes
from tests.fakes.outer_net import BIN_DIR, OuterNet, conflist, outer_net
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld, World
from .test_network import outer

__all__ = ["outer"]

IN_SEQUENCE, AT_ONCE = 200, 20
SLOW_S = 250


@pytest.fixture
def bridged(world: World) -> Iterator[OuterNet]:
    """Real plugins for the world's daemons, without those that ask for rules: each takes a second of the 200."""
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    with outer_net(world.root / "host") as net:
        document = conflist(net.root)
        document["plugins"] = [{**document["plugins"][0], "ipMasq": False}]
        net.configure(document)
        world.host = world.host._replace(network=net.settings)
        yield net


def of_this_process() -> tuple[int, set[str]]:
    """Descriptors but for the one that each fake guest keeps, and children: what would grow."""
    children = (
        process.run(["ps", "-o", "comm=", "--ppid", str(os.getpid())], timeout_s=10 * PATIENCE).stdout.decode().split()
    )
    return len([one for one in processes.descriptors().values() if "eventfd" not in one]), set(children) - {"ps"}


def netns_of(pod: str) -> str:
    """Where the pod's netns was kept."""
    return f"/run/netns/clearpod-{pod}"


async def _pod_and_gone(cri: Client, number: int) -> float:
    begun = time.perf_counter()
    pod = await cri.pod(f"p{number}")
    assert os.path.exists(netns_of(pod))
    await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert not os.path.exists(netns_of(pod))
    return time.perf_counter() - begun


@pytest.mark.timeout(400)
async def test_200_pods_one_after_the_other_leave_nothing_and_do_not_get_slower(
    world: World, bridged: OuterNet
) -> None:
    async with world.daemon() as cri:
        await _pod_and_gone(cri, 0)
        before, state = of_this_process(), bridged.state()
        took = [await _pod_and_gone(cri, number) for number in range(1, IN_SEQUENCE + 1)]
        assert bridged.state() == state
        assert of_this_process() == before
    quarters = [statistics.median(took[at : at + IN_SEQUENCE // 4]) for at in range(0, IN_SEQUENCE, IN_SEQUENCE // 4)]
    assert min(quarters[1:]) < 2 * quarters[0], quarters
    assert world.left_over() == []


@pytest.mark.vm
@pytest.mark.timeout(600)
async def test_20_pods_at_once_have_each_a_network_and_leave_nothing(outer: tuple[VmWorld, OuterNet]) -> None:
    world, net = outer
    patient = world.config.vm.but(boot_timeout_s=float(SLOW_S))
    world.config = world.config.but(vm=patient)
    small = {"clearpod.io/memory-mib": "64"}
    async with world.daemon() as cri:
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod("first", annotations=small))
        before, state = of_this_process(), net.state()
        calls = (
            cri("RunPodSandbox", config=cri.sandbox(f"p{n}", annotations=small), deadline_s=SLOW_S)
            for n in range(AT_ONCE)
        )
        pods = [reply.pod_sandbox_id for reply in await asyncio.gather(*calls)]
        told = [(await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.network for pod in pods]
        addresses = [ip for one in told for ip in (one.ip, *(more.ip for more in one.additional_ips))]
        assert len(set(addresses)) == 2 * AT_ONCE
        assert all(await asyncio.gather(*(asyncio.to_thread(_is_reached, address) for address in addresses)))
        await asyncio.gather(*(cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=SLOW_S) for pod in pods))
        assert net.state() == state and not any(os.path.exists(netns_of(pod)) for pod in pods)
        assert of_this_process() == before
    assert world.left_over() == []


def _is_reached(address: str) -> bool:
    """The guest's kernel says itself that nobody listens."""
    try:
        socket.create_connection((address, 9), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False
