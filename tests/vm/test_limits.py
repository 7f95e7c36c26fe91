# SPDX-License-Identifier: Apache-2.0
"""The cgroups of a VMM: its limits, that they hold against it, and that they never kill one in good order."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cri.containers import exec as execs
from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from stage1 import engine, placement
from stage1.linux import cgroup, mount
from stage1.pod.model import Mount, Pod
from stage1.vm import in_force, limits
from stage1.vm.starter import ProcessVmm
from tests.fakes.patience import PATIENCE
from tests.vm.test_confinement import Machine, booted, machine, started

__all__ = ["machine"]
pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(cgroup.limited() != cgroup.LIMITED, reason="needs cgroups with memory, pids and cpu"),
]

MIB = 1 << 20
FILLED_MIB = 64
"""Memory of guests that fill it: an emulated one takes more than a second of a processor for each 64 MiB."""
READ_MIB = 96
MARGIN_MIB = 48
"""What is left of a limit when the guest has filled its memory."""
HOG = "tail /dev/zero 2>/dev/null || true"
"""Takes memory until the guest's kernel ends it."""


def counters(directory: str) -> dict[str, str]:
    """Of all cgroups of the pod together; names of both versions are given those of version 2."""
    result = {name: value for path in placement.cgroups(directory) for name, value in cgroup.usage(path).items()}
    names = {
        "memory.limit_in_bytes": "memory.max",
        "memory.max_usage_in_bytes": "memory.peak",
        "memory.oom_control.oom_kill": "memory.events.oom_kill",
    }
    return {names.get(name, name): value for name, value in result.items()}


async def at_length(pod: LivePod, container: LiveContainer, script: str) -> str:
    """What a script writes that has much to do."""
    ran = await execs.run(pod, container, argv=("sh", "-ec", script), timeout_s=360 * PATIENCE)
    assert ran.exit_code == 0, ran
    return ran.stdout.decode().strip()


async def test_limits_are_those_of_the_vms_size_and_the_vmm_is_in_them(machine: Machine) -> None:
    async with booted(machine) as pod:
        vm = pod.vm
        assert vm is not None
        places = placement.cgroups(pod.directory)
        result = in_force.read(vm.pid, vm.start_time, cgroups=places)
        assert [one.path for one in result.cgroups] == places
        assert places
        seen = counters(pod.directory)
        on_kvmtool = machine.host.choice.hypervisor.name == "kvmtool"
        emulated = machine.host.choice.accel == "tcg" and not on_kvmtool
        overhead = 128 + (16 + 256 if emulated else 2)
        assert int(seen["memory.max"]) == (128 + overhead) * MIB
        assert int(seen["pids.max"]) == 1 + 96 + (os.cpu_count() or 1)
        assert seen.get("cpu.max", "200000 100000") == "200000 100000"
        assert seen.get("cpu.cfs_quota_us", "200000") == "200000"
        assert seen.get("memory.swap.max", "0") == "0"
        directory = pod.directory
    assert [path for path in places if os.path.exists(path)] == []
    assert placement.cgroups(directory) == []


def lower_memory(directory: str, size_bytes: int) -> None:
    """The limit becomes smaller than what the VM's size says."""
    for path in placement.cgroups(directory):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if os.path.exists(f"{path}/{name}"):
                Path(path, name).write_text(str(size_bytes))


async def test_a_guest_that_fills_its_memory_and_its_volumes_costs_no_vmm_its_life(machine: Machine) -> None:
    """All of the guest's memory, and then more of files than is left of a limit: page cache goes, the VMM stays."""
    if mount.type_of(str(machine.volume)) == "tmpfs":
        pytest.skip("needs a /tmp on a disk: what is written to a tmpfs can't be reclaimed")
    (machine.volume / "big").touch()
    os.truncate(machine.volume / "big", READ_MIB * MIB)  # a hole: nobody but the VMM brings its pages into the cache
    async with booted(machine, memory_mib=FILLED_MIB) as pod:
        container = await started(pod, machine.image, Mount(str(machine.volume), "/data"))
        await at_length(pod, container, f"({HOG})")
        full = counters(pod.directory)
        assert int(full["memory.peak"]) < int(full["memory.max"]) - MARGIN_MIB * MIB, full
        lower_memory(pod.directory, int(full["memory.peak"]) + READ_MIB // 4 * MIB)
        script = (
            f"cat /data/big >/dev/null; ({HOG}); dd if=/dev/zero of=/data/new bs=1M count={READ_MIB // 4} 2>/dev/null; "
            f"dd if=/dev/zero of=/full bs=1M count={READ_MIB // 4} 2>/dev/null; "
            "mkdir /data/many; i=0; while [ $i -lt 200 ]; do echo >/data/many/$i; i=$((i+1)); done; "
            "ls /data/many | wc -l"
        )
        assert await at_length(pod, container, script) == "200"
        seen = counters(pod.directory)
        assert int(seen["memory.peak"]) >= int(seen["memory.max"]) - MIB, f"the limit was never reached: {seen}"
        assert int(seen["memory.events.oom_kill"]) == 0
        assert pod.vm is not None and pod.vm.alive()


async def test_a_volume_in_memory_is_counted_with_the_vm(machine: Machine) -> None:
    """What it holds can't be reclaimed, and has to fit beside all of the guest's memory."""
    mount.mount("tmpfs", str(machine.volume), "tmpfs", data="size=48m,mode=1777")
    async with booted(machine, memory_mib=FILLED_MIB) as pod:
        before = int(counters(pod.directory)["memory.max"])
        shown = (Mount(str(machine.volume), "/data"), Mount(str(machine.volume), "/again"))
        fixed = Mount(str(machine.volume), "/fixed", read_only=True)
        container = await started(pod, machine.image, *shown, fixed)
        assert int(counters(pod.directory)["memory.max"]) == before + 48 * MIB
        script = f"dd if=/dev/zero of=/data/big bs=1M 2>/dev/null || true; ({HOG}); stat -c %s /again/big"
        assert int(await at_length(pod, container, script)) == 48 * MIB
        assert int(counters(pod.directory)["memory.events.oom_kill"]) == 0


def _hog(places: list[str]) -> int:
    """How a process ends that joins the cgroups and takes memory without end."""
    argv = ["sh", "-c", "read x; exec tail /dev/zero"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        for path in places:
            cgroup.join(path, process.pid)
        process.communicate(b"\n", timeout=120 * PATIENCE)
        return process.returncode


async def test_who_takes_more_than_the_limit_is_ended_alone(machine: Machine) -> None:
    """The hog stands in for a VMM that fell."""
    async with booted(machine) as victim, booted(machine) as neighbour:
        assert await asyncio.to_thread(_hog, placement.cgroups(victim.directory)) == -signal.SIGKILL
        assert neighbour.vm is not None and neighbour.vm.alive()
        assert int(counters(neighbour.directory)["memory.events.oom_kill"]) == 0


async def test_the_cgroups_of_a_pod_go_with_nothing_but_its_directory_known(machine: Machine) -> None:
    host = machine.host._replace(vsock_port=1024)
    prepared = engine.prepare(Pod(id=os.urandom(32).hex(), name="one"), host)
    try:
        pid = engine.boot(prepared, ProcessVmm())[0].pid
        places = placement.cgroups(prepared.directory)
        assert len(places) and all(pid in cgroup.members(path) for path in places)
    finally:
        for _ in range(2):
            engine.clean_up(prepared.directory)
    assert [path for path in places if os.path.exists(path)] == [] and not Path(f"/proc/{pid}").exists()


def test_overhead_is_the_documented_one(machine: Machine) -> None:
    del machine
    text = (Path(__file__).parents[2] / "docs/admin/threat-model.md").read_text(encoding="utf-8")
    for number in (f"{limits.PROGRAM_MIB} MiB for the program", f"{limits.CACHE_MIB} MiB for translated code"):
        assert number in text
