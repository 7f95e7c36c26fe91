# SPDX-License-Identifier: Apache-2.0
"""virtiofsd beside a VMM: where it is looked for, what it is told, and what of the jail it gets."""

from pathlib import Path

import pytest

from stage1.errors import VmFailed
from stage1.linux.idmap import Extent
from stage1.pod.model import IdMap, Pod
from stage1.vm import jail, kvmtool, limits, qemu, volume_server
from stage1.vm.hypervisor import Hypervisor
from tests.unit.vm.test_argv import POD, QEMU, SERVED, SHARES

VM = QEMU._replace(shares=SERVED, ids=(Extent(0, 0x70010000, 65536),), cgroups=("/sys/fs/cgroup/one",))


def test_it_is_taken_from_where_distributions_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent, here = tmp_path / "absent", tmp_path / "virtiofsd"
    here.touch(0o755)
    monkeypatch.setattr(volume_server, "PATHS", (str(absent), str(here)))
    assert volume_server.find().path == str(here)
    here.unlink()
    assert "virtiofsd" in volume_server.find().remedy


def test_it_is_in_the_vmms_namespaces_and_cgroups_and_may_change_volumes_alone() -> None:
    launch = jail.Launch(volume_server.argv("/usr/libexec/virtiofsd", SERVED[1].path), {}, (15,))
    fields = jail.describe_server(VM, launch, pid=4711).decode().split("\0")
    assert {POD, "j4711", "n", "k15", "g/sys/fs/cgroup/one", "c0 1879113728 65536"} <= set(fields)
    changed = [one for one in fields if one.startswith("s") and int(one[1:].partition(":")[0], 16) & jail.TREE & 0b10]
    writable = [one for one in changed if "/dev/" not in one]
    assert writable and all(f":{POD}/share/volumes/" in one for one in writable)
    assert not [one for one in fields if one[:1] in "rmwvtf" and one], "it brings no places, taps and filter"


def test_it_counts_in_the_limit_of_the_vm() -> None:
    plain = limits.of(VM._replace(shares=SHARES)).memory_bytes
    assert limits.of(VM).memory_bytes - plain == limits.SERVER_MIB * limits.MIB


def test_without_the_program_it_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_server, "PATHS", ())
    with pytest.raises(VmFailed, match="virtiofsd"):
        volume_server.start(VM, 4711, listener=0, log=1)


@pytest.mark.parametrize(
    ("pod", "hypervisor", "paths", "noun"),
    [
        (Pod("p", "p", suspend="manual"), qemu.HYPERVISOR, ("/bin/sh",), "suspended"),
        (Pod("p", "p", ids=IdMap(70000, 65536)), qemu.HYPERVISOR, ("/bin/sh",), "user namespace"),
        (Pod("p", "p"), kvmtool.HYPERVISOR, ("/bin/sh",), "kvmtool"),
        (Pod("p", "p"), qemu.HYPERVISOR, (), "apt install"),
    ],
)
def test_what_keeps_a_pods_volumes_from_it_is_named(
    monkeypatch: pytest.MonkeyPatch, pod: Pod, hypervisor: Hypervisor, paths: tuple[str, ...], noun: str
) -> None:
    monkeypatch.setattr(volume_server, "PATHS", paths)
    assert noun in volume_server.lack(pod, hypervisor)


def test_nothing_keeps_an_ordinary_pods_volumes_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_server, "PATHS", ("/bin/sh",))
    assert volume_server.lack(Pod("p", "p"), qemu.HYPERVISOR) == ""
