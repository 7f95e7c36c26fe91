# SPDX-License-Identifier: Apache-2.0
"""What saved guests leave on the host, and what the VMMs hold whose guests were saved, copied and resumed: real VMs."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SNAPSHOT
from cri.snapshots import named
from stage1.snapshot.save import ENDING
from tests.fakes.processes import descriptors

from .conftest import Client, Registered, VmWorld, vm_world
from .test_named import ours

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

WRITING = os.O_WRONLY | os.O_RDWR


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    with vm_world(sample, guest_dir) as made:
        yield made


def held(pod: LivePod) -> dict[str, int]:
    """Files that its VMM has open, with the flags."""
    assert pod.vm is not None
    result = {}
    for number, path in descriptors(pod.vm.pid).items():
        with suppress(FileNotFoundError):
            lines = Path(f"/proc/{pod.vm.pid}/fdinfo/{number}").read_text().splitlines()[:3]
            result[path] = int(dict(line.split(":\t", 1) for line in lines)["flags"].strip(), 8)
    return result


def check_held(pod: LivePod, state: str) -> None:
    """It writes to its own disk and console alone, and has of the images what it reads."""
    mine = re.compile(rf"{pod.directory}/console\.log|{state}/scratch/{pod.id}\.img")
    other = re.compile(r"/dev/null|/dev/u?random|socket:\[\d+\]|anon_inode:.*|/memfd:.*|pipe:\[\d+\]")
    read = re.compile(rf"{state}/(layers|images)/.*|{pod.tools.host.guest_dir}/.*|{pod.directory}/share/.*")
    for name, flags in held(pod).items():
        if not (mine.fullmatch(name) or other.fullmatch(name)):
            assert read.fullmatch(name) and not flags & WRITING, (name, oct(flags))


def kept(*places: Path) -> dict[str, tuple[int, str]]:
    """Owner and mode of all files of guests that are there."""
    files = [path for place in places if place.exists() for path in (place, *place.rglob("*"))]
    return {str(path): ((status := path.lstat()).st_uid, oct(status.st_mode & 0o7777)) for path in files}


async def begun(cri: Client, name: str, **annotations: str) -> LivePod:
    """A pod with a container that runs."""
    pod = await cri.pod(name, annotations=annotations)
    container = await cri.container(pod, "sleep", "1000")
    await cri("StartContainer", container_id=container)
    return cri.node.pods.get(pod)


async def test_what_is_left_is_roots_and_no_vmm_has_it_open(machine: VmWorld, tmp_path: Path) -> None:
    state, output = Path(machine.config.state_dir), tmp_path / "checkpoint"
    output.mkdir(0o700)
    async with machine.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
        web = await begun(cri, "web", **{FORKABLE: "true"})
        asked = {"output_path": str(output), "container_ids": list(web.containers)}
        await cri("CheckpointPod", pod_sandbox_id=web.id, **asked)
        await ours(cri, "CreateSnapshot", pod_sandbox_id=web.id, options={"name": "warm"})
        copy = await begun(cri, "copy", **{FORK_OF: "web"})
        warm = await begun(cri, "warm", **{SNAPSHOT: "warm"})
        check_held(web, str(state))
        check_held(copy, str(state))
        check_held(warm, str(state))
        files = kept(output, state / named.DIRECTORY)
        assert set(files.values()) == {(0, "0o600"), (0, "0o700")} and len(files) > 8
        await cri.ours("SuspendPod", web.id)
        saved = kept(state / "scratch")
        assert saved.pop(f"{state}/scratch/{web.id}{ENDING}") == (0, "0o600")
        assert saved.pop(f"{state}/scratch") == (0, "0o700")
        assert {mode for _, mode in saved.values()} == {"0o600"}
        owners = [owner for owner, _ in saved.values()]
        assert len(set(owners)) == len(owners) == 3 and 0 not in owners
        await cri.ours("ResumePod", web.id)
        check_held(web, str(state))
        for pod in (web, copy, warm):
            await cri("RemovePodSandbox", pod_sandbox_id=pod.id)
        assert list((state / "scratch").iterdir()) == [] and machine.left_over() == []
