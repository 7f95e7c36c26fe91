# SPDX-License-Identifier: Apache-2.0
"""A privileged container in a real VM, which is root of its guest, against the host and another pod.

Some attacks come out of a copy of a template, where there are templates: what it writes must not be its neighbours'.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import TEMPLATE
from stage1.linux.host import which
from stage1.vm import template_store
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.hostile.rig import CANARY, Caller, Node, node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

STALLED_MS = 5000.0 * PATIENCE
"""What no call about the neighbour may take; emulated guests share two processors with the attack."""
GROWTH_MIB = 16
CONSOLE_MIB = 16
BOMB_S = 2.0


@pytest.fixture(scope="module")
def vms(hypervisor: str, guest_dir: Path, reference: str) -> Iterator[Node]:
    """A node with real VMs, for all tests of this file."""
    more = "[templates]\nenabled = true\n[vm]\nscratch_mib = 64"
    with (
        places.short_directory() as root,
        node(Path(root), guest_dir, reference, more=more, real=hypervisor) as made,
    ):
        _build(Path(root) / "volume")
        yield made


@pytest.fixture(scope="module")
def neighbour(vms: Node) -> Iterator[tuple[str, str]]:
    """The good pod and its container. It is the same for all attacks, so it has to survive each of them."""

    async def made() -> tuple[str, str]:
        async with vms.client() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=vms.reference))
            return await cri.running("good")

    async def removed(pod: str) -> None:
        async with vms.client() as cri:
            await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=60)

    pod, container = asyncio.run(made())
    yield pod, container
    asyncio.run(removed(pod))


def _build(volume: Path) -> None:
    compiler = which("musl-gcc")
    if not compiler:
        pytest.skip("needs musl-gcc: apt install musl-tools")
    volume.mkdir()
    source = Path(__file__).with_name("guest.c")
    subprocess.run([compiler, "-static", "-Os", "-s", "-o", volume / "guest", source], check=True, timeout=60)


@asynccontextmanager
async def attacker(
    vms: Node, *, read_only: bool = False, is_copy: bool = False
) -> AsyncIterator[tuple[Caller, str, str]]:
    """A client, a privileged pod, and its container, which has the host's volume at /v; all removed in the end.
    `is_copy`: of a template, where the hypervisor has such.
    """
    privileged = pb.LinuxContainerSecurityContext(privileged=True)
    async with vms.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=vms.reference))
        linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(privileged=True))
        fields = {"linux": linux, "log_directory": f"{vms.root}/logs/bad"}
        if is_copy:
            pod = await _copy(cri, "bad", fields)
        else:
            pod = await cri.pod("bad", **fields, annotations={TEMPLATE: "none"})
        mounts = [pb.Mount(container_path="/v", host_path=f"{vms.root}/volume", readonly=read_only)]
        container = await cri.container(
            pod, "sh", "-c", "while :; do sleep 1; done", mounts=mounts, linux={"security_context": privileged}
        )
        await cri("StartContainer", container_id=container)
        try:
            yield cri, pod, container
        finally:
            await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=60)


async def _copy(cri: Caller, name: str, fields: dict[str, Any]) -> str:
    """A pod that is a copy; the one before it has its template made."""
    while True:
        before = await _templates(cri)
        pod = await cri.pod(name, **fields)
        after = await _templates(cri)
        if not after or after["used"] > before["used"]:
            return pod
        async with asyncio.timeout(60 * PATIENCE):
            while not (counts := await _templates(cri))["made"]:
                assert not counts["failed"]
                await asyncio.sleep(0.05)
        await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=60)


async def _templates(cri: Caller) -> dict[str, int]:
    counts: dict[str, int] = json.loads((await cri("Status", verbose=True)).info.get("templates", "{}"))
    return counts


def digests(vms: Node) -> dict[str, str]:
    """Of the templates' memory."""
    return {str(path): template_store.digest(str(path)) for path in vms.root.glob("state/vm-templates/*/ram")}


async def sh(cri: Caller, container: str, script: str, limit_s: int = 60) -> tuple[int, str]:
    """Code and output of a script in the container."""
    argv = ["sh", "-c", script]
    timeout = limit_s * PATIENCE
    reply = await cri("ExecSync", container_id=container, cmd=argv, timeout=timeout, deadline_s=limit_s + 10)
    return reply.exit_code, (reply.stdout + reply.stderr).decode(errors="replace")


@pytest.mark.parametrize("what", ["garbage", "hello"])
async def test_the_agents_port_in_other_hands_ends_that_pod_alone(
    vms: Node, neighbour: tuple[str, str], what: str
) -> None:
    good, ticking = neighbour
    async with attacker(vms, is_copy=what == "garbage") as (cri, bad, container):
        before = vms.rss_mib()
        path = f"/run/clearpod/volumes/containers/{container}/mounts/0/guest"
        asyncio.get_running_loop().create_task(_ignored(sh(cri, container, f"/v/guest steal {path} {what}")))
        taken = await cri.times(ticking, seconds=BOMB_S)
        assert max(taken) < STALLED_MS and vms.rss_mib() - before < GROWTH_MIB
        await cri.not_ready(bad, limit_s=60)
        assert await cri.is_ready(good)


async def _ignored(call: object) -> None:
    try:
        await call  # type: ignore[misc]
    except Exception:  # noqa: BLE001 - the attack ends however it likes
        return


async def test_a_volume_leads_nowhere_else(vms: Node) -> None:
    async with attacker(vms) as (cri, _, container):
        await sh(cri, container, f"/v/guest race /v {vms.root}/canary 2; /v/guest race /v ../../../../../canary 1")
        code, text = await sh(cri, container, "mknod /v/m c 1 1; ls -l /v/m")
        assert code != 0, text
        await sh(cri, container, f"ln -s {vms.root}/canary /v/out; echo x >/v/out/file; ln /v/out/file /v/hard")
        assert vms.canary_is_whole and not (vms.root / "volume" / "m").exists()


READ_ONLY = {
    "volume": "mount -o remount,rw /v; echo x >/v/new",
    "its bind": "mount -o remount,bind,rw /v; echo x >/v/guest",
    "system image": "mknod /disk b $(sed 's/:/ /' /sys/block/{system}/dev); /v/guest write /disk",
}


async def test_nothing_that_is_read_only_can_be_written(vms: Node, hypervisor: str, guest_dir: Path) -> None:
    """kvmtool's guests have the system image as memory: what they write there is a copy of their own."""
    by_memory = hypervisor == "kvmtool"
    file = (guest_dir / "system.erofs").resolve()
    image, volume = file.read_bytes(), sorted(os.listdir(vms.root / "volume"))
    async with attacker(vms, read_only=True, is_copy=True) as (cri, _, container):
        system = "pmem0" if by_memory else "vda"
        for what, script in READ_ONLY.items():
            code, text = await sh(cri, container, script.replace("{system}", system))
            assert code != 0 or (by_memory and what == "system image"), (what, text)
    assert file.read_bytes() == image and sorted(os.listdir(vms.root / "volume")) == volume


async def test_the_images_of_the_share_are_read_only_even_for_root_of_the_guest(vms: Node) -> None:
    async with attacker(vms, is_copy=True) as (cri, _, container):
        path = f"/run/clearpod/volumes/containers/{container}/mounts/0/guest"
        await sh(cri, container, f"/v/guest steal {path} layers; until [ -s /v/guest.result ]; do sleep 0.1; done")
        result = vms.root / "volume" / "guest.result"
        assert result.read_text(encoding="ascii") == "Read-only file system\n"
        result.unlink()


BOMBS = {
    "memory": "tail /dev/zero",
    "processes": ":(){ :|:& };:",
    "disk": "cat /dev/zero >/big",
    "console": "while :; do echo 0123456789012345678901234567890123456789 >/dev/kmsg; done",
    "log": "yes >/proc/1/fd/1",
    "links": "i=0; while :; do i=$((i+1)); ln /v/guest /v/l$i; rm -f /v/l$i; done",
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_bomb_goes_off_in_its_own_vm(vms: Node, neighbour: tuple[str, str], bomb: str) -> None:
    good, ticking = neighbour
    async with attacker(vms, is_copy=bomb == "memory") as (cri, bad, container):
        before, templates = vms.rss_mib(), digests(vms)
        asyncio.get_running_loop().create_task(_ignored(sh(cri, container, BOMBS[bomb], limit_s=int(BOMB_S))))
        taken = await cri.times(ticking, seconds=BOMB_S)
        assert max(taken) < STALLED_MS and vms.rss_mib() - before < GROWTH_MIB
        consoles = Path(vms.root, "run/pods", bad, "console.log").stat().st_blocks * 512
        assert consoles < CONSOLE_MIB << 20
        assert await cri.is_ready(good) and digests(vms).items() >= templates.items()
        await cri("StopPodSandbox", pod_sandbox_id=bad, deadline_s=60)
        assert (vms.root / "canary" / "file").read_bytes() == CANARY
