# SPDX-License-Identifier: Apache-2.0
"""Whether a pod's guest is being written to a file or read from one at the moment. Owned by the pod.

A transfer holds the pod's lock until the VMM has answered, and the VMM may be under the control of a hostile guest. So
the calls that end a pod ask here before they take the lock, and kill the VMM if the transfer does not end soon.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cri.threads import is_set_within


class Transfer:
    """The state of one pod's transfer. Nothing waits while there is none."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._over.set()

    @property
    def is_in_progress(self) -> bool:
        """Whether the guest is being saved or loaded now."""
        return not self._over.is_set()

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        """Mark the transfer as in progress while the block runs."""
        self._over.clear()
        try:
            yield
        finally:
            self._over.set()

    async def is_over_within(self, limit_s: float) -> bool:
        """Wait for the transfer's end for at most `limit_s` seconds. Return whether there is none now."""
        return await is_set_within(limit_s, self._over)
