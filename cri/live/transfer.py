# SPDX-License-Identifier: Apache-2.0
"""Whether a pod's guest is just being written to a file, or read from one. Owned by the pod.

Who does that has the pod's lock, for as long as its VMM takes, which may have fallen to its guest. So who ends the pod
asks here first, and ends the VMM of a transfer that is not over soon.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cri.threads import is_set_within


class Transfer:
    """Nobody waits while there is none."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._over.set()

    @property
    def is_under_way(self) -> bool:
        """Whether its guest is being saved or loaded now."""
        return not self._over.is_set()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Mark the transfer as being under way while the block runs."""
        self._over.clear()
        try:
            yield
        finally:
            self._over.set()

    async def is_over_within(self, limit_s: float) -> bool:
        """Wait for its end, at most so long; whether there is none now."""
        return await is_set_within(limit_s, self._over)
