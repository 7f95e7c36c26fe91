# SPDX-License-Identifier: Apache-2.0
"""A guest that sends whatever it likes over its link (tests/fakes/hostile_guest.py), a daemon in a process of its own,
and a neighbour that is asked all the while.

Who breaks the protocol is cut off: its pod is not ready, with a sentence. Who only floods is slowed down. Either way
the neighbour is served, and the daemon's memory stays what it was.
"""

import asyncio
import json
import math
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from grpc.aio import AioRpcError

from cri.pb import runtime_pb2 as pb
from tests.cri.conftest import Client, World
from tests.cri.test_recovery import _client, _process
from tests.fakes.hostile_guest import ATTACKS
from tests.fakes.patience import PATIENCE

CUT = {
    "hello_each_4_ms": "hello again and again",
    "hello_flood": "hello again and again",
    "hello_of_another_epoch": "hello again and again",
    "hello_of_another_boot": "booted anew",
    "exited_in_the_year_2554": "Exited.unix_ns is 18446744073709551615",
    "credit_that_overflows": "credit on stream",
    "acknowledgement_from_the_future": "has frame 4611686018427387904",
    "lying_lengths": "not a frame",
    "markers_without_hello": "not a frame",
    "resync_with_progress": "no frame, again and again",
}
"""Attacks that break the rules, and a piece of the sentence that their pods get; the others stay ready."""
ATTACK_S = 0.5
MOST_GROWTH_MIB = 16
SLEEPER = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "/usr/bin/sleep", "1000")
"""Ends with its guest, which is killed and can't clean up."""
ROUNDS = 30


class Seen(NamedTuple):
    """What one attack did. Times are those of calls about the neighbour, in milliseconds."""

    quiet_ms: float
    worst_ms: float
    growth_mib: float
    kept_mib: float
    state: int
    why: str


def _rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


async def _late_ms(cri: Client, pod: str, *, container: str, until: float, pid: int) -> tuple[float, float]:
    """The 95th percentile of the neighbour's calls, and the most memory of the daemon meanwhile."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("PodSandboxStatus", {"pod_sandbox_id": pod}),
        ("ContainerStatus", {"container_id": container}),
        ("ContainerStats", {"container_id": container}),
        ("ListPodSandbox", {}),
    ]
    result, most = [], 0.0
    while time.monotonic() < until or len(result) < ROUNDS:
        for name, fields in calls:
            begun = time.monotonic()
            has_failed = await _fails(cri(name, **fields))
            result.append(math.inf if has_failed else (time.monotonic() - begun) * 1000)
        most = max(most, _rss_mib(pid))
        await asyncio.sleep(0.002)
    return sorted(result)[int(len(result) * 0.95)], most


async def _fails(call: Coroutine[Any, Any, Any]) -> bool:
    try:
        await call
    except AioRpcError:
        return True
    return False


async def _attack(cri: Client, container: str, name: str) -> None:
    await _fails(cri("ExecSync", container_id=container, cmd=["attack", name], timeout=3))  # nobody answers


async def _suffer(cri: Client, name: str, neighbour: tuple[str, str], *, pid: int) -> Seen:
    pod = await cri.pod(name.replace("_", "-"))
    container = await cri.container(pod, *SLEEPER, name=name)
    await cri("StartContainer", container_id=container)
    quiet_ms, before = await _late_ms(cri, neighbour[0], container=neighbour[1], until=0, pid=pid)
    attack = asyncio.ensure_future(_attack(cri, container, name))
    until = time.monotonic() + ATTACK_S
    worst_ms, most = await _late_ms(cri, neighbour[0], container=neighbour[1], until=until, pid=pid)
    if neighbour[1] not in {one.attributes.id for one in (await cri("ListContainerStats")).stats}:
        worst_ms = math.inf
    output = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
    await cri("RemovePodSandbox", pod_sandbox_id=pod)
    await attack
    why = json.loads(output.info["info"]).get("why", "")
    return Seen(quiet_ms, worst_ms, most - before, _rss_mib(pid) - before, output.status.state, why)


def _offends(name: str, seen: Seen) -> bool:
    is_cut = seen.state == pb.SANDBOX_NOTREADY
    return (
        seen.worst_ms > (2 * seen.quiet_ms + 50) * PATIENCE
        or seen.growth_mib > MOST_GROWTH_MIB
        or seen.kept_mib > MOST_GROWTH_MIB
        or is_cut != (name in CUT)
        or CUT.get(name, "") not in seen.why
    )


@pytest.mark.alone
@pytest.mark.timeout(300 * PATIENCE)
async def test_whatever_a_guest_sends_its_neighbours_are_served_and_the_daemon_stays_small(world: World) -> None:
    result: dict[str, Seen] = {}
    with _process(world) as process:
        cri = await _client(world)
        pod = await cri.pod("neighbour")
        container = await cri.container(pod, *SLEEPER)
        await cri("StartContainer", container_id=container)
        for name in ATTACKS:
            result[name] = await _suffer(cri, name, (pod, container), pid=process.pid)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
    assert world.left_over() == []
    for name, seen in result.items():
        print(f"{name:<32} {seen}")
    assert {name: seen for name, seen in result.items() if _offends(name, seen)} == {}
