# SPDX-License-Identifier: Apache-2.0
"""Privileged pods for `test_guest.py`, of each kind that a VM's memory can be: booted, or a copy of what another VM is
or was. Those that can be saved have no volume of the host's: their program comes by an image.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SNAPSHOT, TEMPLATE
from cri.snapshots import named
from stage1.rootfs.checkpoint import examined
from tests.cri.test_named import ours
from tests.fakes import sample
from tests.fakes.oci_layout import Layer, directory, file, tar
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry
from tests.hostile.rig import Caller, Node

BOOTED, TEMPLATED, FORK, RESUMED, NAMED = KINDS = "booted", "template", "fork", "resumed", "named"
SAVED = (FORK, RESUMED, NAMED)
SEED, NAME = "seed", "bad"
STATE = "cat /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname; ls /"
"""What a container sees of its kernel's memory and its disk."""
PRIVILEGED = pb.LinuxContainerSecurityContext(privileged=True)


class Attackers:
    """Makes them on this node; `program` is in their containers at /v/guest."""

    def __init__(self, vms: Node, registry: Registry, *, guest_dir: Path, program: Path) -> None:
        self.vms = vms
        layer = Layer(tar([directory("v"), file("v/guest", program.read_bytes(), 0o755)]))
        built = sample.image(vms.root / "attacker", [sample.busybox(guest_dir), layer], Env=["PATH=/bin"])
        self.image = registry.push(built, "t/attacker:1")
        self._seed: tuple[str, str, str] | None = None

    @asynccontextmanager
    async def one(self, kind: str, *, read_only: bool = False) -> AsyncIterator[tuple[Caller, str, str]]:
        """A client, a privileged pod of this kind, and its container, removed in the end. What it is a copy of is as it
        was then.
        """
        async with self.vms.client() as cri:
            before = await self._with_seed(cri, kind)
            pod = await self._pod(cri, kind)
            container = await self._container(cri, pod, kind=kind, read_only=read_only)
            if kind == RESUMED:
                await cri.ours("SuspendPod", pod)
                await cri.ours("ResumePod", pod)
            try:
                yield cri, pod, container
            finally:
                await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=60)
            await self._is_as_it_was(cri, before)

    async def _pod(self, cri: Caller, kind: str) -> str:
        linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(privileged=True))
        fields: dict[str, Any] = {"linux": linux, "log_directory": f"{self.vms.root}/logs/{NAME}"}
        if kind == TEMPLATED:
            return await _copy(cri, fields)
        words = {NAMED: {SNAPSHOT: SEED}, FORK: {FORK_OF: SEED}, RESUMED: {FORK_OF: SEED, FORKABLE: "true"}}
        return await cri.pod(NAME, **fields, annotations=words.get(kind, {TEMPLATE: "none"}))

    async def _container(self, cri: Caller, pod: str, *, kind: str, read_only: bool = False) -> str:
        mounts = [pb.Mount(container_path="/v", host_path=f"{self.vms.root}/volume", readonly=read_only)]
        image = {"image": pb.ImageSpec(image=self.image)} if kind in SAVED else {"mounts": mounts}
        linux = {"security_context": PRIVILEGED}
        container = await cri.container(pod, "sh", "-c", "while :; do sleep 1; done", linux=linux, **image)
        await cri("StartContainer", container_id=container)
        return container

    async def _with_seed(self, cri: Caller, kind: str) -> str:
        """Make what copies are made of, once; its state."""
        await cri("PullImage", image=pb.ImageSpec(image=self.vms.reference))
        if kind not in SAVED:
            return ""
        if self._seed is None:
            await cri("PullImage", image=pb.ImageSpec(image=self.image))
            linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(privileged=True))
            annotations, logs = {FORKABLE: "true"}, f"{self.vms.root}/logs/{SEED}"
            pod = await cri.pod(SEED, linux=linux, log_directory=logs, annotations=annotations)
            container = await self._container(cri, pod, kind=kind)
            await ours(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": SEED})
            self._seed = pod, container, await sh_of(cri, container, STATE)
        return self._seed[2]

    async def _is_as_it_was(self, cri: Caller, before: str) -> None:
        if before and self._seed:
            assert await sh_of(cri, self._seed[1], STATE) == before

    def digests(self) -> dict[str, str]:
        """Of the files of all templates."""
        state = self.vms.root / "state"
        paths = [*state.glob("vm-templates/*/ram"), *state.glob(f"{named.DIRECTORY}/*/*/*")]
        return _digests(paths)

    def images(self) -> dict[str, str]:
        """Of the files of all images."""
        paths = (path for name in ("images", "layers") for path in (self.vms.root / "state" / name).rglob("*"))
        return _digests(path for path in paths if path.is_file())


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    return {str(path): examined(str(path)).sha256 for path in paths}


async def sh_of(cri: Caller, container: str, script: str) -> str:
    """The output of a script that does not fail."""
    code, text = await sh(cri, container, script)
    assert code == 0, text
    return text


async def sh(cri: Caller, container: str, script: str, limit_s: int = 60) -> tuple[int, str]:
    """Code and output of a script in the container."""
    timeout = limit_s * PATIENCE
    asked = {"container_id": container, "cmd": ["sh", "-c", script], "timeout": timeout}
    reply = await cri("ExecSync", deadline_s=limit_s + 10, **asked)
    return reply.exit_code, (reply.stdout + reply.stderr).decode(errors="replace")


async def _copy(cri: Caller, fields: dict[str, Any]) -> str:
    """A pod that is a copy of a template, where the hypervisor has such; the one before it has that made."""
    while True:
        before = await _templates(cri)
        pod = await cri.pod(NAME, **fields)
        after = await _templates(cri)
        if not after or after["used"] > before["used"]:
            return pod
        async with asyncio.timeout(60 * PATIENCE):
            while not (counts := await _templates(cri))["made"]:
                assert not counts["failed"]
                await asyncio.sleep(0.05)
        await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=60)


async def _templates(cri: Caller) -> dict[str, int]:
    counts: dict[str, int] = json.loads((await cri("Status", verbose=True)).info.get("templates", "{}"))
    return counts
