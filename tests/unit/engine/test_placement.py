# SPDX-License-Identifier: Apache-2.0
"""What a pod's VMM gets on the host, and that all of it goes with the pod's directory. Needs root."""

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1 import engine, machine, placement
from stage1.errors import NoSpace, NotFound, Unsupported, WrongState
from stage1.linux import cgroup, mount, podcgroup
from stage1.linux.idmap import Extent
from stage1.pod.ids import POD_IDS, extents
from stage1.pod.model import Container, IdMap, Mount, Pod, Process
from stage1.rootfs import owners
from stage1.vm import limits, qemu, slots
from stage1.vm.choose import Choice
from stage1.vm.slots import Range
from stage1.vm.spec import VmSpec
from stage1.vm.vmm import VmProcess
from tests.fakes.guest import FakeVmm
from tests.fakes.patience import PATIENCE

POD = Pod(id="5e" * 32, name="web", memory_mib=128, vcpus=2)
CONTAINER = Container(id="c1", name="main", image="sha256:" + "00" * 32, process=Process(argv=("true",)))
QEMU = Choice(hypervisor=qemu.HYPERVISOR, accel="tcg", binary="/usr/bin/qemu-system-x86_64", warning="", reasons=())
FIRST = 0x60000000
"""Outside of the ids that pods of this machine may have."""
PARENT = "clearpod-test"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[engine.Host]:
    guest = tmp_path / "guest"
    guest.mkdir()
    for name in ("vmlinux", "initramfs", "system.erofs", "initramfs-systemd", "system-systemd.erofs"):
        (guest / name).write_bytes(b"x")
    ids = Range(FIRST, 2 * POD_IDS)
    with tempfile.TemporaryDirectory() as run_dir:
        yield engine.Host(run_dir, str(guest), f"{tmp_path}/state", QEMU, scratch_mib=16, ids=ids, cgroup_parent=PARENT)
    for path in cgroup.places("", PARENT).values():
        if os.path.exists(path):
            os.rmdir(path)


class DeadVmm:
    """Says that it started what has ended since."""

    def start(self, vm: VmSpec) -> VmProcess:
        """See `Vmm`."""
        return VmProcess(2**30, 1, f"{vm.run_dir}/console.log")


def test_a_vmm_has_ids_a_disk_and_cgroups_and_nothing_of_them_stays(host: engine.Host) -> None:
    prepared = engine.prepare(POD, host)
    directory, vm = prepared.directory, prepared.vm
    try:
        first = slots.find(directory)
        assert first in (FIRST, FIRST + POD_IDS)
        assert vm.ids == extents(first, IdMap())
        disk = os.stat(vm.scratch)
        assert (disk.st_uid, disk.st_gid, stat.S_IMODE(disk.st_mode)) == (first, first, 0o600)
        assert stat.S_IMODE(os.stat(os.path.dirname(vm.scratch)).st_mode) == 0o700
        places = cgroup.places(PARENT, f"clearpod-{POD.id}")
        assert sorted(vm.cgroups) == sorted(placement.cgroups(directory)) == sorted(places.values())
        expected = limits.of(vm)
        assert expected == cgroup.Limits((128 + 128 + 16 + 256) << 20, 2 + 96 + (os.cpu_count() or 1), 300_000)
        usage = {name: value for path in vm.cgroups for name, value in cgroup.usage(path).items()}
        assert usage.get("pids.max", str(expected.pids)) == str(expected.pids)
        engine.boot(prepared, DeadVmm())
        record = json.loads(Path(directory, "vm.json").read_text())
        assert record["ids"] == [list(one) for one in vm.ids] and record["memory_bytes"] == expected.memory_bytes
    finally:
        for _ in range(2):
            engine.clean_up(directory)
    assert slots.find(directory) is None and not os.path.lexists(f"{slots.PLACE}/{(first or 0) // POD_IDS}")
    assert [path for path in vm.cgroups if os.path.exists(path)] == [] and not os.path.exists(vm.scratch)


def test_a_pod_that_fails_midway_leaves_no_claim_and_no_cgroup(host: engine.Host) -> None:
    Path(host.state_dir).write_text("a file where a directory is needed")
    with pytest.raises(Exception, match="state"):
        engine.prepare(POD, host)
    assert engine.pod_directories(host) == []
    assert {os.readlink(f"{slots.PLACE}/{name}") for name in os.listdir(slots.PLACE) if name.isdigit()}.isdisjoint(
        {engine.pod_directory(host, POD.id)}
    )
    assert [path for path in cgroup.places(PARENT, f"clearpod-{POD.id}").values() if os.path.exists(path)] == []


def test_when_no_ids_are_left_a_pod_is_refused(host: engine.Host) -> None:
    one_slot = host._replace(ids=Range(FIRST, POD_IDS))
    other = POD._replace(id="6f" * 32)
    directory = engine.prepare(POD, one_slot).directory
    try:
        with pytest.raises(NoSpace, match="all 1 ranges"):
            engine.prepare(other, one_slot)
    finally:
        engine.clean_up(directory)
    engine.clean_up(engine.prepare(other, one_slot).directory)


def test_a_user_namespace_has_its_own_ids_and_a_namespace_that_goes_with_the_pod(host: engine.Host) -> None:
    prepared = engine.prepare(POD._replace(ids=IdMap(200000, 65536)), host)
    first = slots.find(prepared.directory) or 0
    assert prepared.vm.ids[:2] == (Extent(0, first, 65536), Extent(200000, first + 65536, 65536))
    assert prepared.vm.ids == extents(first, IdMap(200000, 65536))
    assert mount.type_of(f"{prepared.directory}/{owners.KEPT}") == "nsfs"
    engine.clean_up(prepared.directory)
    assert mount.mounts_below(host.run_dir) == []
    with pytest.raises(Unsupported, match="at most 65536"):
        engine.prepare(POD._replace(ids=IdMap(200000, 65537)), host)
    assert engine.pod_directories(host) == []


def test_a_journal_belongs_to_its_guest_alone(host: engine.Host) -> None:
    prepared = engine.prepare(POD._replace(profile="systemd"), host)
    first = slots.find(prepared.directory)
    try:
        seen = os.stat(f"{prepared.directory}/share/volumes/journal")
        kept = os.stat(f"{host.state_dir}/journals/{POD.id}")
        assert (seen.st_uid, kept.st_uid) == (first, 0)
        assert stat.S_IMODE(os.stat(f"{host.state_dir}/journals").st_mode) == 0o700
    finally:
        engine.clean_up(prepared.directory)


def test_a_vmm_that_is_not_in_its_namespace_gets_no_volume(host: engine.Host, tmp_path: Path) -> None:
    """As the fake one, which is in ours; and one that has ended."""
    with_data = CONTAINER._replace(mounts=(Mount(str(tmp_path), "/data"),))
    vmm = FakeVmm()
    prepared = engine.prepare(POD, host)
    try:
        engine.boot(prepared, vmm)
        with pytest.raises(WrongState, match="user namespace"):
            engine.add_container(prepared.directory, POD, container=with_data)
        vmm.stop()
        with pytest.raises((WrongState, NotFound)):
            engine.add_container(prepared.directory, POD, container=with_data)
        assert os.listdir(f"{prepared.directory}/tree/volumes/containers") == []
    finally:
        vmm.stop()
        engine.clean_up(prepared.directory)


def test_a_pod_with_a_user_namespace_of_an_earlier_version_gets_no_more_containers(host: engine.Host) -> None:
    pod, vmm = POD._replace(ids=IdMap(200000, 65536)), FakeVmm()
    prepared = engine.prepare(pod, host._replace(ids=None))
    try:
        engine.boot(prepared, vmm)
        mapped = CONTAINER._replace(mounts=(Mount("/tmp", "/data", mapped=True),))
        with pytest.raises(WrongState, match="again"):
            engine.add_container(prepared.directory, pod, container=mapped)
    finally:
        engine.clean_up(prepared.directory)
        vmm.stop()


@pytest.fixture
def made(host: engine.Host) -> Iterator[dict[str, Path]]:
    """A cgroup for the pod, as the kubelet makes it: in the hierarchies of version 1 where there are some."""
    tops = [Path(cgroup.ROOT, name) for name in podcgroup.COUNTED if Path(cgroup.ROOT, name, "cgroup.procs").exists()]
    tops = tops or [Path(cgroup.tree())]
    if not all(os.access(top, os.W_OK) for top in tops):
        pytest.skip("needs cgroups that can be written")
    places = {str(top): top / PARENT_OF_POD for top in tops}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    yield places
    for place in places.values():
        if place.exists():  # cpu and cpuacct may be one
            os.rmdir(place)
            os.rmdir(place.parent)


PARENT_OF_POD = "clearpod-test-pods/pod1"
IN_POD = POD._replace(cgroup_parent=f"/{PARENT_OF_POD}", limit_bytes=64 << 20)


def limit(made: dict[str, Path], mib: int) -> None:
    """Of the pod, as the kubelet writes it."""
    for place in made.values():
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (place / name).exists():
                (place / name).write_text(str(mib << 20))
                return
    pytest.skip("needs a controller for memory")


def test_a_vmm_is_in_the_cgroup_that_was_made_for_its_pod(host: engine.Host, made: dict[str, Path]) -> None:
    prepared = engine.prepare(IN_POD, host)
    try:
        name = f"clearpod-{POD.id}"
        assert {f"{place}/{name}" for place in set(map(os.path.realpath, made.values()))} <= {
            os.path.realpath(path) for path in prepared.vm.cgroups
        }
        assert prepared.cgroup_note == ""
        assert sorted(placement.cgroups(prepared.directory)) == sorted(prepared.vm.cgroups)
        elsewhere = [path for path in prepared.vm.cgroups if f"/{PARENT_OF_POD}/" not in path]
        assert all(f"/{PARENT}/" in path for path in elsewhere)
    finally:
        engine.clean_up(prepared.directory)
    assert [path for path in prepared.vm.cgroups if os.path.exists(path)] == []
    assert all(place.exists() for place in made.values()), "that is the kubelet's to remove"


@pytest.mark.parametrize("short_mib", [0, 1])
def test_a_pod_without_space_for_its_vm_has_it_elsewhere(
    host: engine.Host, made: dict[str, Path], short_mib: int
) -> None:
    vm = machine.vm_spec(IN_POD, host, directory="/nowhere")
    cost_mib = limits.cost_mib(vm)
    limit(made, 64 + cost_mib - short_mib)
    places, why_not, raised, _ = placement.choose_cgroups(vm, IN_POD, parent=PARENT)
    assert raised == (), "a limit that is no sum of the containers' and the overhead is somebody's bound"
    places = {kind: path for kind, path in places.items() if podcgroup.limits_memory(os.path.dirname(path))}
    assert any(f"/{PARENT_OF_POD}/" in path for path in places.values()) is not bool(short_mib)
    assert bool(why_not) is bool(short_mib)
    if short_mib:
        assert f"an overhead.podFixed.memory of {cost_mib}Mi" in why_not


def test_a_pod_with_too_few_processes_or_without_cgroup_is_reported(host: engine.Host, made: dict[str, Path]) -> None:
    vm = machine.vm_spec(IN_POD, host, directory="/nowhere")
    pids = next((place / "pids.max" for place in made.values() if (place / "pids.max").exists()), None)
    if pids:
        pids.write_text("20")
        chosen = placement.choose_cgroups(vm, IN_POD, parent=PARENT)
        elsewhere = cgroup.places(PARENT, f"clearpod-{POD.id}")
        assert "podPidsLimit" in chosen.note
        assert {chosen.places[kind] for kind in ("", ".pids") if kind in elsewhere} <= set(elsewhere.values())
    gone = IN_POD._replace(cgroup_parent="/no/such/pod")
    assert "no cgroup no/such/pod" in placement.choose_cgroups(vm, gone, parent=PARENT).note
    assert placement.choose_cgroups(vm, POD, parent=PARENT).note == ""


def test_a_vmm_that_waited_is_moved_and_ends_with_its_pod(host: engine.Host, made: dict[str, Path]) -> None:
    prepared = engine.prepare(POD, host)
    one = subprocess.Popen(["sleep", "1000"])
    try:
        for path in prepared.vm.cgroups:
            cgroup.join(path, one.pid)
        for _ in range(2):
            output = placement.move(prepared.vm, IN_POD, host=host, directory=prepared.directory, pids=(one.pid,))
            assert output == ""
        now = Path(f"/proc/{one.pid}/cgroup").read_text()
        assert now.count(f"/{PARENT_OF_POD}/clearpod-{POD.id}") >= len(set(map(os.path.realpath, made.values())))
        result = placement.cgroups(prepared.directory)
    finally:
        engine.clean_up(prepared.directory)
    assert one.wait(10 * PATIENCE) == -9
    assert [path for path in result if os.path.exists(path)] == []


def test_vcpus_that_are_not_needed_yet_do_not_boot(host: engine.Host) -> None:
    lines = [machine.vm_spec(POD._replace(online_vcpus=n), host, directory="/nowhere").kernel_arguments for n in (0, 1)]
    assert set(lines[1]) - set(lines[0]) == {"maxcpus=1"} and not any("maxcpus" in word for word in lines[0])
