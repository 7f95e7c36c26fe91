# SPDX-License-Identifier: Apache-2.0
"""What `scripts/bench peers` asks of each runtime, in turns, so that all of them find the machine equally busy.

A turn is the life of one pod, a pull, a list of all pods, much output. What it took is added to the runtime's samples.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.bench.lib.peers_runtimes import Runtime, group_ms, memory_mib
from tests.cri.conftest import Client

IDLE = ("sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait")
"""A container that does nothing, and ends when it is told to."""
LINE = "x" * 79
GRACE_S = 10
STATS_S = 1.1
"""Between two questions for numbers: a sample of the last moment is no answer to the second."""
POLL_S = 0.2
LIMIT_S = 600

PARTS = {"pods": 0.35, "pulls": 0.45, "lists": 0.62, "waves": 0.7, "execs": 0.75, "logs": 1.0}
"""With the part of the run's time after which no further turn of it is begun: a busy machine gets fewer samples."""
LISTS = ("Version", "ListPodSandbox", "ListContainers", "ListContainerStats")
"""Version is what a call costs that does nothing."""
LEAST_LISTS = 4
"""Turns of lists also on a busy machine: they take a second each, and the first one's statistics wait for guests."""


class Sample(NamedTuple):
    """One operation: milliseconds by the clock, of the daemon and what it starts, of VMMs beside their vCPUs, and in
    guests.
    """

    all_ms: float
    daemon_ms: float
    vmm_ms: float
    guest_ms: float

    @property
    def host_ms(self) -> float:
        """Of the processors on the host."""
        return self.daemon_ms + self.vmm_ms


class Size(NamedTuple):
    """How often, and how much."""

    rounds: int = 8
    pods: int = 20
    """That are listed."""
    idle_pods: int = 30
    """That there are while the runtimes are idle."""
    execs: int = 50
    at_once: int = 10
    pulls: int = 7
    waves: int = 2
    """Of what is done at once."""
    log_mib: int = 100
    idle_s: float = 10.0
    limit_s: float = 330.0
    """Roughly, of the whole run."""


QUICK = Size(rounds=4, pods=4, idle_pods=4, execs=8, at_once=3, pulls=5, waves=1, log_mib=4, idle_s=3.0, limit_s=150.0)


class Samples:
    """Of all operations and runtimes."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, list[Sample]]] = {}
        self.idle: dict[str, dict[str, float]] = {}

    @contextmanager
    def of(self, name: str, runtime: Runtime) -> Iterator[None]:
        """What is done in the block is one more sample."""
        before, begun = runtime.usage(), time.perf_counter()
        yield
        all_ms = (time.perf_counter() - begun) * 1000
        sample = Sample(all_ms, *runtime.usage().since(before))
        self.taken.setdefault(name, {}).setdefault(runtime.name, []).append(sample)

    async def call(self, runtime: Runtime, name: str, **fields: Any) -> Any:
        """One call is one sample."""
        with self.of(name, runtime):
            return await runtime.cri(name, deadline_s=LIMIT_S, **fields)


async def _container(samples: Samples, runtime: Runtime, *, pod: str, name: str) -> str:
    """One that does nothing in the pod of that name, which containerd takes from the request, as a part of its own."""
    config, sandbox = runtime.cri.config(*IDLE), runtime.sandbox(name)
    made = await samples.call(runtime, "CreateContainer", pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
    await samples.call(runtime, "StartContainer", container_id=made.container_id)
    return str(made.container_id)


async def life(samples: Samples, runtime: Runtime, number: int) -> None:
    """A pod with one container, from its beginning to its end."""
    config = runtime.sandbox(f"life-{number}")
    pod = (await samples.call(runtime, "RunPodSandbox", config=config)).pod_sandbox_id
    await runtime.settle()
    container = await _container(samples, runtime, pod=pod, name=f"life-{number}")
    for _ in range(3):
        await samples.call(runtime, "ExecSync", container_id=container, cmd=["true"], timeout=LIMIT_S)
    await samples.call(runtime, "ContainerStats", container_id=container)
    await samples.call(runtime, "ContainerStatus", container_id=container)
    await samples.call(runtime, "PodSandboxStatus", pod_sandbox_id=pod)
    await samples.call(runtime, "StopContainer", container_id=container, timeout=GRACE_S)
    await samples.call(runtime, "RemoveContainer", container_id=container)
    await samples.call(runtime, "StopPodSandbox", pod_sandbox_id=pod)
    await samples.call(runtime, "RemovePodSandbox", pod_sandbox_id=pod)


async def pulls(samples: Samples, runtime: Runtime, image: str) -> None:
    """An image that is not there, and the same when it is."""
    await runtime.cri("RemoveImage", image={"image": image})
    await samples.call(runtime, "PullImage", image={"image": image})
    with samples.of("PullImageAgain", runtime):
        await runtime.cri("PullImage", image={"image": image})


async def _pods(runtime: Runtime, count: int, prefix: str) -> list[str]:
    async def one(number: int) -> str:
        config = runtime.sandbox(f"{prefix}-{number}")
        return str((await runtime.cri("RunPodSandbox", config=config, deadline_s=LIMIT_S)).pod_sandbox_id)

    return list(await asyncio.gather(*map(one, range(count))))


async def _remove(runtime: Runtime, pods: Sequence[str]) -> None:
    for pod in pods:
        await runtime.cri("StopPodSandbox", pod_sandbox_id=pod, deadline_s=LIMIT_S)
        await runtime.cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=LIMIT_S)


async def wave(samples: Samples, runtime: Runtime, count: int) -> None:
    """So many pods at once."""
    with samples.of(f"RunPodSandbox{count}", runtime):
        pods = await _pods(runtime, count, "wave")
    await runtime.settle()
    await _remove(runtime, pods)


async def execs(samples: Samples, runtime: Runtime, count: int, waves: int) -> None:
    """So many at once in one container."""
    pods = await _pods(runtime, 1, "execs")
    container = await _container(Samples(), runtime, pod=pods[0], name="execs-0")

    async def one(_: int) -> None:
        await runtime.cri("ExecSync", container_id=container, cmd=["true"], timeout=LIMIT_S, deadline_s=LIMIT_S)

    for _ in range(waves):
        with samples.of(f"ExecSync{count}", runtime):
            await asyncio.gather(*map(one, range(count)))
    await _remove(runtime, pods)


async def logs(samples: Samples, runtime: Runtime, mib: int) -> None:
    """A container that writes lines of 80 bytes as fast as they are taken, until its end is known."""
    pods = await _pods(runtime, 1, "logs")
    command = ("sh", "-c", f"yes {LINE} | head -c {mib << 20}")
    config = runtime.cri.config(*command)
    made = await runtime.cri(
        "CreateContainer", pod_sandbox_id=pods[0], config=config, sandbox_config=runtime.sandbox("logs-0")
    )
    with samples.of(f"Logs{mib}MB", runtime):
        await runtime.cri("StartContainer", container_id=made.container_id)
        await _ended(runtime.cri, made.container_id)
    await _remove(runtime, pods)
    for log in (runtime.directory / "logs").iterdir():
        log.unlink()


async def _ended(cri: Client, container: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not (await cri.status(container)).finished_at:
            await asyncio.sleep(POLL_S)


async def _idle(runtime: Runtime, seconds: float) -> dict[str, float]:
    """What the runtime itself takes while nobody asks for anything, helpers and shims included: percent of a processor,
    and memory.
    """
    await asyncio.sleep(STATS_S)  # what follows the last start is done
    before, begun = group_ms(runtime.group), time.perf_counter()
    await asyncio.sleep(seconds)
    used = (group_ms(runtime.group) - before) / (time.perf_counter() - begun) / 10
    return {"cpu_percent": round(used, 2), **memory_mib(runtime.group)}


async def lists(samples: Samples, runtimes: Sequence[Runtime], size: Size, *, until: float) -> None:
    """With so many pods of one container in each."""
    made = {one.name: await _pods(one, size.idle_pods, "listed") for one in runtimes}
    for runtime in runtimes:
        for number, pod in enumerate(made[runtime.name]):
            await _container(Samples(), runtime, pod=pod, name=f"listed-{number}")
    for runtime in runtimes:
        samples.idle[runtime.name] = await _idle(runtime, size.idle_s)
        await _remove(runtime, made[runtime.name][size.pods :])
    for number in range(size.rounds):
        if number >= LEAST_LISTS and time.monotonic() > until:
            break
        for runtime in runtimes:
            for name in LISTS:
                await samples.call(runtime, name)
        await asyncio.sleep(STATS_S)
    for runtime in runtimes:
        await _remove(runtime, made[runtime.name][: size.pods])


async def all_of(samples: Samples, runtimes: Sequence[Runtime], size: Size, *, image: str, only: str = "") -> None:
    """Everything, or what `only` names; the pool has no lists and pulls of its own."""
    without_pool = [one for one in runtimes if not one.pool]
    turns: dict[str, tuple[Sequence[Runtime], int, Callable[[Runtime, int], Awaitable[None]]]] = {
        "pods": (runtimes, size.rounds, lambda one, number: life(samples, one, number)),
        "pulls": (without_pool, size.pulls, lambda one, _: pulls(samples, one, image)),
        "waves": (without_pool, size.waves, lambda one, _: wave(samples, one, size.at_once)),
        "execs": (without_pool, 1, lambda one, _: execs(samples, one, size.execs, size.waves)),
        "logs": (without_pool, 1, lambda one, _: logs(samples, one, size.log_mib)),
    }
    begun = time.monotonic()
    for part in [only] if only else PARTS:
        until = begun + size.limit_s * (1 if only else PARTS[part])
        if part == "lists":
            await lists(samples, without_pool, size, until=until)
        else:
            await _in_turns(*turns[part], until=until)


async def _in_turns(
    runtimes: Sequence[Runtime], rounds: int, measure: Callable[[Runtime, int], Awaitable[None]], *, until: float
) -> None:
    for number in range(rounds):
        if number and time.monotonic() > until:
            break
        for runtime in runtimes:
            await measure(runtime, number)
