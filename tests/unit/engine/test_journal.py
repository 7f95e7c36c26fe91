# SPDX-License-Identifier: Apache-2.0
"""A pod with systemd as the engine prepares it: its files, its cgroups, and the directory for its journal."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1 import engine, machine
from stage1.errors import NotFound
from stage1.linux import mount
from stage1.pod import oci
from stage1.pod.model import Container, Pod, Process
from stage1.vm import kvmtool, qemu
from stage1.vm.choose import Choice

POD = Pod(id="5e" * 32, name="web", hostname="web-0", profile="systemd")
MACHINE = "5e" * 16
CONTAINER = Container(id="c1", name="main", image="sha256:" + "00" * 32, process=Process(argv=("true",)))
QEMU = Choice(hypervisor=qemu.HYPERVISOR, accel="tcg", binary="/usr/bin/qemu-system-x86_64", warning="", reasons=())


@pytest.fixture
def host(tmp_path: Path) -> Iterator[engine.Host]:
    guest = tmp_path / "guest"
    guest.mkdir()
    for name in ("vmlinux", "bzImage", "initramfs-systemd", "system-systemd.erofs", "lkvm-shim.so"):
        (guest / name).write_bytes(b"x" * 4096)
    with tempfile.TemporaryDirectory() as run_dir:
        yield engine.Host(run_dir, str(guest), f"{tmp_path}/state", QEMU, scratch_mib=0, vsock_port=1)


def test_a_profile_has_its_own_initramfs_and_system_image(host: engine.Host) -> None:
    prepared = engine.prepare(POD, host)
    engine.clean_up(prepared.directory)
    names = [os.path.basename(path) for path in (prepared.vm.initramfs, prepared.vm.system_image)]
    assert names == ["initramfs-systemd", "system-systemd.erofs"]


def test_by_dax_it_is_the_profiles_image_that_is_mapped(host: engine.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.vsock, "choose_cid", lambda seed: 77)
    lkvm = Choice(kvmtool.HYPERVISOR, "kvm", "/usr/bin/lkvm", "", ())
    prepared = engine.prepare(POD, host._replace(choice=lkvm))
    engine.clean_up(prepared.directory)
    assert prepared.vm.dax is not None
    assert [os.path.basename(one.path) for one in prepared.vm.dax.images] == ["system-systemd.erofs"]


@pytest.mark.parametrize(("profile", "path"), [("", "/clearpod/c1"), ("systemd", "/clearpod.slice/app@c1.service/c1")])
def test_crun_gets_the_cgroup_that_the_agent_of_the_profile_reads(profile: str, path: str) -> None:
    assert oci.config(POD._replace(profile=profile), CONTAINER)["linux"]["cgroupsPath"] == path


def test_the_guest_sees_one_directory_for_its_journal_which_goes_with_the_pod(host: engine.Host) -> None:
    prepared = engine.prepare(POD, host)
    shown, kept = f"{prepared.directory}/share/volumes/journal", f"{host.state_dir}/journals/{POD.id}"
    Path(shown, MACHINE, "system.journal").write_text("x")
    assert Path(kept, MACHINE, "system.journal").read_text() == "x" and mount.is_mount_point(shown)
    assert os.path.realpath(f"{prepared.directory}/journal") == os.path.realpath(kept)
    engine.clean_up(prepared.directory)
    engine.clean_up(prepared.directory)
    assert not os.path.exists(kept) and mount.mounts_below(prepared.directory) == []


def test_a_journal_with_a_place_of_its_own_stays(host: engine.Host, tmp_path: Path) -> None:
    place = tmp_path / "mine" / "journal"
    prepared = engine.prepare(POD._replace(journal=str(place)), host)
    Path(prepared.directory, "share/volumes/journal", MACHINE, "system.journal").write_text("x")
    engine.clean_up(prepared.directory)
    assert (place / MACHINE / "system.journal").read_text() == "x"


def test_a_journal_that_can_not_be_written_is_reported_and_leaves_nothing(host: engine.Host, tmp_path: Path) -> None:
    place = tmp_path / "fixed"
    place.mkdir()
    mount.mount("tmpfs", str(place), "tmpfs", mount.MS_RDONLY)
    try:
        with pytest.raises(NotFound, match=rf"journal .*{place}: .*Read-only"):
            engine.prepare(POD._replace(journal=str(place)), host)
    finally:
        mount.umount(str(place))
    assert engine.pod_directories(host) == []


def test_the_ordinary_guest_keeps_no_journal(host: engine.Host) -> None:
    for name in ("initramfs", "system.erofs"):
        Path(host.guest_dir, name).touch()
    prepared = engine.prepare(POD._replace(profile=""), host)
    assert not os.path.exists(f"{prepared.directory}/share/volumes/journal")
    engine.clean_up(prepared.directory)
    assert not os.path.exists(f"{host.state_dir}/journals")
