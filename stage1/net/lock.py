# SPDX-License-Identifier: Apache-2.0
"""The lock that keeps garbage collection apart from pods that are being attached. Called by attach and status_gc.

There is one for this host, since plugins keep one state for all their callers: daemons, `clearpod run`, rkt. It is held
shared during an attachment: attachments never wait for each other.
"""

import os

from stage1.linux import files, flock

PLACE = "/run/clearpod-networks"


class AttachLock:
    """`with AttachLock():` no garbage is collected; With `alone`, no process attaches meanwhile. It is on the directory
    `place`.
    """

    def __init__(self, *, alone: bool = False, place: str = PLACE) -> None:
        self._place, self._alone = place, alone

    def __enter__(self) -> None:
        files.make_dirs(self._place, 0o700)
        self._fd = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flock.take(self._fd, shared=not self._alone)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
