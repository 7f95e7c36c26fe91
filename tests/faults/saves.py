# SPDX-License-Identifier: Apache-2.0
"""The operations on pods that can be saved: to suspend and resume one, to copy it while it runs, to write it to a
directory or make it a template, and pods that begin as what was saved. As `operations`, for real VMs only.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SNAPSHOT
from cri.snapshots import manifest
from stage1.snapshot import load
from tests.faults.operations import SCRIPT, SIZES, Operation, Stage
from tests.soak.client import Refused

NAME = "warm"


async def _with_saved(stage: Stage) -> None:
    """A pod that may be saved and copied, with a container that has written its lines and goes on."""
    stage.undo = [_without_template, _without_place]
    await stage.with_running(annotations={FORKABLE: "true"})


async def _goes_on(stage: Stage, container: str = "") -> None:
    cmd = ["echo", "hi"]
    output = await stage.kubelet("ExecSync", container_id=container or stage.container, cmd=cmd, timeout=60)
    assert output.stdout == b"hi\n" and not stage.lost()


# -- suspended ---------------------------------------------------------------------------------------------------


async def _is_suspended(stage: Stage) -> bool:
    reply = await stage.kubelet("PodSandboxStatus", pod_sandbox_id=stage.pod, verbose=True)
    return bool(json.loads(reply.info["info"])["suspended"])


async def _with_suspended(stage: Stage) -> None:
    await _with_saved(stage)
    await stage.kubelet("SuspendPod", pod_sandbox_id=stage.pod)


async def _suspend(stage: Stage) -> None:
    await stage.kubelet("SuspendPod", pod_sandbox_id=stage.pod)
    assert await _is_suspended(stage)


async def _resume(stage: Stage) -> None:
    await stage.kubelet("ResumePod", pod_sandbox_id=stage.pod)
    assert not await _is_suspended(stage)
    await _goes_on(stage)


async def _suspend_and_resume(stage: Stage) -> None:
    await _suspend(stage)
    await _resume(stage)


# -- copied ------------------------------------------------------------------------------------------------------


async def _without_copies(stage: Stage) -> None:
    for one in await stage.kubelet.pods(stage.name):
        if one.id != stage.pod:
            await stage.kubelet("RemovePodSandbox", pod_sandbox_id=one.id)


async def _made(stage: Stage, call: str, **fields: Any) -> Any:
    """What the call makes; if a daemon has died after that and before it answered, that goes first."""
    try:
        return await stage.kubelet(call, **fields)
    except Refused as error:
        if error.code != "ALREADY_EXISTS":
            raise
    await _without_copies(stage)
    return await stage.kubelet(call, **fields)


async def _fork(stage: Stage) -> None:
    options = {"name": f"{stage.name}-fork"}
    (made,) = (await _made(stage, "ForkPod", pod_sandbox_id=stage.pod, options=options)).items
    (container,) = await stage.kubelet.containers(made.id)
    await _goes_on(stage, container.id)
    await _goes_on(stage)


def _sandbox(stage: Stage, **annotations: str) -> pb.PodSandboxConfig:
    names = pb.PodSandboxMetadata(name=f"{stage.name}-copy", namespace="soak", uid="copy")
    return pb.PodSandboxConfig(
        metadata=names, labels={"name": stage.name}, linux=SIZES, log_directory=f"{stage.log.parent}-copy",
        annotations={FORKABLE: "true", **annotations},
    )  # fmt: skip


def _container(stage: Stage) -> pb.ContainerConfig:
    names, image = pb.ContainerMetadata(name="c"), pb.ImageSpec(image=stage.node.image)
    return pb.ContainerConfig(metadata=names, image=image, command=["sh", "-c", SCRIPT], log_path="c.log")


async def _run_copy(stage: Stage, **annotations: str) -> None:
    made = (await _made(stage, "RunPodSandbox", config=_sandbox(stage, **annotations))).pod_sandbox_id
    container = await stage.kubelet.create(made, stage.node.image, command=["sh", "-c", SCRIPT], log="c.log")
    if not await stage.kubelet.start(container):  # the original's processes have ended with it
        await stage.kubelet("RemovePodSandbox", pod_sandbox_id=made)
        await _run_copy(stage, **annotations)
        return
    await _goes_on(stage, container)
    await _goes_on(stage)


async def _run_fork(stage: Stage) -> None:
    await _run_copy(stage, **{FORK_OF: stage.name})


# -- written to a directory ----------------------------------------------------------------------------------------


def _place(stage: Stage) -> Path:
    return stage.node.root / "checkpoint"


async def _without_place(stage: Stage) -> None:
    shutil.rmtree(_place(stage), ignore_errors=True)


async def _with_place(stage: Stage) -> None:
    await _with_saved(stage)
    await _without_place(stage)
    _place(stage).mkdir(0o700)


async def _checkpoint(stage: Stage) -> None:
    output = _place(stage)
    try:
        await stage.kubelet(
            "CheckpointPod", pod_sandbox_id=stage.pod, output_path=str(output), container_ids=[stage.container]
        )
    except Refused as error:
        if error.code != "ALREADY_EXISTS":  # else it was whole when the daemon died
            assert os.listdir(output) == []
            raise
    load.check_files(str(output), manifest.read(str(output)).machine)
    await _goes_on(stage)


async def _with_checkpoint(stage: Stage) -> None:
    await _with_place(stage)
    await _checkpoint(stage)


async def _restore(stage: Stage) -> None:
    asked = {"checkpoint_path": str(_place(stage)), "container_configs": [_container(stage)]}
    made = await _made(stage, "RestorePod", config=_sandbox(stage), **asked)
    container = made.restored_containers[0].container_id
    if not await stage.kubelet.start(container):
        await stage.kubelet("RemovePodSandbox", pod_sandbox_id=made.pod_sandbox_id)
        await _restore(stage)
        return
    await _goes_on(stage, container)
    await _goes_on(stage)


# -- made a template -----------------------------------------------------------------------------------------------


async def _templates(stage: Stage) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads((await stage.kubelet("ListSnapshots")).info["snapshots"])
    return result


async def _without_template(stage: Stage) -> None:
    with contextlib.suppress(Refused):
        await _remove_template(stage)


async def _create_template(stage: Stage) -> None:
    try:
        await stage.kubelet("CreateSnapshot", pod_sandbox_id=stage.pod, options={"name": NAME})
    except Refused as error:
        if error.code != "ALREADY_EXISTS":
            assert await _templates(stage) == []
            raise
    assert [(one["name"], one["blocker"]) for one in await _templates(stage)] == [(NAME, "")]
    await _goes_on(stage)


async def _with_template(stage: Stage) -> None:
    await _with_saved(stage)
    await _create_template(stage)


async def _remove_template(stage: Stage) -> None:
    try:
        await stage.kubelet("RemoveSnapshot", options={"namespace": "soak", "name": NAME})
    except Refused as error:
        if error.code != "NOT_FOUND":
            raise
    assert await _templates(stage) == []


async def _run_of_template(stage: Stage) -> None:
    await _run_copy(stage, **{SNAPSHOT: NAME})


SAVES = (
    Operation("SuspendPod", _with_saved, _suspend_and_resume, is_last=True),
    Operation("ResumePod", _with_suspended, _resume, is_last=True),
    Operation("ForkPod", _with_saved, _fork, is_last=True),
    Operation("RunPodSandbox of a running pod", _with_saved, _run_fork, is_last=True),
    Operation("CheckpointPod", _with_place, _checkpoint, is_last=True),
    Operation("RestorePod", _with_checkpoint, _restore, is_last=True),
    Operation("CreateSnapshot", _with_saved, _create_template, is_last=True),
    Operation("RunPodSandbox of a template", _with_template, _run_of_template, is_last=True),
    Operation("RemoveSnapshot", _with_template, _remove_template, is_last=True),
)
