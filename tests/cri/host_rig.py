# SPDX-License-Identifier: Apache-2.0
"""A machine on which pods may have every namespace of the host: the real agent and the real crun, as processes of this
machine, and fake VMs. Used by test_host_pods.py and test_host_pods_end.py.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cri.config import parse
from cri.pb import runtime_pb2 as pb
from stage1 import engine
from stage1.linux import process
from stage1.linux.host import host_facts
from stage1.pod.model import HOST_NAMESPACES
from stage1.vm.choose import crun
from stage1.vm.host import HostPod
from stage1.vm.spec import VmSpec
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import VmProcess
from tests.cri.conftest import Client, Registered, World
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import command_lines

POD, CONTAINER, NODE = pb.POD, pb.CONTAINER, pb.NODE
FOREVER = ("sleep", "1000")


class Either:
    """Starts pods on the host for real, and fake VMs for the others."""

    def __init__(self, fake: Any) -> None:
        self._fake, self._real = fake, ProcessVmm()
        self.cgroups: list[str] = []

    def start(self, vm: VmSpec | HostPod) -> VmProcess:
        if isinstance(vm, HostPod):
            self.cgroups.append(vm.cgroup)
        started: VmProcess = (self._real if isinstance(vm, HostPod) else self._fake).start(vm)
        return started


class HostWorld(World):
    """A machine on which pods may have every namespace of the host."""

    def __init__(self, root: Path, registered: Registered, guest_dir: Path) -> None:
        super().__init__(root, registered)
        (root / "guest/agent").symlink_to(guest_dir / "agent")
        self._state_dir, self.run_dir = registered.state_dir, f"{root}/run"
        self.allow(*HOST_NAMESPACES)
        self.host = self.host._replace(crun=crun(host_facts()))
        self.fake = self.vmm
        self.vmm: Any = Either(self.fake)

    def allow(self, *namespaces: str) -> None:
        """From the next daemon on."""
        text = f'run_dir = "{self.run_dir}"\nstate_dir = "{self._state_dir}"\n[vm]\nboot_timeout_s = {20 * PATIENCE}\n'
        self.config = parse(f"{text}[host_pods]\nallow = {json.dumps(namespaces)}")

    def move_run_dir(self, path: str) -> None:
        """From the next daemon on."""
        self.run_dir = path
        self.allow(*HOST_NAMESPACES)
        self.host = self.host._replace(run_dir=path)

    def left_over(self) -> list[str]:
        """As for the fakes, and what only pods on the host leave."""
        mine = list(filter(self._is_named_in, command_lines().values()))
        mounts = list(filter(self._is_named_in, Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()))
        scratch = Path(self.config.state_dir) / "scratch"
        pods = f"{self.config.run_dir}/pods"
        return [*os.listdir(pods), *mounts, *mine, *map(str, scratch.glob("*")), *map(str, self.cgroups())]

    def _is_named_in(self, line: str) -> bool:
        return any(f"{one}/" in line for one in (self.root, self.run_dir))

    def cgroups(self) -> list[Path]:
        """Those of the pods that were started, as far as they are there."""
        return [place for place in map(Path, self.vmm.cgroups) if place.exists()]


@contextmanager
def host_world(sample: Registered, guest_dir: Path) -> Iterator[HostWorld]:
    """Nothing of its pods outlives the block."""
    if not host_facts().crun:
        pytest.skip("needs crun on the host: apt install crun")
    with places.short_directory() as root:
        made = HostWorld(Path(root), sample, guest_dir)
        try:
            yield made
        finally:
            made.fake.stop()
            for place in engine.pod_directories(made.host):
                engine.clean_up(place)


def options(network: int = POD, pid: int = CONTAINER, ipc: int = POD) -> pb.NamespaceOption:
    return pb.NamespaceOption(network=network, pid=pid, ipc=ipc)  # type: ignore[arg-type]


async def run_pod(cri: Client, namespaces: pb.NamespaceOption, name: str = "web", **fields: Any) -> str:
    """The image is pulled if it is not there, then the sandbox is run."""
    if cri.node.images.find(cri.image) is None:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
    context = pb.LinuxSandboxSecurityContext(namespace_options=namespaces)
    linux = pb.LinuxPodSandboxConfig(security_context=context, **fields)
    return await cri.pod(name, linux=linux, log_directory=f"{cri.node.config.run_dir}/logs")


async def run_container(cri: Client, pod: str, *command: str, namespaces: pb.NamespaceOption, **fields: Any) -> str:
    context = pb.LinuxContainerSecurityContext(namespace_options=namespaces)
    linux = pb.LinuxContainerConfig(security_context=context)
    made = await cri.container(pod, *command, linux=linux, **fields)
    await cri("StartContainer", container_id=made)
    return made


async def out(cri: Client, container: str, *command: str) -> str:
    done = await cri("ExecSync", container_id=container, cmd=command, timeout=30)
    assert done.exit_code == 0, done
    return str(done.stdout.decode()).strip()


async def tool(*argv: str | Path) -> None:
    """Run a program of the host, which must succeed."""
    done = await asyncio.to_thread(process.run, list(map(str, argv)), timeout_s=30)
    assert done.code == 0, done.stderr
