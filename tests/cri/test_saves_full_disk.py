# SPDX-License-Identifier: Apache-2.0
"""The run directory is full, or that for guests, while real guests are saved and loaded: each call is refused with a
sentence, the pods are what they were, and nothing is left.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from cri.policy import FORK_OF, FORKABLE, SNAPSHOT
from cri.snapshots.named import DIRECTORY
from stage1.linux import mount
from stage1.snapshot import save as saves

from .conftest import Client, Registered, VmWorld, vm_world
from .test_fork import refused as fork_refused
from .test_named import ours, refused
from .test_pool_vms import output_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
COUNTER = "i=0; while true; do i=$((i+1)); echo $i >/new; mv /new /at; sleep 0.05; done"
COUNT = "until [ -e /at ]; do sleep 0.05; done; cat /at"


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    """Its run directory is a small file system of its own."""
    with vm_world(sample, guest_dir) as made:
        run_dir = made.config.run_dir
        Path(run_dir).mkdir(exist_ok=True)
        mount.mount("tmpfs", run_dir, "tmpfs", data="size=24m,mode=755")
        try:
            yield made
        finally:
            mount.umount(run_dir, lazy=True)


def fill(path: Path) -> None:
    """Write until there is no room for another byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


async def counter(cri: Client, name: str) -> tuple[str, str]:
    pod = await cri.pod(name, annotations={FORKABLE: "true"})
    container = await cri.container(pod, "sh", "-c", COUNTER)
    await cri("StartContainer", container_id=container)
    return pod, container


async def counted(cri: Client, container: str) -> int:
    return int(await output_of(cri, container, COUNT))


@contextmanager
def full_disk(path: Path) -> Iterator[Path]:
    """The directory has no room for a guest, while the block runs. What is there besides is not seen meanwhile."""
    path.mkdir(0o700, exist_ok=True)
    mount.mount("tmpfs", str(path), "tmpfs", data="size=4m,mode=700")
    try:
        yield path
    finally:
        mount.umount(str(path))


async def _has_no_space_for_its_guest(cri: Client, pod: str, *, small: Path) -> None:
    """In none of the places where one is saved; all is rolled back."""
    state, named = Path(cri.node.host.state_dir), {"pod_sandbox_id": pod, "options": {"name": "other"}}
    with full_disk(state / "scratch") as full, pytest.raises(grpc.RpcError) as raised:
        await cri.ours("SuspendPod", pod)
    refusals = [(full, raised.value.code().name, str(raised.value.details()))]
    assert not cri.node.pods.get(pod).is_suspended and not list(full.glob(f"*{saves.ENDING}*"))
    with full_disk(small) as full:
        asked = {"output_path": str(full), "container_ids": list(cri.node.pods.get(pod).containers)}
        refusals.append((full, *await cri.refused("CheckpointPod", pod_sandbox_id=pod, **asked)))
        assert not list(full.iterdir())
    with full_disk(state / DIRECTORY) as full:
        refusals.append((full, *await refused(cri, "CreateSnapshot", **named)))
        assert [one.name for one in full.rglob("*")] == [".new"]
    with full_disk(state / saves.FORKS) as full:
        refusals.append((full, *await fork_refused(cri, pod, copies="2")))
        copy = cri.sandbox("copy", annotations={FORK_OF: "web"})
        refusals.append((full, *await cri.refused("RunPodSandbox", config=copy)))
        assert not list(full.iterdir())
    for place, code, text in refusals:
        assert code == "RESOURCE_EXHAUSTED" and str(place) in text and len(text.splitlines()) == 1
    most, cri.node.snapshots.most_bytes = cri.node.snapshots.most_bytes, 1 << 20
    code, text = await refused(cri, "CreateSnapshot", **named)
    assert (
        code == "RESOURCE_EXHAUSTED" and "snapshots.disk_mib" in text and not list((state / DIRECTORY).glob(".new/*"))
    )
    cri.node.snapshots.most_bytes = most


async def test_a_save_on_a_full_disk_is_rolled_back(machine: VmWorld, tmp_path: Path) -> None:
    output = tmp_path / "checkpoint"
    output.mkdir(0o700)
    async with machine.daemon() as cri:
        await cri("PullImage", image={"image": machine.image})
        (web, container), (other, waiting) = [await counter(cri, name) for name in ("web", "other")]
        before = await counted(cri, container), await counted(cri, waiting)
        asked = {"pod_sandbox_id": web, "output_path": str(output), "container_ids": [container]}
        await _has_no_space_for_its_guest(cri, web, small=tmp_path / "small")
        await cri("CheckpointPod", deadline_s=60, **asked)
        await ours(cri, "CreateSnapshot", pod_sandbox_id=web, options={"name": "warm"})
        await cri.ours("SuspendPod", other)
        ballast = Path(machine.config.run_dir, "ballast")
        fill(ballast)
        for name, pod in (("SuspendPod", web), ("ResumePod", other)):
            with pytest.raises(grpc.RpcError) as raised:
                await cri.ours(name, pod)
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, (name, raised.value)
        refusals = [await fork_refused(cri, web)]
        for word in ({FORK_OF: "web"}, {SNAPSHOT: "warm"}):
            refusals.append(await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations=word)))
        restoring = {"config": cri.sandbox("copy", annotations={FORKABLE: "true"}), "checkpoint_path": str(output)}
        config = cri.config("sh", "-c", COUNTER)
        refusals.append(await cri.refused("RestorePod", container_configs=[config], **restoring))
        assert {code for code, _ in refusals} == {"RESOURCE_EXHAUSTED"}
        assert not any(len(text.splitlines()) > 1 for _, text in refusals)
        assert sorted(one.id for one in (await cri("ListPodSandbox")).items) == sorted((web, other))
        ballast.unlink()
        await cri.ours("ResumePod", other)
        assert before[0] < await counted(cri, container) and before[1] <= await counted(cri, waiting)
        await asyncio.sleep(0.2)
        await ours(cri, "RemoveSnapshot", options={"namespace": "default", "name": "warm"})
        for pod in (web, other):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        state = Path(machine.config.state_dir)
        assert os.listdir(state / "scratch") == [] and os.listdir(Path(machine.config.run_dir, "pods")) == []
        assert [os.listdir(state / DIRECTORY / name) for name in (".new", ".lent")] == [[], []]
        assert sorted(path.name for path in output.iterdir()) == ["disk", "guest", "manifest.json"]
