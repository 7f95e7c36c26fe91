# SPDX-License-Identifier: Apache-2.0
"""The node under test: a real server on a real socket, in front of instant fake virtual machines.

A test talks gRPC through `Client`, as kubelet does, and looks at the machine to see what is left.
"""

import asyncio
import itertools
import json
import logging
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from grpc import aio

from cri.config import Config, parse
from cri.config_tables import Pool
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from cri.server import OPTIONS, Listener
from cri.snapshots import named
from cri.storage.disk import reserve_of
from cri.store.images import ImageStore
from cri.translate.sandbox import plain
from stage1 import engine
from stage1.engine import Host
from stage1.linux import mount
from stage1.linux.cgroup import OURS
from stage1.vm import hypervisors, qemu
from stage1.vm.choose import Choice, choose
from stage1.vm.starter import ProcessVmm
from tests.fakes import places
from tests.fakes.guest import FakeVmm, Faults
from tests.fakes.kept_templates import EMPTY_DISKS, KeptTemplates
from tests.fakes.oci_layout import Layer, Layout, directory, file, tar
from tests.fakes.open_policy import TEXT
from tests.fakes.patience import PACE, PATIENCE
from tests.fakes.processes import command_lines
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

logging.getLogger("clearpod").setLevel(logging.DEBUG)  # so that every log line is really made


class Registered(NamedTuple):
    """An image in a registry on loopback, already pulled into the store at `state_dir`."""

    reference: str
    state_dir: str
    absent: str = ""
    """Another image of the registry, which nobody has pulled."""


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    """The registry runs for the session; the image has a passwd with a user, and the command `true`."""
    place = tmp_path_factory.mktemp("images")
    passwd = file("etc/passwd", b"root:x:0:0::/:\nweb:x:33:33::/:\n")
    layout = Layout(place / "layout")
    tagged = layout.tag("1", layout.image([Layer(tar([directory("./"), directory("etc/"), passwd]))]))
    other = layout.tag("2", layout.image([Layer(tar([directory("./"), directory("srv/")]))]))
    with Registry(place / "registry") as registry:
        reference, absent = registry.push(tagged, "t/sample:1"), registry.push(other, "t/other:1")
        store = ImageStore(f"{place}/state")
        pull_blocking(store, reference, config=Config())
        store.close()
        yield Registered(reference, f"{place}/state", absent)


def copy_of_store(registered: Registered, place: Path) -> str:
    """`place` as a new state directory: the stored images alone, without what killed daemons left to sweep."""
    for name in ("images", "layers"):
        shutil.copytree(f"{registered.state_dir}/{name}", place / name)
    for database in Path(registered.state_dir).glob("images.db*"):
        shutil.copy2(database, place)
    return str(place)


class CopyingNode(Node):
    """A node whose VMs are copies of templates where they can be: a third of a boot's processor time."""

    def __init__(self, config: Config, *, host: Host, **more: Any) -> None:
        super().__init__(config, host=host._replace(template_dir=str(EMPTY_DISKS)), **more)

    def _make_templates(self) -> KeptTemplates:
        return KeptTemplates(self.host, self.vmm, limit_s=self.config.vm.boot_timeout_s)


class World:
    """A machine on which daemons come and go: directories, the fake VMM, the image store."""

    make_node: type[Node] = Node

    def __init__(self, root: Path, registered: Registered) -> None:
        self.root, self.image = root, registered.reference
        self.faults = Faults()
        self.vmm = FakeVmm(self.faults)
        guest = root / "guest"
        guest.mkdir()
        for name in ("vmlinux", "initramfs", "system.erofs"):
            (guest / name).write_bytes(b"")
        text = f'run_dir = "{root}/run"\nstate_dir = "{registered.state_dir}"\n[guest]\ndir = "{guest}"'
        self.config = parse(text + "\n[vm]\nboot_timeout_s = 1.5\nscratch_mib = 16" + TEXT)
        choice = Choice(qemu.HYPERVISOR, "tcg", "/bin/true", "", ())
        self.host = Host(self.config.run_dir, str(guest), self.config.state_dir, choice, scratch_mib=16)

    @asynccontextmanager
    async def daemon(self, *, settled: bool = True) -> AsyncIterator["Client"]:
        """A daemon that ends in an orderly way; the pods live on. It has done all about its predecessor's pods, or with
        `settled` false has just begun.
        """
        store = reserve_of(self.config).spend(ImageStore, self.config.state_dir)
        node = self.make_node(self.config, host=self.host, vmm=self.vmm, images=store)
        listener = Listener(node, self.config)
        await listener.start()
        await node.open(plain(self.config))
        client = Client(self.config.socket_path, node, self.image)
        if settled:
            await node.pods.recovery.settled()
        try:
            yield client
        finally:
            await client.close()
            await listener.stop(grace_s=1)
            await node.close()
            node.network._pool.shutdown()  # no plugin still works in a directory that goes now
            store.close()

    def warm(self, size: int, **more: int) -> None:
        """Later daemons keep so many VMs waiting."""
        self.config = self.config.but(pool=Pool(size=size, **more))

    def left_over(self) -> list[str]:
        """What pods have left on the machine: directories, mounts, processes."""
        pods = f"{self.config.run_dir}/pods"
        result = os.listdir(pods) if os.path.isdir(pods) else []
        result += mount.mounts_below(str(self.root))
        result += [f"guest {name}" for name, guest in self.vmm.guests.items() if not guest.join(2 * PATIENCE)]
        return result


def _pauses_s() -> Iterator[float]:
    """Between two looks at what takes an instant with a fake guest and seconds with a real one: a call costs a
    millisecond of a processor and more.
    """
    return itertools.chain((0.01, 0.02, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15), itertools.repeat(0.2))


class Client:
    """One gRPC client of both services: `await client("RunPodSandbox", config=...)`."""

    def __init__(self, path: str, node: Node, image: str) -> None:
        self.node, self.image = node, image
        self._channel = aio.insecure_channel(f"unix:{path}", options=OPTIONS)
        self._stubs = (rpc.RuntimeServiceStub(self._channel), rpc.ImageServiceStub(self._channel))

    async def __call__(self, name: str, *, deadline_s: float | None = 30, **fields: Any) -> Any:
        stub = next(stub for stub in self._stubs if hasattr(stub, name))
        request = getattr(pb, f"{name}Request")(**fields)
        return await getattr(stub, name)(request, timeout=deadline_s and deadline_s * PATIENCE)

    async def listed(self, name: str, *, deadline_s: float = 30, **fields: Any) -> list[Any]:
        """All items of a streamed list."""
        call = self.stream(name, deadline_s=deadline_s, **fields)
        return [item for piece in [piece async for piece in call] for item in piece.ListFields()[0][1]]

    def stream(self, name: str, *, deadline_s: float | None = 30, **fields: Any) -> Any:
        """A call whose answers can be iterated over."""
        stub = next(stub for stub in self._stubs if hasattr(stub, name))
        request = pb.GetEventsRequest() if name == "GetContainerEvents" else getattr(pb, f"{name}Request")(**fields)
        return getattr(stub, name)(request, timeout=deadline_s and deadline_s * PATIENCE)

    async def refused(self, name: str, **fields: Any) -> tuple[str, str]:
        """Code and sentence of a call that must fail."""
        with pytest.raises(aio.AioRpcError) as caught:
            await self(name, **fields)
        return caught.value.code().name, str(caught.value.details())

    async def ours(self, name: str, pod: str) -> None:
        """An RPC of clearpod's own about a pod. Raises grpc.RpcError."""
        call: Any = self._channel.unary_unary(f"/clearpod.v1.Pods/{name}")
        await call(pb.StopPodSandboxRequest(pod_sandbox_id=pod).SerializeToString(), timeout=180)

    def sandbox(self, name: str = "web", **fields: Any) -> pb.PodSandboxConfig:
        """A PodSandboxConfig."""
        names = pb.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}")
        return pb.PodSandboxConfig(**{"metadata": names, **fields})

    async def pod(self, name: str = "web", **fields: Any) -> str:
        """Run a sandbox and return its id."""
        return str((await self("RunPodSandbox", config=self.sandbox(name, **fields))).pod_sandbox_id)

    def config(self, *command: str, name: str = "c", **fields: Any) -> pb.ContainerConfig:
        """A ContainerConfig; its log is NAME.log."""
        given = {
            "metadata": pb.ContainerMetadata(name=name),
            "image": pb.ImageSpec(image=self.image),
            "command": command,
            "log_path": f"{name}.log",
        }
        return pb.ContainerConfig(**given | fields)

    async def container(self, pod: str, *command: str, name: str = "c", **fields: Any) -> str:
        """Create a container and return its id."""
        config = self.config(*command, name=name, **fields)
        return str((await self("CreateContainer", pod_sandbox_id=pod, config=config)).container_id)

    async def status(self, container: str) -> pb.ContainerStatus:
        reply = await self("ContainerStatus", container_id=container)
        status: pb.ContainerStatus = reply.status
        return status

    async def ended(self, container: str, limit_s: float = 30) -> pb.ContainerStatus:
        """The container's status once it is EXITED, seen by asking only."""
        async with asyncio.timeout(limit_s * PATIENCE):
            pauses = _pauses_s()
            while (status := await self.status(container)).state != pb.CONTAINER_EXITED:
                await asyncio.sleep(next(pauses))
        return status

    async def pool(self) -> dict[str, int]:
        """The warm pool's counts, as `crictl info` shows them."""
        result: dict[str, int] = json.loads((await self("Status", verbose=True)).info["pool"])
        return result

    async def warmed(self, size: int, limit_s: float = 60) -> dict[str, int]:
        """The counts once so many VMs wait."""
        async with asyncio.timeout(limit_s * PATIENCE):
            pauses = _pauses_s()
            while (counts := await self.pool())["waiting"] != size:
                await asyncio.sleep(next(pauses))
        return counts

    async def close(self) -> None:
        await self._channel.close()


class VmWorld(World):
    """The same machine with real virtual machines and the sample image in the registry."""

    def __init__(self, root: Path, registered: Registered, guest_dir: Path, *, hypervisor: str = "qemu") -> None:
        super().__init__(root, registered)
        choice = choose(hypervisor, hypervisors.facts())
        self.vmm: Any = ProcessVmm()
        text = f'run_dir = "{root}/run"\nstate_dir = "{registered.state_dir}"\n[vm]\nscratch_mib = 64'
        limits = {"boot": 60, "adopt": 20, "react": 10}  # more than by default: tests share the machine
        text += "".join(f"\n{name}_timeout_s = {limit_s * PACE}" for name, limit_s in limits.items())
        self.config = parse(text + TEXT)
        self.host = Host(
            self.config.run_dir,
            str(guest_dir),
            self.config.state_dir,
            choice,
            scratch_mib=64,
            ids=self.config.jail.ids,
            cgroup_parent=OURS,
            vsock_port=free_vsock_port() if choice.hypervisor.uses_vsock else 0,
        )

    def left_over(self) -> list[str]:
        """As for the fakes; a VMM is found by the run directory on its command line."""
        mine = [line for line in command_lines().values() if str(self.root) in line]
        pods = f"{self.config.run_dir}/pods"
        return [*os.listdir(pods), *mount.mounts_below(str(self.root)), *mine]


def free_vsock_port() -> int:
    """A vsock port without a listener."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> Iterator[Registered]:
    """The sample image in a registry."""
    place = tmp_path_factory.mktemp("sample")
    with Registry(place / "registry") as registry:
        reference = registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")
        ImageStore(f"{place}/state").close()
        yield Registered(reference, f"{place}/state")


@contextmanager
def vm_world(
    sample: Registered, guest_dir: Path, *, copies: bool = False, hypervisor: str = "qemu"
) -> Iterator[VmWorld]:
    """A machine whose VMs and named templates do not outlive the block, though `sample`'s state does; with `copies`,
    for tests to which a boot does not matter.
    """
    with places.short_directory() as root:
        made = VmWorld(Path(root), sample, guest_dir, hypervisor=hypervisor)
        made.make_node = CopyingNode if copies else Node
        try:
            yield made
        finally:
            end(made)


def end(world: VmWorld) -> None:
    """End its VMs, and remove its named snapshots: others may have the same state directory."""
    for place in engine.pod_directories(world.host):
        engine.clean_up(place)
    shutil.rmtree(f"{world.config.state_dir}/{named.DIRECTORY}", ignore_errors=True)


@pytest.fixture(params=["fake", pytest.param("vm", marks=pytest.mark.vm)])
def any_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Fake guests, then real ones, for what both must do. A module that has BOOTS has VMs that boot."""
    if request.param == "fake":
        yield request.getfixturevalue("world")
        return
    given = [request.getfixturevalue(name) for name in ("sample", "guest_dir")]
    with vm_world(*given, copies=not hasattr(request.module, "BOOTS")) as made:
        yield made


@pytest.fixture
def world(registered: Registered) -> Iterator[World]:
    """A place with a short name, since unix sockets have 107 bytes for their path, and with images of its own."""
    with places.short_directory() as root:
        state_dir = copy_of_store(registered, Path(root) / "state")
        made = World(Path(root), registered._replace(state_dir=state_dir))
        try:
            yield made
        finally:
            made.vmm.stop()
            for place in engine.pod_directories(made.host):
                engine.clean_up(place)
