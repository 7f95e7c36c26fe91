# SPDX-License-Identifier: Apache-2.0
"""Output of what a command leaves behind when it ends: it is the command's as long as it flows, in ExecSync and in
streams, and in the log of a container.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from tests.cri.conftest import Client, Registered, VmWorld, vm_world
from tests.fakes.patience import PATIENCE
from tests.fakes.streaming_client import over_spdy

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

SIZE = 3_000_000
WRITERS = {
    "at once": f"head -c {SIZE} /dev/zero &",
    "in pieces": f"(for i in 1 2 3 4 5 6; do head -c {SIZE // 6} /dev/zero; sleep 0.3; done) &",
    "beside the command": f"head -c {SIZE // 2} /dev/zero & head -c {SIZE // 2} /dev/zero",
    "to both": f"head -c {SIZE} /dev/zero & head -c 100000 /dev/zero >&2 &",
}


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    with vm_world(sample, guest_dir, copies=True) as made:
        yield made


async def running(cri: Client) -> tuple[str, str]:
    await cri("PullImage", image=pb.ImageSpec(image=cri.image))
    pod = await cri.pod(log_directory=f"{cri.node.config.run_dir}/logs")
    container = await cri.container(pod, "sleep", "1000")
    await cri("StartContainer", container_id=container, deadline_s=90)
    return pod, container


async def test_a_command_has_the_output_of_what_it_leaves_behind(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        pod, container = await running(cri)
        for what, writer in WRITERS.items():
            done = await cri("ExecSync", container_id=container, cmd=["sh", "-c", writer], deadline_s=120)
            assert (what, len(done.stdout), done.exit_code) == (what, SIZE, 0), done.stderr[-500:]
            assert len(done.stderr) == (100_000 if what == "to both" else 0)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_stream_has_the_output_of_what_a_command_leaves_behind(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        pod, container = await running(cri)
        for what, writer in WRITERS.items():
            url = (await cri("Exec", container_id=container, cmd=["sh", "-c", writer], stdout=True, stderr=True)).url
            client = await over_spdy(url, {"stdout", "stderr"})
            assert await client.exit_code() == 0, client.output["stderr"][-500:]
            assert (what, len(client.output["stdout"])) == (what, SIZE)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_what_writes_nothing_is_not_waited_for_and_what_writes_for_ever_ends_with_the_call(
    machine: VmWorld,
) -> None:
    async with machine.daemon() as cri:
        pod, container = await running(cri)
        begun_s = time.monotonic()
        done = await cri("ExecSync", container_id=container, cmd=["sh", "-c", "echo one; sleep 1000 &"], deadline_s=60)
        assert done.stdout == b"one\n" and time.monotonic() - begun_s < 10 * PATIENCE
        code, _ = await cri.refused("ExecSync", container_id=container, cmd=["sh", "-c", "yes &"], timeout=3)
        assert code == "DEADLINE_EXCEEDED"
        async with asyncio.timeout(30 * PATIENCE):
            while (await cri("ExecSync", container_id=container, cmd=["pidof", "yes"])).exit_code == 0:
                await asyncio.sleep(0.2)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_the_log_of_a_container_has_all_of_what_it_wrote_at_its_end(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
        logs = Path(cri.node.config.run_dir) / "logs"
        pod = await cri.pod(log_directory=str(logs))
        script = "i=0; while [ $i -lt 30 ]; do head -c 99999 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done"
        container = await cri.container(pod, "sh", "-c", f"({script}) & wait")
        await cri("StartContainer", container_id=container, deadline_s=90)
        assert (await cri.ended(container)).exit_code == 0
        assert (logs / "c.log").read_text().count("x") == 30 * 99_999
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
