# SPDX-License-Identifier: Apache-2.0
"""One real VM for the tests of a file, which a boot would make several times as long: each test has a daemon of its own
that adopts the pod, removes what the test before has left in it, and makes a container. With fake guests all is new.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb

from .conftest import Client, Registered, VmWorld, World, vm_world

__all__ = ["empty_pod", "kept_vms", "kept_world", "running_in_kept_pod"]
NUMBERS = itertools.count()
"""Of containers, which have logs by their names."""


@pytest.fixture(scope="module")
def kept_vms(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    """A machine for the tests of a file."""
    with vm_world(sample, guest_dir, copies=True) as made:
        yield made


@pytest.fixture(params=["fake", pytest.param("vm", marks=pytest.mark.vm)])
def kept_world(request: pytest.FixtureRequest) -> World:
    """As `any_world`; `running_in_kept_pod` makes its pod."""
    made: World = request.getfixturevalue("world" if request.param == "fake" else "kept_vms")
    return made


async def running_in_kept_pod(cri: Client, world: World, *command: str, **fields: Any) -> str:
    """A container that runs `command` in the world's only pod, whose logs are in ROOT/logs; the container's id."""
    await cri("PullImage", image={"image": cri.image})
    pod = await empty_pod(cri) or await cri.pod(log_directory=f"{world.root}/logs")
    container = await cri.container(pod, *(command or ("sleep", "1000")), name=f"c{next(NUMBERS)}", **fields)
    await cri("StartContainer", container_id=container)
    return container


async def empty_pod(cri: Client) -> str:
    """The pod that is ready, without containers; empty if there is none."""
    for one in (await cri("ListPodSandbox")).items:
        if one.state != pb.SANDBOX_READY:
            await cri("RemovePodSandbox", pod_sandbox_id=one.id)
            continue
        for container in (await cri("ListContainers")).containers:
            await cri("RemoveContainer", container_id=container.id)
        return str(one.id)
    return ""
