# SPDX-License-Identifier: Apache-2.0
"""Pods that are copies of one guest, with real VMs and Debian's plugins: what must differ does; what fails boots."""

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.config_tables import Templates
from stage1.rootfs.checkpoint import examined
from stage1.snapshot.format import MANIFEST, decode
from stage1.snapshot.store import TemplateStore
from stage1.vm.template import RAM_FD
from tests.fakes.outer_net import OuterNet
from tests.fakes.patience import PACE
from tests.fakes.processes import descriptors

from .conftest import Client, Registered, VmWorld
from .test_network import addresses, outer_world
from .test_pool_vms import CLOCK_S, SLOW_S, output_of, running

pytestmark = [pytest.mark.vm, pytest.mark.own_kernel, pytest.mark.timeout(600)]

COPIES = 8
FREED_MIB = 24
WHO = """
cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid /etc/machine-id
hostname
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
head -c 16 /proc/self/auxv | od -An -tx1 | tr -d ' \\n'; echo; grep stack /proc/self/maps | cut -d- -f1
grep -v 00:00:00 /sys/class/net/*/address | cut -d: -f2-
"""


@pytest.fixture
def outer(sample: Registered, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with outer_world(sample, guest_dir, copies=False) as made:
        world = made[0]
        world.config = world.config.but(templates=Templates(enabled=True))
        yield made


async def counts(cri: Client) -> dict[str, int]:
    """Of templates, as `crictl info` shows them."""
    result: dict[str, int] = json.loads((await cri("Status", verbose=True)).info["templates"])
    return result


async def removed(cri: Client, *pods: str) -> None:
    await asyncio.gather(*(cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=SLOW_S) for pod in pods))


async def test_copies_share_no_identity_and_lack_nothing(outer: tuple[VmWorld, OuterNet]) -> None:
    world, net = outer
    async with world.daemon() as cri:
        assert cri.node.templates is not None
        first, _ = await running(cri, "first")
        await cri.node.templates.settled()
        assert await counts(cri) == {"made": 1, "used": 0, "missed": 1, "failed": 0}
        pods = await asyncio.gather(*(running(cri, f"copy{number}") for number in range(COPIES)))
        assert (await counts(cri))["used"] == COPIES and (await counts(cri))["failed"] == 0
        lines = [(await output_of(cri, container, WHO)).split() for _, container in pods]
        for column in zip(*lines, strict=True):
            assert len(set(column)) == COPIES, column
        for (pod, container), seen in zip(pods, lines, strict=True):
            assert seen[2] == pod[:32] and (await addresses(cri, pod))[0] in await output_of(cri, container, "ip addr")
        await _is_a_whole_pod(cri, *pods[0], neighbour=pods[1][0])
        await _gives_back_what_it_frees(cri, *pods[0])
        _is_jailed(cri, pods[0][0])
        await removed(cri, *(pod for pod, _ in pods[1:]), first)
    world.host = world.host._replace(guest_dir=_with_another_library(world))
    async with world.daemon() as cri:
        assert (await output_of(cri, pods[0][1], "cat /etc/machine-id")).strip() == pods[0][0][:32], "adopted"
        await _boots_if_its_library_has_no_effect(cri)
        await _boots_if_its_template_does_not_load(cri)
        await removed(cri, pods[0][0])
    assert world.left_over() == [] and os.listdir(net.settings.cache_dir) == []


async def _is_a_whole_pod(cri: Client, pod: str, container: str, *, neighbour: str) -> None:
    asked_s = time.time()
    now_s = int(await output_of(cri, container, "date +%s"))
    assert asked_s - 1 - CLOCK_S < now_s < time.time() + CLOCK_S
    other = (await addresses(cri, neighbour))[0]
    for target in ("10.77.0.1", "fd77::1", other):
        assert "1 packets received" in await output_of(cri, container, f"ping -c1 -W5 {target}"), target
    assert (await output_of(cri, container, "cat /sys/block/vda/queue/read_ahead_kb")).strip() == "4096"
    assert (await output_of(cri, container, "cat /sys/class/bdi/9p-1/read_ahead_kb")).strip() == "4"
    await output_of(cri, container, "dd if=/dev/zero of=/file bs=64k count=64 && sync && rm /file")
    errors = await output_of(cri, container, "cat /sys/fs/ext4/vdb/errors_count /sys/fs/ext4/vdb/warning_count")
    assert errors.split() == ["0", "0"], "its disk was mounted before it was a copy"
    assert "dhash_entries=" in await output_of(cri, container, "cat /proc/cmdline")


async def _gives_back_what_it_frees(cri: Client, pod: str, container: str) -> None:
    """To the host; and the template's own content is there again, for all others as before."""
    vm = cri.node.pods.get(pod).vm
    assert vm is not None
    before = _written_kib(vm.pid)
    await output_of(cri, container, f"dd if=/dev/urandom of=/dev/shm/big bs=1M count={FREED_MIB}")
    assert _written_kib(vm.pid) > before + FREED_MIB * 700  # some pages were written to before
    await output_of(cri, container, "rm /dev/shm/big")
    async with asyncio.timeout(120 * PACE):
        while _written_kib(vm.pid) > before + FREED_MIB * 200:
            await asyncio.sleep(1)
    sums = await output_of(cri, container, "for n in 1 2; do dd if=/dev/zero bs=1M count=20 2>/dev/null | md5sum; done")
    assert len(set(sums.splitlines())) == 1


def _written_kib(pid: int) -> int:
    """What the VMM has of its guest's memory for itself."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    return sum(int(one[1]) for one in re.finditer(r"/ram\n(?:.*\n)*?Anonymous: +(\d+) kB", smaps))


def _is_jailed(cri: Client, pod: str) -> None:
    """As every VMM; and its template came as descriptors that can only be read, and is at no path."""
    vm = cri.node.pods.get(pod).vm
    assert vm is not None
    process = Path(f"/proc/{vm.pid}")
    status = dict(line.split(":\t") for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert (status["Seccomp"], status["NoNewPrivs"], status["Groups"].strip()) == ("2", "1", "")
    assert "0" not in status["Uid"].split() and int(status["CapEff"], 16) < 1 << 5
    top = f"{cri.node.host.state_dir}/vm-templates/"
    files = {number: path for number, path in descriptors(vm.pid).items() if path.startswith(top)}
    assert files[RAM_FD].endswith("/ram")
    for number, path in files.items():
        flags = re.search(r"^flags:\s+([0-7]+)", (process / "fdinfo" / str(number)).read_text(), re.MULTILINE)
        assert flags and int(flags[1], 8) & os.O_ACCMODE == os.O_RDONLY
        assert not Path(f"{process}/root{path}").exists()
    mapped = [line.split()[1] for line in (process / "maps").read_text().splitlines() if line.endswith("/ram")]
    assert mapped and all(one.endswith("p") for one in mapped), "what it writes is its own"


def _with_another_library(world: VmWorld) -> str:
    """A directory of the guest whose library for QEMU maps nothing: in its place is kvmtool's."""
    place = world.root / "guest-without"
    place.mkdir()
    for file in Path(world.host.guest_dir).iterdir():
        (place / file.name).symlink_to(file.resolve())
    (place / "qemu-shim.so").unlink()
    (place / "qemu-shim.so").symlink_to((place / "lkvm-shim.so").resolve())
    return str(place)


async def _boots_if_its_library_has_no_effect(cri: Client) -> None:
    """The guest's memory is empty then, and it ends at its first instruction."""
    assert cri.node.templates is not None
    pod, container = await running(cri, "blind")
    assert await output_of(cri, container, "grep -c clearpod.template /proc/cmdline || echo here") == "0\nhere\n"
    assert (await counts(cri))["failed"] == 1
    again, _ = await running(cri, "again")  # for which the next template is made
    await cri.node.templates.settled()
    await removed(cri, pod, again)


async def _boots_if_its_template_does_not_load(cri: Client) -> None:
    """One that is as it was written, and that QEMU refuses: the pod boots, and the template is gone."""
    store = TemplateStore(f"{cri.node.host.state_dir}/vm-templates")
    (name,) = store.names()
    template = store.find(name)
    assert template is not None
    os.truncate(template.state, 4096)
    manifest = Path(template.directory, MANIFEST)
    digests = {"ram": examined(template.ram), "state": examined(template.state)}
    manifest.write_bytes(decode(manifest.read_bytes(), of="it")._replace(files=digests).encode())
    pod, container = await running(cri, "boots")
    assert await output_of(cri, container, "echo here") == "here\n"
    assert store.names() == [] and (await counts(cri))["failed"] == 2
    await removed(cri, pod)
