# SPDX-License-Identifier: Apache-2.0
"""Many execs, one after the other and at once: exact output each time, and nothing that grows, in daemon and guest.

CLEARPOD_EXECS is how many run one after the other under a real VM and a daemon of its own (default 30); the numbers are
printed.
"""

import asyncio
import gc
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld, World
from .test_real_vm import _serve, machine
from .test_recovery import _client
from .test_streaming import exec_in, nothing_left, running

__all__ = ["machine"]

EXECS = int(os.environ.get("CLEARPOD_EXECS", "30"))
AT_ONCE = 50
MOST_LOST_KIB = 2048
SNAPSHOT = "cat /proc/sys/fs/file-nr /proc/loadavg; grep memory /proc/cgroups; grep MemAvailable /proc/meminfo"

pytestmark = pytest.mark.timeout(240 + 4 * EXECS)


class Facts(NamedTuple):
    """What may not grow."""

    guest_files: int
    guest_threads: int
    guest_cgroups: int
    guest_available_kib: int
    daemon_files: int
    daemon_kib: int


async def facts(cri: Client, container: str, daemon: int) -> Facts:
    """Now, with everything quiet. What is left of execs needs a moment."""
    await asyncio.sleep(1)
    text = (await cri("ExecSync", container_id=container, cmd=["sh", "-c", SNAPSHOT])).stdout.decode()
    files, load, cgroups, memory = text.splitlines()
    numbers = [int(files.split()[0]), int(load.split()[3].split("/")[1]), int(cgroups.split()[2])]
    pages = int(Path(f"/proc/{daemon}/statm").read_text().split()[1])
    return Facts(*numbers, int(re.sub(r"\D", "", memory)), len(os.listdir(f"/proc/{daemon}/fd")), pages * 4)


async def one(cri: Client, container: str, number: int) -> None:
    """By loop_budget ExecSync, SPDY and WebSocket, the last two with input; all of it must come back."""
    text = b"".join(b"%d\n" % n for n in range(number * 1000, number * 1000 + 500))
    if number % 3 == 0:
        script = f"seq {number * 1000} {number * 1000 + 499}; exit {number % 100}"
        ran = await cri("ExecSync", container_id=container, cmd=["sh", "-c", script], deadline_s=120)
        assert (ran.stdout, ran.stderr, ran.exit_code) == (text, b"", number % 100)
        return
    transport = "spdy" if number % 3 == 1 else "websocket"
    script = f"cat; exit {number % 100}"
    talk = await exec_in(cri, transport, container, "sh", "-c", script, stdin=True, stdout=True)
    await talk.send(text)
    await talk.end_input()
    assert await talk.exit_code(limit_s=120) == number % 100
    assert talk.output["stdout"] == text


async def many(cri: Client, container: str, count: int) -> None:
    """`count` one after the other, then 50 at once."""
    for number in range(count):
        await one(cri, container, number)
    await asyncio.gather(*(one(cri, container, number) for number in range(AT_ONCE)))


@pytest.mark.vm
async def test_many_execs_leave_nothing_in_the_guest_or_the_daemon(
    machine: VmWorld, guest_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _serve(machine, guest_dir) as process:
        cri = await _client(machine)
        c = await running(cri)
        for _ in range(2):  # malloc's heaps grow until the second time fifty have run at once, and then no more
            await many(cri, c, 5)
        before = await facts(cri, c, process.pid)
        await many(cri, c, EXECS)
        after = await facts(cri, c, process.pid)
        for _ in range(round(20 * PATIENCE)):  # the guest's kernel gives memory back when it has time
            if after.guest_available_kib >= before.guest_available_kib - MOST_LOST_KIB:
                break
            await asyncio.sleep(1)
            after = await facts(cri, c, process.pid)
        with capsys.disabled():
            print(f"\n{EXECS} execs and {AT_ONCE} at once: before {before}, after {after}")
        await cri("RemovePodSandbox", pod_sandbox_id=(await cri("ListPodSandbox")).items[0].id)
        await cri.close()
    workers = 12  # of the kernel's, which start them as they need them; an exec that leaves a thread leaves more
    assert workers < EXECS and after.guest_threads <= before.guest_threads + workers
    assert after.guest_cgroups == before.guest_cgroups and after.daemon_files <= before.daemon_files
    assert after.guest_files <= before.guest_files + 32  # the kernel counts in portions
    assert after.guest_available_kib >= before.guest_available_kib - MOST_LOST_KIB
    assert after.daemon_kib <= before.daemon_kib + 4096  # what malloc keeps; objects are counted below


def _ours() -> Counter[str]:
    """Living objects of our own classes, and tasks. The fake guest remembers what it was asked.

    The loop drops timers that were cancelled only when they are half of all, and so they do not count.
    """
    gc.collect()
    living = [one for one in gc.get_objects() if not (isinstance(one, asyncio.TimerHandle) and one.cancelled())]
    names = (f"{type(one).__module__}.{type(one).__name__}" for one in living)
    known = ("cri.", "stage1.linux", "stage1.guest.link", "stage1.guest.frame", "asyncio.", "_asyncio.")
    return Counter(name for name in names if name.startswith(known))


async def test_execs_leave_no_object_behind(world: World) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        await many(cri, c, 3)
        await nothing_left(cri, c)
        await asyncio.sleep(0.5)
        before = _ours()
        await many(cri, c, 3)
        await nothing_left(cri, c)
        until = time.monotonic() + 10 * PATIENCE
        while grown := {name: count for name, count in (_ours() - before).items() if count > AT_ONCE // 10}:
            assert time.monotonic() < until, grown
            await asyncio.sleep(0.2)
        bundle = f"{cri.node.pods.pods()[0].directory}/tree/volumes/containers/{c}"
        assert sorted(os.listdir(bundle)) == ["config.json"], "an exec's document was left"
