# SPDX-License-Identifier: Apache-2.0
"""Faults of the host other than kills: no descriptors, no processes, a disk that is full, read-only or hangs; a reboot,
and a clock that jumps. A real daemon, from outside, with instant guests: a part of `scripts/faults --part host`, and
faults that have no point.
"""

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.faults.host_faults import HostFaults
from tests.faults.instant import InstantNode
from tests.faults.kinds import KINDS
from tests.faults.operations import OPERATIONS, Stage
from tests.soak.client import Kubelet

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for cgroups and disks"),
]
DAY_NS = 24 * 3600 * 10**9
CASES = [
    ("RunPodSandbox", "net.record.link symlink", "no descriptors"),
    ("RunPodSandbox", "net.plugins.Runner._exec spawn", "no processes"),
    ("CreateContainer", "rootfs.export.add_image mkdir", "no descriptors"),
    ("CreateContainer", "engine.add_container write", "a disk that hangs"),
    ("ExecSync", "engine.add_exec write", "no descriptors"),
    ("RemovePodSandbox", "net.plugins.Runner._exec spawn", "no processes"),
    ("the daemon's start", "logs.record.CommitRecord.open mkdir", "no descriptors"),
    ("PullImage", "", "a read-only disk"),
]
"""Operation, the beginning of a point, what happens there."""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file by which the daemons' wall clock is shifted."""
    place = tmp_path_factory.mktemp("clock")
    source = Path(__file__).parents[1] / "fakes/clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", place / "clock.so", source], check=True, timeout=60)
    (place / "shift").write_bytes(bytes(8))
    return place / "shift"


@pytest.fixture(scope="module")
def node(clock: Path) -> Iterator[InstantNode]:
    with places.short_directory() as root, InstantNode(Path(root)) as made:
        made.environment = {"LD_PRELOAD": str(clock.with_name("clock.so")), "CLOCK_SHIFT": str(clock)}
        yield made


def shift(clock: Path, by_ns: int) -> None:
    with clock.open("r+b") as file:
        file.write(struct.pack("q", by_ns))


def test_what_fits_nowhere_is_no_fault() -> None:
    assert [kind.name for kind in KINDS if kind.fits("engine.prepare mkdir 3")] == [kind.name for kind in KINDS]
    assert [kind.name for kind in KINDS if kind.fits("net.plugins.Runner._exec spawn")] == [
        "no descriptors",
        "no processes",
    ]


async def test_faults_of_the_host_are_reported_and_leave_nothing(node: InstantNode) -> None:
    harness = HostFaults(node)
    await harness.open()
    operations = {one.name: one for one in OPERATIONS if one.name in {name for name, *_ in CASES}}
    points = await harness.note(tuple(operations.values()))
    outcomes = []
    for name, begin, kind in CASES:
        point = next((one for one in points[name] if one.startswith(begin)), points[name][len(points[name]) // 2])
        outcomes.append(await harness.case(operations[name], point, kind))
    await harness.close()
    assert [one for one in outcomes if one.lost or one.leaked or one.hurt or one.wrong] == []
    assert sum(not one.missed for one in outcomes) >= len(CASES) - 2


@contextlib.asynccontextmanager
async def _staged(node: InstantNode) -> AsyncIterator[Stage]:
    """A pod with a container that has written its lines."""
    if node.daemon is None:
        node.start()
    kubelet = Kubelet(node.socket)
    made = Stage(node, kubelet, "one")
    await made.with_running()
    yield made
    await made.clear()
    await kubelet.close()


async def test_a_clock_that_jumps_delays_and_confuses_nothing(node: InstantNode, clock: Path) -> None:
    async with _staged(node) as stage:
        for by_ns in (2 * DAY_NS, -2 * DAY_NS):
            shift(clock, by_ns)
            await _works(stage)
        async with asyncio.timeout(20 * PATIENCE):
            await stage.kubelet("StopContainer", container_id=stage.container, timeout=1)
        shift(clock, 0)
        status = await stage.kubelet.status(stage.container)
        assert 0 < status.created_at <= status.started_at <= status.finished_at
        assert not stage.lost()


async def _works(stage: Stage) -> None:
    kubelet = stage.kubelet
    async with asyncio.timeout(30 * PATIENCE):
        output = await kubelet("ExecSync", container_id=stage.container, cmd=["echo", "hi"], timeout=10)
        assert output.stdout == b"hi\n"
        assert (await kubelet("ListContainerStats")).stats
        assert (await kubelet("PodSandboxStats", pod_sandbox_id=stage.pod)).stats.linux.cpu.timestamp > 0
        await asyncio.to_thread(stage.node.restart)
        assert await stage.state() == pb.CONTAINER_RUNNING


async def test_after_a_reboot_images_and_logs_are_there_and_pods_are_not(node: InstantNode, clock: Path) -> None:
    async with _staged(node) as stage:
        node.stop(signal.SIGKILL)
        node.reboot()
        up_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        shift(clock, up_ns + DAY_NS)  # the host has booted after all that was written
        node.start()
        kubelet = stage.kubelet
        assert not await kubelet.pods("one") and not (await kubelet("ListContainers")).containers
        assert (await kubelet("ImageStatus", image=pb.ImageSpec(image=node.image))).image.id
        assert stage.has_written and not stage.lost()
        async with asyncio.timeout(20 * PATIENCE):
            while node.leases() or os.listdir(f"{node.state_dir}/scratch"):
                await asyncio.sleep(0.05)
        assert not engine.directories(node.run_dir)
        shift(clock, 0)
