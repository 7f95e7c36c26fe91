# SPDX-License-Identifier: Apache-2.0
"""A pod's file when the run directory is full: what has happened is not undone by that, so it is written down as soon
as it can be. Owned by the pod.

Only what is begun fails when it can't be written down; that is for the callers of `LivePod.save`.
"""

import asyncio
import logging
from collections.abc import Callable

from stage1.errors import PodError

log = logging.getLogger("clearpod.pod")

RETRY_S = 1.0


class Keeper:
    """`write` writes the file of the pod that is called `title`, and raises PodError when it can't."""

    def __init__(self, write: Callable[[], None], title: str, *, retry_s: float = RETRY_S) -> None:
        self._write, self._title, self._retry_s = write, title, retry_s
        self._timer: asyncio.TimerHandle | None = None
        self._is_told = self._is_closed = False

    def keep(self) -> None:
        """Write the file, now or when that is possible again."""
        try:
            self._write()
        except FileNotFoundError:
            self.close()  # the pod's directory has gone, and whatever it was with it
        except PodError as error:
            if not self._is_told:
                log.warning("pod.unsaved", extra={"title": self._title, "error": str(error)})
            self._is_told = True
            self._later()
        else:
            self._is_told = False

    def close(self) -> None:
        """Try no more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(self._retry_s, self._again)

    def _again(self) -> None:
        self._timer = None
        self.keep()
