# SPDX-License-Identifier: Apache-2.0
"""The systemd cgroup driver as clients of the CRI see it, with fake VMs and a fake systemd that refuses or hangs."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux import cgroup, dbus
from tests.fakes.patience import PACE
from tests.fakes.systemd_bus import SystemdBus

from .conftest import Client, World

SLICES = f"clearpodtestcri{os.getpid()}"
SLICE = f"{SLICES}-pod1.slice"
LIMIT_S = 3.0 * PACE
PODS = 12
"""More than there are threads."""
pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not cgroup.limited(), reason="needs cgroups that can be written")


@pytest.fixture
def slice_path(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The pod's slice, and a daemon whose driver is systemd."""
    world.host = world.host._replace(has_scopes=True, cgroup_parent=SLICES)
    monkeypatch.setattr(dbus, "SOCKETS", ((f"{world.root}/systemd", False),))
    monkeypatch.setattr(dbus, "LIMIT_S", LIMIT_S)
    path = Path(cgroup.tree(), f"{SLICES}.slice", SLICE)
    path.mkdir(parents=True)
    yield path
    path.rmdir()
    path.parent.rmdir()
    for place in cgroup.places("", SLICES).values():
        if os.path.isdir(place):
            os.rmdir(place)


def in_slice(cri: Client, number: int, parent: str = SLICE) -> pb.PodSandboxConfig:
    config = cri.sandbox(f"in-{number}")
    config.linux.cgroup_parent = parent
    return config


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("org.freedesktop.systemd1.UnitExists", "FAILED_PRECONDITION"),
        ("canceled", "FAILED_PRECONDITION"),
        ("closes", "UNAVAILABLE"),
    ],
)
async def test_what_systemd_refuses_leaves_nothing(world: World, slice_path: Path, answer: str, code: str) -> None:
    with SystemdBus(world.root / "systemd", answer):
        async with world.daemon() as cri:
            output, sentence = await cri.refused("RunPodSandbox", config=in_slice(cri, 1))
            assert output == code and "clearpod-" in sentence and "systemd" in sentence
            assert list((await cri("ListPodSandbox")).items) == []
    assert world.left_over() == [] and [one for one in slice_path.iterdir() if one.is_dir()] == []


async def test_the_driver_is_reported_and_a_parent_of_the_other_one_refused(world: World, slice_path: Path) -> None:
    async with world.daemon() as cri:
        assert (await cri("RuntimeConfig")).linux.cgroup_driver == pb.SYSTEMD
        code, sentence = await cri.refused("RunPodSandbox", config=in_slice(cri, 1, "/kubepods/pod1"))
        assert code == "INVALID_ARGUMENT" and "cgroup_driver" in sentence
    assert world.left_over() == []


async def test_a_systemd_that_hangs_holds_only_pods_that_wait_for_it(world: World, slice_path: Path) -> None:
    with SystemdBus(world.root / "systemd", "silent"):
        async with world.daemon() as cri:
            plain = await cri.pod()
            made = await cri.container(plain, "true")
            await cri("StartContainer", container_id=made)
            waiting = [
                asyncio.ensure_future(cri.refused("RunPodSandbox", config=in_slice(cri, n))) for n in range(PODS)
            ]
            async with asyncio.timeout(LIMIT_S):
                second = await cri.container(plain, "true", name="second")
                await cri("StartContainer", container_id=second)
            assert not all(one.done() for one in waiting)
            assert {code for code, _ in await asyncio.gather(*waiting)} == {"UNAVAILABLE"}
            await cri("RemovePodSandbox", pod_sandbox_id=plain)
    assert world.left_over() == [] and [one for one in slice_path.iterdir() if one.is_dir()] == []
