# SPDX-License-Identifier: Apache-2.0
"""Bytes on their way from a descriptor to whoever takes them, who gets none that was not looked at.

Used by `tarheaders` and `facts` in the confined process. Memory is bounded by what is read without being approved.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK_BYTES = 1 << 18


class Passing:
    """Reads from the descriptor `source` and passes the data on to `give`, in order, once it is approved."""

    def __init__(self, source: int, give: "Callable[[memoryview], object]") -> None:
        self.position = 0
        """The number of bytes that were read, by `read` and `skip`."""
        self._source, self._give = source, give
        self._data = b""
        self._next = self._approved = self._passed = 0
        """Places in `_data`: what is not read yet, approved yet, passed on yet."""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        while len(self._data) - self._next < size and self._refill():
            pass
        block = self._data[self._next : self._next + size]
        self._advance(len(block))
        return block

    def approve(self) -> None:
        """All that was read may be passed on."""
        self._approved = self._next

    def replace(self, block: bytes) -> None:
        """Approve all that was read, with `block` in place of as many last bytes."""
        self._approved = self._next - len(block)
        self._pass()
        self._give(memoryview(block))
        self._approved = self._passed = self._next

    def skip(self, size: int) -> int:
        """Approve all, and `size` bytes more unseen; how many there were."""
        left = size
        while True:
            count = min(left, len(self._data) - self._next)
            self._advance(count)
            self.approve()
            left -= count
            if not left or not self._refill():
                return size - left

    def drain(self) -> int:
        """Read all that is left and pass nothing of it on; how many bytes there were."""
        count = len(self._data) - self._next
        self._data = b""
        self._next = self._approved = self._passed = 0
        while data := os.read(self._source, _CHUNK_BYTES):
            count += len(data)
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
            self._give(memoryview(self._data)[self._passed : self._approved])
            self._passed = self._approved

    def _refill(self) -> bool:
        """Read more behind what was not approved; False at the end."""
        self._pass()
        data = os.read(self._source, _CHUNK_BYTES)
        if data:
            self._data = self._data[self._approved :] + data
            self._next -= self._approved
            self._approved = self._passed = 0
        return bool(data)
