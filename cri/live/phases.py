# SPDX-License-Identifier: Apache-2.0
"""The phases of a pod's start, measured for its history. Called by `boot`; has no effect on the start.

The guest reports by its own clock when its kernel and its agent were ready. These times are clamped between two moments
of the host, since a guest may report anything.
"""

import time
from typing import TYPE_CHECKING

from cri.store import history
from cri.store.history import Fact

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from stage1.guest.messages import Hello


class Phases:
    """One start; each phase begins where the one before ended."""

    def __init__(self, pod: "LivePod") -> None:
        self._pod, self._begun_ns = pod, time.time_ns()

    def end(self, what: str) -> None:
        """The phase `what` is over now."""
        self._end(what, time.time_ns())

    def prepared(self, network_ns: int) -> None:
        """Files, and at the end the network, which took so long."""
        now = time.time_ns()
        self._end(history.FILES, max(now - network_ns, self._begun_ns))
        self._end(history.NETWORK, now)

    def booted(self, hello: "Hello", *, is_copy: bool = False) -> None:
        """Record that the agent has sent its hello. The time that kernel and agent did not take was the hypervisor's,
        or all of it, if the guest is a copy of one that has booted.
        """
        if is_copy:
            self.end(history.VMM)
            return
        if self._pod.record.pod.host:
            self.end(history.AGENT)
            return
        now = time.time_ns()
        ready_ns = min(max(hello.ready_ns, 0), now - self._begun_ns)
        init_ns = min(max(hello.init_ns, 0), ready_ns)
        self._end(history.VMM, now - ready_ns)
        self._end(history.KERNEL, now - ready_ns + init_ns)
        self._end(history.AGENT, now)

    def _end(self, what: str, at_ns: int) -> None:
        self._pod.note(Fact(what, at_ns, at_ns - self._begun_ns))
        self._begun_ns = at_ns
