# SPDX-License-Identifier: Apache-2.0
"""Nothing is opened, listed or renamed on the daemon's event loop: what hangs there hangs everybody.

A pod's whole life, with logs, execs, limits, a rotation and a restart of the daemon, is watched by an audit hook.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from tests.cri.conftest import Registered, World, registered, world

__all__ = ["Registered", "registered", "world"]

ROOT = str(Path(__file__).parents[3])
WATCHED = frozenset(
    "open os.listdir os.scandir os.mkdir os.rename os.remove os.rmdir os.symlink os.link os.truncate os.walk".split()
)
ALLOWED = {
    ("cri/store/pods.py", "save"): "state.json and its twin, new files in a directory of ours on a tmpfs",
    ("cri/agent.py", "_connect"): "O_PATH descriptors of a socket and of its directory, which is ours and on a tmpfs",
    ("cri/store/images.py", ""): "the image store's database, which no guest can reach",
    ("cri/server.py", ""): "the daemon's own socket and lock, at its start and its end",
}
PROC = ("/proc/", "/sys/", "/dev/null")
"""Files of the kernel's, which nobody can put something else in the place of."""


class Watch:
    """`complaints` are the calls that were made while a loop ran in the calling thread."""

    def __init__(self) -> None:
        self.is_on, self.complaints = False, set[str]()
        self.allowed = set[tuple[str, str]]()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on or event not in WATCHED or asyncio._get_running_loop() is None:
            return
        if isinstance(args[0], int) or (isinstance(args[0], str) and args[0].startswith(PROC)):
            return  # a file that is open already, or one that nobody can replace
        frames = list(_frames())
        ours = [one for one in frames if _is_ours(one[0])]
        if not ours or any("importlib" in path for path, _, _ in frames):
            return
        for path, name, _ in ours:
            for key in ((path, name), (path, "")):
                if key in ALLOWED:
                    self.allowed.add(key)
                    return
        path, name, line = ours[0]
        self.complaints.add(f"{event}{args[:1]} at {path}:{line} in {name}")


def _frames() -> Iterator[tuple[str, str, int]]:
    """Of the calling thread, the innermost first: path below the repository, function, line."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame.f_code.co_filename.removeprefix(f"{ROOT}/"), frame.f_code.co_name, frame.f_lineno
        frame = frame.f_back


def _is_ours(path: str) -> bool:
    return path.startswith(("cri/", "stage1/"))


WATCH = Watch()
sys.addaudithook(WATCH)


@pytest.fixture
def watched() -> Iterator[Watch]:
    WATCH.complaints.clear()
    WATCH.allowed.clear()
    WATCH.is_on = True
    yield WATCH
    WATCH.is_on = False


async def test_a_pods_whole_life_opens_nothing_on_the_loop(world: World, watched: Watch) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "sh", "-c", "while :; do echo tick; sleep 0.01; done", name="ticks")
        await cri("StartContainer", container_id=c)
        profile = world.root / "profile.json"
        profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
        kind = pb.SecurityProfile.Localhost
        seccomp = pb.SecurityProfile(profile_type=kind, localhost_ref=str(profile))
        security = pb.LinuxContainerSecurityContext(seccomp=seccomp)
        linux = pb.LinuxContainerConfig(security_context=security)
        mounts = [pb.Mount(host_path="/usr", container_path="/v", readonly=True)]
        waits = await cri.container(pod, "true", name="waits", linux=linux, mounts=mounts)
        assert (await cri("ExecSync", container_id=c, cmd=["echo", "hi"])).stdout == b"hi\n"
        log = (await cri.status(c)).log_path
        os.rename(log, f"{log}.1")
        await cri("ReopenContainerLog", container_id=c)
        limits = pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
        for one in (c, waits):
            await cri("UpdateContainerResources", container_id=one, linux=limits)
        for name in ("ListPodSandboxStats", "ListContainerStats", "ListContainers", "ListPodSandbox", "ImageFsInfo"):
            await cri(name)
    async with world.daemon() as cri:
        await cri("StopContainer", container_id=c, timeout=1)
        await cri("RemoveContainer", container_id=waits)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        other = await cri.pod("other", log_directory=f"{world.root}/logs")
        assert await cri.container(other, "true")
    world.vmm.stop()
    async with world.daemon() as cri:
        for one in (pod, other):
            await cri("RemovePodSandbox", pod_sandbox_id=one)
        assert world.left_over() == []
    assert sorted(watched.complaints) == []
    assert watched.allowed == ALLOWED.keys(), "an exception that nobody needs"


async def test_the_watch_sees_what_is_opened_on_the_loop_and_not_what_a_thread_opens(watched: Watch) -> None:
    from stage1.linux import files

    await asyncio.to_thread(files.read, os.path.realpath(__file__))
    assert watched.complaints == set()
    files.read(os.path.realpath(__file__))
    assert len(watched.complaints) == 1 and "in read" in watched.complaints.pop()
