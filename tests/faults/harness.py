# SPDX-License-Identifier: Apache-2.0
"""Kills at fault points, from outside: the daemon stops itself at a point, and the victim is killed there.

For each operation its points are recorded once. Then for each of them the operation is requested again, the daemon
stops at the point, and the victim is killed: the daemon itself, the pod's VMM, or the program that the daemon is about
to start. Then requests are repeated until they succeed, as a kubelet does. The container's output is compared line by
line, another pod is checked, everything is removed, and the host must be as before.
"""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cri.pb import runtime_pb2 as pb
from tests.fakes.patience import PATIENCE
from tests.faults import points
from tests.faults.operations import Operation, Stage
from tests.faults.points import Orders
from tests.soak.client import Kubelet, Refused
from tests.soak.lines import compare
from tests.soak.node import Node

DAEMON, VMM, CHILD = "the daemon", "the VMM", "the program that is started"
LIMIT_S = 90
NEIGHBOUR = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.5; done"


class Outcome(NamedTuple):
    """One case. `missed`: the point was not reached this time, or the victim was gone before it could be killed."""

    name: str
    lost: int = 0
    leaked: tuple[str, ...] = ()
    hurt: str = ""
    wrong: str = ""
    missed: bool = False


class Harness:
    """A node with a neighbour that nothing happens to; `open` first."""

    def __init__(self, node: Node) -> None:
        self.node, self.kubelet = node, Kubelet(node.socket)
        self._neighbour = Stage(node, self.kubelet, "neighbour")
        self._number = 0
        self._before: set[str] = set()

    async def open(self) -> None:
        """Start the daemon and the neighbour, and look at the host."""
        if self.node.program == ("cri",):
            self.node.program = ("tests.faults.daemon", str(self.node.root))
        self.node.start()
        one = self._neighbour
        await one.with_pod()
        one.container = await self.kubelet.create(
            one.pod, self.node.image, command=["sh", "-c", NEIGHBOUR], log="c.log"
        )
        await self.kubelet.start(one.container)
        stage = Stage(self.node, self.kubelet, "first")  # what the first pod makes for all: templates, the bridge
        await stage.with_running()
        await stage.clear()
        self._before = self._on_host()

    async def close(self) -> None:
        """Remove the neighbour; what stays is the node's to see."""
        self._orders()
        await self.kubelet.remove_all()
        await self.kubelet.close()

    async def note(self, operations: Sequence[Operation]) -> dict[str, list[str]]:
        """The points of each operation, in the order in which it comes to them; one pod is for many of them."""
        result, stage = dict[str, list[str]](), Stage(self.node, self.kubelet, "own")
        for operation in operations:
            await operation.prepare(stage)
            token = self._orders()
            await operation.ask(stage)
            result[operation.name] = points.noted(self.node.root, token)
            if operation.is_last:
                await self._clear(stage)
        await self._clear(stage)
        return result

    async def case(self, operation: Operation, point: str, victim: str) -> Outcome:
        """Kill the victim when the operation is at the point."""
        name, stage = f"{operation.name}: {point}: {victim}", Stage(self.node, self.kubelet, "own")
        outcome = Outcome(name)
        try:
            async with asyncio.timeout(LIMIT_S * 2 * PATIENCE):
                await operation.prepare(stage)
                self._orders(point)
                asking = asyncio.ensure_future(operation.ask(stage))
                is_hit = await self._kill_at_point(asking, stage, victim)
                outcome = outcome._replace(missed=not is_hit)
                await self._until_done(operation, stage, asking=asking, victim=victim)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this case's, and the others are wanted
            outcome = outcome._replace(wrong=f"{type(error).__name__}: {error}"[:500])
        return await self._outcome(outcome, stage)

    def _orders(self, point: str = "") -> str:
        self._number += 1
        token = str(self._number)
        points.arm(self.node.root, Orders(token, point))
        return token

    async def _stopped(self, asking: "asyncio.Future[None]") -> int:
        """The daemon that stands at the point; 0 when the operation has ended without."""
        deadline = time.monotonic() + LIMIT_S * PATIENCE
        while not (stopped := [pid for pid in self.node.daemons() if _state(pid) == "T"]):
            if asking.done() or time.monotonic() > deadline:
                return 0
            await asyncio.sleep(0.01)
        (daemon,) = stopped
        return daemon

    async def _kill_at_point(self, asking: "asyncio.Future[None]", stage: Stage, victim: str) -> bool:
        daemon = await self._stopped(asking)
        self._orders()
        if not daemon:
            return False
        if victim == DAEMON:
            await self._kill_daemon(daemon)
            return True
        if victim == VMM:
            killed = self._kill_vmm(stage)
            os.kill(daemon, signal.SIGCONT)
            return killed
        return await asyncio.to_thread(_kill_next_child, daemon)

    async def _kill_daemon(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        while pid in self.node.daemons():
            await asyncio.sleep(0.01)
        if self.node.daemon is not None and self.node.daemon.pid == pid:
            self.node.daemon.wait()
            self.node.start()  # else somebody waits for its end, and starts the next one

    def _kill_vmm(self, stage: Stage) -> bool:
        result = [pid for pid, pod in self.node.vmms().items() if pod != self._neighbour.pod]
        for pid in result:
            os.kill(pid, signal.SIGKILL)
        return bool(result)

    async def _until_done(
        self, operation: Operation, stage: Stage, *, asking: "asyncio.Future[None]", victim: str
    ) -> None:
        """A daemon that dies is nothing that a client hears of; after another death it may, and begins anew."""
        try:
            await asking
        except (Refused, AssertionError, TimeoutError):
            if victim == DAEMON:
                raise
            await self._clear(stage)
            await operation.prepare(stage)
            await operation.ask(stage)

    async def _outcome(self, outcome: Outcome, stage: Stage) -> Outcome:
        try:
            if stage.has_written:
                outcome = outcome._replace(lost=stage.lost())
            await self._clear(stage)
        except Exception as error:  # noqa: BLE001 - as above
            outcome = outcome._replace(wrong=outcome.wrong or f"removal: {error}"[:500])
        return outcome._replace(hurt=await self._hurt(), leaked=await asyncio.to_thread(self._leaked))

    async def _clear(self, stage: Stage) -> None:
        self._orders()
        await stage.clear()
        image = pb.ImageSpec(image=self.node.image)
        if not (await self.kubelet("ImageStatus", image=image)).image.id:
            await self.kubelet("PullImage", image=image)

    async def _hurt(self) -> str:
        """How the neighbour is not as it should be."""
        one = self._neighbour
        try:
            output = await self.kubelet("ExecSync", container_id=one.container, cmd=["echo", "hi"], timeout=30)
            states = [pod.state for pod in await self.kubelet.pods(one.name)]
            lost = compare(one.log.read_text(encoding="utf-8"), 0, is_whole=False).lost
            state = await one.state()
        except (Refused, TimeoutError) as error:
            return str(error)
        is_well = (output.stdout, states, lost, state) == (b"hi\n", [pb.SANDBOX_READY], 0, pb.CONTAINER_RUNNING)
        return "" if is_well else f"{output.stdout!r} {states} {lost} {state}"

    def _on_host(self) -> set[str]:
        seen = self.node.host_state.seen()
        seen["processes"] = [one for one in seen["processes"] if " serve --config " not in one]
        result = {f"{kind}: {one}" for kind, ones in seen.items() for one in ones}
        images = (path for name in ("layers", "images") for path in (self.node.root / "state" / name).rglob("*"))
        result |= {f"image: {path}" for path in images} | {f"device: {name}" for name in self.node.links()}
        return result | {f"address: {name}" for name in self.node.leases()}

    def _leaked(self, within_s: float = 10) -> tuple[str, ...]:
        deadline = time.monotonic() + within_s * PATIENCE
        while (new := self._on_host() - self._before) and time.monotonic() < deadline:
            time.sleep(0.1)
        return tuple(sorted(new))


def victims(point: str) -> tuple[str, ...]:
    """Who is killed there."""
    if " spawn" in point:
        return DAEMON, CHILD
    return (DAEMON, VMM) if " asks " in point else (DAEMON,)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _children(pid: int) -> set[int]:
    result: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            result |= set(map(int, (task / "children").read_text().split()))
        except OSError:
            continue
    return result


def _kill_next_child(daemon: int, limit_s: float = 3) -> bool:
    """Let the daemon go on, and kill what it starts next; false when that was too quick to be seen."""
    before, deadline = _children(daemon), time.monotonic() + limit_s
    os.kill(daemon, signal.SIGCONT)
    while time.monotonic() < deadline:
        for pid in _children(daemon) - before:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return True
    return False
