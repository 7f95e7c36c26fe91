# SPDX-License-Identifier: Apache-2.0
"""Limits of what one link's guest may do that costs its host more than the guest: token buckets with the caller's
clock.

Used by `cri.agent`, one `Budget` for each link. Pure. A guest over budget is read later (backpressure); only greetings
that a guest forces without end are a fault, since they leave no time for anything else.
"""

from stage1.guest.incoming import LinkFault

EVENTS_PER_S, EVENTS_AT_ONCE = 500.0, 2000
"""Ends of processes. A guest has at most 256 at a time."""
USELESS_PER_S, USELESS_AT_ONCE = 1000.0, 16384
"""Frames without effect. After a cut a guest repeats its ring, which can be so many frames that are known already."""
CONNECTIONS_PER_S, CONNECTIONS_AT_ONCE = 2.0, 16
"""Connections, each of which repeats what the other end has not acknowledged."""
RESYNCS_PER_S, RESYNCS_AT_ONCE = 0.5, 16
"""Greetings because what came was no frame."""


class Bucket:
    """`most` tokens at first and at most, `per_s` new ones each second."""

    __slots__ = ("_at_s", "_left", "_most", "_per_s")

    def __init__(self, per_s: float, most: int) -> None:
        self._per_s, self._most, self._left, self._at_s = per_s, most, float(most), 0.0

    def take(self, count: int, now_s: float) -> float:
        """Take `count` tokens, also those that are not there yet; how many seconds to wait until there are."""
        self._left = min(self._left + max(now_s - self._at_s, 0.0) * self._per_s, self._most) - count
        self._at_s = now_s
        return max(-self._left / self._per_s, 0.0)


class Budget:
    """The buckets of one link. `now_s` is of any clock that only goes forward."""

    def __init__(self) -> None:
        self._events = Bucket(EVENTS_PER_S, EVENTS_AT_ONCE)
        self._useless = Bucket(USELESS_PER_S, USELESS_AT_ONCE)
        self._connections = Bucket(CONNECTIONS_PER_S, CONNECTIONS_AT_ONCE)
        self._resyncs = Bucket(RESYNCS_PER_S, RESYNCS_AT_ONCE)
        self._seen = (0, 0)

    def connect(self, now_s: float) -> float:
        """One more connection; seconds to wait before it is used."""
        return self._connections.take(1, now_s)

    def spend(self, now_s: float, *, events: int, useless: int, resyncs: int) -> float:
        """Account for a portion of frames: its events, and the link's counts so far. Return the seconds to wait
        before more is read. Raises LinkFault for a guest that repeatedly breaks the stream of frames.
        """
        new_useless, new_resyncs = useless - self._seen[0], resyncs - self._seen[1]
        self._seen = useless, resyncs
        if self._resyncs.take(new_resyncs, now_s):
            raise LinkFault("the guest's agent repeatedly sends malformed frames")
        return max(self._events.take(events, now_s), self._useless.take(new_useless, now_s))
