# SPDX-License-Identifier: Apache-2.0
"""Numbers and limits in a real guest: as its kernel has them, within 5 percent, never waiting for one that hangs. One
VM for all but the last test.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from cri.pb import runtime_pb2 as pb
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld
from .kept_pod import kept_vms, running_in_kept_pod
from .test_stats import REQUIRED

__all__ = ["kept_vms"]

pytestmark = pytest.mark.vm
MIB = 1 << 20
WRITTEN_MIB = 16


@pytest.fixture
def machine(kept_vms: VmWorld) -> VmWorld:
    return kept_vms


@asynccontextmanager
async def _busy(
    machine: VmWorld, *, then: str = "exec sleep 1000", **resources: int
) -> AsyncIterator[tuple[Client, str, str]]:
    """A pod with a container that has written 16 MiB, and what it does then."""
    script = f"dd if=/dev/zero of=/data bs=1M count={WRITTEN_MIB}; sync; echo ready; {then}"
    limits = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(**resources))
    async with machine.daemon() as cri:
        c = await running_in_kept_pod(cri, machine, "sh", "-c", script, linux=limits)
        (pod,) = [one.id for one in (await cri("ListPodSandbox")).items]
        log = Path((await cri.status(c)).log_path)
        async with asyncio.timeout(60 * PATIENCE):
            while "ready" not in log.read_text(encoding="utf-8"):
                await asyncio.sleep(0.1)
        yield cri, pod, c


async def _measured(cri: Client, pod: str, c: str) -> tuple[pb.ContainerStats, pb.LinuxPodSandboxStats]:
    """The container's and the pod's numbers, of one sample that is newer than the call and has all that was written: a
    busy guest may answer late, and an older sample serves until then.
    """
    begun_ns = time.time_ns()
    async with asyncio.timeout(60 * PATIENCE):
        while True:
            try:
                stats = (await cri("ContainerStats", container_id=c)).stats
                whole = (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats.linux
            except AioRpcError as error:
                if error.code() != StatusCode.DEADLINE_EXCEEDED:
                    raise
            else:
                has_all = stats.writable_layer.used_bytes.value >= WRITTEN_MIB * MIB
                if begun_ns < stats.cpu.timestamp == whole.cpu.timestamp and has_all:
                    return stats, whole
            await asyncio.sleep(0.1)


async def _listed(cri: Client, name: str, count: int = 1) -> list[Any]:
    """The items of a list of statistics once there are so many: a guest that answers late is left out."""
    async with asyncio.timeout(60 * PATIENCE):
        while len(items := await cri.listed(name)) != count:
            await asyncio.sleep(0.1)
    return items


async def _read(cri: Client, c: str, *files: str) -> list[str]:
    return [(await cri("ExecSync", container_id=c, cmd=["cat", file])).stdout.decode() for file in files]


def _keyed(text: str, key: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == key)


def _near(value: int, before: int, after: int, *, tolerance: int = 0) -> bool:
    """Between two readings around it, within 5 percent; `tolerance` for what the reading itself costs."""
    low, high = min(before, after), max(before, after)
    return low * 0.95 - tolerance <= value <= high * 1.05 + tolerance


async def test_numbers_are_the_guests_own_within_5_percent(machine: VmWorld) -> None:
    files = [f"/sys/fs/cgroup/{name}" for name in ("cpu.stat", "memory.current", "memory.stat")] + ["/proc/meminfo"]
    limits = {"cpu_quota": 50_000, "cpu_period": 100_000, "memory_limit_in_bytes": 64 * MIB}
    async with _busy(machine, then="while :; do i=$((i+1)); done", **limits) as (cri, pod, c):
        await _measured(cri, pod, c)
        await asyncio.sleep(2)
        before = await _read(cri, c, *files)
        stats, whole = await _measured(cri, pod, c)
        assert [one.name for one in whole.network.interfaces] == [], "the pod has no network, and no dummy0 either"
        after = await _read(cri, c, *files)
        used = [_keyed(text[0], "usage_usec") * 1000 for text in (before, after)]
        assert _near(stats.cpu.usage_core_nano_seconds.value, *used)
        assert 0.2e9 < stats.cpu.usage_nano_cores.value < 0.8e9, "it has half a CPU"
        memory = [int(text[1]) for text in (before, after)]
        assert _near(stats.memory.usage_bytes.value, *memory, tolerance=MIB)
        rss = [_keyed(text[2], "anon") for text in (before, after)]
        assert _near(stats.memory.rss_bytes.value, *rss, tolerance=MIB // 2)
        inactive = _keyed(after[2], "inactive_file")
        assert abs(stats.memory.working_set_bytes.value - (memory[1] - inactive)) < MIB
        assert stats.memory.available_bytes.value == 64 * MIB - stats.memory.working_set_bytes.value
        assert WRITTEN_MIB * MIB <= stats.writable_layer.used_bytes.value < 16.8 * MIB
        assert stats.writable_layer.inodes_used.value >= 1
        assert stats.cpu.psi.Some.Total > 100_000, "it waits for its quota half of the time"
        assert 0 < stats.cpu.psi.Some.Avg10 <= 100
        # Of the same sample; the kernel brings up to date one group after the other.
        assert whole.cpu.psi.Some.Total >= 0.9 * stats.cpu.psi.Some.Total
        assert stats.io.HasField("psi") and stats.memory.HasField("psi")
        guest = [(_keyed(t[3], "MemTotal:") - _keyed(t[3], "MemFree:")) * 1024 for t in (before, after)]
        assert _near(whole.memory.usage_bytes.value, *guest, tolerance=MIB)
        assert whole.cpu.usage_core_nano_seconds.value >= stats.cpu.usage_core_nano_seconds.value
        assert whole.process.process_count.value >= 1
        (metrics,) = [one.container_metrics[0].metrics for one in await _listed(cri, "StreamPodSandboxMetrics")]
        values = {metric.name.removeprefix("container_"): metric.value.value for metric in metrics}
        assert {name for name in REQUIRED if not name.startswith("network")} <= values.keys()
        assert values["file_descriptors"] >= 3
        assert values["processes"] >= 1
        assert values["cpu_cfs_periods_total"] > 0
        assert values["fs_limit_bytes"] > 40 * MIB


async def test_a_guest_that_hangs_is_left_out_at_once_and_comes_back(machine: VmWorld) -> None:
    async with _busy(machine) as (cri, pod, c):
        await _listed(cri, "StreamContainerStats")
        vmm = cri.node.pods.get(pod).vm.pid
        os.kill(vmm, signal.SIGSTOP)
        await asyncio.sleep(0.2)  # for an answer that is on its way: somebody who asks regularly is asked for ahead
        cri.node.pods.get(pod).meter._last.clear()
        try:
            begun = time.monotonic()
            assert (await cri("ListContainerStats", deadline_s=2)).stats == []
            assert (await cri("ListPodSandboxMetrics", deadline_s=2)).pod_metrics == []
            assert (await cri.refused("ContainerStats", container_id=c))[0] == "DEADLINE_EXCEEDED"
            assert time.monotonic() - begun < 4 * PATIENCE
            assert len((await cri("ListContainers")).containers) == 1
        finally:
            os.kill(vmm, signal.SIGCONT)
        await _listed(cri, "StreamContainerStats")


async def test_limits_are_changed_in_the_guest_or_not_at_all(machine: VmWorld) -> None:
    def expected(**fields: object) -> dict[str, object]:
        return {"container_id": c, "linux": pb.LinuxContainerResources(**fields)}

    files = [f"/sys/fs/cgroup/{name}" for name in ("memory.max", "cpu.max", "cpu.weight")]
    async with _busy(machine, memory_limit_in_bytes=64 * MIB) as (cri, _, c):
        new = expected(memory_limit_in_bytes=80 * MIB, cpu_quota=50_000, cpu_shares=512)
        await cri("UpdateContainerResources", **new)
        result = await _read(cri, c, *files)
        assert int(result[0]) == 80 * MIB
        assert result[1].split() == ["50000", "100000"]
        small = expected(memory_limit_in_bytes=MIB, cpu_shares=2)
        code, sentence = await cri.refused("UpdateContainerResources", **small)
        assert code == "FAILED_PRECONDITION"
        assert "nothing was changed" in sentence
        code, _ = await cri.refused("UpdateContainerResources", **expected(cpu_shares=300, unified={"no.such": "1"}))
        assert code == "UNKNOWN"
        assert await _read(cri, c, *files) == result
        output = (await cri.status(c)).resources.linux
        assert (output.memory_limit_in_bytes, output.cpu_quota, output.cpu_shares) == (80 * MIB, 50_000, 512)
        await cri("UpdateContainerResources", **expected(cpu_quota=-1, memory_limit_in_bytes=-1))
        result = await _read(cri, c, *files)
        assert (result[0].strip(), result[1].split()[0]) == ("max", "max")


async def test_a_pod_whose_guest_hangs_is_stopped_and_removed(machine: VmWorld) -> None:
    async with _busy(machine) as (cri, pod, c):
        os.kill(cri.node.pods.get(pod).vm.pid, signal.SIGSTOP)
        call = asyncio.create_task(cri("ExecSync", container_id=c, cmd=["true"], timeout=120))
        await asyncio.sleep(0.3)
        async with asyncio.timeout(30 * PATIENCE):
            await cri("StopPodSandbox", pod_sandbox_id=pod)
        with pytest.raises(Exception, match="has ended"):
            await call
        assert (await cri.status(c)).state == pb.CONTAINER_EXITED
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == []


async def test_numbers_of_many_containers_come_in_pages(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await cri.pod(annotations={"clearpod.io/memory-mib": "512"})
        made = set()
        for number in range(40):
            c = await cri.container(pod, "sleep", "1000", name=f"c{number}")
            await cri("StartContainer", container_id=c)
            made.add(c)
        result = await _listed(cri, "StreamContainerStats", 40)
        assert {one.attributes.id for one in result} == made
        assert all(one.memory.usage_bytes.value > 0 for one in result)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == []
