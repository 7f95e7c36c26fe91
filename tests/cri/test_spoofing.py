# SPDX-License-Identifier: Apache-2.0
"""Real VMs: root in a privileged pod takes its neighbour's addresses; the host's view of it."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SUSPEND
from stage1.linux import process
from tests.fakes.open_policy import OPEN
from tests.fakes.outer_net import OuterNet
from tests.fakes.patience import PATIENCE

from .conftest import Client, Registered, VmWorld
from .test_network import addresses, outer_world

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

SLOW_S = 200
TRIES = 4
"""Of two who have the same address the host believes who spoke last: the owner may do that meanwhile."""
TAKE = """
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
for address in {v4}/24 {v6}/64; do ip addr add $address dev eth0; done
arping -U -c 3 -I eth0 -s {v4} {v4}; arping -c 2 -w 4 -I eth0 -s {v4} 10.77.0.1
ping -c 2 -W 1 -I {v4} 10.77.0.1; ping6 -c 2 -W 1 -I {v6} fd77::1
for address in {v4}/24 {v6}/64; do ip addr del $address dev eth0; done
cat /sys/class/net/eth0/address
"""
TAKE_MAC = """
ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up
ip addr add {v4}/24 dev eth0; ping -c 3 -W 1 10.77.0.1; arping -U -c 2 -I eth0 -s {v4} {v4}; true
"""
SERVE = "mkdir /w; echo neighbour > /w/f; exec httpd -f -p 80 -h /w"


@pytest.fixture
def outer(sample: Registered, guest_dir: Path, request: pytest.FixtureRequest) -> Iterator[tuple[VmWorld, OuterNet]]:
    with outer_world(sample, guest_dir) as made:
        made[0].config = made[0].config.but(policy=OPEN)
        if request.param:
            made[0].warm(request.param)
        yield made


async def running(cri: Client, name: str, script: str, **fields: object) -> tuple[str, str]:
    """A privileged pod and its container."""
    context = pb.LinuxSandboxSecurityContext(privileged=True)
    config = cri.sandbox(name, linux=pb.LinuxPodSandboxConfig(security_context=context), **fields)
    pod = str((await cri("RunPodSandbox", config=config, deadline_s=SLOW_S)).pod_sandbox_id)
    mine = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(privileged=True))
    container = await cri.container(pod, "sh", "-c", script, linux=mine)
    await cri("StartContainer", container_id=container)
    return pod, container


async def root(cri: Client, container: str, script: str) -> str:
    """The output of a script; what it tries may fail."""
    reply = await cri(
        "ExecSync", container_id=container, cmd=["sh", "-c", f"exec 2>&1; {script}"], timeout=90, deadline_s=SLOW_S
    )
    return str(reply.stdout.decode())


def believe_at_once() -> None:
    """Have the host accept a changed neighbour entry at once, which it otherwise keeps for a second."""
    with open("/proc/sys/net/ipv4/neigh/ct0/locktime", "w") as file:
        file.write("0")


def believed(address: str) -> str:
    """The hardware address that the host has for it."""
    shown = process.run(["ip", "neigh", "show", address, "dev", "ct0"], timeout_s=10 * PATIENCE).stdout.decode()
    return shown.partition("lladdr ")[2].partition(" ")[0]


def page(address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    with urllib.request.urlopen(f"http://{host}/f", timeout=60 * PATIENCE) as reply:
        return str(reply.read().decode()).strip()


async def served(address: str) -> str:
    """As soon as somebody serves there."""
    async with asyncio.timeout(60 * PATIENCE):
        while True:
            try:
                return await asyncio.to_thread(page, address)
            except urllib.error.URLError:
                await asyncio.sleep(0.2)


@pytest.mark.parametrize("outer", [0, 3], indirect=True, ids=["cold", "pool"])
async def test_a_privileged_pod_takes_no_address_of_its_neighbour_unless_it_may(
    outer: tuple[VmWorld, OuterNet],
) -> None:
    world, _ = outer
    may = {"annotations": {"clearpod.io/allow-spoofing": "true"}}
    async with world.daemon() as cri:
        if world.config.pool.size:
            await cri.warmed(3, SLOW_S)
        (victim, _), (_, hostile), (_, free) = await asyncio.gather(
            running(cri, "victim", SERVE),
            running(cri, "hostile", "sleep 1000"),
            running(cri, "free", "sleep 1000", **may),
        )
        believe_at_once()
        v4, v6 = await addresses(cri, victim)
        assert [await served(address) for address in (v4, v6)] == ["neighbour"] * 2
        mac = believed(v4)
        assert mac == believed(v6) != ""
        own = (await root(cri, hostile, TAKE.format(v4=v4, v6=v6))).split()[-1]
        assert own != mac and (believed(v4), believed(v6)) == (mac, mac)
        await root(cri, hostile, TAKE_MAC.format(v4=v4, mac=mac))
        assert [await asyncio.to_thread(page, address) for address in (v4, v6)] == ["neighbour"] * 2
        for _ in range(TRIES):
            output = await root(cri, free, TAKE.format(v4=v4, v6=v6))
            if (believed(v4), believed(v6)) == (output.split()[-1],) * 2:
                break
        else:
            pytest.fail(f"the host believes {believed(v4)} and {believed(v6)}:\n{output}")


@pytest.mark.parametrize("outer", [0], indirect=True, ids=["cold"])
async def test_neither_a_copy_nor_a_resumed_pod_takes_the_address_of_another(outer: tuple[VmWorld, OuterNet]) -> None:
    """A copy begins with its original's, which who is root in it may keep. What a tap passes outlives the VMM."""
    world, _ = outer
    async with world.daemon() as cri:
        victim, _ = await running(cri, "victim", SERVE, annotations={FORKABLE: "true"})
        sleeper, hostile = await running(cri, "hostile", "sleep 1000", annotations={SUSPEND: "manual"})
        _, copied = await running(cri, "copy", SERVE, annotations={FORK_OF: "victim"})
        await cri.ours("SuspendPod", sleeper)
        await cri.ours("ResumePod", sleeper)
        believe_at_once()
        v4, v6 = await addresses(cri, victim)
        await root(cri, copied, "echo copy > /w/f")
        assert [await served(address) for address in (v4, v6)] == ["neighbour"] * 2
        mac = believed(v4)
        for one in (copied, hostile):
            own = (await root(cri, one, TAKE.format(v4=v4, v6=v6))).split()[-1]
            assert own != mac and (believed(v4), believed(v6)) == (mac, mac)
            await root(cri, one, TAKE_MAC.format(v4=v4, mac=mac))
            assert [await asyncio.to_thread(page, address) for address in (v4, v6)] == ["neighbour"] * 2
