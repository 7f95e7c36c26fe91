# SPDX-License-Identifier: Apache-2.0
"""Which pods become copies of templates: a missing one is made later, a bad one is made anew and then given up."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cri.snapshots import templates
from cri.snapshots.templates import Templates
from stage1.engine import Host, Prepared
from stage1.errors import NoSpace, VmFailed
from stage1.linux import process
from stage1.pod.ids import IdMap
from stage1.pod.model import Pod
from stage1.snapshot.machine import TemplateSpec
from stage1.snapshot.store import TemplateStore
from stage1.vm import kvmtool, qemu
from stage1.vm.choose import Choice
from stage1.vm.spec import Nic, SerialLink, VmSpec
from stage1.vm.template import Template
from stage1.vm.vmm import VmProcess
from tests.fakes.patience import PATIENCE

NIC = Nic("tap0", "02:00:00:00:00:01")
MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path) -> Host:
    for name in ("vmlinux", "initramfs", "system.erofs", "qemu-system-x86_64"):
        (tmp_path / name).write_bytes(b"x")
    choice = Choice(qemu.HYPERVISOR, "tcg", f"{tmp_path}/qemu-system-x86_64", "", ())
    return Host(f"{tmp_path}/run", str(tmp_path), f"{tmp_path}/state", choice, scratch_mib=16)


def prepared(host: Host, number: int = 1, **changes: Any) -> Prepared:
    run_dir = f"{host.run_dir}/pods/{number}"
    of_pod = {key: changes.pop(key) for key in list(changes) if key in Pod._fields}
    pod = Pod(id=str(number) * 64, name="a", **of_pod)
    vm = VmSpec(
        name=f"clearpod-{number}",
        hypervisor=qemu.HYPERVISOR,
        binary=host.choice.binary,
        run_dir=run_dir,
        kernel=f"{host.guest_dir}/vmlinux",
        initramfs=f"{host.guest_dir}/initramfs",
        system_image=f"{host.guest_dir}/system.erofs",
        memory_mib=pod.memory_mib,
        vcpus=1,
        link=SerialLink(f"{run_dir}/agent.sock"),
        nics=(NIC,),
    )
    return Prepared(pod, run_dir, vm._replace(**changes), b"k" * 16)


class Maker:
    """Makes templates without VMs; `fails` is the number of failures to come."""

    def __init__(self, fails: int = 0, error: Exception | None = None) -> None:
        self.made: list[str] = []
        self.fails, self.error = fails, error or VmFailed("no VM")

    def __call__(
        self, spec: TemplateSpec, host: Host, *, vmm: object, store: TemplateStore, limit_s: float
    ) -> Template:
        self.made.append(spec.name)
        if len(self.made) <= self.fails:
            raise self.error
        store.prepare(spec.name, MIB)
        return store.commit(spec.name, spec.made_of)


@pytest.fixture
def opened(host: Host, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Templates]:
    monkeypatch.setattr(templates, "QUIET_S", 0.01)

    def make(maker: Maker, *, disk_mib: int = 64) -> Templates:
        return Templates(host, None, disk_mib=disk_mib, make=maker)  # type: ignore[arg-type]

    return make


def template_of(copy: Prepared | None) -> Template:
    assert copy is not None and isinstance(copy.vm, VmSpec) and copy.vm.template is not None
    return copy.vm.template


async def test_the_first_pod_boots_and_the_next_ones_are_copies(host: Host, opened: Callable[..., Templates]) -> None:
    maker = Maker()
    kept = opened(maker)
    assert await kept.copy_of(prepared(host)) is None
    assert await kept.copy_of(prepared(host, 2)) is None
    await kept.settled()
    copies = [await kept.copy_of(prepared(host, number)) for number in (3, 4)]
    assert len({template_of(copy).directory for copy in copies}) == 1 and len(maker.made) == 1
    vm = copies[0] and copies[0].vm
    assert isinstance(vm, VmSpec) and vm.kernel_arguments[0] == "clearpod.template"
    assert vm.nics[0].tap == NIC.tap and vm.nics[0].mac != NIC.mac
    assert kept.counts() == {"made": 1, "used": 2, "missed": 2, "failed": 0}
    again = opened(maker)
    assert template_of(await again.copy_of(prepared(host, 5))) == template_of(copies[0]), "the next daemon has it"
    await kept.close()


@pytest.mark.parametrize("waits", [False, True])
async def test_one_that_is_larger_than_the_budget_is_made_once_and_its_pods_boot(
    host: Host, opened: Callable[..., Templates], caplog: pytest.LogCaptureFixture, waits: bool
) -> None:
    class Large(Maker):
        def __call__(self, spec: TemplateSpec, host: Host, **more: Any) -> Template:
            made = super().__call__(spec, host, **more)
            Path(made.directory, "ram").chmod(0o600)
            Path(made.directory, "ram").write_bytes(b"x" * 2 * MIB)
            return made

    maker = Large()
    kept = opened(maker, disk_mib=1)
    for number in range(1, 4):
        assert await kept.copy_of(prepared(host, number), waits=waits) is None
        await kept.settled()
    assert len(maker.made) == 1 and kept.counts()["made"] == 0 and kept.counts()["failed"] == 1
    (error,) = (str(one.__dict__["error"]) for one in caplog.records if one.message == "template.failed")
    assert "templates.disk_mib" in error and "1 MiB" in error
    await kept.close()


async def test_the_pool_waits_for_its_template(host: Host, opened: Callable[..., Templates]) -> None:
    maker = Maker()
    kept = opened(maker)
    copies = await asyncio.gather(*(kept.copy_of(prepared(host, number), waits=True) for number in (1, 2)))
    assert template_of(copies[0]) == template_of(copies[1]) and len(maker.made) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"boots": True},
        {"profile": "systemd"},
        {"ids": IdMap(1 << 20, 65536)},
        {"disk_volumes": ("cache",)},
        {"hypervisor": kvmtool.HYPERVISOR},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_pod_that_needs_a_boot_gets_one(
    host: Host, opened: Callable[..., Templates], changes: dict[str, Any]
) -> None:
    maker = Maker()
    kept = opened(maker)
    one = prepared(host)
    of_pod = {key: value for key, value in changes.items() if key in ("boots", "profile", "ids", "disk_volumes")}
    of_vm = {key: value for key, value in changes.items() if key not in of_pod}
    pod = one.pod._replace(**of_pod)
    assert isinstance(one.vm, VmSpec)
    assert await kept.copy_of(one._replace(pod=pod, vm=one.vm._replace(**of_vm)), waits=True) is None
    assert maker.made == []


@pytest.mark.parametrize("error", [VmFailed("no VM"), NoSpace("no room"), OSError("odd")], ids=repr)
async def test_one_that_can_not_be_made_is_given_up_after_some_tries(
    host: Host, opened: Callable[..., Templates], error: Exception
) -> None:
    maker = Maker(99, error)
    kept = opened(maker)
    for number in range(1, 6):
        assert await kept.copy_of(prepared(host, number), waits=True) is None
    await kept.settled()
    assert len(maker.made) == templates.TRIES and kept.counts()["failed"] == templates.TRIES


async def test_one_whose_copies_fail_is_made_anew_and_then_given_up(
    host: Host, opened: Callable[..., Templates]
) -> None:
    maker = Maker()
    kept = opened(maker)
    for _ in range(templates.TRIES):
        copy = await kept.copy_of(prepared(host), waits=True)
        await kept.reject(template_of(copy), VmFailed("dead"))
    assert await kept.copy_of(prepared(host), waits=True) is None
    assert len(maker.made) == templates.TRIES


async def test_copies_that_fail_at_once_count_once(host: Host, opened: Callable[..., Templates]) -> None:
    kept = opened(Maker())
    copies = [await kept.copy_of(prepared(host, number), waits=True) for number in (1, 2, 3, 4)]
    await asyncio.gather(*(kept.reject(template_of(copy), VmFailed("dead")) for copy in copies))
    assert kept.counts()["failed"] == 1


async def test_a_damaged_one_is_made_anew(host: Host, opened: Callable[..., Templates]) -> None:
    maker = Maker()
    there = template_of(await opened(maker).copy_of(prepared(host), waits=True))
    Path(there.state).write_bytes(b"damaged")
    kept = opened(maker)
    assert template_of(await kept.copy_of(prepared(host), waits=True)) == there
    assert len(maker.made) == 2 and Path(there.state).read_bytes() == b""


class Sleeper:
    """Starts what sleeps in place of a VM."""

    def start(self, vm: object) -> VmProcess:
        pid = process.spawn(["/usr/bin/sleep", "infinity"])
        return VmProcess(pid, process.start_time(pid), "")


async def test_a_daemon_that_ends_gives_up_what_is_being_made(host: Host) -> None:
    began = threading.Event()

    def make(spec: TemplateSpec, host: Host, *, vmm: Any, **_: object) -> Template:
        vm = vmm.start(None)
        began.set()
        assert vm.wait(30 * PATIENCE), "nobody has ended it"
        raise VmFailed("its VM has ended")

    kept = Templates(host, Sleeper(), disk_mib=64, make=make)
    waiting = asyncio.create_task(kept.copy_of(prepared(host), waits=True))
    await asyncio.to_thread(began.wait)
    await kept.close()
    assert await waiting is None
    assert await kept.copy_of(prepared(host), waits=True) is None, "one that begins later is ended, too"


async def test_a_daemon_removes_what_another_one_had_begun_or_can_not_be_used(
    host: Host, opened: Callable[..., Templates]
) -> None:
    store = TemplateStore(f"{host.state_dir}/{templates.DIRECTORY}")
    store.prepare("begun", MIB)
    store.prepare("old", MIB)
    store.commit("old", {"format": "0"})
    kept = opened(Maker())
    kept.open()
    await kept.settled()
    assert store.names() == [] and list(Path(store.top).rglob("*")) == [Path(store.top, ".new")]
    await kept.close()
