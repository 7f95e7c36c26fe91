# SPDX-License-Identifier: Apache-2.0
"""Directories below `tmp` of the store in which pulls work, each with a lock beside it for as long as it is used.

Called by the store of images and the pull. What a killed process has left is removed at the next start.
"""

import os
import secrets
from types import TracebackType

from stage1.errors import PodError
from stage1.linux import files as fs
from stage1.linux.flock import Lock


class Workshop:
    """A new directory below `tmp`: `path`, which is there in a `with`. The block's end removes it."""

    def __init__(self, tmp: str) -> None:
        self.path = f"{tmp}/{secrets.token_hex(8)}"
        self._lock: Lock | None = None

    def __enter__(self) -> "Workshop":
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """Make it. Undo: `close`. Raises KernelError, NoSpace; nothing is left then, but what `close` removes."""
        while self._lock is None:
            lock = Lock(f"{self.path}.lock")
            lock.__enter__()
            # `remove_abandoned` may have taken the file between its making and its locking.
            if os.path.exists(f"{self.path}.lock"):
                self._lock = lock
            else:
                lock.__exit__(None, None, None)
        fs.make_dirs(self.path, 0o700)

    def close(self) -> None:
        """Remove it with all that is there. Idempotent; after what it raises it can be called again, since it is still
        ours. Raises KernelError.
        """
        if self._lock is not None:
            fs.remove_tree(self.path)
            fs.unlink(f"{self.path}.lock")
            self._lock.__exit__(None, None, None)
            self._lock = None


def remove_abandoned(tmp: str) -> bool:
    """Remove what dead processes have left there; false if some of it is still in use, or can't be removed."""
    whole = True
    for name in sorted({name.removesuffix(".lock") for name in os.listdir(tmp)}):
        try:
            with Lock(f"{tmp}/{name}.lock", wait=False):
                fs.remove_tree(f"{tmp}/{name}")
                fs.unlink(f"{tmp}/{name}.lock")
        except PodError:
            whole = False
    return whole
