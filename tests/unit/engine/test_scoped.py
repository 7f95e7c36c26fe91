# SPDX-License-Identifier: Apache-2.0
"""VMMs in scopes: made before the VMM starts, found again, and gone with the pod. With real cgroups and a systemd that
only makes those of a scope; tests/vm/test_pod_scope.py has the real one. Needs root.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stage1 import engine, placement
from stage1.errors import Unavailable, WrongState
from stage1.linux import cgroup, dbus, podcgroup, scope
from stage1.pod.model import Pod
from stage1.vm import limits, qemu
from stage1.vm.choose import Choice
from stage1.vm.spec import VmSpec
from stage1.vm.vmm import VmProcess
from tests.fakes.patience import PATIENCE

SLICES = f"clearpodtest{os.getpid()}"
"""This process's own: tests of another checkout may run at the same time."""
POD = Pod(id="7a" * 32, name="web", memory_mib=128, cgroup_parent=f"{SLICES}-pod1.slice")
QEMU = Choice(hypervisor=qemu.HYPERVISOR, accel="tcg", binary="/usr/bin/qemu-system-x86_64", warning="", reasons=())
WHERE = f"{SLICES}.slice/{SLICES}-pod1.slice"
UNIT = f"clearpod-{POD.id}.scope"
pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not cgroup.limited(), reason="needs cgroups that can be written")


@pytest.fixture
def host(tmp_path: Path) -> engine.Host:
    guest = tmp_path / "guest"
    guest.mkdir()
    for name in ("vmlinux", "initramfs", "system.erofs"):
        (guest / name).write_bytes(b"x")
    run_dir, state = str(tmp_path / "run"), str(tmp_path / "state")
    return engine.Host(run_dir, str(guest), state, QEMU, scratch_mib=0, cgroup_parent=SLICES, has_scopes=True)


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The pod's slice in each hierarchy, and a systemd that makes scopes in it."""
    names = [f"{cgroup.ROOT}/{name}" for name in podcgroup.COUNTED]
    tops = {os.path.realpath(top) for top in (*names, cgroup.tree()) if os.path.exists(f"{top}/cgroup.procs")}
    made = [f"{top}/{WHERE}" for top in tops]
    for path in made:
        os.makedirs(path, exist_ok=True)

    def start(member: str, signature: str, unit: str, mode: str, properties: Any, more: Any) -> None:
        output = dict(properties)
        assert (member, unit, output["Slice"]) == ("StartTransientUnit", UNIT, ("s", os.path.basename(WHERE)))
        for path in made:
            os.mkdir(f"{path}/{unit}")
            cgroup.join(f"{path}/{unit}", output["PIDs"][1][0])

    monkeypatch.setattr(dbus, "do_job", start)
    monkeypatch.setattr(scope, "_SYSTEMD_S", 0.0)
    yield made
    for top in tops:
        for name in (WHERE, os.path.dirname(WHERE), SLICES):
            if os.path.isdir(f"{top}/{name}"):
                os.rmdir(f"{top}/{name}")


class Looking:
    """Starts nothing, and looks at where a VMM would be put."""

    def start(self, vm: VmSpec) -> VmProcess:
        """See `Vmm`."""
        self.usage = {name: value for path in vm.cgroups for name, value in cgroup.usage(path).items()}
        self.missing = [path for path in vm.cgroups if not os.path.isdir(path)]
        self.kept = cgroup.members(f"{cgroup.tree()}/{WHERE}/{UNIT}/start")
        return VmProcess(2**30, 1, f"{vm.run_dir}/console.log")


def left(slices: list[str]) -> list[str]:
    return [name for path in slices for name in os.listdir(path) if name.startswith("clearpod-")]


def test_the_scope_is_there_with_limits_before_the_vmm_and_goes_with_the_pod(
    host: engine.Host, slices: list[str]
) -> None:
    prepared, vmm = engine.prepare(POD, host), Looking()
    try:
        assert left(slices) == [], "not before the VMM is started: nobody would be in it"
        engine.boot(prepared, vmm)
        assert vmm.missing == [] and len(vmm.kept) == 1
        inside = [path for path in prepared.vm.cgroups if scope.of(path)]
        assert {os.path.realpath(scope.of(path)) for path in inside} == {f"{path}/{UNIT}" for path in slices}
        assert vmm.usage["pids.max"] == str(limits.of(prepared.vm).pids)
        assert sorted(placement.cgroups(prepared.directory)) == sorted(prepared.vm.cgroups)
        assert cgroup.members(f"{cgroup.tree()}/{WHERE}/{UNIT}/start") == [], "the keeper has gone"
    finally:
        for _ in range(2):
            engine.clean_up(prepared.directory)
    assert left(slices) == []


def test_a_systemd_that_does_not_answer_fails_the_start_and_leaves_nothing(
    host: engine.Host, slices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Unavailable("systemd can't be reached")

    monkeypatch.setattr(dbus, "do_job", fail)
    prepared = engine.prepare(POD, host)
    with pytest.raises(Unavailable):
        engine.boot(prepared, Looking())
    engine.clean_up(prepared.directory)
    assert left(slices) == [] and engine.pod_directories(host) == []


def test_a_vmm_that_waited_is_moved_into_a_scope(host: engine.Host, slices: list[str]) -> None:
    prepared = engine.prepare(POD._replace(cgroup_parent=""), host)
    one = subprocess.Popen(["sleep", "1000"])
    try:
        engine.boot(prepared, Looking())
        for _ in range(2):
            output = placement.move(prepared.vm, POD, host=host, directory=prepared.directory, pids=(one.pid,))
            assert output == ""
        assert Path(f"/proc/{one.pid}/cgroup").read_text().count(f"/{WHERE}/{UNIT}/vm") == len(slices)
    finally:
        engine.clean_up(prepared.directory)
    assert one.wait(10 * PATIENCE) == -9 and left(slices) == []


@pytest.mark.parametrize("is_refused", [False, True])
def test_systemd_is_asked_to_add_room_to_a_slice_and_if_it_refuses_the_vm_is_elsewhere(
    host: engine.Host, slices: list[str], monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    limited = [f"{path}/{name}" for path in slices for name in ("memory.max", "memory.limit_in_bytes")]
    limited = [path for path in limited if os.path.exists(path)]
    if not limited:
        pytest.skip("needs a controller for memory")
    for path in limited:
        Path(path).write_text(str(64 << 20))
    asked = []

    def call(*values: Any) -> None:
        asked.append(values)
        if is_refused:
            raise WrongState("systemd refused SetUnitProperties: no")

    monkeypatch.setattr(dbus, "call", call)
    prepared = engine.prepare(POD._replace(limit_bytes=64 << 20), host)
    try:
        ((member, signature, unit, is_runtime, ((name, (_, size)),)),) = asked
        assert (member, signature, is_runtime) == ("SetUnitProperties", "sba(sv)", True)
        assert unit == os.path.basename(WHERE)
        assert name == "MemoryMax" and placement.is_raised(size)
        assert "overhead.podFixed.memory" in prepared.cgroup_note
        assert ("systemd refused" in prepared.cgroup_note) is is_refused
        engine.boot(prepared, Looking())
        memory = [os.path.dirname(path) for path in limited]
        inside = [path for path in prepared.vm.cgroups if any(path.startswith(f"{above}/") for above in memory)]
        assert bool(inside) is not is_refused
        assert [Path(path).read_text().strip() for path in limited] == [str(64 << 20 if is_refused else size)]
    finally:
        engine.clean_up(prepared.directory)
    assert left(slices) == []


def test_a_slice_with_a_quota_of_version_1_is_the_bound_of_its_scope(host: engine.Host, slices: list[str]) -> None:
    quotas = [path for path in slices if os.path.exists(f"{path}/cpu.cfs_quota_us")]
    if not quotas:
        pytest.skip("needs a controller for cpu of version 1")
    for path in quotas:
        Path(path, "cpu.cfs_quota_us").write_text("50000")
    prepared, vmm = engine.prepare(POD, host), Looking()
    try:
        engine.boot(prepared, vmm)
        assert vmm.usage["cpu.cfs_quota_us"] == "-1"
    finally:
        engine.clean_up(prepared.directory)
