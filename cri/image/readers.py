# SPDX-License-Identifier: Apache-2.0
"""The fork server of the confined processes that read images, for as long as there are pulls and a while longer.

Used by the pull, in its event loop.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cri.image import direct
from stage1.rootfs.forking import ForkServer

KEEP_S = 10.0
"""How long the server, which has 16 MB, is kept after the last pull."""
_MODULES = ("stage1.rootfs.layerjob", "stage1.rootfs.mergejob", "cri.image.documentjob", direct.MODULE)


class Readers:
    """The fork server of one store. Close it."""

    def __init__(self) -> None:
        self._server = ForkServer(_MODULES)
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def used(self) -> Iterator[ForkServer]:
        """The server, which runs from its first request on."""
        self._users += 1
        if self._timer:
            self._timer.cancel()
        try:
            yield self._server
        finally:
            self._users -= 1
            if not self._users:
                self._timer = asyncio.get_running_loop().call_later(KEEP_S, self._retire)

    def _retire(self) -> None:
        old, self._server = self._server, ForkServer(_MODULES)
        threading.Thread(target=old.close, name="readers").start()

    def close(self) -> None:
        """End the server. Idempotent; a later pull starts another."""
        if self._timer:
            self._timer.cancel()
        self._server.close()
