# SPDX-License-Identifier: Apache-2.0
"""Reads the images that containers are made from, each once in the life of a daemon, and has damaged ones put aside.

Owned by the node, called by CreateContainer, which itself checks only sizes and headers, and does not wait for this.
One image at a time, in a thread that yields to all others. What a container has mounted stays mounted.
"""

import asyncio
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from cri.store.images import Image, ImageStore
from stage1.errors import PodError
from stage1.linux.supervise import Stopped

_LEAST_PRIORITY = 19


class Verifier:
    """Verifies the images of one store, one after the other, in a thread of low priority."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._known: set[str] = set()
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="verify", initializer=_yield_to_others)
        self._tasks: set[asyncio.Future[None]] = set()

    def soon(self, images: Iterable[Image]) -> None:
        """Read these when there is time, unless that was done before."""
        for image in images:
            if image.id not in self._known and not self._stop.is_set():
                self._known.add(image.id)
                task = asyncio.get_running_loop().run_in_executor(self._threads, self._verify, image)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Wait until all is read. For tests."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Stop, also in the middle of an image."""
        self._stop.set()
        await self.settled()
        self._threads.shutdown()

    def _verify(self, image: Image) -> None:
        try:
            if self._store.examine(image, whole=True, stop=self._stop.is_set):
                self._known.discard(image.id)  # after the next pull it is worth another look
        except Stopped:
            pass
        except PodError:  # of the database, or a disk that is full: the next container's maker tries again
            self._known.discard(image.id)


def _yield_to_others() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_PRIORITY)
