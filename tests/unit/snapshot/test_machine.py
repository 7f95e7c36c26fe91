# SPDX-License-Identifier: Apache-2.0
"""What makes two VMs copies of one template, and what does not."""

import os
from pathlib import Path
from typing import Any

import pytest

from stage1.pod.model import Pod
from stage1.snapshot import machine
from stage1.snapshot.format import Manifest
from stage1.snapshot.machine import changed, difference, identity, outdated
from stage1.vm.spec import Nic, SerialLink, Share, VmSpec
from tests.unit.vm.test_argv import QEMU

HOST = {"cpu": "model=1", "host": "6.12"}
CPUINFO = "vendor_id\t: A\nmodel\t\t: 7\ncpu MHz\t\t: {mhz}\nflags\t\t: fpu vme\n\nprocessor\t: 1\nmodel\t\t: 8\n"


@pytest.fixture
def vm(tmp_path: Path) -> VmSpec:
    for name in ("vmlinux", "initramfs", "system", "qemu-system-x86_64"):
        (tmp_path / name).write_bytes(b"x")
    return QEMU._replace(
        kernel=f"{tmp_path}/vmlinux",
        initramfs=f"{tmp_path}/initramfs",
        system_image=f"{tmp_path}/system",
        binary=f"{tmp_path}/qemu-system-x86_64",
        scratch="/s/1.img",
        shares=(Share("layers", "/r/1/share/layers", read_only=True),),
        nics=(Nic("tap7", "02:00:00:00:00:01"),),
    )


def name(vm: VmSpec, *, scratch_bytes: int = 1 << 20, host: dict[str, str] | None = None) -> str:
    return machine.name(machine.parts(vm, scratch_bytes=scratch_bytes, host=host or HOST))


def test_the_key_does_not_depend_on_the_vms_owner(vm: VmSpec) -> None:
    other = vm._replace(
        name="clearpod-9",
        run_dir="/r/9",
        link=SerialLink("/r/9/agent.sock"),
        scratch="/s/9.img",
        shares=(Share("layers", "/r/9/share/layers", read_only=True),),
        nics=(Nic("tap0", "02:00:00:00:00:09"),),
        netns="/run/netns/9",
        cgroups=("/sys/fs/cgroup/9",),
    )
    assert name(vm) == name(other)
    assert len(name(vm)) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"memory_mib": 129},
        {"vcpus": 2},
        {"kernel_arguments": ("clearpod.maps",)},
        {"nics": ()},
        {"accel": "kvm"},
        {"is_scratch_kept": True},
        {"sandbox": False},
        {"scratch": ""},
    ],
    ids=str,
)
def test_what_its_guest_can_see_does(vm: VmSpec, change: dict[str, Any]) -> None:
    assert name(vm) != name(vm._replace(**change))


def test_so_do_the_disk_the_machine_and_the_hosts_kernel(vm: VmSpec) -> None:
    others = (
        name(vm, scratch_bytes=2 << 20),
        name(vm, host=HOST | {"cpu": "model=2"}),
        name(vm, host={"host": "6.13"}),
    )
    assert len({name(vm), *others}) == 4


@pytest.mark.parametrize("file", ["vmlinux", "initramfs", "system", "qemu-system-x86_64"])
def test_a_file_that_is_replaced_makes_another_one_and_the_old_one_useless(
    vm: VmSpec, tmp_path: Path, file: str
) -> None:
    before = machine.parts(vm, scratch_bytes=0, host=HOST)
    assert not changed(before, machine.now(before, HOST))
    (tmp_path / "new").write_bytes(b"x")
    os.rename(tmp_path / "new", tmp_path / file)
    assert changed(before, machine.now(before, HOST))
    assert machine.name(before) != name(vm, scratch_bytes=0)
    os.unlink(tmp_path / file)
    assert changed(before, machine.now(before, HOST))


def test_what_differs_is_named(vm: VmSpec, tmp_path: Path) -> None:
    parts = machine.parts(vm, scratch_bytes=0, host=HOST)
    assert changed(parts, machine.now(parts, HOST)) == ""
    assert changed(parts, machine.now(parts, HOST | {"cpu": "model=2"})) == "cpu"
    assert changed(parts, machine.now(parts, HOST | {"host": "6.13"})) == "host"
    assert changed({}, machine.now({}, HOST)) == "format"
    for name, file in (("hypervisor", "qemu-system-x86_64"), ("kernel", "vmlinux")):
        os.truncate(tmp_path / file, 9)
        assert changed(parts, machine.now(parts, HOST)) == name


def test_a_guest_with_its_disk_mounted_is_of_that_file_system(vm: VmSpec) -> None:
    """Its memory has blocks of that, and checksums by its UUID."""
    names = []
    for disk in ("", "0" * 32, "1" * 32):
        spec = machine.spec_of(Pod("1" * 64, "web"), vm, scratch_bytes=1 << 20, disk=disk)
        assert spec and not outdated(Manifest(spec.made_of))
        names.append(spec.name)
    assert len(set(names)) == 3


def test_guests_whose_vmms_give_memory_back_report_each_page(vm: VmSpec) -> None:
    pod = Pod("1" * 64, "web")
    specs = [machine.spec_of(pod, vm._replace(memory_shim=shim), scratch_bytes=0) for shim in ("", "/g/qemu-shim.so")]
    assert all(specs) and len({spec.name for spec in specs if spec}) == 2
    reports = [[word for word in spec.vm.kernel_arguments if "page_reporting" in word] for spec in specs if spec]
    assert reports == [[], ["page_reporting.page_reporting_order=0"]]


def test_the_tables_of_a_copys_kernel_grow_with_its_memory(vm: VmSpec) -> None:
    pod = Pod("1" * 64, "web")
    for memory_mib, dentries, inodes in ((128, 2048, 1024), (1024, 16384, 8192)):
        spec = machine.spec_of(pod, vm._replace(memory_mib=memory_mib), scratch_bytes=0)
        assert spec
        given = set(spec.vm.kernel_arguments) - set(vm.kernel_arguments)
        tables = {f"dhash_entries={dentries}", f"ihash_entries={inodes}"}
        assert given == {"clearpod.template", "slub_max_order=0"} | tables


def test_another_host_makes_it_useless(vm: VmSpec) -> None:
    parts = machine.parts(vm, scratch_bytes=0, host=HOST)
    assert changed(parts, machine.now(parts, HOST | {"cpu": "model=2"}))
    assert changed(parts | {"format": "0"}, machine.now(parts, HOST))
    assert changed({}, machine.now({}, HOST))


def test_of_the_processor_counts_what_a_guest_can_see_and_not_how_fast_it_is_now() -> None:
    host = machine.of_host(CPUINFO.format(mhz=1), os.uname())
    assert host == machine.of_host(CPUINFO.format(mhz=2), os.uname())
    assert host["cpu"] == "vendor_id=A\nmodel=7\nflags=fpu vme"
    assert os.uname().release in host["host"]


def test_the_next_daemon_measures_another_frequency_and_means_the_same(vm: VmSpec) -> None:
    first, next_one, none = (
        vm._replace(kernel_arguments=arguments)
        for arguments in (("tsc_early_khz=2100000", "lpj=21000000"), ("tsc_early_khz=2099998", "lpj=20999980"), ())
    )
    assert name(first) == name(next_one) != name(none)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Of a guest that was saved here just now."""
    files = {}
    for name in ("kernel", "initramfs", "system", "hypervisor", "image"):
        (tmp_path / name).write_bytes(b"x")
        files[name] = identity(str(tmp_path / name))
    image = files.pop("image")
    made_of = {"format": machine.FORMAT, **machine.this_host(), **files}
    return Manifest(made_of, memory_mib=64, pieces=((f"{tmp_path}/image", 0, 4096, image),))


def test_one_of_now_is_not_outdated(manifest: Manifest) -> None:
    assert outdated(manifest) == ""


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("cpu", "processor of the host"),
        ("host", "kernel of the host"),
        ("format", "format"),
        ("hypervisor", "VMM"),
        ("system", "system image"),
        ("kernel", "kernel"),
    ],
)
def test_what_has_changed_is_named(manifest: Manifest, part: str, name: str) -> None:
    other = manifest._replace(made_of={**manifest.made_of, part: "another"})
    assert f"another {name} than" in outdated(other)


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ((), ""),
        (("arguments",), "arguments"),
        (("arguments", "hypervisor"), "hypervisor"),  # which is the first of the arguments
        (("scratch", "kernel", "system"), "kernel"),
    ],
)
def test_what_was_replaced_is_named_before_what_the_pod_asks_for(others: tuple[str, ...], named: str) -> None:
    was = dict.fromkeys(("format", "arguments", "scratch", "kernel", "system", "hypervisor"), "as it was")
    assert changed(was, was | dict.fromkeys(others, "another")) == named


def test_an_image_that_was_pulled_anew_is_named(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x")
    os.rename(tmp_path / "new", tmp_path / "image")
    assert f"{tmp_path}/image" in outdated(manifest)
    (tmp_path / "image").unlink()
    assert f"{tmp_path}/image" in outdated(manifest)


def test_a_pod_of_other_memory_or_networks_can_not_begin_with_it(manifest: Manifest) -> None:
    assert difference(manifest, manifest.made_of, memory_mib=64, interfaces=()) == ""
    assert "65 MiB" in difference(manifest, {}, memory_mib=65)
    assert "eth1" in difference(manifest, {}, interfaces=["eth1"])


def test_a_part_that_a_foreign_manifest_leaves_out_is_another_one(manifest: Manifest) -> None:
    for part in manifest.made_of:
        less = {name: was for name, was in manifest.made_of.items() if name != part}
        assert difference(manifest._replace(made_of=less), manifest.made_of) and outdated(Manifest(less))
