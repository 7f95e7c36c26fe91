# SPDX-License-Identifier: Apache-2.0
"""Any file of a pod may be damaged while no daemon runs: the next one serves, a neighbour notices nothing, and the pod
can be removed with all that it has on the host. The errors are in test_hostile_recovery.py.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from tests.cri.conftest import Client, World
from tests.cri.test_hostile_recovery import _directory, _pods_of_a_killed_daemon, _vmms
from tests.cri.test_recovery import _client, _process
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE


def garbage(path: Path) -> None:
    path.unlink()
    path.write_bytes(os.urandom(300))


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/nothing")


def gone(path: Path) -> None:
    path.unlink()


LIVING = ("agent.sock", "agent", "console.log")
"""Of the fake guest, which must be found and ended as any VMM."""


def files_of(pod: Path) -> list[str]:
    """All that is no directory in the pod's, and not seen by mounts only."""
    result = [path for path in pod.rglob("*") if (path.is_symlink() or path.is_file()) and "share" not in path.parts]
    return sorted(str(path.relative_to(pod)) for path in result if path.name not in LIVING)


@pytest.mark.parametrize("damage", [garbage, a_directory, a_link_to_nothing, gone])
async def test_no_damaged_file_of_a_pod_harms_more_than_the_pod(world: World, damage: Callable[[Path], None]) -> None:
    cni = FakeCni(world.root / "cni")
    names = [f"p{number}" for number in range(16)]
    pods = await _pods_of_a_killed_daemon(world, [*names, "neighbour"])
    expected = {name.replace(pods["p0"], "POD") for name in files_of(_directory(world, pods["p0"]))}
    assert {"state.json", "pod.json", "vm.json", "cni.json", "scratch.img"} < expected and len(expected) <= len(names)
    hurt = dict(zip(sorted(expected), names, strict=False))
    for damaged, name in hurt.items():
        files = files_of(_directory(world, pods[name]))
        # The container's id is in some names: what has the same place in the sorted list is meant.
        damage(_directory(world, pods[name]) / files[sorted(expected).index(damaged)])
    with _process(world):
        cri = await _client(world)
        status = (await cri("PodSandboxStatus", pod_sandbox_id=pods["neighbour"])).status
        assert (status.state, status.network.ip) == (pb.SANDBOX_READY, "10.9.0.5")
        listed = {one.id for one in (await cri("ListPodSandbox")).items}
        assert pods["neighbour"] in listed
        faults = [f"{file}: {fault}" for file, name in hurt.items() if (fault := await removed(cri, pods[name]))]
        assert faults == []
        for name in set(pods) - set(hurt.values()):
            await cri("RemovePodSandbox", pod_sandbox_id=pods[name])
        await cri.close()
    with _process(world):  # a network whose pod has lost the link to it is found by the next sweep
        async with asyncio.timeout(30 * PATIENCE):
            while cni.left_over() or world.left_over():
                await asyncio.sleep(0.05)
    assert [file for file, name in hurt.items() if _vmms(pods[name])] == []


async def removed(cri: Client, pod: str) -> str:
    try:
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error.details()}"
    return ""
