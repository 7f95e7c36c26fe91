# SPDX-License-Identifier: Apache-2.0
"""The whole life of a pod, over gRPC with crictl's requests: the same steps as the tests of crictl."""

import asyncio
import json
import os
import stat
from pathlib import Path

from cri.pb import runtime_pb2 as pb
from tests.fakes.patience import PATIENCE

from .conftest import Client, World

BOOTS = True
"""A pod of the default kind in all its steps: tests/cri/conftest.py."""


async def _read_until(path: str, text: str, limit_s: float = 20) -> str:
    """As `crictl logs -f`: read the file until it has `text`."""
    async with asyncio.timeout(limit_s * PATIENCE):
        while text not in (result := Path(path).read_text(encoding="utf-8")):
            await asyncio.sleep(0.01)
    return result


async def _introduce(world: World, cri: Client) -> str:
    """What every client asks first, and the pull; returns the image's id."""
    version = await cri("Version")
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "clearpod", "v1")
    status = await cri("Status", verbose=True)
    conditions = {one.type: (one.status, one.reason) for one in status.status.conditions}
    assert conditions == {"RuntimeReady": (True, ""), "NetworkReady": (False, "NetworkPluginNotReady")}
    assert json.loads(status.info["config"])["stateDir"] == world.config.state_dir
    assert (await cri("RuntimeConfig")).linux.cgroup_driver == pb.CGROUPFS
    assert os.stat(world.config.socket_path).st_mode & 0o777 == 0o660

    image = pb.ImageSpec(image=world.image)
    image_id = (await cri("PullImage", image=image)).image_ref
    assert image_id in [one.id for one in (await cri("ListImages")).images]
    return str(image_id)


async def test_a_pod_lives_from_run_to_remove(any_world: World) -> None:
    world = any_world
    async with world.daemon() as cri:
        image, image_id = pb.ImageSpec(image=world.image), await _introduce(world, cri)
        pod = await cri.pod(log_directory=f"{world.root}/logs", labels={"app": "web"}, annotations={"a": ""})
        script = "echo out; echo err >&2; trap 'echo bye; exit 5' TERM; while :; do sleep 0.05; done"
        one = await cri.container(pod, "sh", "-c", script, labels={"k": "v"})
        assert (await cri.status(one)).state == pb.CONTAINER_CREATED
        await cri("StartContainer", container_id=one)

        listed = (await cri("ListContainers", filter=pb.ContainerFilter(pod_sandbox_id=pod[:13]))).containers
        assert [(c.id, c.state, c.pod_sandbox_id) for c in listed] == [(one, pb.CONTAINER_RUNNING, pod)]
        ready = pb.PodSandboxFilter(
            state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY), label_selector={"app": "web"}
        )
        assert [p.id for p in (await cri("ListPodSandbox", filter=ready)).items] == [pod]
        seen = await cri.status(one[:13])
        assert (seen.id, seen.image_id, dict(seen.labels)) == (one, image_id, {"k": "v"})
        assert seen.log_path == f"{world.root}/logs/c.log"
        assert "stdout F out\n" in await _read_until(seen.log_path, "err")

        ran = await cri("ExecSync", container_id=one, cmd=["sh", "-c", "echo hi; echo no >&2; exit 3"], timeout=5)
        assert (ran.stdout, ran.stderr, ran.exit_code) == (b"hi\n", b"no\n", 3)
        inspected = await cri("ContainerStatus", container_id=one, verbose=True)
        assert json.loads(inspected.info["info"])["runtimeSpec"]["process"]["args"][0] == "sh"
        sandbox = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
        assert dict(sandbox.status.annotations) == {"a": ""}
        assert json.loads(sandbox.info["info"])["kernel"]

        await cri("StopContainer", container_id=one, timeout=5)
        ended = await cri.status(one)
        assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_EXITED, 5, "Error")
        assert 0 < ended.created_at <= ended.started_at <= ended.finished_at
        log = Path(ended.log_path)
        assert log.read_text(encoding="utf-8").endswith("stdout F bye\n")
        assert stat.S_IMODE(log.stat().st_mode) == 0o640

        await cri("RemoveContainer", container_id=one)
        assert (await cri("ListContainers")).containers == []
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert await cri.refused("PodSandboxStatus", pod_sandbox_id=pod)
        assert log.exists(), "the log is kubelet's"

        assert (await cri("ImageStatus", image=image)).image.id == image_id
        await cri("RemoveImage", image=pb.ImageSpec(image="never/was/here"))
        await cri("PullImage", image=image)
        assert world.left_over() == []
    assert not os.path.exists(world.config.socket_path)


async def test_an_exit_without_a_daemon_has_its_code_times_and_complete_log(any_world: World) -> None:
    world = any_world
    async with world.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=world.image))
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "sh", "-c", "seq 1 20000; exit 42")
        await cri("StartContainer", container_id=c)
        status = await cri.ended(c)
        lines = Path(status.log_path).read_text(encoding="utf-8").splitlines()
        assert (status.exit_code, status.reason) == (42, "Error")
        assert [line.split(" ", 3)[3] for line in lines] == [str(number) for number in range(1, 20001)]


async def test_an_oom_kill_is_reported_as_such(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sh", "-c", "kill -9 $$")
        world.faults.oom.add(c)
        await cri("StartContainer", container_id=c)
        status = await cri.ended(c)
        assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_stop_kills_what_ignores_its_signal_and_a_shorter_stop_cuts_a_longer_one(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
        await cri("StartContainer", container_id=c)
        await asyncio.sleep(0.2)
        long = asyncio.create_task(cri("StopContainer", container_id=c, timeout=60))
        await asyncio.sleep(0.1)
        await cri("StopContainer", container_id=c, timeout=0)
        await asyncio.wait_for(long, 5 * PATIENCE)
        assert (await cri.status(c)).exit_code == 137


async def test_ten_pods_at_once_leave_nothing(world: World) -> None:
    async with world.daemon() as cri:
        pods = await asyncio.gather(*(cri.pod(f"p{number}") for number in range(10)))
        made = await asyncio.gather(*(cri.container(pod, "sleep", "1000") for pod in pods))
        await asyncio.gather(*(cri("StartContainer", container_id=c) for c in made))
        assert len((await cri("ListContainers")).containers) == 10
        await asyncio.gather(*(cri("RemovePodSandbox", pod_sandbox_id=pod) for pod in pods))
        assert (await cri("ListPodSandbox")).items == []
        assert world.left_over() == []


async def test_the_end_of_a_vm_is_seen_without_any_call(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
        world.vmm.stop()
        status = await cri.ended(c)
        assert (status.exit_code, status.reason) == (137, "Error")
        assert "virtual machine" in status.message
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
        assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true")))[
            0
        ] == "FAILED_PRECONDITION"
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_a_log_can_be_rotated(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "sh", "-c", "while :; do echo tick; sleep 0.02; done")
        assert (await cri.refused("ReopenContainerLog", container_id=c))[0] == "FAILED_PRECONDITION"
        await cri("StartContainer", container_id=c)
        log = (await cri.status(c)).log_path
        await _read_until(log, "tick")
        os.rename(log, f"{log}.1")
        await cri("ReopenContainerLog", container_id=c)
        old = Path(f"{log}.1").read_bytes()
        await _read_until(log, "tick")
        assert Path(f"{log}.1").read_bytes() == old
