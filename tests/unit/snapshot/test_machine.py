# SPDX-License-Identifier: Apache-2.0
"""What makes two VMs copies of one template, and what does not; why a VM can't begin with a snapshot."""

import os
from pathlib import Path

import pytest

from stage1.pod.model import Pod
from stage1.snapshot import machine
from stage1.snapshot.format import Manifest
from stage1.snapshot.machine import changed, difference, identity, outdated
from stage1.vm.spec import Nic, SerialLink, Share, VmSpec
from tests.unit.vm.test_argv import QEMU

HOST = {"cpu": "model=1", "host": "6.12"}
CPUINFO = "vendor_id\t: A\nmodel\t\t: 7\ncpu MHz\t\t: {mhz}\nflags\t\t: fpu vme\n\nprocessor\t: 1\nmodel\t\t: 8\n"
FILES = {"kernel": "vmlinux", "initramfs": "initramfs", "system": "system", "hypervisor": "qemu-system-x86_64"}
POD = Pod("1" * 64, "web")


@pytest.fixture
def vm(tmp_path: Path) -> VmSpec:
    paths = {part: f"{tmp_path}/{file}" for part, file in FILES.items()}
    for path in paths.values():
        Path(path).write_bytes(b"x")
    return QEMU._replace(
        kernel=paths["kernel"], initramfs=paths["initramfs"], system_image=paths["system"], binary=paths["hypervisor"],
        scratch="/s/1.img", shares=(Share("layers", "/r/1/share/layers", read_only=True),),
        nics=(Nic("tap7", "02:00:00:00:00:01"),),
    )  # fmt: skip


def name(vm: VmSpec, *, scratch_bytes: int = 1 << 20, host: dict[str, str] = HOST) -> str:
    return machine.name(machine.parts(vm, scratch_bytes=scratch_bytes, host=host))


def test_the_name_depends_on_what_its_guest_can_see_and_not_on_the_vms_owner(vm: VmSpec) -> None:
    owned = vm._replace(
        name="clearpod-9", run_dir="/r/9", link=SerialLink("/r/9/agent.sock"), scratch="/s/9.img",
        shares=(Share("layers", "/r/9/share/layers", read_only=True),), nics=(Nic("tap0", "02:00:00:00:00:09"),),
        netns="/run/netns/9", cgroups=("/sys/fs/cgroup/9",),
    )  # fmt: skip
    assert name(vm) == name(owned) and len(name(vm)) == 32
    others = [
        name(vm._replace(memory_mib=129)), name(vm._replace(vcpus=2)), name(vm._replace(nics=())),
        name(vm._replace(kernel_arguments=("clearpod.maps",))), name(vm._replace(accel="kvm")),
        name(vm._replace(is_scratch_kept=True)), name(vm._replace(sandbox=False)), name(vm._replace(scratch="")),
        name(vm, scratch_bytes=2 << 20), name(vm, host=HOST | {"cpu": "model=2"}), name(vm, host={"host": "6.13"}),
    ]  # fmt: skip
    assert len({name(vm), *others}) == 1 + len(others)


@pytest.mark.parametrize("part", FILES)
def test_a_file_that_is_replaced_makes_another_one_and_the_old_one_useless(
    vm: VmSpec, tmp_path: Path, part: str
) -> None:
    before, file = machine.parts(vm, scratch_bytes=0, host=HOST), tmp_path / FILES[part]
    assert changed(before, machine.now(before, HOST)) == ""
    (tmp_path / "new").write_bytes(b"x")
    os.rename(tmp_path / "new", file)
    assert changed(before, machine.now(before, HOST)) == part
    assert machine.name(before) != name(vm, scratch_bytes=0)
    file.unlink()
    assert changed(before, machine.now(before, HOST)) == part


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ((), ""),
        *(((part,), part) for part in ("cpu", "host", "format", "arguments")),
        (("arguments", "hypervisor"), "hypervisor"),  # which is the first of the arguments
        (("scratch", "kernel", "system"), "kernel"),
    ],
)
def test_what_differs_is_named_and_first_what_was_replaced(others: tuple[str, ...], named: str) -> None:
    """Before what the pod asks for."""
    was = dict.fromkeys(
        ("format", "arguments", "scratch", "kernel", "system", "hypervisor", "cpu", "host"), "as it was"
    )
    assert changed(was, was | dict.fromkeys(others, "another")) == named
    assert changed({}, machine.now({}, HOST)) == "format"


def test_a_guest_with_its_disk_mounted_is_of_that_file_system(vm: VmSpec) -> None:
    """Its memory has blocks of that, and checksums by its UUID."""
    specs = [machine.spec_of(POD, vm, scratch_bytes=1 << 20, disk=disk) for disk in ("", "0" * 32, "1" * 32)]
    assert len({one.name for one in specs if one and not outdated(Manifest(one.made_of))}) == 3


def test_guests_whose_vmms_give_memory_back_report_each_page(vm: VmSpec) -> None:
    specs = [machine.spec_of(POD, vm._replace(memory_shim=shim), scratch_bytes=0) for shim in ("", "/g/qemu-shim.so")]
    assert all(specs) and len({spec.name for spec in specs if spec}) == 2
    reports = [[word for word in spec.vm.kernel_arguments if "page_reporting" in word] for spec in specs if spec]
    assert reports == [[], ["page_reporting.page_reporting_order=0"]]


def test_the_tables_of_a_copys_kernel_grow_with_its_memory(vm: VmSpec) -> None:
    for memory_mib, dentries, inodes in ((128, 2048, 1024), (1024, 16384, 8192)):
        spec = machine.spec_of(POD, vm._replace(memory_mib=memory_mib), scratch_bytes=0)
        assert spec
        given = set(spec.vm.kernel_arguments) - set(vm.kernel_arguments)
        tables = {f"dhash_entries={dentries}", f"ihash_entries={inodes}"}
        assert given == {"clearpod.template", "slub_max_order=0"} | tables


def test_of_the_processor_counts_what_a_guest_can_see_and_not_how_fast_it_is_now(vm: VmSpec) -> None:
    host = machine.of_host(CPUINFO.format(mhz=1), os.uname())
    assert host == machine.of_host(CPUINFO.format(mhz=2), os.uname())
    assert host["cpu"] == "vendor_id=A\nmodel=7\nflags=fpu vme" and os.uname().release in host["host"]
    measured = (("tsc_early_khz=2100000", "lpj=21000000"), ("tsc_early_khz=2099998", "lpj=20999980"), ())
    first, next_daemon, none = (name(vm._replace(kernel_arguments=arguments)) for arguments in measured)
    assert first == next_daemon != none


@pytest.fixture
def manifest(vm: VmSpec, tmp_path: Path) -> Manifest:
    """Of a guest that was saved here just now."""
    (tmp_path / "image").write_bytes(b"x")
    made_of = {"format": machine.FORMAT, **machine.this_host(), **machine.booted(vm)}
    return Manifest(made_of, memory_mib=64, pieces=((f"{tmp_path}/image", 0, 4096, identity(f"{tmp_path}/image")),))


def test_what_has_changed_is_named_and_so_is_what_is_missing(manifest: Manifest) -> None:
    labels = {"cpu": "processor of the host", "host": "kernel of the host", "format": "format", "hypervisor": "VMM",
              "system": "system image", "kernel": "kernel", "initramfs": ""}  # fmt: skip
    assert outdated(manifest) == "" and labels.keys() == manifest.made_of.keys()
    for part, label in labels.items():
        other = manifest._replace(made_of={**manifest.made_of, part: "another"})
        assert f"another {label}" in outdated(other)
        less = {known: was for known, was in manifest.made_of.items() if known != part}  # as a foreign one may be
        assert difference(manifest._replace(made_of=less), manifest.made_of) and outdated(Manifest(less))


def test_an_image_that_was_pulled_anew_other_memory_and_other_networks_are_named(
    manifest: Manifest, tmp_path: Path
) -> None:
    assert difference(manifest, manifest.made_of, memory_mib=64, interfaces=()) == ""
    assert "65 MiB" in difference(manifest, {}, memory_mib=65)
    assert "eth1" in difference(manifest, {}, interfaces=["eth1"])
    (tmp_path / "new").write_bytes(b"x")
    os.rename(tmp_path / "new", tmp_path / "image")
    assert f"{tmp_path}/image" in outdated(manifest)
    (tmp_path / "image").unlink()
    assert f"{tmp_path}/image" in outdated(manifest)
