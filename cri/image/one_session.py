# SPDX-License-Identifier: Apache-2.0
"""A confined process that a pull starts once: a pull that was cancelled closes it while a thread may still start it.

Used by what asks for documents and by what reads them.
"""

import threading
from collections.abc import Callable

from stage1.linux import supervise
from stage1.rootfs import confined


class OneSession:
    """`make` starts the process. Close it."""

    def __init__(self, make: Callable[[], confined.Session]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._session: confined.Session | None = None
        self._is_closed = False

    def get(self) -> confined.Session:
        """Return the session, started if it was not. Blocks. Raises what `make` raises, Stopped after `close`."""
        with self._lock:
            if self._is_closed:
                raise supervise.Stopped("the pull was cancelled")
            if self._session is None:
                self._session = self._make()
            return self._session

    def close(self) -> None:
        """End the process, and let nobody start it any more. Idempotent."""
        with self._lock:
            self._is_closed = True
        if self._session is not None:
            self._session.close()
