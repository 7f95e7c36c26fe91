# SPDX-License-Identifier: Apache-2.0
"""Like `harness`, for faults of the host other than kills (`kinds`): what is refused meanwhile is refused with a code
and a sentence with the reason, the daemon keeps answering, and when the fault is over everything works again.
"""

import asyncio
import contextlib
import os
import signal
import time

from tests.fakes.patience import PATIENCE
from tests.faults.harness import Harness, Outcome
from tests.faults.instant import InstantNode
from tests.faults.kinds import HOLD_S, KINDS, Kind
from tests.faults.operations import STARTS, Operation, Stage

_DEFECTS = (": INTERNAL: ", ": UNKNOWN: ")
_KEPT = (" socket:", "/memfd:filter")
ANSWER_S = 2.0
"""Within which who asks for nothing that touches the disk is answered."""
_OF_KIND = {kind.name: kind for kind in KINDS}


def _descriptors(pid: int) -> list[str]:
    """What a process has open, but for connections, which come and go, and what is kept as long as it lives."""
    result = []
    for name in os.listdir(f"/proc/{pid}/fd") if os.path.exists(f"/proc/{pid}/fd") else ():
        with contextlib.suppress(OSError):
            result.append(f"{name} {os.readlink(f'/proc/{pid}/fd/{name}')}")
    return [one for one in result if not any(kind in one for kind in _KEPT)]


class HostFaults(Harness):
    """`case` takes the name of a Kind for the victim."""

    def __init__(self, node: InstantNode) -> None:
        super().__init__(node)
        self._instant = node

    async def case(self, operation: Operation, point: str, victim: str) -> Outcome:
        """As Harness.case; what was refused in a wrong way is `wrong`."""
        del self.kubelet.refusals[:]
        self._descriptors = self._opened()
        outcome = await super().case(operation, point, victim)
        leaked = tuple(one for one in outcome.leaked if not one.startswith(_OF_KIND[victim].leaves or (" ",)))
        outcome, refusals = outcome._replace(leaked=leaked), self.kubelet.refusals
        bad = [one for one in refusals if any(defect in one for defect in _DEFECTS) or "\n" in one]
        if not bad and _OF_KIND[victim].is_harmless and operation.name != STARTS:
            bad = refusals
        return outcome._replace(wrong=outcome.wrong or "; ".join(bad)[:500])

    async def _kill_at_point(self, asking: "asyncio.Future[None]", stage: Stage, victim: str) -> bool:
        daemon = await self._stopped(asking)
        if not daemon:
            return False
        await self._suffer(_OF_KIND[victim], daemon, asking=asking)
        return True

    async def _suffer(self, kind: Kind, daemon: int, *, asking: "asyncio.Future[None]") -> None:
        with kind.fault(self._instant, daemon):
            self._orders()
            os.kill(daemon, signal.SIGCONT)
            begun = time.monotonic()
            if kind.is_harmless and os.path.exists(self.node.socket):
                await self._answers()
            rest_s = max(0.0, HOLD_S - (time.monotonic() - begun))
            await asyncio.wait({asking}, timeout=rest_s)
        await self._keep_up(asking)

    async def _keep_up(self, asking: "asyncio.Future[None]") -> None:
        """Start the daemon again when it could not start and has ended, as systemd does, until the call is done."""
        while not asking.done():
            await asyncio.wait({asking}, timeout=0.1)
            if self.node.daemon is not None and self.node.daemon.poll() is not None:
                self.node.start()

    async def _answers(self) -> None:
        """Raises TimeoutError when the daemon does not answer in time."""
        one = self._neighbour
        async with asyncio.timeout(ANSWER_S * PATIENCE):
            await self.kubelet("ListPodSandbox")
            await self.kubelet("ContainerStatus", container_id=one.container)
            output = await self.kubelet("ExecSync", container_id=one.container, cmd=["echo", "hi"], timeout=5)
            assert output.stdout == b"hi\n", output

    def _leaked(self, within_s: float = 10) -> tuple[str, ...]:
        result = super()._leaked(within_s)
        self._before |= set(result)  # each is told once
        return result

    def _opened(self) -> dict[int, list[str]]:
        """What each daemon has open."""
        return {pid: _descriptors(pid) for pid in self.node.daemons()}

    def _on_host(self) -> set[str]:
        result = super()._on_host()
        for pid, before in getattr(self, "_descriptors", {}).items():
            now = _descriptors(pid)
            new = sorted(set(now) - set(before)) if len(now) > len(before) else []
            result |= {f"descriptor: {one}" for one in new}
        return result
