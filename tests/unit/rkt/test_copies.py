# SPDX-License-Identifier: Apache-2.0
"""Which of rkt's pods are copies of a template, and what is written down for gc where there was none."""

import json
import os
from pathlib import Path

import pytest

from stage1.errors import BadRequest
from stage1.pod.model import Pod
from stage1.pod.network import WAITING_MAC, waiting_mac
from stage1.rkt import copies, machine
from stage1.snapshot.machine import spec_of
from stage1.snapshot.store import TemplateStore
from stage1.vm.spec import Nic, VmSpec
from tests.unit.rkt.pod_dir import UUID
from tests.unit.vm.test_argv import LKVM, QEMU

TREE = "deps-sha512-" + "0" * 64
POD = Pod(id=UUID, name="p", namespace="rkt", memory_mib=512, vcpus=2)
GUEST = "usr/lib/clearpod/guest"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """rkt's data directory, in which nothing forbids templates."""
    for name in ("vmlinux", "initramfs", "system"):
        file = tmp_path / "cas/tree" / TREE / "rootfs" / GUEST / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "qemu-system-x86_64").write_text("")
    return tmp_path


def laid(place: Path, uuid: str = UUID) -> tuple[str, VmSpec]:
    pod_dir = place / "pods/run" / uuid
    (pod_dir / "stage1/rootfs").mkdir(parents=True)
    (pod_dir / "stage1TreeStoreID").write_text(TREE)
    guest = f"{pod_dir}/stage1/rootfs/{GUEST}"
    vm = QEMU._replace(
        kernel=f"{guest}/vmlinux",
        initramfs=f"{guest}/initramfs",
        system_image=f"{guest}/system",
        binary=f"{place}/qemu-system-x86_64",
        scratch="",
        nics=(Nic("tap7", "02:00:00:00:00:01"),),
        console_attached=True,
    )
    return str(pod_dir), vm


def find(vm: VmSpec, pod: Pod, *, pod_dir: str) -> tuple[VmSpec | None, tuple[str, ...]]:
    return copies.find(vm, pod, pod_dir=pod_dir, top=machine.templates(pod_dir))


def make(place: Path, vm: VmSpec, pod_dir: str) -> str:
    spec = spec_of(POD, copies.stored(vm, pod_dir), scratch_bytes=0)
    assert spec
    store = TemplateStore(f"{place}/clearpod/vm-templates")
    store.prepare(spec.name, 1 << 20)
    return store.commit(spec.name, spec.made_of).directory


def test_a_pod_without_a_template_boots_and_what_is_to_be_made_is_written_down(place: Path) -> None:
    pod_dir, vm = laid(place)
    assert find(vm, POD, pod_dir=pod_dir) == (None, ())
    missing = copies.missing(pod_dir)
    assert missing
    pod, devices = missing
    assert (pod.memory_mib, pod.vcpus, pod.scratch_mib, pod.hypervisor, devices) == (512, 2, 0, "qemu", 1)


def test_pods_are_copies_of_one_template_whatever_their_own_place_is(place: Path) -> None:
    pod_dir, vm = laid(place)
    template = make(place, vm, pod_dir)
    for there, seen in ((pod_dir, vm), laid(place, "5f1c2a3b-0000-4000-8000-00000000cccc")):
        copy, warnings = find(seen, POD, pod_dir=there)
        assert copy and copy.template and copy.template.directory == template and warnings == ()
        assert copy.nics == (Nic("tap7", WAITING_MAC),) and copy.kernel == seen.kernel
        assert "clearpod.template" in copy.kernel_arguments and copies.missing(there) is None


def test_the_devices_of_two_networks_are_identified_by_addresses_of_their_own(place: Path) -> None:
    pod_dir, vm = laid(place)
    vm = vm._replace(nics=(*vm.nics, Nic("tap8", "02:00:00:00:00:02")))
    assert find(vm, POD, pod_dir=pod_dir) == (None, ())
    missing = copies.missing(pod_dir)
    assert missing and missing[1] == 2
    make(place, vm, pod_dir)
    copy, _ = find(vm, POD, pod_dir=pod_dir)
    assert copy and copy.nics == (Nic("tap7", waiting_mac(0)), Nic("tap8", waiting_mac(1)))
    assert waiting_mac(0) == WAITING_MAC != waiting_mac(1)


def test_one_that_was_changed_is_reported_once_and_the_pod_boots(place: Path) -> None:
    pod_dir, vm = laid(place)
    ram = f"{make(place, vm, pod_dir)}/ram"
    os.chmod(ram, 0o600)
    copy, (warning,) = find(vm, POD, pod_dir=pod_dir)
    assert copy is None and os.path.dirname(ram) in warning and "boots" in warning
    assert find(vm, POD, pod_dir=pod_dir) == (None, ())


@pytest.mark.parametrize(
    "case",
    [
        (LKVM, POD),
        (QEMU, POD._replace(boots=True)),
        (QEMU, POD._replace(profile="systemd")),
    ],
)
def test_what_can_not_be_a_copy_boots_and_wants_none(place: Path, case: tuple[VmSpec, Pod]) -> None:
    pod_dir, _ = laid(place)
    assert find(*case, pod_dir=pod_dir) == (None, ())
    assert copies.missing(pod_dir) is None


def test_files_of_the_guest_that_are_gone_are_reported(place: Path) -> None:
    pod_dir, vm = laid(place)
    (place / "cas/tree" / TREE / "rootfs" / GUEST / "vmlinux").unlink()
    copy, (warning,) = find(vm, POD, pod_dir=pod_dir)
    assert copy is None and "vmlinux" in warning


@pytest.mark.parametrize("text", ["", "[]", '{"v": 1}', '{"v": 1, "memory_mib": "x", "vcpus": 1, "scratch_mib": 0}'])
def test_a_note_that_is_none_is_refused_and_a_later_versions_is_left_alone(place: Path, text: str) -> None:
    pod_dir, _ = laid(place)
    path = Path(pod_dir, copies.MISSING)
    path.write_text(text)
    with pytest.raises(BadRequest, match=copies.MISSING):
        copies.missing(pod_dir)
    path.write_text(json.dumps({"v": 2}))
    assert copies.missing(pod_dir) is None


@pytest.mark.parametrize(
    ("there", "allowed"),
    [
        ("nothing", True),
        ("directory", True),
        ("link to one", True),
        ("file", False),
        ("/dev/null", False),
        ("loop", False),
    ],
)
def test_templates_are_allowed_unless_something_else_stands_in_their_place(
    place: Path, there: str, *, allowed: bool
) -> None:
    pod_dir, _ = laid(place)
    top = place / machine.TEMPLATES
    top.parent.mkdir()
    if there == "directory":
        top.mkdir()
    elif there == "file":
        top.write_text("")
    elif there != "nothing":
        top.symlink_to({"link to one": place, "loop": top}.get(there, there))
    assert machine.templates(pod_dir) == (str(top) if allowed else "")
