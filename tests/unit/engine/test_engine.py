# SPDX-License-Identifier: Apache-2.0
"""The engine with an instant fake VM: what it makes, and that nothing of it stays. Mounts, so it needs root."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1 import engine, machine
from stage1.errors import BadRequest, NotFound, PodError
from stage1.linux import mount
from stage1.pod.model import Container, Mount, Pod, Process
from stage1.rootfs import export
from stage1.vm import kvmtool, mapping, qemu
from stage1.vm.choose import Choice
from stage1.vm.spec import Dax, DaxImage, SerialLink, VmSpec, VsockLink
from stage1.vm.vmm import VmProcess
from stage1.vm.window import Window
from tests.fakes.guest import FakeVmm

POD = Pod(id="5e" * 32, name="web", hostname="web-0", dns_servers=("10.0.0.1",))
CONTAINER = Container(id="c1", name="main", image="sha256:" + "00" * 32, process=Process(argv=("true",)))
QEMU = Choice(hypervisor=qemu.HYPERVISOR, accel="tcg", binary="/usr/bin/qemu-system-x86_64", warning="", reasons=())


@pytest.fixture
def host(tmp_path: Path) -> Iterator[engine.Host]:
    """The run directory has a short name: a unix socket's path in it has 107 bytes at most."""
    guest = tmp_path / "guest"
    guest.mkdir()
    for name in ("vmlinux", "bzImage", "initramfs", "system.erofs"):
        (guest / name).write_bytes(b"x")
    with tempfile.TemporaryDirectory() as run_dir:
        yield engine.Host(run_dir, str(guest), f"{tmp_path}/state", QEMU, scratch_mib=16)


@pytest.fixture
def directory(host: engine.Host) -> Iterator[str]:
    prepared = engine.prepare(POD, host)
    yield prepared.directory
    engine.clean_up(prepared.directory)


class DeadVmm:
    """Says that it started what has ended since."""

    def start(self, vm: VmSpec) -> VmProcess:
        """See `Vmm`."""
        return VmProcess(2**30, 1, f"{vm.run_dir}/console.log")


def everything_below(path: str) -> list[str]:
    return [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]


def test_a_prepared_pod_can_be_booted_and_its_vm_is_recognised(host: engine.Host) -> None:
    vmm = FakeVmm()
    prepared = engine.prepare(POD, host)
    try:
        started, _ = engine.boot(prepared, vmm)
        assert engine.find_vm(prepared.directory) == started and started.alive()
        assert engine.pod_directories(host) == [prepared.directory]
    finally:
        engine.clean_up(prepared.directory)
        vmm.stop()
    assert not started.alive()


def test_clean_up_leaves_no_process_mount_directory_or_scratch_disk(host: engine.Host, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    prepared = engine.prepare(POD, host)
    with_data = CONTAINER._replace(mounts=(Mount(f"{tmp_path}/data", "/data"),))
    engine.add_container(prepared.directory, POD, container=with_data)
    assert os.path.exists(prepared.vm.scratch)
    engine.clean_up(prepared.directory)
    engine.clean_up(prepared.directory)
    assert mount.mounts_below(str(tmp_path)) == []
    assert not os.path.exists(prepared.directory) and not os.path.exists(prepared.vm.scratch)
    assert (tmp_path / "data").is_dir()


def test_only_an_emulated_guest_gets_the_frequency_of_its_counter(
    host: engine.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated, virtual = (host._replace(choice=QEMU._replace(accel=accel)) for accel in ("tcg", "kvm"))
    told = ("tsc_early_khz=2596130", "lpj=25961300", "cpu_init_udelay=0")
    for khz, there, arguments in ((2_596_130, emulated, told), (0, emulated, ()), (7, virtual, ())):
        monkeypatch.setattr(machine.tsc, "_known", khz)
        monkeypatch.setattr(machine.tsc, "measured", lambda *_: 0)
        prepared = engine.prepare(POD, there)
        engine.clean_up(prepared.directory)
        assert prepared.vm.kernel_arguments == arguments


def test_the_guests_kernel_has_the_tick_rate_of_its_lpj_parameter() -> None:
    config = (Path(__file__).parents[3] / "images/kernel/base.config").read_text().splitlines()
    assert [line for line in config if line.startswith("CONFIG_HZ_")] == [f"CONFIG_HZ_{machine.GUEST_HZ}=y"]


@pytest.mark.parametrize(
    "change, kind, sentence",
    [
        ({"memory_mib": 16}, BadRequest, "16 MiB .*48 MiB"),
        ({"vcpus": 0}, BadRequest, "0 vCPUs"),
    ],
)
def test_a_pod_that_can_be_no_vm_is_refused_and_leaves_nothing(
    host: engine.Host, change: dict[str, int], kind: type[PodError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        engine.prepare(POD._replace(**change), host)
    assert engine.pod_directories(host) == []


def test_a_distributions_kernel_needs_more_memory(host: engine.Host) -> None:
    """It would panic as it begins."""
    os.rename(f"{host.guest_dir}/vmlinux", f"{host.guest_dir}/vmlinux-stock")
    small = POD._replace(memory_mib=64)
    with pytest.raises(BadRequest, match=r"64 MiB .*96 MiB.*images build kernel"):
        engine.prepare(small, host)
    assert engine.pod_directories(host) == []


def test_a_missing_kernel_is_named_with_the_remedy(host: engine.Host) -> None:
    os.unlink(f"{host.guest_dir}/vmlinux")
    with pytest.raises(NotFound, match=r"vmlinux .*`clearpod images build`"):
        engine.prepare(POD, host)
    assert engine.pod_directories(host) == []


def test_a_pod_boots_the_variant_of_the_kernel_that_it_names(host: engine.Host) -> None:
    (Path(host.guest_dir) / "vmlinux-mine").write_bytes(b"x")
    prepared = engine.prepare(POD._replace(kernel="mine"), host)
    engine.clean_up(prepared.directory)
    assert prepared.vm.kernel == os.path.realpath(f"{host.guest_dir}/vmlinux-mine")
    with pytest.raises(NotFound, match=r"kernel 'ipsec', .*mine"):
        engine.prepare(POD._replace(kernel="ipsec"), host)
    assert engine.pod_directories(host) == []


def test_a_scratch_disk_that_can_not_be_made_leaves_nothing(host: engine.Host) -> None:
    os.makedirs(os.path.dirname(host.state_dir), exist_ok=True)
    Path(host.state_dir).write_text("a file where a directory is needed")
    with pytest.raises(PodError):
        engine.prepare(POD, host)
    assert engine.pod_directories(host) == [] and mount.mounts_below(host.run_dir) == []


def test_the_guest_sees_the_bundle_but_can_make_nothing_of_its_own(directory: str) -> None:
    bundle = engine.add_container(directory, POD, container=CONTAINER)
    seen = f"{directory}/share/volumes/containers/c1/config.json"
    assert json.loads(Path(seen).read_text())["process"]["args"] == ["true"]
    assert bundle == f"{directory}/tree/volumes/containers/c1"
    with pytest.raises(OSError, match="Read-only file system"):
        Path(f"{directory}/share/volumes/mine").write_text("x")


def test_the_pods_own_files_have_the_pods_values(directory: str) -> None:
    where = Path(directory, "share/volumes/pod")
    assert (where / "resolv.conf").read_text() == "nameserver 10.0.0.1\n"
    assert (where / "machine-id").read_text() == f"{POD.id[:32]}\n"
    assert (where / "hostname").read_text() == "web-0\n"
    assert "web-0" in (where / "hosts").read_text()


def volumes(tmp_path: Path, **changes: bool) -> Container:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "below").mkdir()
    (tmp_path / "file").write_text("hello")
    mount.mount("tmpfs", f"{tmp_path}/data/below", "tmpfs")
    mounts = (Mount(f"{tmp_path}/data", "/data", **changes), Mount(f"{tmp_path}/file", "/etc/app.conf"))
    return CONTAINER._replace(mounts=mounts)


@pytest.mark.parametrize(
    "changes, top, below",
    [
        ({}, True, True),
        ({"read_only": True}, False, True),
        ({"read_only": True, "recursive_read_only": True}, False, False),
    ],
)
def test_read_only_reaches_as_far_as_asked(
    directory: str, tmp_path: Path, changes: dict[str, bool], top: bool, below: bool
) -> None:
    try:
        engine.add_container(directory, POD, container=volumes(tmp_path, **changes))
        seen = f"{directory}/share/volumes/containers/c1/mounts/0"
        assert os.access(seen, os.W_OK) is top
        assert os.access(f"{seen}/below", os.W_OK) is below
    finally:
        engine.remove_container(directory, "c1")
        mount.umount(f"{tmp_path}/data/below", lazy=True)


def test_removing_a_container_twice_is_fine_and_keeps_its_volumes_content(directory: str, tmp_path: Path) -> None:
    engine.add_container(directory, POD, container=CONTAINER._replace(mounts=(Mount(f"{tmp_path}", "/all"),)))
    (tmp_path / "kept").write_text("kept")
    engine.remove_container(directory, "c1")
    engine.remove_container(directory, "c1")
    assert (tmp_path / "kept").read_text() == "kept"
    assert everything_below(f"{directory}/tree/volumes/containers") == []


def test_a_missing_volume_is_named_and_the_container_does_not_half_exist(directory: str) -> None:
    with pytest.raises(NotFound, match=r"/no/such/dir .*/data"):
        engine.add_container(directory, POD, container=CONTAINER._replace(mounts=(Mount("/no/such/dir", "/data"),)))
    assert os.listdir(f"{directory}/tree/volumes/containers") == []


def test_an_exec_document_comes_and_goes(directory: str) -> None:
    engine.add_container(directory, POD, container=CONTAINER)
    name = engine.add_exec(directory, POD, container=CONTAINER, what=Process(argv=("id",)), number=7)
    assert json.loads(Path(f"{directory}/share/volumes/containers/c1/{name}").read_text())["args"] == ["id"]
    for _ in range(2):
        engine.remove_exec(directory, "c1", number=7)
    assert not os.path.exists(f"{directory}/tree/volumes/containers/c1/{name}")


@pytest.mark.parametrize("content", ["a link out", "a fifo", "a directory"])
def test_what_an_image_puts_in_the_place_of_a_file_can_not_harm(directory: str, tmp_path: Path, content: str) -> None:
    place = Path(directory, "tree/layers/img/etc")
    place.mkdir(parents=True)
    if content == "a link out":
        os.symlink("/etc/hostname", place / "passwd")
    elif content == "a fifo":
        os.mkfifo(place / "passwd")
    else:
        (place / "passwd").mkdir()
    assert export.read_image_files(directory, "img", paths=("etc/passwd",)) == [""]


def test_kvmtool_gets_a_free_vsock_cid_that_is_recognised_and_a_bzimage(
    host: engine.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(POD.id[:8], 16)
    monkeypatch.setattr(machine.vsock, "choose_cid", lambda seen: 77 if seen == seed else 0)
    choice = QEMU._replace(hypervisor=kvmtool.HYPERVISOR, accel="kvm", binary="/usr/bin/lkvm")
    lkvm = host._replace(choice=choice._replace(has_rdrand=True), vsock_port=99)
    prepared = engine.prepare(POD, lkvm)
    try:
        assert "--rng" not in prepared.vm.hypervisor.argv(prepared.vm)
        assert prepared.vm.link == VsockLink(77, 99)
        assert prepared.vm.kernel.endswith("bzImage")
        with pytest.raises(NotFound, match=r"no virtual machine"):
            engine.find_link(prepared.directory, lkvm)
        _, link = engine.boot(prepared, DeadVmm())
        assert link == engine.find_link(prepared.directory, lkvm) == VsockLink(77, 99)
    finally:
        engine.clean_up(prepared.directory)


def test_qemu_gets_a_socket_in_the_pods_directory(host: engine.Host) -> None:
    prepared = engine.prepare(POD, host)
    try:
        assert prepared.vm.link == SerialLink(f"{prepared.directory}/agent.sock")
        assert prepared.vm.kernel.endswith("vmlinux")
        _, link = engine.boot(prepared, DeadVmm())
        assert link == engine.find_link(prepared.directory, host) == prepared.vm.link
    finally:
        engine.clean_up(prepared.directory)


@pytest.mark.parametrize("window_mib", [0, 256])
def test_kvmtool_shares_the_system_image_by_dax_where_the_shim_was_built(
    host: engine.Host, monkeypatch: pytest.MonkeyPatch, window_mib: int
) -> None:
    monkeypatch.setattr(machine.vsock, "choose_cid", lambda _: 77)
    choice = QEMU._replace(hypervisor=kvmtool.HYPERVISOR, accel="kvm", binary="/usr/bin/lkvm")
    lkvm = host._replace(choice=choice, vsock_port=99)
    static = lkvm._replace(choice=choice._replace(preload=False))
    pod = POD._replace(window_mib=window_mib)
    for driver, is_built in ((lkvm, False), (lkvm, True), (static, True), (host, True)):
        if is_built:
            Path(host.guest_dir, "lkvm-shim.so").write_bytes(b"x")
        prepared = engine.prepare(pod, driver)
        window = mapping.find(prepared.directory)
        engine.clean_up(prepared.directory)
        system = DaxImage(f"{host.guest_dir}/system.erofs", 1)
        socket = f"{prepared.directory}/dax.sock"
        dax = Dax(f"{host.guest_dir}/lkvm-shim.so", (system,), window_mib << 20, socket)
        assert prepared.vm.dax == (dax if driver is lkvm and is_built else None)
        assert window == (Window(window_mib << 20) if prepared.vm.dax and window_mib else None)


def test_qemus_copies_have_their_shim_where_it_was_built_and_can_be_preloaded(
    host: engine.Host, tmp_path: Path
) -> None:
    odd = tmp_path / "a b"
    odd.symlink_to(host.guest_dir)
    assert machine.vm_spec(POD, host, directory="/r/1").memory_shim == ""
    library = Path(host.guest_dir, "qemu-shim.so")
    library.write_bytes(b"x")
    assert machine.vm_spec(POD, host, directory="/r/1").memory_shim == os.path.realpath(library)
    static = host._replace(choice=host.choice._replace(preload=False))
    assert machine.vm_spec(POD, static, directory="/r/1").memory_shim == ""
    assert machine.vm_spec(POD, host._replace(guest_dir=str(odd)), directory="/r/1").memory_shim != ""
    odd.unlink()
    os.rename(host.guest_dir, odd)
    assert machine.vm_spec(POD, host._replace(guest_dir=str(odd)), directory="/r/1").memory_shim == ""


def test_on_a_host_with_shared_mounts_nothing_shows_up_twice_and_all_goes(host: engine.Host) -> None:
    mount.mount("tmpfs", host.run_dir, "tmpfs")
    try:
        mount.set_propagation(host.run_dir, mount.MS_SHARED)
        prepared = engine.prepare(POD, host)
        mount.mount("tmpfs", f"{prepared.directory}/share/volumes/pod", "tmpfs")
        assert len(mount.mounts_below(prepared.directory)) == 2
        engine.clean_up(prepared.directory)
        assert mount.mounts_below(host.run_dir) == [os.path.realpath(host.run_dir)]
    finally:
        for target in mount.mounts_below(host.run_dir):
            mount.umount(target, lazy=True)


def test_a_mount_that_goes_with_its_twin_does_not_stop_clean_up(host: engine.Host) -> None:
    mount.mount("tmpfs", host.run_dir, "tmpfs")
    try:
        mount.set_propagation(host.run_dir, mount.MS_SHARED)
        directory = engine.prepare(POD, host).directory
        mount.umount(f"{directory}/share")
        mount.bind(f"{directory}/tree", f"{directory}/share")
        mount.mount("tmpfs", f"{directory}/share/volumes/pod", "tmpfs")
        assert len(mount.mounts_below(directory)) == 3
        engine.clean_up(directory)
        assert not os.path.exists(directory)
    finally:
        for target in mount.mounts_below(host.run_dir):
            mount.umount(target, lazy=True)
