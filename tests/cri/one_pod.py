# SPDX-License-Identifier: Apache-2.0
"""Many containers in one real pod: what each printed and how each ended, for tests that only look.

A virtual machine takes a second to boot and more on a busy machine, so the cases that need a real guest
share one. Used by test_security.py and test_mounts.py: their fixtures call `run` once, and each case is a test.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from cri.pb import runtime_pb2 as pb
from cri.store.images import ImageStore
from stage1 import engine
from stage1.linux.host import which
from tests.cri.conftest import Client, Registered, VmWorld
from tests.fakes import places, sample
from tests.fakes.oci_layout import Entry, Layer, directory, file, tar
from tests.fakes.registry import Registry

PASSWD = b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:\ndefault-user:x:1000:1000::/:\n"
GROUP = b"root:x:0:\nnobody:x:65534:\ngroup-defined-in-image:x:50000:default-user\n"
AT_ONCE = 4
BIND_SERVICE = bytes.fromhex("0100000200040000000000000000000000000000")
"""security.capability: CAP_NET_BIND_SERVICE, effective."""


class Run(NamedTuple):
    """A container: a script whose end is awaited, or `execs` in one that sleeps meanwhile."""

    script: str = ""
    security: Mapping[str, Any] = MappingProxyType({})
    fields: Mapping[str, Any] = MappingProxyType({})
    execs: tuple[tuple[str, ...], ...] = ()


class Seen(NamedTuple):
    """What came of it. `said` has standard output and error as they were logged, or of all execs together."""

    status: pb.ContainerStatus
    out: str
    err: str


@contextmanager
def machine(place: Path, guest_dir: Path, *, hypervisor: str = "qemu") -> Iterator[VmWorld]:
    """A machine with the image t/probe:1: the sample's busybox, the probe, accounts, and links that lead astray."""
    probe = _compile(place)
    extra = tar(
        [
            directory("watch/"),
            file("probe", probe, 0o755),
            file("nnp", probe, 0o4755),
            file("capable", probe, 0o755, xattrs=(("security.capability", BIND_SERVICE),)),
            file("data/web", b"web", 0o640, uid=33, gid=34),
            directory("far/", 0o777),
            file("far/own", b"own\n", 0o600, uid=70000, gid=(1 << 31) - 1),
            file("etc/passwd", PASSWD),
            file("etc/group", GROUP),
            file("data/inner/deep", b"deep"),
            file("data/top", b"top"),
            Entry("astray", "s", link="/../../etc"),
            Entry("data/up", "s", link="../../../etc"),
        ]
    )
    reference = sample.image(place / "layout", [sample.busybox(guest_dir), Layer(extra)], Env=["PATH=/bin"])
    with Registry(place / "registry") as registry, places.short_directory() as root:
        pushed = registry.push(reference, "t/probe:1")
        ImageStore(f"{place}/state").close()
        made = VmWorld(Path(root), Registered(pushed, f"{place}/state"), guest_dir, hypervisor=hypervisor)
        try:
            yield made
        finally:
            for pod in engine.pod_directories(made.host):
                engine.clean_up(pod)


def _compile(place: Path) -> bytes:
    compiler = which("musl-gcc")
    if not compiler:
        pytest.skip("needs musl-gcc: apt install musl-tools")
    source = Path(__file__).with_name("probe.c")
    subprocess.run([compiler, "-static", "-Os", "-s", "-o", place / "probe", source], check=True, timeout=60)
    return (place / "probe").read_bytes()


async def run(cri: Client, pod: str, runs: dict[str, Run], *, limit_s: float = 120) -> dict[str, Seen]:
    """All of them, some at a time, each with that limit."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, what: Run) -> tuple[str, Seen]:
        async with gate:
            return name, await _one(cri, pod, name=name, what=what, limit_s=limit_s)

    return dict(await asyncio.gather(*(one(name, what) for name, what in runs.items())))


async def _one(cri: Client, pod: str, *, name: str, what: Run, limit_s: float) -> Seen:
    command = ("sleep", "1000") if what.execs else ("sh", "-c", what.script)
    context = pb.LinuxContainerSecurityContext(**what.security)
    fields = {"linux": pb.LinuxContainerConfig(security_context=context), **what.fields}
    container = await cri.container(pod, *command, name=name, **fields)
    await cri("StartContainer", container_id=container)
    out = err = ""
    for argv in what.execs:
        ran = await cri("ExecSync", container_id=container, cmd=argv, timeout=60)
        out, err = out + ran.stdout.decode(), err + ran.stderr.decode()
    status = await (cri.status(container) if what.execs else cri.ended(container, limit_s=limit_s))
    if not what.execs:
        out, err = (_logged(status.log_path, stream) for stream in ("stdout", "stderr"))
    await cri("RemoveContainer", container_id=container)
    return Seen(status, out, err)


def _logged(path: str, stream: str) -> str:
    lines = [line.split(" ", 3) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return "".join(line[3] + ("\n" if line[2] == "F" else "") for line in lines if line[1] == stream)


def log_directory(world: VmWorld) -> str:
    """Where the pod's logs go."""
    return os.path.join(world.root, "logs")
