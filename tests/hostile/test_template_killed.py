# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed while it makes a template or starts a copy, a disk that is full, a template that is damaged:
the pod is there all the same, or can be asked for again, and nothing stays. Real VMs of QEMU, the daemon is a process.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux import mount
from tests.fakes.patience import PATIENCE
from tests.hostile.killed import small_vms, until, vmms
from tests.hostile.rig import Caller, Node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.fixture
def vms(guest_dir: Path, reference: str) -> Iterator[Node]:
    with small_vms(guest_dir, reference, more="[templates]\nenabled = true\n") as made:
        yield made


async def counted(cri: Caller, *names: str) -> None:
    """Wait until Status counts one of these."""
    async with asyncio.timeout(60 * PATIENCE):
        while True:
            counts = json.loads((await cri("Status", verbose=True)).info["templates"])
            if any(counts[one] for one in names):
                return
            assert not counts["failed"]
            await asyncio.sleep(0.02)


class Machine:
    """What the node has of pods, VMMs and templates."""

    def __init__(self, vms: Node) -> None:
        self.vms, self.templates = vms, vms.root / "state/vm-templates"

    def made(self) -> list[str]:
        """Those that were begun, too."""
        return sorted(str(one) for pattern in ("[!.]*", ".new/*") for one in self.templates.glob(pattern))

    def pods(self) -> list[str]:
        return sorted(os.listdir(self.vms.root / "run/pods"))

    def vmms(self) -> int:
        return vmms(self.vms)

    async def has_only(self, *pods: str) -> None:
        """Wait until the machine has just these pods, a VMM for each, and no template that was begun."""

        def is_so() -> bool:
            is_begun = any("/.new/" in name for name in self.made())
            return self.pods() == sorted(pods) and self.vmms() == len(pods) and not is_begun

        await until(is_so)


async def test_a_daemon_that_is_killed_leaves_no_part_of_a_template_or_copy(vms: Node) -> None:
    machine = Machine(vms)
    async with vms.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=vms.reference))
        first = await cri.pod("first")
        await until(lambda: machine.vmms() == 2)
        vms.kill()
    vms.start()
    async with vms.client() as cri:
        await machine.has_only(first)
        assert machine.made() == []
        second = await cri.pod("second")
        await counted(cri, "made")
        asking = asyncio.ensure_future(cri.pod("copy"))
        await until(lambda: machine.vmms() == 3)
        vms.kill()
        await asyncio.gather(asking, return_exceptions=True)
    vms.start()
    async with vms.client() as cri:
        for one in (await cri("ListPodSandbox")).items:
            if one.id not in (first, second):  # it was ready in that moment
                await cri("RemovePodSandbox", pod_sandbox_id=one.id)
        copy = await cri.pod("copy")
        await machine.has_only(first, second, copy)
        await cri("RemovePodSandbox", pod_sandbox_id=first)
        await _boots_if_its_template_is_damaged(cri, machine, second, copy)


async def _boots_if_its_template_is_damaged(cri: Caller, machine: Machine, *pods: str) -> None:
    await counted(cri, "used", "made")
    for ram in machine.templates.glob("*/ram"):
        content = bytearray(ram.read_bytes())
        content[16 << 20] ^= 1
        ram.unlink()  # another file: what is a copy already has the one that it began with
        ram.write_bytes(content)
    third, container = await cri.running("third")
    await machine.has_only(*pods, third)
    assert b"ready" in (await cri("ExecSync", container_id=container, cmd=["echo", "ready"])).stdout
    assert "template.failed" in (machine.vms.root / "serve.log").read_text()


async def test_no_space_for_a_template_is_a_line_in_the_log(vms: Node) -> None:
    machine = Machine(vms)
    await until((vms.root / "run/clearpod.sock").exists)
    machine.templates.mkdir(mode=0o700, exist_ok=True)
    mount.mount("tmpfs", str(machine.templates), "tmpfs", data="size=4m,mode=700")
    try:
        async with vms.client() as cri:
            pods = [await cri.pod("first")]
            await counted(cri, "failed")
            await machine.has_only(*pods)
            assert machine.made() == [] and "template.failed" in (vms.root / "serve.log").read_text()
            assert await cri.is_ready(pods[0])
    finally:
        mount.umount(str(machine.templates), lazy=True)
