# SPDX-License-Identifier: Apache-2.0
"""What was made by a save is saved again, with real VMs: copies of copies, copies that are suspended or written to a
directory, restored pods that are copied; and what a client does in the middle.
"""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SUSPEND
from stage1.rootfs import checkpoint as place
from stage1.snapshot import save as saves
from tests.fakes.outer_net import OuterNet

from .conftest import Client, Registered, VmWorld
from .test_network import addresses, outer_world
from .test_pool_vms import SLOW_S, output_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

BOTH = {FORKABLE: "true", SUSPEND: "on-demand"}
COUNTER = 'i=0; while true; do i=$((i+1)); echo "$i" | nc -l -p 8000; done'
ASK = "until nc 127.0.0.1 8000 </dev/null; do sleep 0.05; done"
"""The answer is how many have asked, which is in the server's memory only."""
WHO = """
hostname; cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/uuid /sys/class/net/eth0/address
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; ip -4 -o addr show eth0 | tr -s ' ' | cut -d' ' -f4
sed -n '/stack/p' /proc/self/maps | cut -d- -f1
"""


@pytest.fixture
def outer(sample: Registered, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with outer_world(sample, guest_dir, copies=False) as made:
        yield made


def counter_of(cri: Client) -> pb.ContainerConfig:
    return cri.config("sh", "-c", COUNTER)


async def started(cri: Client, pod: str) -> str:
    container = str((await cri("CreateContainer", pod_sandbox_id=pod, config=counter_of(cri))).container_id)
    await cri("StartContainer", container_id=container)
    return container


async def begun(cri: Client, name: str, **annotations: str) -> tuple[str, str]:
    """A pod whose container serves; `annotations` beside BOTH."""
    pod = await cri.pod(name, hostname=name, annotations=BOTH | annotations)
    return pod, await started(cri, pod)


async def asked(cri: Client, container: str) -> int:
    return int(await output_of(cri, container, ASK))


async def test_copies_of_copies_are_pods_like_any_other(outer: tuple[VmWorld, OuterNet]) -> None:
    world, _ = outer
    async with world.daemon() as cri:
        first, served = await begun(cri, "first")
        assert await asked(cri, served) == 1
        second, copied = await begun(cri, "second", **{FORK_OF: "first"})
        assert [await asked(cri, copied) for _ in range(2)] == [2, 3]
        third, twice = await begun(cri, "third", **{FORK_OF: "second"})
        assert await asked(cri, twice) == 4
        who = [(await output_of(cri, one, WHO)).split() for one in (served, copied, twice)]
        for number, values in enumerate(zip(*who, strict=True)):
            assert len(set(values)) == 3, (number, values)
        await cri.ours("SuspendPod", second)
        code, text = await cri.refused("RunPodSandbox", config=cri.sandbox("x", annotations={FORK_OF: "second"}))
        assert code == "FAILED_PRECONDITION" and "suspended" in text
        assert await asked(cri, copied) == 4, "an exec has resumed it"
        for target in ("10.77.0.1", (await addresses(cri, third))[0]):
            assert "1 packets received" in await output_of(cri, copied, f"ping -c1 -W5 {target}"), target
        await cri("RemovePodSandbox", pod_sandbox_id=first)
        await _is_written_and_restored(cri, twice, pod=third, output=world.root / "checkpoint")
        for pod in (second, third):
            await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=SLOW_S)
        assert world.left_over() == []


async def _is_written_and_restored(cri: Client, container: str, *, pod: str, output: Path) -> None:
    """A checkpoint of a copy of a copy; one restored from it, a copy of that, and a checkpoint of that."""
    output.mkdir(0o700)
    await written(cri, pod, container, output=output)
    assert await asked(cri, container) == 5
    fourth, restored = await restored_as(cri, "fourth", output)
    await cri("StartContainer", container_id=restored)
    assert await asked(cri, restored) == 5
    fifth, copied = await begun(cri, "fifth", **{FORK_OF: "fourth"})
    assert await asked(cri, copied) == 6
    shutil.rmtree(output)
    output.mkdir(0o700)
    await written(cri, fifth, copied, output=output)
    for one in (fourth, fifth):
        await cri("RemovePodSandbox", pod_sandbox_id=one, deadline_s=SLOW_S)
    sixth, last = await restored_as(cri, "sixth", output)
    await cri("StartContainer", container_id=last)
    assert await asked(cri, last) == 7
    await cri("RemovePodSandbox", pod_sandbox_id=sixth, deadline_s=SLOW_S)


async def written(cri: Client, pod: str, container: str, *, output: Path) -> None:
    asked: dict[str, Any] = {"pod_sandbox_id": pod, "output_path": str(output), "container_ids": [container]}
    await cri("CheckpointPod", deadline_s=SLOW_S, **asked)


def request_of(cri: Client, name: str, output: Path) -> dict[str, Any]:
    config = cri.sandbox(name, hostname=name, annotations=BOTH)
    return {"checkpoint_path": str(output), "config": config, "container_configs": [counter_of(cri)]}


async def restored_as(cri: Client, name: str, output: Path) -> tuple[str, str]:
    made = await cri("RestorePod", deadline_s=SLOW_S, **request_of(cri, name, output))
    return made.pod_sandbox_id, made.restored_containers[0].container_id


async def test_a_checkpoint_that_is_removed_while_it_is_restored_is_a_sentence(
    outer: tuple[VmWorld, OuterNet],
) -> None:
    """At several moments: before its files are compared, while the VM starts, and when it is about to be loaded."""
    world, _ = outer
    async with world.daemon() as cri:
        pod, container = await begun(cri, "web")
        for number, wait_s in enumerate((0.0, 0.02, 0.06, 0.12, 0.2)):
            output = world.root / f"checkpoint-{number}"
            output.mkdir(0o700)
            await written(cri, pod, container, output=output)
            making = asyncio.ensure_future(cri("RestorePod", deadline_s=SLOW_S, **request_of(cri, "again", output)))
            await asyncio.sleep(wait_s)
            shutil.rmtree(output)
            try:
                made = await making
            except grpc.RpcError as error:
                code, text = error.code().name, str(error.details())
                assert code in ("NOT_FOUND", "INVALID_ARGUMENT") and str(output) in text and len(text.splitlines()) == 1
            else:
                await cri("RemovePodSandbox", pod_sandbox_id=made.pod_sandbox_id, deadline_s=SLOW_S)
            assert [one.id for one in (await cri("ListPodSandbox")).items] == [pod]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_a_damaged_file_of_a_suspended_pod_is_a_sentence_and_it_stays(outer: tuple[VmWorld, OuterNet]) -> None:
    world, _ = outer
    async with world.daemon() as cri:
        pod, container = await begun(cri, "web")
        assert await asked(cri, container) == 1
        await cri.ours("SuspendPod", pod)
        file = Path(world.config.state_dir, "scratch", f"{pod}{saves.ENDING}")
        whole = file.read_bytes()
        hole = 1 << 20
        for data in (whole[: len(whole) // 2], b"", whole[:-1], whole[:hole] + bytes(hole) + whole[2 * hole :], None):
            if data is None:
                file.unlink()
            else:
                file.write_bytes(data)
            with pytest.raises(grpc.RpcError) as raised:
                await cri.ours("ResumePod", pod)
            code, text = raised.value.code().name, str(raised.value.details())
            assert code == "FAILED_PRECONDITION" and str(file) in text and len(text.splitlines()) == 1
            assert cri.node.pods.get(pod).is_suspended
            asked_for = {"container_id": container, "cmd": ["true"], "timeout": 30}
            assert (await cri.refused("ExecSync", deadline_s=SLOW_S, **asked_for))[1] == text
        place.make(str(file))
        file.write_bytes(whole)
        await cri.ours("ResumePod", pod)
        assert await asked(cri, container) == 2
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
