# SPDX-License-Identifier: Apache-2.0
"""A daemon that ends, or is killed, and the next one on the same run directory."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from tests.fakes import preloaded
from tests.fakes.guest_containers import Faults
from tests.fakes.patience import PATIENCE

from .conftest import Client, World


async def test_a_restarted_daemon_knows_its_pods_and_what_happened_meanwhile(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs", labels={"app": "web"})
        lives = await cri.container(pod, "sh", "-c", "while :; do echo tick; sleep 0.05; done", name="lives")
        ends = await cri.container(pod, "sh", "-c", "sleep 0.4; echo last words; exit 9", name="ends")
        for c in (lives, ends):
            await cri("StartContainer", container_id=c)
        waits = await cri.container(pod, "true", name="waits")
        before = await cri.status(lives)
    await asyncio.sleep(0.6)
    async with world.daemon() as cri:
        status = await cri.status(ends)
        assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 9)
        assert Path(status.log_path).read_text(encoding="utf-8").endswith("stdout F last words\n")
        after = await cri.status(lives)
        assert after == before
        assert (await cri.status(waits)).state == pb.CONTAINER_CREATED
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_READY
        assert (await cri("ExecSync", container_id=lives, cmd=["echo", "hi"])).stdout == b"hi\n"
        assert (await cri.refused("RunPodSandbox", config=cri.sandbox("web")))[0] == "ALREADY_EXISTS"
        await cri("StartContainer", container_id=waits)
        await cri.ended(waits)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_pods_whose_vm_ended_meanwhile_are_listed_as_not_ready(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
    world.vmm.stop()
    async with world.daemon() as cri:
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
        assert (await cri.status(c)).exit_code == 137
        await cri("RemoveContainer", container_id=c)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_what_is_written_down_already_is_not_written_again_but_what_is_missing_is(world: World) -> None:
    async with world.daemon() as cri:
        pods = [await cri.pod(name) for name in ("same", "nameless")]
        await cri.container(pods[0], "true")
    files = [Path(f"{world.config.run_dir}/pods/{pod}/{name}") for pod in pods for name in ("state.json", "pod.json")]
    before, identity = [file.stat().st_ino for file in files], files[3].read_bytes()
    files[3].unlink()
    async with world.daemon():
        assert [file.stat().st_ino for file in files[:3]] == before[:3]
        assert files[3].read_bytes() == identity


async def test_a_pod_that_is_ready_has_written_down_which_ids_its_containers_will_use(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        state = Path(f"{world.config.run_dir}/pods/{pod}/state.json")
        written = json.loads(state.read_bytes())["status"]["ids"]
        await cri.container(pod, "true")
        live = cri.node.pods.get(pod)
        assert 0 < live.unused_id <= written == live.status.ids


async def test_half_made_pods_and_unreadable_ones_are_removed(world: World) -> None:
    async with world.daemon() as cri:
        pods = [await cri.pod(name) for name in ("booting", "broken", "bare")]
    base = Path(f"{world.config.run_dir}/pods")
    state = base / pods[0] / "state.json"
    state.write_text(state.read_text().replace('"state":"ready"', '"state":"booting"'))
    (base / pods[1] / "state.json").write_text('{"v": 99}')
    (base / pods[1] / "pod.json").unlink()
    (base / pods[2] / "state.json").unlink()
    async with world.daemon() as cri:
        assert (await cri("ListPodSandbox")).items == []
        assert world.left_over() == []


async def test_a_container_that_the_guest_forgot_is_unknown_255(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
    next(iter(world.vmm.guests.values()))._containers._containers.clear()
    async with world.daemon() as cri:
        status = await cri.status(c)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 255, "Unknown")
        assert pod


async def test_a_half_done_create_is_undone(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        await cri.container(pod, "true")
    state = Path(f"{world.config.run_dir}/pods/{pod}/state.json")
    text = state.read_text()
    at = text.index('"containers":[')
    state.write_text(text[:at] + '"containers":[]}')
    async with world.daemon() as cri:
        assert (await cri("ListContainers")).containers == []
        assert list(Path(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers").iterdir()) == []
        await cri.container(pod, "true")


@pytest.mark.parametrize("every", [100, 3000])
async def test_a_link_that_is_cut_again_and_again_loses_and_doubles_nothing(world: World, every: int) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "sh", "-c", "seq 1 5000")
        world.faults.cut_after_bytes.extend([every] * 8)
        await cri("StartContainer", container_id=c)
        log = (await cri.ended(c)).log_path
        assert _numbers(log) == list(range(1, 5001))


@contextmanager
def _process(world: World) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon in a process of its own, whose guests are processes too, and so outlive it."""
    log = (world.root / "daemon.log").open("ab")
    argv = [sys.executable, "-m", "tests.cri.daemon", str(world.root), world.config.state_dir]
    process = preloaded.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    log.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def _client(world: World) -> Client:
    client = Client(world.config.socket_path, None, world.image)
    async with asyncio.timeout(15 * PATIENCE):
        while True:
            try:
                await client("ListPodSandbox")
                return client
            except Exception:  # noqa: BLE001 - not yet
                await asyncio.sleep(0.05)


def _numbers(log: str) -> list[int]:
    """Those in the log; a line may stand in several records, of which the last one has the tag F."""
    records = [line.split(" ", 3) for line in Path(log).read_text(encoding="utf-8").splitlines()]
    return [int(line) for line in "".join(text + "\n" * (tag == "F") for _, _, tag, text in records).splitlines()]


async def test_a_daemon_that_is_killed_again_and_again_loses_and_doubles_no_output(world: World) -> None:
    begun = time.monotonic()
    script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo $i; done; exit 3"
    pod = c = log = ""
    status = None
    for _ in range(8):
        with _process(world) as process:
            cri = await _client(world)
            if not pod:
                pod = await cri.pod(log_directory=f"{world.root}/logs")
                c = await cri.container(pod, "sh", "-c", script)
                await cri("StartContainer", container_id=c)
                log = (await cri.status(c)).log_path
            await asyncio.sleep(0.05)
            status = await cri.status(c)
            process.send_signal(signal.SIGKILL)
            await cri.close()
        if status.state == pb.CONTAINER_EXITED:
            break
    with _process(world):
        cri = await _client(world)
        status = await cri.ended(c, limit_s=30)
        assert status.exit_code == 3
        assert _numbers(log) == list(range(1, 30001)), f"after {time.monotonic() - begun:.1f} s"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
    assert world.left_over() == []
    assert engine.pod_directories(world.host) == []
    assert os.listdir(f"{world.config.run_dir}/pods") == []
    assert Faults() == world.faults
