# SPDX-License-Identifier: Apache-2.0
"""Two pods that serve what `net_probe.c` and httpd serve, in a netns that stands for the host; for tests with VMs."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from cri.pb import runtime_pb2 as pb
from tests.fakes import net_counters
from tests.fakes.far_host import run_here
from tests.fakes.outer_net import OuterNet

from .conftest import Client, VmWorld

PORT = "7000"
"""Where net_probe serves TCP, UDP and SCTP."""
SLOW_S = 120


def build_probe(directory: Path) -> str:
    """The path of net_probe, which runs on the host and in pods."""
    source, made = Path(__file__).with_name("net_probe.c"), directory / "net_probe"
    subprocess.run(["musl-gcc", "-static", "-O2", "-Wall", "-Werror", "-o", made, source], check=True, timeout=60)
    return str(made)


class Served(NamedTuple):
    """A pod with a running server: its id, its container's, and its addresses from the status."""

    cri: Client
    pod: str
    container: str
    ips: tuple[str, ...]

    async def run(self, *command: str) -> str:
        """The output of a program that runs in the pod; it must succeed."""
        reply = await self.cri(
            "ExecSync", container_id=self.container, cmd=command, timeout=SLOW_S, deadline_s=SLOW_S + 10
        )
        assert reply.exit_code == 0, (command, reply.stdout, reply.stderr)
        return str(reply.stdout.decode())

    async def probe(self, *arguments: str) -> str:
        """net_probe in the pod."""
        return await self.run("/tools/net_probe", *arguments)

    async def counters(self) -> dict[str, int]:
        """What the guest's kernel counts."""
        return net_counters.parse(await self.run(*net_counters.HERE))


async def serve(cri: Client, name: str, *, probe: str, **fields: object) -> Served:
    """A pod NAME that serves; /w/f is what its web server has to give."""
    pod = await cri.pod(name, **fields)
    script = f"mkdir /w; echo {name} > /w/f; /tools/net_probe serve & exec httpd -f -p 80 -h /w"
    mounts = [pb.Mount(container_path="/tools", host_path=str(Path(probe).parent), readonly=True)]
    container = await cri.container(pod, "sh", "-c", script, mounts=mounts)
    await cri("StartContainer", container_id=container)
    output = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.network
    made = Served(cri, pod, container, (output.ip, *(one.ip for one in output.additional_ips)))
    async with asyncio.timeout(SLOW_S):
        while PORT not in await made.run("sh", "-c", "netstat -ltn | grep :80 && netstat -ltn | grep :7000 || true"):
            await asyncio.sleep(0.1)
    return made


@asynccontextmanager
async def two_pods(
    world: VmWorld, net: OuterNet, *, probe: str, others: dict[str, object] | None = None, **fields: object
) -> AsyncIterator[tuple[Served, Served]]:
    """`one`, which has the `fields`, and `two`, which has `others`; afterwards the host looks as it did before them."""
    async with world.daemon() as cri:
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod("first", **fields))
        if cri.node.templates:
            await cri.node.templates.settled()
        before = net.state()
        serving = serve(cri, "one", probe=probe, **fields), serve(cri, "two", probe=probe, **(others or {}))
        one, two = await asyncio.gather(*serving)
        yield one, two
        for served in (one, two):
            await cri("RemovePodSandbox", pod_sandbox_id=served.pod)
        assert net.state() == before
    assert world.left_over() == []


async def on_host(*argv: str) -> str:
    """What a program says that runs on the host."""
    return await asyncio.to_thread(run_here, *argv)
