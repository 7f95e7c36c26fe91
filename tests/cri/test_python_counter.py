# SPDX-License-Identifier: Apache-2.0
"""A web server in Python that keeps a counter in its memory: copied, suspended, resumed, and made a template that
outlives it, by the commands of docs/admin/templates.md, whose transcript is compared. `-s` shows it.
"""

import asyncio
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.policy import FORKABLE, SNAPSHOT
from cri.store.images import ImageStore
from tests.fakes import python_image
from tests.fakes.registry import Registry

from .command_rig import command
from .conftest import Client, Registered, VmWorld
from .counter_rig import counted
from .test_network import outer_world

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

PAGE = Path(__file__).parents[2] / "docs/admin/templates.md"


@pytest.fixture
def world(tmp_path: Path, guest_dir: Path) -> Iterator[VmWorld]:
    """A machine with the image t/python:1."""
    if lack := python_image.why_not():
        pytest.skip(lack)
    reference = python_image.make(tmp_path / "layout", guest_dir)
    with Registry(tmp_path / "registry") as registry:
        pushed = registry.push(reference, "t/python:1")
        ImageStore(f"{tmp_path}/state").close()
        with outer_world(Registered(pushed, f"{tmp_path}/state"), guest_dir) as (made, _):
            yield made


def typed(text: str) -> list[tuple[str, str]]:
    """The commands of a transcript, without addresses, and what curl has answered."""
    lines = [*text.splitlines(), ""]
    commands = [(one, after if " curl " in one else "") for one, after in itertools.pairwise(lines)]
    return [(re.sub("http://[^/]*/", "http://ADDRESS/", one), after) for one, after in commands if one[:2] == "# "]


def in_docs() -> str:
    """The transcript of the page."""
    return next(one for one in PAGE.read_text().split("```") if one.startswith("\n# curl "))


class Session:
    """Who types; all of it is printed as in a terminal, and kept in `text`."""

    def __init__(self, world: VmWorld, cri: Client, capfd: pytest.CaptureFixture[str], *, text: str = "") -> None:
        self._cri, self._capfd, self._run, self.text = cri, capfd, command(world, capfd), text

    async def clearpod(self, line: str) -> str:
        """A command of ours that succeeds: `snapshot list`, `fork web`."""
        parts = line.split()
        names = 2 if parts[0] == "snapshot" else 1
        ended = await self._run(" ".join(parts[:names]), *parts[names:])
        assert ended.code == 0, ended.err
        self._print(f"# clearpod {line}\n{ended.out}")
        return ended.out

    async def curl(self, name: str) -> int:
        """What the server of the pod answers at its address."""
        pod = next(one for one in (await self._cri("ListPodSandbox")).items if one.metadata.name == name)
        ip = (await self._cri("PodSandboxStatus", pod_sandbox_id=pod.id)).status.network.ip
        number = await counted(self._cri, pod.id)
        self._print(f"# curl http://{ip}/    # {name}\n{number}\n")
        return number

    async def run(self, name: str, **annotations: str) -> str:
        """A pod with the server, as a kubelet makes it."""
        logs = f"{self._cri.node.config.run_dir}/logs-{name}"
        pod = await self._cri.pod(name, hostname=name, annotations=annotations, log_directory=logs)
        container = await self._cri.container(pod, *python_image.COMMAND, name="server")
        await self._cri("StartContainer", container_id=container)
        self._print(f"(the kubelet makes the pod {name}: {json.dumps(annotations)})\n")
        return pod

    def _print(self, text: str) -> None:
        self.text += text
        with self._capfd.disabled():
            print(text, end="")


async def test_it_goes_on_in_copies_after_a_suspension_and_out_of_a_snapshot(
    world: VmWorld, capfd: pytest.CaptureFixture[str]
) -> None:
    async with world.daemon() as cri:
        at = Session(world, cri, capfd)
        pod = await at.run("web", **{FORKABLE: "true"})
        assert [await at.curl("web") for _ in range(2)] == [1, 2]
        await at.clearpod("fork default/web --name try")
        assert [await at.curl("try"), await at.curl("try"), await at.curl("web")] == [3, 4, 3]
        await at.clearpod("suspend default/web")
        await at.clearpod("ps")
        await at.clearpod("resume default/web")
        assert await at.curl("web") == 4
        assert "default/warm" in await at.clearpod("snapshot create default/web warm")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    async with world.daemon() as cri:
        at = Session(world, cri, capfd, text=at.text)
        assert "default/warm" in await at.clearpod("snapshot list")
        pods = [await at.run(name, **{SNAPSHOT: "warm"}) for name in ("web-1", "web-2")]
        assert [await at.curl(name) for name in ("web-1", "web-2", "web-1", "try")] == [5, 5, 6, 5]
        assert "the snapshot default/warm" in await at.clearpod("why web-1")
        await at.clearpod("snapshot rm warm")
        assert await at.curl("web-2") == 6
        assert typed(at.text) == typed(in_docs())
        for one in (*pods, *[it.id for it in (await cri("ListPodSandbox")).items if it.metadata.name == "try"]):
            await asyncio.wait_for(cri("RemovePodSandbox", pod_sandbox_id=one), 120)
        assert world.left_over() == []
