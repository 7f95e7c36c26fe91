# SPDX-License-Identifier: Apache-2.0
"""Debian's programs in pods whose kernel is the distribution's. `scripts/test tests/flavours -s` shows their output.

All of it is skipped, with the reason, where that kernel was not built: nothing here builds it.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import KERNEL, MEMORY
from cri.store.images import ImageStore
from tests.cri.conftest import Client, Registered, VmWorld
from tests.cri.test_network import outer_world
from tests.fakes.outer_net import OuterNet
from tests.fakes.registry import Registry
from tests.flavours import images

KERNEL_FILE = "vmlinux-stock"
MEMORY_MIB = "768"
SCRATCH_MIB = 4096
RUN_S = 300
"""What one script may take, by emulation."""
SECURITY = pb.LinuxContainerSecurityContext.DESCRIPTOR.fields_by_name
UNCONFINED = pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)
CONTEXT = """
    mkdir -p /tmp/context; cd /tmp/context; cp /usr/bin/busybox .
    printf '%s\\n' 'FROM scratch' 'COPY busybox /bin/busybox' 'RUN ["/bin/busybox", "--install", "-s", "/bin"]' \
        'RUN echo built by $(uname -r) > /built' 'CMD ["cat", "/built"]' > Containerfile
    cp Containerfile Dockerfile
"""
"""A directory with what an image is built of, for an engine to do."""

Told = Callable[[str], None]


class Pod(NamedTuple):
    """A pod in a VM with a distribution's kernel."""

    cri: Client
    id: str
    show: Told

    async def start(self, script: str, *, name: str, **fields: Any) -> str:
        """Start a container with a script of bash, and return its id; `fields` are as in `run`."""
        container = await self.cri.container(self.id, "bash", "-ec", script, name=name, **_sorted(fields))
        await self.cri("StartContainer", container_id=container)
        return container

    async def refused(self, **fields: Any) -> str:
        """The code with which such a container can't be made."""
        config = self.cri.config("true", name="refused", **_sorted(fields))
        code, sentence = await self.cri.refused("CreateContainer", pod_sandbox_id=self.id, config=config)
        self.show(f"\n--- {code}: {sentence}")
        return code

    async def run(self, script: str, *, name: str, **fields: Any) -> str:
        """What a script of bash says, which must succeed. `fields` are of the container, or of its security context;
        `caps` are capabilities.
        """
        container = await self.start(script, name=name, **fields)
        status = await self.cri.ended(container, limit_s=RUN_S)
        output = _logged(status.log_path)
        self.show(f"\n--- {name}: {script.strip()}\n{output}--- exit {status.exit_code}")
        assert status.exit_code == 0, output
        return output

    async def exec(self, container: str, script: str) -> str:
        """The same in a container that runs."""
        argv = ("bash", "-ec", script)
        reply = await self.cri("ExecSync", container_id=container, cmd=argv, timeout=RUN_S, deadline_s=RUN_S + 10)
        output = (reply.stdout + reply.stderr).decode()
        self.show(f"\n--- {script.strip()}\n{output}--- exit {reply.exit_code}")
        assert reply.exit_code == 0, output
        return output

    async def ip(self) -> str:
        """The pod's first address."""
        return str((await self.cri("PodSandboxStatus", pod_sandbox_id=self.id)).status.network.ip)


def _sorted(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a ContainerConfig, of which some were given as those of its security context."""
    security = {key: fields[key] for key in fields if key in SECURITY}
    others = {key: fields[key] for key in fields if key not in (*SECURITY, "caps")}
    if caps := fields.get("caps"):
        security["capabilities"] = pb.Capability(add_capabilities=caps)
    return others | {"linux": pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**security))}


def privileged_sandbox() -> pb.LinuxPodSandboxConfig:
    """For `linux` of a pod that may have privileged containers."""
    return pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(privileged=True))


def _logged(path: str) -> str:
    lines = [line.split(" ", 3) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return "".join(line[3] + ("\n" if line[2] == "F" else "") for line in lines)


class Pods:
    """Makes pods of one image."""

    def __init__(self, world: VmWorld, show: Told) -> None:
        self._world, self._show = world, show

    def use(self, **keys: Any) -> None:
        """Later pods run with these keys of the configuration."""
        self._world.config = self._world.config.but(**keys)

    @asynccontextmanager
    async def running(self, *names: str, kernel: str = "stock", **fields: Any) -> AsyncIterator[list[Pod]]:
        """Pods of these names, for the block; `fields` are of their sandboxes."""
        annotations = {KERNEL: kernel, MEMORY: MEMORY_MIB}
        async with self._world.daemon() as cri:
            made = []
            for name in names:
                logs = f"{self._world.root}/logs/{name}"
                made.append(await cri.pod(name, annotations=annotations, log_directory=logs, **fields))
            yield [Pod(cri, pod, self._show) for pod in made]
            for pod in made:
                await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert self._world.left_over() == []


@contextmanager
def machine(name: str, guest_dir: Path, place: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    """A machine with the image `name`. Skips, with the reason, where this can't be."""
    if not (guest_dir / KERNEL_FILE).exists():
        pytest.skip(f"no {KERNEL_FILE}: build it: images/build stock")
    if reason := images.why_not():
        pytest.skip(reason)
    with Registry(place / "registry") as registry:
        reference = images.push(registry, name, place / "layout")
        ImageStore(f"{place}/state").close()
        with outer_world(Registered(reference, f"{place}/state"), guest_dir, copies=False) as (world, net):
            world.host = world.host._replace(scratch_mib=SCRATCH_MIB)
            yield world, net


@pytest.fixture
def pods(request: pytest.FixtureRequest, guest_dir: Path, tmp_path: Path) -> Iterator[Pods]:
    """Pods of the image that the test's module names, IMAGE."""
    with machine(request.module.IMAGE, guest_dir, tmp_path) as (world, _):
        yield Pods(world, print)
