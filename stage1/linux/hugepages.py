# SPDX-License-Identifier: Apache-2.0
"""Whether a program that is about to be started may get transparent huge pages. See prctl(2), PR_SET_THP_DISABLE.

Used by starter.ProcessVmm. The kernel keeps the answer per process and hands it on over exec, and there is none to
give to posix_spawn: so this process forbids them to itself for a moment. Where the kernel can't, nothing happens: it is
about memory, and nobody's program fails for it.
"""

import _thread

from stage1.errors import KernelError
from stage1.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 41, 42

# Threads of the daemon start VMMs side by side, and pods on the host, which shall not inherit it.
_turn = _thread.allocate_lock()


class Starting:
    """`with Starting(huge_pages=False):` around what starts a program. One thread at a time is in such a block."""

    def __init__(self, *, huge_pages: bool) -> None:
        self._forbid, self._was = not huge_pages, 0

    def __enter__(self) -> None:
        _turn.acquire()
        if self._forbid:
            self._was = forbid(1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if self._forbid:
            forbid(self._was)
        _turn.release()


def forbid(value: int) -> int:
    """Set this process's own answer, 1 or 0; returns what it was."""
    try:
        was = libc.call("prctl", PR_GET_THP_DISABLE, 0, 0, 0, 0, what="huge pages")
        libc.call("prctl", PR_SET_THP_DISABLE, value, 0, 0, 0, what="huge pages")
    except KernelError:
        return 0
    return was
