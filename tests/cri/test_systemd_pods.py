# SPDX-License-Identifier: Apache-2.0
"""Pods whose guest has systemd, as kubelet has them: ends, logs, execs, numbers as everywhere, and a journal."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from grpc.aio import AioRpcError

from cri.pb import runtime_pb2 as pb
from stage1.pod.profile import WORD
from tests.cri.conftest import Registered, VmWorld, vm_world
from tests.cri.test_frozen_vms import attempts, frozen
from tests.fakes.patience import PATIENCE

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not os.path.exists("/usr/bin/journalctl"), reason="needs journalctl: apt install systemd"),
]
MAP = pb.IDMapping(host_id=1 << 20, container_id=0, length=65536)
USERS = pb.UserNamespace(mode=pb.POD, uids=[MAP], gids=[MAP])


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    with vm_world(sample, guest_dir) as made:
        yield made


async def journal(place: str, container: str, *, lines: int) -> list[str]:
    """What the container wrote, once so many lines of it are on the host, which they are within a second or two."""
    result: list[str] = []
    for _ in range(int(100 * PATIENCE)):
        if len(result := _journal(place, container)) >= lines:
            break
        await asyncio.sleep(0.1)
    return result


def _journal(place: str, container: str) -> list[str]:
    argv = ["journalctl", "-D", place, "-o", "cat", "--no-pager", "-u", f"app@{container}.service"]
    done = subprocess.run([*argv, "_TRANSPORT=stdout"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


async def test_a_pod_with_systemd_is_a_pod(machine: VmWorld) -> None:
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    hog = ("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        logs = f"{machine.root}/logs"
        options = pb.NamespaceOption(userns_options=USERS)
        linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=options))
        pod = await cri.pod(annotations={WORD: "systemd"}, log_directory=logs, linux=linux)
        output = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
        vm = json.loads(output.info["info"])["vm"]
        assert vm["profile"] == "systemd" and vm["journal"].startswith(machine.config.state_dir)
        lasting = await cri.container(pod, "sh", "-c", "echo up; sleep 1000", name="lasting", log_path="lasting.log")
        greedy = await cri.container(pod, *hog, name="hog", linux=pb.LinuxContainerConfig(resources=limits))
        lines_of_two = ("sh", "-c", "echo one; echo two >&2; exit 3")
        brief = await cri.container(pod, *lines_of_two, name="brief", log_path="brief.log")
        for container in (lasting, greedy, brief):
            await cri("StartContainer", container_id=container)
        assert [(await cri.ended(one)).exit_code for one in (greedy, brief)] == [137, 3]
        assert (await cri.status(greedy)).reason == "OOMKilled"
        lines = [line.split(" ", 3)[1:] for line in Path(logs, "brief.log").read_text().splitlines()]
        assert sorted(lines) == [["stderr", "F", "two"], ["stdout", "F", "one"]]
        assert sorted(await journal(vm["journal"], brief, lines=2)) == ["one", "two"]
        ran = await cri("ExecSync", container_id=lasting, cmd=["sh", "-c", "echo hi; exit 4"], timeout=20)
        assert (ran.stdout, ran.exit_code) == (b"hi\n", 4)
        stats = await cri("ContainerStats", container_id=lasting)
        assert stats.stats.memory.working_set_bytes.value > 0
        await cri("StopContainer", container_id=lasting, timeout=0)
        assert (await cri.status(lasting)).exit_code == 137
        await cri("RemoveContainer", container_id=brief)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == [] and not os.path.exists(vm["journal"])


async def test_an_unknown_profile_is_refused(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        code, output = await cri.refused("RunPodSandbox", config=cri.sandbox(annotations={WORD: "openrc"}))
        assert (code, "the profiles are default and systemd" in output) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize("is_frozen", [True, False])
async def test_a_start_that_was_given_up_never_runs(machine: VmWorld, is_frozen: bool) -> None:
    async with machine.daemon() as cri:
        made, first = await attempts(cri, machine, **{WORD: "systemd"})
        async with frozen(cri, made.pod) if is_frozen else nullcontext():
            with pytest.raises(AioRpcError, match="DEADLINE_EXCEEDED"):
                await cri("StartContainer", container_id=first, deadline_s=(1 if is_frozen else 0.1) / PATIENCE)
        await made.assert_only_the_next_runs(first)
        await cri("RemovePodSandbox", pod_sandbox_id=made.pod)
    assert machine.left_over() == []
