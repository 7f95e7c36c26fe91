# SPDX-License-Identifier: Apache-2.0
"""Events of containers and pods for their subscribers. Used by the pods (publish) and GetContainerEvents.

Subscribers never delay others: one that falls behind by `MOST_QUEUED` events is disconnected with an error. Earlier
events are not repeated for a new subscriber. A subscriber passes the function that makes its messages, which is called
immediately, so that they have the state of that moment; without subscribers nothing is made.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from stage1.errors import NoSpace

CREATED, STARTED, STOPPED, DELETED = range(4)
"""Kinds, with the CRI's numbers."""
MOST_QUEUED = 500


class Event(NamedTuple):
    """An event of a pod; `subject` is the id of the container, or of the pod itself."""

    kind: int
    pod: Any
    subject: str


Render = Callable[[Event], Any]
"""Makes a subscriber's message."""


class Subscription:
    """One listener's queue; iterate over it. `close` gives it back."""

    def __init__(self, render: Render, leave: Callable[["Subscription"], None]) -> None:
        self._render, self._leave = render, leave
        self._waiting: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self._is_behind = self._is_over = False

    def put(self, what: Event) -> None:
        """Queue one event, or note that there are too many."""
        if len(self._waiting) >= MOST_QUEUED:
            self._is_behind = True
        if not self._is_behind:
            self._waiting.append(self._render(what))
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        """All events until the subscriber is too far behind, which raises NoSpace after what it still got."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._is_behind:
                raise NoSpace(
                    f"this subscriber is more than {MOST_QUEUED} events behind; list everything and subscribe again"
                )
            if self._is_over:
                return
            self._arrived.clear()
            await self._arrived.wait()

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._leave(self)

    def finish(self) -> None:
        """End the iteration after the events that are queued."""
        self._is_over = True
        self._arrived.set()


class Bus:
    """All subscriptions of the node."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def subscribe(self, render: Render) -> Subscription:
        """Return a subscription to the events from now on."""
        subscription = Subscription(render, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    def publish(self, what: Event) -> None:
        """Pass an event to all subscriptions; never waits."""
        for subscription in self._subscriptions:
            subscription.put(what)

    def close(self) -> None:
        """The daemon ends: every subscription comes to its end."""
        for subscription in self._subscriptions:
            subscription.finish()
