# SPDX-License-Identifier: Apache-2.0
"""The C library's allocator in this process. Called by the daemon: `use_one_heap` before it has threads, a Trimmer
while it serves.
"""

import ctypes

from stage1.linux import mapped
from stage1.linux.host import private_bytes

_M_ARENA_MAX = -8
GROWTH_BYTES = 1 << 20
"""How much larger a process has to be than after the last trim, or than at its least, for another one."""


def use_one_heap() -> None:
    """Have all threads share one heap. By default glibc gives some of them others, which keep what was freed
    there: a tenth of the daemon's memory.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # musl has none
        mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give the pages of all that was freed back to the kernel. By default only the end of a heap is. Takes some
    milliseconds, without the interpreter's lock; without effect on musl.
    """
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)


class Trimmer:
    """Decides when a trim is worth its time."""

    def __init__(self) -> None:
        self._least_bytes = 0

    def is_due(self) -> bool:
        """Whether the process's own memory has grown since `trim`, so that it should be trimmed."""
        now = private_bytes()
        self._least_bytes = min(self._least_bytes, now)
        return now - self._least_bytes >= GROWTH_BYTES

    def trim(self) -> None:
        """Trim, and unmap the code that ran since the last time; blocks."""
        trim()
        mapped.release()
        self._least_bytes = private_bytes()
