# SPDX-License-Identifier: Apache-2.0
"""Pods that are copies of a running one, with real VMs and Debian's plugins: what runs goes on there as another pod."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc.aio import AioRpcError

from cri.pb import runtime_pb2 as pb
from cri.policy import COPY_SIGNAL, FORK_OF, FORKABLE
from stage1.guest import messages
from stage1.snapshot import save as saves
from tests.fakes.outer_net import OuterNet
from tests.fakes.patience import PATIENCE

from .command_rig import command
from .conftest import Client, Registered, VmWorld
from .test_network import addresses, outer_world
from .test_pool_vms import SLOW_S, output_of

pytestmark = [pytest.mark.vm, pytest.mark.own_kernel, pytest.mark.timeout(600)]

COUNTER = """
(nc -l -p 7000 -e cat; echo closed >/closed) &
trap 'cat /etc/machine-id >/told' USR1
i=0; while true; do i=$((i+1)); echo $i >/new; mv /new /at; [ $((i % 10)) = 0 ] && echo $i; sleep 0.05; done
"""
COUNT = "until [ -e /at ]; do sleep 0.05; done; cat /at"
WHO = """
hostname; cat /etc/hostname /etc/machine-id; grep "$(hostname)" /etc/hosts | cut -f1
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; cat /sys/class/net/eth0/address
ip -4 addr show eth0 | sed -n 's/.*inet //p'
"""


@pytest.fixture
def outer(sample: Registered, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with outer_world(sample, guest_dir, copies=False) as made:
        yield made


async def counting(cri: Client, name: str) -> tuple[str, str]:
    """A pod that may be copied, and its container, which counts."""
    annotations = {FORKABLE: "true", COPY_SIGNAL: "SIGUSR1"}
    pod = await cri.pod(
        name, hostname=name, annotations=annotations, log_directory=str(Path(cri.node.config.run_dir, "logs", name))
    )
    container = await cri.container(pod, "sh", "-c", COUNTER, log_path="c.log")
    await cri("StartContainer", container_id=container)
    return pod, container


def echoed(talk: socket.socket, word: bytes) -> None:
    """The other end has received it, and sent it back."""
    talk.sendall(word)
    assert talk.recv(len(word), socket.MSG_WAITALL) == word


async def test_a_copy_goes_on_as_another_pod(outer: tuple[VmWorld, OuterNet]) -> None:
    world, _ = outer
    async with world.daemon() as cri:
        pod, container = await counting(cri, "web")
        before = int(await output_of(cri, container, COUNT))
        talk = socket.create_connection(((await addresses(cri, pod))[0], 7000), timeout=SLOW_S)
        await asyncio.to_thread(echoed, talk, b"before")
        annotations = {FORK_OF: "web", COPY_SIGNAL: "SIGUSR1"}
        copy = await cri.pod(
            "copy",
            hostname="copy",
            annotations=annotations,
            log_directory=str(Path(cri.node.config.run_dir, "logs/copy")),
        )
        (waiting,) = cri.node.pods.get(copy).status.waiting
        assert waiting.config == b"", "it is written with each state"
        assert waiting.limits, "they are not set again"
        made = await cri.container(copy, "sh", "-c", COUNTER, log_path="c.log")
        assert (await cri.status(made)).state == pb.CONTAINER_CREATED
        await cri("StartContainer", container_id=made)
        assert (await cri.status(made)).state == pb.CONTAINER_RUNNING
        at = int(await output_of(cri, made, COUNT))
        assert before <= at
        await asyncio.sleep(1)
        assert at < int(await output_of(cri, made, COUNT)) and before < int(await output_of(cri, container, COUNT))
        ours, theirs = [(await output_of(cri, one, WHO)).split() for one in (container, made)]
        assert not set(ours[:8]) & set(theirs[:8])
        assert theirs[:2] == ["copy", "copy"] and theirs[2] == copy[:32]
        assert theirs[3] == (await addresses(cri, copy))[0]
        assert (await output_of(cri, made, "cat /told")).strip() == copy[:32]
        log = Path(cri.node.config.run_dir, "logs/copy/c.log").read_text()
        assert " stdout F " in log, log
        await output_of(cri, made, "until grep closed /closed; do sleep 0.1; done; kill -0 1")
        await asyncio.to_thread(echoed, talk, b"after")
        talk.close()
        other = (await addresses(cri, pod))[0]
        for target in ("10.77.0.1", other):
            assert "1 packets received" in await output_of(cri, made, f"ping -c1 -W5 {target}"), target
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert not Path(cri.node.host.state_dir, saves.FORKS).exists() or not list(
            Path(cri.node.host.state_dir, saves.FORKS).iterdir()
        )
    async with world.daemon() as cri:
        assert (await output_of(cri, made, "cat /etc/machine-id")).strip() == copy[:32]
        await cri("StopContainer", container_id=made, timeout=1)
        await cri("RemoveContainer", container_id=made)
        fresh = await cri.container(copy, "sleep", "1000")
        await cri("StartContainer", container_id=fresh)
        assert "copy" in await output_of(cri, fresh, "hostname")
        await cri("RemovePodSandbox", pod_sandbox_id=copy)
    assert world.left_over() == []


SERVER = 'i=0; while true; do i=$((i+1)); echo "$i" | nc -l -p 8000; done'
"""Each who asks is told how many have asked, which is in its memory only."""


async def asked(cri: Client, container: str) -> int:
    return int(await output_of(cri, container, "until nc 127.0.0.1 8000 </dev/null; do sleep 0.05; done"))


async def test_the_command_makes_copies_that_run(
    outer: tuple[VmWorld, OuterNet], capfd: pytest.CaptureFixture[str]
) -> None:
    world, _ = outer
    async with world.daemon() as cri:
        logs = str(Path(cri.node.config.run_dir, "logs/default_web_1"))
        pod = await cri.pod("web", annotations={FORKABLE: "true"}, log_directory=logs)
        container = await cri.container(pod, "sh", "-c", SERVER, name="server", log_path="server.log")
        await cri("StartContainer", container_id=container)
        assert [await asked(cri, container) for _ in range(2)] == [1, 2]
        ended = await command(world, capfd)("fork", "default/web", "--name", "try", "-n", "2")
        assert ended.code == 0, ended.err
        parts = ended.out.split()
        assert parts[::2] == ["default/try-1", "default/try-2"]
        for copy in parts[1::2]:
            (made,) = cri.node.pods.get(copy).containers
            assert [await asked(cri, made) for _ in range(2)] == [3, 4]
            assert (await addresses(cri, copy))[0] not in await addresses(cri, pod)
        assert await asked(cri, container) == 3
        assert not os.listdir(f"{cri.node.host.state_dir}/{saves.FORKS}")
        assert sorted(one.name.split("_")[1] for one in Path(logs).parent.iterdir()) == ["try-1", "try-2", "web"]
        for one in (pod, *parts[1::2]):
            await cri("RemovePodSandbox", pod_sandbox_id=one, deadline_s=SLOW_S)
    assert world.left_over() == []


async def test_a_copy_whose_start_was_given_up_does_not_go_on(outer: tuple[VmWorld, OuterNet]) -> None:
    world, _ = outer
    async with world.daemon() as cri:
        await counting(cri, "web")
        logs = str(Path(cri.node.config.run_dir, "logs/copy"))
        copy = await cri.pod("copy", hostname="copy", annotations={FORK_OF: "web"}, log_directory=logs)
        first = await cri.container(copy, "sh", "-c", COUNTER, log_path="c.log")
        vm = cri.node.pods.get(copy).vm
        assert vm
        os.kill(vm.pid, signal.SIGSTOP)
        with pytest.raises(AioRpcError, match="DEADLINE_EXCEEDED"):
            await cri("StartContainer", container_id=first, deadline_s=1 / PATIENCE)
        status = await cri.status(first)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
        os.kill(vm.pid, signal.SIGCONT)
        metadata = pb.ContainerMetadata(name="c", attempt=1)
        second = await cri.container(copy, "sleep", "1000", metadata=metadata, log_path="1.log")
        await cri("StartContainer", container_id=second)
        listed = await cri.node.pods.get(copy).call(messages.List())
        assert [one.id for one in listed.containers] == [second]
        assert (await cri.status(first)).exit_code == 128
        await cri("RemovePodSandbox", pod_sandbox_id=copy)
