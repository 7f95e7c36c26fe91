# SPDX-License-Identifier: Apache-2.0
"""The warm pool with real VMs and Debian's plugins: what a guest that has waited is, and how it ends."""

import asyncio
import ipaddress
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.outer_net import OuterNet
from tests.fakes.patience import PATIENCE

from .conftest import Client, Registered, VmWorld
from .test_network import addresses, outer_world
from .test_pool import waiting

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

SLOW_S = 300
CLOCK_S = 2 * PATIENCE
"""The greeting that sets the guest's clock takes so long at most."""
WHO = "cat /proc/sys/kernel/random/boot_id /etc/machine-id /etc/hostname; hostname; "
WHO += "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'"
DEVICE = "ip addr show eth0; ip -6 route; ip route; ls /sys/class/net; grep /dev/shm /proc/mounts"
SETTLED = f"while ip addr show eth0 | grep -q tentative; do sleep 0.2; done; {DEVICE}"
"""An address for which the kernel still looks for doubles has no route of its own yet."""


@pytest.fixture
def outer(sample: Registered, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with outer_world(sample, guest_dir, copies=False) as made:
        made[0].warm(2)
        yield made


async def running(cri: Client, name: str, **fields: object) -> tuple[str, str]:
    """A pod and its container, which sleeps."""
    reply = await cri("RunPodSandbox", config=cri.sandbox(name, hostname=f"{name}-0", **fields), deadline_s=SLOW_S)
    container = await cri.container(reply.pod_sandbox_id, "sleep", "1000")
    await cri("StartContainer", container_id=container)
    return reply.pod_sandbox_id, container


async def output_of(cri: Client, container: str, script: str) -> str:
    reply = await cri("ExecSync", container_id=container, cmd=["sh", "-c", script], timeout=60, deadline_s=90)
    assert reply.exit_code == 0, (reply.stdout, reply.stderr)
    return str(reply.stdout.decode())


async def test_pods_that_have_waited_share_nothing_and_lack_nothing(outer: tuple[VmWorld, OuterNet]) -> None:
    world, net = outer
    async with world.daemon() as cri:
        await cri.warmed(2, SLOW_S)
        there = waiting(cri)
        (one, c1), (two, c2) = await asyncio.gather(running(cri, "one"), running(cri, "two"))
        assert {one, two} == set(there)
        lines = [(await output_of(cri, container, WHO)).split() for container in (c1, c2)]
        for mine, other in zip(*lines, strict=True):
            assert mine != other, lines
        boot_id, machine_id, *names = lines[0]
        assert len(boot_id) == 36 and machine_id == one[:32] and names[:2] == ["one-0", "one-0"]
        asked_s = time.time()
        clock_s = float((await output_of(cri, c1, "date +%s")).strip())
        assert asked_s - 1 - CLOCK_S < clock_s < time.time() + CLOCK_S
        await _has_the_pods_network(cri, one, c1)
        for gateway in ("10.77.0.1", "fd77::1", (await addresses(cri, two))[0]):
            assert "1 packets received" in await output_of(cri, c1, f"ping -c1 -W5 {gateway}"), gateway
        assert (await cri.pool())["taken"] == 2
    async with world.daemon() as cri:
        assert (await output_of(cri, c1, "cat /etc/machine-id")).strip() == machine_id, "the next daemon has it"
        await asyncio.gather(*(cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=SLOW_S) for pod in (one, two)))
    assert world.left_over() == [] and os.listdir(net.settings.cache_dir) == []


async def _has_the_pods_network(cri: Client, pod: str, container: str) -> None:
    """The same as a pod that was booted for itself, and nothing of what it waited with."""
    usual, other = await running(cri, "usual", annotations={"clearpod.io/memory-mib": "96"})
    texts = []
    for name, inside in ((pod, container), (usual, other)):
        text = await output_of(cri, inside, SETTLED)
        for number, address in enumerate(await addresses(cri, name)):
            text = re.sub(rf"\b{re.escape(address)}\b", f"ADDRESS{number}", text)
        (mac,) = {line.split()[1] for line in text.splitlines() if "link/ether" in line}
        bits = bytes.fromhex(mac.replace(":", ""))
        whole = bytes([0xFE, 0x80, *[0] * 6, bits[0] ^ 2, *bits[1:3], 0xFF, 0xFE, *bits[3:]])
        own = str(ipaddress.IPv6Address(whole))
        assert f"inet6 {own}/64" in text, text
        texts.append(text.replace(mac, "MAC").replace(own, "LINK-LOCAL"))
    assert _lasting(texts[0]) == _lasting(texts[1])
    await cri("RemovePodSandbox", pod_sandbox_id=usual, deadline_s=SLOW_S)


def _lasting(text: str) -> list[str]:
    """Without lifetimes."""
    return [line for line in text.splitlines() if "valid_lft" not in line]


async def test_vms_that_are_killed_are_replaced_and_none_outlives_the_daemon(outer: tuple[VmWorld, OuterNet]) -> None:
    world, net = outer
    async with world.daemon() as cri:
        await cri.warmed(2, SLOW_S)
        killed, other = waiting(cri)
        _kill(cri, killed)
        async with asyncio.timeout(SLOW_S):
            while (await cri.pool())["died"] != 1:
                await asyncio.sleep(0.2)
        await cri.warmed(2, SLOW_S)
        assert other in waiting(cri) and killed not in waiting(cri)
        for pod in waiting(cri):
            _kill(cri, pod)
        made = (await cri("RunPodSandbox", config=cri.sandbox("web"), deadline_s=SLOW_S)).pod_sandbox_id
        assert (await addresses(cri, made))[0].startswith("10.77.")
        await cri("RemovePodSandbox", pod_sandbox_id=made, deadline_s=SLOW_S)
        await cri.warmed(2, SLOW_S)
    assert world.left_over() == [] and os.listdir(net.settings.cache_dir) == []


def _kill(cri: Client, pod_id: str) -> None:
    """End the VMM of a pod that waits."""
    (vm,) = [pod.vm for pod in cri.node.pods.pool.pods() if pod.id == pod_id]
    assert vm is not None
    os.kill(vm.pid, signal.SIGKILL)
