# SPDX-License-Identifier: Apache-2.0
"""The work of a soak: pods that live and write, and random kills of the daemon and VMs."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path

from cri.pb import runtime_pb2 as pb
from tests.soak.client import Kubelet, Refused
from tests.soak.lines import EXIT_CODE, SCRIPT, compare
from tests.soak.node import Node

LEAST_LINES, MOST_LINES = 200, 4000
KILLED = 128 + signal.SIGKILL
PAUSE_S = 7.0
"""Between two kills, on average; in a short soak it is a sixth of the time, so that there are some."""


class Count:
    """What was done, and what went wrong."""

    def __init__(self) -> None:
        self.pods = self.execs = self.lines = self.lines_lost = self.kills = self.ends = self.vm_kills = 0
        self.times_s: list[float] = []
        self.wrong: list[str] = []


class Work:
    """`live` runs one pod after the other until `until_s` (monotonic); `kill` kills at random."""

    def __init__(self, node: Node, seed: int) -> None:
        self.node, self.count, self.random = node, Count(), random.Random(seed)
        self.killed: set[str] = set()

    async def live(self, number: int, until_s: float) -> None:
        kubelet, serial = Kubelet(self.node.socket), 0
        while time.monotonic() < until_s:
            serial += 1
            try:
                await self._pod(kubelet, f"w{number}-{serial}")
            except (Refused, TimeoutError) as error:
                self.count.wrong.append(f"w{number}-{serial}: {error}")
        await kubelet.close()

    async def _pod(self, kubelet: Kubelet, name: str) -> None:
        """One whole life. A pod whose VM was killed is removed, and its log is the beginning of what it wrote."""
        lines, log = self.random.randint(LEAST_LINES, MOST_LINES), self.node.root / "logs" / name
        pod = await kubelet.pod(name, log_directory=str(log))
        is_whole = True
        try:
            command = ["sh", "-c", SCRIPT.format(count=lines, pause=self.random.randint(50, 500))]
            made = await kubelet.create(pod, self.node.image, command=command, log="c.log")
            while not await kubelet.start(made):
                (log / "c.log").unlink(missing_ok=True)
                made = await kubelet.create(pod, self.node.image, command=command, log="c.log")
            await self._execs(kubelet, made)
            status = await kubelet.ended(made)
            is_whole = status.exit_code == EXIT_CODE
            if not is_whole and pod not in self.killed:
                self.count.wrong.append(f"{name}: exit code {status.exit_code}, {status.reason}: {status.message}")
        except Refused as error:
            is_whole = False
            if pod not in self.killed:
                self.count.wrong.append(f"{name}: {error}")
        self._compare(log / "c.log", lines, is_whole=is_whole)
        await kubelet("RemovePodSandbox", pod_sandbox_id=pod)
        self.count.pods += 1

    async def _execs(self, kubelet: Kubelet, container: str) -> None:
        for _ in range(self.random.randint(1, 4)):
            word = f"{self.random.random():.9f}"
            try:
                output = await kubelet("ExecSync", container_id=container, cmd=["echo", word], timeout=60)
            except Refused:
                if await _ends(kubelet, container):
                    return
                raise
            self.count.execs += 1
            if (output.exit_code, output.stdout) != (0, f"{word}\n".encode()):
                if output.exit_code == KILLED and await _ends(kubelet, container):
                    return
                self.count.wrong.append(f"an exec ended with {output.exit_code}, said {output.stdout!r} and not {word}")

    def _compare(self, log: Path, lines: int, *, is_whole: bool) -> None:
        if not log.exists() and not is_whole:
            return  # its VM was killed before
        result = compare(log.read_text(encoding="utf-8"), lines, is_whole=is_whole)
        self.count.lines += result.written
        self.count.lines_lost += result.lost
        if result.lost:
            self.count.wrong.append(f"{log}: {result}")

    async def kill(self, until_s: float, begun_s: float) -> None:
        """The daemon mostly, and each tenth time a VM; a daemon is ended in order now and then."""
        pause_s = min(PAUSE_S, (until_s - time.monotonic()) / 6)
        while (left_s := until_s - time.monotonic()) > 0:
            await asyncio.sleep(min(self.random.uniform(1, 2 * pause_s - 1), left_s))
            if time.monotonic() >= until_s:
                return
            what = self.random.random()
            if what < 0.15:
                self._kill_vm()
            else:
                await self._kill_daemon(signal.SIGTERM if what < 0.25 else signal.SIGKILL)
            self.count.times_s.append(round(time.monotonic() - begun_s, 1))

    def _kill_vm(self) -> None:
        vmms = sorted(self.node.vmms().items())
        if vmms:
            pid, pod = self.random.choice(vmms)
            self.killed.add(pod)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.count.vm_kills += 1

    async def _kill_daemon(self, number: signal.Signals) -> None:
        code = await asyncio.to_thread(self.node.stop, number)
        if code not in (0, -number):
            self.count.wrong.append(f"the daemon ended with {code}")
        self.count.kills += number == signal.SIGKILL
        self.count.ends += number == signal.SIGTERM
        self.node.start()


async def _ends(kubelet: Kubelet, container: str) -> bool:
    """Whether the container has ended, or does so now: its commands are killed with it, before its end is known."""
    for _ in range(20):
        if (await kubelet.status(container)).state != pb.CONTAINER_RUNNING:
            return True
        await asyncio.sleep(0.1)
    return False
