# SPDX-License-Identifier: Apache-2.0
"""A privileged container in a real VM, which is root of its guest, against the host and other pods.

The VM booted, is a copy of a template, of a running pod or of a named snapshot, or was suspended and resumed: what it
writes must not be what others have of the same memory and disk. Each attack comes out of one of them in an ordinary
run, and out of all where CLEARPOD_ALL_KINDS is set.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux.host import which
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry
from tests.hostile.attackers import BOOTED, FORK, KINDS, NAMED, RESUMED, SAVED, TEMPLATED, Attackers, sh, sh_of
from tests.hostile.rig import CANARY, Caller, Node, node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

STALLED_MS = 5000.0 * PATIENCE
"""What no call about the neighbour may take; emulated guests share two processors with the attack."""
GROWTH_MIB = 16
CONSOLE_MIB = 16
BOMB_S = 2.0


IS_WHOLE = bool(os.environ.get("CLEARPOD_ALL_KINDS"))


def out_of(table: dict[str, str], *also: str) -> list[tuple[str, str]]:
    """Attacks and the kinds of VMs that they come out of: those of the table, or all of its and those in `also`."""
    if not IS_WHOLE:
        return list(table.items())
    return [(attack, kind) for attack, usual in table.items() for kind in KINDS if kind in (usual, *also)]


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


Attacker = AbstractAsyncContextManager[tuple[Caller, str, str]]


@pytest.fixture(scope="module")
def attackers(vms: Node, guest_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attackers]:
    """What makes the bad pods."""
    with Registry(tmp_path_factory.mktemp("attackers") / "registry") as registry:
        yield Attackers(vms, registry, guest_dir=guest_dir, program=vms.root / "volume" / "guest")


@pytest.fixture
def attacker(attackers: Attackers, hypervisor: str) -> Any:
    """As `Attackers.one`; of a hypervisor that can't save guests all of them boot."""

    def one(kind: str, **fields: bool) -> Attacker:
        return attackers.one(BOOTED if hypervisor == "kvmtool" else kind, **fields)

    return one


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


@pytest.mark.parametrize(("what", "kind"), out_of({"garbage": TEMPLATED, "hello": FORK}, *KINDS))
async def test_the_agents_port_in_other_hands_ends_that_pod_alone(
    vms: Node, neighbour: tuple[str, str], attacker: Any, what: str, kind: str
) -> None:
    good, ticking = neighbour
    async with attacker(kind) as (cri, bad, container):
        before = vms.rss_mib()
        path = await seen_from_its_root(cri, container)
        asyncio.get_running_loop().create_task(_ignored(sh(cri, container, f"/v/guest steal {path} {what}")))
        taken = await cri.times(ticking, seconds=BOMB_S)
        assert max(taken) < STALLED_MS and vms.rss_mib() - before < GROWTH_MIB
        await cri.not_ready(bad, limit_s=60)
        assert await cri.is_ready(good)


async def seen_from_its_root(cri: Caller, container: str) -> str:
    """Where a program of the container's is for its guest's kernel: in the upper layer of its root."""
    found = "sed -n 's/.* - overlay .*upperdir=\\([^,]*\\).*/\\1/p' /proc/self/mountinfo | head -1"
    return (await sh_of(cri, container, f"cp /v/guest /g; {found}")).strip() + "/g"


async def _ignored(call: object) -> None:
    try:
        await call  # type: ignore[misc]
    except Exception:  # noqa: BLE001 - the attack ends however it likes
        return


async def test_a_volume_leads_nowhere_else(vms: Node, attacker: Any) -> None:
    async with attacker(BOOTED) as (cri, _, container):
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
IMAGES = "mknod /images b $(sed 's/:/ /' /sys/block/vdc/dev); head -c 9 /images | od; /v/guest write /images"


async def test_nothing_that_is_read_only_can_be_written(
    vms: Node, attacker: Any, hypervisor: str, guest_dir: Path
) -> None:
    """kvmtool's guests have the system image as memory: what they write there is a copy of their own."""
    by_memory = hypervisor == "kvmtool"
    file = (guest_dir / "system.erofs").resolve()
    image, volume = file.read_bytes(), sorted(os.listdir(vms.root / "volume"))
    async with attacker(TEMPLATED, read_only=True) as (cri, _, container):
        system = "pmem0" if by_memory else "vda"
        for what, script in READ_ONLY.items():
            code, text = await sh(cri, container, script.replace("{system}", system))
            assert code != 0 or (by_memory and what == "system image"), (what, text)
    assert file.read_bytes() == image and sorted(os.listdir(vms.root / "volume")) == volume


@pytest.mark.only_on("qemu", "no other can save guests")
@pytest.mark.parametrize("kind", SAVED if IS_WHOLE else [NAMED])
async def test_the_disks_with_images_can_not_be_written(attacker: Any, attackers: Attackers, kind: str) -> None:
    async with attacker(kind) as (cri, _, container):
        before = attackers.images()
        for script in (READ_ONLY["system image"].replace("{system}", "vda"), IMAGES):
            code, text = await sh(cri, container, script)
            assert code == 1 and text.endswith(("Resource busy\n", "Operation not permitted\n")), text
        assert attackers.images() == before


@pytest.mark.parametrize("kind", [BOOTED, TEMPLATED] if IS_WHOLE else [TEMPLATED])
async def test_the_images_of_the_share_are_read_only_even_for_root_of_the_guest(attacker: Any, kind: str) -> None:
    async with attacker(kind) as (cri, _, container):
        path = await seen_from_its_root(cri, container)
        script = f"/v/guest steal {path} layers; until [ -s /g.result ]; do sleep 0.1; done; cat /g.result"
        assert await sh(cri, container, script) == (0, "Read-only file system\n")


BOMBS = {
    "memory": "tail /dev/zero",
    "processes": ":(){ :|:& };:",
    "disk": "cat /dev/zero >/big",
    "console": "while :; do echo 0123456789012345678901234567890123456789 >/dev/kmsg; done",
    "log": "yes >/proc/1/fd/1",
    "links": "i=0; while :; do i=$((i+1)); ln /v/guest /v/l$i; rm -f /v/l$i; done",
}
USUALLY = {
    "memory": TEMPLATED, "processes": FORK, "disk": RESUMED, "console": NAMED, "log": FORK, "links": BOOTED
}  # fmt: skip


@pytest.mark.parametrize(("bomb", "kind"), out_of(USUALLY, *KINDS))
async def test_a_bomb_goes_off_in_its_own_vm(
    vms: Node, neighbour: tuple[str, str], attacker: Any, attackers: Attackers, bomb: str, kind: str
) -> None:
    good, ticking = neighbour
    async with attacker(kind) as (cri, bad, container):
        before, templates = vms.rss_mib(), attackers.digests()
        asyncio.get_running_loop().create_task(_ignored(sh(cri, container, BOMBS[bomb], limit_s=int(BOMB_S))))
        taken = await cri.times(ticking, seconds=BOMB_S)
        assert max(taken) < STALLED_MS and vms.rss_mib() - before < GROWTH_MIB
        consoles = Path(vms.root, "run/pods", bad, "console.log").stat().st_blocks * 512
        assert consoles < CONSOLE_MIB << 20
        assert await cri.is_ready(good) and attackers.digests().items() >= templates.items()
        await cri("StopPodSandbox", pod_sandbox_id=bad, deadline_s=60)
        assert (vms.root / "canary" / "file").read_bytes() == CANARY
