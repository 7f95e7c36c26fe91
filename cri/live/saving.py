# SPDX-License-Identifier: Apache-2.0
"""Saves a pod's state file, and tries again while the run directory is full. Owned by the pod.

For state changes that have happened already: they are not rolled back because they can't be saved. What is only about
to begin uses `LivePod.save`, and fails with it.
"""

import asyncio
import logging
from collections.abc import Callable

from stage1.errors import PodError

log = logging.getLogger("clearpod.pod")

RETRY_S = 1.0


class StateSaver:
    """`write` writes the file of the pod `title`, and raises PodError when it can't; that is retried each `retry_s`."""

    def __init__(self, write: Callable[[], None], title: str, *, retry_s: float = RETRY_S) -> None:
        self._write, self._title, self._retry_s = write, title, retry_s
        self._timer: asyncio.TimerHandle | None = None
        self._is_logged = self._is_closed = False

    def save_soon(self) -> None:
        """Save now, or as soon as that is possible. Never raises PodError."""
        try:
            self._write()
        except FileNotFoundError:
            self.close()  # the pod's directory was removed
        except PodError as error:
            if not self._is_logged:
                log.warning("pod.unsaved", extra={"title": self._title, "error": str(error)})
            self._is_logged = True
            self._retry_later()
        else:
            self._is_logged = False

    def close(self) -> None:
        """Stop trying. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _retry_later(self) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(self._retry_s, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self.save_soon()
