# SPDX-License-Identifier: Apache-2.0
"""A confined worker that its first user starts. A pull that is cancelled may close it while a thread still starts it.

Used by `direct`, which asks for documents, and by `documents`, which reads them.
"""

import threading
from collections.abc import Callable

from stage1.linux import supervise
from stage1.rootfs import confined


class LazyWorker:
    """A worker that `make` starts at the first `get`. Close it."""

    def __init__(self, make: Callable[[], confined.Worker]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._worker: confined.Worker | None = None
        self._is_closed = False

    def get(self) -> confined.Worker:
        """Return the worker, started if it was not. Blocks. Raises what `make` raises, Stopped after `close`."""
        with self._lock:
            if self._is_closed:
                raise supervise.Stopped("the pull was cancelled")
            if self._worker is None:
                self._worker = self._make()
            return self._worker

    @property
    def is_open(self) -> bool:
        """Whether there is a process, and `close` was not called."""
        return self._worker is not None and not self._is_closed

    def close(self) -> None:
        """End the worker, if there is one, and prevent that one is started later. Idempotent."""
        with self._lock:
            self._is_closed = True
        if self._worker is not None:
            self._worker.close()
