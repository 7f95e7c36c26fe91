# SPDX-License-Identifier: Apache-2.0
"""Pods that can be suspended, with real VMs: their images come by a disk whose medium changes while they run."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SUSPEND
from cri.snapshots import suspension
from cri.store import pods as store
from stage1 import engine
from stage1.guest import messages
from stage1.snapshot import load as loads
from stage1.vm import medium
from stage1.vm import monitor as qemu_monitor
from tests.fakes.patience import PATIENCE
from tests.fakes.streaming_client import Conversation

from .conftest import Registered, VmWorld, vm_world
from .test_pool_vms import output_of
from .test_streaming_attach import attach_to

pytestmark = [pytest.mark.vm, pytest.mark.own_kernel, pytest.mark.timeout(600)]
SNAPSHOT = "cat /proc/mounts; cat /etc/hostname; ls -l /bin/busybox"


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    with vm_world(sample, guest_dir) as made:
        yield made


async def test_its_containers_see_no_directory_of_the_host_and_it_is_resumed_on_demand(machine: VmWorld) -> None:
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await cri.pod("quiet", hostname="quiet-0", annotations={SUSPEND: "on-demand"})
        for number in range(2):  # the image leaves the guest and comes back
            container = await cri.container(pod, "sleep", "1000", name=f"c{number}")
            await cri("StartContainer", container_id=container)
            seen = await output_of(cri, container, SNAPSHOT)
            assert "quiet-0" in seen and " 9p " not in seen and "overlay" in seen
            assert "disk window" in cri.node.pods.get(pod).containers[container].record.image_way
            await cri.ours("SuspendPod", pod)  # and what is next resumes it
            if number:
                assert "quiet-0" in await output_of(cri, container, SNAPSHOT)
            await cri("RemoveContainer", container_id=container)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


COUNTER = "i=0; while true; do i=$((i+1)); echo $i >/new; mv /new /at; sleep 0.05; done"
COUNT = "until [ -e /at ]; do sleep 0.05; done; cat /at"


async def test_it_continues_whatever_process_is_killed(machine: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await cri.pod("quiet", hostname="quiet-0", annotations={SUSPEND: "manual"})
        container = await cri.container(pod, "sh", "-c", COUNTER)
        await cri("StartContainer", container_id=container)
        before = int(await output_of(cri, container, COUNT))
        vm = cri.node.pods.get(pod).vm
        await cri.ours("SuspendPod", pod)
        await cri.ours("SuspendPod", pod)
        assert not vm.alive() and (await cri.status(container)).state == pb.CONTAINER_RUNNING
        code, text = await cri.refused("ExecSync", container_id=container, cmd=["true"], timeout=60)
        assert code == "FAILED_PRECONDITION" and "suspended" in text
    directory = engine.pod_directory(machine.host, pod)
    _is_killed_while_it_loads(machine, directory, monkeypatch)
    async with machine.daemon() as cri:
        assert cri.node.pods.get(pod).is_suspended and engine.recorded_vm(directory).alive() is False
        await cri.ours("ResumePod", pod)
        await cri.node.pods.get(pod).call(messages.Update(container))  # its copies are compared with the host's files
        assert "quiet-0" in await output_of(cri, container, SNAPSHOT)
        assert before <= int(await output_of(cri, container, COUNT))
    with medium.connected(directory) as monitor:  # as a daemon leaves it that is killed while it saves
        monitor.run("stop")
        medium.take_out(monitor)
    async with machine.daemon() as cri:
        assert "quiet-0" in await output_of(cri, container, SNAPSHOT)
        await cri.ours("SuspendPod", pod)
        await _wants_it_and_goes_away(cri.node.pods.get(pod))
        await cri.ours("ResumePod", pod)
        assert before <= int(await output_of(cri, container, COUNT))
        await cri.ours("SuspendPod", pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == [] and not list(Path(machine.config.state_dir, "scratch").iterdir())


def _is_killed_while_it_loads(machine: VmWorld, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The VMM has begun, and the pod is suspended still."""
    pod = store.load(directory).record.pod
    with monkeypatch.context() as patch:
        patch.setattr(qemu_monitor, "load_guest", lambda *_, **__: 1 // 0)
        patch.setattr(loads, "settle", lambda _: None)
        with pytest.raises(ZeroDivisionError):
            loads.resume(directory, pod, host=machine.host, vmm=machine.vmm)
    vm = engine.recorded_vm(directory)
    assert vm is not None and vm.alive() and loads.is_suspended(directory)


async def _wants_it_and_goes_away(pod: LivePod) -> None:
    """As a client of ExecSync whose deadline passes while the guest is loaded."""
    waking = asyncio.ensure_future(suspension.wake(pod, is_end=True))
    while not pod.gate.lock.locked():
        await asyncio.sleep(0)
    waking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waking


TALKS = "while read line; do yes $line | head -c 3000000; echo; echo at $line; done"
"""More than a link takes without credit."""


async def hears(talk: Conversation, word: bytes) -> None:
    async with asyncio.timeout(60 * PATIENCE):
        await talk.until(word)


async def test_clients_leave_and_who_comes_after_it_is_resumed_finds_all_of_it(machine: VmWorld) -> None:
    """Who only reads, too: what it has not read would hold up the container for ever."""
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await cri.pod("talks", annotations={SUSPEND: "manual"})
        container = await cri.container(pod, "sh", "-c", TALKS, stdin=True)
        await cri("StartContainer", container_id=container)
        writes = await attach_to(cri, "websocket", container, stdin=True, stdout=True)
        reads = await attach_to(cri, "websocket", container, stdout=True)
        await writes.send(b"one\n")
        await hears(writes, b"at one\n")
        await cri.ours("SuspendPod", pod)
        for talk in (writes, reads):
            assert "suspended" in (await talk.status())["message"]
        assert not cri.node.pods.get(pod).gate._clients
        code, text = await cri.refused("Attach", container_id=container, stdout=True)
        assert code == "FAILED_PRECONDITION" and "suspended" in text
        await cri.ours("ResumePod", pod)
        later = await attach_to(cri, "websocket", container, stdin=True, stdout=True)
        await later.send(b"two\n")
        await hears(later, b"at two\n")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_pod_without_containers_is_suspended_resumed_and_copied(machine: VmWorld) -> None:
    """Its disk for images has the medium that it began with."""
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await cri.pod("empty", annotations={FORKABLE: "true"})
        for _ in range(2):
            await cri.ours("SuspendPod", pod)
            await cri.ours("ResumePod", pod)
        copy = await cri.pod("copy", annotations={FORK_OF: "empty"})
        for one in (pod, copy):
            container = await cri.container(one, "sleep", "1000")
            await cri("StartContainer", container_id=container)
            assert await output_of(cri, container, "echo hi") == "hi\n"
            await cri("RemovePodSandbox", pod_sandbox_id=one)
        assert machine.left_over() == []
