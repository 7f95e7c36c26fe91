# SPDX-License-Identifier: Apache-2.0
"""A pod as the kubelet makes one, that can be suspended: real VMs on a real bridge, a web server that keeps a counter
(`counter.c`), config map, token, hosts file and termination log in the kubelet's directory of the pod.
"""

import asyncio
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cri.config import parse
from cri.pb import runtime_pb2 as pb
from cri.store.images import ImageStore
from stage1.linux.host import which
from tests.fakes import sample
from tests.fakes.oci_layout import Layer, file, tar
from tests.fakes.outer_net import OuterNet
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry

from .conftest import Client, Registered, VmWorld
from .test_network import outer_world

FIRST_ID = "0a1b2c3d"
"""What the kubelet names a container's termination log by."""


class Kubelet:
    """Its directory of one pod."""

    def __init__(self, root: Path, uid: str) -> None:
        self.directory = root / "pods" / uid
        self.map = self.directory / "volumes/kubernetes.io~configmap/map"
        (self.map / "..1").mkdir(parents=True)
        (self.map / "..1/key").write_text("value")
        (self.map / "..data").symlink_to("..1")
        (self.map / "key").symlink_to("..data/key")
        self.hosts = self.directory / "etc-hosts"
        self.hosts.write_text("10.0.0.9 of-the-kubelet\n")
        self.log = self.directory / "containers/web" / FIRST_ID
        self.log.parent.mkdir(parents=True)
        self.log.touch(0o666)
        self.log.chmod(0o666)

    def mounts(self) -> list[pb.Mount]:
        """As it hands them to a container."""
        places = {"/map": self.map, "/etc/hosts": self.hosts, "/dev/termination-log": self.log}
        return [pb.Mount(container_path=at, host_path=str(path), readonly=at == "/map") for at, path in places.items()]


@contextmanager
def counting_world(place: Path, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    """A machine with the image t/counter:1, and `kubelet` in its root as the kubelet's directory."""
    if not which("musl-gcc"):
        pytest.skip("needs musl-gcc: apt install musl-tools")
    source = Path(__file__).with_name("counter.c")
    subprocess.run(["musl-gcc", "-static", "-Os", "-s", "-o", place / "counter", source], check=True, timeout=60)
    extra = Layer(tar([file("counter", (place / "counter").read_bytes(), 0o755)]))
    reference = sample.image(place / "layout", [sample.busybox(guest_dir), extra], Env=["PATH=/bin"])
    with Registry(place / "registry") as registry:
        pushed = registry.push(reference, "t/counter:1")
        ImageStore(f"{place}/state").close()
        with outer_world(Registered(pushed, f"{place}/state"), guest_dir, copies=False) as (world, net):
            tables = parse(f'[volumes]\nkubelet_root = "{world.root}/kubelet"\n').volumes
            world.config = world.config.but(volumes=tables)
            yield world, net


def sandbox_of(cri: Client, kubelet: Kubelet, name: str, **fields: Any) -> pb.PodSandboxConfig:
    """A pod of that uid."""
    logs = f"{cri.node.config.run_dir}/logs-{name}"
    metadata = pb.PodSandboxMetadata(name=name, namespace="default", uid=kubelet.directory.name)
    return cri.sandbox(name, **{"metadata": metadata, "hostname": name, "log_directory": logs, **fields})


def counter_of(cri: Client, kubelet: Kubelet, **fields: Any) -> pb.ContainerConfig:
    """The counter on port 80, as container `web`."""
    return cri.config("/counter", "80", name="web", **{"mounts": kubelet.mounts(), **fields})


async def run_counter(cri: Client, kubelet: Kubelet, name: str, **fields: Any) -> tuple[str, str]:
    """A pod with the counter; the ids of both."""
    sandbox = sandbox_of(cri, kubelet, name, **fields)
    pod = str((await cri("RunPodSandbox", config=sandbox)).pod_sandbox_id)
    config = counter_of(cri, kubelet)
    container = str((await cri("CreateContainer", pod_sandbox_id=pod, config=config)).container_id)
    await cri("StartContainer", container_id=container)
    return pod, container


async def counted(cri: Client, pod: str) -> int:
    """What its counter answers at its address, once it does."""
    ip = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.network.ip
    async with asyncio.timeout(60 * PATIENCE):
        while True:
            try:
                return int(await asyncio.to_thread(page, f"http://{ip}/"))
            except OSError:
                await asyncio.sleep(0.1)


def page(url: str) -> str:
    """What the server says there."""
    with urllib.request.urlopen(url, timeout=10) as reply:
        return str(reply.read().decode())
