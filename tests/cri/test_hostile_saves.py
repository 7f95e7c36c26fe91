# SPDX-License-Identifier: Apache-2.0
"""A guest that is being saved, and whose VMM or agent does not answer meanwhile: what others and its own end notice."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from cri.cli.serve import THREADS
from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE
from cri.snapshots.named import DIRECTORY
from stage1.guest import messages as m
from stage1.linux import mount
from stage1.snapshot import save as saves
from stage1.vm.spec import QMP
from tests.cri.conftest import Client, World
from tests.fakes.patience import PACE, PATIENCE
from tests.hostile.monitor import Monitor
from tests.hostile.phantom import Phantom

from .test_hostile_guest import running
from .test_named import ours, refused, saved

REACT_S = 1.0
MIB = 1 << 20


@asynccontextmanager
async def silent_monitor(cri: Client, pod: str) -> AsyncIterator[asyncio.Event]:
    """The pod's VMM has a monitor that takes commands and never answers, as long as it lives; set once it got one."""
    live, asked, ended = cri.node.pods.get(pod), asyncio.Event(), asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        while not ended.is_set() and live.vm is not None and await asyncio.to_thread(live.vm.alive):
            await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_unix_server(listen, f"{live.directory}/{QMP}")
    async with server:
        try:
            yield asked
        finally:
            ended.set()  # else the server would wait for who has asked, and a test that fails would not end


def impatient(world: World) -> World:
    vm = world.config.vm.but(react_timeout_s=REACT_S * PACE)
    world.config = world.config.but(vm=vm)
    return world


@pytest.mark.timeout(90)
async def test_vmms_that_do_not_answer_keep_no_thread_of_others(world: World) -> None:
    """As many as the daemon has threads: a tenant may have more pods, and each of them copied."""
    async with impatient(world).daemon() as cri:
        names = [f"web-{number}" for number in range(THREADS + 1)]
        pods = [await cri.pod(name, annotations={FORKABLE: "true"}) for name in names]
        monitors = [silent_monitor(cri, pod) for pod in pods]
        asked = [await one.__aenter__() for one in monitors]
        copies = [asyncio.ensure_future(cri.pod(f"{name}-copy", annotations={FORK_OF: name})) for name in names]
        async with asyncio.timeout(20 * PATIENCE):
            while not any(one.is_set() for one in asked):
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            for number in range(2):
                pod, container = await running(cri, f"other-{number}")
                await cri("StopContainer", container_id=container)
                await cri("RemovePodSandbox", pod_sandbox_id=pod)
        for pod in pods:
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        failed = await asyncio.gather(*copies, return_exceptions=True)
        assert all(isinstance(one, grpc.RpcError) for one in failed)
        for one in monitors:
            await one.__aexit__(None, None, None)
        assert world.left_over() == []


@pytest.mark.timeout(90)
async def test_a_pod_is_stopped_while_its_vmm_does_not_let_itself_be_saved(world: World) -> None:
    async with impatient(world).daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        async with silent_monitor(cri, pod) as asked:
            copy = asyncio.ensure_future(cri.pod("copy", annotations={FORK_OF: "web"}))
            async with asyncio.timeout(15 * PATIENCE):
                await asked.wait()
                await cri("StopPodSandbox", pod_sandbox_id=pod)
                await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert isinstance((await asyncio.gather(copy, return_exceptions=True))[0], grpc.RpcError)
        assert world.left_over() == []


@pytest.mark.timeout(90)
async def test_a_pod_is_stopped_while_its_agent_does_not_let_its_shares_go(world: World) -> None:
    async with impatient(world).daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        world.faults.ignore = m.Shares
        copy = asyncio.ensure_future(cri.pod("copy", annotations={FORK_OF: "web"}))
        async with asyncio.timeout(15 * PATIENCE):
            await asyncio.sleep(0.5)
            await cri("StopPodSandbox", pod_sandbox_id=pod)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert isinstance((await asyncio.gather(copy, return_exceptions=True))[0], grpc.RpcError)
        assert world.left_over() == []


@pytest.mark.timeout(120)
async def test_monitors_that_do_not_answer_a_new_daemon_delay_no_other_pods_adoption(world: World) -> None:
    """The monitors of guests that can be saved are asked to resume them, since the last daemon may have paused them."""
    async with impatient(world).daemon() as cri:
        names = [f"web-{number}" for number in range(THREADS + 1)]
        pods = [await cri.pod(name, annotations={FORKABLE: "true"}) for name in names]
        other, container = await running(cri, "zzz")
        monitors = [silent_monitor(cri, pod) for pod in pods]
        asked = [await one.__aenter__() for one in monitors]
    async with world.daemon() as cri:
        assert all(one.is_set() for one in asked)
        assert cri.node.pods.get(other).is_ready and (await cri.status(container)).state == pb.CONTAINER_RUNNING
        assert not any(cri.node.pods.get(pod).is_ready for pod in pods)
        for pod in (*pods, other):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        for one in monitors:
            await one.__aexit__(None, None, None)
        assert world.left_over() == []


async def test_what_is_kept_for_pods_is_not_taken_by_what_is_saved_of_one(world: World) -> None:
    """Its author asks for copies, and others write to the same disk: their writes would fail."""
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        forks = Path(world.config.state_dir, saves.FORKS)
        forks.mkdir(exist_ok=True)
        mount.mount("tmpfs", str(forks), "tmpfs", data="size=16m,mode=700")
        try:
            (forks / "others").write_bytes(bytes(16 * MIB - MIB // 2))
            code, text = await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations={FORK_OF: "web"}))
            assert code == "RESOURCE_EXHAUSTED" and str(forks) in text and "keep_free_mib" in text
            asked = [
                op for guest in world.vmm.guests.values() for op in guest.asked if isinstance(op, (m.Freeze, m.Shares))
            ]
            assert asked == [], "the guest did not stand still"
            assert os.listdir(forks) == ["others"] and cri.node.pods.get(pod).is_ready
        finally:
            mount.umount(str(forks))


@pytest.mark.timeout(90)
async def test_a_stop_waits_for_no_copies_that_are_not_begun(world: World) -> None:
    """Their author may ask for any number; each takes as long as the guest has memory."""
    world.faults.reply_delay_s = 0.1
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        making = [cri.pod(f"copy-{number}", annotations={FORK_OF: "web"}) for number in range(8)]
        copies = [asyncio.ensure_future(one) for one in making]
        guest = next(iter(world.vmm.guests.values()))

        def begun() -> int:
            return sum(op == m.Shares() for op in guest.asked)

        async with asyncio.timeout(30 * PATIENCE):
            while not begun():
                await asyncio.sleep(0.01)
            await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert begun() <= 2
        failed = await asyncio.gather(*copies, return_exceptions=True)
        assert all(isinstance(one, grpc.RpcError) for one in failed)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


class Endless(Phantom):
    """A VMM that saves until it is told not to."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener)
        self.asked: list[str] = []

    def command(self, name: str, do: Callable[[], object]) -> object:
        self.asked.append(name)
        if name == "query-migrate" and "migrate" in self.asked:
            return {"status": "cancelled" if "migrate_cancel" in self.asked else "active"}
        return do()


@asynccontextmanager
async def endlessly_saved(cri: Client) -> AsyncIterator[tuple[Endless, str, str]]:
    """The VMM, the pod and its container, which runs and may be copied."""
    pod = await cri.pod("web", annotations={FORKABLE: "true"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{cri.node.pods.get(pod).directory}/{QMP}")
        listener.listen()
        vmm = Endless(listener)
        with Monitor(listener, vmm):
            container = await cri.container(pod, "sleep", "1000")
            await cri("StartContainer", container_id=container)
            yield vmm, pod, container


@pytest.mark.timeout(90)
async def test_a_stop_ends_a_checkpoint_before_it_ends_the_vm(world: World) -> None:
    """Its digests take as long as the guest has memory, and the pod's lock with them."""
    world.config = world.config.but(vm=world.config.vm.but(react_timeout_s=60.0))
    world.faults.refuse = {m.MountImage: m.Reply(), m.UnmountImage: m.Reply()}
    async with world.daemon() as cri:
        async with endlessly_saved(cri) as (vmm, pod, container):
            output = world.root / "checkpoint"
            output.mkdir(mode=0o700)
            asked = {"pod_sandbox_id": pod, "output_path": str(output), "container_ids": [container]}
            saving = asyncio.ensure_future(cri("CheckpointPod", **asked))
            async with asyncio.timeout(30 * PATIENCE):
                while "query-migrate" not in vmm.asked:
                    await asyncio.sleep(0.01)
                await cri("StopPodSandbox", pod_sandbox_id=pod)
            assert "migrate_cancel" in vmm.asked and os.listdir(output) == []
            assert isinstance((await asyncio.gather(saving, return_exceptions=True))[0], grpc.RpcError)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


@pytest.mark.timeout(90)
async def test_a_template_that_is_being_made_blocks_no_other(world: World) -> None:
    """Its pod's VMM may never end that, and who looks after the node removes and makes others meanwhile."""
    world.config = world.config.but(vm=world.config.vm.but(react_timeout_s=60.0))
    world.faults.refuse = {m.MountImage: m.Reply(), m.UnmountImage: m.Reply()}
    shutil.rmtree(templates := Path(world.config.state_dir, DIRECTORY), ignore_errors=True)
    async with world.daemon() as cri:
        async with endlessly_saved(cri) as (vmm, pod, _):
            making = asyncio.ensure_future(refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": "warm"}))
            async with asyncio.timeout(30 * PATIENCE):
                while "query-migrate" not in vmm.asked:
                    await asyncio.sleep(0.01)
                other = saved(world, cri.image)
                await ours(cri, "RemoveSnapshot", options={"namespace": "default", "name": "warm"})
                assert not other.exists()
                code, text = await refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": "warm"})
                assert code == "ALREADY_EXISTS" and "'warm'" in text
                await cri("StopPodSandbox", pod_sandbox_id=pod)
            assert (await making)[0] != "OK" and os.listdir(templates / ".new") == []
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == [] and cri.node.snapshots._making == set()
