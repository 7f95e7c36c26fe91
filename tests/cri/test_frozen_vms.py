# SPDX-License-Identifier: Apache-2.0
"""Real virtual machines that are frozen by SIGSTOP, or whose guest is under a fork bomb: what stops and removes ends in
time, and nothing is lost.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc.aio import AioRpcError

from cri.pb import runtime_pb2 as pb
from stage1.guest import messages
from tests.cri.conftest import Client, Registered, VmWorld, vm_world
from tests.fakes.patience import PACE, PATIENCE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

REACT_S, END_S, CALL_S = 4.0 * PACE, 10.0 * PATIENCE, 15.0 * PACE
"""An end takes REACT_S and what a busy machine needs: END_S tells it from one that waits as long as a call may."""
BOMB = "b() { b | b & }; b; while :; do sleep 1; done"


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    with vm_world(sample, guest_dir, copies=True) as made:
        vm = made.config.vm.but(react_timeout_s=REACT_S, memory_mib=96)
        made.config = made.config.but(vm=vm)
        yield made


@asynccontextmanager
async def within(limit_s: float) -> AsyncIterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < limit_s


async def code_of(call: Awaitable[object]) -> str:
    """OK, or what it failed with: a guest without memory may fail at anything."""
    try:
        await call
    except AioRpcError as error:
        return error.code().name
    return "OK"


async def running(cri: Client, *command: str, name: str = "c", pod: str = "") -> tuple[str, str]:
    if not pod:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
        pod = await cri.pod(log_directory=f"{cri.node.config.run_dir}/logs")
    container = await cri.container(pod, *command, name=name)
    await cri("StartContainer", container_id=container, deadline_s=90)
    return pod, container


async def assert_removable(machine: VmWorld, cri: Client, pod: str) -> None:
    async with within(END_S):
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == []


@pytest.mark.parametrize("call", ["StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"])
async def test_a_frozen_vm_is_ended_when_its_containers_are_to_end(machine: VmWorld, call: str) -> None:
    async with machine.daemon() as cri:
        pod, container = await running(cri, "sleep", "1000")
        vm = cri.node.pods.get(pod).vm
        assert vm
        os.kill(vm.pid, signal.SIGSTOP)
        fields = {"pod_sandbox_id": pod} if "Sandbox" in call else {"container_id": container}
        fields |= {"timeout": 1} if call == "StopContainer" else {}
        async with within(END_S + fields.get("timeout", 0)):
            await cri(call, **fields)
        assert not vm.alive()
        if call == "StopContainer":
            status = await cri.status(container)
            assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 137)
            assert "did not respond" in status.message
        await assert_removable(machine, cri, pod)


async def test_a_guest_under_a_fork_bomb_is_asked_with_limits_and_not_forgotten(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        pod, bomb = await running(cri, "sh", "-c", BOMB)
        live = cri.node.pods.get(pod)
        live.tools = live.tools._replace(call_timeout_s=CALL_S)
        await asyncio.sleep(3)  # so that it has gone off
        config = cri.config("sleep", "1000", name="other")
        async with within(CALL_S + END_S):
            assert await code_of(cri("CreateContainer", pod_sandbox_id=pod, config=config)) != "INTERNAL"
        made = {one.id for one in (await cri("ListContainers")).containers}
        for other in made - {bomb}:
            async with within(CALL_S + END_S):
                assert await code_of(cri("StartContainer", container_id=other)) != "INTERNAL"
        async with within(1 + 2 * PATIENCE):
            assert await code_of(cri("ExecSync", container_id=bomb, cmd=["true"], timeout=1)) != "INTERNAL"
    async with machine.daemon() as cri:
        assert [one.id for one in (await cri("ListPodSandbox")).items] == [pod]
        assert {one.id for one in (await cri("ListContainers")).containers} == made
        async with within(END_S):
            await cri("StopContainer", container_id=bomb, timeout=0)
        assert (await cri.status(bomb)).state == pb.CONTAINER_EXITED
        await assert_removable(machine, cri, pod)


@asynccontextmanager
async def frozen(cri: Client, pod: str) -> AsyncIterator[None]:
    """The VM is stopped in the block."""
    vm = cri.node.pods.get(pod).vm
    assert vm
    os.kill(vm.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(vm.pid, signal.SIGCONT)


class Attempts:
    """A container whose attempts write into a directory of the host which of them runs."""

    def __init__(self, cri: Client, pod: str, place: Path) -> None:
        self.cri, self.pod, self._place = cri, pod, place
        place.mkdir(exist_ok=True)

    async def make(self, attempt: int) -> str:
        mount = pb.Mount(host_path=str(self._place), container_path="/data")
        metadata = pb.ContainerMetadata(name="c", attempt=attempt)
        command = f"echo {attempt} >> /data/ran; exec sleep 1000"
        return await self.cri.container(self.pod, "sh", "-c", command, metadata=metadata, mounts=[mount])

    def ran(self) -> list[str]:
        path = self._place / "ran"
        return path.read_text().split() if path.exists() else []

    async def assert_only_the_next_runs(self, first: str) -> None:
        """The first one never did."""
        status = await self.cri.status(first)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
        second = await self.make(1)
        await self.cri("StartContainer", container_id=second, deadline_s=90)
        async with asyncio.timeout(30 * PATIENCE):
            while not self.ran():
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        assert self.ran() == ["1"]
        assert [(await self.cri.status(one)).state for one in (first, second)] == [
            pb.CONTAINER_EXITED,
            pb.CONTAINER_RUNNING,
        ]
        assert (await self.cri.status(first)).exit_code == 128
        listed = await self.cri.node.pods.get(self.pod).call(messages.List())
        assert [one.id for one in listed.containers] == [second]


async def attempts(cri: Client, machine: VmWorld, **annotations: str) -> tuple[Attempts, str]:
    await cri("PullImage", image=pb.ImageSpec(image=cri.image))
    pod = await cri.pod(log_directory=f"{cri.node.config.run_dir}/logs", annotations=annotations)
    made = Attempts(cri, pod, machine.root / "data")
    return made, await made.make(0)


async def test_a_start_in_a_frozen_vm_is_given_up_and_never_runs(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        made, first = await attempts(cri, machine)
        async with frozen(cri, made.pod):
            with pytest.raises(AioRpcError) as caught:
                await cri("StartContainer", container_id=first, deadline_s=1)
            assert caught.value.code().name == "DEADLINE_EXCEEDED"
        await made.assert_only_the_next_runs(first)
        await assert_removable(machine, cri, made.pod)


async def test_the_next_daemon_ends_a_start_in_a_frozen_vm(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        made, first = await attempts(cri, machine)
        vm = cri.node.pods.get(made.pod).vm
        assert vm
        os.kill(vm.pid, signal.SIGSTOP)
        call = asyncio.create_task(cri("StartContainer", container_id=first))
        await asyncio.sleep(1)
    with pytest.raises((AioRpcError, asyncio.CancelledError)):
        await call
    os.kill(vm.pid, signal.SIGCONT)
    async with machine.daemon() as cri:
        made.cri = cri
        await made.assert_only_the_next_runs(first)
        await assert_removable(machine, cri, made.pod)


@pytest.mark.parametrize("with_timeout", [False, True])
async def test_a_command_in_a_frozen_vm_is_given_up_and_never_runs(machine: VmWorld, with_timeout: bool) -> None:
    async with machine.daemon() as cri:
        pod, container = await running(cri, "sleep", "1000")
        command = {"container_id": container, "cmd": ["sh", "-c", "echo ran > /ran"]}
        async with frozen(cri, pod):
            with pytest.raises(AioRpcError) as caught:
                await cri("ExecSync", **command, timeout=int(with_timeout), deadline_s=60 if with_timeout else 1)
            assert caught.value.code().name == "DEADLINE_EXCEEDED"
        await asyncio.sleep(2 * PACE)
        found = await cri("ExecSync", container_id=container, cmd=["ls", "/ran"], deadline_s=90)
        assert found.exit_code, found.stdout
        await assert_removable(machine, cri, pod)
