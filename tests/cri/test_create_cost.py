# SPDX-License-Identifier: Apache-2.0
"""What CreateContainer and RemoveContainer cost the daemon, as counts: hops into threads, and calls that make, write,
rename and remove files below the pod's directory.
"""

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cri.containers import leaving

from .conftest import World

CREATE = Counter(hops=2)
"""The image with what the request means, then the files of the container."""
REMOVE, CLEAR = Counter[str](), Counter(hops=1)
"""Until the answer, and after it."""
CREATE_FILES = Counter({"mkdir": 1, "rename": 1})
"""The bundle's directory; the pod's file. The bundle's file, the log and its records are new, and have no other name
before.
"""
REMOVE_FILES = Counter({"rename": 1})
"""The pod's file."""
CLEAR_FILES = Counter({"rmdir": 1, "remove": 4})
"""The bundle with its document, both records of the log, and what former versions had for these."""


_listening: list[Counter[str]] = []
_opened: list[str] = []


def _heard(event: str, args: tuple[Any, ...]) -> None:
    """Count an audit event while counting is on, unless it is the guest's: Python's audit hooks can't be removed."""
    if event in ("open", "clearpod.open"):
        _opened.append(str(args[0]))
    is_counted = event in ("os.mkdir", "os.rename", "os.rmdir", "os.remove")
    if _listening and is_counted and threading.current_thread().name != "fake guest":
        _listening[0][event.removeprefix("os.")] += 1


sys.addaudithook(_heard)


@contextmanager
def counted(patch: pytest.MonkeyPatch) -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Hops, and what is done to files, in the block."""
    hops, files = Counter[str](), Counter[str]()
    real = asyncio.base_events.BaseEventLoop.run_in_executor

    def run_in_executor(*args: Any) -> Any:
        hops["hops"] += 1
        return real(*args)

    with patch.context() as patched:
        patched.setattr(asyncio.base_events.BaseEventLoop, "run_in_executor", run_in_executor)
        _listening.append(files)
        try:
            yield hops, files
        finally:
            _listening.clear()


async def test_a_container_is_made_in_two_hops_and_removed_in_none_before_the_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web", log_directory=f"{world.root}/logs")
        await cri.container(pod, "/bin/true", name="first")  # its image is read for the first time, and mounted
        with counted(monkeypatch) as (hops, files):
            container = await cri.container(pod, "/bin/true", name="second")
        assert (hops, files) == (CREATE, CREATE_FILES)
        assert os.listdir(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers/{container}") == ["config.json"]
        with counted(monkeypatch) as (hops, files):
            await cri("RemoveContainer", container_id=container)
            assert (hops, files) == (REMOVE, REMOVE_FILES)
            await leaving.end(cri.node.pods.get(pod))
        assert (hops, files) == (REMOVE + CLEAR, REMOVE_FILES + CLEAR_FILES)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


async def test_an_image_that_is_known_is_not_read_for_the_next_container(world: World) -> None:
    async with world.daemon() as cri:
        first, second = await cri.pod("first"), await cri.pod("second")
        await cri.container(first, "/bin/true")
        await cri.node.verifier.settled()
        _opened.clear()
        await cri.container(first, "/bin/true", name="other")
        assert _of_images(cri.node.images.state_dir) == []
        await cri.container(second, "/bin/true")
        merged, layer = _of_images(cri.node.images.state_dir)  # to be mounted
        assert (os.path.basename(merged), os.path.basename(os.path.dirname(layer))) == ("merged.erofs", "layers")


def _of_images(state_dir: str) -> list[str]:
    return [path for path in _opened if path.startswith((f"{state_dir}/", "etc/"))]
