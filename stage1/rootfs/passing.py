# SPDX-License-Identifier: Apache-2.0
"""Passes bytes from a descriptor to a consumer, who gets only bytes that were checked.

Used by `tarheaders` and `facts` in the confined process. Only bytes that were read and not yet
approved are in memory.
"""

import os
from collections.abc import Callable

_BUFFER_BYTES = 1 << 18
"""Of contents that are larger the rest is moved without being read."""


class Passing:
    """Reads from the descriptor `source` and passes the data on to `give`, in order, once it is approved."""

    def __init__(
        self, source: int, give: Callable[[memoryview], object], move: Callable[[int, int], int] | None = None
    ) -> None:
        """`move` is as `feeding.Fed.move`, for a `source` that is a pipe."""
        self.position = 0
        """The number of bytes that were read, by `read` and `skip`."""
        self._source, self._give, self._move = source, give, move
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._end = self._next = self._approved = self._passed = 0
        """Places in the buffer: of what is not there yet, not read yet, not approved yet, not passed on yet."""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        while self._end - self._next < size and self._refill():
            pass
        block = bytes(self._buffer[self._next : min(self._next + size, self._end)])
        self._advance(len(block))
        return block

    def approve(self) -> None:
        """All that was read may be passed on."""
        self._approved = self._next

    def amend(self, block: bytes) -> None:
        """Put `block` in place of as many last bytes that were read, and not approved."""
        self._buffer[self._next - len(block) : self._next] = block

    def replace(self, block: bytes) -> None:
        """Approve all that was read, with `block` in place of as many last bytes."""
        self.amend(block)
        self.approve()

    def skip(self, size: int) -> int:
        """Approve all, and `size` bytes more unseen; how many there were."""
        left = size
        while True:
            count = min(left, self._end - self._next)
            self._advance(count)
            self.approve()
            left -= count
            if self._move and left > _BUFFER_BYTES:
                self._pass()
                moved = self._move(self._source, left)
                self.position += moved
                left -= moved
            if not left or not self._refill():
                return size - left

    def drain(self) -> int:
        """Read all that is left and pass nothing of it on; how many bytes there were."""
        count = self._end - self._next
        self._end = self._next = self._approved = self._passed = 0
        while size := os.readv(self._source, [self._buffer]):
            count += size
        self.position += count
        return count

    def finish(self) -> None:
        """Pass on what was approved, and read the rest."""
        self._pass()
        self.drain()

    def _advance(self, count: int) -> None:
        self._next += count
        self.position += count

    def _pass(self) -> None:
        if self._approved > self._passed:
            self._give(self._buffer[self._passed : self._approved])
            self._passed = self._approved

    def _refill(self) -> bool:
        """Read more behind what was not approved; False at the end."""
        self._pass()
        kept = self._buffer[self._approved : self._end]
        if len(kept) == len(self._buffer):
            self._buffer = memoryview(bytearray(2 * len(kept)))
        self._buffer[: len(kept)] = kept
        self._next -= self._approved
        self._approved = self._passed = 0
        self._end = len(kept)
        count = os.readv(self._source, [self._buffer[self._end :]])
        self._end += count
        return count > 0
