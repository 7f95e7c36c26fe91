# SPDX-License-Identifier: Apache-2.0
"""`clearpod serve` as a node has it: a program that is talked to by gRPC, killed, and started again; real VMs.

Every test ends with the machine as it was before, which the fixture `node` checks.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio

from cri.pb import runtime_pb2 as pb
from tests.cri.conftest import Client
from tests.fakes.command import Command
from tests.fakes.patience import PACE, PATIENCE
from tests.fakes.registry import Registry

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]

SLOW_S = 120
ENDS_S = 2.5 * PACE
"""How long the container lives whose end no daemon sees: longer than its daemon."""


class NodeRig:
    """One daemon after another on the same root."""

    def __init__(self, command: Command, image: str, *, logs: str) -> None:
        self.command, self.image = command, image
        self.root, self.logs = command.root, logs

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[tuple[Client, "subprocess.Popen[bytes]"]]:
        """A daemon and its client. It is asked to end unless the test has killed it."""
        with (self.root / "serve.log").open("ab") as log:
            process = self.command.start("serve", stdout=log, stderr=log)
        client = Client(f"{self.root}/run/clearpod.sock", None, self.image)  # type: ignore[arg-type]
        try:
            await self._ready(client)
            yield client, process
        finally:
            await client.close()
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 30 * PATIENCE)

    async def _ready(self, client: Client) -> None:
        async with asyncio.timeout(30 * PATIENCE):
            while True:
                try:
                    await client("ListPodSandbox")
                    return
                except aio.AioRpcError:
                    await asyncio.sleep(0.05)

    async def restart_after_kill(self, process: "subprocess.Popen[bytes]") -> None:
        """kill -9, and wait for its end."""
        process.kill()
        await asyncio.to_thread(process.wait, 10 * PATIENCE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> Iterator[str]:
    """The sample in a registry on loopback."""
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")


@pytest.fixture
def node(clearpod: Command, image: str, results: Path, tmp_path: Path) -> Iterator[NodeRig]:
    """A node that has the image, with no daemon running; afterwards nothing may be left of its pods."""
    clearpod.configure("[vm]\nscratch_mib = 64\nmemory_mib = 64")
    rig = NodeRig(clearpod, image, logs=f"{tmp_path}/logs")

    async def pull() -> None:
        async with rig.daemon() as (cri, _):
            await cri("PullImage", image=pb.ImageSpec(image=image))

    asyncio.run(pull())
    before = clearpod.host_state.seen()
    yield rig
    left = clearpod.host_state.added(before, within_s=5)
    (results / "serve.log").write_bytes((rig.root / "serve.log").read_bytes())
    (rig.root / "serve.log").unlink()
    asyncio.run(_remove_everything(rig))
    (rig.root / "run/daemon.lock").unlink()
    assert left == {}


async def _remove_everything(rig: NodeRig) -> None:
    """What a failed test has left, so that the next one starts with nothing."""
    async with rig.daemon() as (cri, _):
        for pod in (await cri("ListPodSandbox")).items:
            await cri("RemovePodSandbox", pod_sandbox_id=pod.id, deadline_s=SLOW_S)


def _texts(log: str) -> list[str]:
    """What each line of the log says, and that each is a whole line of standard output."""
    lines = [line.split(" ", 3) for line in Path(log).read_text(encoding="utf-8").splitlines()]
    assert {tuple(line[1:3]) for line in lines} <= {("stdout", "F")}
    return [line[3] for line in lines]


async def test_ten_pods_at_once_run_and_leave_nothing(node: NodeRig) -> None:
    async with node.daemon() as (cri, _):
        before = node.command.host_state.seen()
        calls = (cri("RunPodSandbox", config=cri.sandbox(f"p{n}"), deadline_s=SLOW_S) for n in range(10))
        pods = [reply.pod_sandbox_id for reply in await asyncio.gather(*calls)]
        assert len(node.command.host_state.vmms()) == 10
        script = "hostname; sleep 1000"
        calls = (
            cri("CreateContainer", pod_sandbox_id=pod, config=cri.config("sh", "-c", script), deadline_s=SLOW_S)
            for pod in pods
        )
        made = [reply.container_id for reply in await asyncio.gather(*calls)]
        await asyncio.gather(*(cri("StartContainer", container_id=c, deadline_s=SLOW_S) for c in made))
        states = [c.state for c in (await cri("ListContainers")).containers]
        assert states == [pb.CONTAINER_RUNNING] * 10
        removals = (cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=SLOW_S) for pod in pods)
        await asyncio.gather(*removals)
        assert (await cri("ListPodSandbox")).items == []
        assert node.command.host_state.added(before) == {}


async def test_a_container_over_its_memory_is_oomkilled(node: NodeRig) -> None:
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    async with node.daemon() as (cri, _):
        pod = await cri.pod()
        script = "x=a; while :; do x=$x$x; done"
        c = await cri.container(pod, "sh", "-c", script, linux=pb.LinuxContainerConfig(resources=limits))
        await cri("StartContainer", container_id=c)
        status = await cri.ended(c)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 137, "OOMKilled")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_an_exit_without_a_daemon_has_its_code_times_and_complete_log(node: NodeRig) -> None:
    async with node.daemon() as (cri, _):
        pod = await cri.pod(log_directory=node.logs)
        c = await cri.container(pod, "sh", "-c", "seq 1 3000; sleep 1; echo last; exit 42")
        asked = time.time_ns()
        await cri("StartContainer", container_id=c)
        await asyncio.sleep(3)
        status = await cri.ended(c)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 42, "Error")
        assert asked <= status.started_at <= status.finished_at - 300_000_000
        assert asked + 1_000_000_000 <= status.finished_at <= time.time_ns()
        assert _texts(status.log_path) == [*map(str, range(1, 3001)), "last"]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_kill_9_of_the_daemon_loses_no_pod_no_line_and_no_exit(node: NodeRig) -> None:
    async with node.daemon() as (cri, process):
        pod = await cri.pod(log_directory=node.logs)
        count = "n=0; while :; do n=$((n+1)); echo $n; usleep 2000; done"
        made = [
            await cri.container(pod, "sh", "-c", count, name="counts"),
            await cri.container(pod, "sh", "-c", f"seq 1 500; sleep {ENDS_S}; seq 501 1000; exit 9", name="ends"),
            await cri.container(pod, "true", name="waits"),
        ]
        counts, ends, waits = made
        for c in (counts, ends):
            await cri("StartContainer", container_id=c)
        await asyncio.sleep(0.5)
        started_at = (await cri.status(counts)).started_at
        await node.restart_after_kill(process)
    killed = time.time_ns()
    await asyncio.sleep(ENDS_S + PACE)
    async with node.daemon() as (cri, process):
        ended = await cri.status(ends)
        assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_EXITED, 9, "Error")
        assert killed < ended.finished_at < killed + (ENDS_S + PACE) * 1_000_000_000
        assert _texts(ended.log_path) == [*map(str, range(1, 1001))]
        counting = await cri.status(counts)
        assert (counting.state, counting.started_at) == (pb.CONTAINER_RUNNING, started_at)
        await asyncio.sleep(0.5)
        await node.restart_after_kill(process)
    async with node.daemon() as (cri, _):
        await cri("StartContainer", container_id=waits)
        assert (await cri.ended(waits)).exit_code == 0
        ran = await cri("ExecSync", container_id=counts, cmd=["echo", "hi"], timeout=20)
        assert (ran.stdout, ran.exit_code) == (b"hi\n", 0)
        await cri("StopContainer", container_id=counts, timeout=0)
        numbers = _texts((await cri.status(counts)).log_path)
        assert len(numbers) > 50 and numbers == [*map(str, range(1, len(numbers) + 1))]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


@pytest.mark.parametrize("after_s", [0.04, 0.08, 0.4])
async def test_kill_9_in_the_middle_of_a_sandbox_leaves_nothing(node: NodeRig, after_s: float) -> None:
    async with node.daemon() as (cri, process):
        call = asyncio.ensure_future(cri.pod("half"))
        await asyncio.sleep(after_s)
        await node.restart_after_kill(process)
        with pytest.raises(aio.AioRpcError):
            await call
    before = {kind: [] for kind in node.command.host_state.seen()}
    async with node.daemon() as (cri, _):
        assert (await cri("ListPodSandbox")).items == []
        left = node.command.host_state.added(before)
        assert node.command.host_state.vmms() == []
        assert [path for path in left.get("run_dir", []) if path.startswith("pods/")] == []
        assert [left.get(kind) for kind in ("mounts", "state_dir/scratch", "state_dir/tmp")] == [None] * 3
        pod = await cri.pod("half")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_kill_9_in_the_middle_of_a_container_leaves_nothing(node: NodeRig) -> None:
    pods = node.root / "run/pods"
    async with node.daemon() as (cri, _):
        pod = await cri.pod()
    for after_s in (0.01, 0.03, 0.08):
        async with node.daemon() as (cri, process):
            call = asyncio.ensure_future(cri.container(pod, "true"))
            await asyncio.sleep(after_s)
            await node.restart_after_kill(process)
            await asyncio.wait([call])
            call.exception()
        async with node.daemon() as (cri, _):
            known = [c.id for c in (await cri("ListContainers")).containers]
            async with asyncio.timeout(30 * PATIENCE):  # what was half made is removed in the background
                while sorted(os.listdir(pods / pod / "tree/volumes/containers")) != sorted(known):
                    await asyncio.sleep(0.05)
            for c in known:
                await cri("RemoveContainer", container_id=c)
            c = await cri.container(pod, "sh", "-c", "exit 6")
            await cri("StartContainer", container_id=c)
            assert (await cri.ended(c)).exit_code == 6
            await cri("RemoveContainer", container_id=c)
            async with asyncio.timeout(30 * PATIENCE):  # after the answer
                while os.listdir(pods / pod / "tree/volumes/containers"):
                    await asyncio.sleep(0.05)
            assert not (pods / pod / "logs").exists() or os.listdir(pods / pod / "logs") == []
    async with node.daemon() as (cri, _):
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
