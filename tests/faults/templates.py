# SPDX-License-Identifier: Apache-2.0
"""Templates of booted guests: one is made after a pod that had none, and a pod begins as a copy of it. As `operations`,
for real VMs on a node with templates.
"""

import asyncio
import json
import shutil
import time
from pathlib import Path

from cri.snapshots.templates import DIRECTORY
from stage1.snapshot.format import MANIFEST
from tests.fakes.patience import PATIENCE
from tests.faults.operations import Operation, Stage

CONFIGURED = "[templates]\nenabled = true\n"
"""What the node's configuration has for it."""
ATTEMPTS, LIMIT_S = 4, 30


def _top(stage: Stage) -> Path:
    return stage.node.root / "state" / DIRECTORY


def _whole(stage: Stage) -> list[str]:
    """The names of templates that can be used."""
    return sorted(path.parent.name for path in _top(stage).glob(f"*/{MANIFEST}") if ".new" not in path.parent.name)


async def _counts(stage: Stage) -> dict[str, int]:
    result: dict[str, int] = json.loads((await stage.kubelet("Status", verbose=True)).info["templates"])
    return result


async def _is_made(stage: Stage) -> bool:
    """Wait for a template; false when nobody makes one any more: that has failed, or the daemon is another one."""
    deadline = time.monotonic() + LIMIT_S * PATIENCE
    while not _whole(stage):
        counts = await _counts(stage)
        if counts["failed"] or not counts["missed"] or time.monotonic() > deadline:
            return bool(_whole(stage))
        await asyncio.sleep(0.05)
    return True


async def _without(stage: Stage) -> None:
    """No template, and a daemon that has not failed to make one."""
    await asyncio.to_thread(stage.node.restart)
    await stage.kubelet("ListPodSandbox")
    shutil.rmtree(_top(stage), ignore_errors=True)


async def _make(stage: Stage) -> None:
    """Whoever dies costs the template, and the next pod has another one made."""
    for _ in range(ATTEMPTS):
        await stage.with_running()
        assert not stage.lost()
        if await _is_made(stage):
            break
        await stage.clear()
    assert len(_whole(stage)) == 1, "no template"


async def _with_one(stage: Stage) -> None:
    if not _whole(stage):
        await _make(stage)
    await stage.clear()


async def _copy(stage: Stage) -> None:
    """It boots if its template can't be used, and has its container's lines in any case."""
    await stage.with_running()
    output = await stage.kubelet("ExecSync", container_id=stage.container, cmd=["echo", "hi"], timeout=60)
    assert output.stdout == b"hi\n" and not stage.lost()


TEMPLATES = (
    Operation("RunPodSandbox with its template made", _without, _make, is_last=True),
    Operation("RunPodSandbox as a copy of a template", _with_one, _copy, is_last=True),
)
