# SPDX-License-Identifier: Apache-2.0
"""The operations that have more than one step, and how each is asked for, asked for again, and seen to be done.

Each is one RPC that changes something, or the daemon's start. `tests/vm/test_faults.py` holds that none is missing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from cri.pb import runtime_pb2 as pb
from tests.soak.client import Kubelet, Refused
from tests.soak.lines import compare
from tests.soak.node import Node

STARTS = "the daemon's start"
"""The only operation in which nobody answers for a while."""
LINES = 40
SIZES = pb.LinuxPodSandboxConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20))
SCRIPT = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo $i; done; exec sleep 1000"


Do = Callable[["Stage"], Awaitable[None]]


class Stage:
    """What an operation works on: a pod of its own, and its container."""

    def __init__(self, node: Node, kubelet: Kubelet, name: str) -> None:
        self.node, self.kubelet, self.name = node, kubelet, name
        self.pod = self.container = ""
        self.log = Path(f"{node.root}/logs/{name}/c.log")
        self.has_written = False
        self.undo: list[Do] = []
        """What `clear` does besides."""

    async def with_pod(self, **fields: Any) -> None:
        logs = str(self.log.parent)
        self.pod = await self.kubelet.pod(self.name, log_directory=logs, linux=SIZES, **fields)

    async def with_created(self, **fields: Any) -> None:
        """A container that was not started."""
        await self.with_pod(**fields)
        self.container = await self.kubelet.create(self.pod, self.node.image, command=["sh", "-c", SCRIPT], log="c.log")

    async def with_running(self, **fields: Any) -> None:
        """A container that has written all its lines and goes on, in a pod with these fields."""
        await self.with_created(**fields)
        while not await self.kubelet.start(self.container):
            self.log.unlink(missing_ok=True)
            await self.with_created(**fields)
        await self.written()

    async def written(self, limit_s: float = 60) -> None:
        """Wait until the log has the last line."""
        async with asyncio.timeout(limit_s):
            while not self.log.exists() or self.lost():
                await asyncio.sleep(0.05)
        self.has_written = True

    def lost(self) -> int:
        """Lines that the log lacks, or has twice."""
        return compare(self.log.read_text(encoding="utf-8"), LINES, is_whole=True).lost

    async def state(self) -> int:
        return int((await self.kubelet.status(self.container)).state)

    async def clear(self) -> None:
        """Remove all of it."""
        for one in await self.kubelet.pods(self.name):
            await self.kubelet("RemovePodSandbox", pod_sandbox_id=one.id)
        for undo in self.undo:
            await undo(self)
        self.log.unlink(missing_ok=True)
        self.has_written = False


class Operation(NamedTuple):
    """`prepare` makes what it needs, `ask` asks for it until it is done, whoever dies meanwhile, and looks at it. What
    follows one that `is_last` needs another pod.
    """

    name: str
    prepare: Do
    ask: Do
    is_last: bool = False


async def _nothing(stage: Stage) -> None:
    del stage


async def _create(stage: Stage) -> None:
    await stage.with_created()
    assert await stage.state() == pb.CONTAINER_CREATED


async def _start(stage: Stage) -> None:
    await stage.with_running()
    assert await stage.state() == pb.CONTAINER_RUNNING


async def _exec(stage: Stage) -> None:
    output = await stage.kubelet("ExecSync", container_id=stage.container, cmd=["echo", "hi"], timeout=60)
    assert output.stdout == b"hi\n" and not stage.lost()


async def _update(stage: Stage) -> None:
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=32 << 20)
    await stage.kubelet("UpdateContainerResources", container_id=stage.container, linux=limits)
    shown = (await stage.kubelet.status(stage.container)).resources.linux
    assert shown.memory_limit_in_bytes == 32 << 20 and not stage.lost()


async def _update_pod(stage: Stage) -> None:
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=48 << 20)
    await stage.kubelet("UpdatePodSandboxResources", pod_sandbox_id=stage.pod, resources=limits)


async def _reopen(stage: Stage) -> None:
    old = stage.log.with_suffix(".old")
    if stage.log.exists() and not old.exists():
        stage.log.rename(old)
    await stage.kubelet("ReopenContainerLog", container_id=stage.container)
    assert stage.log.exists() and not compare(old.read_text(), LINES, is_whole=True).lost
    old.rename(stage.log)


async def _stop(stage: Stage) -> None:
    await stage.kubelet("StopContainer", container_id=stage.container, timeout=0)
    assert await stage.state() == pb.CONTAINER_EXITED and not stage.lost()


async def _remove(stage: Stage) -> None:
    await stage.kubelet("RemoveContainer", container_id=stage.container)
    assert not await stage.kubelet.containers(stage.pod) and not stage.lost()


async def _stop_pod(stage: Stage) -> None:
    await stage.kubelet("StopPodSandbox", pod_sandbox_id=stage.pod)
    assert [one.state for one in await stage.kubelet.pods(stage.name)] == [pb.SANDBOX_NOTREADY] and not stage.lost()


async def _remove_pod(stage: Stage) -> None:
    await stage.kubelet("RemovePodSandbox", pod_sandbox_id=stage.pod)
    assert not await stage.kubelet.pods(stage.name) and not stage.lost()


async def _pull(stage: Stage) -> None:
    """The image comes back after it was removed."""
    for attempt in range(5):
        try:
            await stage.kubelet("PullImage", image=pb.ImageSpec(image=stage.node.image))
            break
        except Refused:
            if attempt == 4:
                raise
    assert (await stage.kubelet("ImageStatus", image=pb.ImageSpec(image=stage.node.image))).image.id


async def _remove_image(stage: Stage) -> None:
    await stage.kubelet("RemoveImage", image=pb.ImageSpec(image=stage.node.image))
    assert not (await stage.kubelet("ImageStatus", image=pb.ImageSpec(image=stage.node.image))).image.id


async def _restart(stage: Stage) -> None:
    """A daemon that starts, and takes over what there is. Here it is killed while it starts."""
    await asyncio.to_thread(stage.node.restart)
    await _exec(stage)


OPERATIONS = (
    Operation("RunPodSandbox", _nothing, Stage.with_pod),
    Operation("CreateContainer", Stage.with_pod, _create),
    Operation("StartContainer", Stage.with_created, _start),
    Operation("ExecSync", Stage.with_running, _exec),
    Operation("UpdateContainerResources", Stage.with_running, _update),
    Operation("UpdatePodSandboxResources", Stage.with_running, _update_pod),
    Operation("ReopenContainerLog", Stage.with_running, _reopen),
    Operation("StopContainer", Stage.with_running, _stop, is_last=True),
    Operation("RemoveContainer", Stage.with_running, _remove, is_last=True),
    Operation("StopPodSandbox", Stage.with_running, _stop_pod, is_last=True),
    Operation("RemovePodSandbox", Stage.with_running, _remove_pod, is_last=True),
    Operation(STARTS, Stage.with_running, _restart),
    Operation("PullImage", _remove_image, _pull),
    Operation("RemoveImage", _pull, _remove_image),
)
