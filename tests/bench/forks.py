# SPDX-License-Identifier: Apache-2.0
"""Copies of a running pod compared with cold starts, for `scripts/bench template`: the pause of the original, and the
time until a copy's container answers an exec, each in turn with a pod that boots. The time of CNI plugins counts: those
of a copy run while its original is saved. The pods' disks lie on an XFS, whose files share blocks, where that is
possible.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cri.policy import FORK_OF, FORKABLE
from cri.store import history
from tests.cri.conftest import Client, VmWorld
from tests.fakes import loop_xfs

WAIT_S = 600
COMMAND = ("sleep", "100000")


async def answered(cri: Client, name: str, annotations: dict[str, str]) -> tuple[str, float]:
    """A pod with a container that has answered an exec; its id, and the milliseconds."""
    begun = time.perf_counter()
    config = cri.sandbox(name, annotations=annotations)
    pod = str((await cri("RunPodSandbox", config=config, deadline_s=WAIT_S)).pod_sandbox_id)
    container = await cri.container(pod, *COMMAND)
    await cri("StartContainer", container_id=container, deadline_s=WAIT_S)
    reply = await cri("ExecSync", container_id=container, cmd=["true"], timeout=60, deadline_s=WAIT_S)
    assert reply.exit_code == 0
    return pod, (time.perf_counter() - begun) * 1000


@contextmanager
def disks(state_dir: str, place: Path) -> Iterator[str]:
    """The disks of pods, and what is saved of them, on an XFS at `place`; which file system they are on."""
    if why := loop_xfs.lack():
        print(f"disks of pods are copied and not shared: {why}", file=sys.stderr)
        yield "the one of /tmp"
        return
    with loop_xfs.mounted(place) as made, ExitStack() as undo:
        for name in ("scratch", "forks"):
            own, shown = made / name, Path(state_dir) / name
            for directory in (own, shown):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", str(own), str(shown)], check=True)
            undo.callback(subprocess.run, ["umount", str(shown)], check=True)
        yield "xfs"


async def measure(world: VmWorld, rounds: int) -> dict[str, Any]:
    """Medians of so many copies, and of as many pods that boot between them."""
    with disks(str(world.config.state_dir), world.root / "xfs") as kind:
        return await _measure(world, rounds) | {"fork_disks": kind}


async def _measure(world: VmWorld, rounds: int) -> dict[str, Any]:
    pauses, cold, copies = [], [], []
    async with world.daemon() as cri:
        original, _ = await answered(cri, "original", {FORKABLE: "true"})
        for number in range(rounds):
            for kind, annotations, samples in (("cold", {}, cold), ("copy", {FORK_OF: "original"}, copies)):
                pod, took_ms = await answered(cri, f"{kind}-{number}", annotations)
                samples.append(took_ms)
                await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=WAIT_S)
            facts = cri.node.pods.get(original).status.history
            pauses.append(next(one.took_ns for one in facts if one.what == history.FORKED) / 1e6)
        await cri("RemovePodSandbox", pod_sandbox_id=original, deadline_s=WAIT_S)
    answer = {"cold": statistics.median(cold), "copy": statistics.median(copies)}
    return {
        "fork_pause_ms": round(statistics.median(pauses), 1),
        "fork_answer_ms": {name: round(value, 1) for name, value in answer.items()},
        "fork_ratio": round(answer["copy"] / answer["cold"], 3),
    }
